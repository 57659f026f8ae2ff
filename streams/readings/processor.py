"""One partition's readings, from bytes to anomalies: decode, gather into ticks, run the detectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from schemas.catalog.metrics import WatchList, watch_list
from schemas.codec import SingleObjectCodec
from schemas.records import Anomaly
from streams.detectors import Detector, of_counters, of_samples
from streams.detectors.counter_rate import Kept, Spans
from streams.detectors.limits import Inventory
from streams.readings.decode import Message, Rejected, SampleDecoder
from streams.readings.tables import SAMPLE_TABLE, Table, counter_table
from streams.readings.ticks import Tick, TickWindow
from streams.settings import StreamsSettings


class Findings(NamedTuple):
    """What one run led to."""

    anomalies: list[Anomaly]
    rejected: list[Rejected]
    readings: int
    """GPU readings decoded."""
    late: int
    """Messages that came after their tick had closed."""


class Processor:
    """The state of one partition of a table: open ticks and detectors. The same log gives the same anomalies, wherever
    its runs are cut; a run given twice changes nothing.
    """

    def __init__(self, table: Table, window: TickWindow, detectors: Sequence[Detector], decode: SampleDecoder) -> None:
        self.table = table
        self._window, self._detectors, self._decode = window, detectors, decode

    def restore(self, standing: Iterable[Anomaly]) -> None:
        """Go on with just these anomalies raised: the windows say how the last minutes went, not what was written."""
        standing = list(standing)
        for detector in self._detectors:
            detector.restore(standing, self._window.roster)

    @property
    def newest_ms(self) -> int:
        """The highest tick met, by the broker's clock."""
        return self._window.newest_ms

    @property
    def closed_ms(self) -> int:
        """The highest tick that detectors have seen, or would have."""
        return self._window.closed_ms

    def run(self, messages: Sequence[Message]) -> Findings:
        """Take a run of messages in. Never raises for what the bytes hold."""
        columns, rejected = self._decode(messages)
        if columns is None:
            return Findings([], rejected, 0, 0)
        late_before = self._window.late_messages
        anomalies = list(self._detect(self._window.add(columns)))
        readings = int(columns.gpu_count[columns.usable].sum())
        return Findings(anomalies, rejected, readings, self._window.late_messages - late_before)

    def advance(self, to_ms: int) -> list[Anomaly]:
        """Let time go on to `to_ms` without messages: the partition has gone quiet, and the clock says so."""
        return list(self._detect(self._window.advance(to_ms)))

    def _detect(self, ticks: Iterable[Tick]) -> Iterator[Anomaly]:
        for tick in ticks:
            for detector in self._detectors:
                yield from detector.update(tick)


class SampleProcessor(Processor):
    """One partition of `gpu.samples`."""

    def __init__(
        self,
        settings: StreamsSettings,
        codec: SingleObjectCodec,
        watched: WatchList | None = None,
        inventory: Inventory | None = None,
    ) -> None:
        detectors = of_samples(
            watched or watch_list(), silence_ms=settings.silence_ms, tick_ms=settings.tick_ms, inventory=inventory
        )
        window = TickWindow(settings.tick_ms, settings.grace_ms)
        super().__init__(SAMPLE_TABLE, window, detectors, SampleDecoder(codec, settings.future_ms))


class CounterProcessor(Processor):
    """One partition of `gpu.counters`. Spans are longer than the log that is read back after a restart, so what they
    have counted is kept: little, since most counters of most GPUs stand still.
    """

    def __init__(
        self,
        settings: StreamsSettings,
        codec: SingleObjectCodec,
        watched: WatchList | None = None,
        inventory: Inventory | None = None,
    ) -> None:
        watched = watched or watch_list()
        table, tick_ms = counter_table(watched.counter_columns()), settings.counters_tick_ms
        detectors = of_counters(watched, table, tick_ms=tick_ms, inventory=inventory)
        window = TickWindow(tick_ms, settings.counters_grace_ms, table)
        super().__init__(table, window, detectors, SampleDecoder(codec, settings.future_ms, table))
        self._spans: dict[str, Spans] = {
            key: spans for detector in detectors for key, spans in getattr(detector, "spans", {}).items()
        }

    def keep(self) -> dict[str, Kept]:
        """What the spans have counted, by rule and counter."""
        return {key: spans.keep() for key, spans in self._spans.items()}

    def recall(self, kept: Mapping[str, Kept]) -> None:
        """Go on from what was kept. Ticks up to then, which are given next, say only where the counters stand."""
        for key, spans in self._spans.items():
            if key in kept:
                spans.recall(kept[key])
