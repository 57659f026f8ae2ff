"""One GPU between two ticks: by which calls its metrics are read, what it does not offer, and what fails."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from producers.discovery import GpuIdentity
from producers.nvml.interface import Answer, NvmlError
from producers.nvml.metric_table import COLUMNS, DRIVER_GONE, LOST, METRICS, UNSUPPORTED, Way

SUPPORT_RETRY_S = 300.0
"""How often a metric that is not supported is asked again: a driver update or a mode change may bring it."""
REPEAT_S = 300.0
"""A metric that comes and goes is reported at most so often."""

Plan = list[tuple[str, list[tuple[int, int, Way]]]]
"""Calls to make, each with what it gives: the metric's number, the way's number, the way."""
Ask = Callable[[str], Answer]
"""The answer of a call for this GPU; raises `NvmlError`."""


@dataclass(slots=True, eq=False)
class Gpu:
    """One GPU and what is remembered of it between ticks: some 4 kB."""

    identity: GpuIdentity
    handle: Any = None
    """None while it is lost."""
    state: str = "new"
    """new, read, unreadable or lost."""
    ask_again: float = 0.0
    """When a lost GPU is looked for again."""
    offered: tuple[bool, ...] = (True,) * len(METRICS)
    """By metric: whether some way to read it is not known to be unsupported."""
    _unsupported: dict[tuple[int, int], float] = field(default_factory=dict)
    """(metric, way) to when it is tried again."""
    _try_again: float = math.inf
    """The earliest of these moments."""
    _plan: Plan | None = None
    _told: dict[int, float] = field(default_factory=dict)
    """Metric to when it was last reported."""
    _failing: set[int] = field(default_factory=set)
    _totals: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Metric to the running total and the moment at which it was read."""

    def read(self, ask: Ask, now_s: float) -> tuple[list[float], dict[int, NvmlError]]:
        """Its row, NaN where there is no value, and which metrics failed, with what NVML said.

        Raises `NvmlError` where the GPU is lost or the driver gone: each further question may take seconds.
        """
        if self._plan is None or now_s >= self._try_again:
            self._unsupported = {key: again for key, again in self._unsupported.items() if now_s < again}
            self._try_again = min(self._unsupported.values(), default=math.inf)
            self._plan = self._calls(range(len(METRICS)))
            self.offered = tuple(map(self._offers, range(len(METRICS))))
        row, problems, plan = nothing(), dict[int, NvmlError](), self._plan
        while plan:
            missing = self._follow(plan, ask, row, problems, now_s)
            plan = self._calls(missing)
            if missing:
                self._plan = None
                self.offered = tuple(map(self._offers, range(len(METRICS))))
        return row, problems

    def let_go(self) -> None:
        """It has no handle any more, and what was counted up to now has no continuation."""
        self.handle, self._plan = None, None
        self._totals.clear()

    def plan_anew(self) -> None:
        """It was enumerated again: what is asked is thought over."""
        self._plan = None

    def ask_for_all(self) -> None:
        """Nothing at all is never a lack of support: ask everything again."""
        self._unsupported.clear()
        self._plan = None

    def news(self, problems: dict[int, NvmlError], now_s: float) -> list[int]:
        """The metrics whose failure is to be told now: it is new, and was not told a moment ago."""
        failing = {metric for metric, error in problems.items() if error.code not in UNSUPPORTED}
        new = [
            metric
            for metric in sorted(failing - self._failing)
            if now_s - self._told.get(metric, -math.inf) >= REPEAT_S
        ]
        self._failing = failing
        self._told |= dict.fromkeys(new, now_s)
        return new

    def _offers(self, metric: int) -> bool:
        return any((metric, number) not in self._unsupported for number in range(len(METRICS[metric].ways)))

    def _calls(self, wanted: Iterable[int]) -> Plan:
        """The calls that give the wanted metrics, each by its best way that is not known to be unsupported."""
        calls: dict[str, list[tuple[int, int, Way]]] = {}
        for metric in wanted:
            for number, way in enumerate(METRICS[metric].ways):
                if (metric, number) not in self._unsupported:
                    calls.setdefault(way.call, []).append((metric, number, way))
                    break
        return list(calls.items())

    def _follow(
        self, plan: Plan, ask: Ask, row: list[float], problems: dict[int, NvmlError], now_s: float
    ) -> list[int]:
        """Make the calls of a plan. Returns the metrics that turned out to be unsupported this way."""
        missing: list[int] = []
        for call, outputs in plan:
            answer: Sequence[float | NvmlError]
            try:
                answer = ask(call)
            except NvmlError as error:
                if error.code in DRIVER_GONE or error.code in LOST:
                    raise
                answer = (error,) * 8
            for metric, number, way in outputs:
                value = answer[way.place]
                if isinstance(value, NvmlError):
                    problems[metric] = value
                    if value.code in UNSUPPORTED:
                        again = self._unsupported[metric, number] = now_s + SUPPORT_RETRY_S
                        self._try_again = min(self._try_again, again)
                        missing.append(metric)
                    continue
                problems.pop(metric, None)
                if way.total:
                    value = self._rate(metric, value, now_s)
                value *= way.scale
                column = METRICS[metric]
                low, high = column.low, column.high
                if low <= value <= high:
                    row[metric] = value
                elif not math.isnan(value):
                    problems[metric] = NvmlError(-1, f"says {value:g}, which cannot be ({low:g} to {high:g})")
        return missing

    def _rate(self, metric: int, total: float, now_s: float) -> float:
        """Per second since the last read; NaN for the first one and after the total began anew."""
        before = self._totals.get(metric)
        self._totals[metric] = (total, now_s)
        if before is None or total < before[0] or now_s <= before[1]:
            return math.nan
        return (total - before[0]) / (now_s - before[1])


def nothing() -> list[float]:
    """The row of a GPU of which nothing is known."""
    return [math.nan] * len(COLUMNS)
