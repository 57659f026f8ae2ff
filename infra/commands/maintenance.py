"""`fleetpulse maintenance`: announce work on machines, so that what it does to them wakes nobody."""

from __future__ import annotations

from typing import Annotated

import typer

from infra.errors import MisuseError

app = typer.Typer(
    name="maintenance",
    help="Say that machines are worked on, so that what goes silent there wakes nobody.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
)

_Scope = Annotated[
    str,
    typer.Argument(
        metavar="SCOPE",
        help="What is worked on: rack:NAME, node:NAME, gpu:SERIAL, pdu:NAME, switch:NAME (a leaf switch) or site:NAME.",
    ),
]
_By = Annotated[str | None, typer.Option(help="Who says so; the user of this machine where not given.")]
_Rack = Annotated[str | None, typer.Option(help="The rack it is in, where the inventory does not know it.")]
_Site = Annotated[str | None, typer.Option(help="The site it is in, where the inventory does not know it.")]


@app.command()
def announce(
    context: typer.Context,
    scope: _Scope,
    until: Annotated[str, typer.Option(help="When it ends: +2h (after its beginning), 22:00, 2026-05-04T22:00.")],
    reason: Annotated[str, typer.Option(help="What is done; it stands beside what it explains.")],
    begin: Annotated[str, typer.Option("--from", help="When it begins: now, +30m, 22:00, 2026-05-04T22:00.")] = "now",
    by: _By = None,
    rack: _Rack = None,
    site: _Site = None,
) -> None:
    """Announce work. Until it ends, silence, links and ports that go down there are explained by it; all else waits.

    Machines have a quarter of an hour to boot after the end; what is still silent then is a fault like any other. Say
    it again with another end where it takes longer. Times are UTC unless they have a zone (+02:00).

    [dim]fleetpulse maintenance announce rack:r12 --until +3h --reason "new cooling loop"[/]
    [dim]fleetpulse maintenance announce pdu:p7 --from 22:00 --until +90m --reason "breaker test" --by ann[/]
    """
    from infra.commands import say

    of, now = _scope(scope), say.now_ms()
    begin_ms = say.moment_ms(begin, now, after=now)
    until_ms = say.moment_ms(until, now, after=begin_ms)
    if until_ms <= max(begin_ms, now):
        raise MisuseError(
            f"--until {until} is {say.clock(until_ms)}, which is over, or not after the beginning at "
            f"{say.clock(begin_ms)}; for work that is done there is nothing to announce"
        )
    settings, who = say.settings_of(context), by or say.user()
    places = say.places_of(settings, of, rack, site)
    text = f"{of} is worked on from {say.clock(begin_ms)} to {say.clock(until_ms)}: {reason}"
    details = {"scope": of, "begin_ms": str(begin_ms), "until_ms": str(until_ms), "by": who, "reason": reason}
    details["first_rack"] = places[0].rack
    kind, _, name = of.partition(":")
    say.send(
        settings,
        (
            say.word(
                "maintenance_announced", place, now, text, details,
                node=name if kind == "node" else "", gpu=name if kind == "gpu" else "",
            )
            for place in places
        ),
    )  # fmt: skip
    print(
        f"announced to {say.racks_in_words(places)}: {of} from {say.clock(begin_ms)} to {say.clock(until_ms)}, by {who}"
    )


@app.command()
def end(context: typer.Context, scope: _Scope, by: _By = None, rack: _Rack = None, site: _Site = None) -> None:
    """Say that work is over, or will not take place. What is still silent a quarter of an hour later is a fault.

    [dim]fleetpulse maintenance end rack:r12[/]
    """
    from infra.commands import say

    of, now = _scope(scope), say.now_ms()
    settings, who = say.settings_of(context), by or say.user()
    places = say.places_of(settings, of, rack, site)
    details = {"scope": of, "by": who}
    say.send(
        settings,
        (say.word("maintenance_ended", place, now, f"work on {of} is over", details) for place in places),
    )
    print(f"told {say.racks_in_words(places)}: work on {of} is over, says {who}")


def _scope(text: str) -> str:
    """A scope as the streams know it. Raises `MisuseError`."""
    from streams.faults.work import SCOPES

    kind, _, name = text.strip().partition(":")
    kind = "switch" if kind == "leaf_switch" else kind
    if kind not in SCOPES or not name:
        kinds = ", ".join(f"{kind}:NAME" for kind in SCOPES)
        raise MisuseError(f"{text!r} is nothing that work can be announced on; it may be {kinds}")
    return f"{kind}:{name}"
