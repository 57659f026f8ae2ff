"""Lines over two logarithmic axes, as SVG: ten times the fleet at ten times the cost is a diagonal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

_WIDTH, _HEIGHT = 380, 260
"""Of a panel's lines, in pixels."""
_LEFT, _RIGHT, _ABOVE, _BELOW = 56, 96, 36, 44
_LINE_PX = 13
"""Names beside the lines stand at least so far apart."""
_COLOURS = ("#4269d0", "#e3813b", "#3ca951", "#a463f2", "#d14f69", "#6a6f7a")
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#57606a}.title{font-weight:600}.grid{stroke:#8c959f40}"
    "polyline{fill:none;stroke-width:2}"
)

Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One drawing: what its lines show, what they are over, and the lines by name. All numbers are above 0."""

    title: str
    over: str
    curves: Mapping[str, Curve]


def svg(*panels: Panel) -> str:
    """The panels side by side."""
    wide, high = _LEFT + _WIDTH + _RIGHT, _ABOVE + _HEIGHT + _BELOW
    drawn = "\n".join(
        f'<g transform="translate({number * wide + _LEFT},{_ABOVE})">\n{_panel(panel)}\n</g>'
        for number, panel in enumerate(panels)
    )
    size = f'width="{wide * len(panels)}" height="{high}" viewBox="0 0 {wide * len(panels)} {high}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{_STYLE}</style>\n{drawn}\n</svg>\n'


def _panel(panel: Panel) -> str:
    points = [point for curve in panel.curves.values() for point in curve]
    first_x, last_x = _decades(x for x, _ in points)
    first_y, last_y = _decades(y for _, y in points)

    def at(x: float, y: float) -> tuple[float, float]:
        right = (log10(x) - first_x) / (last_x - first_x)
        up = (log10(y) - first_y) / (last_y - first_y)
        return _WIDTH * right, _HEIGHT * (1 - up)

    lines = [
        f'<text class="title" x="0" y="-14">{panel.title}</text>',
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT + 36}" text-anchor="middle">{panel.over}</text>',
    ]
    for decade in range(first_x, last_x + 1):
        x, _ = at(10**decade, 10**first_y)
        lines.append(f'<line class="grid" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{_HEIGHT}"/>')
        lines.append(f'<text x="{x:.1f}" y="{_HEIGHT + 18}" text-anchor="middle">{_number(decade)}</text>')
    for decade in range(first_y, last_y + 1):
        _, y = at(10**first_x, 10**decade)
        lines.append(f'<line class="grid" x1="0" y1="{y:.1f}" x2="{_WIDTH}" y2="{y:.1f}"/>')
        lines.append(f'<text x="-8" y="{y + 4:.1f}" text-anchor="end">{_number(decade)}</text>')
    names: list[tuple[float, str, str]] = []
    for (name, curve), colour in zip(panel.curves.items(), _COLOURS, strict=False):
        places = [at(*point) for point in curve]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        lines.append(f'<polyline points="{path}" stroke="{colour}"/>')
        lines += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        names.append((places[-1][1], name, colour))
    below = float("-inf")
    for y, name, colour in sorted(names):
        below = max(y, below + _LINE_PX)
        lines.append(f'<text x="{_WIDTH + 8}" y="{below + 4:.1f}" style="fill:{colour}">{name}</text>')
    return "\n".join(lines)


def _decades(values: Iterable[float]) -> tuple[int, int]:
    """The powers of ten around all values."""
    found = list(values)
    first, last = floor(log10(min(found))), ceil(log10(max(found)))
    return first, max(last, first + 1)


def _number(decade: int) -> str:
    """`0.01`, `10`, `100k`."""
    return f"{10**decade:g}" if decade < 3 else f"{10 ** (decade % 3)}{'kMGT'[decade // 3 - 1]}"
