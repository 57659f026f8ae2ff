"""The demo's picture: pure functions from what was seen to what rich draws."""

from __future__ import annotations

import io
import math
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence

from rich.box import ROUNDED
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from infra.demo.scorecard import Row, Scorecard, Told
from infra.demo.seen import Delivered, GpuNow, Hop, Seen

_SILENT_SECONDS = 6.0
_SEVERITY_STYLE = {"critical": "bold red", "warning": "yellow", "info": "cyan", "": "default"}
_HEAT: tuple[tuple[float, str], ...] = (
    # up to °C: colour of the 256 that every terminal of today has
    (45.0, "color(24)"), (55.0, "color(30)"), (62.0, "color(35)"), (68.0, "color(71)"), (74.0, "color(142)"),
    (80.0, "color(178)"), (85.0, "color(208)"), (math.inf, "color(196)"),
)  # fmt: skip

_STAMP = re.compile(r"(?<=: )\d{4}-\d\d-\d\dT\S+ ")
"""The time in a line of evidence; the screen's width is for what it says."""

WORDS = {
    "gpu_falls_off_bus": "a GPU falls off the bus",
    "gpu_overheats": "a GPU overheats slowly",
    "nvlink_fails": "an NVLink fails, its rack echoes",
    "node_goes_silent": "a node goes silent",
}


_INCIDENT_LINES = 3
_ALERTS = 4
_MOST_INCIDENTS = 8
_MOST_WARNINGS = 3
_LOW = 30
"""Lines below which a terminal has no room for the legend."""


def screen(
    seen: Seen, *, elapsed_seconds: float, total_seconds: float, phase: str, size: tuple[int, int] | None = None
) -> RenderableType:
    """The whole live view; where a terminal has a `size` (columns, lines), as many of the newest incidents as fit."""
    above = [
        _header(elapsed_seconds, total_seconds, phase),
        _columns([(_hops(seen.hops), "the flow"), (_script(seen), "what breaks")]),
        _framed(heat_map(seen.gpus, legend=size is None or size[1] >= _LOW), "the fleet"),
    ]
    alerts = list(seen.delivered)[-_ALERTS:]
    most, warnings = _MOST_INCIDENTS, _MOST_WARNINGS
    if size is not None:
        # without the frame of the incidents, and the lines that count those before and the quiet ones
        room = size[1] - _lines_of(above, size[0]) - 4
        warnings = max(0, min(warnings, len(_early_warnings(seen)), room - _INCIDENT_LINES))
        room -= warnings
        if room < 2 * _INCIDENT_LINES + len(alerts) + 2:
            alerts = []
        most = max(1, min(_MOST_INCIDENTS, (room - (len(alerts) + 2 if alerts else 0)) // _INCIDENT_LINES))
    parts = [*above, _framed(incidents(seen, most, warnings), "incidents")]
    if alerts:
        parts.append(_framed(Group(*(_alert(one) for one in alerts)), "alerts"))
    parts += [Text(problem, style="yellow") for problem in seen.problems]
    return Group(*parts)


def _lines_of(parts: Sequence[RenderableType], width: int) -> int:
    return len(Console(width=width, file=io.StringIO()).render_lines(Group(*parts), pad=False))


def _framed(body: RenderableType, title: str) -> Panel:
    return Panel(body, title=title, title_align="left", box=ROUNDED, border_style="dim")


def _rack_lines(gpus: Sequence[GpuNow]) -> int:
    """About how many lines the racks take, drawn side by side."""
    return 4 if gpus else 0


def _header(elapsed_seconds: float, total_seconds: float, phase: str) -> RenderableType:
    line = Table.grid(padding=(0, 2), expand=True)
    line.add_column()
    line.add_column(ratio=1)
    line.add_column(justify="right")
    bar = ProgressBar(total=max(total_seconds, 0.1), completed=min(elapsed_seconds, total_seconds))
    clock = f"{elapsed_seconds:3.0f} / {total_seconds:.0f} s"
    line.add_row("[bold]fleetpulse[/] [dim]demo[/]  " + escape(phase), bar, clock)
    return line


def _columns(parts: Sequence[tuple[RenderableType, str]]) -> RenderableType:
    grid = Table.grid(expand=True)
    for _ in parts:
        grid.add_column(ratio=1)
    grid.add_row(*(_framed(part, title) for part, title in parts))
    return grid


def _hops(hops: Iterable[Hop]) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    table.add_column("hop", no_wrap=True)
    table.add_column("per s", justify="right", no_wrap=True)
    table.add_column("waiting", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, style="dim", overflow="ellipsis", ratio=1)
    for hop in hops:
        rate = f"{hop.per_second:,.0f}" if hop.per_second is not None else "-"
        lag = "" if hop.lag is None else f"{hop.lag:,.0f}"
        table.add_row(hop.name, rate, Text(lag, style="yellow" if (hop.lag or 0) > 1000 else ""), hop.note)
    return table


def _script(seen: Seen) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    table.add_column("injected", no_wrap=True, overflow="ellipsis", ratio=2)
    table.add_column("where", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("found", no_wrap=True, justify="right")
    rows = seen.card.rows if seen.card else ()
    for row in rows:
        table.add_row(WORDS.get(row.injected.fault, row.injected.fault), row.injected.node or "", _mark(row))
    if not rows:
        table.add_row("[dim]nothing yet: the fleet is healthy[/]", "", "")
    return table


def _mark(row: Row) -> Text:
    if row.told is None:
        return Text("…", style="dim")
    if row.found and row.root_right:
        return Text(f"✓ {_seconds(row.delay_seconds)}", style="green")
    return Text("✗ wrong root" if row.found else "✗ wrong class", style="red")


def heat_map(gpus: Sequence[GpuNow], *, legend: bool = True) -> RenderableType:
    """Racks side by side: a cell per GPU, coloured by temperature, marked where it is unhealthy."""
    if not gpus:
        return Text("no GPU has reported yet", style="dim")
    racks: dict[str, dict[str, list[GpuNow]]] = defaultdict(lambda: defaultdict(list))
    for gpu in gpus:
        racks[gpu.rack][gpu.node].append(gpu)
    return Group(
        Columns([_rack(name, nodes) for name, nodes in sorted(racks.items())], padding=(0, 3), equal=False),
        *([_legend()] if legend else []),
    )


def _rack(name: str, nodes: dict[str, list[GpuNow]]) -> RenderableType:
    """A line per node, or a column per node where that is flatter."""
    ordered = [sorted(gpus, key=lambda gpu: gpu.gpu_index) for _, gpus in sorted(nodes.items())]
    most = max(len(gpus) for gpus in ordered)
    flat = len(ordered) > most
    grid = [[gpus[place] if place < len(gpus) else None for place in range(most)] for gpus in ordered]
    cells = [list(line) for line in zip(*grid, strict=True)] if flat else grid
    lines = [Text(name, style="bold").append(f" {len(ordered)}×{most}", style="dim")]
    lines += [Text("").join(_cell(gpu) if gpu else Text("  ") for gpu in line) for line in cells]
    return Group(*lines)


def _cell(gpu: GpuNow) -> Text:
    if gpu.worst_severity == "critical":
        return Text("✗ ", style="bold red")
    silent = gpu.age_seconds > _SILENT_SECONDS or math.isnan(gpu.temperature_celsius)
    if silent:
        return Text("? ", style="bold magenta")
    colour = next(colour for limit, colour in _HEAT if gpu.temperature_celsius <= limit)
    return Text("▲ " if gpu.worst_severity == "warning" else "■ ", style=colour)


def _legend() -> Text:
    line = Text("\n")
    for (limit, colour), (above, _) in zip(_HEAT[1:], _HEAT, strict=False):
        line.append("■", style=colour).append(
            f" {above:.0f}-{limit:.0f}  " if math.isfinite(limit) else f" >{above:.0f} °C  "
        )
    return (
        line.append("  ▲ warning   ")
        .append("✗", style="bold red")
        .append(" critical   ")
        .append("?", style="bold magenta")
        .append(" silent")
    )


def incidents(seen: Seen, most: int, warnings: int = _MOST_WARNINGS) -> RenderableType:
    """The newest `most` incidents that paged, newest last, with evidence and what to do, and the newest `warnings` of
    what has not failed yet; the others are counted.
    """
    told = sorted((seen.told or {}).values(), key=lambda one: one.newest.first_ms)
    loud = [one for one in told if one.page is not None]
    shown: list[RenderableType] = []
    for one in loud[-most:]:
        shown += _incident(one)
    shown += [_warning(one) for one in _early_warnings(seen)[-warnings:] if warnings]
    if len(loud) > most:
        shown.insert(0, Text(f"{len(loud) - most} before", style="dim"))
    if not shown:
        shown.append(Text("none", style="dim"))
    quiet = sum(one.page is None and not is_early_warning(one) for one in told)
    if quiet:
        shown.append(Text(f"and {quiet} that wake nobody (jobs that failed by their own fault, notices)", style="dim"))
    return Group(*shown)


def is_early_warning(one: Told) -> bool:
    """Whether an incident tells of something that has not failed yet."""
    return one.page is None and one.newest.severity == "warning" and one.newest.state != "cleared"


def _early_warnings(seen: Seen) -> list[Told]:
    """All of them, the newest last."""
    told = sorted((seen.told or {}).values(), key=lambda one: one.newest.first_ms)
    return [one for one in told if is_early_warning(one)]


def _warning(one: Told) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append("warning  ", style=_SEVERITY_STYLE["warning"]).append(one.newest.title)
    return line.append("   early: wakes nobody", style="dim")


def _incident(one: Told) -> list[RenderableType]:
    incident = one.newest
    style = _SEVERITY_STYLE.get(incident.severity, "")
    head = Text(no_wrap=True, overflow="ellipsis")
    head.append(f"{incident.severity:<8} ", style=style).append(incident.title, style="bold")
    why = Text("  because  ", style="dim", no_wrap=True, overflow="ellipsis")
    why.append(_STAMP.sub("", incident.evidence[0]) if incident.evidence else incident.reason, style="default")
    what = Text("  do       ", style="dim", no_wrap=True, overflow="ellipsis")
    what.append(incident.action.replace("_", " "), style="bold cyan").append(f"   {incident.root}", style="default")
    return [head, why, what]


def _alert(one: Delivered) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{clock(one.at_ms)}  ", style="dim").append("page", style="bold red")
    if one.delay_seconds is not None:
        line.append(f" after {one.delay_seconds:.1f} s", style="green" if one.delay_seconds < 3 else "yellow")
    return line.append(f"  {one.title}").append(f"   ({one.channel})", style="dim")


def card(scorecard: Scorecard) -> RenderableType:
    """The scorecard after the run."""
    table = Table(box=ROUNDED, border_style="dim", title="scorecard", title_justify="left", title_style="bold")
    table.caption = (
        "after: since the fault could first be seen; silence and heat count once they have lasted\n"
        "warned: how long before it failed its counters had an incident of their own, which woke nobody"
    )
    table.caption_justify = "left"
    table.add_column("injected")
    table.add_column("where", overflow="fold")
    table.add_column("found")
    table.add_column("root")
    table.add_column("decided\nafter", justify="right")
    table.add_column("told\nafter", justify="right")
    table.add_column("warned\nbefore", justify="right")
    for row in scorecard.rows:
        found = Text("✓", style="green") if row.found else Text("✗ no", style="bold red")
        right = Text("✓", style="green") if row.root_right else Text("✗", style="bold red")
        if row.told is not None and not row.root_right:
            right = Text(f"✗ {row.told.newest.root}", style="bold red")
        where = Text(row.injected.component).append(f"\n{row.injected.node or ''}", style="dim")
        words = WORDS.get(row.injected.fault, row.injected.fault)
        warned = "" if row.warned_seconds is None else _seconds(row.warned_seconds)
        table.add_row(words, where, found, right, _seconds(row.delay_seconds), _seconds(row.alerted_seconds), warned)
    if not scorecard.false_alarms:
        alarms = Text("false alarms: none", style="green")
    else:
        alarms = Text(f"false alarms: {len(scorecard.false_alarms)}", style="bold red")
        for one in scorecard.false_alarms:
            alarms.append(f"\n  {one.newest.title} ({one.newest.root})", style="red")
    if scorecard.passed:
        verdict = Text(
            "passed: every fault was found at its root, and nobody was woken for nothing", style="bold green"
        )
    else:
        verdict = Text(f"failed: {'; '.join(scorecard.failures)}", style="bold red")
    return Group(table, alarms, verdict)


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"


def clock(at_ms: int) -> str:
    """`10:00:00`, local time."""
    return time.strftime("%H:%M:%S", time.localtime(at_ms / 1000))
