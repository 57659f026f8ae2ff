"""What a device was found to say, in the same words whichever protocol it came by."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from schemas.records import Point

OK, WARNING, CRITICAL, ABSENT = "ok", "warning", "critical", "absent"
TROUBLE = frozenset({WARNING, CRITICAL})

_LONGEST_NAME = 120
_LONGEST_STATE = 80
_INLET = re.compile(r"inlet|intake|\bfront\b|ambient", re.IGNORECASE)
_OUTLET = re.compile(r"outlet|exhaust", re.IGNORECASE)


class DeviceError(RuntimeError):
    """A device that could not be read: what was asked of it, what came back, what to do."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One value or state of a device, and which event kind it raises where its state is warning or critical."""

    name: str
    unit: str = ""
    value: float | None = None
    state: str | None = None
    event: str = ""
    """Empty: it raises none."""

    def point(self) -> Point:
        """The same as it travels."""
        return Point(name=self.name, unit=self.unit, value=self.value, state=self.state)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one device said at one tick."""

    measured: tuple[Measured, ...]
    unread: tuple[str, ...] = ()
    """What it should have said and did not, each with the reason."""


def slug(text: str) -> str:
    """A device's own name for a part, as it stands in point names: `Fan 3 (rear)` is `fan_3_rear`."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:_LONGEST_NAME] or "unnamed"


def word(text: str) -> str:
    """A device's own word for a state: `StandbyOffline` is `standby_offline`."""
    return slug(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text))[:_LONGEST_STATE]


def finite(value: object) -> float | None:
    """A number as a float; None for what is none, or is not finite. Text that holds a number counts as one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def temperature_name(part: str, context: str = "") -> str:
    """Air that comes in and air that goes out have names of their own, so that every fleet can ask for them."""
    about = f"{context} {part}"
    place = "inlet_" if _INLET.search(about) else "outlet_" if _OUTLET.search(about) else ""
    return f"{place}temperature_celsius/{slug(part)}"


def distinct(measured: Iterable[Measured]) -> Iterator[Measured]:
    """The same with names made different where a device gives one name to two parts."""
    seen: set[str] = set()
    for one in measured:
        name, again = one.name, 2
        while name in seen:
            name, again = f"{one.name}_{again}", again + 1
        seen.add(name)
        yield one if name == one.name else replace(one, name=name)


def unread(measured: Sequence[Measured]) -> Iterator[Measured]:
    """The same points without what they said."""
    return (replace(one, value=None, state=None) for one in measured)
