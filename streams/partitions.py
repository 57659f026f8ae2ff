"""What a worker holds for one partition, and what it has to keep to go on with it elsewhere.

These are the cores of the stream processors with their memory: pure but for the bytes that `memory` gives to be kept.
A memory entry is kept under `kind|id`; `None` lets it go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from schemas.catalog import Catalog
from schemas.catalog.causes import Causes
from schemas.codec import CodecError, SingleObjectCodec
from schemas.records import Anomaly, DeadLetter, Fault, HardwareEvent, Incident, Record
from schemas.topics import ANOMALIES, EVENTS, FAULTS
from streams.correlate import Correlator
from streams.detect import SampleProcessor
from streams.faults import FaultBook
from streams.samples import Message, Rejected
from streams.settings import StreamsSettings
from streams.topology import Topology

Memory = dict[str, bytes | None]


@dataclass(slots=True)
class Outcome:
    """What a run led to: records to write, in order; messages that could not be used; memory to keep afterwards."""

    records: list[Record] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    memory: Memory = field(default_factory=dict)
    readings: int = 0
    late: int = 0


class SamplePartition:
    """One partition of `gpu.samples`: windows, detectors, and the anomalies that stand."""

    def __init__(self, settings: StreamsSettings, codec: SingleObjectCodec, memory: Mapping[str, bytes]) -> None:
        self._settings = settings
        standing = (msgspec.msgpack.decode(state, type=Anomaly) for state in _of_kind(memory, "standing").values())
        self._processor = SampleProcessor(settings, codec, standing)
        self.next_offset = 0
        self._quiet_since_ms: int | None = None
        """By the clock: since when nothing has come."""
        self._newest_then_ms = 0

    def rebuild(self, messages: Sequence[Message]) -> None:
        """Take in what was handled before, to fill the windows; nothing is written."""
        self._processor.run(messages)

    def run(self, messages: Sequence[Message], now_ms: int) -> Outcome:
        """Take a run in."""
        findings = self._processor.run(messages)
        self.next_offset = messages[-1].offset + 1
        self._quiet_since_ms, self._newest_then_ms = now_ms, self._processor.newest_ms
        return Outcome(
            list(findings.anomalies), findings.rejected, _standing(findings.anomalies), findings.readings, findings.late
        )

    def idle(self, now_ms: int) -> bool:
        """Whether nothing has come for so long that the clock has to judge."""
        return self._quiet_since_ms is not None and now_ms - self._quiet_since_ms > self._settings.idle_ms

    def advance(self, now_ms: int) -> Outcome:
        """Nothing comes and nothing waits: let the partition's time go on with the clock."""
        if self._quiet_since_ms is None:
            return Outcome()
        gone_ms = now_ms - self._quiet_since_ms
        anomalies = self._processor.advance(self._newest_then_ms + gone_ms - self._settings.grace_ms)
        return Outcome(list(anomalies), memory=_standing(anomalies))


class FaultPartition:
    """One partition of hardware events and anomalies: the open faults of its racks."""

    def __init__(
        self, catalog: Catalog, topology: Topology, codec: SingleObjectCodec, memory: Mapping[str, bytes]
    ) -> None:
        self._codec = codec
        self._book = FaultBook(catalog, topology)
        for key, state in _of_kind(memory, "fault").items():
            self._book.restore(key, state)
        self._applied = _applied(memory, EVENTS, ANOMALIES)

    def __len__(self) -> int:
        return len(self._book)

    def run(self, messages: Sequence[Message]) -> Outcome:
        """Take a run of one of the two topics in. Records that were folded in before are passed over."""
        outcome = Outcome()
        for message in _new(messages, self._applied):
            try:
                if message.topic == EVENTS:
                    event = self._codec.decode(message.value, HardwareEvent)
                    outcome.records += self._book.on_event(event, message.timestamp)
                else:
                    anomaly = self._codec.decode(message.value, Anomaly)
                    outcome.records += self._book.on_anomaly(anomaly, message.timestamp)
            except CodecError as error:
                outcome.rejected.append(Rejected(message, error.reason, str(error)))
        outcome.memory = _kept("fault", self._book.changes()) | _offsets(self._applied)
        return outcome

    def advance(self, now_ms: int) -> Outcome:
        """Let time go on."""
        written = self._book.advance(now_ms)
        return Outcome(list(written), memory=_kept("fault", self._book.changes()))


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
    ) -> None:
        self._codec = codec
        self._correlator = Correlator(catalog, table, topology, settle_ms=settings.settle_ms)
        for state in _of_kind(memory, "incident").values():
            self._correlator.restore(state)
        self._applied = _applied(memory, FAULTS)

    def __len__(self) -> int:
        return len(self._correlator)

    def run(self, messages: Sequence[Message], now_ms: int) -> Outcome:
        """Take a run in."""
        outcome = Outcome()
        for message in _new(messages, self._applied):
            try:
                self._correlator.on_fault(self._codec.decode(message.value, Fault), now_ms)
            except CodecError as error:
                outcome.rejected.append(Rejected(message, error.reason, str(error)))
        outcome.records += self._correlator.advance(now_ms)
        outcome.memory = _kept("incident", self._correlator.changes()) | _offsets(self._applied)
        return outcome

    def advance(self, now_ms: int) -> Outcome:
        """Let time go on."""
        written: list[Incident] = self._correlator.advance(now_ms)
        return Outcome(list(written), memory=_kept("incident", self._correlator.changes()))


def dead_letter(rejected: Rejected, reader: str, now_ms: int) -> DeadLetter:
    """The record for a message that could not be used."""
    message = rejected.message
    return DeadLetter(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        reason=rejected.reason,
        detail=rejected.detail,
        reader=reader,
        key=message.key,
        value=message.value or b"",
        observed_ms=now_ms,
    )


def _of_kind(memory: Mapping[str, bytes], kind: str) -> dict[str, bytes]:
    return {key.partition("|")[2]: state for key, state in memory.items() if key.partition("|")[0] == kind}


def _kept(kind: str, changes: Mapping[str, bytes | None]) -> Memory:
    return {f"{kind}|{key}": state for key, state in changes.items()}


def _standing(anomalies: Iterable[Anomaly]) -> Memory:
    return {f"standing|{a.anomaly_id}": msgspec.msgpack.encode(a) if a.state == "raised" else None for a in anomalies}


def _applied(memory: Mapping[str, bytes], *topics: str) -> dict[str, int]:
    """The highest offset of each topic that the memory already holds."""
    return {topic: int(memory.get(f"applied|{topic}", b"-1")) for topic in topics}


def _offsets(applied: Mapping[str, int]) -> Memory:
    return {f"applied|{topic}": str(offset).encode() for topic, offset in applied.items()}


def _new(messages: Sequence[Message], applied: dict[str, int]) -> Iterable[Message]:
    for message in messages:
        if message.offset > applied[message.topic]:
            applied[message.topic] = message.offset
            yield message
