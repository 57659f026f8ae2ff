"""`fleetpulse health`: the verdict on a component, on a rack, or on the whole fleet, with what it rests on.

Reads the history with the login that can only read. What is printed about a component is all that is needed to decide:
its health and since when, whether it may be rented, what to do, each reason with its evidence, early warnings.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.text import Text

from infra.commands.sql import connected, plain_error, table
from infra.errors import MisuseError, OperatorError
from infra.settings import Settings

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

_KINDS = ("gpu", "node", "rack")
_STYLE = {"healthy": "bold green", "degraded": "bold yellow", "unhealthy": "bold red", "unknown": "bold magenta"}
_PIPE_COLUMNS = 160
_MOST_EVIDENCE = 3
"""Pieces of evidence shown of a fault: the first, and the last two."""
_MOST_LISTED = 20
"""Components that a summary lists before it only counts them."""
_VERDICTS = "SELECT * FROM verdicts WHERE component IN {names:Array(String)} ORDER BY component"
_NAMES = "SELECT component FROM verdicts ORDER BY component"
_FAULTS = """
SELECT fault_id, count, first_at, last_at, rule, recurrence, acknowledged_by, snoozed_until, maintenance, evidence
FROM fault_history
WHERE fault_id IN {ids:Array(String)}
"""
_BEFORE = """
SELECT since_at, health_before FROM verdict_history
WHERE component = {component:String} AND health != health_before AND health_before != ''
ORDER BY decided_at DESC, revision DESC LIMIT 5
"""
_INSIDE = """
SELECT component, health, since_at, action, why FROM verdicts
WHERE site = {site:String} AND rack = {rack:String} AND ({node:String} = '' OR node = {node:String})
    AND component != {component:String} AND health != 'healthy'
ORDER BY component_kind = 'gpu', health != 'unhealthy', component
"""
_FLEET = """
SELECT if(sku = '', 'unknown SKU', sku) AS sku, sum(gpus), sum(gpus_rentable), sum(gpus_healthy), sum(gpus_degraded),
    sum(gpus_unhealthy), sum(gpus_unknown), sum(gpus_blocked), sum(gpus_with_warnings)
FROM fleet_health GROUP BY sku ORDER BY sku
"""
_FLEET_NAMES = ("sku", "GPUs", "may be rented", "healthy", "degraded", "unhealthy", "unknown", "blocked", "warned of")
# what follows from another component is left out: that one is listed itself
_TROUBLED = """
SELECT component, ifNull(node, '') AS node, rack, health, since_at, action, why[1] AS reason FROM verdicts
WHERE component_kind != 'rack' AND health != 'healthy' AND notEmpty(reasons) AND reasons[1].component = component
ORDER BY health != 'unhealthy', since_at
"""
_WARNED = """
SELECT component, ifNull(node, '') AS node, rack, since_at, action, early_warnings[1] AS warning FROM verdicts
WHERE notEmpty(early_warnings) ORDER BY component
"""

Row = Mapping[str, Any]


def run(settings: Settings, component: str | None, *, json_lines: bool) -> None:
    """Print the verdict on one component, or how the fleet is. Raises `MisuseError`, `OperatorError`."""
    with connected(settings) as client:
        if component is None:
            _fleet(client, json_lines=json_lines)
        else:
            for verdict in _verdicts(client, component):
                _component(client, verdict, json_lines=json_lines)


def _ask(client: Client, query: str, **parameters: Any) -> list[dict[str, Any]]:
    from clickhouse_connect.driver.exceptions import Error

    try:
        return list(client.query(query, parameters=parameters).named_results())
    except Error as error:
        raise OperatorError(plain_error(error)) from error


def _verdicts(client: Client, name: str) -> list[dict[str, Any]]:
    """The verdicts on what a name may mean: a component id, or a serial, node or rack without its kind."""
    names = [name] if name.partition(":")[0] in _KINDS else [f"{kind}:{name}" for kind in _KINDS]
    found = _ask(client, _VERDICTS, names=names)
    if not found:
        known = [row["component"] for row in _ask(client, _NAMES)]
        bare = {one.partition(":")[2]: one for one in known}
        near = [bare[one] for one in get_close_matches(name.rpartition(":")[2], bare, n=3)]
        advice = f"did you mean {', '.join(near)}?" if near else "`fleetpulse health` without a name shows the fleet"
        raise MisuseError(f"there is no verdict on {name!r} ({len(known)} components have one); {advice}")
    return found


# --- one component ----------------------------------------------------------------------------------------------------


def _component(client: Client, verdict: Row, *, json_lines: bool) -> None:
    ids = sorted({one["fault_id"] for one in verdict["reasons"] if one["fault_id"]})
    faults = {row["fault_id"]: row for row in _ask(client, _FAULTS, ids=ids)} if ids else {}
    if json_lines:
        reasons = [
            {**one, "evidence": faults[one["fault_id"]]["evidence"] if one["fault_id"] in faults else []}
            for one in verdict["reasons"]
        ]
        _print_json([{**verdict, "reasons": reasons}])
        return
    out = _Page()
    out.headline(verdict)
    out.row("since", _since(verdict["since_at"], verdict["for_seconds"]))
    out.row("where", ", ".join(_place(verdict)))
    out.row("do", "nothing" if verdict["action"] == "none" else verdict["action"].replace("_", " "))
    _reasons(out, "why", [one for one in verdict["reasons"] if one["effect"] != "warns"], faults)
    _reasons(out, "warning", [one for one in verdict["reasons"] if one["effect"] == "warns"], faults)
    for number, row in enumerate(_ask(client, _BEFORE, component=verdict["component"])):
        out.row("" if number else "before", f"{row['health_before']} until {_clock(row['since_at'])}")
    _inside(client, out, verdict)
    out.end()


def _reasons(out: _Page, label: str, reasons: Sequence[Row], faults: Mapping[str, Row]) -> None:
    shown: set[str] = set()
    for number, reason in enumerate(reasons):
        out.row("" if number else label, reason["text"], style="bold")
        fault = faults.get(reason["fault_id"] or "")
        if fault is None or reason["fault_id"] in shown:
            continue
        shown.add(reason["fault_id"])
        for piece in _few(fault["evidence"]):
            out.row("", f"  {_clock(piece['at'])}  {piece['source']}: {piece['text']}", style="dim")
        out.row("", f"  {'; '.join(_facts(reason, fault))}", style="dim")


def _few(evidence: Sequence[Row]) -> Sequence[Row]:
    return evidence if len(evidence) <= _MOST_EVIDENCE else [evidence[0], *evidence[1 - _MOST_EVIDENCE :]]


def _facts(reason: Row, fault: Row) -> Iterable[str]:
    yield f"fault {fault['fault_id'][:12]} by {fault['rule']}, health rule {reason['rule']}"
    if fault["count"] > 1:
        yield f"seen {fault['count']} times"
    if fault["recurrence"] > 1:
        yield f"number {fault['recurrence']} of its kind lately"
    if fault["acknowledged_by"]:
        yield f"{fault['acknowledged_by']} takes care of it"
    if fault["snoozed_until"]:
        yield f"wakes nobody until {_clock(fault['snoozed_until'])}"


def _inside(client: Client, out: _Page, verdict: Row) -> None:
    """What of a rack or node is not healthy."""
    if verdict["component_kind"] == "gpu":
        return
    rows = _ask(
        client,
        _INSIDE,
        component=verdict["component"],
        site=verdict["site"],
        rack=verdict["rack"],
        node=verdict["node"] or "",
    )
    if rows:
        out.end()
    names = ("in it", "health", "since", "do", "reason")
    out.table(
        names, [(r["component"], r["health"], _clock(r["since_at"]), _do(r["action"]), r["why"][0]) for r in rows]
    )


# --- the fleet --------------------------------------------------------------------------------------------------------


def _fleet(client: Client, *, json_lines: bool) -> None:
    if json_lines:
        _print_json(_ask(client, "SELECT * FROM fleet_health ORDER BY site, rack, sku"))
        return
    out = _Page()
    skus = [tuple(row.values()) for row in _ask(client, _FLEET)]
    if not skus:
        out.line(
            "no GPU is known yet: nothing reports, and no inventory declares any (`fleetpulse up` runs the pipeline)"
        )
        return
    total = tuple(sum(row[at] for row in skus) for at in range(1, len(_FLEET_NAMES)))
    out.line(f"{total[1]} of {total[0]} GPUs may be rented", style="bold")
    out.end()
    out.table(_FLEET_NAMES, [*skus, ("all", *total)] if len(skus) > 1 else skus)
    out.line(
        "blocked: healthy, and its node or rack may not be rented; warned of: may be rented all the same", style="dim"
    )
    troubled, warned = _ask(client, _TROUBLED), _ask(client, _WARNED)
    out.listing(
        f"{len(troubled)} in trouble",
        ("component", "node", "rack", "health", "since", "do", "reason"),
        [
            (r["component"], r["node"], r["rack"], r["health"], _clock(r["since_at"]), _do(r["action"]), r["reason"])
            for r in troubled
        ],
    )
    out.listing(
        f"{len(warned)} with an early warning",
        ("component", "node", "rack", "do", "warning"),
        [(r["component"], r["node"], r["rack"], _do(r["action"]), r["warning"]) for r in warned],
    )
    out.end()
    out.line("`fleetpulse health NAME` says more of a GPU, node or rack", style="dim")


class _Page:
    """What is printed, line by line."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_COLUMNS)

    def headline(self, verdict: Row) -> None:
        health = verdict["health"]
        rent = "may be rented" if verdict["rentable"] else "not to be rented"
        self._console.print(
            Text.assemble(f"{verdict['component']}  ", (health, _STYLE.get(health, "bold")), f", {rent}")
        )

    def row(self, label: str, text: str, style: str = "") -> None:
        self._console.print(Text.assemble(f"  {label:<9}", (text.replace("\n", " "), style)), soft_wrap=True)

    def line(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style), soft_wrap=True)

    def table(self, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            self._console.print(table(names, rows[:_MOST_LISTED]))
        if len(rows) > _MOST_LISTED:
            self.line(f"… and {len(rows) - _MOST_LISTED} more", style="dim")

    def listing(self, title: str, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._console.print()
        self.line(title, style="bold")
        self.table(names, rows)

    def end(self) -> None:
        self._console.print()


def _print_json(rows: Iterable[Row]) -> None:
    for row in rows:
        sys.stdout.buffer.write(msgspec.json.encode(row, enc_hook=str) + b"\n")
    sys.stdout.buffer.flush()


def _place(verdict: Row) -> Iterable[str]:
    if verdict["component_kind"] == "gpu":
        yield f"node {verdict['node']}"
    if verdict["component_kind"] != "rack":
        yield f"rack {verdict['rack']}"
    yield f"site {verdict['site']}"


def _do(action: str) -> str:
    return "" if action == "none" else action.replace("_", " ")


def _clock(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S")


def _since(at: datetime, seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{_clock(at)} UTC, for {seconds / size:.0f} {unit}"
    return f"{_clock(at)} UTC, for {seconds:.0f} s"
