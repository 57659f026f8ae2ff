"""`fleetpulse diagnose`: dcgmi diag on this node, now or by the agent, and what its results mean."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.errors import MisuseError, OperatorError

if TYPE_CHECKING:
    from infra.options import Options
    from producers.dcgm.diagnostics import DiagnosticResult
    from producers.dcgm.findings import Outcome
    from producers.dcgm.run import Run, Runs
    from producers.settings import AgentSettings

app = typer.Typer(
    name="diagnose",
    help="Test this node's GPUs with DCGM (dcgmi diag) and say what the results mean.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
)
FOLDER = "dcgm_diag"
"""Where the agent keeps diagnostics, in its state_dir."""
_LOOK_S = 0.2
_USUAL = {1: "seconds", 2: "some minutes", 3: "half an hour", 4: "one to several hours"}
_COLOURS = {"pass": "green", "warn": "yellow", "fail": "red", "not_run": "dim"}
_SEVERITIES = {"critical": "bold red", "warning": "yellow", "info": ""}

_Level = Annotated[
    int,
    typer.Option(
        min=1, max=4, help="1: setup, seconds; 2: minutes; 3: half an hour; 4: hours. From 2 on GPUs work hard."
    ),
]
_Force = Annotated[bool, typer.Option("--force", help="Although jobs hold GPUs: they suffer, or fail the tests.")]


@app.command("run")
def run(
    context: typer.Context,
    level: _Level = 1,
    force: _Force = False,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds until it is stopped; what the settings say if not given.", min=1)
    ] = None,
    command: Annotated[str | None, typer.Option(help="The dcgmi program, where it is not on the PATH.")] = None,
) -> None:
    """Run diagnostics now and print what they mean: per test the GPUs, the finding, what to do, what it can explain.

    Never beside another run on this node, nor while programs hold GPUs, unless forced. An agent that runs here sends
    the results too. Exit 0 if everything passed or was skipped, 1 if something did not, or nothing is known.

    [dim]fleetpulse diagnose run --level 2[/]
    [dim]fleetpulse diagnose run --json | jq 'select(.result != "pass")'[/]   one object for each GPU and test
    """
    from infra.commands.roles import agent_settings
    from producers.dcgm.findings import outcome
    from producers.dcgm.run import DiagnosticsError
    from producers.source import boot_id
    from schemas.catalog import CatalogError, load

    options = _options(context)
    agent = agent_settings(options.settings())
    settings = agent.dcgm_diag
    runs = _runs(agent, command or settings.command, boot_id())
    try:
        catalog = load(agent.catalog)
        runs.check()
        if not force:
            _refuse_while_busy()
        begun = runs.start(level, timeout or settings.timeout_s[level - 1], by="fleetpulse diagnose", forced=force)
        over = _see_through(runs, begun)
    except (DiagnosticsError, CatalogError) as error:
        raise OperatorError(str(error)) from error
    found = outcome(over, runs.output(over), runs.errors(over), agent.node, catalog)
    if options.json_lines:
        _print_json(found.results)
    else:
        _print_table(found)
    document = runs.folder / "runs" / over.id / "output.txt"
    print(f"the document is kept in {document}", file=sys.stderr)
    if found.trouble:
        raise OperatorError(f"diagnostics of level {level} {found.trouble[1]}")
    if any(result.result in {"warn", "fail"} or result.severity != "info" for result in found.results):
        raise typer.Exit(1)


@app.command("request")
def request(
    context: typer.Context,
    level: _Level = 1,
    force: _Force = False,
) -> None:
    """Ask the agent of this node to run diagnostics; it starts them within seconds, or says why not, as an event.

    Exit 1, and nothing is asked, where no agent runs on the data directory. A request that no agent sees within an hour
    is not carried out.

    [dim]fleetpulse diagnose request --level 3[/]
    """
    from getpass import getuser

    from infra.commands.roles import agent_settings
    from infra.presence import present
    from producers.dcgm.run import DiagnosticsError, Request
    from producers.source import boot_id

    settings = _options(context).settings()
    data_dir = settings.data_dir.absolute()
    if "agent" not in present(data_dir):
        raise OperatorError(
            f"no agent runs on the data directory {data_dir}, so nobody would start the diagnostics; nothing was "
            "left there. Start one (`fleetpulse agent`), name the data directory of the one that runs (--data-dir), "
            f"or run them now: `fleetpulse diagnose run --level {level}`"
        )
    agent = agent_settings(settings)
    runs = _runs(agent, agent.dcgm_diag.command, boot_id())
    try:
        runs.ask(Request(level=level, force=force, by=getuser()))
    except DiagnosticsError as error:
        raise OperatorError(str(error)) from error
    print(f"left in {runs.folder / 'request.json'} for the agent: diagnostics of level {level}")


def _options(context: typer.Context) -> Options:
    from infra.options import Options

    found: Any = context.find_root().obj
    if not isinstance(found, Options):
        raise MisuseError("diagnose is a part of fleetpulse and needs its settings: fleetpulse diagnose …")
    return found


def _runs(agent: AgentSettings, command: str, boot: str) -> Runs:
    from producers.dcgm.run import Runs

    return Runs(agent.state_dir / FOLDER, boot_id=boot, command=command, arguments=agent.dcgm_diag.arguments)


def _refuse_while_busy() -> None:
    from producers.dcgm.busy import BusyUnknownError, gpu_programs

    try:
        programs = gpu_programs()
    except BusyUnknownError as error:
        raise OperatorError(f"{error}. Run it with --force if you know that no job holds a GPU") from error
    if programs:
        listed = "\n  ".join(programs)
        raise OperatorError(
            f"{len(programs)} programs hold GPUs, a test would spoil them and they the test:\n  {listed}\n"
            "drain the node first, or run it with --force"
        )


def _see_through(runs: Runs, begun: Run) -> Run:
    """Wait for a run; Ctrl-C stops it, and a second one leaves it to itself."""
    text = f"dcgmi diag -r {begun.level} (takes {_USUAL[begun.level]})"
    with _spinner(text):
        try:
            return _wait(runs, begun.id)
        except KeyboardInterrupt:
            print("stopping it", file=sys.stderr)
            runs.stop(runs.look(begun.id) or begun)
            return _wait(runs, begun.id)


def _wait(runs: Runs, run_id: str) -> Run:
    from producers.dcgm.run import DiagnosticsError

    while True:
        runs.poll()  # by whoever's hand it ended: the agent looks too
        found = runs.look(run_id)
        if found is None:
            raise DiagnosticsError(f"the run {run_id} has vanished from {runs.folder}: somebody removed it")
        if found.ended_ms is not None:
            return found
        if found.stopped_s is not None:
            runs.stop(found)  # kills it once its grace is over
        if runs.overrun_s(found):
            raise DiagnosticsError(
                f"dcgmi (pid {found.pid}) cannot be killed: it waits for the driver. The GPUs hang; reboot the node"
            )
        time.sleep(_LOOK_S)


@contextmanager
def _spinner(text: str) -> Iterator[None]:
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        print(text, file=sys.stderr)
    with console.status(text) if console.is_terminal else nullcontext():
        yield


def _print_json(results: Iterable[DiagnosticResult]) -> None:
    import msgspec

    for result in results:
        sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
    sys.stdout.buffer.flush()


def _print_table(found: Outcome) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from producers.dcgm.findings import counts, of_any_gpu

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("Test", "GPUs", "Result", "What it means", "What to do", "Can explain"):
        table.add_column(name, overflow="fold")
    for alike in _alike(found.results):
        result = alike[0]
        style = _SEVERITIES[result.severity]
        meaning = Text(of_any_gpu(result.meaning), style)
        if result.result in {"warn", "fail"}:
            for said in dict.fromkeys(said for each in alike for said in each.warnings):
                meaning.append(f"\n{said}", "dim")
        table.add_row(
            Text(result.test),
            Text(_gpus(alike)),
            Text(result.result.replace("_", " "), _COLOURS[result.result]),
            meaning,
            Text("" if result.action == "none" else result.action.replace("_", " "), style),
            Text(", ".join(result.explains)),
        )
    console = Console()
    if found.results:
        console.print(table)
    number = counts(found.results)
    versions = next(((r.dcgm_version, r.driver_version) for r in found.results if r.dcgm_version), None)
    made = f" (DCGM {versions[0]}{f', driver {versions[1]}' if versions[1] else ''})" if versions else ""
    console.print(
        f"{number['pass']} passed, {number['warn']} warned, {number['fail']} failed, {number['not_run']} were not run, "
        f"which is no pass{made}",
        highlight=False,
    )


def _alike(results: Iterable[DiagnosticResult]) -> list[list[DiagnosticResult]]:
    """GPUs of which a test says the same share a line; what is wrong stands first."""
    from producers.dcgm.findings import of_any_gpu

    order = {"fail": 0, "warn": 1, "not_run": 2, "pass": 3}
    lines: dict[tuple[str, str, str], tuple[list[DiagnosticResult], int]] = {}
    for place, result in enumerate(results):
        lines.setdefault((result.test, result.result, of_any_gpu(result.meaning)), ([], place))[0].append(result)
    ranked = sorted(lines.values(), key=lambda line: (order[line[0][0].result], line[1]))
    return [alike for alike, _ in ranked]


def _gpus(results: list[DiagnosticResult]) -> str:
    """`0-3,7`; the entity where it is no GPU."""
    numbers = sorted({result.gpu for result in results if result.gpu is not None})
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    named = [str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts]
    others = dict.fromkeys(result.entity or "node" for result in results if result.gpu is None)
    return ",".join([*named, *others])
