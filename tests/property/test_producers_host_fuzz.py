"""Whatever /proc and /sys say: the host's and the ports' sources never raise for it, and never lose a neighbour."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producers.host import devices, texts
from producers.host.clock import KernelClock
from producers.host.settings import HostSettings
from producers.host.source import HostError, HostSource
from producers.infiniband.settings import InfiniBandSettings
from producers.infiniband.source import InfiniBandSource
from producers.source import Origin
from producers.standing import Standing
from schemas.catalog import load
from schemas.codec import SingleObjectCodec
from schemas.records import NodeSample, Record

ORIGIN = Origin("site", "rack-7", "node-1", "boot")
CATALOG = load()
CODEC = SingleObjectCodec()
FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

line = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"))
odd = st.sampled_from(
    [b"", b"\n", b"-1", b"9" * 30, b"9" * 5000, b"1e999", b"nan", b"\xff\xfe", b"\0", b"0x", b"N/A (no PMA)",
     b"4: ACTIVE", b"1: DOWN", b"400 Gb/sec (4X NDR)", b"some avg10=1.00 avg60=0 total=0\n",
     b"pswpin 5\n", "٣".encode(), b"up"]
)  # fmt: skip
content = odd | st.binary(max_size=60) | st.text(max_size=60).map(str.encode)


def same(record: Record) -> None:
    """It can be sent, and comes out as it went in."""
    assert CODEC.decode(CODEC.encode(record), type(record)) == record


# --- texts ------------------------------------------------------------------------------------------------------------


@given(text=st.text() | content.map(lambda raw: raw.decode(errors="replace")))
def test_no_text_raises_and_every_number_can_be(text: str) -> None:
    assert all(0 <= value <= 100 for value in texts.pressure(text).values())
    assert all(0 <= value < 1 << 63 for value in texts.counters(text, ("pswpin", "oom_kill")).values())
    assert (texts.uptime_s(text) or 0) >= 0
    assert all(mount.path.startswith("/") for mount in texts.mounts(text))


@given(before=line, after=line)
def test_a_garbled_line_loses_no_neighbour(before: str, after: str) -> None:
    def around(good: str) -> str:
        return f"{before}\n{good}\n{after}\n"

    if not before.strip().startswith("full") and not after.strip().startswith("full"):
        assert texts.pressure(around("full avg10=5.25 avg60=0.00 total=1"))["full"] == 5.25
    assert texts.counters(around("oom_kill 3"), ("oom_kill",))["oom_kill"] == 3
    assert texts.Mount("/dev/sda1", "/", "ext4") in texts.mounts(around("/dev/sda1 / ext4 rw 0 0"))


# --- the host ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="host-"))
    yield path
    shutil.rmtree(path)


FILES = (
    "proc/pressure/cpu", "proc/pressure/memory", "proc/pressure/io", "proc/vmstat", "proc/uptime", "proc/self/mounts",
    *(f"sys/class/net/eth0/{file}" for file in ("operstate", "carrier", "flags", "speed", "phys_port_name")),
    *(f"sys/class/hwmon/hwmon0/{file}" for file in ("name", "temp1_input", "temp1_label")),
    "sys/class/thermal/thermal_zone0/type", "sys/class/thermal/thermal_zone0/temp",
)  # fmt: skip


def system(numbers: list[float]) -> Any:
    """What psutil would say, with any numbers that it can say."""
    first, second = numbers
    times = SimpleNamespace(
        user=first, idle=second, iowait=0.0, steal=first, _fields=("user", "idle", "iowait", "steal")
    )
    disk = SimpleNamespace(read_bytes=first, write_bytes=second, busy_time=first)
    network = SimpleNamespace(bytes_recv=first, bytes_sent=second, errin=0, errout=0, dropin=0, dropout=0)
    return SimpleNamespace(
        cpu_times=lambda: times,
        cpu_count=lambda: None,
        getloadavg=lambda: (first, second, 0.0),
        virtual_memory=lambda: SimpleNamespace(total=first, available=second),
        swap_memory=lambda: SimpleNamespace(total=first, used=second),
        pids=lambda: [1],
        disk_io_counters=lambda **_: {"sda": disk, "../..": disk},
        net_io_counters=lambda **_: {"eth0": network, "..": network, "eth1": network},
        disk_usage=lambda _: SimpleNamespace(total=first, used=second, free=first),
    )


@FEW
@given(
    files=st.dictionaries(st.sampled_from(FILES), content, max_size=8),
    reads=st.lists(st.lists(st.integers(0, 1 << 62).map(float), min_size=2, max_size=2), min_size=1, max_size=4),
)
def test_no_host_raises_and_what_is_told_can_be_sent(
    root: Path, files: dict[str, bytes], reads: list[list[float]]
) -> None:
    for file in FILES:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files.get(file, b""))
    (root / "sys/class/net/eth0/device").mkdir(exist_ok=True)
    (root / "sys/class/net/eth1/device").mkdir(exist_ok=True, parents=True)
    now = [0.0]
    source = HostSource(
        ORIGIN,
        CATALOG,
        HostSettings(proc=root / "proc", sys=root / "sys"),
        root,
        kernel_clock=lambda: KernelClock(disciplined=True, max_error_s=0.0, estimated_error_s=0.0),
        clock=lambda: now[0],
    )
    for numbers in reads:
        source._system = system(numbers)
        now[0] += 10
        *events, sample = source.read(int(now[0] * 1000))
        assert isinstance(sample, NodeSample)
        for record in (*events, sample):
            same(record)
        for share in (sample.cpu_utilization_percent, sample.cpu_iowait_percent, sample.cpu_steal_percent):
            assert share is None or 0 <= share <= 100
        for network in sample.networks:
            assert network.receive_bytes_per_second is None or network.receive_bytes_per_second >= 0
        assert "eth1" in {network.name for network in sample.networks}


def test_a_host_without_anything_is_an_error_and_no_crash(root: Path) -> None:
    source = HostSource(
        ORIGIN,
        CATALOG,
        HostSettings(proc=root / "none", sys=root / "none"),
        root,
        system=object(),
        kernel_clock=lambda: KernelClock(disciplined=True, max_error_s=0.0, estimated_error_s=0.0),
    )
    with pytest.raises(HostError):
        source.read(0)


@given(text=content)
@FEW
def test_no_link_or_sensor_raises(root: Path, text: bytes) -> None:
    path = root / "sys/class/net/ib9"
    path.mkdir(parents=True, exist_ok=True)
    for file in ("operstate", "carrier", "flags", "speed"):
        (path / file).write_bytes(text)
    found = devices.link(root / "sys", "ib9")
    assert found.speed_mbps is None or found.speed_mbps > 0
    (path / "temp").write_bytes(text)
    celsius = devices.hottest_celsius([path / "temp"])
    assert celsius is None or -50 <= celsius <= 150


# --- ports ------------------------------------------------------------------------------------------------------------

PORT_FILES = (
    "board_id", "hca_type", "fw_ver", "node_guid", "ports/1/state", "ports/1/phys_state", "ports/1/rate", "ports/1/lid",
    "ports/1/link_layer", "ports/1/counters/symbol_error", "ports/1/counters/link_downed", "ports/1/counters/new_one",
    "ports/1/hw_counters/local_ack_timeout_err",
)  # fmt: skip
GOOD = {
    "board_id": "MT_0000000838", "hca_type": "MT4129", "ports/1/state": "4: ACTIVE", "ports/1/phys_state": "5: LinkUp",
    "ports/1/rate": "400 Gb/sec (4X NDR)", "ports/1/link_layer": "InfiniBand", "ports/1/counters/symbol_error": "7",
}  # fmt: skip


@FEW
@given(reads=st.lists(st.dictionaries(st.sampled_from(PORT_FILES), content, max_size=6), min_size=1, max_size=4))
def test_no_tree_raises_and_a_garbled_port_loses_no_other_port(root: Path, reads: list[dict[str, bytes]]) -> None:
    tree = root / "infiniband"
    shutil.rmtree(tree, ignore_errors=True)
    now = [0.0]
    source = InfiniBandSource(ORIGIN, CATALOG, InfiniBandSettings(tree=tree, slow_s=0, down_s=0), clock=lambda: now[0])
    for device in ("mlx5_0", "mlx5_1"):
        for file, text in GOOD.items():
            path = tree / device / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
    for garbled in reads:
        for file, raw in garbled.items():
            path = tree / "mlx5_1" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(raw)
        now[0] += 10
        *events, sample = source.read(int(now[0] * 1000))
        assert isinstance(sample, NodeSample)
        for record in (*events, sample):
            same(record)
        good, bad = sample.ports
        assert (good.device, good.state, good.rate_gbps, good.counters) == (
            "mlx5_0",
            "active",
            400.0,
            {"symbol_error": 7},
        )
        assert bad.device == "mlx5_1"


# --- once -------------------------------------------------------------------------------------------------------------


@given(steps=st.lists(st.tuples(st.sampled_from([True, False, None]), st.floats(0, 4000)), max_size=30))
def test_trouble_begins_before_it_ends_and_never_twice(steps: list[tuple[bool | None, float]]) -> None:
    standing, now_s = Standing(hold_s=20.0), 0.0
    told = []
    for trouble, passed in steps:
        now_s += passed
        told.append(standing.see(trouble, now_s))
    turns = [turn for turn in told if turn in ("begins", "ends")]
    assert turns == ["begins", "ends"] * (len(turns) // 2) + ["begins"] * (len(turns) % 2)
    assert standing.stands == bool(turns and turns[-1] == "begins")
