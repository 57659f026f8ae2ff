"""The table of NVLink 5 errors (XID 144 to 150), `nvlink5.toml`: what the registers of a line say."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

FILE = Path(__file__).parent / "nvlink5.toml"
Branch = Literal["before_r575", "from_r575"]
"""Which drivers wrote a line: the layout of IntrInfo changed with R575."""
BRANCHES: tuple[Branch, ...] = ("before_r575", "from_r575")
Resolution = Literal["IGNORE", "RESET_GPU", "XID_154_EVAL"]
_UNIT_MASKS = (0x3FF, 0x7F)
_REASON_BIT, _REASON_MASK = 20, 0x3F
_REGISTER_MAX = 0xFFFF_FFFF


class Nvlink5Error(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One error of a unit, or some that are treated alike."""

    status: frozenset[int] = frozenset()
    """Values of the error status; empty where any will do."""
    reason: frozenset[int] = frozenset({0})
    resolution: Resolution
    raised: Resolution | None = None
    """Instead of `resolution`, where the unit's raise bit is set."""
    investigate: str
    fatal: bool
    origin: str
    """HW, SW, FW, or several; empty where NVIDIA does not say."""
    here: str
    there: str


class _Unit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of the NVLink engine; pairs hold for drivers before R575 and from R575 on."""

    xid: int
    names: tuple[str, str]
    info: tuple[int, int]
    raise_bits: tuple[int, int] | None = None
    errors: list[Nvlink5Error] | str


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    variant: dict[str, dict[str, Any]]
    effect: dict[str, str]
    errors: dict[str, list[Nvlink5Error]]
    unit: list[_Unit]


class Reading(NamedTuple):
    """What the registers of a line say if drivers of `branch` wrote it."""

    branch: Branch
    name: str
    """The unit, as those drivers call it."""
    error: Nvlink5Error
    resolution: Resolution


class Nvlink5:
    """The table, ready to be looked up."""

    def __init__(self, table: _Table) -> None:
        self.effects = table.effect
        self.variants = table.variant
        """What each of these XIDs may be refined to, as keys of a catalogue row."""
        self.codes = tuple(sorted({unit.xid for unit in table.unit}))
        self._units: dict[tuple[int, Branch, int], list[tuple[_Unit, list[Nvlink5Error]]]] = {}
        for unit in table.unit:
            errors = table.errors[unit.errors] if isinstance(unit.errors, str) else unit.errors
            for branch, info in zip(BRANCHES, unit.info, strict=True):
                self._units.setdefault((unit.xid, branch, info), []).append((unit, errors))

    def readings(self, xid: int, info: int, status: int | None) -> list[Reading]:
        """Every way to read IntrInfo and error status (None where the line was cut); empty where there is none."""
        found = []
        if info > _REGISTER_MAX:
            return []
        for place, branch in enumerate(BRANCHES):
            for unit, errors in self._units.get((xid, branch, info & _UNIT_MASKS[place]), ()):
                for error in errors:
                    if (error.status and status not in error.status) or not _has_reason(error, info):
                        continue
                    raised = error.raised and unit.raise_bits and info >> unit.raise_bits[place] & 1
                    resolution = error.raised if raised and error.raised else error.resolution
                    found.append(Reading(branch, unit.names[place], error, resolution))
        return found


def _has_reason(error: Nvlink5Error, info: int) -> bool:
    return (info >> _REASON_BIT & _REASON_MASK) in error.reason


def branch_of(driver: str) -> Branch:
    """The branch of a driver version such as `570.86.15`. Raises `ValueError` where it is none."""
    major = driver.partition(".")[0]
    if not (major.isascii() and major.isdecimal()):
        raise ValueError(f"the driver version is {driver!r}; it begins with the number of its branch, as in 570.86.15")
    return "before_r575" if int(major) < 575 else "from_r575"


@cache
def nvlink5() -> Nvlink5:
    """The table of this build. Raises `msgspec.ValidationError` where it is not what it should be."""
    return Nvlink5(msgspec.convert(tomllib.loads(FILE.read_text(encoding="utf-8")), _Table))
