"""What the registers of an NVLink 5 line (XID 144 to 150) say: the error, what it does at both ends, what to do.

The facts are `schemas/catalog/nvlink5.toml`. The branch of the driver decides how the registers are read; where nobody
tells it, only what all branches agree on, or what one alone can mean, is taken. The line's own word Fatal or Nonfatal
stands against the table, but for errors that only a reset clears.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from schemas.catalog.nvlink5 import BRANCHES, Branch, Reading, nvlink5

Word = Literal["fatal", "nonfatal"]


@lru_cache(maxsize=1024)  # a storm says the same thing over and over
def decode_registers(
    xid: int, subcode: str | None, word: Word | None, registers: tuple[int, ...], branch: Branch | None
) -> dict[str, str]:
    """Details of IntrInfo and error status (`registers`, the second may be missing); do not change what you get.

    Understood: `subcode`, `branch`, `resolution`, `investigate`, `effect_local`, `effect_remote`, `origin`, `variant`
    where the table decides, `contradiction` where word and table differ. Else `undecoded` says why not.
    """
    info, status = registers[0], registers[1] if len(registers) > 1 else None
    every = nvlink5().readings(xid, info, status)
    readings = [one for one in every if branch in {None, one.branch}]
    if not readings:
        written = " and error status ".join(f"{register:#010x}" for register in registers)
        why = f"no known error of XID {xid} has IntrInfo {written}"
        if every:
            why += f" with a driver {_said(branch)}, but {_said(every[0].branch)} {every[0].name} has"
        return {"undecoded": why}
    if subcode:
        named = [one for one in readings if one.name in subcode.upper().split("/")]
        if not named:
            return {"undecoded": f"the line says {subcode}, its registers {'/'.join(_names(readings))}"}
        readings = named
    if len({_meaning(one) for one in readings}) > 1:
        return {"undecoded": f"the registers mean {' or '.join(_names(readings))}, nothing tells which"}
    return _details(readings, subcode, word)


def _details(readings: list[Reading], subcode: str | None, word: Word | None) -> dict[str, str]:
    first, effects = readings[0], nvlink5().effects
    branches = sorted({one.branch for one in readings})
    details = {
        "subcode": subcode or "/".join(_names(readings)),
        "branch": branches[0] if len(branches) == 1 else "any",
        "resolution": first.resolution,
        "investigate": first.error.investigate,
        "effect_local": effects[first.error.here],
        "effect_remote": effects[first.error.there],
        "origin": first.error.origin,
    }
    return {key: value for key, value in details.items() if value} | _judged(first, word)


def _judged(reading: Reading, word: Word | None) -> dict[str, str]:
    """The catalogue's variant. An error that the table does not take for fatal may have broken this link all the same,
    so a word Fatal is believed; a word Nonfatal about an error that needs a reset is not.
    """
    table: Word = "fatal" if reading.error.fatal else "nonfatal"
    word = word or table
    variant = {
        ("RESET_GPU", "fatal"): "reset",
        ("RESET_GPU", "nonfatal"): "reset_nonfatal",
        ("XID_154_EVAL", "nonfatal"): "follow_154",
        ("IGNORE", "nonfatal"): "ignore",
        ("IGNORE", "fatal"): "ignore_fatal" if table == "fatal" else "fatal",
    }.get((reading.resolution, word), word)
    if word == table or variant == "reset":
        return {"variant": variant}
    counts = "the word counts, the driver saw what came of it"
    if variant == "reset_nonfatal":
        counts = "the registers count, only a reset clears this error"
    said = f"the line says {word}, NVIDIA's table {table} and {reading.resolution}: {counts}"
    return {"variant": variant, "contradiction": said}


def _meaning(reading: Reading) -> tuple[object, ...]:
    error = reading.error
    return reading.resolution, error.investigate, error.fatal, error.origin, error.here, error.there


def _names(readings: list[Reading]) -> list[str]:
    return list(dict.fromkeys(one.name for one in readings))


def _said(branch: Branch | None) -> str:
    return "before R575" if branch == BRANCHES[0] else "from R575 on"
