"""Sends records to Kafka and loses none while the process lives.

The producer never gives up on a record. While no broker answers, records go to the spool on disk instead of to memory,
so that even a kill costs little; when a broker is back the spool is sent first-in first-out per topic, events before
samples, and a topic's new records queue behind its old ones until these are on their way.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from functools import partial
from itertools import count
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Any

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from producers import metrics
from producers.spool import MIB, Entry, Spool
from schemas.codec import Codec, SingleObjectCodec
from schemas.records import Record
from schemas.topics import COUNTERS, EVENTS, FACILITY, INVENTORY, NODE_SAMPLES, SAMPLES

if TYPE_CHECKING:
    from producers.settings import PublisherSettings

log = structlog.get_logger()

PRECIOUS_LAST = (SAMPLES, FACILITY, NODE_SAMPLES, COUNTERS, INVENTORY, EVENTS)
"""What a node sends, the first to be given up in front: samples come again, an event does not."""
_REPLAY_WINDOW = 2000
"""Records of the spool under way at once: some 2 MB, enough to fill requests and far less than the queue."""
_PROBE_WINDOW = 100
"""The same while no broker answers: enough to notice that one does."""
_BACKOFF_S = 5.0
"""Pause after a delivery that failed for good (a topic that is not there, a login that may not write to it)."""


_NEVER = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE, KafkaError.INVALID_RECORD})
"""What a broker says of a record that it will not take however often it is sent."""


class _Outcome(Enum):
    SENT = auto()
    LATER = auto()
    NEVER = auto()


class PublishError(RuntimeError):
    """Records cannot be sent and there is no spool to keep them; the message names topic and reason."""


class Sequences:
    """The next sequence number per topic: starts at 0 with each boot id and survives a restart of the process.

    With a `path` every number taken is written there, eight bytes into the page cache: after `kill -9` numbering goes
    on where it stopped, so what readers see as a gap is a loss and nothing else.
    """

    _NUMBER = Struct("<q")
    _HEAD_BYTES = 256

    def __init__(self, boot_id: str, topics: Sequence[str] = PRECIOUS_LAST, path: Path | None = None) -> None:
        self._next = dict.fromkeys(topics, 0)
        self._place = {topic: self._HEAD_BYTES + i * self._NUMBER.size for i, topic in enumerate(topics)}
        self._file: int | None = None
        if path is None:
            return
        head = "\n".join((boot_id, *topics)).encode()[: self._HEAD_BYTES].ljust(self._HEAD_BYTES)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        kept = os.pread(self._file, self._HEAD_BYTES + len(topics) * self._NUMBER.size, 0)
        if kept.startswith(head) and len(kept) == self._HEAD_BYTES + len(topics) * self._NUMBER.size:
            for topic, place in self._place.items():
                self._next[topic] = self._NUMBER.unpack_from(kept, place)[0]
        else:
            os.pwrite(self._file, head + self._NUMBER.pack(0) * len(topics), 0)

    def take(self, topic: str) -> int:
        """The number of the next record of a topic."""
        number = self._next[topic]
        self._next[topic] = number + 1
        if self._file is not None:
            os.pwrite(self._file, self._NUMBER.pack(number + 1), self._place[topic])
        return number

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class Publisher:
    """One Kafka producer and, where a spool is given, the disk behind it. Not thread-safe: one thread owns it.

    `kafka` is librdkafka client configuration. `poll` has to be called often (each second at least): it takes in what
    the broker says and sends from the spool. Without a spool `send` says False when memory is full, and the caller
    waits.
    """

    def __init__(
        self,
        kafka: Mapping[str, Any],
        settings: PublisherSettings,
        *,
        spool: Spool | None = None,
        codec: Codec | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = {**kafka, **_producer_config(settings), "error_cb": self._on_error}
        self._queue_records = settings.queue_records
        self._spool = spool
        self._codec = codec or SingleObjectCodec()
        self._clock = clock
        self._producer = Producer(self._config)
        self._numbers = count()
        self._away = False
        self._emptied = False
        """While away: memory was handed to the spool."""
        self._live: Counter[str] = Counter()
        """Records in memory and nowhere else, by topic."""
        self._renew_because: KafkaError | None = None
        self._returned: dict[str, list[tuple[int, bytes, bytes]]] = {}
        """Live records that the producer handed back, with the order in which they were sent."""
        self._replays: Counter[str] = Counter()
        """Records of the spool under way, by topic."""
        self._failed_lanes: set[str] = set()
        self._retry_at = 0.0
        self._lost: Counter[tuple[str, str]] = Counter()
        self._last_error: int | None = None
        self.delivered = 0
        """Records that the broker acknowledged."""
        self.failed = 0
        """Deliveries that ended in an error."""

    @property
    def away(self) -> bool:
        """Whether no broker answers, as far as is known."""
        return self._away

    @property
    def queued(self) -> int:
        """Records in memory that are not acknowledged."""
        return len(self._producer)

    def unsafe(self, topic: str) -> int:
        """Records of a topic that a kill would lose: in memory, not acknowledged, not on disk."""
        return self._live[topic]

    @property
    def catching_up(self) -> bool:
        """Whether records of the spool can be sent now: then `poll` wants to be called more often."""
        return self._spool is not None and len(self._spool) > 0 and not self._away

    def publish(self, topic: str, key: str, record: Record) -> bool:
        """Encode a record and send it; `send` says what the answer means."""
        return self.send(topic, key.encode(), self._codec.encode(record))

    def send(self, topic: str, key: bytes, value: bytes) -> bool:
        """Hand over one encoded record. Does not block. False only without a spool: memory is full, try again later.

        Raises `PublishError` only without a spool, where the topic cannot be written to.
        """
        if self._spool is None or not (self._away or self._spool.waits(topic)):
            outcome = self._produce(topic, key, value, partial(self._on_delivery, next(self._numbers)))
            if outcome is _Outcome.SENT:
                self._live[topic] += 1
            if outcome is not _Outcome.LATER:
                return True
        if self._spool is None:
            return False
        self._spool.append(topic, key, value)
        metrics.SPOOLED.labels(topic).inc()
        return True

    def poll(self, timeout_s: float = 0.0) -> None:
        """Take in deliveries, waiting for the first at most `timeout_s`; then send from the spool what fits."""
        self._producer.poll(timeout_s)
        if self._renew_because is not None:
            self._renew(self._renew_because)
        if self._spool is not None:
            if self._away and not self._emptied:
                self._emptied = True
                self._hand_back()
            self._keep_returned(self._spool)
            self._replay(self._spool)
            metrics.SPOOL_BYTES.set(self._spool.size)
        metrics.QUEUE.set(len(self._producer))

    def drops(self) -> dict[tuple[str, str], int]:
        """Records lost since this was last asked, by topic and reason: spool_full, torn, refused, no_spool."""
        found = self._lost + Counter(self._spool.drops() if self._spool is not None else {})
        self._lost.clear()
        for (topic, reason), lost in found.items():
            metrics.DROPPED.labels(topic, reason).inc(lost)
        return dict(found)

    def close(self, timeout_s: float, beat: Callable[[], None] = lambda: None) -> int:
        """Wait for the broker at most `timeout_s`; the rest goes to the spool. Returns how many records that were."""
        deadline = self._clock() + timeout_s
        while (left := deadline - self._clock()) > 0 and len(self._producer) and not self._away:
            beat()
            self._producer.flush(min(left, 0.25))
        remaining = len(self._producer)
        if remaining:
            self._hand_back()
        if self._spool is not None:
            self._keep_returned(self._spool)
        return remaining

    def _produce(self, topic: str, key: bytes, value: bytes, delivered: Callable[[Any, Message], None]) -> _Outcome:
        try:
            self._producer.produce(topic, value, key, on_delivery=delivered)
        except BufferError:
            return _Outcome.LATER
        except KafkaException as error:
            why: KafkaError = error.args[0]
            if why.code() in _NEVER:
                self._refused(topic, why)
                return _Outcome.NEVER
            if self._spool is None and not why.fatal():
                raise PublishError(f"cannot send to topic {topic}: {why.str()}") from error
            self._retry_at = self._clock() + _BACKOFF_S
            return _Outcome.LATER
        return _Outcome.SENT

    def _replay(self, spool: Spool) -> None:
        for topic in [topic for topic in self._failed_lanes if not self._replays[topic]]:
            spool.rewind(topic)
            self._failed_lanes.discard(topic)
        if self._clock() < self._retry_at:
            return
        window = _PROBE_WINDOW if self._away else _REPLAY_WINDOW
        room = min(window - self._replays.total(), self._queue_records // 2 - len(self._producer))
        for topic in spool.waiting():
            if room <= 0:
                return
            if topic in self._failed_lanes:
                continue
            entries = spool.take(topic, room)
            room -= len(entries)
            for entry in entries:
                outcome = self._produce(topic, entry.key, entry.value, partial(self._on_replayed, entry))
                if outcome is _Outcome.LATER:
                    self._failed_lanes.add(topic)
                    break
                if outcome is _Outcome.NEVER:
                    spool.settle(entry)
                else:
                    self._replays[topic] += 1

    def _on_delivery(self, number: int, error: KafkaError | None, message: Message) -> None:
        topic = message.topic() or ""
        self._live[topic] -= 1
        if error is None:
            self._arrived(topic)
            return
        self._not_arrived(topic, error)
        if self._is_for_good(error):
            self._refused(topic, error)
        elif self._spool is None:
            self._lost[topic, "no_spool"] += 1
        else:
            self._returned.setdefault(topic, []).append((number, message.key() or b"", message.value() or b""))

    def _on_replayed(self, entry: Entry, error: KafkaError | None, _: Message) -> None:
        self._replays[entry.topic] -= 1
        if error is None:
            self._arrived(entry.topic)
        else:
            self._not_arrived(entry.topic, error)
            if not self._is_for_good(error):
                self._failed_lanes.add(entry.topic)
                return
            self._refused(entry.topic, error)
        if self._spool is not None:
            self._spool.settle(entry)

    def _arrived(self, topic: str) -> None:
        self.delivered += 1
        metrics.DELIVERED.labels(topic).inc()
        if self._away:
            self._away = self._emptied = False
            self._last_error = None
            log.info("kafka answers again", spooled=len(self._spool) if self._spool is not None else 0)

    def _not_arrived(self, topic: str, error: KafkaError) -> None:
        self.failed += 1
        metrics.FAILED.labels(topic).inc()
        if error.code() not in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT, *_NEVER):  # noqa: SLF001 - so named
            self._retry_at = self._clock() + _BACKOFF_S
            self._tell(error, topic=topic)

    def _is_for_good(self, error: KafkaError) -> bool:
        """Whether this very record can never be sent."""
        if error.code() != KafkaError.MSG_SIZE_TOO_LARGE or "batch.num.messages" in self._config:
            return error.code() in _NEVER
        # the topic's max.message.bytes is about a whole batch: send one by one from here on, and see which it is
        self._renew_because = error
        return False

    def _refused(self, topic: str, error: KafkaError) -> None:
        log.error("kafka will never take this record", topic=topic, error=error.str())
        self._lost[topic, "refused"] += 1

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._renew_because = error
        if error.code() == KafkaError._ALL_BROKERS_DOWN and not self._away:  # noqa: SLF001
            self._away = True
            where = "memory" if self._spool is None else "the spool on disk"
            log.warning("kafka is away", records_go_to=where, error=error.str())
        elif not self._away:
            self._tell(error)

    def _tell(self, error: KafkaError, **about: str) -> None:
        """Once per kind of error, until a delivery succeeds after the broker was away."""
        if error.code() != self._last_error:
            self._last_error = error.code()
            log.warning("kafka refused or failed", error=error.str(), **about)

    def _keep_returned(self, spool: Spool) -> None:
        for topic, records in self._returned.items():
            records.sort()
            spool.prepend(topic, [(key, value) for _, key, value in records])
            metrics.SPOOLED.labels(topic).inc(len(records))
        self._returned.clear()

    def _hand_back(self) -> None:
        """Make the producer return everything it holds through the delivery callbacks."""
        self._producer.purge(in_queue=True, in_flight=True, blocking=True)
        self._producer.flush(1.0)

    def _renew(self, error: KafkaError) -> None:
        """Begin with a new producer: after a fatal error (the broker lost what it had acknowledged) the old is dead."""
        log.warning("the kafka producer is renewed", error=error.str())
        self._hand_back()
        self._renew_because = None
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            self._config["batch.num.messages"] = 1
        self._producer = Producer(self._config)


def _producer_config(settings: PublisherSettings) -> dict[str, Any]:
    return {
        "enable.idempotence": True,
        "acks": "all",
        "compression.type": settings.compression,
        # agrees with the Java and aiokafka default, so that a key has one partition whoever writes it
        "partitioner": "murmur2_random",
        "linger.ms": settings.linger_ms,
        "message.timeout.ms": 0,  # never give up on a record
        "queue.buffering.max.messages": settings.queue_records,
        "queue.buffering.max.kbytes": max(settings.queue_records * 4096, 16 * MIB) // 1024,
        "reconnect.backoff.max.ms": 2000,  # a broker that is back is noticed within two seconds
        "log_level": 0,  # what matters comes through the callbacks, in our own log format
    }
