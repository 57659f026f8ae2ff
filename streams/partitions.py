"""What a worker holds for one partition, and what it has to keep to go on with it elsewhere.

These are the cores of the stream processors with their memory: pure but for the bytes that `memory` gives to be kept.
A memory entry is kept under `kind|id`; `None` lets it go.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import msgspec
import structlog

from schemas.catalog import ACTIONS, SEVERITIES, Catalog
from schemas.catalog.causes import Causes
from schemas.catalog.health import health_table
from schemas.catalog.metrics import WatchList
from schemas.codec import CodecError, SingleObjectCodec
from schemas.records import Anomaly, DeadLetter, Fault, HardwareEvent, Incident, InventoryRecord, Record
from schemas.topics import ANOMALIES, EVENTS, FAULTS
from streams.correlate import KINDS, Correlator
from streams.detect import CounterProcessor, Processor, SampleProcessor
from streams.detectors.counter_rate import Kept
from streams.detectors.limits import Inventory
from streams.faults import FaultBook
from streams.health import HealthBook, Heard
from streams.rack_health import Where
from streams.roster import NEVER_MS
from streams.samples import Message, Rejected
from streams.settings import StreamsSettings
from streams.topology import Topology

log = structlog.get_logger()

Memory = dict[str, bytes | None]

_OPERATOR = "operator"
"""`HardwareEvent.source` of what people say: that a node is spoken of is no sign that it lives."""
_REDO_MS = 60_000
"""What is over is remembered for so long: far longer than a handled run waits for its commit."""
_LONGEST_REBUILD_MS = 3_600_000
"""Of counters, no more of the log than that is read back, however long ago something was kept."""
_LETTER_BYTES = 500_000
"""A dead letter holds so much of a value: with its envelope it must fit in a Kafka record of the usual limit."""
_STATES: Mapping[type[Record], tuple[str, ...]] = {
    Anomaly: ("raised", "cleared"),
    Fault: ("open", "updated", "cleared"),
}

C = TypeVar("C", Anomaly, Fault)


@dataclass(slots=True)
class Outcome:
    """What a run led to: records to write, in order; messages that could not be used; memory to keep afterwards."""

    records: list[Record] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    memory: Memory = field(default_factory=dict)
    readings: int = 0
    late: int = 0


class QuietClock:
    """A partition's own time: that of its newest record, which goes on with the wall clock while nothing comes.

    So a backlog is judged by the time at which it was written, and a worker's wrong clock is no matter.
    """

    def __init__(self, idle_ms: int) -> None:
        self._idle_ms = idle_ms
        self._heard_ms: int | None = None
        """By the wall clock: when something came last."""
        self._time_ms = NEVER_MS

    def heard(self, now_ms: int, time_ms: int) -> None:
        """A record of `time_ms` has come."""
        self._heard_ms, self._time_ms = now_ms, time_ms

    def is_quiet(self, now_ms: int) -> bool:
        """Whether nothing has come for long, after something had."""
        return self._heard_ms is not None and now_ms - self._heard_ms > self._idle_ms

    def time_ms(self, now_ms: int) -> int:
        """What time it is in the partition; `NEVER_MS` where nothing has come yet."""
        return self._time_ms if self._heard_ms is None else self._time_ms + now_ms - self._heard_ms


class Standing(msgspec.Struct):
    """An anomaly that stands, or stood until lately, with the places in the log where that was decided.

    A run may be done again after a kill, with the memory that it had left behind. What it raised must not stand
    before it begins, and what it cleared must.
    """

    anomaly: Anomaly
    raised_at: int
    """The offset behind the run that raised it."""
    cleared_at: int | None = None
    """The offset behind the run that cleared it."""
    cleared_ms: int = 0
    """When that was, by the clock."""

    def stands_before(self, offset: int) -> bool:
        """Whether it stood when `offset` was next to be handled."""
        return self.raised_at <= offset and (self.cleared_at is None or self.cleared_at > offset)


class _Partition:
    """One partition of readings: windows, detectors, and the anomalies that stand.

    `rebuild` what was handled before, then `resume`; from there on `run` and `advance`.
    """

    _kind: str
    """What its standing anomalies are kept under."""

    def __init__(self, settings: StreamsSettings, processor: Processor, memory: Mapping[str, bytes], end: int) -> None:
        """`end` is the offset behind the last message. A memory beyond it is of a topic that was there before."""
        self._settings = settings
        self._standing: dict[str, Standing] = {}

        def take_back(key: str, state: bytes) -> None:
            kept = msgspec.msgpack.decode(state, type=Standing)
            kept.raised_at = 0 if kept.raised_at > end else kept.raised_at
            kept.cleared_at = 0 if (kept.cleared_at or 0) > end else kept.cleared_at
            self._standing[key] = kept

        _recall(memory, self._kind, take_back)
        self._processor = processor
        self.next_offset = 0
        self._clock = QuietClock(settings.idle_ms)

    def rebuild(self, messages: Sequence[Message]) -> None:
        """Take in what was handled before, to fill the windows; nothing is written."""
        self._processor.run(messages)

    def resume(self, offset: int, now_ms: int, newest: Message | None = None) -> None:
        """The windows are as full as they get: go on at `offset`.

        `newest` is the last message before `offset`, where nothing waits behind it: quiet is counted from then on.
        """
        standing = [kept.anomaly for kept in self._standing.values() if kept.stands_before(offset)]
        # what the clock had raised while nothing came was raised after all that has been read back
        self._processor.advance(max((anomaly.tick_ms for anomaly in standing), default=NEVER_MS))
        self._processor.restore(standing)
        self.next_offset = offset
        if newest is not None:
            self._clock.heard(min(newest.timestamp, now_ms), self._processor.newest_ms)

    def run(self, messages: Sequence[Message], now_ms: int) -> Outcome:
        """Take a run in."""
        findings = self._processor.run(messages)
        self.next_offset = messages[-1].offset + 1
        self._clock.heard(now_ms, self._processor.newest_ms)
        memory = self._remember(findings.anomalies, now_ms)
        return Outcome(list(findings.anomalies), findings.rejected, memory, findings.readings, findings.late)

    def idle(self, now_ms: int) -> bool:
        """Whether nothing has come for so long that the clock has to judge."""
        return self._clock.is_quiet(now_ms)

    def unseen(self, now_ms: int) -> None:
        """Nobody can tell whether something waits: quiet that cannot be seen is no quiet."""
        self._clock.heard(now_ms, self._processor.newest_ms)

    def advance(self, now_ms: int) -> Outcome:
        """Nothing comes and nothing waits: let the partition's time go on with the clock."""
        anomalies = self._processor.advance(self._clock.time_ms(now_ms) - self._settings.grace_ms)
        return Outcome(list(anomalies), memory=self._remember(anomalies, now_ms))

    def _remember(self, anomalies: Iterable[Anomaly], now_ms: int) -> Memory:
        changed: Memory = {}
        for kept in [kept for kept in self._standing.values() if kept.cleared_at is not None]:
            if now_ms - kept.cleared_ms > _REDO_MS:
                del self._standing[kept.anomaly.anomaly_id]
                changed[f"{self._kind}|{kept.anomaly.anomaly_id}"] = None
        for anomaly in anomalies:
            if anomaly.state == "raised":
                kept = Standing(anomaly, self.next_offset)
            elif anomaly.anomaly_id in self._standing:
                before = self._standing[anomaly.anomaly_id]
                kept = msgspec.structs.replace(before, cleared_at=self.next_offset, cleared_ms=now_ms)
            else:
                continue
            self._standing[anomaly.anomaly_id] = kept
            changed[f"{self._kind}|{anomaly.anomaly_id}"] = msgspec.msgpack.encode(kept)
        return changed


class SamplePartition(_Partition):
    """One partition of `gpu.samples`."""

    _kind = "standing"

    def __init__(
        self,
        settings: StreamsSettings,
        codec: SingleObjectCodec,
        memory: Mapping[str, bytes],
        end: int,
        watched: WatchList | None = None,
        inventory: Inventory | None = None,
    ) -> None:
        """`end` is the offset behind the last message. A memory beyond it is of a topic that was there before."""
        super().__init__(settings, SampleProcessor(settings, codec, watched, inventory), memory, end)

    def rebuild_from_ms(self, at_ms: int) -> int:
        """From when on the log has to be read back for windows to be full at `at_ms`."""
        return at_ms - self._settings.rebuild_ms


class Counted(msgspec.Struct):
    """What one span had counted, with the place in the log."""

    offset: int
    """The offset behind the last message that was taken in."""
    kept: Kept


class CounterPartition(_Partition):
    """One partition of `gpu.counters`, which keeps what its spans have counted every few minutes.

    Two such states are kept in turn, the older one at least a minute old by the clock. A run that is done again after
    a kill may begin before the newer one, but not before the older one, since runs are committed within seconds.
    """

    _kind = "standing_count"
    _KEEP_EVERY_MS = 300_000

    def __init__(
        self,
        settings: StreamsSettings,
        codec: SingleObjectCodec,
        memory: Mapping[str, bytes],
        first: int,
        end: int,
        watched: WatchList | None = None,
        inventory: Inventory | None = None,
    ) -> None:
        """`first` is the offset at which to go on; what was kept later than that is left out. `end` as in
        `SamplePartition`.
        """
        self._counts = CounterProcessor(settings, codec, watched, inventory)
        super().__init__(settings, self._counts, memory, end)
        newest: dict[str, Counted] = {}
        self._slot = 0
        """Where to keep it next."""

        def take_back(key: str, state: bytes) -> None:
            slot, _, rule = key.partition("|")
            counted = msgspec.msgpack.decode(zlib.decompress(state), type=Counted)
            before = newest.get(rule)
            if counted.offset <= first and (before is None or counted.offset > before.offset):
                newest[rule], self._slot = counted, 1 - int(slot)

        _recall(memory, "counted", take_back)
        self._counts.recall({rule: counted.kept for rule, counted in newest.items()})
        self._counted_ms = min((counted.kept.through_ms for counted in newest.values()), default=NEVER_MS)
        """The tick up to which something is kept."""
        self._kept_ms = NEVER_MS
        """When that was, by the clock."""

    def rebuild_from_ms(self, at_ms: int) -> int:
        """From when on the log has to be read back: what was not counted yet, and some to know where counters stand."""
        settings = self._settings
        counted_ms = min(self._counted_ms, at_ms)
        # a message may come so long before its tick, and each node's last reading before that is needed, too
        return max(counted_ms, at_ms - _LONGEST_REBUILD_MS) - settings.future_ms - settings.rebuild_ms

    def run(self, messages: Sequence[Message], now_ms: int) -> Outcome:
        """Take a run in."""
        outcome = super().run(messages, now_ms)
        closed_ms = self._counts.closed_ms
        is_due = closed_ms // self._KEEP_EVERY_MS > self._counted_ms // self._KEEP_EVERY_MS
        if is_due and now_ms - self._kept_ms >= _REDO_MS:
            for rule, kept in self._counts.keep().items():
                state = msgspec.msgpack.encode(Counted(self.next_offset, kept))
                outcome.memory[f"counted|{self._slot}|{rule}"] = zlib.compress(state, 1)
            self._slot, self._counted_ms, self._kept_ms = 1 - self._slot, closed_ms, now_ms
        return outcome


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
        _recall(memory, "history", self._book.restore_history)
        _recall(memory, "fault", self._book.restore)
        self._book.restored(ends[EVENTS], ends[ANOMALIES])
        self._applied = _applied(memory, ends, EVENTS, ANOMALIES)
        self._health = HealthBook(health_table(), catalog, topology, owns)
        _recall(memory, "health", lambda _, state: self._health.restore(state))
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
        for message in _new(messages, self._applied):
            try:
                if message.topic == EVENTS:
                    event = self._codec.decode(message.value, HardwareEvent)
                    faults = self._book.on_event(event, message.timestamp, message.offset)
                    outcome.records += self._judged(faults, event, event.event_ms, message)
                else:
                    anomaly = _checked(self._codec.decode(message.value, Anomaly))
                    faults = self._book.on_anomaly(anomaly, message.timestamp, message.offset)
                    outcome.records += self._judged(faults, anomaly, anomaly.tick_ms, message)
            except CodecError as error:
                outcome.rejected.append(Rejected(message, error.reason, str(error)))
        self._clocks[messages[-1].topic].heard(now_ms, messages[-1].timestamp)
        outcome.memory = self._changes() | _offsets(self._applied)
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
            _kept("health", self._health.changes())
            | _kept("history", self._book.history_changes())
            | _kept("fault", self._book.changes())
        )


class IncidentPartition:
    """One partition of faults: the open incidents of its sites."""

    def __init__(
        self,
        settings: StreamsSettings,
        catalog: Catalog,
        table: Causes,
        topology: Topology,
        codec: SingleObjectCodec,
        memory: Mapping[str, bytes],
        ends: Mapping[str, int],
    ) -> None:
        """`ends` as in `FaultPartition`."""
        self._codec = codec
        self._correlator = Correlator(catalog, table, topology, settle_ms=settings.settle_ms)
        for kind in KINDS:
            _recall(memory, kind, partial(self._take_back, kind))
        self._correlator.restored()
        self._applied = _applied(memory, ends, FAULTS)

    def __len__(self) -> int:
        return len(self._correlator)

    def _take_back(self, kind: str, _: str, state: bytes) -> None:
        self._correlator.restore(kind, state)

    def run(self, messages: Sequence[Message], now_ms: int) -> Outcome:
        """Take a run in."""
        outcome = Outcome()
        for message in _new(messages, self._applied):
            try:
                self._correlator.on_fault(_checked(self._codec.decode(message.value, Fault)), now_ms)
            except CodecError as error:
                outcome.rejected.append(Rejected(message, error.reason, str(error)))
        outcome.records += self._correlator.advance(now_ms)
        outcome.memory = self._correlator.changes() | _offsets(self._applied)
        return outcome

    def advance(self, now_ms: int) -> Outcome:
        """Let time go on."""
        written: list[Incident] = self._correlator.advance(now_ms)
        return Outcome(list(written), memory=self._correlator.changes())


def dead_letter(rejected: Rejected, reader: str, now_ms: int) -> DeadLetter:
    """The record for a message that could not be used."""
    message, detail = rejected.message, rejected.detail
    value = message.value or b""
    if len(value) > _LETTER_BYTES:
        detail += f" (the first {_LETTER_BYTES} of {len(value)} bytes)"
    return DeadLetter(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        reason=rejected.reason,
        detail=detail,
        reader=reader,
        key=message.key,
        value=value[:_LETTER_BYTES],
        observed_ms=now_ms,
    )


def _checked(record: C) -> C:
    """A record whose words are those of the catalogue. Raises `CodecError` for one that nobody could act on."""
    for name, word, known in (
        ("severity", record.severity, SEVERITIES),
        ("action", record.action, ACTIONS),
        ("state", record.state, _STATES[type(record)]),
    ):
        if word not in known:
            kind = type(record).__name__
            raise CodecError("unknown_word", f"{name} of the {kind} is {word!r}; known are {', '.join(known)}")
    return record


def _recall(memory: Mapping[str, bytes], kind: str, take_back: Callable[[str, bytes], None]) -> None:
    """Hand all entries of a kind over. One that cannot be read is of another build: what it held begins anew."""
    for key, state in memory.items():
        of, _, rest = key.partition("|")
        if of != kind:
            continue
        try:
            take_back(rest, state)
        except (msgspec.MsgspecError, zlib.error) as error:
            log.warning("memory of another build cannot be read and is left out", key=key, reason=str(error))


def _kept(kind: str, changes: Mapping[str, bytes | None]) -> Memory:
    return {f"{kind}|{key}": state for key, state in changes.items()}


def _applied(memory: Mapping[str, bytes], ends: Mapping[str, int], *topics: str) -> dict[str, int]:
    """The highest offset of each topic that the memory already holds."""
    applied = {topic: int(memory.get(f"applied|{topic}", b"-1")) for topic in topics}
    return {topic: offset if offset < ends[topic] else -1 for topic, offset in applied.items()}


def _offsets(applied: Mapping[str, int]) -> Memory:
    return {f"applied|{topic}": str(offset).encode() for topic, offset in applied.items()}


def _new(messages: Sequence[Message], applied: dict[str, int]) -> Iterable[Message]:
    for message in messages:
        if message.offset > applied[message.topic]:
            applied[message.topic] = message.offset
            yield message
