"""Incidents to people: each that pages is told once to every channel, whatever dies in between.

The consumer writes what it owes into the outbox and only then commits its offset. Each channel has a thread that takes
from the outbox what is due, so that one which fails keeps no other waiting.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message

from schemas import topics
from schemas.codec import Codec, CodecError, SingleObjectCodec
from schemas.records import DeadLetter, Incident
from sinks import metrics
from sinks.channels.channel import Channel, ChannelModel, DeliveryError
from sinks.dead_letters import DeadLetters
from sinks.outbox import FILE, Outbox, Owed
from sinks.settings import AlertSettings

log = structlog.get_logger()

READER = "sinks.alerts"
_POLL_SECONDS = 0.1
_POLL_RECORDS = 500
_LOOK_SECONDS = 0.1
_STOP_SECONDS = 10.0
_FORGET_SECONDS = 3600.0
_CONSUMER: dict[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    # the first start tells of everything that is still in the topic: rather late than never
    "auto.offset.reset": "earliest",
    "partition.assignment.strategy": "cooperative-sticky",
    "session.timeout.ms": 6_000,
    "heartbeat.interval.ms": 1_000,
    "fetch.wait.max.ms": 50,
}


class AlertsError(Exception):
    """Alerts cannot go on; the message says why."""


def run(
    settings: AlertSettings,
    *,
    kafka: dict[str, Any],
    data_dir: Path,
    stop: threading.Event,
    beat: Callable[[], None],
    topic: str = topics.INCIDENTS,
) -> None:
    """Tell of incidents until `stop` is set. Blocks; `beat` is called several times a second.

    `kafka` is a librdkafka client configuration; the outbox is a file in `data_dir`. Kafka or a channel being away is
    waited out. Raises `OutboxError` where the file cannot be kept, `AlertsError` where Kafka refuses for good.
    """
    enabled = settings.channels.enabled()
    path = data_dir / FILE
    with Outbox(path) as outbox:
        couriers = [_Courier(name, channel, settings, path, stop) for name, channel in enabled.items()]
        try:
            _Intake(settings, enabled, kafka, topic, outbox, stop).run(beat, couriers)
        finally:
            stop.set()
            for courier in couriers:
                courier.join(_STOP_SECONDS)


class _Intake:
    """Kafka to outbox."""

    def __init__(
        self,
        settings: AlertSettings,
        channels: dict[str, ChannelModel],
        kafka: dict[str, Any],
        topic: str,
        outbox: Outbox,
        stop: threading.Event,
    ) -> None:
        self._settings = settings
        self._channels = channels
        self._resolving = [name for name, channel in channels.items() if channel.resolve]
        self._outbox = outbox
        self._stop = stop
        self._codec: Codec = SingleObjectCodec()
        self._letters = DeadLetters(kafka, self._codec)
        self._said: set[str] = set()
        self._topic = topic
        self._consumer = Consumer(
            kafka
            | _CONSUMER
            | {"group.id": settings.group, "error_cb": self._trouble}
            | ({"group.instance.id": settings.instance} if settings.instance else {})
        )

    def run(self, beat: Callable[[], None], couriers: list[_Courier]) -> None:
        self._consumer.subscribe([self._topic])
        forget_due = 0.0
        try:
            while not self._stop.is_set():
                beat()
                self._take_in(self._consumer.consume(_POLL_RECORDS, _POLL_SECONDS))
                for courier in couriers:
                    courier.check()
                if time.monotonic() >= forget_due:
                    self._outbox.forget(self._settings.keep_days, _now_ms())
                    forget_due = time.monotonic() + _FORGET_SECONDS
        finally:
            self._consumer.close()
            self._letters.close()

    def _take_in(self, messages: list[Message]) -> None:
        """Into the outbox first, then the offsets: what is lost of the second only comes again, harmlessly."""
        taken = False
        for message in messages:
            if (error := message.error()) is not None:
                self._trouble(error)
            elif self._take(message):
                self._consumer.store_offsets(message)
                taken = True
            else:
                break
        if taken:
            try:
                self._consumer.commit(asynchronous=False)
            except KafkaException as error:
                self._trouble(error.args[0])

    def _take(self, message: Message) -> bool:
        """Put one record into the outbox, or into the dead letters; False where the process stops before that."""
        try:
            incident = self._codec.decode(message.value(), Incident)
        except CodecError as error:
            return self._refuse(message, error)
        now_ms = _now_ms()
        if incident.page and self._outbox.page(incident, self._channels, now_ms):
            metrics.PAGES.inc()
        if incident.state == "cleared":
            self._outbox.cleared(incident.incident_id, incident.cleared_ms or now_ms, self._resolving, now_ms)
        return True

    def _refuse(self, message: Message, error: CodecError) -> bool:
        metrics.UNREADABLE.labels(error.reason).inc()
        letter = DeadLetter(
            topic=message.topic() or self._topic,
            partition=message.partition() or 0,
            offset=message.offset() or 0,
            reason=error.reason,
            detail=str(error),
            reader=READER,
            key=message.key(),
            value=message.value() or b"",
            observed_ms=_now_ms(),
        )
        log.warning("record refused", topic=letter.topic, offset=letter.offset, reason=error.reason, detail=str(error))
        return self._letters.send([letter], self._stop)

    def _trouble(self, error: KafkaError) -> None:
        """Something is wrong with Kafka. It mends itself or is fatal; each kind is said once."""
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - that is its public name
            return
        if error.fatal():
            raise AlertsError(f"Kafka refuses the alerts' consumer: {error.str()}")
        if error.name() not in self._said:
            self._said.add(error.name())
            log.warning("trouble with Kafka, going on as soon as it is over", error=error.str())


class _Courier:
    """Outbox to one channel, on a thread of its own."""

    def __init__(
        self, name: str, channel: ChannelModel, settings: AlertSettings, path: Path, stop: threading.Event
    ) -> None:
        self._name = name
        self._model = channel
        self._settings = settings
        self._path = path
        self._stop = stop
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"deliver {name}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what ended the thread, where nothing should have."""
        if self._failure is not None:
            raise self._failure

    def join(self, seconds: float) -> None:
        """Wait for the delivery under way."""
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            channel = self._model.open()
            with Outbox(self._path) as outbox:
                while not self._stop.is_set():
                    owed = outbox.due(self._name, _now_ms())
                    if owed is None:
                        metrics.WAITING.labels(self._name).set(outbox.waiting(self._name))
                        self._stop.wait(_LOOK_SECONDS)
                    else:
                        self._deliver(channel, outbox, owed)
        except BaseException as error:  # noqa: BLE001 - the intake ends the process with it
            self._failure = error

    def _deliver(self, channel: Channel, outbox: Outbox, owed: Owed) -> None:
        notice, now_ms = owed.notice, _now_ms()
        try:
            channel.deliver(notice, now_ms)
        except DeliveryError as error:
            self._failed(outbox, owed, error)
            return
        done_ms = _now_ms()
        outbox.delivered(self._name, notice, done_ms)
        metrics.DELIVERED.labels(self._name, notice.kind).inc()
        if notice.kind == "page":
            metrics.FAULT_TO_ALERT_SECONDS.labels(self._name).observe(max(0, notice.delay_ms(done_ms)) / 1000)
        if owed.attempts:
            log.info(
                "alert delivered at last",
                channel=self._name,
                incident_id=notice.incident.incident_id,
                attempts=owed.attempts + 1,
            )

    def _failed(self, outbox: Outbox, owed: Owed, error: DeliveryError) -> None:
        notice, incident_id = owed.notice, owed.notice.incident.incident_id
        metrics.DELIVERY_FAILURES.labels(self._name).inc()
        if not error.may_pass and owed.refusals + 1 >= self._model.refusals:
            log.error(
                "alert given up: the channel refuses it; mend the channel's settings",
                channel=self._name,
                incident_id=incident_id,
                title=notice.incident.title,
                attempts=owed.attempts + 1,
                error=str(error),
            )
            metrics.GIVEN_UP.labels(self._name).inc()
            outbox.given_up(self._name, notice, _now_ms(), str(error))
            return
        seconds = pause_seconds(
            owed.attempts,
            first=self._settings.retry_first_seconds,
            longest=self._settings.retry_max_seconds,
            asked=error.after_seconds,
            chance=random.random(),  # noqa: S311 - spreads retries, guards nothing
        )
        log.warning(
            "alert not delivered, kept and tried again",
            channel=self._name,
            incident_id=incident_id,
            attempts=owed.attempts + 1,
            again_in_seconds=round(seconds, 1),
            error=str(error),
        )
        due_ms = _now_ms() + int(seconds * 1000)
        outbox.failed(self._name, notice, due_ms=due_ms, refused=not error.may_pass, error=str(error))


def pause_seconds(attempts: int, *, first: float, longest: float, asked: float | None, chance: float) -> float:
    """How long to wait after failed attempt number `attempts` (from 0): doubling up to `longest`, spread by ±20 %.

    `chance` is a random number from 0 to 1. What the other side `asked` for is a lower bound, within `longest`.
    """
    pause = min(longest, first * 2.0 ** min(attempts, 60)) * (0.8 + 0.4 * chance)
    return min(longest, max(pause, asked or 0))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
