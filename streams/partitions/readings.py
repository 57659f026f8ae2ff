"""Partitions of readings: windows, detectors, and the anomalies that stand."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from schemas.catalog.metrics import WatchList
from schemas.codec import SingleObjectCodec
from schemas.records import Anomaly
from streams.detectors.counter_rate import Kept
from streams.detectors.limits import Inventory
from streams.partitions.memory import Memory, recall
from streams.partitions.outcome import Outcome
from streams.partitions.quiet import QuietClock
from streams.readings.decode import Message
from streams.readings.processor import CounterProcessor, Processor, SampleProcessor
from streams.readings.roster import NEVER_MS
from streams.settings import StreamsSettings

_REDO_MS = 60_000
"""What is over is remembered for so long: far longer than a handled run waits for its commit."""
_LONGEST_REBUILD_MS = 3_600_000
"""Of counters, no more of the log than that is read back, however long ago something was kept."""


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


_STANDING = msgspec.msgpack.Decoder(Standing)


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
            kept = _STANDING.decode(state)
            kept.raised_at = 0 if kept.raised_at > end else kept.raised_at
            kept.cleared_at = 0 if (kept.cleared_at or 0) > end else kept.cleared_at
            self._standing[key] = kept

        recall(memory, self._kind, take_back)
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


_COUNTED = msgspec.msgpack.Decoder(Counted)


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
            counted = _COUNTED.decode(zlib.decompress(state))
            before = newest.get(rule)
            if counted.offset <= first and (before is None or counted.offset > before.offset):
                newest[rule], self._slot = counted, 1 - int(slot)

        recall(memory, "counted", take_back)
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
