"""The kernel log as a source: each line once, over restarts, rotations, truncations and overwritten buffers."""

from __future__ import annotations

import gzip
import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from producers.kernel_log import KernelLogError, KernelLogSource, events_of_file
from producers.kernel_log.follow import FileFollower
from producers.source import Origin
from schemas.catalog import load
from schemas.codec import SingleObjectCodec
from schemas.records import HardwareEvent

CATALOG = load()
ORIGIN = Origin(site="s", rack="r", node="n", boot_id="boot-1")
NOW_MS = 1_731_700_000_000
CAPTURE = Path(__file__).parents[2] / ".." / "shared" / "data" / "kernel_log" / "gpud_dmesg-with-xid-119.log"


def xid(number: int) -> str:
    """A line that can be told from all others."""
    return f"2024-11-15T12:02:03,{number:06d}+00:00 NVRM: Xid (PCI:0000:19:00): 94, pid={number}\n"


def pids(events: list[HardwareEvent]) -> list[int]:
    return [int(event.details["pid"]) for event in events]


@pytest.fixture
def kern_log(tmp_path: Path) -> Path:
    path = tmp_path / "kern.log"
    path.write_text("")
    return path


Start = Callable[..., KernelLogSource]


@pytest.fixture
def start(tmp_path: Path, kern_log: Path) -> Iterator[Start]:
    """A source as an agent starts it; started again, it finds the cursors of the one before."""
    started: list[KernelLogSource] = []

    def begin(**options: object) -> KernelLogSource:
        settings: dict[str, object] = {
            "paths": [kern_log], "origin": ORIGIN, "catalog": CATALOG, "state": tmp_path / "state" / "cursors.json",
            "clock_ms": lambda: NOW_MS,
        } | options  # fmt: skip
        source = KernelLogSource(settings.pop("paths"), **settings)  # type: ignore[arg-type]
        started.append(source)
        return source

    yield begin
    for source in started:
        source.close()


def append(path: Path, *numbers: int) -> None:
    with path.open("a") as file:
        file.writelines(map(xid, numbers))


def test_a_line_becomes_a_record_that_travels(start: Start, kern_log: Path) -> None:
    source = start()
    assert source.read(NOW_MS) == []
    append(kern_log, 7)
    (event,) = source.read(NOW_MS)
    assert (event.site, event.rack, event.node, event.boot_id) == ("s", "r", "n", "boot-1")
    assert (event.source, event.kind, event.code, event.pci) == ("kernel_log", "xid", 94, "0000:19:00")
    assert (event.severity, event.action) == ("warning", "restart_app")
    assert (event.event_ms, event.observed_ms) == (1_731_672_123_000, NOW_MS)
    codec = SingleObjectCodec()
    assert codec.decode(codec.encode(event), HardwareEvent) == event


def test_what_was_there_before_is_read_only_when_asked_for(start: Start, kern_log: Path, tmp_path: Path) -> None:
    append(kern_log, 1)
    assert start(state=tmp_path / "a").read(NOW_MS) == []
    assert pids(start(state=tmp_path / "b", start="beginning").read(NOW_MS)) == [1]


def test_a_line_waits_for_its_end(start: Start, kern_log: Path) -> None:
    source = start()
    source.read(NOW_MS)
    whole = xid(1)
    with kern_log.open("a") as file:
        file.write(whole[:40])
    assert source.read(NOW_MS) == []
    with kern_log.open("a") as file:
        file.write(whole[40:])
    assert pids(source.read(NOW_MS)) == [1]


def test_a_restart_neither_loses_nor_repeats_a_line(start: Start, kern_log: Path) -> None:
    first = start()
    first.read(NOW_MS)
    append(kern_log, 1, 2)
    assert pids(first.read(NOW_MS)) == [1, 2]
    first.close()
    append(kern_log, 3)
    second = start()
    assert pids(second.read(NOW_MS)) == [3]
    assert second.read(NOW_MS) == []


def test_a_batch_that_was_not_handed_over_comes_again_with_the_same_ids(start: Start, kern_log: Path) -> None:
    killed = start()
    killed.read(NOW_MS)
    append(kern_log, 1)
    killed.read(NOW_MS)
    append(kern_log, 2, 2)
    lost = killed.read(NOW_MS)  # and no read after it: the agent dies
    again = start().read(NOW_MS)
    assert pids(again) == [2, 2]
    assert [event.event_id for event in again] == [event.event_id for event in lost]
    assert len({event.event_id for event in again}) == 2


def test_a_rotated_log_is_read_to_its_end_and_the_new_one_from_its_beginning(start: Start, kern_log: Path) -> None:
    source = start()
    source.read(NOW_MS)
    append(kern_log, 1)
    source.read(NOW_MS)
    append(kern_log, 2)
    kern_log.rename(kern_log.with_name("kern.log.1"))
    assert pids(source.read(NOW_MS)) == [2]
    append(kern_log.with_name("kern.log.1"), 3)  # the logger has not been told yet
    append(kern_log, 4)
    assert pids(source.read(NOW_MS)) == [3, 4]
    append(kern_log, 5)
    assert pids(source.read(NOW_MS)) == [5]


def test_a_log_that_was_rotated_while_nobody_looked_is_followed(start: Start, kern_log: Path) -> None:
    first = start()
    first.read(NOW_MS)
    append(kern_log, 1)
    first.read(NOW_MS)
    first.close()
    append(kern_log, 2)
    kern_log.rename(kern_log.with_name("kern.log.1"))
    append(kern_log, 3)
    assert pids(start().read(NOW_MS)) == [2, 3]


def rotate(log: Path, *, compress: bool = False) -> None:
    """As logrotate does: kern.log.1 becomes kern.log.2, kern.log becomes kern.log.1, which may be compressed."""
    for age in range(9, 0, -1):
        for suffix in ("", ".gz"):
            older = log.with_name(f"{log.name}.{age}{suffix}")
            if older.exists():
                older.rename(log.with_name(f"{log.name}.{age + 1}{suffix}"))
    newest = log.with_name(f"{log.name}.1")
    log.rename(newest)
    log.write_text("")
    if compress:
        log.with_name(f"{newest.name}.gz").write_bytes(gzip.compress(newest.read_bytes()))
        newest.unlink()


def test_every_log_that_was_rotated_and_compressed_while_nobody_looked_is_read(start: Start, kern_log: Path) -> None:
    first = start()
    first.read(NOW_MS)
    append(kern_log, 1)
    first.read(NOW_MS)
    first.close()
    append(kern_log, 2)
    rotate(kern_log, compress=True)
    append(kern_log, 3)
    rotate(kern_log, compress=True)
    append(kern_log, 4)
    rotate(kern_log)
    append(kern_log, 5)
    second = start()
    assert pids(second.read(NOW_MS)) == [2, 3, 4, 5]
    append(kern_log, 6)
    assert pids(second.read(NOW_MS)) == [6]


def test_a_line_has_the_same_id_in_a_compressed_log(start: Start, kern_log: Path, tmp_path: Path) -> None:
    killed = start()
    killed.read(NOW_MS)
    append(kern_log, 1)
    killed.read(NOW_MS)
    append(kern_log, 2, 3)
    given = killed.read(NOW_MS)
    rotate(kern_log, compress=True)
    assert start().read(NOW_MS) == given


def test_logs_that_are_named_by_date_are_read_in_their_order(start: Start, kern_log: Path) -> None:
    first = start()
    first.read(NOW_MS)
    append(kern_log, 1)
    first.read(NOW_MS)
    first.close()
    for number, date in enumerate(("20241115", "20241116", "20241117"), start=2):
        append(kern_log, number)
        dated = kern_log.with_name(f"kern.log-{date}.gz")
        dated.write_bytes(gzip.compress(kern_log.read_bytes()))
        kern_log.unlink()
        kern_log.write_text("")
    append(kern_log, 5)
    assert pids(start().read(NOW_MS)) == [2, 3, 4, 5]


def test_what_was_rotated_out_before_the_first_start_is_not_news(start: Start, kern_log: Path) -> None:
    append(kern_log, 1)
    rotate(kern_log, compress=True)
    append(kern_log, 2)
    rotate(kern_log)
    first = start()
    first.read(NOW_MS)  # the log is empty
    first.close()
    append(kern_log, 3)
    rotate(kern_log, compress=True)
    append(kern_log, 4)
    assert pids(start().read(NOW_MS)) == [3, 4]


def test_a_log_that_is_just_being_compressed_is_read_once(start: Start, kern_log: Path) -> None:
    first = start()
    first.read(NOW_MS)
    append(kern_log, 1)
    first.read(NOW_MS)
    first.close()
    append(kern_log, *range(2, 300))
    rotate(kern_log)
    half = gzip.compress(kern_log.with_name("kern.log.1").read_bytes())
    kern_log.with_name("kern.log.1.gz").write_bytes(half[: len(half) // 2])
    append(kern_log, 300)
    assert sum(event.count for event in drained(start())) == 299


def drained(source: KernelLogSource) -> list[HardwareEvent]:
    found = source.read(NOW_MS)
    source._clock_ms = lambda: NOW_MS + 5000
    return found + source.read(NOW_MS)


def test_a_compressed_log_that_is_damaged_costs_its_rest_and_no_more(start: Start, kern_log: Path) -> None:
    first = start()
    first.read(NOW_MS)
    append(kern_log, 1)
    first.read(NOW_MS)
    first.close()
    append(kern_log, *range(2, 20_000))
    rotate(kern_log, compress=True)
    packed = kern_log.with_name("kern.log.1.gz")
    packed.write_bytes(packed.read_bytes()[:-100])
    append(kern_log, 20_000)
    found = drained(start())
    assert 15_000 < sum(event.count for event in found) < 19_999
    assert "pid=20000" in (found[-1].last_raw or found[-1].raw)


def test_a_compressed_log_is_streamed_and_a_read_takes_only_some_of_it(kern_log: Path) -> None:
    append(kern_log, 0)
    follower = FileFollower(kern_log, None, "end")
    follower.read(1)
    position = follower.position()
    follower.close()
    append(kern_log, *range(1, 60_000))
    rotate(kern_log, compress=True)
    follower = FileFollower(kern_log, position, "end")
    texts: list[str] = []
    while lines := follower.read(1 << 20):
        assert len(lines) < 30_000
        texts += [line.text for line in lines]
    follower.close()
    assert texts == [xid(number).rstrip("\n") for number in range(1, 60_000)]


def test_a_logger_that_goes_on_in_the_renamed_file_loses_nothing(start: Start, kern_log: Path) -> None:
    source = start()
    source.read(NOW_MS)
    append(kern_log, 1)
    source.read(NOW_MS)
    rotate(kern_log)
    assert source.read(NOW_MS) == []
    append(kern_log.with_name("kern.log.1"), 2)  # it has not been told yet
    assert pids(source.read(NOW_MS)) == [2]
    append(kern_log, 3)
    assert pids(source.read(NOW_MS)) == [3]


def test_a_log_that_is_copied_and_truncated_loses_nothing(start: Start, kern_log: Path) -> None:
    source = start()
    source.read(NOW_MS)
    append(kern_log, 1)
    source.read(NOW_MS)
    append(kern_log, 2)
    kern_log.with_name("kern.log.1").write_bytes(kern_log.read_bytes())
    kern_log.write_text("")
    append(kern_log, 3)
    assert pids(source.read(NOW_MS)) == [2, 3]


def test_a_truncation_is_noticed_though_the_log_has_grown_beyond_it(start: Start, kern_log: Path) -> None:
    source = start()
    source.read(NOW_MS)
    append(kern_log, 1)
    assert pids(source.read(NOW_MS)) == [1]
    kern_log.write_text("")
    append(kern_log, 2, 3, 4)
    assert pids(source.read(NOW_MS)) == [2, 3, 4]


def test_a_limit_cuts_between_lines_and_the_rest_comes_later(kern_log: Path) -> None:
    append(kern_log, *range(30_000))
    follower = FileFollower(kern_log, None, "beginning")
    texts: list[str] = []
    while lines := follower.read(1 << 20):
        assert len(lines) < 30_000
        texts += [line.text for line in lines]
    follower.close()
    assert texts == [xid(number).rstrip("\n") for number in range(30_000)]


def test_a_line_longer_than_any_memory_should_be_does_not_stop_its_neighbours(start: Start, kern_log: Path) -> None:
    with kern_log.open("a") as file:
        file.write(xid(1) + "x" * 3_000_000 + "\n" + xid(2))
    source = start(start="beginning")
    assert [pid for _ in range(8) for pid in pids(source.read(NOW_MS))] == [1, 2]


def test_each_input_has_its_own_cursor_and_all_share_what_is_known_of_gpus(start: Start, tmp_path: Path) -> None:
    other = tmp_path / "other.log"
    other.write_text("")
    source = start(paths=[tmp_path / "kern.log", other])
    source.read(NOW_MS)
    append(other, 1)
    (tmp_path / "kern.log").write_text("NVRM: GPU 0000:19:00.0: GPU serial number is 1653723052734.\n")
    found = source.read(NOW_MS)
    assert [(event.kind, event.gpu) for event in found] == [("gpu_serial", "1653723052734"), ("xid", "1653723052734")]


def test_a_log_that_is_missing_is_named_and_read_once_it_is_there(start: Start, tmp_path: Path, kern_log: Path) -> None:
    missing = tmp_path / "missing.log"
    source = start(paths=[missing, kern_log], start="beginning")
    with pytest.raises(KernelLogError, match=r"missing.log: no such file or directory; correct agent.kernel_logs"):
        source.read(NOW_MS)
    append(kern_log, 1)
    assert pids(source.read(NOW_MS)) == [1]
    append(missing, 2)
    assert pids(source.read(NOW_MS)) == [2]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_log_that_may_not_be_read_names_the_remedy(start: Start, kern_log: Path) -> None:
    kern_log.chmod(0)
    with pytest.raises(KernelLogError, match="CAP_SYSLOG"):
        start().read(NOW_MS)


def test_a_kernel_that_refuses_names_the_remedy(start: Start) -> None:
    def refuse(_descriptor: int, _size: int) -> bytes:
        raise PermissionError(1, "Operation not permitted")

    with pytest.raises(KernelLogError, match=r"/dev/null: operation not permitted; .* CAP_SYSLOG .* agent.kernel_logs"):
        start(paths=[Path("/dev/null")], read_kmsg=refuse).read(NOW_MS)


def test_a_directory_is_no_log(start: Start, tmp_path: Path) -> None:
    with pytest.raises(KernelLogError, match="it is not a file"):
        start(paths=[tmp_path]).read(NOW_MS)


def test_cursors_that_cannot_be_kept_stop_nothing(start: Start, kern_log: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    source = start(state=tmp_path / "file" / "below")
    source.read(NOW_MS)
    append(kern_log, 1)
    assert pids(source.read(NOW_MS)) == [1]
    append(kern_log, 2)
    assert pids(source.read(NOW_MS)) == [2]


def test_damaged_cursors_lead_to_repeats_not_to_losses(start: Start, kern_log: Path, tmp_path: Path) -> None:
    append(kern_log, 1)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "cursors.json").write_text("{")
    assert pids(start().read(NOW_MS)) == [1]


class Kmsg:
    """The kernel's ring buffer, one record per read; `gap` overwrites what was not read."""

    def __init__(self, first: int = 100) -> None:
        self.number = first
        self.records: list[bytes | OSError] = []

    def log(self, *numbers: int) -> None:
        for number in numbers:
            text = f"3,{self.number},5000000,-;NVRM: Xid (PCI:0000:19:00): 94, pid={number}\n SUBSYSTEM=pci\n"
            self.records.append(text.encode())
            self.number += 1

    def gap(self, size: int) -> None:
        self.records.append(BrokenPipeError(32, "Broken pipe"))
        self.number += size

    def opened(self) -> Callable[[int, int], bytes]:
        """A new reader begins at the oldest record."""
        place = iter(range(1_000_000))
        at = next(place)

        def read(_descriptor: int, _size: int) -> bytes:
            nonlocal at
            if at >= len(self.records):
                raise BlockingIOError
            record = self.records[at]
            at = next(place)
            if isinstance(record, OSError):
                raise record
            return record

        return read


def kmsg_source(begin: Start, kmsg: Kmsg, **options: object) -> KernelLogSource:
    return begin(paths=[Path("/dev/null")], read_kmsg=kmsg.opened(), uptime_s=lambda: 10.0, **options)


def test_kernel_records_are_read_and_their_stamp_counts_from_the_boot(start: Start) -> None:
    kmsg = Kmsg()
    source = kmsg_source(start, kmsg)
    source.read(NOW_MS)
    kmsg.log(1, 2)
    events = source.read(NOW_MS)
    assert pids(events) == [1, 2]
    assert {event.event_ms for event in events} == {NOW_MS - 10_000 + 5_000}
    assert "SUBSYSTEM" not in events[0].raw


def test_the_kernels_buffer_is_old_news_at_the_first_start_unless_asked_for(start: Start, tmp_path: Path) -> None:
    kmsg = Kmsg()
    kmsg.log(1)
    first = kmsg_source(start, kmsg, state=tmp_path / "a")
    assert first.read(NOW_MS) == []
    kmsg.log(2)
    assert pids(first.read(NOW_MS)) == [2]
    assert pids(kmsg_source(start, kmsg, state=tmp_path / "b", start="beginning").read(NOW_MS)) == [1, 2]


def test_the_kernels_buffer_goes_on_after_a_restart(start: Start) -> None:
    kmsg = Kmsg()
    first = kmsg_source(start, kmsg)
    first.read(NOW_MS)
    kmsg.log(1)
    first.read(NOW_MS)
    first.close()
    kmsg.log(2)
    assert pids(kmsg_source(start, kmsg).read(NOW_MS)) == [2]


def test_another_boot_is_read_from_its_beginning(start: Start) -> None:
    before = Kmsg(first=5000)
    source = kmsg_source(start, before)
    before.log(1)
    source.read(NOW_MS)
    source.close()
    after = Kmsg(first=0)
    after.log(1, 2)
    origin = Origin(site="s", rack="r", node="n", boot_id="boot-2")
    assert pids(kmsg_source(start, after, origin=origin).read(NOW_MS)) == [1, 2]


def test_overwritten_records_are_an_event(start: Start) -> None:
    kmsg = Kmsg()
    source = kmsg_source(start, kmsg, start="beginning")
    kmsg.log(1)
    kmsg.gap(41)
    kmsg.log(2)
    one, lost, two = source.read(NOW_MS)
    assert pids([one, two]) == [1, 2]
    assert (lost.kind, lost.severity, lost.details["lines"]) == ("kernel_log_lost", "warning", "41")


def test_the_same_kernel_record_has_the_same_id_and_another_boot_another(start: Start, tmp_path: Path) -> None:
    kmsg = Kmsg()
    kmsg.log(1, 1)
    once = kmsg_source(start, kmsg, state=tmp_path / "a", start="beginning").read(NOW_MS)
    twice = kmsg_source(start, kmsg, state=tmp_path / "b", start="beginning").read(NOW_MS + 5)
    other = Origin(site="s", rack="r", node="n", boot_id="boot-2")
    third = kmsg_source(start, kmsg, state=tmp_path / "c", start="beginning", origin=other).read(NOW_MS)
    ids = [event.event_id for event in once]
    assert ids == [event.event_id for event in twice]
    assert len({*ids, *(event.event_id for event in third)}) == 4


def test_the_real_kernel_buffer_can_be_read(start: Start) -> None:
    path = Path("/dev/kmsg")
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        pytest.skip(f"/dev/kmsg cannot be read here: {error.strerror}")
    source = start(paths=[path], start="beginning")
    source.read(NOW_MS)
    assert source.read(NOW_MS) == []


def test_a_replayed_log_has_the_same_ids_each_time_and_others_on_another_node() -> None:
    if not CAPTURE.exists():
        pytest.skip("the real kernel log is not here")

    def replay(node: str, now_ms: int) -> list[HardwareEvent]:
        return list(events_of_file(CAPTURE, site="s", rack="r", node=node, now_ms=now_ms))

    first, again, elsewhere = replay("a", NOW_MS), replay("a", NOW_MS + 99), replay("b", NOW_MS)
    assert [event.code for event in first if event.kind == "xid"] == [119] * 5
    ids = {event.event_id for event in first}
    assert len(ids) == len(first) == 8
    assert [event.event_id for event in again] == [event.event_id for event in first]
    assert not ids & {event.event_id for event in elsewhere}
    assert [event.sequence for event in first] == list(range(8))
    assert {event.severity for event in first if event.kind == "xid"} == {"critical"}


def test_an_event_is_never_later_than_it_was_seen(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("NVRM: Xid (PCI:0000:19:00): 94\n[Fri Nov 15 12:02:03 2999] NVRM: Xid (PCI:0000:19:00): 94\n")
    found = events_of_file(path, site="s", rack="r", node="n", now_ms=NOW_MS)
    assert [event.event_ms for event in found] == [NOW_MS, NOW_MS]


# --- being told that there is more ------------------------------------------------------------------------------------


def ear(source: KernelLogSource) -> int:
    """What tells that there is more, asked for when all was read."""
    (only,) = source.ears()
    return only


def tells(ear: int) -> bool:
    return bool(select.select([ear], [], [], 0)[0])


def test_a_log_that_grows_tells_so_and_is_silent_again_once_it_was_read(start: Start, kern_log: Path) -> None:
    append(kern_log, 1)
    source = start()
    source.read(NOW_MS)
    its = ear(source)
    assert not tells(its)

    with kern_log.open("a") as file:
        file.write("an ordinary line\n")
    assert tells(its)

    source.read(NOW_MS)
    assert not tells(ear(source))


@pytest.mark.parametrize("how", ["renamed", "removed", "truncated"])
def test_a_log_that_is_not_the_one_any_more_tells_so(start: Start, kern_log: Path, how: str) -> None:
    append(kern_log, 1)
    source = start()
    source.read(NOW_MS)
    its = ear(source)
    if how == "renamed":
        kern_log.rename(kern_log.with_name("kern.log.1"))
    elif how == "removed":
        kern_log.unlink()
    else:
        os.truncate(kern_log, 0)
    assert tells(its)


def test_after_a_rotation_the_new_log_tells(start: Start, kern_log: Path) -> None:
    append(kern_log, 1)
    source = start()
    source.read(NOW_MS)
    kern_log.rename(kern_log.with_name("kern.log.1"))
    kern_log.write_text("the first ordinary line\n")
    for _ in range(3):
        source.read(NOW_MS)
    its = ear(source)
    assert not tells(its)

    append(kern_log, 2)
    assert tells(its)
    assert pids(source.read(NOW_MS)) == [2]


def test_between_a_rename_and_the_new_log_only_looking_tells(start: Start, kern_log: Path) -> None:
    append(kern_log, 1)
    source = start()
    source.read(NOW_MS)
    kern_log.rename(kern_log.with_name("kern.log.1"))
    source.read(NOW_MS)
    assert source.ears() == []


def test_on_a_file_system_whose_changes_nobody_tells_only_looking_does(
    start: Start, kern_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producers.kernel_log.notify._tells", lambda _: False)  # NFS: another machine may write
    append(kern_log, 1)
    source = start()
    source.read(NOW_MS)
    assert source.ears() == []
    append(kern_log, 2)
    assert pids(source.read(NOW_MS)) == [2]


def test_where_the_kernel_gives_no_more_watches_only_looking_tells(
    start: Start, kern_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refuses:
        def inotify_init1(self, _: int) -> int:
            return -1

    monkeypatch.setattr("producers.kernel_log.notify._inotify", Refuses)
    source = start()
    assert source.read(NOW_MS) == []
    assert source.ears() == []


def test_while_a_line_waits_for_its_end_or_a_storm_for_its_summary_the_clock_counts(
    start: Start, kern_log: Path
) -> None:
    source = start(clock_ms=lambda: 1_731_672_123_000)  # when the lines were written
    source.read(NOW_MS)
    with kern_log.open("a") as file:
        file.write("half a line")
    source.read(NOW_MS)
    assert source.ears() == []
    with kern_log.open("a") as file:
        file.write("\n" + xid(1) * 50)
    assert source.read(NOW_MS)
    assert source.ears() == []


def test_one_input_that_only_looking_tells_of_is_enough_to_look(start: Start, kern_log: Path, tmp_path: Path) -> None:
    append(kern_log, 1)
    source = start(paths=[kern_log, tmp_path / "missing.log"])
    with pytest.raises(KernelLogError):
        source.read(NOW_MS)
    assert source.ears() == []


@pytest.mark.skipif(not os.access("/dev/kmsg", os.W_OK), reason="/dev/kmsg can only be written by root")
def test_the_kernels_own_buffer_tells(start: Start) -> None:
    source = start(paths=[Path("/dev/kmsg")])
    source.read(NOW_MS)
    its = ear(source)
    Path("/dev/kmsg").write_text("fleetpulse: a test asks whether this can be heard\n")
    assert select.select([its], [], [], 5)[0]
