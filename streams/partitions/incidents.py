"""Partitions of faults: the open incidents of their sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from schemas.catalog import Catalog
from schemas.catalog.causes import Causes
from schemas.codec import CodecError, SingleObjectCodec
from schemas.records import Fault, Incident
from schemas.topics import FAULTS
from streams.correlation import KINDS, Correlator
from streams.partitions.memory import applied_offsets, fresh, kept_offsets, recall
from streams.partitions.outcome import Outcome
from streams.partitions.words import checked
from streams.readings.decode import Message, Rejected
from streams.settings import StreamsSettings
from streams.topology import Topology


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
            recall(memory, kind, partial(self._take_back, kind))
        self._correlator.restored()
        self._applied = applied_offsets(memory, ends, FAULTS)

    def __len__(self) -> int:
        return len(self._correlator)

    def _take_back(self, kind: str, _: str, state: bytes) -> None:
        self._correlator.restore(kind, state)

    def run(self, messages: Sequence[Message], now_ms: int) -> Outcome:
        """Take a run in."""
        outcome = Outcome()
        for message in fresh(messages, self._applied):
            try:
                self._correlator.on_fault(checked(self._codec.decode(message.value, Fault)), now_ms)
            except CodecError as error:
                outcome.rejected.append(Rejected(message, error.reason, str(error)))
        outcome.records += self._correlator.advance(now_ms)
        outcome.memory = self._correlator.changes() | kept_offsets(self._applied)
        return outcome

    def advance(self, now_ms: int) -> Outcome:
        """Let time go on."""
        written: list[Incident] = self._correlator.advance(now_ms)
        return Outcome(list(written), memory=self._correlator.changes())
