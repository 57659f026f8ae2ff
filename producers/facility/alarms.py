"""States into events: trouble is told when it begins, when it gets worse, now and then while it stands, and its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from producers.facility.points import ABSENT, CRITICAL, OK, TROUBLE, WARNING, Measured
from producers.standing import REPEAT_S

CLEAR_AFTER = 3
"""Good readings in a row that end an alarm: a value that swings about its limit is one alarm, not twenty."""

_RANK = {WARNING: 1, ABSENT: 1, CRITICAL: 2}


@dataclass(frozen=True, slots=True)
class Change:
    """One alarm that began, got worse or ended."""

    kind: str
    """The event kind of the alarm; where it ended, of the alarm that is over."""
    measured: Measured
    ended: bool = False


@dataclass(slots=True)
class _Alarm:
    kind: str
    rank: int
    told_s: float
    good: int = 0


class Alarms:
    """The open alarms of one device. Costs some 200 bytes per point that can raise one."""

    def __init__(self) -> None:
        self._open: dict[str, _Alarm] = {}
        self._present: set[str] = set()

    def update(self, measured: Sequence[Measured], now_s: float) -> Iterator[Change]:
        """What is to be told. A point without a state says nothing: it neither raises an alarm nor ends one."""
        for one in measured:
            if one.event and one.state is not None:
                yield from self._update(one, now_s)

    def _update(self, one: Measured, now_s: float) -> Iterator[Change]:
        state = one.state
        if state == OK:
            self._present.add(one.name)
        # an empty bay is no trouble; a part that was there and is gone is
        gone = state == ABSENT and one.name in self._present
        rank = _RANK.get(state or "", 0) if state in TROUBLE or gone else 0
        alarm = self._open.get(one.name)
        if alarm is None:
            if rank:
                self._open[one.name] = _Alarm(one.event, rank, now_s)
                yield Change(one.event, one)
        elif rank:
            alarm.good = 0
            if rank > alarm.rank or now_s - alarm.told_s >= REPEAT_S:  # without new evidence its fault would end
                alarm.rank, alarm.told_s = rank, now_s
                yield Change(alarm.kind, one)
        else:
            alarm.good += 1
            if alarm.good >= CLEAR_AFTER:
                del self._open[one.name]
                yield Change(alarm.kind, one, ended=True)
