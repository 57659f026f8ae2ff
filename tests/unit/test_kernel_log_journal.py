"""The journal as an input: a script stands in for journalctl, which prints what a file of records holds."""

from __future__ import annotations

import json
import select
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from producers.kernel_log import KernelLogError, KernelLogSource
from producers.kernel_log.journal import JOURNAL, JournalReader
from producers.source import Origin
from schemas.catalog import load
from schemas.records import HardwareEvent

CATALOG = load()
NOW_MS = 1_731_700_000_000
STAND_IN = """
import json, sys, time
after = next((each.partition("=")[2] for each in sys.argv if each.startswith("--after-cursor=")), None)
lines = next((each.partition("=")[2] for each in sys.argv if each.startswith("--lines=")), "all")
assert "_TRANSPORT=kernel" in sys.argv
path, deadline = sys.argv[1], time.monotonic() + 20
records = open(path).read().splitlines()
skip = 0 if lines == "all" else max(0, len(records) - int(lines))
if after:
    skip = [json.loads(record)["__CURSOR"] for record in records].index(after) + 1
with open(path) as journal:
    for _ in range(skip):
        journal.readline()
    while time.monotonic() < deadline:
        line = journal.readline()
        if line:
            sys.stdout.write(line)
            sys.stdout.flush()
        else:
            time.sleep(0.01)
"""


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal"
    path.write_text("")
    return path


Begin = Callable[..., KernelLogSource]


@pytest.fixture
def begin(tmp_path: Path, journal: Path) -> Iterator[Begin]:
    started: list[KernelLogSource] = []
    script = tmp_path / "journalctl.py"
    script.write_text(STAND_IN)

    def start(**options: object) -> KernelLogSource:
        settings: dict[str, object] = {
            "origin": Origin(site="s", rack="r", node="n", boot_id="boot-1"), "catalog": CATALOG,
            "state": tmp_path / "cursors.json", "clock_ms": lambda: NOW_MS, "start": "beginning",
            "journalctl": (sys.executable, str(script), str(journal)),
        } | options  # fmt: skip
        source = KernelLogSource([JOURNAL], **settings)  # type: ignore[arg-type]
        started.append(source)
        return source

    yield start
    for source in started:
        source.close()


def say(journal: Path, *numbers: int, code: int = 94) -> None:
    with journal.open("a") as file:
        for number in numbers:
            record = {
                "__CURSOR": f"s=1;i={number:x};b=2", "__REALTIME_TIMESTAMP": str(NOW_MS * 1000 - 60_000_000 + number),
                "_TRANSPORT": "kernel", "MESSAGE": f"NVRM: Xid (PCI:0000:19:00): {code}, pid={number}",
            }  # fmt: skip
            file.write(json.dumps(record) + "\n")


def read(source: KernelLogSource, least: int) -> list[HardwareEvent]:
    """Reads until so many events are there; the stand-in is another process and takes its time."""
    found: list[HardwareEvent] = []
    deadline = time.monotonic() + 10
    while len(found) < least and time.monotonic() < deadline:
        found += source.read(NOW_MS)
        time.sleep(0.01)
    return found


def pids(events: list[HardwareEvent]) -> list[int]:
    return [int(event.details["pid"]) for event in events]


def test_the_journal_is_followed_and_gone_on_with_after_a_restart(begin: Begin, journal: Path) -> None:
    first = begin()
    say(journal, 1, 2)
    events = read(first, 2)
    assert pids(events) == [1, 2]
    assert {event.event_ms for event in events} == {NOW_MS - 60_000}
    say(journal, 3)
    assert pids(read(first, 1)) == [3]
    first.close()
    say(journal, 4, code=79)
    assert pids(read(begin(), 1)) == [4]


def test_what_the_journal_held_before_is_no_news_at_the_first_start(begin: Begin, journal: Path) -> None:
    say(journal, 1, 2)
    source = begin(start="end")
    deadline = time.monotonic() + 10
    while source._cursors().journals == {} and time.monotonic() < deadline:
        assert source.read(NOW_MS) == []
        time.sleep(0.01)
    source.close()
    say(journal, 3)  # while nobody looked
    assert pids(read(begin(start="end"), 1)) == [3]


def test_a_batch_of_the_journal_that_was_not_handed_over_comes_again(begin: Begin, journal: Path) -> None:
    say(journal, 0)
    killed = begin()
    read(killed, 1)
    killed.commit()
    say(journal, 1, 2)
    reader, deadline = killed._inputs[0].reader, time.monotonic() + 10
    assert isinstance(reader, JournalReader)
    while not reader.has(2) and time.monotonic() < deadline:
        time.sleep(0.01)
    given = killed.read(NOW_MS)
    assert pids(given) == [1, 2]
    for each in killed._inputs:
        assert each.reader is not None
        each.reader.close()  # and nothing more: the agent dies
    say(journal, *range(3, 30))
    survivor = begin()
    again = read(survivor, 2)
    assert again[:2] == given
    survivor._clock_ms = lambda: NOW_MS + 60_000
    rest = [*again, *read(survivor, 1)]
    assert sum(event.count for event in rest if event.event_id not in {one.event_id for one in given}) == 27


def test_a_journal_that_cannot_be_followed_says_why_and_is_tried_again(
    begin: Begin, journal: Path, tmp_path: Path
) -> None:
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho 'No journal files were opened due to insufficient permissions.' >&2\nexit 1\n")
    failing.chmod(failing.stat().st_mode | stat.S_IXUSR)
    source = begin(journalctl=(str(failing),))
    with pytest.raises(KernelLogError, match=r"status 1 \(No journal files .*systemd-journal"):
        read(source, 1)
    with pytest.raises(KernelLogError, match="status 1"):
        read(source, 1)


def test_a_node_without_systemd_says_so(begin: Begin) -> None:
    with pytest.raises(KernelLogError, match=r"no-such-journalctl: no such file.*/dev/kmsg"):
        begin(journalctl=("/no-such-journalctl",)).read(NOW_MS)


def test_a_record_in_the_journal_is_told_of(begin: Begin, journal: Path) -> None:
    source = begin()
    assert source.read(NOW_MS) == []
    (ear,) = source.ears()
    assert not select.select([ear], [], [], 0)[0]

    say(journal, 1)
    assert select.select([ear], [], [], 20)[0]
