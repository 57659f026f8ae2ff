"""The causal order of faults, `causes.toml`."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

Near = Literal["gpu", "node", "nvlink_domain", "rack", "pdu"]
Of = Literal["node", "rack", "pdu"]


class Cause(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One fault class leads to another, where the two are near in place and time."""

    name: str
    cause: str
    cause_codes: list[int] = []
    effect: str
    effect_codes: list[int] = []
    near: Near
    within_ms: int
    """An effect may follow its cause by so much."""
    before_ms: int
    """An effect may be seen earlier than its cause by so much: clocks and poll periods differ."""
    weight: float = 1.0
    """How strongly one explained effect speaks for this root: 1 for a known order, little for mere company."""
    reason: str


class CommonCause(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The same fault on several members of one thing points at the thing."""

    name: str
    effect: str
    of: Of
    """The thing. Of a node its GPUs are counted, of all else the nodes."""
    at_least: int
    """So many of them."""
    at_least_share: float
    """And so large a share of those that are known."""
    all_inside: bool = False
    """Only where no fault of this class in the incident lies outside of the thing."""
    reason: str


class Causes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole table."""

    causes: list[Cause]
    common_causes: list[CommonCause]

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
