"""What is news in two readings of `gpu.counters`: a mode that changed, an error that counts, a repair that waits.

Pure: the values of one GPU go in, what is to be reported comes out, once for each time that it begins. Whoever reads
the values (NVML, nvidia-smi), the news are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from producers.discovery import GpuIdentity
from producers.source import Origin
from schemas.catalog import Catalog
from schemas.records import HardwareEvent

Value = float | str | None | list[float]
"""A column's entry for one GPU; NaN and None are `not read`."""
OVER = "gpu_condition_over"
REPEAT_S = 3600.0
"""A column that comes and goes is reported at most so often."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A kind of `schemas/catalog/events.toml`, and when it begins: `begins(before, now)` of one of the columns."""

    kind: str
    columns: tuple[str, ...]
    begins: Callable[[float | str, float | str], bool]
    good: Callable[[float | str], bool] | None = None
    """When a condition that was reported is over; None for what is a moment and not a condition."""
    at_first: bool = False
    """Bad in itself, so the first reading after the start is news too: a value that is not `good`."""
    has_variants: bool = False
    """The catalogue knows the values, and they differ in how severe they are."""


def _grew(before: float | str, now: float | str) -> bool:
    return isinstance(before, float) and isinstance(now, float) and now > before


def _fell(before: float | str, now: float | str) -> bool:
    return isinstance(before, float) and isinstance(now, float) and now < before


def _left(state: str) -> Callable[[float | str, float | str], bool]:
    return lambda before, now: before == state and now != state


def _differs(before: float | str, now: float | str) -> bool:
    return before != now


def _no(value: float | str) -> bool:
    return value == 0


RULES: tuple[Rule, ...] = (
    Rule("row_remap_pending", ("row_remap_pending",), _grew, _no, at_first=True),
    Rule("row_remap_failed", ("row_remap_failure",), _grew, _no, at_first=True),
    Rule("sram_threshold_exceeded", ("ecc_sram_threshold_exceeded",), _grew, _no, at_first=True),
    Rule("page_retirement_pending", ("retired_pages_pending",), _grew, _no, at_first=True),
    Rule(
        "gpu_recovery_action",
        ("recovery_action",),
        _differs,
        lambda now: now == "none",
        at_first=True,
        has_variants=True,
    ),
    Rule(
        "fabric_unhealthy", ("fabric_health",), _differs, lambda now: now in ("healthy", "not_supported"), at_first=True
    ),
    Rule("fabric_left", ("fabric_state",), _left("completed"), lambda now: now == "completed"),
    # an idle link lowers its generation, never its width: only a fall is news, a narrow slot is none
    Rule("pcie_width_reduced", ("pcie_width",), _fell),
    Rule(
        "ecc_uncorrectable",
        (
            "ecc_volatile_uncorrectable",
            "ecc_volatile_dram_uncorrectable",
            "ecc_volatile_sram_uncorrectable",
            "ecc_aggregate_uncorrectable",
            "ecc_aggregate_dram_uncorrectable",
            "ecc_aggregate_sram_uncorrectable",
        ),
        _grew,
    ),
    Rule("gpu_mode_changed", ("ecc_mode", "mig_mode", "compute_mode", "power_limit_requested_watts"), _differs),
)
LINKS = "nvlink_link_active"
LINK_DOWN = "nvlink_down"


@dataclass(frozen=True, slots=True)
class News:
    """What is to be reported of one GPU."""

    kind: str
    text: str
    details: dict[str, str] = field(default_factory=dict)
    link: int | None = None

    def event(
        self, origin: Origin, catalog: Catalog, gpu: GpuIdentity, *, source: str, event_ms: int, observed_ms: int
    ) -> HardwareEvent:
        """It as a record; the catalogue's variant, where the details name one, says how severe it is."""
        record = origin.event(
            catalog,
            self.kind,
            source=source,
            event_ms=event_ms,
            observed_ms=observed_ms,
            gpu=gpu.key(origin.node),
            pci=gpu.pci,
            details=self.details,
            raw=f"GPU {gpu.index} ({gpu.key(origin.node)}): {self.text}",
        )
        entry = catalog.of(record)
        return msgspec.structs.replace(record, severity=entry.severity, action=entry.action, link=self.link)


class Conditions:
    """What one GPU said last (some 2 kB), and what was reported and is not over."""

    def __init__(self) -> None:
        self._last: dict[str, float | str] = {}
        self._links: list[float] = []
        self._standing: set[str] = set()
        self._links_told: set[int] = set()

    def update(self, values: Mapping[str, Value]) -> list[News]:
        """The news in this reading. What was not read changes nothing: it is compared again when it is."""
        news: list[News] = []
        for rule in RULES:
            news += self._judge(rule, values)
        links = values.get(LINKS)
        news += self._judge_links(links) if isinstance(links, list) else ()
        return news

    def _judge(self, rule: Rule, values: Mapping[str, Value]) -> list[News]:
        began: list[tuple[str, float | str | None, float | str]] = []
        over: list[tuple[str, float | str | None, float | str]] = []
        for column in rule.columns:
            now = values.get(column)
            if now is None or isinstance(now, list) or (isinstance(now, float) and math.isnan(now)):
                continue
            before = self._last.get(column)
            self._last[column] = now
            good = rule.good is not None and rule.good(now)
            if before is None:
                if rule.at_first and not good:
                    began.append((column, before, now))
            elif rule.begins(before, now) and not good:
                began.append((column, before, now))
            elif good and before != now and rule.kind in self._standing:
                over.append((column, before, now))
        if began:
            self._standing.add(rule.kind)
            return [_news(rule.kind, began, {"variant": str(began[0][2])} if rule.has_variants else {})]
        if over:
            self._standing.discard(rule.kind)
            return [_news(OVER, over, {"condition": rule.kind})]
        return []

    def _judge_links(self, now: Sequence[float]) -> list[News]:
        before, self._links = self._links, list(now)
        for link in range(min(len(before), len(now))):
            if math.isnan(now[link]):
                self._links[link] = before[link]
        pairs = list(enumerate(zip(before, self._links, strict=False)))
        down = [link for link, (was, is_) in pairs if was == 1 and is_ == 0]
        back = [link for link, (was, is_) in pairs if was == 0 and is_ == 1 and link in self._links_told]
        self._links_told = (self._links_told | set(down)) - set(back)
        active = sum(state == 1 for state in self._links)
        news = []
        for kind, links, word in ((LINK_DOWN, down, "down"), (OVER, back, "up again")):
            if not links:
                continue
            names = ",".join(map(str, links))
            details = {"links": names, "active": str(active), "before": str(before.count(1.0))}
            if kind == OVER:
                details["condition"] = LINK_DOWN
            text = f"NVLink {names} is {word}: {active} of {len(self._links)} links are up"
            news.append(News(kind, text, details, links[0] if len(links) == 1 else None))
        return news


class Complaints:
    """What of one GPU could not be read last time, so that it is told once, and what comes and goes now and then."""

    def __init__(self) -> None:
        self._failing: set[str] = set()
        self._told: dict[str, float] = {}

    def update(self, problems: Mapping[str, str], now_s: float) -> list[News]:
        """What fails since this reading (column to what stood in its place), as one piece of news."""
        new = [
            column
            for column in sorted(problems.keys() - self._failing)
            if now_s - self._told.get(column, -math.inf) >= REPEAT_S
        ]
        self._failing = set(problems)
        if not new:
            return []
        self._told |= dict.fromkeys(new, now_s)
        text = "; ".join(f"{column}: {problems[column]}" for column in new)
        return [News("metric_unreadable", text, {"metrics": ",".join(new)})]


def _news(
    kind: str, changes: Sequence[tuple[str, float | str | None, float | str]], details: Mapping[str, str]
) -> News:
    """One piece of news of several columns; `before` and `now` are those of the first, the text has all."""
    parts = []
    for column, before, now in changes:
        was = "" if before is None else f", it was {_shown(before)}"
        parts.append(f"{column} is {_shown(now)}{was}")
    column, before, now = changes[0]
    told = {"column": ",".join(column for column, _, _ in changes), "now": _shown(now)}
    if before is not None:
        told["before"] = _shown(before)
    return News(kind, "; ".join(parts), {**told, **details})


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.15g}"
