"""Faults of one class that come closer together than by chance: on the parts of one thing, or one after another."""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from streams.correlation.base_rates import most_for

SHORTEST_MS = 1000
"""What comes closer together is taken to come so close: no clock of a fleet is better."""
_MOST_PARTS = 6
"""A burst is looked for among so many parts one after the other: more of them make no difference to what is chance."""

Pair = tuple[str, str]
"""Ids of two faults that hang together."""


class Entry(NamedTuple):
    """One beginning of a fault in a run; a fault that became worse later has two."""

    first_ms: int
    part: str
    fault_id: str


@dataclass(slots=True)
class Run:
    """Faults that may hang together, in the order of their first evidence."""

    entries: list[Entry] = field(default_factory=list)
    linked: set[Pair] = field(default_factory=set)
    members: frozenset[str] = frozenset()
    """The faults that are linked."""
    rate: float = 0.0
    """Arrivals a millisecond by which the links were judged: that a rate changes parts nobody."""

    def enter(self, entry: Entry) -> None:
        """Add a fault."""
        insort(self.entries, entry)

    def bursts(self, *, within_ms: int, at_least: int, chance: float, enough: Mapping[str, int]) -> Iterator[Pair]:
        """The pairs that hang together because so many parts have failed in so short a time.

        Of each part the first fault counts; what follows on the same part hangs on that one. `enough`: how many
        faults a part must have to count, where one is not enough.
        """
        parts = [led for led in self._by_part(within_ms) if len(led) >= enough.get(led[0].part, 1)]
        together = [False] * len(parts)
        """Whether a part hangs together with the next one."""
        for first, led in enumerate(parts):
            names = {led[0].part}
            for end in range(first + 1, len(parts)):
                names.add(parts[end][0].part)
                at_ms = parts[end][0].first_ms
                if at_ms - parts[end - 1][0].first_ms > within_ms or len(names) > _MOST_PARTS:
                    break
                lasts_ms = max(SHORTEST_MS, at_ms - led[0].first_ms)
                if len(names) >= at_least and self.rate * lasts_ms < most_for(len(names) - 1, chance):
                    together[first:end] = [True] * (end - first)
        for number, (leader, *others) in enumerate(parts):
            if together[number]:
                yield from _pair(leader, parts[number + 1][0])
            if together[number] or (number and together[number - 1]):
                for other in others:
                    yield from _pair(leader, other)

    def _by_part(self, within_ms: int) -> list[list[Entry]]:
        """The entries by part, in the order of the first of each; a part that fails again much later is two."""
        found: list[list[Entry]] = []
        newest: dict[str, list[Entry]] = {}
        for entry in self.entries:
            led = newest.get(entry.part)
            if led is not None and entry.first_ms - led[0].first_ms <= within_ms:
                led.append(entry)
            else:
                found.append([entry])
                newest[entry.part] = found[-1]
        return found


def _pair(one: Entry, other: Entry) -> Iterator[Pair]:
    """The two as a pair, unless they are beginnings of one fault."""
    if one.fault_id != other.fault_id:
        yield one.fault_id, other.fault_id


class Links:
    """Which faults hang together by runs; each pair by as many runs as link it."""

    def __init__(self) -> None:
        self._of: dict[str, dict[str, int]] = {}
        self._joined: list[Pair] = []
        self._parted: list[Pair] = []

    def __len__(self) -> int:
        return len(self._of)

    def relink(self, run: Run, linked: set[Pair]) -> None:
        """Replace the links of a run."""
        for pair in run.linked - linked:
            for one, other in (pair, pair[::-1]):
                self._of[one][other] -= 1
                if not self._of[one][other]:
                    del self._of[one][other]
                if not self._of[one]:
                    del self._of[one]
            self._parted.append(pair)
        for pair in linked - run.linked:
            for one, other in (pair, pair[::-1]):
                of = self._of.setdefault(one, {})
                of[other] = of.get(other, 0) + 1
            self._joined.append(pair)
        run.linked, run.members = linked, frozenset(chain.from_iterable(linked))

    def settle(self) -> tuple[list[Pair], list[Pair]]:
        """The pairs linked since the last call, and those unlinked; some of these by another run still are."""
        joined, parted = self._joined, self._parted
        self._joined, self._parted = [], []
        return joined, parted

    def neighbours(self, fault: str) -> Collection[str]:
        """The faults with which one is linked."""
        return self._of.get(fault, ())
