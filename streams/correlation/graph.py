"""Who explains whom among faults, and by which cause each of them hangs in its incident."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from schemas.catalog.causes import Cause

_MOST_CAUSES = 8
"""So many explanations of one fault are kept, the best ones: a job of thousands that dies with a rack has more."""

Order = tuple[float, int, int, int, str]
"""How good an explanation is, the best first: minus how sure, how near in place, how near in time, and whichever (the
id of the cause). Nothing that the garbage collector has to look into."""


class Graph:
    """Cause and effect by fault id. Some 300 bytes a tie.

    Each fault hangs on its best explanation only, its parent: that two causes could explain a symptom does not make
    them one incident. `settle` gives what hangs otherwise than before; what is kept depends on the ties that there
    are, not on the order in which they came.
    """

    def __init__(self) -> None:
        self.effects: dict[str, dict[str, Cause]] = {}
        """Fault to what it explains, each with the row that says so."""
        self.causes: dict[str, dict[str, Order]] = {}
        """Fault to what explains it, and how well."""
        self._parent: dict[str, str] = {}
        self._children: dict[str, set[str]] = {}
        self._crowded: set[str] = set()
        """Faults that have more explanations than are kept."""
        self._worst: dict[str, Order] = {}
        """Of faults that have as many as are kept, the least good."""
        self._stale: set[str] = set()

    def add(self, effect: str, order: Order, row: Cause) -> None:
        """Enter a tie, and the row that says so; of two between the same faults the better one stands."""
        cause = order[-1]
        worst = self._worst.get(effect)
        known = self.causes.get(effect)
        before = None if known is None else known.get(cause)
        if before is not None:
            if before <= order:
                return
        elif worst is not None:
            self._crowded.add(effect)
            if worst <= order:
                return
            self._cut(worst[-1], effect)
        if known is None:
            known = self.causes[effect] = {}
        known[cause] = order
        self.effects.setdefault(cause, {})[effect] = row
        self._stale.add(effect)
        if len(known) >= _MOST_CAUSES:
            self._worst[effect] = max(known.values())

    def explain(self, effect: str, ties: Mapping[str, tuple[Order, Cause]]) -> None:
        """Enter what explains a fault, by cause."""
        best = sorted(ties.values(), key=lambda tie: tie[0])
        for order, row in best[:_MOST_CAUSES]:
            self.add(effect, order, row)
        if len(best) > _MOST_CAUSES:
            self._crowded.add(effect)

    def drop(self, fault: str) -> set[str]:
        """Forget all ties of a fault; gives the faults of which other explanations may be to be had now."""
        crowded = set()
        for effect in list(self.effects.get(fault, ())):
            self._cut(fault, effect)
            self._stale.add(effect)
            if effect in self._crowded:
                self._crowded.discard(effect)
                crowded.add(effect)
        for cause in list(self.causes.get(fault, ())):
            self._cut(cause, fault)
        self._crowded.discard(fault)
        self._stale.add(fault)
        return crowded

    def settle(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]], set[str]]:
        """Since the last call: pairs of faults that hang together, pairs that no longer do, and the faults that have
        other explanations than before.
        """
        joined, parted = [], []
        for effect in sorted(self._stale):
            causes = self.causes.get(effect)
            chosen = min(causes.values())[-1] if causes else None
            before = self._parent.get(effect)
            if before == chosen:
                continue
            if before is not None:
                parted.append((before, effect))
                self._children[before].discard(effect)
                if not self._children[before]:
                    del self._children[before]
                del self._parent[effect]
            if chosen is not None:
                joined.append((chosen, effect))
                self._children.setdefault(chosen, set()).add(effect)
                self._parent[effect] = chosen
        stale, self._stale = self._stale, set()
        return joined, parted, stale

    def parent(self, fault: str) -> tuple[str, Cause] | None:
        """The best explanation of a fault, and the row that says so, as of the last `settle`."""
        cause = self._parent.get(fault)
        return None if cause is None else (cause, self.effects[cause][fault])

    def neighbours(self, fault: str) -> Collection[str]:
        """The parent of a fault, and what it is the parent of."""
        parent, children = self._parent.get(fault), self._children.get(fault, ())
        return children if parent is None else (parent, *children)

    def __len__(self) -> int:
        return len(self.effects) + len(self.causes) + len(self._parent) + len(self._children) + len(self._crowded)

    def _cut(self, cause: str, effect: str) -> None:
        del self.effects[cause][effect], self.causes[effect][cause]
        self._worst.pop(effect, None)
        if not self.effects[cause]:
            del self.effects[cause]
        if not self.causes[effect]:
            del self.causes[effect]
