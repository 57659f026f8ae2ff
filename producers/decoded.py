"""Events read back from the JSON lines that `fleetpulse decode` prints, or `fleetpulse sql`; of one node or of many.

A line needs `kind` and a node; everything else has a meaning where it is missing:

- `node` is the line's own, else the one that is given for all of them.
- `site` and `rack` are the line's own, else those of the inventory, else what is given.
- `event_ms` (UTC milliseconds), else `event_at` (as the history has it) or `timestamp`, both ISO 8601 and UTC where no
  zone is told. A line without a time happened when the one before it of the same node did, else with the one after it,
  else now.
- `event_id` is the line's own, else made of the node, the source, the `line` of the log and its text: what is read
  twice is the same event.
- `severity` and `action` are the catalogue's, whatever stands in the line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

import msgspec

from producers.unreadable import Unreadable
from schemas.catalog import Catalog
from schemas.ids import stable_id
from schemas.records import HardwareEvent

_WHAT = "an event as `fleetpulse decode` prints it"
_READINGS = ("metrics", "result", "errors")
"""Lines without a kind that have one of these are readings, diagnostics and ports: decode prints them too."""
_SHOWN_CHARS = 80


_Int = Annotated[int, msgspec.Meta(ge=-(1 << 31), lt=1 << 31)]
_Milliseconds = Annotated[int, msgspec.Meta(ge=0, lt=1 << 48)] | Annotated[float, msgspec.Meta(ge=0, lt=1 << 48)]


class Reading(NamedTuple):
    """A line that `fleetpulse decode` prints and that is no event."""

    line: int


class _Line(msgspec.Struct, kw_only=True):
    """What a line may have. Times are floats too: other tools print 1.7e12."""

    kind: str | None = None
    code: _Int | None = None
    pci: str | None = None
    gpu: str | None = None
    link: _Int | None = None
    event_ms: _Milliseconds | None = None
    observed_ms: _Milliseconds | None = None
    event_at: str | None = None
    timestamp: str | None = None
    source: str | None = None
    site: str | None = None
    rack: str | None = None
    node: str | None = None
    boot_id: str | None = None
    event_id: str | None = None
    sequence: int | None = None
    count: _Int | None = None
    details: dict[str, Any] | None = None
    raw: str | None = None
    line: int | None = None
    metrics: Any = None
    result: Any = None
    errors: Any = None


class Place(NamedTuple):
    """Where a node is."""

    site: str
    rack: str


class EventLines:
    """A reader of such lines; several files may go through one, one after the other.

    `place_of` tells where a node is, for lines that do not. `catalog` gives severity and action.
    """

    def __init__(self, catalog: Catalog, place_of: Callable[[str], Place], *, node: str = "", now_ms: int) -> None:
        self._catalog = catalog
        self._place_of = place_of
        self._node = node
        self._now_ms = now_ms
        self._decoder = msgspec.json.Decoder(_Line)
        self._seen: dict[tuple[str, str, int], list[bytes]] = {}
        """(node, source, line of the log) to what was found in that line: one line may tell several events."""
        self._before_ms: dict[str, int] = {}
        """Node to the time of its last event that had one."""
        self.untimed = 0
        """Events so far without a time of their own."""

    def read(self, lines: Iterable[tuple[int, str]]) -> Iterator[HardwareEvent | Reading | Unreadable]:
        """Events of numbered lines, and what could not be read; never raises. Empty lines are passed over."""
        waiting: dict[str, list[tuple[int, _Line]]] = {}
        """By node: the events in front of the first that has a time."""
        for number, text in lines:
            if not (stripped := text.strip()):
                continue
            found = self._parsed(number, stripped)
            if not isinstance(found, _Line):
                yield found
                continue
            node = found.node or self._node
            at_ms = _time_ms(found)
            if isinstance(at_ms, str):
                yield _unreadable(number, at_ms)
                continue
            if at_ms is None:
                self.untimed += 1
                if node not in self._before_ms:
                    waiting.setdefault(node, []).append((number, found))
                    continue
                at_ms = self._before_ms[node]
            for earlier, one in waiting.pop(node, ()):
                yield self._event(earlier, one, node, at_ms)
            self._before_ms[node] = at_ms
            yield self._event(number, found, node, at_ms)
        for node, left in waiting.items():
            for number, one in left:
                yield self._event(number, one, node, self._now_ms)

    def _parsed(self, number: int, text: str) -> _Line | Reading | Unreadable:
        try:
            line = self._decoder.decode(text)
        except msgspec.ValidationError as error:
            said, _, field = str(error).partition(" - at `$")
            return _unreadable(number, f"{field.strip('.`') or 'the line'}: {said[0].lower()}{said[1:]}")
        except msgspec.DecodeError as error:
            hint = "" if text.startswith("{") else "; a kernel log itself is for `fleetpulse replay kernel-log`"
            return _unreadable(number, f"{_shown(text)} is no JSON object ({error}){hint}")
        if not line.kind:
            if any(getattr(line, name) is not None for name in _READINGS):
                return Reading(number)
            return _unreadable(number, "it has no kind, which says what happened")
        if not (line.node or self._node):
            return _unreadable(number, "it names no node; where all lines are of one node, give --node")
        return line

    def _event(self, number: int, line: _Line, node: str, at_ms: int) -> HardwareEvent:
        entry = self._catalog.entry(line.kind or "", line.code, str((line.details or {}).get("variant") or "") or None)
        place = self._place_of(node) if line.site is None or line.rack is None else Place(line.site, line.rack)
        source = line.source or "replay"
        return HardwareEvent(
            event_id=line.event_id or self._id(number, line, node, source),
            site=line.site or place.site,
            rack=line.rack or place.rack,
            node=node,
            boot_id=line.boot_id or f"replay-{stable_id(node)[:12]}",
            sequence=line.sequence or 0,
            event_ms=at_ms,
            observed_ms=self._now_ms if line.observed_ms is None else round(line.observed_ms),
            source=source,
            kind=line.kind or "",
            code=line.code,
            gpu=line.gpu,
            pci=line.pci,
            link=line.link,
            severity=entry.severity,
            action=entry.action,
            count=max(1, line.count or 1),
            details={name: str(value) for name, value in (line.details or {}).items() if value is not None},
            raw=line.raw or "",
        )

    def _id(self, number: int, line: _Line, node: str, source: str) -> str:
        """The same as a replay of the log itself gives."""
        at = number if line.line is None else line.line
        told = msgspec.json.encode(line)
        same = self._seen.setdefault((node, source, at), [])
        if told not in same:
            same.append(told)
        return stable_id(node, source, "replay", at, same.index(told), line.raw or "")


def _time_ms(line: _Line) -> int | str | None:
    """UTC milliseconds; None where the line has no time; what is wrong where it has one that is none."""
    if line.event_ms is not None:
        return round(line.event_ms)
    told = line.event_at or line.timestamp
    if told is None:
        return None
    try:
        moment = datetime.fromisoformat(told.strip())
    except ValueError:
        return f"its time is {_shown(told)}, wanted ISO 8601"
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _unreadable(number: int, reason: str) -> Unreadable:
    return Unreadable(place=f"line {number}", what=_WHAT, reason=reason)


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…")
