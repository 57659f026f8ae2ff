"""Partitions of evidence: the open faults, and the verdicts that follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from schemas.catalog import Catalog
from schemas.catalog.causes import Causes
from schemas.catalog.health import health_table
from schemas.codec import CodecError, SingleObjectCodec
from schemas.records import Anomaly, Fault, HardwareEvent, InventoryRecord, Record
from schemas.topics import ANOMALIES, EVENTS
from streams.faults import FaultBook
from streams.health import HealthBook, Heard, Where
from streams.partitions.memory import Memory, applied_offsets, fresh, kept, kept_offsets, recall
from streams.partitions.outcome import Outcome
from streams.partitions.quiet import QuietClock
from streams.partitions.words import checked
from streams.readings.decode import Message, Rejected
from streams.readings.roster import NEVER_MS
from streams.settings import StreamsSettings
from streams.topology import Topology

_OPERATOR = "operator"
"""`HardwareEvent.source` of what people say: that a node is spoken of is no sign that it lives."""


class FaultPartition:
    """One partition of hardware events and anomalies: the open faults of its racks, and the verdicts that follow."""

    def __init__(
        self,
        settings: StreamsSettings,
        catalog: Catalog,
        table: Causes,
        topology: Topology,
        codec: SingleObjectCodec,
        memory: Mapping[str, bytes],
        ends: Mapping[str, int],
        now_ms: int,
        owns: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """`ends` are the offsets behind the last record of each topic, as in `SamplePartition`.

        `owns` says of a rack whether its records come to this partition.
        """
        self._codec = codec
        self._book = FaultBook(catalog, table, topology)
        self._clocks = {EVENTS: QuietClock(settings.idle_ms), ANOMALIES: QuietClock(settings.idle_ms)}
        self._idle_ms = settings.idle_ms
        self._born_ms = now_ms
        recall(memory, "history", self._book.restore_history)
        recall(memory, "fault", self._book.restore)
        self._book.restored(ends[EVENTS], ends[ANOMALIES])
        self._applied = applied_offsets(memory, ends, EVENTS, ANOMALIES)
        self._health = HealthBook(health_table(), catalog, topology, owns)
        recall(memory, "health", lambda _, state: self._health.restore(state))
        self._health.restored(ends, self._book.open_faults())

    def __len__(self) -> int:
        return len(self._book)

    @property
    def health(self) -> Mapping[tuple[str, str], int]:
        """Components by kind and health."""
        return self._health.counts

    def learnt(self, record: InventoryRecord) -> None:
        """The topology has learnt a record of the inventory."""
        self._health.learnt(record.component)

    def run(self, messages: Sequence[Message], now_ms: int) -> Outcome:
        """Take a run of one of the two topics in. Records that were folded in before are passed over."""
        outcome = Outcome()
        for message in fresh(messages, self._applied):
            try:
                if message.topic == EVENTS:
                    event = self._codec.decode(message.value, HardwareEvent)
                    faults = self._book.on_event(event, message.timestamp, message.offset)
                    outcome.records += self._judged(faults, event, event.event_ms, message)
                else:
                    anomaly = checked(self._codec.decode(message.value, Anomaly))
                    faults = self._book.on_anomaly(anomaly, message.timestamp, message.offset)
                    outcome.records += self._judged(faults, anomaly, anomaly.tick_ms, message)
            except CodecError as error:
                outcome.rejected.append(Rejected(message, error.reason, str(error)))
        self._clocks[messages[-1].topic].heard(now_ms, messages[-1].timestamp)
        outcome.memory = self._changes() | kept_offsets(self._applied)
        return outcome

    def advance(self, now_ms: int) -> Outcome:
        """Let time go on."""
        times = [time for clock in self._clocks.values() if (time := clock.time_ms(now_ms)) != NEVER_MS]
        written = self._book.flush(max(times, default=now_ms))
        if len(times) == len(self._clocks) or now_ms - self._born_ms > self._idle_ms:
            # Until then what the memory calls quiet may have more waiting in the log; and a topic that is behind may
            # have it later.
            written += self._book.end_quiet(min(times, default=now_ms))
        records: list[Record] = []
        for fault in written:
            # what quiet has ended is judged as of then: that does not depend on when somebody looked
            records += [fault, *self._health.on_time(fault, fault.cleared_ms or now_ms)]
        return Outcome([*records, *self._health.advance(now_ms)], memory=self._changes())

    def _judged(
        self, faults: Sequence[Fault], evidence: HardwareEvent | Anomaly, at_ms: int, message: Message
    ) -> Sequence[Record]:
        """The fault records that evidence has led to, and the verdicts that follow."""
        where = Where(evidence.site, evidence.rack)
        node = None if isinstance(evidence, HardwareEvent) and evidence.source == _OPERATOR else evidence.node
        heard = Heard(where, node, evidence.gpu, at_ms, message.timestamp, message.topic, message.offset)
        return [*faults, *self._health.on_record(heard, faults)]

    def _changes(self) -> Memory:
        """What is to be kept, in an order that a kill in its middle does not harm.

        Racks come before the faults that changed them: a rack that was kept passes over what it has taken, the other
        way round it would never hear of it. Histories do too: a fault must not know more than its component's history.
        """
        return (
            kept("health", self._health.changes())
            | kept("history", self._book.history_changes())
            | kept("fault", self._book.changes())
        )
