"""What changes slowly on the GPUs, twice a minute: `gpu.counters`, and events where a change matters by itself.

The NVML source opens the driver and finds the GPUs; this one asks the same library for more, in a thread of its own,
and adds nothing to what that one says of a GPU or a driver that is gone: their entries are NaN until they are back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from producers.discovery import GpuIdentity
from producers.nvml.conditions import LINKS as ACTIVE_LINKS
from producers.nvml.conditions import Complaints, Conditions, News, Value
from producers.nvml.counter_table import LINK_STATES, LINKS, NUMBERS, WORDS, Field, Way
from producers.nvml.interface import Answer, Nvml, NvmlError
from producers.nvml.metric_table import DRIVER_GONE, LOST, UNSUPPORTED, explained
from producers.source import Origin
from schemas.catalog import Catalog
from schemas.records import GpuCounters, HardwareEvent, Record

SUPPORT_RETRY_S = 1800.0
"""How often what is not supported is asked again: a driver update or a mode change may bring it."""
_TOTALS = {counter.total: counter.name for counter in LINKS if counter.total}
_LINK_NAMES = frozenset(counter.name for counter in LINKS)

Key = tuple[str, int]
"""A column and a link; -1 where the column has one number for the GPU."""


@dataclass(frozen=True, slots=True)
class _Question:
    """One number to be read: what it can be, and its ways."""

    key: Key
    low: float
    high: float
    ways: tuple[Way, ...]


_OF_GPU = tuple(_Question((row.name, -1), row.low, row.high, row.ways) for row in NUMBERS) + tuple(
    _Question((row.name, -1), -math.inf, math.inf, row.ways) for row in WORDS
)


@cache
def _questions(links: int) -> tuple[_Question, ...]:
    """All that a GPU with so many NVLinks is asked; GPUs share it."""
    of_links = (
        _Question((row.name, link), row.low, row.high, row.ways(link)) for row in LINKS for link in range(links)
    )
    return (*_OF_GPU, *of_links)


Output = tuple[_Question, int, int]
"""A number, the way it is read by, and its place in the answer."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is asked of the driver for some numbers."""

    asked: list[tuple[int, int]]
    """Fields and their scopes, in one call."""
    fields: list[Output]
    calls: dict[str, list[Output]]

    @classmethod
    def of(cls, ways: Iterable[tuple[_Question, int]]) -> _Plan:
        """Each number by its way."""
        places: dict[tuple[int, int], int] = {}
        plan = cls([], [], {})
        for question, number in ways:
            way = question.ways[number]
            if isinstance(way, Field):
                place = places.setdefault((way.field, way.scope), len(places))
                plan.fields.append((question, number, place))
            else:
                plan.calls.setdefault(way.call, []).append((question, number, way.place))
        plan.asked.extend(places)
        return plan


@dataclass(slots=True, eq=False)
class _Gpu:
    """What is remembered of one GPU between two reads: some 60 kB for one with 18 links."""

    links: int = 0
    questions: tuple[_Question, ...] = _OF_GPU
    links_again: float = -math.inf
    """When a GPU without links is asked for them again."""
    unsupported: dict[tuple[Key, int], float] = field(default_factory=dict)
    """A number and its way, to when it is tried again."""
    plan: _Plan | None = None
    """For all questions; None: something has changed."""
    conditions: Conditions = field(default_factory=Conditions)
    complaints: Complaints = field(default_factory=Complaints)

    def way(self, question: _Question) -> int | None:
        """The best way that is not known to be unsupported."""
        ways = range(len(question.ways))
        return next((number for number in ways if (question.key, number) not in self.unsupported), None)

    def plan_for(self, wanted: Iterable[_Question]) -> _Plan:
        """Each of the wanted numbers that is offered, by its best way."""
        return _Plan.of((question, number) for question in wanted if (number := self.way(question)) is not None)

    def whole_plan(self, now_s: float) -> _Plan:
        """The same for all of them. What was not supported is tried again when its time has come."""
        if any(again <= now_s for again in self.unsupported.values()):
            self.unsupported = {key: again for key, again in self.unsupported.items() if now_s < again}
            self.plan = None
        if self.plan is None:
            self.plan = self.plan_for(self.questions)
        return self.plan


@dataclass(slots=True)
class _Row:
    """One GPU's reading."""

    identity: GpuIdentity
    values: dict[Key, float] = field(default_factory=dict)
    problems: dict[str, NvmlError] = field(default_factory=dict)
    read: bool = False


class NvmlCountersSource:
    """Counters, limits and modes of this node's GPUs. `read` returns one `GpuCounters` and what is to report.

    `gpus` gives the GPUs and their handles: `NvmlSource.handles`.
    """

    name = "nvml_counters"

    def __init__(
        self,
        origin: Origin,
        catalog: Catalog,
        nvml: Nvml,
        gpus: Callable[[], Sequence[tuple[GpuIdentity, Any]] | None],
        *,
        interval_ms: int = 30_000,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.doing = "nothing yet"
        self._origin = origin
        self._catalog = catalog
        self._nvml = nvml
        self._gpus = gpus
        self._interval_ms = interval_ms
        self._wall_ms = wall_ms
        self._clock = clock
        self._known: dict[str, _Gpu] = {}
        self._offered: frozenset[str] = frozenset()

    def read(self, now_ms: int) -> Iterable[Record]:
        """One reading. Nothing while there is no GPU, or none has been read since the start."""
        now_s = self._clock()
        self.doing = "asking which GPUs there are"
        seen = self._gpus() or ()
        node = self._origin.node
        names = [identity.key(node) for identity, _ in seen]
        self._known = {name: self._known.get(name) or _Gpu() for name in names}
        rows: list[_Row] = []
        events: list[HardwareEvent] = []
        gone = False
        for (identity, handle), name in zip(seen, names, strict=True):
            row = _Row(identity)
            rows.append(row)
            if handle is None or gone:
                continue
            gpu = self._known[name]
            try:
                self._read_gpu(gpu, handle, row, now_s)
            except NvmlError as error:
                if error.code not in LOST and error.code not in DRIVER_GONE:
                    raise
                row.values.clear()
                gone = error.code in DRIVER_GONE
        self.doing = "nothing"
        self._learn_what_is_offered(rows)
        if not self._offered:
            return events
        values = [self._values(row) for row in rows]
        for row, its in zip(rows, values, strict=True):
            if row.read:
                gpu = self._known[row.identity.key(node)]
                problems = {column: explained(error) for column, error in row.problems.items()}
                news = [*gpu.conditions.update(its), *gpu.complaints.update(problems, now_s)]
                events += (self._event(item, row.identity, now_ms) for item in news)
        return [*events, self._record([row.identity for row in rows], values, now_ms)]

    def _read_gpu(self, gpu: _Gpu, handle: Any, row: _Row, now_s: float) -> None:
        """All that the GPU offers. Raises where it or the driver is gone: further questions may take seconds."""
        where = f"GPU {row.identity.index} ({row.identity.pci})"
        self._count_links(gpu, handle, where, now_s)
        plan: _Plan | None = gpu.whole_plan(now_s)
        while plan is not None:
            missing = []
            for question, number, value in self._ask(plan, handle, where):
                column = question.key[0]
                if not isinstance(value, NvmlError):
                    scaled = value * question.ways[number].scale
                    if question.low <= scaled <= question.high:
                        row.values[question.key] = scaled
                    elif not math.isnan(scaled):
                        cannot = f"says {scaled:g}, which cannot be ({question.low:g} to {question.high:g})"
                        row.problems[column] = NvmlError(-1, cannot)
                elif value.code in UNSUPPORTED:
                    gpu.unsupported[question.key, number] = now_s + SUPPORT_RETRY_S
                    missing.append(question)
                else:
                    row.problems[column] = value
            plan = None
            if missing:
                gpu.plan, plan = None, gpu.plan_for(missing)
        row.read = bool(row.values)
        if not row.read:  # nothing at all is never a lack of support: ask everything again
            gpu.unsupported.clear()
            gpu.plan = None

    def _count_links(self, gpu: _Gpu, handle: Any, where: str, now_s: float) -> None:
        if gpu.links or now_s < gpu.links_again:
            return
        gpu.links_again = now_s + SUPPORT_RETRY_S
        self.doing = f"counting the NVLinks of {where}"
        try:
            found = self._nvml.read(handle, "nvlink_count")[0]
        except NvmlError as error:
            if error.code in LOST or error.code in DRIVER_GONE:
                raise
            return
        if not isinstance(found, NvmlError) and found > 0:
            gpu.links = int(found)
            gpu.questions, gpu.plan = _questions(gpu.links), None

    def _ask(self, plan: _Plan, handle: Any, where: str) -> Iterable[tuple[_Question, int, float | NvmlError]]:
        """Each wanted number with the way it was read by: all fields in one call, then call by call."""
        if plan.fields:
            self.doing = f"reading fields of {where}"
            answer = _answer(len(plan.asked), self._nvml.fields, handle, plan.asked)
            yield from ((question, number, answer[place]) for question, number, place in plan.fields)
        for call, outputs in plan.calls.items():
            self.doing = f"reading {call} of {where}"
            answer = _answer(1 + max(place for _, _, place in outputs), self._nvml.read, handle, call)
            yield from ((question, number, answer[place]) for question, number, place in outputs)

    def _learn_what_is_offered(self, rows: Sequence[_Row]) -> None:
        reading = [self._known[row.identity.key(self._origin.node)] for row in rows if row.read]
        if not reading:  # what was offered before the trouble stays, as NaN
            return
        offered = {question.key[0] for gpu in reading for question in gpu.questions if gpu.way(question) is not None}
        self._offered = frozenset(offered | {total for total, links in _TOTALS.items() if links in offered})

    def _values(self, row: _Row) -> dict[str, Value]:
        """One GPU's entry of every column that the node offers."""
        links = self._known[row.identity.key(self._origin.node)].links
        values: dict[str, Value] = {}
        for counter in LINKS:
            if counter.name in self._offered:
                values[counter.name] = [row.values.get((counter.name, link), math.nan) for link in range(links)]
        for number in NUMBERS:
            if number.name in self._offered:
                values[number.name] = row.values.get((number.name, -1), math.nan)
        for total, name in _TOTALS.items():
            of_links = values.get(name)
            if isinstance(of_links, list) and of_links and not any(map(math.isnan, of_links)):
                values[total] = sum(of_links)
        if isinstance(states := values.get(ACTIVE_LINKS), list):
            values[ACTIVE_LINKS] = [math.nan if math.isnan(state) else LINK_STATES[int(state)] for state in states]
        for word in WORDS:
            if word.name in self._offered:
                code = row.values.get((word.name, -1), math.nan)
                values[word.name] = None if math.isnan(code) else word.words.get(int(code), f"unknown_{int(code)}")
        return values

    def _record(self, gpus: Sequence[GpuIdentity], values: Sequence[dict[str, Value]], now_ms: int) -> GpuCounters:
        columns = {name: [its[name] for its in values] for name in self._offered}
        return counters_record(
            self._origin,
            gpus,
            columns,
            source="nvml",
            tick_ms=now_ms,
            observed_ms=self._wall_ms(),
            interval_ms=self._interval_ms,
        )

    def _event(self, news: News, gpu: GpuIdentity, now_ms: int) -> HardwareEvent:
        return news.event(
            self._origin, self._catalog, gpu, source=self.name, event_ms=now_ms, observed_ms=self._wall_ms()
        )


def _answer(places: int, ask: Callable[..., Answer], *arguments: Any) -> Answer:
    """The answer, or its error in each place. Raises where the GPU is lost or the driver gone."""
    try:
        return ask(*arguments)
    except NvmlError as error:
        if error.code in LOST or error.code in DRIVER_GONE:
            raise
        return (error,) * places


def counters_record(
    origin: Origin,
    gpus: Sequence[GpuIdentity],
    columns: Mapping[str, list[Any]],
    *,
    source: str,
    tick_ms: int,
    observed_ms: int,
    interval_ms: int,
) -> GpuCounters:
    """The record of a reading; each column has one entry per GPU, and a column that is left out nobody offers."""
    return GpuCounters(
        **origin.envelope(tick_ms=tick_ms, observed_ms=observed_ms, interval_ms=interval_ms),
        source=source,
        gpus=[gpu.key(origin.node) for gpu in gpus],
        gpu_index=[gpu.index for gpu in gpus],
        **columns,
    )
