"""Rows of the table, and the three ways to print it: for a terminal, for a pipe, for a README."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TextIO

from rich.markup import escape
from rich.table import Table

Verdict = Literal["met", "missed", "failed", "skipped", ""]

COLUMNS = ("what", "measured", "beside", "aim", "verdict")
_PLAIN_WIDTHS = (58, 24, 44, 12, 7)
_BEGIN, _END = "<!-- table -->", "<!-- /table -->"
_NOTHING = "\N{EN DASH}"
_COLOURS = {"met": "green", "missed": "yellow", "failed": "red", "skipped": "dim"}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    measured: str = ""
    beside: str = ""
    """What else was measured in the same run, and the ratio to it."""
    aim: str = ""
    verdict: Verdict = ""
    benchmark: str = field(default="", compare=False)

    def cells(self) -> tuple[str, ...]:
        """In the order of `COLUMNS`."""
        return self.what, self.measured, self.beside, self.aim, self.verdict


def judged(what: str, measured: str, aim: str, *, met: bool, beside: str = "") -> Row:
    """A row with an aim, reached or not."""
    return Row(what, measured, beside, aim, "met" if met else "missed")


def failed(what: str, why: object) -> Row:
    """A benchmark that did not come to its end, and why."""
    return Row(what, _NOTHING, _one_line(why), "", "failed")


def skipped(what: str, why: object) -> Row:
    """A part that cannot be measured here, and why."""
    return Row(what, _NOTHING, _one_line(why), "", "skipped")


def count(number: float) -> str:
    """Three digits that matter: `417k`, `1.25M`, `37.0`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{_three(number / size)}{letter}"
    return _three(number)


def times(ratio: float) -> str:
    """`4.9×`."""
    return f"{_three(ratio)}×"


def terminal(rows: Sequence[Row], caption: str) -> Table:
    """For a terminal."""
    table = Table(title="fleetpulse benchmarks", caption=escape(caption), caption_justify="left", show_lines=False)
    for name in COLUMNS:
        table.add_column(name, justify="right" if name == "measured" else "left", overflow="fold")
    before = rows[0].benchmark if rows else ""
    for row in rows:
        if row.benchmark != before:
            table.add_section()
            before = row.benchmark
        colour = _COLOURS.get(row.verdict, "")
        *cells, verdict = map(escape, row.cells())
        table.add_row(*cells, f"[{colour}]{verdict}[/]" if colour else verdict)
    return table


def plain(out: TextIO, row: Row | None) -> None:
    """One line (or more, where a cell is long) for a pipe or a log file; None prints the head."""
    cells = COLUMNS if row is None else row.cells()
    wrapped = [textwrap.wrap(cell, width) or [""] for cell, width in zip(cells, _PLAIN_WIDTHS, strict=True)]
    for line in range(max(map(len, wrapped))):
        parts = (cell[line] if line < len(cell) else "" for cell in wrapped)
        print("  ".join(map(str.ljust, parts, _PLAIN_WIDTHS)).rstrip(), file=out, flush=True)


def markdown(rows: Sequence[Row], caption: str) -> str:
    """For a README: the table and, above it, where it was taken."""
    lines = [caption, "", f"| {' | '.join(COLUMNS)} |", "|---|--:|---|---|---|"]
    for row in rows:
        cells = (cell.replace("|", "\\|") for cell in row.cells())
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write_markdown(path: Path, text: str) -> None:
    """Into the place that `path` keeps for it, else as the whole file."""
    before, begin, rest = path.read_text().partition(_BEGIN) if path.exists() else ("", "", "")
    _, end, after = rest.partition(_END)
    path.write_text(f"{before}{begin}\n{text}{end}{after}" if end else text)


def _three(number: float) -> str:
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"


def _one_line(why: object) -> str:
    text = " ".join(str(why).split()) or type(why).__name__
    return text if len(text) <= 240 else text[:237] + "…"
