"""`fleetpulse fault`: somebody takes care of a fault, lets it wait, or says that it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from infra.errors import MisuseError, OperatorError

if TYPE_CHECKING:
    from infra.commands.say import Place
    from infra.settings import Settings

app = typer.Typer(
    name="fault",
    help="Acknowledge, snooze or end a fault.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
)
_SHORTEST_ID, _WHOLE_ID = 6, 32
_MOST_NAMED = 4

_What = Annotated[
    str,
    typer.Argument(
        metavar="FAULT_ID_OR_COMPONENT",
        help="A fault id (its beginning will do, if it is the only one), or a component, which stands for all its "
        "faults: gpu:SERIAL, node:NAME, port:NODE/mlx5_0/1, …",
    ),
]
_Class = Annotated[
    str | None, typer.Option("--class", metavar="NAME", help="Of a component only the fault of this class.")
]
_By = Annotated[str | None, typer.Option(help="Who says so; the user of this machine where not given.")]
_Note = Annotated[str | None, typer.Option(help="What else there is to say; it is kept with the fault.")]
_Rack = Annotated[str | None, typer.Option(help="The rack it is in, where neither history nor inventory know it.")]
_Site = Annotated[str | None, typer.Option(help="The site it is in, with --rack.")]


class _Target(NamedTuple):
    """A fault, or all of a component where nobody knows which there are."""

    fault_id: str
    component: str
    fault_class: str
    place: Place


@app.command()
def ack(
    context: typer.Context,
    what: _What,
    fault_class: _Class = None,
    by: _By = None,
    note: _Note = None,
    rack: _Rack = None,
    site: _Site = None,
) -> None:
    """Say that somebody takes care of it. That holds for as long as the fault lasts; the next one is news again.

    [dim]fleetpulse fault ack gpu:1650923000123 --note "ticket 4711"[/]
    [dim]fleetpulse sql "SELECT fault_id, component, fault_class FROM fault_history WHERE state != 'cleared'"[/]
    """
    _say(context, "fault_acknowledged", "acknowledged", what, fault_class, by, note, rack, site)


@app.command()
def snooze(
    context: typer.Context,
    what: _What,
    for_: Annotated[str, typer.Option("--for", metavar="2h", help="For how long it wakes nobody: 30m, 2h, 3d.")],
    fault_class: _Class = None,
    by: _By = None,
    note: _Note = None,
    rack: _Rack = None,
    site: _Site = None,
) -> None:
    """Let it wait: until then it wakes nobody. It stands and is counted all the same, and speaks again afterwards.

    [dim]fleetpulse fault snooze node:gpu-17 --for 2h --note "waits for the part"[/]
    """
    from infra.commands import say

    until_ms = say.now_ms() + say.duration_s(for_) * 1000
    _say(context, "fault_snoozed", "snoozed", what, fault_class, by, note, rack, site, until_ms=until_ms)


@app.command()
def end(
    context: typer.Context,
    what: _What,
    fault_class: _Class = None,
    by: _By = None,
    note: _Note = None,
    rack: _Rack = None,
    site: _Site = None,
) -> None:
    """Say that it is over: mended, replaced, or no fault. Some faults end in no other way (a failed memory repair).

    New evidence opens a new fault. What a detector still finds comes back when it is found anew.

    [dim]fleetpulse fault end 3f9a1c20 --note "board replaced"[/]
    """
    _say(context, "fault_ended", "ended", what, fault_class, by, note, rack, site)


def _say(
    context: typer.Context,
    kind: str,
    done: str,
    what: str,
    fault_class: str | None,
    by: str | None,
    note: str | None,
    rack: str | None,
    site: str | None,
    *,
    until_ms: int | None = None,
) -> None:
    from infra.commands import say

    if (rack is None) != (site is None):
        raise MisuseError("--rack and --site go together: they say where to send it without looking it up")
    settings, who, now = say.settings_of(context), by or say.user(), say.now_ms()
    targets = _targets(settings, what.strip(), fault_class, rack, site)
    words = []
    for target in targets:
        about = {"fault_id": target.fault_id, "component": target.component, "fault_class": target.fault_class}
        details = {name: text for name, text in about.items() if text} | {"by": who}
        details |= {"note": note} if note else {}
        details |= {"until_ms": str(until_ms)} if until_ms else {}
        text = f"{done} by {who}: {_named(target)}{f', until {say.clock(until_ms)}' if until_ms else ''}"
        words.append(say.word(kind, target.place, now, f"{text}{f': {note}' if note else ''}", details))
    say.send(settings, words)
    named = ", ".join(_named(target) for target in targets[:_MOST_NAMED])
    more = f" and {len(targets) - _MOST_NAMED} more" if len(targets) > _MOST_NAMED else ""
    places = sorted({target.place for target in targets})
    until = f" until {say.clock(until_ms)}" if until_ms else ""
    print(f"{done}{until}: {named}{more} ({say.racks_in_words(places)}), by {who}")


def _named(target: _Target) -> str:
    if not target.fault_class:
        return f"all of {target.component}" if target.component else target.fault_id
    return f"{target.fault_class} of {target.component}"


def _targets(
    settings: Settings, what: str, fault_class: str | None, rack: str | None, site: str | None
) -> list[_Target]:
    """The faults that are meant, each with its rack. Raises `OperatorError`, `MisuseError`."""
    from infra.commands import say

    component = what if ":" in what else ""
    fault_id = "" if component else what.lower()
    if not component and fault_class is not None:
        raise MisuseError("--class narrows a component down; a fault id names one fault already")
    if rack is not None and site is not None:
        if not component and len(fault_id) != _WHOLE_ID:
            raise MisuseError(f"{fault_id!r} is not a whole fault id, and with --rack and --site nobody looks it up")
        return [_Target(fault_id, component, fault_class or "", say.Place(site, rack))]
    try:
        return _open_faults(settings, component, fault_id, fault_class)
    except _HistoryAwayError as error:
        if not component:
            raise OperatorError(
                f"{error}; only the history knows where a fault id belongs: name the component, or give --rack and "
                "--site"
            ) from error
    # without the history nobody here knows which faults there are: the stream that has them does
    places = say.places_of(settings, component, rack, site)
    return [_Target("", component, fault_class or "", place) for place in places]


class _HistoryAwayError(OperatorError):
    """ClickHouse cannot be asked."""


def _open_faults(settings: Settings, component: str, fault_id: str, fault_class: str | None) -> list[_Target]:
    from clickhouse_connect.driver.exceptions import Error

    from infra.commands import say, sql

    if fault_id and len(fault_id) < _SHORTEST_ID:
        raise MisuseError(f"{fault_id!r} is too short for a fault id, and a component has a colon, as node:gpu-17")
    where = "component = {component:String}" if component else "startsWith(fault_id, {fault_id:String})"
    where += " AND fault_class = {fault_class:String}" if fault_class else ""
    try:
        with sql.connected(settings) as client:
            rows = client.query(
                f"SELECT fault_id, component, fault_class, site, rack, state FROM fault_history WHERE {where} "  # noqa: S608 - ours
                "ORDER BY state = 'cleared', first_at DESC LIMIT 100",
                parameters={"component": component, "fault_id": fault_id, "fault_class": fault_class or ""},
            ).result_rows
    except OperatorError as error:
        raise _HistoryAwayError(str(error)) from error
    except Error as error:
        raise _HistoryAwayError(f"the history cannot be asked: {sql.plain_error(error)}") from error
    what = component or fault_id
    still = [_Target(row[0], row[1], row[2], say.Place(row[3], row[4])) for row in rows if row[5] != "cleared"]
    if not still:
        of_class = f" of class {fault_class}" if fault_class else ""
        over = f"; the last one{of_class} ({rows[0][2]} of {rows[0][1]}) is over" if rows else ""
        raise OperatorError(f"there is no open fault {what}{of_class}{over} (fleetpulse sql: fault_history lists them)")
    if fault_id and len(still) > 1:
        listed = ", ".join(f"{target.fault_id[:12]} ({_named(target)})" for target in still[:_MOST_NAMED])
        raise MisuseError(f"{len(still)} open faults begin with {fault_id}: {listed}; give more of the id")
    return still
