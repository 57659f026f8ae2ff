"""What is wrong with an inventory file: every place of it, with what to do."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import NamedTuple

_MOST_SUGGESTED = 50
"""To find the name that was meant costs some 10 ms among 10,000: a file full of errors is not guessed at for ever."""


class Problem(NamedTuple):
    """One thing that is wrong, at a line (counted from 1) of the file."""

    line: int
    text: str


class InventoryError(ValueError):
    """A file that is no inventory. `problems` holds all that was found, in the order of the lines."""

    def __init__(self, file: str, problems: Iterable[Problem]) -> None:
        self.file = file
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(self.lines()))

    def lines(self) -> list[str]:
        """`file:line: what is wrong and what to do`, one for each."""
        return [f"{self.file}:{problem.line}: {problem.text}" for problem in self.problems]


class Findings:
    """Gathers problems. What goes wrong in the same way for many names of one line is one problem with a count."""

    def __init__(self) -> None:
        self._first: dict[tuple[int, str], str] = {}
        self._more: dict[tuple[int, str], int] = {}
        self._suggested = 0

    def __bool__(self) -> bool:
        return bool(self._first)

    def add(self, line: int, text: str, *, rule: str = "") -> None:
        """Note a problem. Those of one line with the same `rule` are alike."""
        key = (line, rule or text)
        if key in self._first:
            self._more[key] = self._more.get(key, 0) + bool(rule)
        else:
            self._first[key] = text

    def meant(self, word: str, known: Collection[str]) -> str:
        """`; did you mean "x"?` where something like it is known, else what there is to choose from, if not much."""
        if self._suggested < _MOST_SUGGESTED:
            self._suggested += 1
            if close := difflib.get_close_matches(word, known, n=1):
                return f'; did you mean "{close[0]}"?'
        return f"; known are {', '.join(sorted(known))}" if 0 < len(known) <= 20 else ""

    def problems(self) -> list[Problem]:
        """All of them."""
        return [
            Problem(line, text + (f" (and {more} more like it)" if (more := self._more.get((line, rule))) else ""))
            for (line, rule), text in self._first.items()
        ]
