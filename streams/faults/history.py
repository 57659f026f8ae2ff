"""What a component went through before: its earlier faults and repairs, for as long as they count."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import msgspec

from streams.faults.source import Source

DAY_MS = 86_400_000
_MOST_LIVES = 24
_MOST_RESETS = 4


class Life(msgspec.Struct, array_like=True):
    """One fault of the component, from its beginning to its end. Some 130 bytes when kept."""

    fault_id: str
    fault_class: str
    first_ms: int
    began: Source
    """What record opened it."""
    last_ms: int
    """Its last evidence, as far as it was over when that was noted."""
    node: str | None = None
    boot_id: str | None = None
    """Where and in which boot that was."""
    ended_ms: int | None = None
    ended: Source | None = None
    """What record ended it."""
    by_operator: bool = False
    """An operator ended it: somebody has mended it, or knows better."""
    flapped: bool = False

    def is_open(self, source: Source) -> bool:
        """Whether it stood when a record came."""
        return source.knows(self.began) and (self.ended is None or not source.knows(self.ended))


class Reset(msgspec.Struct, array_like=True):
    """A GPU was reset."""

    at_ms: int
    told: Source


class History(msgspec.Struct):
    """The last 24 faults and 4 resets of one component: 3.5 KB at most, and nothing of a component that is well.

    What it is asked is answered as of a record in the log, see `Source.knows`.
    """

    lives: list[Life] = []
    resets: list[Reset] = []

    def begin(self, life: Life) -> None:
        """Note a new fault; noted before, it changes nothing."""
        if all(known.fault_id != life.fault_id for known in self.lives):
            self.lives = [*self.lives, life][-_MOST_LIVES:]

    def drop(self, fault_id: str) -> None:
        """Take a fault out: it was none of the component's."""
        self.lives = [life for life in self.lives if life.fault_id != fault_id]

    def life(self, fault_id: str) -> Life | None:
        """A fault that was noted."""
        return next((life for life in reversed(self.lives) if life.fault_id == fault_id), None)

    def reset(self, at_ms: int, source: Source) -> None:
        """Note a reset."""
        if all(known.at_ms != at_ms for known in self.resets):
            self.resets = [*self.resets, Reset(at_ms, source)][-_MOST_RESETS:]

    def earlier(self, fault_class: str, but: str, source: Source) -> list[Life]:
        """The faults of a class that were known when a record came, but for one; in the order in which they began."""
        return [
            life
            for life in self.lives
            if life.fault_class == fault_class and life.fault_id != but and source.knows(life.began)
        ]

    def has_open(self, classes: Collection[str], source: Source) -> bool:
        """Whether a fault of one of these classes stood when a record came."""
        return any(life.fault_class in classes and life.is_open(source) for life in self.lives)

    def resets_between(self, first_ms: int, last_ms: int, source: Source) -> Iterator[int]:
        """When the GPU was reset after the first time and before the second."""
        return (reset.at_ms for reset in self.resets if first_ms <= reset.at_ms < last_ms and source.knows(reset.told))

    def forget(self, before_ms: int) -> bool:
        """Drop what is older. Says whether nothing is left."""
        self.lives = [life for life in self.lives if max(life.last_ms, life.ended_ms or 0) >= before_ms]
        self.resets = [reset for reset in self.resets if reset.at_ms >= before_ms]
        return not self.lives
