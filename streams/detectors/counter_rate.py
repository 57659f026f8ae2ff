"""How fast counters grow, whatever befalls them: a reset (driver, reboot, another GPU), a wrap, a reading missed.

Pure arithmetic over two readings; no detector uses it until streams read gpu.counters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

_NEAR_TOP = 0.75
"""A counter that has fallen has wrapped only if it was in the last quarter of its range and is in the first now."""


def growth(before: Doubles, now: Doubles, *, wraps_at: float | None = None) -> Doubles:
    """(G,) by how much each counter has grown between two readings.

    NaN where either was not read, is infinite or negative. A counter that fell was reset, and has grown by what it
    reads now (what it counted between the first reading and the reset is lost); or, where it has `wraps_at` values
    (such as 2**32) and fell from near the top of them to near the bottom, it has wrapped.
    """
    known = np.isfinite(before) & np.isfinite(now) & (before >= 0) & (now >= 0)
    with np.errstate(invalid="ignore"):
        step = now - before
        grown = np.where(step >= 0, step, now)
        if wraps_at is not None:
            wrapped = (step < 0) & (before >= _NEAR_TOP * wraps_at) & (now <= (1 - _NEAR_TOP) * wraps_at)
            grown = np.where(wrapped, step + wraps_at, grown)
    return np.where(known, grown, np.nan)


def counter_rate(
    before: Doubles, now: Doubles, elapsed_ms: NDArray[np.int64], *, wraps_at: float | None = None
) -> Doubles:
    """(G,) growth an hour; NaN as in `growth`, and where no time has passed or it went backwards."""
    hours = np.where(elapsed_ms > 0, elapsed_ms, np.nan) / 3_600_000
    return growth(before, now, wraps_at=wraps_at) / hours
