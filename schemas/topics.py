"""The topic list, `topics.toml`, as values."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

SAMPLES = "gpu.samples"
COUNTERS = "gpu.counters"
NODE_SAMPLES = "node.samples"
FACILITY = "facility.samples"
EVENTS = "hardware.events"
INVENTORY = "fleet.inventory"
ANOMALIES = "fleet.anomalies"
FAULTS = "fleet.faults"
INCIDENTS = "fleet.incidents"
VERDICTS = "fleet.verdicts"
DEAD_LETTERS = "dead.letters"
STREAMS_STATE = "streams.state"


class Topic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one topic is keyed and kept."""

    schema: str
    """The record's name, or `none` where the bytes are nobody else's business."""
    key: str
    partitions: int
    retention_hours: int
    """-1 keeps for ever."""
    cleanup: Literal["delete", "compact"]
    purpose: str
    timestamp: Literal["append", "create"] = "append"
    """Whose clock stamps a record: the broker's (append), so that a node's wrong clock shows, or the producer's."""


@cache
def topics() -> dict[str, Topic]:
    """Every topic by name. Raises `msgspec.ValidationError` where `topics.toml` is not what it should be."""
    return msgspec.convert(tomllib.loads((Path(__file__).parent / "topics.toml").read_text()), dict[str, Topic])
