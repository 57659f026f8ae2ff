"""One partition's way into ClickHouse: say what will be written, write it, say that it is written.

1. Commit the batch's first offset with its `Intent` (the range) as metadata.
2. Insert it with a token made of the same range.
3. Commit the offset after it, with the next batch's intent where one waits (then steps 3 and 1 are one commit).

Killed anywhere between, the next owner finds the intent and does exactly that batch again (`clickhouse/reconcile.py`).
Each partition has a thread of its own, so a slow topic keeps nobody else waiting.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cramjam
import structlog
from clickhouse_connect.driver.exceptions import Error as ClickHouseError
from clickhouse_connect.driver.exceptions import ProgrammingError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_when_event_set,
    wait_exponential_jitter,
)

from schemas import container
from schemas.codec import Codec
from schemas.records import DeadLetter
from sinks import metrics
from sinks.batches import Batch, Entry
from sinks.clickhouse import reconcile
from sinks.clickhouse.insert import Client, Insert, RejectedError, write
from sinks.clickhouse.tables import Once, Route
from sinks.commits import Commits, PartitionGoneError
from sinks.dead_letters import READER, DeadLetters
from sinks.outage import Outage

log = structlog.get_logger()

_READY_BATCHES = 1


class _OverError(Exception):
    """This thread's work is over: the partition went to another loader, or the process stops."""


@dataclass(frozen=True, slots=True)
class Hands:
    """What the partitions of one loader share. All of it may be used by many threads at once."""

    commits: Commits
    connect: Callable[[], Client]
    codec: Codec
    letters: DeadLetters
    outage: Outage
    database: str
    compression: str
    retry_max_seconds: float
    now_ms: Callable[[], int]


class PartitionLoader:
    """Writes the batches of one partition, in order, on its own thread, from assignment to revocation.

    Memory: `_READY_BATCHES` batches wait at most, where its owner heeds `full`; one is being written.
    """

    def __init__(
        self, route: Route, partition: int, topic_id: str, hands: Hands, begun: tuple[int, int] | None
    ) -> None:
        """`begun`: first and last offset of the intent that is committed already, if there is one."""
        self.route = route
        self.partition = partition
        self.failure: BaseException | None = None
        """What ended the thread where nothing should have."""
        self.loaded: int | None = None
        """Offset up to which everything is in ClickHouse, exclusive."""
        self._topic_id = topic_id
        self._hands = hands
        self._begun = begun
        self._batches: deque[tuple[Batch, int]] = deque()
        self._news = threading.Condition()
        self._over = threading.Event()
        self._client: Client | None = None
        self._busy = False
        self._compress = _COMPRESSORS[hands.compression]
        self._retrying = Retrying(
            retry=retry_if_exception(may_pass),
            wait=wait_exponential_jitter(multiplier=0.2, max=hands.retry_max_seconds, jitter=0.3),
            stop=stop_when_event_set(self._over),
            sleep=sleep_using_event(self._over),
            reraise=True,
        )
        self._claim = hands.commits.claim(route.topic, partition)
        self._thread = threading.Thread(target=self._run, name=f"load {route.topic}/{partition}", daemon=True)
        self._thread.start()

    @property
    def full(self) -> bool:
        """Whether no more batches should be put."""
        return len(self._batches) >= _READY_BATCHES

    @property
    def idle(self) -> bool:
        """Whether a batch put now would be taken up at once."""
        return not self._batches

    def put(self, batch: Batch, newest_ms: int) -> None:
        """Hand over the next batch; `newest_ms` is when its newest record came into Kafka. Does not block."""
        with self._news:
            self._batches.append((batch, newest_ms))
            self._news.notify()

    @property
    def working(self) -> bool:
        """Whether a batch is being written, or waits to be."""
        return self._busy or bool(self._batches)

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def give_up(self) -> None:
        """The partition is no longer ours: nothing is committed from now on. Does not block."""
        self._claim.release()
        self._over.set()
        with self._news:
            self._news.notify()

    def finish(self) -> None:
        """Drop the batches that wait and end after the one that is being written. Does not block."""
        with self._news:
            self._batches.clear()
            self._batches.append(_END)
            self._news.notify()

    def _run(self) -> None:
        try:
            while True:
                with self._news:
                    while not self._batches and not self._over.is_set():
                        self._news.wait()
                    self._check()
                    item = self._batches[0]
                    if item is _END:
                        return
                    self._batches.popleft()
                    self._busy = True
                self._load(*item)
                self._busy = False
        except (_OverError, PartitionGoneError):
            return
        except BaseException as error:  # noqa: BLE001 - the owner ends the process with it
            self.failure = error
        finally:
            self._busy = False
            self._hands.outage.over(self)
            if self._client is not None:
                self._client.close()

    def _load(self, batch: Batch, newest_ms: int) -> None:
        """Until every record of a batch is in ClickHouse or in the dead letters."""
        parts = [batch]
        while parts:
            part = parts.pop()
            self._begin(part)
            part, smaller = self._write(part)
            if smaller:
                parts.extend(reversed(smaller))
                continue
            self._refuse(part.refused)
            self._finish(part, parts[-1] if parts else self._following())
            self._count(part)
        metrics.DELAY_SECONDS.labels(self.route.topic).observe(max(0, self._hands.now_ms() - newest_ms) / 1000)

    def _begin(self, part: Batch) -> None:
        if self.route.once is Once.TOKEN and self._begun != (part.first, part.last):
            self._announce(part)

    def _finish(self, part: Batch, following: Batch | None) -> None:
        if self.route.once is Once.TOKEN and following is not None:
            self._announce(following)
        else:
            self._claim.commit(part.last + 1, "")
        self.loaded = part.last + 1

    def _announce(self, part: Batch) -> None:
        self._claim.commit(part.first, part.intent(self._topic_id).encode())
        self._begun = (part.first, part.last)

    def _following(self) -> Batch | None:
        with self._news:
            return self._batches[0][0] if self._batches and self._batches[0] is not _END else None

    def _write(self, part: Batch) -> tuple[Batch, list[Batch]]:
        """Write one batch, for as long as it takes. Returns it as written, or the smaller ones to try instead."""
        if not part.accepted:
            return part, []
        state = part

        def attempt() -> None:
            nonlocal state
            if state.redo and self.route.once is Once.TOKEN:
                state = state.sifted(self._hands.codec, self.route.kind)
                self._write_again(state)
            else:
                self._insert(state, state.accepted)

        def failed(call: RetryCallState) -> None:
            nonlocal state
            error = call.outcome.exception() if call.outcome else None
            assert isinstance(error, Exception)  # noqa: S101 - only those are retried
            metrics.INSERT_FAILURES.labels(self.route.topic).inc()
            self._hands.outage.failed(self, self.route.topic, error)
            state = replace(state, redo=True)  # no answer does not mean that it was not written

        try:
            self._retrying.copy(before_sleep=failed)(attempt)
        except RejectedError as rejected:
            self._hands.outage.over(self)
            return state, self._apart(state, rejected)
        except Exception:
            self._check()
            raise
        self._hands.outage.over(self)
        return state, []

    def _apart(self, part: Batch, rejected: RejectedError) -> list[Batch]:
        """What to try instead of a batch that ClickHouse rejects: without the bad records, or in smaller pieces."""
        sifted = part.sifted(self._hands.codec, self.route.kind)
        if sifted.refused != part.refused:
            return [sifted]
        if len(part.accepted) == 1:
            return [part.all_refused(rejected.reason, rejected.detail)]
        return part.split(rejected.suspect)

    def _write_again(self, part: Batch) -> None:
        metrics.REDONE.labels(self.route.topic).inc()
        log.info(
            "doing a batch again", topic=self.route.topic, partition=self.partition, first=part.first, last=part.last
        )
        repaired = reconcile.write_once(
            self._connected(),
            self._hands.database,
            self._hands.codec,
            part.accepted,
            lambda entries, again: self._insert(part, entries, again=again),
        )
        metrics.REPAIRED.labels(self.route.topic).inc(repaired)

    def _insert(self, part: Batch, entries: Sequence[Entry], *, again: bool = False) -> None:
        if not entries or part.schema is None:
            return
        token = None
        if self.route.once is Once.TOKEN:
            token = part.token(self.route.topic, self._topic_id, self.partition)
            if again:
                token += f":again-{self._hands.now_ms()}"
        block = container.frame(part.schema, [entry.body for entry in entries if entry.body is not None])
        table = f"{self._hands.database}.{self.route.way_in}"
        client = self._connected()
        with metrics.INSERT_SECONDS.labels(self.route.topic).time():
            write(
                client,
                Insert(table, self._compress(block), token),
                compression=None if self._hands.compression == "none" else self._hands.compression,
            )

    def _refuse(self, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        for reason, count in Counter(entry.reason for entry in entries).items():
            metrics.REFUSED.labels(self.route.topic, reason).inc(count)
            first = next(entry for entry in entries if entry.reason == reason)
            log.warning(
                "records refused",
                topic=self.route.topic,
                partition=self.partition,
                reason=reason,
                records=count,
                first_offset=first.offset,
                first_detail=first.detail,
            )
        if self.route.kind is DeadLetter:
            # its letter would come back here: the record stays in its topic, and the log has said so
            return
        letters = [self._letter(entry) for entry in entries]
        if not self._hands.letters.send(letters, self._over):
            raise _OverError

    def _letter(self, entry: Entry) -> DeadLetter:
        return DeadLetter(
            topic=self.route.topic,
            partition=self.partition,
            offset=entry.offset,
            reason=entry.reason,
            detail=entry.detail,
            reader=READER,
            key=entry.key,
            value=entry.value or b"",
            observed_ms=self._hands.now_ms(),
        )

    def _connected(self) -> Client:
        if self._client is None:
            self._client = self._hands.connect()
        return self._client

    def _check(self) -> None:
        if self._over.is_set():
            raise _OverError

    def _count(self, part: Batch) -> None:
        accepted = part.accepted
        metrics.BATCHES.labels(self.route.topic).inc()
        metrics.RECORDS.labels(self.route.topic).inc(len(accepted))
        metrics.BYTES.labels(self.route.topic).inc(sum(entry.size for entry in accepted))


_END: tuple[Batch, int] = (Batch(0, -1, None, ()), 0)
_COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda block: block,
    "lz4": lambda block: bytes(cramjam.lz4.compress(block)),
    "zstd": lambda block: bytes(cramjam.zstd.compress(block, level=1)),
}


def may_pass(error: BaseException) -> bool:
    """Whether an insert that failed so may succeed later: everything but a rejected block and a mistake of ours."""
    return isinstance(error, (ClickHouseError, OSError)) and not isinstance(error, ProgrammingError)
