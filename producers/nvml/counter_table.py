"""How each column of `gpu.counters` is read from NVML: by which field or call, in which unit, which values can be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pynvml

US_PER_NS = 1e-3
BITS_PER_BYTE = 8.0


@dataclass(frozen=True, slots=True)
class Field:
    """A field of `nvmlDeviceGetFieldValues`: many of them are one driver call."""

    field: int
    scope: int = 0
    """The link, for fields that are per link."""
    scale: float = 1.0
    """From NVML's unit to the one in the column's name."""


@dataclass(frozen=True, slots=True)
class Call:
    """A number of one of `counter_calls.COUNTER_CALLS`."""

    call: str
    place: int = 0
    scale: float = 1.0


Way = Field | Call


@dataclass(frozen=True, slots=True)
class Counter:
    """A column: what it can be at all, and its ways, the best first."""

    name: str
    low: float
    high: float
    ways: tuple[Way, ...]


@dataclass(frozen=True, slots=True)
class LinkCounter:
    """A column with a number for each NVLink; `ways` are those of one link."""

    name: str
    low: float
    high: float
    ways: Callable[[int], tuple[Way, ...]]
    total: str | None = None
    """The column that is the sum over the links, where all of them could be read."""


@dataclass(frozen=True, slots=True)
class Word:
    """A column of words, and what NVML's numbers mean in it."""

    name: str
    ways: tuple[Way, ...]
    words: Mapping[int, str]


# The limits keep out what drivers are known to say instead of an error (0xffffffff, all ones).
_ERRORS = 4e9
_BIG = 1e18
_WATTS = 5000


def _ecc(name: str, *ways: Way) -> Counter:
    return Counter(name, 0, _ERRORS, ways)


NUMBERS: tuple[Counter, ...] = (
    _ecc("ecc_volatile_correctable", Call("ecc.volatile.correctable"), Field(pynvml.NVML_FI_DEV_ECC_SBE_VOL_TOTAL)),
    _ecc("ecc_volatile_uncorrectable", Call("ecc.volatile.uncorrectable"), Field(pynvml.NVML_FI_DEV_ECC_DBE_VOL_TOTAL)),
    _ecc("ecc_aggregate_correctable", Call("ecc.aggregate.correctable"), Field(pynvml.NVML_FI_DEV_ECC_SBE_AGG_TOTAL)),
    _ecc(
        "ecc_aggregate_uncorrectable", Call("ecc.aggregate.uncorrectable"), Field(pynvml.NVML_FI_DEV_ECC_DBE_AGG_TOTAL)
    ),
    _ecc("ecc_volatile_sram_correctable", Call("sram_ecc", 0), Call("ecc.volatile.correctable.sram")),
    _ecc("ecc_volatile_sram_uncorrectable", Call("sram_ecc", 1), Call("ecc.volatile.uncorrectable.sram")),
    _ecc("ecc_volatile_dram_correctable", Call("ecc.volatile.correctable.dram")),
    _ecc("ecc_volatile_dram_uncorrectable", Call("ecc.volatile.uncorrectable.dram")),
    _ecc("ecc_aggregate_sram_correctable", Call("sram_ecc", 4), Call("ecc.aggregate.correctable.sram")),
    _ecc("ecc_aggregate_sram_uncorrectable", Call("sram_ecc", 5), Call("ecc.aggregate.uncorrectable.sram")),
    _ecc("ecc_aggregate_dram_correctable", Call("ecc.aggregate.correctable.dram")),
    _ecc("ecc_aggregate_dram_uncorrectable", Call("ecc.aggregate.uncorrectable.dram")),
    _ecc("ecc_volatile_register_file_correctable", Call("ecc.volatile.correctable.register_file")),
    _ecc("ecc_volatile_register_file_uncorrectable", Call("ecc.volatile.uncorrectable.register_file")),
    _ecc("ecc_volatile_l1_cache_correctable", Call("ecc.volatile.correctable.l1_cache")),
    _ecc("ecc_volatile_l1_cache_uncorrectable", Call("ecc.volatile.uncorrectable.l1_cache")),
    _ecc("ecc_volatile_l2_cache_correctable", Call("ecc.volatile.correctable.l2_cache")),
    _ecc("ecc_volatile_l2_cache_uncorrectable", Call("ecc.volatile.uncorrectable.l2_cache")),
    _ecc("ecc_volatile_sram_uncorrectable_parity", Call("sram_ecc", 2)),
    _ecc("ecc_volatile_sram_uncorrectable_secded", Call("sram_ecc", 3)),
    _ecc("ecc_aggregate_sram_uncorrectable_parity", Call("sram_ecc", 6)),
    _ecc("ecc_aggregate_sram_uncorrectable_secded", Call("sram_ecc", 7)),
    _ecc("ecc_aggregate_sram_uncorrectable_l2", Call("sram_ecc", 8)),
    _ecc("ecc_aggregate_sram_uncorrectable_sm", Call("sram_ecc", 9)),
    _ecc("ecc_aggregate_sram_uncorrectable_microcontroller", Call("sram_ecc", 10)),
    _ecc("ecc_aggregate_sram_uncorrectable_pcie", Call("sram_ecc", 11)),
    _ecc("ecc_aggregate_sram_uncorrectable_other", Call("sram_ecc", 12)),
    Counter("ecc_sram_threshold_exceeded", 0, 1, (Call("sram_ecc", 13),)),
    _ecc("row_remap_correctable", Call("remapped_rows", 0), Field(pynvml.NVML_FI_DEV_REMAPPED_COR)),
    _ecc("row_remap_uncorrectable", Call("remapped_rows", 1), Field(pynvml.NVML_FI_DEV_REMAPPED_UNC)),
    Counter("row_remap_pending", 0, 1, (Call("remapped_rows", 2), Field(pynvml.NVML_FI_DEV_REMAPPED_PENDING))),
    Counter("row_remap_failure", 0, 1, (Call("remapped_rows", 3), Field(pynvml.NVML_FI_DEV_REMAPPED_FAILURE))),
    *(
        _ecc(f"row_remap_banks_{name}", Call("remap_histogram", place))
        for place, name in enumerate(("max", "high", "partial", "low", "none"))
    ),
    _ecc("retired_pages_single_bit", Call("retired_pages.single_bit"), Field(pynvml.NVML_FI_DEV_RETIRED_SBE)),
    _ecc("retired_pages_double_bit", Call("retired_pages.double_bit"), Field(pynvml.NVML_FI_DEV_RETIRED_DBE)),
    Counter("retired_pages_pending", 0, 1, (Call("retired_pages.pending"), Field(pynvml.NVML_FI_DEV_RETIRED_PENDING))),
    _ecc("pcie_replays", Call("pcie.replays"), Field(pynvml.NVML_FI_DEV_PCIE_REPLAY_COUNTER)),
    _ecc("pcie_replay_rollovers", Field(pynvml.NVML_FI_DEV_PCIE_REPLAY_ROLLOVER_COUNTER)),
    Counter("pcie_width", 1, 32, (Call("pcie.width"),)),  # 0: the link is down, or nobody knows
    Counter("pcie_width_max", 1, 32, (Call("pcie.width_max"),)),
    Counter("pcie_generation", 1, 10, (Call("pcie.generation"),)),
    Counter("pcie_generation_max", 1, 10, (Call("pcie.generation_max"),)),
    Counter("pcie_generation_device_max", 1, 10, (Call("pcie.generation_device_max"),)),
    # nvml.h: these fields are in nanoseconds, as is nvmlViolationTime_t
    Counter(
        "throttled_sw_power_cap_us",
        0,
        _BIG,
        (
            Field(pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP, scale=US_PER_NS),
            Call("violation.power", 0, US_PER_NS),
        ),
    ),
    Counter(
        "throttled_sync_boost_us",
        0,
        _BIG,
        (
            Field(pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_SYNC_BOOST, scale=US_PER_NS),
            Call("violation.sync_boost", 0, US_PER_NS),
        ),
    ),
    Counter(
        "throttled_sw_thermal_us",
        0,
        _BIG,
        (
            Field(pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN, scale=US_PER_NS),
            Call("violation.thermal", 0, US_PER_NS),  # older drivers: the thermal policy, which is software's
        ),
    ),
    Counter(
        "throttled_hw_thermal_us",
        0,
        _BIG,
        (Field(pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN, scale=US_PER_NS),),
    ),
    Counter(
        "throttled_hw_power_brake_us",
        0,
        _BIG,
        (Field(pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN, scale=US_PER_NS),),
    ),
    Counter(
        "energy_joules",
        0,
        1e15,
        (Call("energy", 0, 1e-3), Field(pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, scale=1e-3)),
    ),
    # Sums over the links come first (below); a driver's own total serves where a link could not be read.
    Counter("nvlink_crc_flit_errors", 0, _BIG, (Field(pynvml.NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL),)),
    Counter("nvlink_crc_data_errors", 0, _BIG, (Field(pynvml.NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL),)),
    Counter("nvlink_replays", 0, _BIG, (Field(pynvml.NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL),)),
    Counter("nvlink_recoveries", 0, _BIG, (Field(pynvml.NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL),)),
    Counter("nvlink_recoveries_failed", 0, _BIG, ()),
    Counter("nvlink_symbol_errors", 0, _BIG, ()),
    Counter("nvlink_effective_errors", 0, _BIG, ()),
    Counter(
        "power_limit_watts",
        0,
        _WATTS,
        (Call("power_limit.enforced", 0, 1e-3), Field(pynvml.NVML_FI_DEV_POWER_CURRENT_LIMIT, scale=1e-3)),
    ),
    Counter(
        "power_limit_requested_watts",
        0,
        _WATTS,
        (Call("power_limit.requested", 0, 1e-3), Field(pynvml.NVML_FI_DEV_POWER_REQUESTED_LIMIT, scale=1e-3)),
    ),
    Counter(
        "power_limit_default_watts",
        0,
        _WATTS,
        (Call("power_limit.default", 0, 1e-3), Field(pynvml.NVML_FI_DEV_POWER_DEFAULT_LIMIT, scale=1e-3)),
    ),
    Counter(
        "power_limit_min_watts",
        0,
        _WATTS,
        (Call("power_limit.range", 0, 1e-3), Field(pynvml.NVML_FI_DEV_POWER_MIN_LIMIT, scale=1e-3)),
    ),
    Counter(
        "power_limit_max_watts",
        0,
        _WATTS,
        (Call("power_limit.range", 1, 1e-3), Field(pynvml.NVML_FI_DEV_POWER_MAX_LIMIT, scale=1e-3)),
    ),
    Counter("temperature_shutdown_celsius", 1, 200, (Call("threshold.shutdown"),)),
    Counter("temperature_slowdown_celsius", 1, 200, (Call("threshold.slowdown"),)),
    Counter("temperature_max_operating_celsius", 1, 200, (Call("threshold.gpu"),)),
    Counter("memory_temperature_max_operating_celsius", 1, 200, (Call("threshold.memory"),)),
    # Hopper and later: margins below the slowdown point, as nvidia-smi's `T.Limit` lines (-8 °C on an H100)
    Counter("temperature_margin_shutdown_celsius", -100, 100, (Field(pynvml.NVML_FI_DEV_TEMPERATURE_SHUTDOWN_TLIMIT),)),
    Counter("temperature_margin_slowdown_celsius", -100, 100, (Field(pynvml.NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT),)),
    Counter("memory_total_bytes", 1, 1e13, (Call("memory_limits", 0), Call("memory_total"))),
    Counter("memory_reserved_bytes", 0, 1e13, (Call("memory_limits", 1),)),
    Counter("bar1_total_bytes", 1, 1e13, (Call("bar1_total"),)),
    Counter("sm_clock_max_mhz", 1, 10_000, (Call("clock_max.sm"),)),
    Counter("memory_clock_max_mhz", 1, 50_000, (Call("clock_max.memory"),)),
)

_OLD_LINKS = 12
"""Links that have field ids of their own; nvml.h has no more of these, newer fields take the link as scope."""


def _of_link(link: int, scoped: int | None, old: str | None, call: str | None) -> tuple[Way, ...]:
    """The ways of one link: the field with the link as scope, the link's own field, the call."""
    ways: list[Way] = []
    if scoped is not None:
        ways.append(Field(scoped, link))
    if old is not None and link < _OLD_LINKS:
        ways.append(Field(getattr(pynvml, f"NVML_FI_DEV_NVLINK_{old}_L{link}")))
    if call is not None:
        ways.append(Call(f"nvlink.{call}.{link}"))
    return tuple(ways)


def _flit(link: int) -> tuple[Way, ...]:
    # Hopper has one CRC counter per link for flits and data both: the last resort here
    both = Field(pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_CRC, link)
    return (*_of_link(link, None, "CRC_FLIT_ERROR_COUNT", "crc_flit_errors"), both)


LINKS: tuple[LinkCounter, ...] = (
    LinkCounter(
        "nvlink_link_active",
        0,
        3,
        lambda link: _of_link(link, pynvml.NVML_FI_DEV_NVLINK_GET_STATE, None, "active"),
    ),
    LinkCounter("nvlink_link_crc_flit_errors", 0, _BIG, _flit, "nvlink_crc_flit_errors"),
    LinkCounter(
        "nvlink_link_crc_data_errors",
        0,
        _BIG,
        lambda link: _of_link(link, None, "CRC_DATA_ERROR_COUNT", "crc_data_errors"),
        "nvlink_crc_data_errors",
    ),
    LinkCounter(
        "nvlink_link_replays",
        0,
        _BIG,
        lambda link: _of_link(link, pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY, "REPLAY_ERROR_COUNT", "replays"),
        "nvlink_replays",
    ),
    LinkCounter(
        "nvlink_link_recoveries",
        0,
        _BIG,
        lambda link: (  # Blackwell and later count what succeeded; before, there is one counter of recoveries
            Field(pynvml.NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_SUCCESSFUL_EVENTS, link),
            *_of_link(link, pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_RECOVERY, "RECOVERY_ERROR_COUNT", "recoveries"),
        ),
        "nvlink_recoveries",
    ),
    LinkCounter(
        "nvlink_link_recoveries_failed",
        0,
        _BIG,
        lambda link: (Field(pynvml.NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_FAILED_EVENTS, link),),
        "nvlink_recoveries_failed",
    ),
    LinkCounter(
        "nvlink_link_symbol_errors",
        0,
        _BIG,
        lambda link: (Field(pynvml.NVML_FI_DEV_NVLINK_COUNT_SYMBOL_ERRORS, link),),
        "nvlink_symbol_errors",
    ),
    LinkCounter(
        "nvlink_link_effective_errors",
        0,
        _BIG,
        lambda link: (Field(pynvml.NVML_FI_DEV_NVLINK_COUNT_EFFECTIVE_ERRORS, link),),
        "nvlink_effective_errors",
    ),
    LinkCounter(
        "nvlink_link_speed_mbps",
        0,
        1e7,
        lambda link: tuple(  # nvml.h: MBps, megabytes; an H100's link says 26,562
            replace(way, scale=BITS_PER_BYTE)
            for way in (
                *_of_link(link, pynvml.NVML_FI_DEV_NVLINK_GET_SPEED, "SPEED_MBPS", None),
                Field(pynvml.NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON),
            )
        ),
    ),
)
LINK_STATES = {
    pynvml.NVML_NVLINK_STATE_INACTIVE: 0.0,
    pynvml.NVML_NVLINK_STATE_ACTIVE: 1.0,
    pynvml.NVML_NVLINK_STATE_SLEEP: 1.0,  # saves power while idle
    pynvml.NVML_NVLINK_STATE_ACTIVE_TRAFFIC_DISABLED: 0.0,
}
"""What a link's state is in `nvlink_link_active`."""

_MODE = {0: "disabled", 1: "enabled"}
WORDS: tuple[Word, ...] = (
    Word("mig_mode", (Call("mig", 0),), _MODE),
    Word("ecc_mode", (Call("ecc_mode", 0), Field(pynvml.NVML_FI_DEV_ECC_CURRENT)), _MODE),
    Word("ecc_mode_pending", (Call("ecc_mode", 1), Field(pynvml.NVML_FI_DEV_ECC_PENDING)), _MODE),
    Word("persistence_mode", (Call("persistence"),), _MODE),
    Word(
        "compute_mode",
        (Call("compute_mode"),),
        {
            pynvml.NVML_COMPUTEMODE_DEFAULT: "default",
            pynvml.NVML_COMPUTEMODE_EXCLUSIVE_THREAD: "exclusive_thread",
            pynvml.NVML_COMPUTEMODE_PROHIBITED: "prohibited",
            pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS: "exclusive_process",
        },
    ),
    Word(
        "fabric_state",
        (Call("fabric", 0),),
        {
            pynvml.NVML_GPU_FABRIC_STATE_NOT_SUPPORTED: "not_supported",
            pynvml.NVML_GPU_FABRIC_STATE_NOT_STARTED: "not_started",
            pynvml.NVML_GPU_FABRIC_STATE_IN_PROGRESS: "in_progress",
            pynvml.NVML_GPU_FABRIC_STATE_COMPLETED: "completed",
        },
    ),
    Word(
        "fabric_status",
        (Call("fabric", 1),),
        {pynvml.NVML_SUCCESS: "success"}
        | {
            getattr(pynvml, name): name.removeprefix("NVML_ERROR_").lower()
            for name in dir(pynvml)
            if name.startswith("NVML_ERROR_")
        },
    ),
    Word(
        "fabric_health",
        (Call("fabric", 2),),
        {
            pynvml.NVML_GPU_FABRIC_HEALTH_SUMMARY_NOT_SUPPORTED: "not_supported",
            pynvml.NVML_GPU_FABRIC_HEALTH_SUMMARY_HEALTHY: "healthy",
            pynvml.NVML_GPU_FABRIC_HEALTH_SUMMARY_UNHEALTHY: "unhealthy",
            pynvml.NVML_GPU_FABRIC_HEALTH_SUMMARY_LIMITED_CAPACITY: "limited_capacity",
        },
    ),
    Word(
        "recovery_action",
        (Field(pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION),),
        {
            pynvml.NVML_GPU_RECOVERY_ACTION_NONE: "none",
            pynvml.NVML_GPU_RECOVERY_ACTION_GPU_RESET: "gpu_reset",
            pynvml.NVML_GPU_RECOVERY_ACTION_NODE_REBOOT: "node_reboot",
            pynvml.NVML_GPU_RECOVERY_ACTION_DRAIN_P2P: "drain_p2p",
            pynvml.NVML_GPU_RECOVERY_ACTION_DRAIN_AND_RESET: "drain_and_reset",
            pynvml.NVML_GPU_RECOVERY_ACTION_RECOVER_IMEX_DOMAIN: "recover_imex_domain",
            pynvml.NVML_GPU_RECOVERY_ACTION_BUS_RESET: "bus_reset",
            pynvml.NVML_GPU_RECOVERY_ACTION_SYSTEM_REBOOT: "system_reboot",
        },
    ),
)

NOT_TOLD = frozenset({"pcie_generation_host_max", "last_xid"})
"""Columns of `gpu.counters` that NVML has no call for; nvidia-smi and DCGM have them."""
