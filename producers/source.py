"""What a source is, and the thread it is read in.

A source knows one thing about the node: what NVML says, what the kernel logs, what is installed. The contract:

- `read(now_ms)` returns the records that are new. `now_ms` is the tick, UTC milliseconds, a multiple of the period.
- It may block and it may hang: it runs in a thread of its own, and nobody waits for it.
- What goes wrong at the thing it watches is a record (an event), not an exception. An exception means that the source
  itself failed; it is reported once and the source is read again at the next tick.
- `doing` says in a few words what it is at, for the report that it hangs there.
- A sequence number that a source puts in a record means nothing: the publisher's side numbers them.
"""

from __future__ import annotations

import os
import queue
import select
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypedDict

import structlog

from schemas.catalog import Catalog
from schemas.ids import stable_id
from schemas.records import HardwareEvent, Record

log = structlog.get_logger()

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Source(Protocol):
    """One thing about the node that can be read."""

    @property
    def name(self) -> str:
        """The module's name, as in `HardwareEvent.source`."""

    @property
    def doing(self) -> str:
        """What it is at now, for the report that it hangs there."""

    def read(self, now_ms: int) -> Iterable[Record]:
        """The records that are new at the tick `now_ms`."""


class Envelope(TypedDict):
    """The fields that every sample of a node begins with, whatever it is a sample of."""

    site: str
    rack: str
    node: str
    boot_id: str
    sequence: int
    tick_ms: int
    observed_ms: int
    interval_ms: int


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a producer's records come from."""

    site: str
    rack: str
    node: str
    boot_id: str

    def envelope(self, *, tick_ms: int, observed_ms: int, interval_ms: int, rack: str | None = None) -> Envelope:
        """What a sample of this node begins with; `rack` is where the thing stands, if not where the node does."""
        return Envelope(
            site=self.site,
            rack=rack or self.rack,
            node=self.node,
            boot_id=self.boot_id,
            sequence=0,
            tick_ms=tick_ms,
            observed_ms=observed_ms,
            interval_ms=interval_ms,
        )

    def event(
        self,
        catalog: Catalog,
        kind: str,
        *,
        source: str,
        event_ms: int,
        observed_ms: int,
        gpu: str | None = None,
        pci: str | None = None,
        details: Mapping[str, str] | None = None,
        raw: str = "",
        count: int = 1,
    ) -> HardwareEvent:
        """An event about this node; the catalogue says how severe it is. The same cause has the same `event_id`."""
        entry = catalog.entry(kind, None)
        return HardwareEvent(
            event_id=stable_id(self.node, self.boot_id, source, kind, gpu, pci, event_ms, raw),
            site=self.site,
            rack=self.rack,
            node=self.node,
            boot_id=self.boot_id,
            sequence=0,
            event_ms=event_ms,
            observed_ms=observed_ms,
            source=source,
            kind=kind,
            gpu=gpu,
            pci=pci,
            severity=entry.severity,
            action=entry.action,
            count=count,
            details=dict(details or {}),
            raw=raw,
        )


def boot_id(path: Path = BOOT_ID) -> str:
    """The kernel's id of this boot; where there is no such kernel, an id of this run."""
    try:
        return path.read_text().strip()
    except OSError:
        return str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class Reading:
    """What one read of a source came to."""

    source: str
    tick_ms: int
    took_s: float
    records: list[Record]
    error: Exception | None = None


class Inbox:
    """Readings on their way to the agent's loop, which sleeps until one comes, or something else that it listens to."""

    def __init__(self) -> None:
        self._readings: queue.SimpleQueue[Reading] = queue.SimpleQueue()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC)
        weakref.finalize(self, os.close, self._bell)  # not before: a thread that hangs may still come and ring it
        self._poll = select.poll()
        self._poll.register(self._bell, select.POLLIN)
        self._others: set[int] = set()

    def put(self, reading: Reading) -> None:
        """Hand one over, from any thread."""
        self._readings.put(reading)
        os.eventfd_write(self._bell, 1)

    def wait(self, timeout_s: float, others: Collection[int] = ()) -> list[int]:
        """Sleep until a reading is here, or one of the other descriptors has something to say; gives these."""
        for gone in self._others.difference(others):
            self._poll.unregister(gone)
        for new in set(others) - self._others:
            self._poll.register(new, select.POLLIN)
        self._others = set(others)
        ready = [number for number, _ in self._poll.poll(max(0.0, timeout_s) * 1000)]
        if self._bell in ready:
            os.eventfd_read(self._bell)
            ready.remove(self._bell)
        return ready

    def take(self) -> Iterator[Reading]:
        """What is here, the oldest first."""
        while not self._readings.empty():
            yield self._readings.get()


class Worker:
    """Reads one source in a thread of its own. The thread is not ended when it hangs: nothing can end it."""

    def __init__(
        self, source: Source, out: Callable[[Reading], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.source = source
        self._out = out
        self._clock = clock
        self._orders: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._since: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"source-{source.name}", daemon=True)
        self._thread.start()

    def order(self, tick_ms: int) -> bool:
        """Ask for a read. False while the one before has not come back."""
        if self._since is not None:
            return False
        self._since = self._clock()
        self._orders.put(tick_ms)
        return True

    def busy_s(self) -> float:
        """For how long the running read has been running; 0 when none is."""
        since = self._since
        return 0.0 if since is None else self._clock() - since

    def close(self, timeout_s: float) -> bool:
        """End the thread. False where it hangs: it then ends with the process."""
        self._orders.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (tick_ms := self._orders.get()) is not None:
            started = self._clock()
            records: list[Record] = []
            failure: Exception | None = None
            try:
                records.extend(self.source.read(tick_ms))
            except Exception as error:  # noqa: BLE001 - whatever a source raises, the others go on
                failure = error
            reading = Reading(self.source.name, tick_ms, self._clock() - started, records, failure)
            self._since = None
            self._out(reading)
