"""Storms: the first few at once, then a summary a second, and no line uncounted or counted twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from producers.kernel_log import KernelLogSource
from producers.kernel_log.storm import FIRST
from producers.source import Origin
from schemas.catalog import load
from schemas.codec import SingleObjectCodec
from schemas.records import HardwareEvent

CATALOG = load()
START_MS = 1_731_700_000_000


class Clock:
    def __init__(self) -> None:
        self.ms = START_MS

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


Begin = Callable[..., KernelLogSource]


@pytest.fixture
def begin(tmp_path: Path, clock: Clock) -> Iterator[Begin]:
    """A source as an agent starts it; started again, it goes on from the cursors of the one before."""
    started: list[KernelLogSource] = []
    (tmp_path / "kern.log").write_text("")

    def start(**options: object) -> KernelLogSource:
        settings: dict[str, object] = {
            "origin": Origin(site="s", rack="r", node="n", boot_id="boot-1"), "catalog": CATALOG,
            "state": tmp_path / "cursors.json", "clock_ms": clock, "start": "beginning",
        } | options  # fmt: skip
        source = KernelLogSource([tmp_path / "kern.log"], **settings)  # type: ignore[arg-type]
        started.append(source)
        return source

    yield start
    for source in started:
        source.close()


def log(tmp_path: Path, *messages: str) -> None:
    with (tmp_path / "kern.log").open("a") as file:
        file.writelines(f"kernel: NVRM: Xid (PCI:0000:19:00): {message}\n" for message in messages)


def many(count: int, first: int = 0, code: int = 31) -> list[str]:
    return [f"{code}, pid={number}, name=p" for number in range(first, first + count)]


def read(source: KernelLogSource, clock: Clock, *waits_ms: int) -> list[HardwareEvent]:
    found = source.read(clock.ms)
    for wait_ms in waits_ms:
        clock.ms += wait_ms
        found += source.read(clock.ms)
    return found


def counts(events: list[HardwareEvent]) -> list[int]:
    return [event.count for event in events]


def test_a_hundred_thousand_lines_are_a_few_records_and_the_count_is_exact(
    begin: Begin, clock: Clock, tmp_path: Path
) -> None:
    source = begin()
    log(tmp_path, *many(100_000))
    found = read(source, clock, 250, 250, 250, 250, 250, 250)
    assert counts(found) == [1] * FIRST + [100_000 - FIRST]
    summary = found[-1]
    assert "pid=3," in summary.raw
    assert summary.last_raw is not None
    assert "pid=99999," in summary.last_raw
    assert (summary.kind, summary.code, summary.pci, summary.severity) == ("xid", 31, "0000:19:00", "warning")
    codec = SingleObjectCodec()
    assert codec.decode(codec.encode(summary), HardwareEvent) == summary


def test_the_first_few_do_not_wait(begin: Begin, clock: Clock, tmp_path: Path) -> None:
    source = begin()
    log(tmp_path, *many(FIRST))
    assert counts(source.read(clock.ms)) == [1] * FIRST


def test_another_error_in_the_midst_of_a_storm_comes_at_once(begin: Begin, clock: Clock, tmp_path: Path) -> None:
    source = begin()
    log(tmp_path, *many(500), "79, GPU has fallen off the bus.", *many(500, first=500))
    found = source.read(clock.ms)
    assert [event.code for event in found] == [31] * FIRST + [79]
    rest = read(source, clock, 1000)
    assert counts(rest) == [1000 - FIRST]


def test_a_storm_is_a_record_a_second(begin: Begin, clock: Clock, tmp_path: Path) -> None:
    source = begin()
    found: list[HardwareEvent] = []
    for number in range(40):  # ten seconds of four lines each quarter
        log(tmp_path, *many(4, first=4 * number))
        found += source.read(clock.ms)
        clock.ms += 250
    found += read(source, clock, 1000)
    assert sum(counts(found)) == 160
    assert len(found) - FIRST in {10, 11}
    assert len({event.event_id for event in found}) == len(found)


def test_what_is_rare_is_never_summarised(begin: Begin, clock: Clock, tmp_path: Path) -> None:
    source = begin()
    found: list[HardwareEvent] = []
    for number in range(8):
        log(tmp_path, *many(1, first=number))
        found += source.read(clock.ms)
        clock.ms += 10_000
    assert counts(found) == [1] * 8
    assert [event.last_raw for event in found] == [None] * 8


def test_a_backlog_of_hours_is_not_one_storm(begin: Begin, clock: Clock, tmp_path: Path) -> None:
    source = begin()
    with (tmp_path / "kern.log").open("w") as file:
        for minute in range(30):
            file.write(f"2024-11-15T12:{minute:02d}:00,000000+00:00 NVRM: Xid (PCI:0000:19:00): 31, pid={minute}\n")
    found = source.read(clock.ms)
    assert counts(found) == [1] * 30
    assert len({event.event_ms for event in found}) == 30


def test_each_gpu_link_and_word_has_a_storm_of_its_own(begin: Begin, clock: Clock, tmp_path: Path) -> None:
    source = begin()
    lines = [f"145, RLW_REMAP {word} XC1 i0 Link {link:02d}" for link in (3, 4) for word in ("Fatal", "Nonfatal")]
    log(tmp_path, *(lines * 50))
    found = read(source, clock, 1000)
    assert sorted(counts(found)) == [1] * 4 * FIRST + [50 - FIRST] * 4
    assert {(event.link, event.severity, event.count) for event in found if event.count > 1} == {
        (link, severity, 50 - FIRST) for link in (3, 4) for severity in ("critical", "warning")
    }


def test_what_the_driver_wants_now_never_comes_before_what_it_wanted(
    begin: Begin, clock: Clock, tmp_path: Path
) -> None:
    source = begin()
    none, reset = "0x0 (None)", "0x1 (GPU Reset Required)"
    up, down = (f"154, GPU recovery action changed from {a} to {b}" for a, b in ((none, reset), (reset, none)))
    log(tmp_path, *([up, down] * 20))
    found = read(source, clock, 1000, 1000)
    assert sum(counts(found)) == 40
    assert found[-1].details["variant"] == "none"


def test_a_storm_that_waits_for_its_window_survives_a_restart(begin: Begin, clock: Clock, tmp_path: Path) -> None:
    first = begin()
    log(tmp_path, *many(50))
    assert counts(first.read(clock.ms)) == [1] * FIRST
    first.close()
    log(tmp_path, *many(10, first=50))
    second = begin()
    found = read(second, clock, 1000)
    assert counts(found) == [60 - FIRST]
    assert "pid=59," in (found[0].last_raw or "")


@pytest.mark.parametrize("later", [0, 400, 5000])
def test_a_batch_that_was_perhaps_handed_over_is_cut_the_same_after_a_kill(
    begin: Begin, clock: Clock, tmp_path: Path, later: int
) -> None:
    killed = begin()
    log(tmp_path, *many(50))
    read(killed, clock, 600)
    clock.ms += 600
    log(tmp_path, *many(20, first=50))
    given = killed.read(clock.ms)  # and no read after it: the agent dies
    assert counts(given) == [47]
    log(tmp_path, *many(30, first=70))
    clock.ms += later
    survivor = begin()
    assert survivor.read(clock.ms) == given
    rest = read(survivor, clock, 1000, 1000)
    assert sum(counts(rest)) == 50


def test_lines_that_were_read_and_not_handed_over_wait_in_the_file_beside_the_cursor(
    begin: Begin, clock: Clock, tmp_path: Path
) -> None:
    killed = begin()
    log(tmp_path, *many(10))
    killed.read(clock.ms)
    clock.ms += 100
    assert killed.read(clock.ms) == []  # from here the cursor is behind all ten
    clock.ms += 5000
    assert counts(begin().read(clock.ms)) == [10 - FIRST]


def test_cursors_that_cannot_be_kept_cost_no_line(begin: Begin, clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    source = begin(state=tmp_path / "file" / "below")
    log(tmp_path, *many(1000))
    assert sum(counts(read(source, clock, 1000, 1000))) == 1000


def test_a_kernel_buffer_is_cut_the_same_after_a_kill(begin: Begin, clock: Clock, tmp_path: Path) -> None:
    records: list[bytes] = []

    def opened() -> Callable[[int, int], bytes]:
        at = 0

        def read_record(_descriptor: int, _size: int) -> bytes:
            nonlocal at
            if at >= len(records):
                raise BlockingIOError
            at += 1
            return records[at - 1]

        return read_record

    def say(count: int) -> None:
        for _ in range(count):
            number = len(records)
            records.append(f"3,{number},{5_000_000 + number},-;NVRM: Xid (PCI:0000:19:00): 31, pid={number}\n".encode())

    def source() -> KernelLogSource:
        return KernelLogSource(
            [Path("/dev/null")], origin=Origin(site="s", rack="r", node="n", boot_id="b"), catalog=CATALOG,
            state=tmp_path / "kmsg.json", start="beginning", clock_ms=clock, read_kmsg=opened(),
            uptime_s=lambda: (clock.ms - START_MS) / 1000 + 5.0,
        )  # fmt: skip

    killed = source()
    say(40)
    killed.read(clock.ms)
    clock.ms += 1500
    say(5)
    given = killed.read(clock.ms)
    assert counts(given) == [45 - FIRST]
    say(100)
    clock.ms += 3000
    survivor = source()
    assert survivor.read(clock.ms) == given
    rest = read(survivor, clock, 2000, 2000)
    assert sum(counts(rest)) + sum(counts(given)) + FIRST == 145
    survivor.close()
