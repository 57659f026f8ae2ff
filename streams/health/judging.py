"""What faults come to: the rows of `schemas/catalog/health.toml` applied, one step at a time.

Plain functions of their arguments. `book.py` knows which faults stand, who holds whom, and what was said before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from schemas.catalog import ACTIONS, SEVERITIES, Catalog
from schemas.catalog.health import ALL_ELSE, EFFECTS, HEALTHS, Effect, FaultRow, HealthTable, PartRow
from schemas.records import Fault, Reason

_MOST_REASONS = 8
"""Of a verdict, the weightiest: a node has eight GPUs, and nobody reads more."""
_OF_HEALTH = frozenset(HEALTHS)
"""Effects that are a health; announced work explains these away, and no early warning."""
_CODES = {"xid": "XID", "sxid": "SXid"}
_ANOTHER = ""
"""Whom a reason is told of where that is not the component that it is about."""
_WEIGHT = {effect: len(EFFECTS) - at for at, effect in enumerate(EFFECTS)}
_BESIDE = "contact_support"
"""It stands beside the ladder: whatever else is asked for comes first."""
_RUNG = {action: 0.5 if action == _BESIDE else at for at, action in enumerate(ACTIONS)}


class Said(NamedTuple):
    """A reason, and what of it is not in the record."""

    reason: Reason
    rentable: bool
    action: str
    place: int
    """Of its row in the table: between equals the one further up leads."""


class Judged(NamedTuple):
    """What one fault makes of the component that it is about, and of all that this one holds."""

    own: tuple[Said, ...]
    held: tuple[Said, ...]


NOTHING = Judged((), ())


class Condition(NamedTuple):
    """What is to be said of a component."""

    health: str
    rentable: bool
    action: str
    said: tuple[Said, ...]
    """The weightiest first."""

    @property
    def reasons(self) -> list[Reason]:
        """As many as a verdict shows."""
        return [one.reason for one in self.said[:_MOST_REASONS]]


def condition(component: str, said: Iterable[Said]) -> Condition:
    """What reasons come to together: the worst health, the most intrusive action, rentable if all of them let it."""
    ranked = tuple(sorted(said, key=lambda one: _rank(component, one)))
    spoken = {one.reason.effect for one in ranked}
    return Condition(
        health=next((health for health in HEALTHS if health in spoken), HEALTHS[-1]),
        rentable=all(one.rentable for one in ranked),
        action=max((one.action for one in ranked), key=_RUNG.__getitem__, default=ACTIONS[0]),
        said=ranked,
    )


class Judge:
    """The table, ready to be applied."""

    def __init__(self, table: HealthTable, catalog: Catalog) -> None:
        self._table = table
        self._catalog = catalog
        self._rows = table.by_class()
        self._places = {row.name: place for place, row in enumerate(table.rows())}

    def row(self, fault: Fault) -> FaultRow:
        """The row that a fault falls under. A class that the table does not have falls under those of `unknown`."""
        rows = self._rows.get(fault.fault_class) or self._rows[ALL_ELSE]
        return next(row for row in rows if row.fits(fault))  # the last fits all, the table sees to that

    def fault(self, fault: Fault, about: str) -> Judged:
        """What an open fault makes of the component `about`, and of what that holds."""
        row = self.row(fault)
        own = (*self._said(fault, about, row, row.effect), *self._repeats(fault, about))
        return Judged(own, self._said(fault, _ANOTHER, row, row.held))

    def never_heard(self, component: str) -> Said:
        """It is declared, and that is all that is known of it."""
        row = self._table.never_heard
        reason = Reason(
            effect="unknown",
            component=component,
            fault_class="source_health",
            severity="warning",
            rule=row.name,
            text=row.says or row.reason,
        )
        return self._say(reason, rentable=False)

    def parts(self, component: str, parts: Mapping[str, Condition]) -> list[Said]:
        """What the parts of a node or rack make of it. `parts` are what they are by themselves."""
        kind = component.partition(":")[0]
        said: list[Said] = []
        told: set[str] = set()
        for row in self._table.parts:
            if row.whole != kind:
                continue
            fitting = [name for name, part in parts.items() if name not in told and _fits(row, part)]
            if not row.sums_up:
                said += [self._of_part(row, name, parts[name]) for name in sorted(fitting)]
                told.update(fitting)
            elif len(fitting) >= max(row.at_least, row.at_least_share * len(parts), 1):
                said.append(self._of_parts(row, component, sorted(fitting), parts))
        return said

    def whole(self, component: str, held: Condition) -> list[Said]:
        """What a node or rack that may not be rented makes of its parts."""
        if held.rentable:
            return []
        kind, leading = component.partition(":")[0], _what_blocks(held)
        text = f"{component} may not be rented: {leading.text}"
        return [
            self._say(_cited(leading, row.name, row.effect, component, text), rentable=False)
            for row in self._table.wholes
            if row.whole == kind
        ]

    def _said(self, fault: Fault, about: str, row: FaultRow, effect: Effect) -> tuple[Said, ...]:
        if effect == "none":
            return ()
        if fault.maintenance is not None and effect in _OF_HEALTH:
            work = self._table.explained_by_work
            reason = self._reason(fault, about, work.name, "blocks", work.says or fault.reason)
            return (self._say(reason, rentable=False),)
        reason = self._reason(fault, about, row.name, effect, row.says or fault.reason)
        return (self._say(reason, rentable=_may_be_rented(effect, row.rentable), action=fault.action),)

    def _repeats(self, fault: Fault, about: str) -> Iterator[Said]:
        for row in self._table.repeats:
            if fault.recurrence >= row.at_least and fault.fault_class not in row.except_:
                says = row.says or f"{fault.recurrence} such faults lately"
                reason = self._reason(fault, about, row.name, row.effect, says)
                yield self._say(reason, rentable=_may_be_rented(row.effect, None))

    def _of_part(self, row: PartRow, name: str, part: Condition) -> Said:
        """What one part makes of the whole."""
        leading = part.said[0].reason if row.are else _what_blocks(part)
        state = f"is {part.health}" if row.are else "may not be rented"
        reason = _cited(leading, row.name, row.effect, name, f"{name} {state}: {leading.text}")
        rentable = part.rentable if row.rentable is None else row.rentable
        return self._say(reason, rentable=_may_be_rented(row.effect, rentable), action=part.action)

    def _of_parts(self, row: PartRow, component: str, names: Sequence[str], parts: Mapping[str, Condition]) -> Said:
        """What several parts make of the whole together."""
        leading = parts[names[0]].said[0].reason
        kind = "GPUs" if row.part == "gpu" else f"{row.part}s"
        text = f"{len(names)} of {len(parts)} {kind} are {' or '.join(row.are)}"
        reason = _cited(replace(leading, fault_id=None), row.name, row.effect, component, text)
        action = max((parts[name].action for name in names), key=_RUNG.__getitem__)
        return self._say(reason, rentable=_may_be_rented(row.effect, row.rentable), action=action)

    def _say(self, reason: Reason, *, rentable: bool, action: str = ACTIONS[0]) -> Said:
        return Said(reason, rentable, action, self._places[reason.rule])

    def _reason(self, fault: Fault, about: str, rule: str, effect: str, says: str) -> Reason:
        known = self._catalog.faults.get(fault.fault_class)
        title = known.title if known else fault.fault_class.replace("_", " ").capitalize()
        kind = _CODES.get(fault.rule.partition(".")[0])
        code = f" ({kind} {fault.code})" if kind and fault.code is not None else ""
        where = "" if fault.component == about else f"{fault.component}: "
        flapping = "; it comes and goes" if fault.flapping else ""
        return Reason(
            effect=effect,
            component=fault.component,
            fault_class=fault.fault_class,
            severity=fault.severity,
            fault_id=fault.fault_id,
            rule=rule,
            text=f"{where}{title}{code}: {says}{flapping}",
        )


def _rank(component: str, said: Said) -> tuple[object, ...]:
    reason = said.reason
    return (
        -_WEIGHT[reason.effect],
        reason.component != component,
        said.place,
        -SEVERITIES.index(reason.severity),
        reason.component,
        reason.fault_class,
    )


def _fits(row: PartRow, part: Condition) -> bool:
    return (not row.are or part.health in row.are) and not (row.not_rentable and part.rentable)


def _may_be_rented(effect: Effect, rentable: bool | None) -> bool:
    return effect in {"warns", "none"} or (effect == "degraded" and bool(rentable))


def _what_blocks(held: Condition) -> Reason:
    """The weightiest reason for which something may not be rented."""
    return next(one.reason for one in held.said if not one.rentable)


def _cited(reason: Reason, rule: str, effect: Effect, component: str, text: str) -> Reason:
    """What a reason of another component comes to here."""
    return replace(reason, rule=rule, effect=effect, component=component, text=text)
