"""The `fleetpulse` command. Commands import what they need when they run, so that help is there at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.commands.backtest import backtest as backtest_command
from infra.commands.decode import app as decode_app
from infra.commands.diagnose import app as diagnose_app
from infra.commands.facility import app as facility_app
from infra.commands.fault import app as fault_app
from infra.commands.inventory import app as inventory_app
from infra.commands.maintenance import app as maintenance_app
from infra.commands.replay import app as replay_app
from infra.commands.simulate import simulate as simulate_command
from infra.errors import MisuseError, OperatorError
from infra.options import Options

app = typer.Typer(
    name="fleetpulse",
    help="""Telemetry for GPU fleets, from node to SQL: Kafka, Faust, ClickHouse.

    New here? [bold]fleetpulse demo[/] runs everything on this machine with a simulated fleet and breaks four things.

    [bold]fleetpulse up[/] runs the pipeline for real; [bold]fleetpulse doctor[/] says what is missing.
    """,
    epilog="The options above may stand anywhere in the line. Settings come from fleetpulse.toml and from the "
    "environment, which wins: kafka.bootstrap is FLEETPULSE_KAFKA__BOOTSTRAP.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(replay_app, name="replay", rich_help_panel="Ask and try")
app.add_typer(decode_app, name="decode", rich_help_panel="Ask and try")
app.add_typer(inventory_app, name="inventory", rich_help_panel="Ask and try")
app.add_typer(facility_app, name="facility", rich_help_panel="Ask and try")
app.add_typer(diagnose_app, name="diagnose", rich_help_panel="Ask and try")
app.add_typer(maintenance_app, name="maintenance", rich_help_panel="Operate")
app.add_typer(fault_app, name="fault", rich_help_panel="Operate")

_RUN = "Run"
_ASK = "Ask and try"
_PARTS = "Single parts (up runs them for you)"


@app.callback()
def everywhere(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="The settings file; ./fleetpulse.toml where there is one.", dir_okay=False)
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where everything is kept; ./var where nothing else is set.", file_okay=False)
    ] = None,
    json_lines: Annotated[bool, typer.Option("--json", help="Log one JSON object per line.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole trace of an error.")] = False,  # noqa: ARG001
) -> None:
    """Options of every command."""
    context.obj = Options(config, data_dir, json_lines)


@app.command(rich_help_panel=_RUN)
def demo(
    context: typer.Context,
    keep: Annotated[bool, typer.Option("--keep", help="Stay afterwards, until Ctrl-C.")] = False,
    short: Annotated[bool, typer.Option("--short", help="A smaller fleet, its faults sooner: a minute.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of the live view.")] = False,
) -> None:
    """Run everything here with a simulated fleet, break four things, and see them found.

    A live view shows each hop, the racks, incidents and alerts; then come a scorecard and three questions answered in
    SQL. Exit 0 only if every fault was found with the right root and nobody was woken for nothing.

    [dim]fleetpulse demo --keep     and then, in a second terminal: fleetpulse --data-dir var/demo sql[/]
    """
    from infra.demo import run

    raise typer.Exit(run(_options(context), keep=keep, short=short, plain=plain))


@app.command(rich_help_panel=_RUN)
def up(
    context: typer.Context,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Stream workers; more than partitions is no use.")] = 1,
    agent: Annotated[bool, typer.Option(help="Watch this machine's own GPUs and kernel log too.")] = True,
    simulate: Annotated[bool, typer.Option("--simulate", help="With the simulated fleet.")] = False,
) -> None:
    """Run the pipeline on this machine until Ctrl-C.

    Starts Kafka and ClickHouse (embedded, unless settings name yours), topics, tables, stream workers, loader, alerts
    and the agent; starts again what dies; stops in order.

    [dim]fleetpulse up[/]
    [dim]FLEETPULSE_KAFKA__BOOTSTRAP=kafka-1:9092 fleetpulse up --no-agent --workers 4[/]
    """
    from infra.commands.up import run

    run(_options(context), workers=workers, agent=agent, simulate=simulate)


@app.command(rich_help_panel=_RUN)
def doctor(context: typer.Context) -> None:
    """Check what is reachable and what is missing, and say how to mend it. Exit 1 if something needed is broken."""
    from infra.doctor import run

    raise typer.Exit(run(_options(context).settings()))


@app.command(rich_help_panel=_ASK)
def sql(
    context: typer.Context,
    query: Annotated[str | None, typer.Argument(help="One SELECT; without it a prompt opens.")] = None,
    layout: Annotated[
        str, typer.Option("--format", help="table, vertical, json (one object per line) or csv.")
    ] = "table",
) -> None:
    """Ask the history, with the login that can only read.

    [dim]fleetpulse sql "SELECT * FROM incidents ORDER BY first_at DESC LIMIT 5"[/]
    [dim]fleetpulse sql --format csv "SELECT * FROM fault_history" > faults.csv[/]
    """
    from infra.commands.sql import run

    run(_options(context).settings(), query, layout)


@app.command(rich_help_panel=_ASK)
def health(
    context: typer.Context,
    component: Annotated[
        str | None, typer.Argument(help="gpu:SERIAL, node:NAME or rack:NAME, or the name alone; without it the fleet.")
    ] = None,
) -> None:
    """Say which GPU, node or rack is unhealthy, how we know, what to do, and whether it may be rented out.

    [dim]fleetpulse health[/]
    [dim]fleetpulse health gpu:1650324[/]
    [dim]fleetpulse health rack-7 --json | jq .reasons[/]
    """
    from infra.commands.health import run

    settings = _options(context).settings()
    run(settings, component, json_lines=settings.observe.json_lines)


@app.command(rich_help_panel=_PARTS)
def kafka(context: typer.Context) -> None:
    """The embedded Kafka: a real broker, without Docker or a system Java."""
    from infra.commands import roles

    roles.kafka(_options(context).settings())


@app.command(rich_help_panel=_PARTS)
def clickhouse(context: typer.Context) -> None:
    """The embedded ClickHouse: its engine behind its own HTTP interface, on loopback."""
    from infra.commands import roles

    roles.clickhouse(_options(context).settings())


@app.command(rich_help_panel=_PARTS)
def topics(context: typer.Context) -> None:
    """Create the topics that are missing and say where the others are not as listed; changes nothing that exists."""
    from infra.commands.provision import topics as run

    run(_options(context).settings())


@app.command(rich_help_panel=_PARTS)
def migrate(context: typer.Context) -> None:
    """Bring ClickHouse's tables and views up to date."""
    from infra.commands.provision import migrate as run

    run(_options(context).settings())


@app.command(rich_help_panel=_PARTS)
def streams(
    context: typer.Context,
    name: Annotated[
        str, typer.Option(help="Its name in logs, metrics and state; each worker has its own.")
    ] = "streams-0",
) -> None:
    """A stream worker: samples and events in, anomalies, faults and incidents out."""
    from infra.commands import roles

    roles.streams(_options(context).settings(), name)


@app.command(rich_help_panel=_PARTS)
def loader(context: typer.Context) -> None:
    """The ClickHouse loader: every topic into its table, each record exactly once."""
    from infra.commands import roles

    roles.loader(_options(context).settings())


@app.command(rich_help_panel=_PARTS)
def alerts(context: typer.Context) -> None:
    """The alerts: one page per incident, repeated until it is delivered."""
    from infra.commands import roles

    roles.alerts(_options(context).settings())


@app.command(rich_help_panel=_PARTS)
def agent(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Read every source one time and end; needs no Kafka.")] = False,
    print_: Annotated[
        bool, typer.Option("--print", help="With --once: show them as a page; with --json as JSON lines.")
    ] = False,
) -> None:
    """The agent of this node: reads its GPUs, kernel log, host, fabric ports, and the devices around it.

    [dim]fleetpulse agent --once --print     what this node would send, without sending it[/]
    """
    if once != print_:
        raise MisuseError("--once and --print go together: one reading, printed instead of sent")
    if once:
        from infra.commands.agent_once import run

        run(_options(context).settings())
        return
    from infra.commands import roles

    roles.agent(_options(context).settings())


app.command(rich_help_panel=_ASK)(simulate_command)
app.command(rich_help_panel=_ASK)(backtest_command)


@app.command(rich_help_panel=_ASK)
def version() -> None:
    """Print the version."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        typer.echo(f"fleetpulse {installed('fleetpulse')}")
    except PackageNotFoundError:
        typer.echo("fleetpulse, from a working copy that is not installed")


def _options(context: typer.Context) -> Options:
    found: Any = context.find_root().obj
    assert isinstance(found, Options)  # noqa: S101 - the callback put it there
    return found


_COMMANDS = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback} | {
    "replay",
    "decode",
    "inventory",
    "facility",
    "diagnose",
    "maintenance",
    "fault",
}
_ANYWHERE = {"--config": 1, "--data-dir": 1, "--json": 0, "--debug": 0}


_OURS = frozenset({"schemas", "producers", "streams", "sinks", "infra"})


def hoist(arguments: list[str]) -> list[str]:
    """The options of every command moved to the front, where the parser wants them; after `--` nothing moves."""
    front: list[str] = []
    rest: list[str] = []
    left = list(arguments)
    while left:
        word = left.pop(0)
        if word == "--":
            return [*front, *rest, word, *left]
        name, has_value, _ = word.partition("=")
        if name not in _ANYWHERE:
            rest.append(word)
            continue
        front.append(word)
        if _ANYWHERE[name] and not has_value and left:
            front.append(left.pop(0))
    return [*front, *rest]


def main() -> None:
    """Run the command line. Exit 2 is misuse, 1 failure; both say why in one line."""
    arguments = hoist(sys.argv[1:])
    debug = "--debug" in arguments
    try:
        app(args=arguments)
    except (OperatorError, ConnectionError) as error:  # what a part cannot reach, it says in the same way
        if debug:
            raise
        _say(arguments, str(error))
        sys.exit(2 if isinstance(error, MisuseError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # the reader went away (`| head`); nothing is left to say, also not at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        said = str(error).strip() or "no reason given"
        if type(error).__module__.partition(".")[0] in _OURS:  # its message is made for the reader
            _say(arguments, said)
            sys.exit(1)
        _say(arguments, f"{type(error).__name__}: {said} (run it with --debug for the whole trace)")
        sys.exit(1)


def _say(arguments: list[str], text: str) -> None:
    command = next((word for word in arguments if word in _COMMANDS), "")
    typer.echo(f"{f'fleetpulse {command}'.strip()}: {text}", err=True)


if __name__ == "__main__":
    main()
