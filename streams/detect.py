"""One partition's samples, from bytes to anomalies: decode, gather into ticks, run the detectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from schemas.catalog.metrics import metrics
from schemas.codec import SingleObjectCodec
from schemas.records import Anomaly
from streams.detectors import build
from streams.samples import Message, Rejected, SampleDecoder
from streams.settings import StreamsSettings
from streams.ticks import Tick, TickWindow


class Findings(NamedTuple):
    """What one run led to."""

    anomalies: list[Anomaly]
    rejected: list[Rejected]
    readings: int
    """GPU readings decoded."""
    late: int
    """Messages that came after their tick had closed."""


class SampleProcessor:
    """The state of one partition of `gpu.samples`: open ticks and detectors. The same log gives the same anomalies,
    wherever its runs are cut; a run given twice changes nothing.
    """

    def __init__(self, settings: StreamsSettings, codec: SingleObjectCodec) -> None:
        self._decode = SampleDecoder(codec, settings.future_ms)
        self._window = TickWindow(settings.tick_ms, settings.grace_ms)
        self._detectors = build(metrics(), silence_ms=settings.silence_ms, tick_ms=settings.tick_ms)

    def restore(self, standing: Iterable[Anomaly]) -> None:
        """Go on with just these anomalies raised: the windows say how the last minutes went, not what was written."""
        standing = list(standing)
        for detector in self._detectors:
            detector.restore(standing, self._window.roster)

    @property
    def newest_ms(self) -> int:
        """The highest tick met, by the broker's clock."""
        return self._window.newest_ms

    def run(self, messages: Sequence[Message]) -> Findings:
        """Take a run of messages in. Never raises for what the bytes hold."""
        columns, rejected = self._decode(messages)
        if columns is None:
            return Findings([], rejected, 0, 0)
        late_before = self._window.late_messages
        anomalies = list(self._detect(self._window.add(columns)))
        return Findings(anomalies, rejected, len(columns.gpu_code), self._window.late_messages - late_before)

    def advance(self, to_ms: int) -> list[Anomaly]:
        """Let time go on to `to_ms` without messages: the partition has gone quiet, and the clock says so."""
        return list(self._detect(self._window.advance(to_ms)))

    def _detect(self, ticks: Iterable[Tick]) -> Iterator[Anomaly]:
        for tick in ticks:
            for detector in self._detectors:
                yield from detector.update(tick)
