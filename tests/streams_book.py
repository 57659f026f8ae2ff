"""A fault book as tests use it: with all that it wrote, and what an operator says to it."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.catalog import Catalog, load
from schemas.catalog.causes import causes
from schemas.records import Anomaly, Fault, HardwareEvent
from streams.faults import FaultBook
from streams.topology import Topology
from tests.streams_scenes import START_MS, event

CATALOG = load()


class Book:
    """A fault book with all that it wrote; records reach Kafka when they say, unless told otherwise."""

    def __init__(self, topology: Topology | None = None, catalog: Catalog = CATALOG) -> None:
        self.topology, self.catalog = topology or Topology(), catalog
        self.book = FaultBook(catalog, causes(), self.topology)
        self.written: list[Fault] = []

    def take(self, *records: HardwareEvent | Anomaly) -> list[Fault]:
        found: list[Fault] = []
        for record in records:
            if isinstance(record, HardwareEvent):
                found += self.book.on_event(record, record.event_ms)
            else:
                found += self.book.on_anomaly(record, record.tick_ms)
        self.written += found
        return found

    def wait(self, until_s: float) -> list[Fault]:
        now_ms = START_MS + round(until_s * 1000)
        found = [*self.book.end_quiet(now_ms), *self.book.flush(now_ms)]
        self.written += found
        return found

    def restarted(self) -> Book:
        """Another worker goes on with the memory."""
        again = Book(self.topology, self.catalog)
        for component, state in self.histories().items():
            again.book.restore_history(component, state)
        for key, state in self.memory().items():
            again.book.restore(key, state)
        again.book.restored(10**9, 10**9)
        return again

    def memory(self) -> dict[str, bytes]:
        """All faults that were ever kept and still are."""
        shelf = self.book._shelf
        shelf._touched = {*shelf.open, *shelf.ended}
        return {key: state for key, state in self.book.changes().items() if state is not None}

    def histories(self) -> dict[str, bytes]:
        """All histories that were ever kept and still are."""
        shelf = self.book._shelf
        shelf._written_history = set(shelf._histories)
        return {key: state for key, state in self.book.history_changes().items() if state is not None}


def told(faults: Iterable[Fault]) -> list[tuple[str, str, int]]:
    return [(one.fault_class, one.state, one.count) for one in faults]


def clears(book: Book) -> list[str]:
    """The classes of the faults that have ended, in order."""
    return [one.fault_class for one in book.written if one.state == "cleared"]


def says(kind: str, *, at_s: float = 0, rack: str = "r1", event_id: str | None = None, **details: str) -> HardwareEvent:
    """What an operator says, as an event of its rack."""
    return event(
        kind, at_s=at_s, node="", gpu=None, rack=rack, event_id=event_id, source="operator", boot_id="", details=details
    )


def announces(scope: str, begin_s: float, until_s: float, *, at_s: float = 0, **details: str) -> HardwareEvent:
    """Work on a scope, announced at a time; all times in seconds from the start of the scene."""
    times = {"begin_ms": str(START_MS + round(begin_s * 1000)), "until_ms": str(START_MS + round(until_s * 1000))}
    return says("maintenance_announced", at_s=at_s, scope=scope, **(times | {"by": "ann"} | details))
