"""Commits that threads wait for: each is answered, and none of a partition that was given up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from confluent_kafka import KafkaError, TopicPartition

from sinks.commits import Claim, Commits, PartitionGoneError


class Broker:
    """Takes commits, and answers them when told to."""

    def __init__(self) -> None:
        self.sent: list[list[TopicPartition]] = []

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:
        assert asynchronous, "a commit that waits would keep the consumer's thread from polling"
        self.sent.append(offsets)


class Waiting(threading.Thread):
    """A partition's thread that waits for one commit."""

    def __init__(self, claim: Claim, offset: int, metadata: str = "") -> None:
        super().__init__(daemon=True)
        self.refused: PartitionGoneError | None = None
        self._ask: Callable[[], None] = lambda: claim.commit(offset, metadata)
        self.start()
        deadline = time.monotonic() + 5
        while claim.request is None and self.is_alive() and time.monotonic() < deadline:
            time.sleep(0.001)

    def run(self) -> None:
        try:
            self._ask()
        except PartitionGoneError as error:
            self.refused = error

    def done(self, seconds: float = 5) -> bool:
        self.join(seconds)
        return not self.is_alive()


def test_requests_of_many_partitions_are_one_commit_and_each_gets_its_answer() -> None:
    commits, broker = Commits(), Broker()
    threads = [Waiting(commits.claim("t", partition), partition * 10, "intent") for partition in range(3)]
    commits.make(broker)
    commits.make(broker)
    (positions,) = broker.sent
    assert sorted((p.partition, p.offset, p.metadata) for p in positions) == [
        (0, 0, "intent"),
        (1, 10, "intent"),
        (2, 20, "intent"),
    ]
    assert not threads[0].done(0.05), "not before the broker answers"
    commits.answered(None, positions)
    assert all(thread.done() and thread.refused is None for thread in threads)


def test_a_commit_that_failed_is_made_again() -> None:
    commits, broker = Commits(), Broker()
    thread = Waiting(commits.claim("t", 0), 7)
    commits.make(broker)
    commits.answered(KafkaError(KafkaError.REBALANCE_IN_PROGRESS), broker.sent[0])
    deadline = time.monotonic() + 5
    while len(broker.sent) < 2 and time.monotonic() < deadline:
        commits.make(broker)
        time.sleep(0.01)
    commits.answered(None, broker.sent[1])
    assert thread.done()


def test_nothing_is_committed_for_a_partition_that_was_given_up() -> None:
    commits, broker = Commits(), Broker()
    claim = commits.claim("t", 0)
    thread = Waiting(claim, 7)
    claim.release()
    assert thread.done()
    assert thread.refused is not None
    with pytest.raises(PartitionGoneError):
        claim.commit(8, "")
    commits.make(broker)
    assert broker.sent == []


def test_a_claim_of_before_cannot_disturb_the_one_that_has_the_partition_now() -> None:
    commits, broker = Commits(), Broker()
    before = commits.claim("t", 0)
    slow = Waiting(before, 7)
    commits.make(broker)
    before.release()
    now = commits.claim("t", 0)
    thread = Waiting(now, 7, "intent")
    with pytest.raises(PartitionGoneError):
        before.commit(99, "")
    commits.answered(None, broker.sent[0])
    assert not thread.done(0.05), "that was the answer to the one before"
    commits.make(broker)
    commits.answered(None, broker.sent[1])
    assert thread.done()
    assert thread.refused is None
    assert slow.refused is not None
