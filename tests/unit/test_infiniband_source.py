"""The agent's source of InfiniBand ports: a real host's tree, and what is told when a copy of it breaks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from producers.infiniband.settings import InfiniBandSettings
from producers.infiniband.source import InfiniBandSource
from producers.infiniband.tables import table
from producers.infiniband.watch import Growth
from producers.source import Origin
from producers.standing import REPEAT_S
from schemas.catalog import Catalog, load
from schemas.codec import SingleObjectCodec
from schemas.records import HardwareEvent, NodeSample, Record

HOST = Path("infiniband") / "sysfs_h100" / "sys-class-infiniband-h100.0"
ORIGIN = Origin("site", "rack-7", "gpu-17", "boot")
TICK_S = 10.0


class Host:
    """A copy of the real host's tree that can break, and the source that reads it each 10 s."""

    def __init__(self, tree: Path, catalog: Catalog, state: Path | None = None) -> None:
        self.tree = tree
        self.catalog = catalog
        self.now_s = 1000.0
        self.source = InfiniBandSource(
            ORIGIN,
            catalog,
            InfiniBandSettings(tree=tree),
            state,
            clock=lambda: self.now_s,
            wall_ms=lambda: int(self.now_s * 1000) + 5,
        )

    def tick(self, seconds: float = TICK_S) -> list[Record]:
        self.now_s += seconds
        return list(self.source.read(int(self.now_s * 1000)))

    def events(self, ticks: int = 1, seconds: float = TICK_S) -> list[HardwareEvent]:
        return [record for _ in range(ticks) for record in self.tick(seconds) if isinstance(record, HardwareEvent)]

    def kinds(self, ticks: int = 1) -> list[str]:
        return [event.kind for event in self.events(ticks)]

    def sample(self) -> NodeSample:
        (sample,) = [record for record in self.tick() if isinstance(record, NodeSample)]
        return sample

    def set(self, device: str, file: str, text: object) -> None:
        path = self.tree / device / "ports/1" / file
        if path.parent.is_symlink():
            original = path.parent.readlink()
            path.parent.unlink()
            shutil.copytree(original, path.parent, copy_function=shutil.copyfile)
        path.write_text(f"{text}\n")

    def grow(self, device: str, counter: str, by: int) -> None:
        path = f"counters/{counter}"
        self.set(device, path, int((self.tree / device / "ports/1" / path).read_text()) + by)

    def take_down(self, device: str) -> None:
        self.set(device, "state", "1: DOWN")
        self.set(device, "phys_state", "2: Polling")
        self.set(device, "rate", "10 Gb/sec (4X SDR)")

    def bring_up(self, device: str) -> None:
        self.set(device, "state", "4: ACTIVE")
        self.set(device, "phys_state", "5: LinkUp")
        self.set(device, "rate", "400 Gb/sec (4X NDR)")


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load()


@pytest.fixture
def copied(shared_data: Path, tmp_path: Path, catalog: Catalog) -> Host:
    """Not read yet. Counters are copied when they are changed: a real tree has hundreds."""
    tree, original = tmp_path / "infiniband", (shared_data / HOST).resolve()
    groups = ("counters", "hw_counters")
    shutil.copytree(original, tree, ignore=shutil.ignore_patterns(*groups), copy_function=shutil.copyfile)
    for path in (tree, *(path for path in tree.rglob("*") if path.is_dir())):
        path.chmod(0o755)
    for port in tree.glob("*/ports/1"):
        for group in groups:
            (port / group).symlink_to(original / port.relative_to(tree) / group)
    return Host(tree, catalog)


@pytest.fixture
def host(copied: Host) -> Host:
    """Read twice, and well."""
    assert copied.kinds(2) == []
    return copied


# --- the sample -------------------------------------------------------------------------------------------------------


def test_a_real_hosts_ports_are_one_sample_with_what_stands_in_the_files(host: Host) -> None:
    sample = host.sample()
    ports = {port.device: port for port in sample.ports}

    assert (sample.source, sample.node, sample.rack, sample.interval_ms) == ("infiniband", "gpu-17", "rack-7", 10_000)
    assert sample.tick_ms <= sample.observed_ms
    assert len(ports) == 9
    first, flapped, bond = ports["mlx5_0"], ports["mlx5_1"], ports["mlx5_bond_0"]
    assert (first.port, first.link_layer, first.state, first.physical_state) == (1, "infiniband", "active", "linkup")
    assert (first.rate_gbps, first.expected_gbps, first.rate_name, first.degraded) == (400.0, 400.0, "NDR", False)
    assert (first.card, first.firmware) == ("ConnectX-7 MCX75310AAS-NEAT", "28.41.1000")
    # read by hand from the files; data is counted in words of four bytes, and stays so
    assert first.counters["port_xmit_data"] == 230_442_669_431_839
    assert first.counters["port_rcv_errors"] == 14
    assert first.counters["rx_write_requests"] == 3_809_045_607
    assert "lifespan" not in first.counters
    assert len(first.counters) == 46
    assert flapped.counters["link_downed"] == 255
    assert flapped.counters["port_rcv_data"] == 205_128_687_774_249
    assert (bond.link_layer, bond.rate_gbps, bond.rate_name, bond.firmware) == (
        "ethernet",
        200.0,
        "NDR200",
        "32.38.3056",
    )
    codec = SingleObjectCodec()
    assert codec.decode(codec.encode(sample), NodeSample) == sample


def test_a_counter_that_cannot_be_read_is_left_out_and_told_once(host: Host) -> None:
    host.set("mlx5_4", "counters/symbol_error", "garbage")
    assert host.kinds() == []  # a single time is a file that vanished while it was read
    (event,) = host.events(5)
    assert event.kind == "metric_unreadable"
    assert "mlx5_4/ports/1/counters/symbol_error" in event.raw
    ports = {port.device: port for port in host.sample().ports}
    assert "symbol_error" not in ports["mlx5_4"].counters
    assert ports["mlx5_4"].counters["port_rcv_errors"] == 14
    assert ports["mlx5_5"].counters["symbol_error"] == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_missing_permission_is_named_with_its_remedy(host: Host) -> None:
    host.set("mlx5_4", "counters/symbol_error", 0)
    (host.tree / "mlx5_4/ports/1/counters/symbol_error").chmod(0)
    (event,) = host.events(3)
    assert "permission denied" in event.raw
    assert event.details["remedy"]


def test_a_machine_without_infiniband_says_nothing(tmp_path: Path, catalog: Catalog) -> None:
    absent, empty = Host(tmp_path / "none", catalog), Host(tmp_path, catalog)
    assert [absent.tick() for _ in range(5)] == [[]] * 5
    assert [empty.tick() for _ in range(5)] == [[]] * 5


def test_virtual_functions_are_left_to_whoever_has_them(host: Host) -> None:
    lent = host.tree / "mlx5_12"
    shutil.copytree(host.tree / "mlx5_4", lent, symlinks=True)
    (lent / "device/physfn").mkdir(parents=True)
    host.take_down("mlx5_12")
    assert host.kinds(10) == []
    assert "mlx5_12" not in {port.device for port in host.sample().ports}


# --- down, and up again -----------------------------------------------------------------------------------------------


def test_a_port_that_goes_down_is_told_at_once_with_its_component_and_where_to_look(host: Host) -> None:
    host.take_down("mlx5_4")
    (event,) = host.events()
    assert (event.kind, event.severity, event.action) == ("port_down", "warning", "check_hardware")
    assert event.source == "infiniband"
    assert event.details["component"] == "port:gpu-17/mlx5_4/1"
    assert (event.details["interface"], event.details["state"]) == ("mlx5_4", "down")
    assert event.raw == (
        "mlx5_4 port 1 (ConnectX-7 MCX75310AAS-NEAT) went down: its state is down (polling), it finds no partner: "
        "look at its cable, its transceiver and the switch port; 7 other ports of its kind are active, such as "
        "mlx5_0 port 1 at 400 Gb/s (NDR)."
    )


def test_a_port_that_stays_down_is_critical_once(host: Host) -> None:
    host.take_down("mlx5_4")
    told = host.events(30)
    assert [event.kind for event in told] == ["port_down", "port_stays_down"]
    assert told[1].severity == "critical"
    assert told[1].event_ms - told[0].event_ms == 60_000


def test_what_lasts_is_told_again_before_its_fault_would_end_for_quiet(host: Host) -> None:
    host.take_down("mlx5_4")
    told = host.events(int(2 * REPEAT_S / 120) + 2, seconds=120)
    assert [event.kind for event in told] == ["port_down", *["port_stays_down"] * 3]
    assert len({event.event_id for event in told}) == 4


def test_a_port_that_comes_back_is_told_with_how_long_it_was_gone(host: Host) -> None:
    host.take_down("mlx5_4")
    assert host.kinds(2) == ["port_down"]
    host.bring_up("mlx5_4")
    (event,) = host.events(20)
    assert event.kind == "link_up"
    assert event.raw.endswith("is active again after 20 s, at 400 Gb/s (NDR).")


def test_a_port_that_waits_for_the_subnet_manager_says_so(host: Host) -> None:
    host.set("mlx5_4", "state", "2: INIT")
    (event,) = host.events()
    assert "look at the subnet manager" in event.raw


def test_a_port_that_somebody_switched_off_wakes_nobody(host: Host) -> None:
    host.set("mlx5_4", "state", "1: DOWN")
    host.set("mlx5_4", "phys_state", "3: Disabled")
    assert host.kinds(30) == ["port_down"]


def test_a_port_that_is_down_from_the_start_gets_time_and_is_never_critical(copied: Host) -> None:
    copied.take_down("mlx5_4")
    assert copied.kinds(6) == []
    (event,) = copied.events(60)
    assert (event.kind, event.severity) == ("port_down", "warning")
    assert " is down: " in event.raw


def test_ports_that_nobody_uses_are_not_told(copied: Host) -> None:
    for device in [path.name for path in copied.tree.iterdir()]:
        copied.take_down(device)
    assert copied.kinds(30) == []


# --- flaps ------------------------------------------------------------------------------------------------------------


def test_a_link_that_was_lost_between_two_reads_is_a_flap(host: Host) -> None:
    host.grow("mlx5_4", "link_downed", 3)
    (event,) = host.events(10)
    assert (event.kind, event.count) == ("link_flap", 3)
    assert "3 times" in event.raw
    assert "from 0 to 3" in event.raw


def test_a_port_that_is_seen_down_is_no_flap_besides(host: Host) -> None:
    host.take_down("mlx5_4")
    host.grow("mlx5_4", "link_downed", 1)
    assert host.kinds() == ["port_down"]
    host.bring_up("mlx5_4")
    assert host.kinds() == ["link_up"]


def test_a_counter_at_its_end_or_set_to_nought_is_no_flap(host: Host) -> None:
    host.set("mlx5_1", "counters/link_downed", 0)
    assert host.kinds(3) == []


# --- slow -------------------------------------------------------------------------------------------------------------


def test_a_port_that_runs_below_its_peers_names_one_of_them_and_both_rates(host: Host) -> None:
    host.set("mlx5_4", "rate", "200 Gb/sec (4X HDR)")
    (event,) = host.events(10)
    assert (event.kind, event.severity) == ("port_slow", "warning")
    assert event.raw == (
        "mlx5_4 port 1 (ConnectX-7 MCX75310AAS-NEAT) runs at 200 Gb/s (HDR) where its peers, such as mlx5_0 port 1, "
        "run at 400 Gb/s (NDR): look at its cable, transceiver, switch port."
    )
    assert event.details["reference"] == "port:gpu-17/mlx5_0/1"
    assert (event.details["rate_gbps"], event.details["expected_gbps"]) == ("200", "400")
    host.bring_up("mlx5_4")
    assert host.kinds(10) == ["port_full_speed"]


def test_a_card_without_peers_is_held_to_what_it_is_made_for(host: Host) -> None:
    host.set("mlx5_bond_0", "rate", "100 Gb/sec (1X NDR)")
    (event,) = host.events(10)
    assert event.kind == "port_slow"
    assert "runs at 100 Gb/s (NDR100) where its card is made for 200 Gb/s" in event.raw


def test_a_port_that_trains_is_not_slow_yet(host: Host) -> None:
    host.set("mlx5_4", "rate", "200 Gb/sec (4X HDR)")
    assert host.kinds(2) == []
    host.bring_up("mlx5_4")
    assert host.kinds(5) == []


def test_a_whole_fabric_below_its_cards_is_no_fault_of_a_port(host: Host) -> None:
    for device in [path.name for path in host.tree.glob("mlx5_[0-9]")]:
        host.set(device, "rate", "200 Gb/sec (4X HDR)")
    assert host.kinds(10) == []


# --- errors -----------------------------------------------------------------------------------------------------------


def test_symbol_errors_beyond_the_specified_bit_error_rate_are_told_once_and_when_they_end(host: Host) -> None:
    told = []
    for _ in range(60):  # 12 a minute: 6 times the rate of the specification
        host.grow("mlx5_4", "symbol_error", 2)
        told += host.events()
    (event,) = told
    assert (event.kind, event.action) == ("port_errors", "check_hardware")
    assert (event.details["counter"], event.details["grown"], event.details["limit"]) == ("symbol_error", "120", "120")
    assert "symbol_error grew by 120 within 10 minutes, where 120 within 60 minutes are too many." in event.raw
    assert table().counter["symbol_error"].meaning in event.raw
    quiet = host.events(35, seconds=120)
    assert [event.kind for event in quiet] == ["port_errors", "port_errors_ended"]  # told again after half an hour


def test_what_a_counter_stood_at_when_we_came_says_nothing(copied: Host) -> None:
    copied.set("mlx5_4", "counters/symbol_error", 60_000)
    copied.set("mlx5_4", "counters/link_error_recovery", 200)
    assert copied.kinds(20) == []


def test_errors_as_many_as_a_sound_link_may_have_are_not_told(host: Host) -> None:
    told = []
    for _ in range(60):  # 90 an hour, for two hours
        host.grow("mlx5_4", "symbol_error", 3)
        told += [event.kind for event in host.events(seconds=120)]
    assert told == []


def test_errors_that_hover_at_the_limit_are_told_once(host: Host) -> None:
    def within_an_hour(grows: int) -> list[str]:
        told = []
        for _ in range(12):
            host.grow("mlx5_4", "VL15_dropped", grows)
            told += [event.kind for event in host.events(seconds=300)]
        return told

    assert within_an_hour(10) == ["fabric_errors"]  # 120, where 100 are too many
    assert "port_errors_ended" not in within_an_hour(8) + within_an_hour(9) + within_an_hour(8)
    assert within_an_hour(0)[-1:] == ["port_errors_ended"]


@pytest.mark.parametrize(
    ("counter", "grows", "kind"),
    [
        ("local_link_integrity_errors", 1, "port_errors"),
        ("link_error_recovery", 10, "port_errors"),
        ("port_rcv_errors", 10, "port_errors"),
        ("VL15_dropped", 100, "fabric_errors"),
        ("port_xmit_discards", 6000, "fabric_errors"),
        ("port_rcv_remote_physical_errors", 100, "fabric_errors"),
        ("local_link_integrity_errors", 0, None),
        ("link_error_recovery", 9, None),
        ("VL15_dropped", 99, None),
        ("port_xmit_discards", 5999, None),
    ],
)
def test_each_counter_has_its_own_limit(host: Host, counter: str, grows: int, kind: str | None) -> None:
    host.grow("mlx5_4", counter, grows)
    assert host.kinds(3) == ([kind] if kind else [])


def test_an_overrun_is_told_although_its_counter_has_only_four_bits(host: Host) -> None:
    host.set("mlx5_4", "counters/excessive_buffer_overrun_errors", 0)  # it stood at its end, and was cleared
    assert host.kinds(2) == []
    host.grow("mlx5_4", "excessive_buffer_overrun_errors", 1)
    (event,) = host.events(2)
    assert event.details["counter"] == "excessive_buffer_overrun_errors"


def test_each_limit_is_of_a_counter_that_has_a_meaning_and_gives_its_reason() -> None:
    for name, limit in table().limit.items():
        assert table().counter[name].meaning, name
        assert limit.count >= 1
        assert limit.reason.endswith("."), name


def test_growth_is_of_the_window_and_begins_anew_when_a_counter_goes_back() -> None:
    growth = Growth(60.0)
    assert growth.add(100, 0.0) == (0, 0.0)
    assert growth.add(130, 30.0) == (30, 30.0)
    assert growth.add(150, 60.0) == (50, 60.0)
    assert growth.add(150, 90.0) == (20, 60.0)
    assert growth.add(5, 100.0) == (0, 0.0)
    assert growth.add(9, 110.0) == (4, 10.0)


# --- gone -------------------------------------------------------------------------------------------------------------


def test_a_device_that_vanishes_is_told_within_two_reads_and_when_it_is_back(host: Host) -> None:
    (host.tree / "mlx5_4").rename(host.tree.parent / "away")
    (event,) = host.events(2)
    assert (event.kind, event.severity) == ("adapter_lost", "critical")
    assert event.details["component"] == "port:gpu-17/mlx5_4/1"
    assert "mlx5_4 (ConnectX-7 MCX75310AAS-NEAT) has vanished from the node; 8 others are still there." in event.raw
    assert len(host.sample().ports) == 8
    (host.tree.parent / "away").rename(host.tree / "mlx5_4")
    assert host.kinds(5) == ["adapter_found"]


def test_a_driver_that_is_reloaded_within_a_read_is_no_loss(host: Host) -> None:
    host.tree.rename(host.tree.parent / "away")
    assert host.tick() == []
    (host.tree.parent / "away").rename(host.tree)
    assert host.kinds(5) == []


def test_all_devices_gone_at_once_hints_at_the_driver(host: Host) -> None:
    host.tree.rename(host.tree.parent / "away")
    told = host.events(10)
    assert [event.kind for event in told] == ["adapter_lost"] * 9
    assert "the driver may have been unloaded" in told[0].raw


def test_a_device_is_its_guid_so_the_one_that_is_lost_is_named_although_names_move_up(copied: Host) -> None:
    names = [f"mlx5_{number}" for number in range(4, 10)]
    for number, name in enumerate(names):
        (copied.tree / name / "node_guid").write_text(f"946d:ae03:008b:b00{number}\n")
    assert copied.kinds(2) == []
    shutil.rmtree(copied.tree / "mlx5_5")
    for old, new in zip(names[2:], names[1:], strict=False):
        (copied.tree / old).rename(copied.tree / new)
    (event,) = copied.events(5)
    assert (event.kind, event.details["guid"]) == ("adapter_lost", "946d:ae03:008b:b001")


def test_a_card_that_was_replaced_is_not_missed(copied: Host) -> None:
    (copied.tree / "mlx5_4/node_guid").write_text("946d:ae03:008b:b000\n")
    assert copied.kinds(2) == []
    (copied.tree / "mlx5_4/node_guid").write_text("946d:ae03:008b:b0ff\n")
    assert copied.kinds(10) == []


def test_a_device_that_does_not_come_back_from_a_reboot_is_missed(copied: Host, tmp_path: Path) -> None:
    state = tmp_path / "infiniband.json"
    assert Host(copied.tree, copied.catalog, state).kinds(2) == []
    shutil.rmtree(copied.tree / "mlx5_4")
    (event,) = Host(copied.tree, copied.catalog, state).events(5)
    assert (event.kind, event.details["component"]) == ("adapter_lost", "port:gpu-17/mlx5_4/1")


@pytest.mark.parametrize("damage", ["{not json", "[{}]", ""])
def test_a_damaged_list_of_known_devices_begins_anew(copied: Host, tmp_path: Path, damage: str) -> None:
    state = tmp_path / "infiniband.json"
    state.write_text(damage)
    assert Host(copied.tree, copied.catalog, state).kinds(3) == []
    assert "mlx5_4" in state.read_text()


def test_two_ports_that_are_bonded_are_one_device_from_then_on(copied: Host) -> None:
    for number, name in enumerate(("mlx5_4", "mlx5_5")):
        (copied.tree / name / "node_guid").write_text(f"946d:ae03:008b:b00{number}\n")
    assert copied.kinds(2) == []
    shutil.rmtree(copied.tree / "mlx5_5")
    (copied.tree / "mlx5_4").rename(copied.tree / "mlx5_bond_1")
    assert copied.kinds(5) == []


def test_the_card_is_named_with_its_place_on_the_bus(copied: Host, tmp_path: Path) -> None:
    (tmp_path / "0000:9a:00.0").mkdir()
    (copied.tree / "mlx5_4/device").symlink_to(tmp_path / "0000:9a:00.0")
    copied.tick()
    (copied.tree / "mlx5_4").rename(copied.tree.parent / "away")
    (event,) = copied.events(3)
    assert event.pci == "0000:9a:00"
    assert "at 0000:9a:00.0" in event.raw


# --- the contract -----------------------------------------------------------------------------------------------------


def test_every_event_is_known_to_the_catalogue_and_opens_a_fault_of_a_port(host: Host, catalog: Catalog) -> None:
    breaks: list[Callable[[], None]] = [
        lambda: host.take_down("mlx5_4"),
        lambda: host.set("mlx5_5", "rate", "200 Gb/sec (4X HDR)"),
        lambda: host.grow("mlx5_6", "link_downed", 1),
        lambda: host.grow("mlx5_7", "symbol_error", 500),
        lambda: host.grow("mlx5_7", "VL15_dropped", 500),
        lambda: shutil.rmtree(host.tree / "mlx5_8"),
    ]
    for trouble in breaks:
        trouble()
    told = host.events(20)
    assert {event.kind for event in told} == {
        "port_down", "port_stays_down", "port_slow", "link_flap", "port_errors", "fabric_errors", "adapter_lost",
    }  # fmt: skip
    for event in told:
        entry = catalog.of(event)
        assert entry.rule == f"event.{event.kind}"
        assert catalog.faults[entry.fault_class].component_kind == "port"
        assert event.details["component"].startswith("port:gpu-17/mlx5_")


def test_it_says_which_port_it_is_reading(host: Host) -> None:
    seen = []
    original = host.source._at
    host.source._at = lambda what: (original(what), seen.append(host.source.doing))  # type: ignore[method-assign, assignment, func-returns-value]
    host.tick()
    assert "reading mlx5_4 port 1" in seen
