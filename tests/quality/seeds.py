"""Which simulated fleets a rule may be tuned on, and which ones are kept for scoring. The two never mix."""

from __future__ import annotations

from collections.abc import Iterable

TUNING = tuple(range(1, 21))
"""For whoever works on a rule: look at these as closely as you like."""
SCORING = tuple(range(101, 121))
"""For the table only. Whoever changes a rule because of what one of these shows has spoilt it."""


def purpose(seeds: Iterable[int]) -> str:
    """`tuning` or `scoring`. Raises `ValueError` where seeds are of both or of neither."""
    given = set(seeds)
    for name, known in (("tuning", TUNING), ("scoring", SCORING)):
        if given and given <= set(known):
            return name
    raise ValueError(
        f"the seeds {sorted(given)} are neither all for tuning ({TUNING[0]} to {TUNING[-1]}) nor all for scoring "
        f"({SCORING[0]} to {SCORING[-1]}): a table of both would say nothing"
    )


def parse(text: str) -> tuple[int, ...]:
    """`101-110,115` as numbers. Raises `ValueError` for what is none, or mixes the two purposes."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            found += range(int(first), int(last or first) + 1)
        except ValueError:
            raise ValueError(f"{part!r} is no seed and no range of seeds such as 101-110") from None
    purpose(found)
    return tuple(dict.fromkeys(found))
