"""What can break and how often: library.toml as values."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from producers.settings import SimulateSettings

Place = Literal["gpu", "node", "rack", "pdu", "leaf"]


class Kind(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of fault: how often it comes, to what, and who says so."""

    place: Place
    per_1000_gpu_days: float
    shows: str
    source: str
    harmless: bool = False
    repeats: float = 0.0
    uncertain: bool = False


@cache
def library() -> dict[str, Kind]:
    """Every kind by name. Raises `msgspec.ValidationError` where library.toml is not what it should be."""
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, Kind])


def rates(settings: SimulateSettings) -> dict[str, float]:
    """Arrivals per GPU and day of each kind that is to come, by the settings.

    Raises `ValueError` where they name a kind that is not in the library.
    """
    kinds = library()
    if strange := sorted(set(settings.fault_kinds) - set(kinds)):
        raise ValueError(f"simulate.fault_kinds: {strange[0]!r} is no kind of fault; there are {', '.join(kinds)}")
    if not settings.fault_rate:
        return {}
    chosen = {name: kind for name, kind in kinds.items() if not settings.fault_kinds or name in settings.fault_kinds}
    faults = {name: kind.per_1000_gpu_days / 1000 for name, kind in chosen.items() if not kind.harmless}
    if settings.fault_mix == "even" and faults:
        faults = dict.fromkeys(faults, sum(faults.values()) / len(faults))
    harmless = {name: kind.per_1000_gpu_days / 1000 for name, kind in chosen.items() if kind.harmless}
    return {name: rate * settings.fault_rate for name, rate in faults.items()} | {
        name: rate * settings.harmless_rate for name, rate in harmless.items()
    }
