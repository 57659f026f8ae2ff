"""Who speaks for a GPU where several sources do: one at a time, so that totals of two are never compared."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.readings.roster import NEVER_MS

_PATIENCE_MS = 180_000
"""The source that speaks is waited for so long, three of its longest usual periods, before the next one speaks."""
_NOBODY = np.int8(127)


class Speakers:
    """The source that each GPU is known by: the best in rank that has said anything of it lately. 9 bytes a GPU."""

    def __init__(self) -> None:
        self._rank: NDArray[np.int8] = np.empty(0, np.int8)
        """(G,) the place in `SOURCES` of who speaks."""
        self._heard_ms: NDArray[np.int64] = np.empty(0, np.int64)
        """(G,) when it spoke last."""

    def choose(
        self, tick_ms: int, first: NDArray[Any], others: dict[int, NDArray[Any]]
    ) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[Any] | None]:
        """The values (M, G) of a tick, where the speaker changes (G,), and what somebody else says of the same GPUs.

        `first` is what the source of rank 0 says, `others` the same by rank.
        """
        new = first.shape[1] - len(self._rank)
        self._rank = np.append(self._rank, np.full(new, _NOBODY))
        self._heard_ms = np.append(self._heard_ms, np.full(new, NEVER_MS))
        said = dict(sorted({0: first, **others}.items()))
        best = np.full(len(self._rank), _NOBODY)
        spoke = np.zeros(len(self._rank), np.bool_)
        for rank in reversed(said):
            says = ~np.isnan(said[rank]).all(axis=0)
            best[says] = rank
            spoke |= says & (self._rank == rank)
        given_up = ~spoke & (tick_ms - self._heard_ms > _PATIENCE_MS)
        takes_over = (best < self._rank) | (given_up & (best != _NOBODY))
        anew = takes_over & (self._rank != best) & (self._rank != _NOBODY)
        self._rank = np.where(takes_over, best, self._rank)
        self._heard_ms[takes_over | spoke] = tick_ms
        if not others:
            return np.where(self._rank == 0, first, np.nan), anew, None
        values, aside = np.full_like(first, np.nan), np.full_like(first, np.nan)
        for rank in reversed(said):
            speaks = self._rank == rank
            values[:, speaks] = said[rank][:, speaks]
            heard = ~speaks & ~np.isnan(said[rank]).all(axis=0)
            aside[:, heard] = said[rank][:, heard]
        return values, anew, aside
