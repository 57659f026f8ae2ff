"""The agent's source of the host: what it reads, what it leaves out, and what it tells when something is wrong."""

from __future__ import annotations

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from producers.host import devices, texts
from producers.host.clock import KernelClock, kernel_clock
from producers.host.settings import HostSettings
from producers.host.source import HostError, HostSource
from producers.source import Origin
from producers.standing import REPEAT_S, Standing
from schemas.catalog import Catalog, load
from schemas.codec import SingleObjectCodec
from schemas.records import Disk, HardwareEvent, Network, NodeSample, Record

ORIGIN = Origin("site", "rack-7", "node-1", "boot")
GIB = 2**30
MOUNTS = r"""proc /proc proc rw 0 0
tmpfs /run tmpfs rw 0 0
/dev/nvme0n1p2 / ext4 rw 0 0
/dev/nvme0n1p2 /var/lib/kubelet/pods/1/volume-subpaths/x ext4 rw 0 0
/dev/nvme1n1 /local\040scratch xfs rw 0 0
/dev/loop3 /snap/core/1 squashfs ro 0 0
overlay /var/lib/docker/overlay2/1/merged overlay rw 0 0
10.0.0.7:/home /home nfs4 rw 0 0
tank /tank zfs rw 0 0
"""
CpuTimes = namedtuple("CpuTimes", "user nice system idle iowait irq softirq steal guest guest_nice")


class System:
    """What psutil would say; a part named in `fails` raises that."""

    def __init__(self) -> None:
        self.cpu = CpuTimes(100.0, 0.0, 50.0, 800.0, 40.0, 0.0, 0.0, 10.0, 90.0, 0.0)
        self.available = 40 * GIB
        self.disk_used = {"/": 50, "/local scratch": 10, "/tank": 20, "/dev/shm": 1}
        self.disks = {
            name: SimpleNamespace(read_bytes=0, write_bytes=0, busy_time=0)
            for name in ("nvme0n1", "nvme0n1p2", "loop3", "dm-0")
        }
        self.networks = {
            name: SimpleNamespace(bytes_recv=0, bytes_sent=0, errin=1, errout=2, dropin=3, dropout=4)
            for name in ("lo", "eth0", "eth1", "veth12ab", "docker0", "bond0", "eth0v3", "pf0vf2")
        }
        self.processes = [1, 2, 300]
        self.fails: dict[str, Exception] = {}

    def __getattribute__(self, name: str) -> Any:
        error = object.__getattribute__(self, "fails").get(name) if name != "fails" else None
        if error is not None:
            raise error
        return object.__getattribute__(self, name)

    def cpu_times(self) -> CpuTimes:
        return self.cpu

    def cpu_count(self) -> int:
        return 192

    def getloadavg(self) -> tuple[float, float, float]:
        return (3.5, 2.5, 1.5)

    def virtual_memory(self) -> Any:
        return SimpleNamespace(total=100 * GIB, available=self.available)

    def swap_memory(self) -> Any:
        return SimpleNamespace(total=8 * GIB, used=2 * GIB)

    def pids(self) -> list[int]:
        return self.processes

    def disk_io_counters(self, *, perdisk: bool, nowrap: bool) -> Any:
        assert perdisk
        assert not nowrap
        return self.disks

    def net_io_counters(self, *, pernic: bool, nowrap: bool) -> Any:
        assert pernic
        assert not nowrap
        return self.networks

    def disk_usage(self, path: str) -> Any:
        used = self.disk_used[path] * GIB
        return SimpleNamespace(total=102 * GIB, used=used, free=100 * GIB - used)  # 2 GiB are root's


class Host:
    """A host of files and numbers that can break, and the source that reads it each 10 s."""

    def __init__(self, root: Path, catalog: Catalog, state_dir: Path | None = None) -> None:
        self.proc, self.sys = root / "proc", root / "sys"
        self.system = System()
        self.said: KernelClock | OSError = KernelClock(disciplined=True, max_error_s=0.01, estimated_error_s=0.001)
        self.now_s = 1000.0
        self.write("proc/pressure/cpu", "some avg10=1.50 avg60=2.00 avg300=3.00 total=17\n")
        for resource, some, full in (("memory", "0.20", "0.10"), ("io", "7.00", "5.25")):
            text = f"some avg10={some} avg60=0.00 avg300=0.00 total=1\nfull avg10={full} avg60=0.00 total=1\n"
            self.write(f"proc/pressure/{resource}", text)
        self.write("proc/vmstat", "nr_free_pages 5\npswpin 1000\npswpout 2000\noom_kill 3\n")
        self.write("proc/uptime", "86400.25 1000.00\n")
        self.write("proc/self/mounts", MOUNTS)
        self.write("sys/block/nvme0n1/device/model", "x")
        self.write("sys/block/dm-0/dm/name", "x")
        self.write("sys/class/hwmon/hwmon0/name", "nvme\n")
        self.write("sys/class/hwmon/hwmon0/temp1_input", "70000\n")
        for number, (label, value) in enumerate([("Package id 0", 61000), ("Core 0", 90000), ("Package id 1", 64500)]):
            self.write(f"sys/class/hwmon/hwmon1/temp{number}_label", f"{label}\n")
            self.write(f"sys/class/hwmon/hwmon1/temp{number}_input", f"{value}\n")
        self.write("sys/class/hwmon/hwmon1/name", "coretemp\n")
        for name in ("eth0", "eth1", "eth0v3", "pf0vf2"):
            self.write(f"sys/class/net/{name}/device/vendor", "0x15b3")
            self.set_link(name, "up")
        self.write("sys/class/net/eth0v3/device/physfn/vendor", "0x15b3")
        self.write("sys/class/net/pf0vf2/phys_port_name", "pf0vf2\n")
        self.write("sys/class/net/bond0/bonding/mode", "x")
        self.set_link("bond0", "up")
        self.set_link("eth1", "down", speed="-1")
        for name in ("lo", "veth12ab", "docker0"):
            self.set_link(name, "up")
        self.source = HostSource(
            ORIGIN,
            catalog,
            HostSettings(proc=self.proc, sys=self.sys),
            state_dir or root,
            system=self.system,
            kernel_clock=self.ask_clock,
            clock=lambda: self.now_s,
            wall_ms=lambda: int(self.now_s * 1000) + 5,
        )
        self.root = root

    def write(self, file: str, text: str) -> None:
        path = (self.proc if file.startswith("proc") else self.sys).parent / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def set_link(self, name: str, state: str, *, flags: str = "0x1003", speed: str = "100000") -> None:
        for file, text in (("operstate", state), ("flags", flags), ("speed", speed)):
            self.write(f"sys/class/net/{name}/{file}", f"{text}\n")

    def plug(self, name: str, place: str, port: int = 0) -> None:
        """Make it the interface of a card at this place of the bus."""
        device = self.sys / "class/net" / name / "device"
        if device.is_dir():
            shutil.rmtree(device)
        device.parent.mkdir(parents=True, exist_ok=True)
        device.symlink_to(f"../../../{place}")
        self.write(f"sys/class/net/{name}/dev_port", f"{port}\n")

    def rename(self, name: str, to: str) -> None:
        (self.sys / "class/net" / name).rename(self.sys / "class/net" / to)
        self.system.networks[to] = self.system.networks.pop(name)

    def ask_clock(self) -> KernelClock:
        if isinstance(self.said, OSError):
            raise self.said
        return self.said

    def tick(self, seconds: float = 10.0) -> list[Record]:
        self.now_s += seconds
        return list(self.source.read(int(self.now_s * 1000)))

    def sample(self) -> NodeSample:
        (sample,) = [record for record in self.tick() if isinstance(record, NodeSample)]
        return sample

    def events(self, ticks: int = 1, seconds: float = 10.0) -> list[HardwareEvent]:
        return [record for _ in range(ticks) for record in self.tick(seconds) if isinstance(record, HardwareEvent)]

    def kinds(self, ticks: int = 1) -> list[str]:
        return [event.kind for event in self.events(ticks)]


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load()


@pytest.fixture
def host(tmp_path: Path, catalog: Catalog) -> Host:
    return Host(tmp_path, catalog)


# --- the sample -------------------------------------------------------------------------------------------------------


def test_a_first_read_gives_what_is_now_and_no_rate(host: Host) -> None:
    sample = host.sample()

    assert (sample.source, sample.node, sample.cpu_count, sample.load_1m) == ("host", "node-1", 192, 3.5)
    assert (sample.memory_total_bytes, sample.memory_used_bytes) == (100 * GIB, 60 * GIB)
    assert (sample.memory_available_bytes, sample.swap_used_bytes) == (40 * GIB, 2 * GIB)
    assert (sample.cpu_pressure_some_percent, sample.memory_pressure_some_percent) == (1.5, 0.2)
    assert (sample.memory_pressure_full_percent, sample.io_pressure_full_percent) == (0.1, 5.25)
    assert (sample.oom_kills, sample.process_count, sample.uptime_s) == (3, 3, 86400.25)
    assert sample.cpu_temperature_celsius == 64.5  # the hottest package; neither a core nor the disk
    assert sample.cpu_utilization_percent is None
    assert sample.swap_in_bytes_per_second is None
    assert {disk.read_bytes_per_second for disk in sample.disks} == {None}
    assert {network.send_bytes_per_second for network in sample.networks} == {None}


def test_processor_shares_are_of_the_time_since_the_last_read(host: Host) -> None:
    host.tick()
    # 100 s passed on all processors: 20 user, 15 of it for guests, 5 system, 60 idle, 10 iowait, 5 stolen
    host.system.cpu = CpuTimes(120.0, 0.0, 55.0, 860.0, 50.0, 0.0, 0.0, 15.0, 105.0, 0.0)
    sample = host.sample()
    assert sample.cpu_utilization_percent == pytest.approx(30.0)
    assert sample.cpu_iowait_percent == pytest.approx(10.0)
    assert sample.cpu_steal_percent == pytest.approx(5.0)


def test_iowait_that_goes_back_is_null_and_so_is_what_needs_it(host: Host) -> None:
    host.tick()
    host.system.cpu = host.system.cpu._replace(idle=900.0, iowait=39.0)
    sample = host.sample()
    assert (sample.cpu_iowait_percent, sample.cpu_utilization_percent) == (None, None)
    assert sample.cpu_steal_percent == 0.0


def test_paging_is_counted_in_pages_of_this_machine(host: Host) -> None:
    host.tick()
    host.write("proc/vmstat", "pswpin 1100\npswpout 2050\noom_kill 3\n")
    sample = host.sample()
    page = os.sysconf("SC_PAGE_SIZE")
    assert (sample.swap_in_bytes_per_second, sample.swap_out_bytes_per_second) == (10 * page, 5 * page)


def test_only_disks_and_local_file_systems_are_shown(host: Host) -> None:
    host.tick()
    host.system.disks["nvme0n1"] = SimpleNamespace(read_bytes=1000, write_bytes=20_000, busy_time=2500)
    disks = {disk.name: disk for disk in host.sample().disks}
    assert list(disks) == ["nvme0n1", "/", "/local scratch", "/tank"]
    assert disks["nvme0n1"] == Disk(
        name="nvme0n1", read_bytes_per_second=100.0, write_bytes_per_second=2000.0, busy_percent=25.0
    )
    assert disks["/local scratch"] == Disk(name="/local scratch", total_bytes=102 * GIB, used_bytes=10 * GIB)


def test_only_cards_and_bonds_are_shown_of_the_networks(host: Host) -> None:
    host.tick()
    host.system.networks["eth0"].bytes_recv = 5000
    host.system.networks["eth0"].bytes_sent = 70
    networks = {network.name: network for network in host.sample().networks}
    assert list(networks) == ["bond0", "eth0", "eth1"]
    assert networks["eth0"] == Network(
        name="eth0",
        up=True,
        speed_mbps=100_000.0,
        receive_bytes_per_second=500.0,
        send_bytes_per_second=7.0,
        receive_errors=1,
        send_errors=2,
        receive_drops=3,
        send_drops=4,
    )
    assert (networks["eth1"].up, networks["eth1"].speed_mbps) == (False, None)


def test_counters_that_go_back_give_null_and_never_a_negative_rate(host: Host) -> None:
    host.system.networks["eth0"].bytes_recv = 10**9
    host.tick()
    host.system.networks["eth0"].bytes_recv = 5
    host.write("proc/vmstat", "pswpin 1\npswpout 2100\n")
    sample = host.sample()
    eth0 = next(network for network in sample.networks if network.name == "eth0")
    assert (eth0.receive_bytes_per_second, eth0.send_bytes_per_second) == (None, 0.0)
    assert sample.swap_in_bytes_per_second is None
    assert sample.swap_out_bytes_per_second is not None


def test_a_card_that_comes_later_has_no_rate_at_first(host: Host) -> None:
    host.tick()
    host.write("sys/class/net/eth9/device/vendor", "0x15b3")
    host.system.networks["eth9"] = SimpleNamespace(
        bytes_recv=10**12, bytes_sent=0, errin=0, errout=0, dropin=0, dropout=0
    )
    assert {n.name: n.receive_bytes_per_second for n in host.sample().networks}["eth9"] is None


def test_a_driver_that_keeps_no_state_is_asked_for_its_carrier(host: Host) -> None:
    host.set_link("eth0", "unknown")
    host.write("sys/class/net/eth0/carrier", "1\n")
    assert devices.link(host.sys, "eth0").up is True
    host.write("sys/class/net/eth0/carrier", "0\n")
    assert devices.link(host.sys, "eth0").up is False
    (host.sys / "class/net/eth0/carrier").unlink()
    assert devices.link(host.sys, "eth0").up is None


def test_an_arm_host_tells_its_temperature_in_thermal_zones(tmp_path: Path) -> None:
    for number, (kind, value) in enumerate([("acpitz", 99000), ("cpu-thermal", 55000), ("TJMax", 57000)]):
        zone = tmp_path / f"class/thermal/thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "type").write_text(f"{kind}\n")
        (zone / "temp").write_text(f"{value}\n")
    assert devices.hottest_celsius(devices.cpu_sensors(tmp_path)) == 57.0


def test_a_broken_sensor_is_not_the_hottest(host: Host) -> None:
    host.write("sys/class/hwmon/hwmon1/temp0_input", "255000\n")
    assert host.sample().cpu_temperature_celsius == 64.5


def test_the_sample_can_be_sent(host: Host) -> None:
    host.tick()
    sample = host.sample()
    codec = SingleObjectCodec()
    assert codec.decode(codec.encode(sample), NodeSample) == sample


def test_this_machine_can_be_read(tmp_path: Path, catalog: Catalog) -> None:
    source = HostSource(ORIGIN, catalog, HostSettings(), tmp_path)
    *_, first = source.read(1000)
    *_, sample = source.read(2000)
    assert isinstance(first, NodeSample)
    assert isinstance(sample, NodeSample)
    assert first.cpu_utilization_percent is None
    assert sample.memory_total_bytes
    assert sample.process_count
    assert sample.uptime_s
    assert 0 < (sample.memory_available_bytes or 0) < sample.memory_total_bytes
    meminfo = Path("/proc/meminfo").read_text().split()
    assert sample.memory_total_bytes == int(meminfo[1]) * 1024


def test_this_machines_clock_can_be_asked() -> None:
    clock = kernel_clock()
    assert 0 <= clock.max_error_s <= 16.1


# --- what cannot be read ----------------------------------------------------------------------------------------------

COLUMNS = {
    "cpu_times": "cpu_count",
    "getloadavg": "load_1m",
    "virtual_memory": "memory_total_bytes",
    "swap_memory": "swap_total_bytes",
    "pids": "process_count",
}


@pytest.mark.parametrize("call", COLUMNS)
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), ValueError("garbage"), IndexError("x")])
def test_a_part_that_fails_costs_its_own_values_and_is_told_once(host: Host, call: str, error: Exception) -> None:
    host.tick()
    host.system.fails[call] = error
    told = host.events(5)
    sample = host.sample()
    assert [event.kind for event in told] == ["metric_unreadable"]
    assert getattr(sample, COLUMNS[call]) is None
    assert [column for column in COLUMNS.values() if getattr(sample, column) is None] == [COLUMNS[call]]
    assert sample.networks
    host.system.fails.clear()
    assert getattr(host.sample(), COLUMNS[call]) is not None


def test_a_failing_part_of_the_disks_leaves_the_file_systems(host: Host) -> None:
    host.system.fails["disk_io_counters"] = OSError(errno.EIO, "Input/output error")
    assert [disk.name for disk in host.sample().disks] == ["/", "/local scratch", "/tank"]


def test_a_file_system_that_cannot_be_asked_is_shown_without_numbers(host: Host) -> None:
    del host.system.disk_used["/tank"]
    host.system.disk_usage = lambda path: (  # type: ignore[method-assign]
        SimpleNamespace(total=9.0, used=1.0, free=8.0) if path != "/tank" else _broken()
    )
    disks = {disk.name: disk.total_bytes for disk in host.sample().disks}
    assert (disks["/"], disks["/tank"]) == (9.0, None)


def _broken() -> Any:
    raise OSError(errno.EIO, "Input/output error")


def test_what_this_kernel_does_not_offer_is_null_and_no_trouble(host: Host) -> None:
    for file in ("pressure/cpu", "pressure/memory", "pressure/io", "vmstat"):
        (host.proc / file).unlink()
    host.said = OSError(errno.ENOSYS, "Function not implemented")
    (record,) = host.tick()
    assert isinstance(record, NodeSample)
    assert (record.cpu_pressure_some_percent, record.oom_kills) == (None, None)


def test_hidden_processes_are_not_counted_but_named_with_the_remedy(host: Host) -> None:
    host.system.processes = [300, 301]  # hidepid: only one's own
    (event,) = host.events(3)
    assert event.kind == "metric_unreadable"
    assert "hidepid" in event.raw
    assert "run the agent as" in event.details["remedy"]
    assert host.sample().process_count is None


def test_a_host_of_which_nothing_can_be_read_is_an_error_that_says_what_to_do(tmp_path: Path, catalog: Catalog) -> None:
    broken = Host(tmp_path / "x", catalog)
    for call in (*COLUMNS, "disk_io_counters", "net_io_counters", "disk_usage"):
        broken.system.fails[call] = OSError(errno.EACCES, "Permission denied")
    settings = HostSettings(proc=tmp_path / "none", sys=tmp_path / "none")
    source = HostSource(ORIGIN, catalog, settings, tmp_path, system=broken.system, kernel_clock=broken.ask_clock)
    with pytest.raises(HostError, match=r"nothing of the host can be read under .*none.*: mount them for the agent"):
        source.read(1000)


# --- what is wrong ----------------------------------------------------------------------------------------------------


def test_a_sound_host_has_nothing_to_tell(host: Host) -> None:
    assert host.kinds(60) == []


def test_a_full_system_disk_is_told_once_and_when_it_has_room(host: Host) -> None:
    host.system.disk_used["/"] = 94
    assert host.kinds(5) == []
    host.system.disk_used["/"] = 95
    (event,) = host.events(20)
    assert (event.kind, event.severity) == ("disk_full", "warning")
    assert event.raw.startswith("The file system of / is 95.0 % full, 5.0 GiB are left")
    host.system.disk_used["/"] = 93  # neither full nor free
    assert host.kinds(5) == []
    host.system.disk_used["/"] = 91
    assert host.kinds(5) == ["disk_freed"]


def test_the_file_system_of_the_agents_own_state_is_watched_as_well(tmp_path: Path, catalog: Catalog) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == Path("/").stat().st_dev:
        pytest.skip("this machine has no second file system to try it on")
    host = Host(tmp_path, catalog, state_dir=memory / "fleetpulse-agent-that-is-not-there-yet")
    host.system.disk_used["/dev/shm"] = 99
    (event,) = host.events(3)
    assert (event.kind, event.details["path"]) == ("disk_full", "/dev/shm")


def test_a_full_disk_of_a_job_is_the_jobs_affair(host: Host) -> None:
    host.system.disk_used["/local scratch"] = 100
    assert host.kinds(5) == []


def test_exhausted_memory_is_told_when_it_lasts_and_when_it_is_free_again(host: Host) -> None:
    host.system.available = GIB
    assert host.kinds(3) == []
    (event,) = host.events(10)
    assert (event.kind, event.action) == ("memory_exhausted", "restart_app")
    assert "only 1.0 GiB of 100.0 GiB (1.0 %) can still be had" in event.raw
    host.system.available = 4 * GIB
    assert host.kinds(3) == []
    host.system.available = 6 * GIB
    assert host.kinds(3) == ["memory_recovered"]


def test_memory_that_was_short_for_a_moment_is_not_told(host: Host) -> None:
    for _ in range(5):
        host.system.available = GIB
        assert host.kinds(2) == []
        host.system.available = 40 * GIB
        assert host.kinds() == []


def test_thrashing_is_what_the_kernel_calls_a_stall_of_all_programs(host: Host) -> None:
    host.write("proc/pressure/memory", "some avg10=80.00 avg60=0 total=1\nfull avg10=45.00 avg60=0 total=1\n")
    (event,) = host.events(10)
    assert event.kind == "memory_thrashing"
    assert "for 45 % of the last 10 s all programs waited for memory" in event.raw
    host.write("proc/pressure/memory", "some avg10=4.00 avg60=0 total=1\nfull avg10=1.00 avg60=0 total=1\n")
    assert host.kinds(3) == ["memory_recovered"]


def test_without_pressure_information_thrashing_is_swapping_both_ways(host: Host) -> None:
    (host.proc / "pressure/memory").unlink()
    pages = 0
    told = []
    for _ in range(8):
        pages += 10**6
        host.write("proc/vmstat", f"pswpin {pages}\npswpout {pages}\n")
        told += host.kinds()
    assert told == ["memory_thrashing"]


def test_an_interface_that_loses_its_link_is_told_at_once_and_when_it_is_back(host: Host) -> None:
    assert host.kinds(2) == []
    host.set_link("eth0", "down", speed="-1")
    (event,) = host.events(10)
    assert (event.kind, event.action) == ("network_down", "check_hardware")
    assert (event.details["component"], event.details["interface"]) == ("port:node-1/eth0", "eth0")
    assert event.raw == "eth0 has no link: look at its cable, its transceiver and the switch port."
    host.set_link("eth0", "up")
    (event,) = host.events(5)
    assert (event.kind, event.raw) == ("link_up", "eth0 has a link again at 100000 Mb/s.")


def test_an_interface_that_somebody_switched_off_is_no_trouble(host: Host) -> None:
    host.tick()
    host.set_link("eth0", "down", flags="0x1002")
    (event,) = host.events(10)
    assert (event.kind, event.severity) == ("network_disabled", "info")


def test_an_interface_that_never_had_a_link_is_not_told(host: Host) -> None:
    assert host.sample().networks[-1].up is False  # eth1
    assert host.kinds(20) == []


def test_an_interface_that_is_gone_is_told_once(host: Host) -> None:
    host.tick()
    del host.system.networks["eth0"]
    assert host.kinds() == []  # it may be about to be renamed
    (event,) = host.events(20)
    assert (event.kind, event.details["state"]) == ("network_down", "gone")


def test_an_interface_that_stays_gone_is_told_again_and_its_return_ends_it(host: Host) -> None:
    host.tick()
    counted = host.system.networks.pop("eth0")
    told = host.events(8, REPEAT_S / 2)  # gone from the second read on
    assert [(event.kind, event.details["state"]) for event in told] == [("network_down", "gone")] * 4
    assert {event.details["component"] for event in told} == {"port:node-1/eth0"}
    host.system.networks["eth0"] = counted
    (event,) = host.events(5)
    assert (event.kind, event.details["component"]) == ("link_up", "port:node-1/eth0")


def test_an_interface_that_comes_back_without_a_link_is_down_still(host: Host) -> None:
    host.tick()
    counted = host.system.networks.pop("eth0")
    assert host.kinds(5) == ["network_down"]
    host.system.networks["eth0"] = counted
    host.set_link("eth0", "down", speed="-1")
    (event,) = host.events(1, REPEAT_S)
    assert (event.kind, event.details["state"]) == ("network_down", "down")
    host.set_link("eth0", "up")
    assert host.kinds(5) == ["link_up"]


def test_an_interface_that_was_down_before_it_was_gone_is_told_to_be_gone(host: Host) -> None:
    host.tick()
    host.set_link("eth0", "down", flags="0x1002")
    assert host.kinds(3) == ["network_disabled"]
    del host.system.networks["eth0"]
    (event,) = host.events(5)
    assert (event.kind, event.details["state"]) == ("network_down", "gone")


def test_an_interface_that_never_had_a_link_is_not_missed(host: Host) -> None:
    host.tick()
    del host.system.networks["eth1"]
    assert [event.kind for event in host.events(5, REPEAT_S)] == []


def test_an_interface_that_was_renamed_is_not_gone(host: Host) -> None:
    host.plug("eth0", "0000:5d:00.0")
    host.tick()
    host.rename("eth0", "ens1f0np0")
    assert [event.kind for event in host.events(10, REPEAT_S)] == []

    host.set_link("ens1f0np0", "down", speed="-1")
    (event,) = host.events(5)
    assert (event.kind, event.details["interface"]) == ("network_down", "ens1f0np0")


def test_an_interface_that_comes_back_under_another_name_ends_its_trouble(host: Host) -> None:
    host.plug("eth0", "0000:5d:00.0")
    host.tick()
    counted = host.system.networks.pop("eth0")  # its driver is loaded again
    assert host.kinds(5) == ["network_down"]
    host.system.networks["eth0"] = counted
    host.rename("eth0", "ens1f0np0")
    (event,) = host.events(10)
    assert (event.kind, event.details["interface"]) == ("link_up", "eth0")
    assert event.raw == "eth0 is called ens1f0np0 now."


def test_a_renamed_interface_without_a_link_is_down_under_its_new_name(host: Host) -> None:
    host.plug("eth0", "0000:5d:00.0")
    host.tick()
    host.set_link("eth0", "down", speed="-1")
    assert host.kinds(3) == ["network_down"]
    host.rename("eth0", "ens1f0np0")
    told = host.events(5)
    assert [(event.kind, event.details["interface"]) for event in told] == [
        ("link_up", "eth0"),
        ("network_down", "ens1f0np0"),
    ]


def test_the_ports_of_one_card_are_not_taken_for_each_other(host: Host) -> None:
    host.plug("eth0", "0000:5d:00.0", port=0)
    host.tick()
    del host.system.networks["eth0"]
    host.system.networks["ens1d1"] = host.system.networks["eth1"]
    host.plug("ens1d1", "0000:5d:00.0", port=1)
    host.set_link("ens1d1", "up")
    (event,) = host.events(5)
    assert (event.kind, event.details["state"], event.details["interface"]) == ("network_down", "gone", "eth0")


def test_a_bond_that_is_gone_was_removed_by_somebody(host: Host) -> None:
    host.tick()
    del host.system.networks["bond0"]
    (event,) = host.events(10, REPEAT_S)
    assert (event.kind, event.severity, event.details["state"]) == ("network_disabled", "info", "removed")


def test_a_child_interface_that_was_deleted_is_no_card_that_fell_off(host: Host) -> None:
    host.system.networks["eth0.100"] = host.system.networks["eth0"]
    host.plug("eth0", "0000:5d:00.0")
    host.plug("eth0.100", "0000:5d:00.0")
    host.set_link("eth0.100", "up")
    host.tick()
    del host.system.networks["eth0.100"]
    (event,) = host.events(10, REPEAT_S)
    assert (event.kind, event.details["interface"]) == ("network_disabled", "eth0.100")


def test_an_interface_that_is_gone_for_a_week_is_forgotten(host: Host) -> None:
    host.tick()
    counted = host.system.networks.pop("eth0")
    day_s = 86_400.0
    assert [len(host.events(1, day_s)) for _ in range(9)] == [
        0,
        1,
        1,
        1,
        1,
        1,
        1,
        1,
        0,
    ]  # a read a day, gone at the second
    host.system.networks["eth0"] = counted
    assert host.kinds(5) == []
    del host.system.networks["eth0"]
    assert host.kinds(5) == ["network_down"], "one that is back is watched as before"


def test_a_clock_that_nobody_sets_is_told_after_a_while(host: Host) -> None:
    host.said = KernelClock(disciplined=False, max_error_s=16.0, estimated_error_s=16.0)
    assert host.kinds(30) == []  # after a boot it takes some minutes
    (event,) = host.events(10)
    assert event.kind == "clock_unsynchronised"
    assert event.details == {"max_error_s": "16.000", "estimated_error_s": "16.000", "disciplined": "false"}
    host.said = KernelClock(disciplined=True, max_error_s=0.02, estimated_error_s=0.001)
    assert host.kinds(3) == ["clock_synchronised"]


def test_a_clock_that_a_daemon_sets_without_telling_the_kernel_so_is_set(host: Host) -> None:
    host.said = KernelClock(disciplined=False, max_error_s=0.05, estimated_error_s=0.001)  # chrony without rtcsync
    assert host.kinds(60) == []


def test_every_event_is_known_to_the_catalogue(host: Host, catalog: Catalog) -> None:
    host.tick()
    host.system.disk_used["/"] = 99
    host.system.available = 0
    host.said = KernelClock(disciplined=False, max_error_s=16.0, estimated_error_s=16.0)
    host.set_link("eth0", "down")
    host.set_link("bond0", "down", flags="0x1002")
    host.write("proc/pressure/memory", "full avg10=99.00 avg60=0 total=1\n")
    host.system.fails["pids"] = ValueError("garbage")
    told = host.events(40)
    assert {event.kind for event in told} == {
        "disk_full", "memory_exhausted", "memory_thrashing", "network_down", "network_disabled",
        "clock_unsynchronised", "metric_unreadable",
    }  # fmt: skip
    assert len(told) == 7
    for event in told:
        assert catalog.of(event).rule == f"event.{event.kind}"
        assert event.raw
        assert event.source == "host"


# --- standing ---------------------------------------------------------------------------------------------------------


def test_trouble_is_told_when_it_has_lasted_again_while_it_stands_and_when_it_is_over() -> None:
    standing = Standing(hold_s=30.0)
    assert [standing.see(True, at) for at in (0.0, 29.0, 30.0, 31.0)] == [None, None, "begins", None]
    assert standing.see(True, 30.0 + REPEAT_S) == "stands"
    assert standing.see(None, 5000.0) == "stands"  # between its limits it stands on
    assert [standing.see(False, at) for at in (5001.0, 5002.0)] == ["ends", None]


def test_trouble_that_comes_and_goes_before_it_has_lasted_is_never_told() -> None:
    standing = Standing(hold_s=30.0)
    told = [standing.see(at % 30 != 0, float(at)) for at in range(0, 600, 10)]
    assert set(told) == {None}


# --- texts ------------------------------------------------------------------------------------------------------------


def test_mounts_are_shown_once_where_they_are_highest() -> None:
    text = "/dev/sda1 /var/lib/kubelet/x ext4 rw 0 0\n/dev/sda1 /data ext4 rw 0 0\n/dev/sdb1 /etc/hosts ext4 rw 0 0\n"
    assert [mount.path for mount in texts.mounts(text)] == ["/data", "/etc/hosts"]


def test_pressure_of_an_old_kernel_has_no_full_line_for_processors() -> None:
    assert texts.pressure("some avg10=0.03 avg60=1.23 avg300=5.90 total=4702919077\n") == {"some": 0.03}
