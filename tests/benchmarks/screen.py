"""Where the table appears: growing on a terminal, line by line in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner

from tests.benchmarks import table
from tests.benchmarks.table import Row


class Screen(Protocol):
    """Shows rows as they come."""

    def add(self, row: Row) -> None:
        """One more row."""

    def say(self, doing: str) -> None:
        """What is being done now, where somebody is watching."""


@contextmanager
def screen(caption: str) -> Iterator[Screen]:
    """The screen that standard output asks for."""
    console = Console(highlight=False)
    if not console.is_terminal:
        table.plain(sys.stdout, None)
        yield _Pipe()
        print(f"on {caption}", flush=True)
        return
    with Live(console=console, refresh_per_second=4) as live:
        terminal = _Terminal(live, caption)
        terminal.say("starting")
        yield terminal
        terminal.done()


class _Pipe:
    def add(self, row: Row) -> None:
        table.plain(sys.stdout, row)

    def say(self, doing: str) -> None:
        pass


class _Terminal:
    def __init__(self, live: Live, caption: str) -> None:
        self._live, self._caption = live, caption
        self._rows: list[Row] = []

    def add(self, row: Row) -> None:
        self._rows.append(row)
        self._live.update(table.terminal(self._rows, self._caption))

    def say(self, doing: str) -> None:
        self._live.update(Group(table.terminal(self._rows, self._caption), Spinner("dots", doing)))

    def done(self) -> None:
        self._live.update(table.terminal(self._rows, self._caption))
