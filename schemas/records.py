"""The records of every topic as frozen values; the field lists are those of the `.avsc` files beside this module.

A test holds each class against its schema, field by field, so that the two cannot drift apart.
"""

from __future__ import annotations

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A value that travels through a topic."""


class GpuSample(Record, frozen=True, kw_only=True):
    """One node at one tick: every array has one entry per GPU, in the order of `gpus`; NaN is `not read`."""

    site: str
    rack: str
    node: str
    boot_id: str
    sequence: int
    tick_ms: int
    observed_ms: int
    interval_ms: int = 1000
    gpus: list[str]
    gpu_index: list[int]
    temperature_celsius: list[float] = []
    memory_temperature_celsius: list[float] = []
    temperature_margin_celsius: list[float] = []
    power_watts: list[float] = []
    power_average_watts: list[float] = []
    sm_clock_mhz: list[float] = []
    memory_clock_mhz: list[float] = []
    gpu_utilization_percent: list[float] = []
    memory_utilization_percent: list[float] = []
    sm_active_percent: list[float] = []
    tensor_active_percent: list[float] = []
    dram_active_percent: list[float] = []
    memory_used_bytes: list[float] = []
    bar1_used_bytes: list[float] = []
    fan_speed_percent: list[float] = []
    pcie_tx_bytes_per_second: list[float] = []
    pcie_rx_bytes_per_second: list[float] = []
    nvlink_tx_bytes_per_second: list[float] = []
    nvlink_rx_bytes_per_second: list[float] = []
    nvlink_links_active: list[float] = []
    performance_state: list[float] = []
    encoder_utilization_percent: list[float] = []
    decoder_utilization_percent: list[float] = []
    process_count: list[float] = []
    throttle_reasons: list[int] = []


class GpuCounters(Record, frozen=True, kw_only=True):
    """What changes slowly on the GPUs of one node: arrays as in `GpuSample`; counters are running totals.

    An entry that could not be read is NaN or None; an empty array means that nobody on the node offers it.
    """

    site: str
    rack: str
    node: str
    boot_id: str
    sequence: int
    tick_ms: int
    observed_ms: int
    interval_ms: int = 30000
    source: str = "nvml"
    gpus: list[str]
    gpu_index: list[int]
    ecc_volatile_correctable: list[float] = []
    ecc_volatile_uncorrectable: list[float] = []
    ecc_aggregate_correctable: list[float] = []
    ecc_aggregate_uncorrectable: list[float] = []
    ecc_volatile_sram_correctable: list[float] = []
    ecc_volatile_sram_uncorrectable: list[float] = []
    ecc_volatile_dram_correctable: list[float] = []
    ecc_volatile_dram_uncorrectable: list[float] = []
    ecc_aggregate_sram_correctable: list[float] = []
    ecc_aggregate_sram_uncorrectable: list[float] = []
    ecc_aggregate_dram_correctable: list[float] = []
    ecc_aggregate_dram_uncorrectable: list[float] = []
    ecc_volatile_register_file_correctable: list[float] = []
    ecc_volatile_register_file_uncorrectable: list[float] = []
    ecc_volatile_l1_cache_correctable: list[float] = []
    ecc_volatile_l1_cache_uncorrectable: list[float] = []
    ecc_volatile_l2_cache_correctable: list[float] = []
    ecc_volatile_l2_cache_uncorrectable: list[float] = []
    ecc_volatile_sram_uncorrectable_parity: list[float] = []
    ecc_volatile_sram_uncorrectable_secded: list[float] = []
    ecc_aggregate_sram_uncorrectable_parity: list[float] = []
    ecc_aggregate_sram_uncorrectable_secded: list[float] = []
    ecc_aggregate_sram_uncorrectable_l2: list[float] = []
    ecc_aggregate_sram_uncorrectable_sm: list[float] = []
    ecc_aggregate_sram_uncorrectable_microcontroller: list[float] = []
    ecc_aggregate_sram_uncorrectable_pcie: list[float] = []
    ecc_aggregate_sram_uncorrectable_other: list[float] = []
    ecc_sram_threshold_exceeded: list[float] = []
    row_remap_correctable: list[float] = []
    row_remap_uncorrectable: list[float] = []
    row_remap_pending: list[float] = []
    row_remap_failure: list[float] = []
    row_remap_banks_max: list[float] = []
    row_remap_banks_high: list[float] = []
    row_remap_banks_partial: list[float] = []
    row_remap_banks_low: list[float] = []
    row_remap_banks_none: list[float] = []
    retired_pages_single_bit: list[float] = []
    retired_pages_double_bit: list[float] = []
    retired_pages_pending: list[float] = []
    pcie_replays: list[float] = []
    pcie_replay_rollovers: list[float] = []
    pcie_width: list[float] = []
    pcie_width_max: list[float] = []
    pcie_generation: list[float] = []
    pcie_generation_max: list[float] = []
    pcie_generation_device_max: list[float] = []
    pcie_generation_host_max: list[float] = []
    throttled_sw_power_cap_us: list[float] = []
    throttled_sync_boost_us: list[float] = []
    throttled_sw_thermal_us: list[float] = []
    throttled_hw_thermal_us: list[float] = []
    throttled_hw_power_brake_us: list[float] = []
    energy_joules: list[float] = []
    last_xid: list[float] = []
    nvlink_crc_flit_errors: list[float] = []
    nvlink_crc_data_errors: list[float] = []
    nvlink_replays: list[float] = []
    nvlink_recoveries: list[float] = []
    nvlink_recoveries_failed: list[float] = []
    nvlink_symbol_errors: list[float] = []
    nvlink_effective_errors: list[float] = []
    power_limit_watts: list[float] = []
    power_limit_requested_watts: list[float] = []
    power_limit_default_watts: list[float] = []
    power_limit_min_watts: list[float] = []
    power_limit_max_watts: list[float] = []
    temperature_shutdown_celsius: list[float] = []
    temperature_slowdown_celsius: list[float] = []
    temperature_max_operating_celsius: list[float] = []
    memory_temperature_max_operating_celsius: list[float] = []
    temperature_margin_shutdown_celsius: list[float] = []
    temperature_margin_slowdown_celsius: list[float] = []
    memory_total_bytes: list[float] = []
    memory_reserved_bytes: list[float] = []
    bar1_total_bytes: list[float] = []
    sm_clock_max_mhz: list[float] = []
    memory_clock_max_mhz: list[float] = []
    mig_mode: list[str | None] = []
    ecc_mode: list[str | None] = []
    ecc_mode_pending: list[str | None] = []
    persistence_mode: list[str | None] = []
    compute_mode: list[str | None] = []
    fabric_state: list[str | None] = []
    fabric_status: list[str | None] = []
    fabric_health: list[str | None] = []
    recovery_action: list[str | None] = []
    nvlink_link_active: list[list[float]] = []
    nvlink_link_crc_flit_errors: list[list[float]] = []
    nvlink_link_crc_data_errors: list[list[float]] = []
    nvlink_link_replays: list[list[float]] = []
    nvlink_link_recoveries: list[list[float]] = []
    nvlink_link_recoveries_failed: list[list[float]] = []
    nvlink_link_symbol_errors: list[list[float]] = []
    nvlink_link_effective_errors: list[list[float]] = []
    nvlink_link_speed_mbps: list[list[float]] = []


class Disk(Record, frozen=True, kw_only=True):
    """One block device or mounted file system."""

    name: str
    total_bytes: float | None = None
    used_bytes: float | None = None
    read_bytes_per_second: float | None = None
    write_bytes_per_second: float | None = None
    busy_percent: float | None = None


class Network(Record, frozen=True, kw_only=True):
    """One network interface."""

    name: str
    up: bool | None = None
    speed_mbps: float | None = None
    receive_bytes_per_second: float | None = None
    send_bytes_per_second: float | None = None
    receive_errors: int | None = None
    send_errors: int | None = None
    receive_drops: int | None = None
    send_drops: int | None = None


class Port(Record, frozen=True, kw_only=True):
    """One InfiniBand or RoCE port."""

    device: str
    port: int
    link_layer: str | None = None
    state: str | None = None
    physical_state: str | None = None
    rate_gbps: float | None = None
    expected_gbps: float | None = None
    rate_name: str | None = None
    degraded: bool | None = None
    reason: str = ""
    card: str | None = None
    guid: str | None = None
    firmware: str | None = None
    counters: dict[str, int] = {}


class NodeSample(Record, frozen=True, kw_only=True):
    """The host of one node at one tick (source `host`), or its fabric ports (source `infiniband`); None: not read."""

    site: str
    rack: str
    node: str
    boot_id: str
    sequence: int
    tick_ms: int
    observed_ms: int
    interval_ms: int = 10000
    source: str
    cpu_utilization_percent: float | None = None
    cpu_iowait_percent: float | None = None
    cpu_steal_percent: float | None = None
    cpu_count: int | None = None
    cpu_temperature_celsius: float | None = None
    load_1m: float | None = None
    load_5m: float | None = None
    load_15m: float | None = None
    memory_total_bytes: float | None = None
    memory_used_bytes: float | None = None
    memory_available_bytes: float | None = None
    swap_total_bytes: float | None = None
    swap_used_bytes: float | None = None
    swap_in_bytes_per_second: float | None = None
    swap_out_bytes_per_second: float | None = None
    cpu_pressure_some_percent: float | None = None
    memory_pressure_some_percent: float | None = None
    memory_pressure_full_percent: float | None = None
    io_pressure_some_percent: float | None = None
    io_pressure_full_percent: float | None = None
    oom_kills: int | None = None
    process_count: int | None = None
    uptime_s: float | None = None
    disks: list[Disk] = []
    networks: list[Network] = []
    ports: list[Port] = []


class Point(Record, frozen=True, kw_only=True):
    """One measured value or state of a device."""

    name: str
    unit: str
    value: float | None = None
    state: str | None = None


class FacilitySample(Record, frozen=True, kw_only=True):
    """One device around the nodes at one tick: a PDU, a cooler, a meter, or a node's management controller."""

    site: str
    rack: str
    node: str
    boot_id: str
    sequence: int
    tick_ms: int
    observed_ms: int
    interval_ms: int = 10000
    source: str
    device: str
    device_kind: str
    of_node: str | None = None
    points: list[Point] = []


class HardwareEvent(Record, frozen=True, kw_only=True):
    """Something that happened once on a node (or `count` times, summarised), with its raw text."""

    event_id: str
    site: str
    rack: str
    node: str
    boot_id: str
    sequence: int
    event_ms: int
    observed_ms: int
    source: str
    kind: str
    code: int | None = None
    gpu: str | None = None
    pci: str | None = None
    link: int | None = None
    severity: str
    action: str = "none"
    count: int = 1
    details: dict[str, str] = {}
    raw: str = ""
    last_raw: str | None = None


class InventoryRecord(Record, frozen=True, kw_only=True):
    """Where one component is and what it belongs to; the newest record of a component id replaces the ones before."""

    component: str
    kind: str
    site: str
    rack: str
    node: str | None = None
    slot: int | None = None
    gpu_index: int | None = None
    gpu_uuid: str | None = None
    gpu_serial: str | None = None
    pci: str | None = None
    nvlink_domain: str | None = None
    leaf_switch: str | None = None
    pdu: str | None = None
    chassis_serial: str | None = None
    sku: str | None = None
    driver_version: str | None = None
    vbios_version: str | None = None
    board_part_number: str | None = None
    inforom_version: str | None = None
    job: str | None = None
    source: str
    seen_ms: int
    removed: bool = False


class Anomaly(Record, frozen=True, kw_only=True):
    """A detector's finding on samples, once when raised and once when cleared."""

    anomaly_id: str
    site: str
    rack: str
    node: str | None = None
    gpu: str | None = None
    component: str
    detector: str
    rule: str
    metric: str | None = None
    fault_class: str
    state: str
    severity: str
    action: str = "none"
    value: float | None = None
    limit: float | None = None
    begin_ms: int
    tick_ms: int
    reason: str


class Evidence(Record, frozen=True, kw_only=True):
    """One piece of evidence of a fault."""

    id: str
    at_ms: int
    source: str
    text: str


class Fault(Record, frozen=True, kw_only=True):
    """One component's problem of one class, at one revision of its life."""

    fault_id: str
    revision: int
    state: str
    site: str
    rack: str
    node: str | None = None
    gpu: str | None = None
    pci: str | None = None
    component: str
    component_kind: str
    fault_class: str
    code: int | None = None
    severity: str
    action: str
    rule: str
    reason: str
    first_ms: int
    last_ms: int
    cleared_ms: int | None = None
    count: int
    evidence: list[Evidence]
    observed_ms: int
    action_rule: str = ""
    recurrence: int = 0
    flapping: bool = False
    job: str | None = None
    maintenance: str | None = None
    acknowledged_by: str | None = None
    acknowledged_ms: int | None = None
    snoozed_until_ms: int | None = None
    worsened_ms: int | None = None


class Member(Record, frozen=True, kw_only=True):
    """One fault of an incident, and its role there."""

    fault_id: str
    component: str
    fault_class: str
    code: int | None = None
    role: str
    because: str


class Alternative(Record, frozen=True, kw_only=True):
    """Another explanation of an incident's faults, and what would decide."""

    component: str
    fault_class: str
    score: float
    because: str
    tell_apart: str


class Incident(Record, frozen=True, kw_only=True):
    """Faults that share one cause, at one revision."""

    incident_id: str
    revision: int
    state: str
    page: bool
    site: str
    racks: list[str]
    root: str
    root_fault_id: str
    root_class: str
    root_code: int | None = None
    root_node: str | None = None
    root_gpu: str | None = None
    root_pci: str | None = None
    title: str
    severity: str
    action: str
    reason: str
    score: float
    members: list[Member]
    evidence: list[str]
    first_ms: int
    last_ms: int
    cleared_ms: int | None = None
    observed_ms: int
    decided_ms: int
    alternatives: list[Alternative] = []
    chance: float | None = None
    jobs: list[str] = []
    merged_into: str | None = None
    split_from: str | None = None
    acknowledged_by: str | None = None


class Reason(Record, frozen=True, kw_only=True):
    """One thing that speaks on a component's health."""

    effect: str
    component: str
    fault_class: str
    severity: str
    fault_id: str | None = None
    rule: str
    text: str


class Verdict(Record, frozen=True, kw_only=True):
    """A component's health as it stands, and why, at one revision."""

    component: str
    component_kind: str
    revision: int
    site: str
    rack: str
    node: str | None = None
    gpu: str | None = None
    health: str
    rentable: bool
    action: str = "none"
    reasons: list[Reason]
    since_ms: int
    decided_ms: int


class DeadLetter(Record, frozen=True, kw_only=True):
    """Bytes that could not be used, as they came, where from, and why."""

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    reader: str
    key: bytes | None = None
    value: bytes
    observed_ms: int


RECORDS: dict[str, type[Record]] = {
    kind.__name__: kind
    for kind in (
        GpuSample,
        GpuCounters,
        NodeSample,
        FacilitySample,
        HardwareEvent,
        InventoryRecord,
        Anomaly,
        Fault,
        Incident,
        Verdict,
        DeadLetter,
    )
}
"""Schema name to record class."""

# msgspec learns what a class is like when it first decodes one, and another thread that decodes one meanwhile finds
# half of it and crashes (msgspec 0.22: SIGSEGV). Here nobody else decodes yet. What is kept in other classes has its
# decoders made where they are defined, for the same reason. `tests/integration/test_decoding_in_threads.py` holds it.
for _kind in RECORDS.values():
    msgspec.msgpack.Decoder(_kind)
