"""Look at a running pipeline from outside, as any client could: Prometheus pages, Kafka topics, ClickHouse views.

Three threads look at their own pace, so that one slow part delays no other; `seen` gives the newest of each.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from infra import addresses
from infra.commands.roles import ALERTS_FOLDER
from infra.demo.scorecard import Injected, Told, fold, read_truth, score
from infra.demo.seen import Delivered, GpuNow, Hop, Seen, hops
from infra.presence import Presence, ask, present
from infra.settings import Settings
from schemas.codec import CodecError, SingleObjectCodec
from schemas.records import Incident
from schemas.topics import INCIDENTS
from sinks.outbox import deliveries

log = structlog.get_logger()

_SCRAPE_SECONDS = 1.0
_ASK_SECONDS = 1.5
_RATE_LOOKS = 5
"""Rates are taken over so many scrapes: one tick a second makes shorter ones jump."""
_FLEET = """
SELECT rack, node, gpu_index, gpu, temperature_celsius, age_seconds, worst_severity
FROM fleet_now
"""


class Watch:
    """Watches the pipeline of one data directory while inside."""

    def __init__(self, settings: Settings, *, site: str, truth: Path, expected: int) -> None:
        self._settings = settings
        self._site = site
        self._truth = truth
        self._expected = expected
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._told: dict[str, Told] = {}
        self._hops: list[Hop] = []
        self._gpus: list[GpuNow] = []
        self._problems: dict[str, str] = {}
        self._looks: deque[tuple[float, dict[str, float]]] = deque(maxlen=_RATE_LOOKS + 1)
        self._threads = [
            threading.Thread(target=self._keep, args=(name, work, pause), name=f"watch-{name}", daemon=True)
            for name, work, pause in (
                ("metrics", self._scrape, _SCRAPE_SECONDS),
                ("incidents", self._follow_incidents, 1.0),
                ("history", self._ask_history, _ASK_SECONDS),
            )
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(5)

    def injected(self) -> list[Injected]:
        """What the simulation has broken so far."""
        with suppress(FileNotFoundError), self._truth.open("rb") as lines:
            return read_truth(lines)
        return []

    def seen(self) -> Seen:
        """The newest of everything."""
        injected = self.injected()
        delivered = delivered_alerts(self._settings)
        with self._lock:
            told = dict(self._told)
            return Seen(
                hops=self._hops,
                gpus=self._gpus,
                told=told,
                injected=injected,
                delivered=delivered,
                # a real node that joined is shown, and is no part of the experiment
                card=score(
                    injected,
                    [one for one in told.values() if one.newest.site == self._site],
                    expected=self._expected,
                    # the first channel that took it
                    alerted_ms={one.incident_id: one.at_ms for one in reversed(delivered)},
                ),
                problems=list(self._problems.values()),
            )

    def _keep(self, name: str, work: Callable[[], None], pause: float) -> None:
        """Do `work` again and again; that it fails (a part is being started again) is shown, and tried again."""
        while not self._stop.is_set():
            try:
                work()
                problem = ""
            except Exception as error:  # noqa: BLE001 - whatever a part that is away makes its client raise
                problem = (
                    f"{name} cannot be looked at: {str(error).strip().splitlines()[0][:120] if str(error) else error!r}"
                )
            with self._lock:
                self._problems.pop(name, None)
                if problem:
                    self._problems[name] = problem
            self._stop.wait(pause)

    def _scrape(self) -> None:
        totals: dict[str, float] = {}
        for one in present(self._settings.data_dir.absolute()).values():
            with suppress(OSError):  # just ended
                _add_metrics(totals, one)
        now = time.monotonic()
        self._looks.append((now, totals))
        then, before = self._looks[0]
        with self._lock:
            self._hops = hops(totals, before, now - then)

    def _follow_incidents(self) -> None:
        consumer = Consumer(
            {
                **addresses.kafka_client(self._settings),
                "group.id": "fleetpulse-demo-view",
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        codec = SingleObjectCodec()
        try:
            partitions = consumer.list_topics(INCIDENTS, timeout=10).topics[INCIDENTS].partitions
            consumer.assign([TopicPartition(INCIDENTS, number, OFFSET_BEGINNING) for number in partitions])
            while not self._stop.is_set():
                message = consumer.poll(0.3)
                if message is None:
                    continue
                if message.error():
                    raise KafkaException(message.error())
                with suppress(CodecError):
                    revision = codec.decode(message.value(), Incident)
                    with self._lock:
                        fold(self._told, revision)
        finally:
            consumer.close()

    def _ask_history(self) -> None:
        with addresses.analyst(self._settings)() as client:
            while not self._stop.wait(_ASK_SECONDS):
                rows = client.query(_FLEET).result_rows
                gpus = [
                    GpuNow(rack, node, int(index), gpu, float(celsius), float(age or 1e9), severity)
                    for rack, node, index, gpu, celsius, age, severity in rows
                ]
                with self._lock:
                    self._gpus = gpus
                    self._problems.pop("history", None)


def _add_metrics(totals: dict[str, float], process: Presence) -> None:
    """Add a process's metrics to `totals`, by name and, where kept by topic, by `name{topic}` too."""
    text = ask(process, "/metrics")[1].decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.startswith("fleetpulse_"):
                continue
            totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
            if topic := sample.labels.get("topic"):
                key = f"{sample.name}{{{topic}}}"
                totals[key] = totals.get(key, 0.0) + sample.value


def delivered_alerts(settings: Settings) -> list[Delivered]:
    """The pages that were delivered, oldest first, from the outbox of the alerts process."""
    found = deliveries(settings.data_dir.absolute() / ALERTS_FOLDER)
    return [
        Delivered(one.incident_id, one.delivered_ms, one.title, one.channel, one.delay_ms / 1000)
        for one in found
        if one.kind == "page"
    ]
