"""Which topic goes into which table, and what keeps its rows from being doubled."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from schemas import topics
from schemas.records import RECORDS, Record


class Once(Enum):
    """How a table shows each record once, although a batch may be written twice."""

    TOKEN = "token"  # noqa: S105 - an insert token, not a secret
    """ClickHouse drops a repeated batch by its insert token; the loader redoes batches exactly."""
    KEY = "key"
    """A row's key is what it is: a repeated row replaces the first (and views show it once)."""


@dataclass(frozen=True, slots=True)
class Route:
    """One topic's way into ClickHouse."""

    topic: str
    way_in: str
    """The Null table that takes the topic's Avro blocks as they are."""
    kind: type[Record]
    """The record that the topic holds."""
    once: Once


def _route(topic: str, once: Once) -> Route:
    return Route(topic, topic.replace(".", "_") + "_in", RECORDS[topics.topics()[topic].schema], once)


ROUTES: tuple[Route, ...] = (
    _route(topics.SAMPLES, Once.TOKEN),
    _route(topics.COUNTERS, Once.KEY),
    _route(topics.NODE_SAMPLES, Once.KEY),
    _route(topics.FACILITY, Once.KEY),
    _route(topics.EVENTS, Once.KEY),
    _route(topics.INVENTORY, Once.KEY),
    _route(topics.ANOMALIES, Once.KEY),
    _route(topics.FAULTS, Once.KEY),
    _route(topics.INCIDENTS, Once.KEY),
    _route(topics.VERDICTS, Once.KEY),
    _route(topics.DEAD_LETTERS, Once.KEY),
)
"""Every topic of `topics.toml` that holds records (a test says so)."""
