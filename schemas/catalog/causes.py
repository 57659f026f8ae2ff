"""The causal order of faults, `causes.toml`."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Literal, get_args

import msgspec

Near = Literal[
    "maintenance", "component", "gpu", "node", "nvlink_domain", "pdu", "leaf_switch", "rack", "job", "site"
]  # fmt: skip
"""What two components may share, the nearest first."""
Of = Literal["node", "nvlink_domain", "pdu", "leaf_switch", "rack", "job", "site"]
"""What may be the cause by itself: the things that many share."""

NEARNESS: tuple[Near, ...] = get_args(Near)
ANY = "*"
"""As an effect: of whichever class."""
_PLACEHOLDERS = {"component", "root"}


class Cause(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One fault class leads to another, where the two are near in place and time."""

    name: str
    cause: str
    cause_codes: list[int] = []
    cause_kinds: list[str] = []
    """Kinds of component, where a class may be about several: a PDU that lacks power, not a GPU."""
    cause_rules: list[str] = []
    """Rules of the catalogue, where the class alone says too little."""
    effect: str
    """A fault class, or `*`."""
    effect_codes: list[int] = []
    near: Near
    within_ms: int
    """An effect may follow its cause by so much."""
    before_ms: int
    """An effect may be seen earlier than its cause by so much: clocks and poll periods differ."""
    weight: float = 1.0
    """How surely it is so: 1 for a known order, half where another order is as well known."""
    wakes: bool = True
    """Whether what is explained by it may wake somebody: not where somebody did it on purpose."""
    reason: str


class CommonCause(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The same fault on several parts of one thing, at once, points at the thing."""

    name: str
    effect: str
    of: Of
    """The thing. Its parts are the GPUs of a node, an NVLink domain or a job; the racks of a site; else the nodes."""
    within_ms: int
    """No part comes later than so long after the one before it."""
    at_least: int = 2
    """So many parts, before the thing may be the root."""
    shows_from_share: float = 1.0
    """From this share of its parts on no more are to be expected of it: heat shows on the loaded ones first."""
    pages_from_share: float | None = None
    """From this share of its parts on the thing is critical and wakes somebody, whatever its parts would do; null:
    only its parts do."""
    reason: str
    tell_apart: str
    """What would decide whether it is the thing; `{component}` is the thing, `{root}` the explanation beside it."""


class ComesBack(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When trouble that was over is there again and not new."""

    within_ms: int
    """The same class on the same component, or on another part of what had a burst of it, so soon after its end."""
    reason: str


class Causes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole table."""

    chance: float
    """Faults that come together by chance less often than that did not come together by chance."""
    comes_back: ComesBack
    causes: list[Cause]
    common_causes: list[CommonCause]
    tell_apart: dict[str, str]
    """Fault class to what would decide whether a component with such a fault is the root: as in `CommonCause`."""

    def __post_init__(self) -> None:
        """Hold what is formatted to what it may name. Raises `ValueError`."""
        for text in (*self.tell_apart.values(), *(row.tell_apart for row in self.common_causes)):
            if unknown := {name for _, name, _, _ in Formatter().parse(text) if name is not None} - _PLACEHOLDERS:
                raise ValueError(f"{text!r} names {', '.join(sorted(unknown))}; known are component and root")

    def leading_codes(self) -> dict[str, frozenset[int]]:
        """The codes of each fault class by which a row knows a cause: XID 149 rather than its echo 145."""
        classes = {row.cause for row in self.causes if row.cause_codes}
        return {
            name: frozenset(code for row in self.causes if row.cause == name for code in row.cause_codes)
            for name in classes
        }


@cache
def causes() -> Causes:
    """The causal table of this build. Raises `msgspec.ValidationError` where it is not what it should be."""
    return msgspec.convert(tomllib.loads((Path(__file__).parent / "causes.toml").read_text()), Causes)
