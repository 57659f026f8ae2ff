"""infiniband.toml: what the counters mean and how many are too many, how fast lanes are, what cards are made for."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec


class Meaning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of `counter`."""

    kind: Literal["error", "signal", "traffic", "setting"]
    perfquery: tuple[str, ...] = ()
    bits: int = 64
    words: bool = False
    meaning: str = ""


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of `limit`: how much of a counter, within how long, is to be reported."""

    count: int
    window_s: float
    kind: Literal["port_errors", "fabric_errors"]
    reason: str


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of `board` or `family`."""

    name: str
    gbps: float


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """infiniband.toml."""

    counter: dict[str, Meaning]
    limit: dict[str, Limit]
    physical_state: dict[str, str]
    state: dict[str, str]
    speed: dict[str, float]
    board: dict[str, Card]
    family: dict[str, Card]


@cache
def table() -> Table:
    """infiniband.toml, checked."""
    text = Path(__file__).with_name("infiniband.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), Table)
