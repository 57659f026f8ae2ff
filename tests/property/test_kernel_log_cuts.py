"""However a storm is cut into reads, and wherever the agent is killed: every line is counted, and counted once."""

from __future__ import annotations

import gzip
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from producers.kernel_log import KernelLogSource
from producers.source import Origin
from schemas.catalog import load
from schemas.records import HardwareEvent

CATALOG = load()
ORIGIN = Origin(site="s", rack="r", node="n", boot_id="boot-1")
KINDS = (31, 45, 79)


class Machine:
    """A log that is written and rotated, an agent that reads it and is killed, and what reached Kafka."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "kern.log"
        self.state = folder / "cursors.json"
        self.now_ms = 1_731_700_000_000
        self.written: Counter[int] = Counter()
        self.sent: dict[str, HardwareEvent] = {}
        self.log.write_text("")
        self.source = self.started()
        self.source.read(self.now_ms)
        self.source.commit()  # from here on it knows where it is

    def started(self) -> KernelLogSource:
        return KernelLogSource(
            [self.log],
            origin=ORIGIN,
            catalog=CATALOG,
            state=self.state,
            start="beginning",
            clock_ms=lambda: self.now_ms,
        )

    def write(self, code: int, lines: int, every_ms: int, stamped: bool) -> None:
        with self.log.open("a") as log:
            for _ in range(lines):
                self.now_ms += every_ms
                stamp = f"{self.now_ms // 1000}.{self.now_ms % 1000:03d}000 host " if stamped else ""
                number = self.written.total()
                log.write(
                    f"{stamp}kernel: NVRM: Xid (PCI:0000:19:00): {code}, pid={number}, name=program-{number:08d}\n"
                )
                self.written[code] += 1

    def read(self, arrives: bool) -> int:
        events = self.source.read(self.now_ms)
        for event in events if arrives else ():
            before = self.sent.setdefault(event.event_id, event)
            assert (event.count, event.raw, event.last_raw) == (before.count, before.raw, before.last_raw)
        return len(events)

    def kill(self, read: bool, arrives: bool) -> None:
        """What the last read before gave may have reached Kafka or not; the agent did not live to say so."""
        if read:
            self.read(arrives)
        self.abandon()
        self.source = self.started()

    def abandon(self) -> None:
        for each in self.source._inputs:
            if each.reader is not None:
                each.reader.close()

    def rotate(self, way: str) -> None:
        for age in range(8, 0, -1):
            for suffix in ("", ".gz"):
                older = self.log.with_name(f"kern.log.{age}{suffix}")
                if older.exists():
                    older.rename(self.log.with_name(f"kern.log.{age + 1}{suffix}"))
        first = self.log.with_name("kern.log.1")
        if way == "copy":
            shutil.copyfile(self.log, first)
        else:
            self.log.rename(first)
        self.log.write_text("")
        if way == "compress":
            with first.open("rb") as plain, gzip.open(f"{first}.gz", "wb") as packed:
                shutil.copyfileobj(plain, packed)
            first.unlink()

    def drain(self) -> None:
        empty = 0
        while empty < 2:
            empty = 0 if self.read(arrives=True) else empty + 1
            self.now_ms += 2000

    def counted(self) -> Counter[int]:
        found: Counter[int] = Counter()
        for event in self.sent.values():
            found[event.code or 0] += event.count
        return found


OPERATIONS = st.one_of(
    st.tuples(
        st.just("write"), st.sampled_from(KINDS), st.integers(1, 30), st.sampled_from([0, 1, 90, 700]), st.booleans()
    ),
    st.tuples(st.just("wait"), st.sampled_from([1, 200, 999, 1001, 12_000])),
    st.tuples(st.just("read")),
    st.tuples(st.just("kill"), st.booleans(), st.booleans()),
    st.tuples(st.just("rotate"), st.sampled_from(["rename", "compress", "copy"])),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(OPERATIONS, max_size=25))
def test_every_line_is_counted_once_however_it_is_cut_killed_and_rotated(operations: list[tuple]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Path(folder))
        for name, *arguments in operations:
            if name == "write":
                machine.write(*arguments)
            elif name == "wait":
                machine.now_ms += arguments[0]
            elif name == "read":
                machine.read(arrives=True)
            elif name == "kill":
                machine.kill(*arguments)
            else:
                machine.rotate(*arguments)
        machine.drain()
        machine.abandon()
        assert machine.counted() == machine.written
        lines = [event.raw for event in machine.sent.values()]
        lines += [event.last_raw for event in machine.sent.values() if event.last_raw]
        assert len(set(lines)) == len(lines)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 60), max_size=12), st.sampled_from([0, 10, 400]))
def test_a_storm_has_the_same_total_however_it_is_cut_into_reads(cuts: list[int], every_ms: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Path(folder))
        for lines in cuts:
            machine.write(31, lines, every_ms, stamped=True)
            machine.read(arrives=True)
        machine.drain()
        machine.abandon()
        assert machine.counted()[31] == sum(cuts)
        seconds = sum(cuts) * every_ms / 1000
        assert len(machine.sent) <= 3 + seconds + 2
