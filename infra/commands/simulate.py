"""`fleetpulse simulate`: a fleet of made-up racks, to Kafka or to files, and what was broken in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from infra.errors import MisuseError, OperatorError
from infra.options import Options

if TYPE_CHECKING:
    from infra.settings import Settings
    from producers.settings import SimulateSettings
    from producers.simulate.truth import Truth

_PANEL = "The fleet"
_FAULTS = "What breaks in it"
_WHERE = "Where it goes"
_MACHINES = Literal["hgx", "nvl72", "both"]
_MIX = Literal["published", "even"]


def simulate(
    context: typer.Context,
    gpus: Annotated[
        int | None, typer.Option(min=4, help="So many GPUs, in as many racks as they need.", rich_help_panel=_PANEL)
    ] = None,
    inventory: Annotated[
        Path | None,
        typer.Option(
            help="The nodes of a declared inventory, instead of --gpus.",
            exists=True,
            dir_okay=False,
            rich_help_panel=_PANEL,
        ),
    ] = None,
    machines: Annotated[
        str | None,
        typer.Option(
            help="With --gpus: hgx (8 GPUs a node), nvl72 (72 a rack), or both if not given.", rich_help_panel=_PANEL
        ),
    ] = None,
    hours: Annotated[
        float | None, typer.Option(min=0.001, help="How long, in the fleet's own time.", rich_help_panel=_PANEL)
    ] = None,
    interval_s: Annotated[
        float | None, typer.Option(min=0.1, max=60, help="Seconds between samples.", rich_help_panel=_PANEL)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The same seed gives the same fleet and faults.", rich_help_panel=_PANEL)
    ] = None,
    fault_rate: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="So many times as many faults as in published fleets; at 1 some 0.4 a day for 1,000 GPUs.",
            rich_help_panel=_FAULTS,
        ),
    ] = None,
    fault_mix: Annotated[
        str | None,
        typer.Option(help="published: each kind as often as in real fleets; even: all alike.", rich_help_panel=_FAULTS),
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only this kind of fault; may be repeated.", rich_help_panel=_FAULTS)
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(help="Write what was broken here, JSON lines.", dir_okay=False, rich_help_panel=_WHERE),
    ] = None,
    kafka: Annotated[bool, typer.Option("--kafka", help="To Kafka, as without --out.", rich_help_panel=_WHERE)] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="To files in this folder instead of Kafka.", file_okay=False, rich_help_panel=_WHERE),
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(
            min=0, help="To Kafka: 1 is real time, 10 ten times faster, 0 as fast as it goes.", rich_help_panel=_WHERE
        ),
    ] = None,
) -> None:
    """The simulated fleet: racks of GPUs that compute, and that break, with the truth about it.

    Without options it plays what the settings say (simulate.…), as in the demo: four faults on schedule. With --gpus,
    --inventory, --hours, --fault-rate, --fault-mix or --kind faults come by chance instead, in the mix and at the rates
    of published fleets where nothing else is said (producers/simulate/library.toml).

    [dim]fleetpulse simulate --gpus 1024 --hours 24 --interval-s 10 --fault-rate 100 --seed 7 --out fleet/[/]
    [dim]fleetpulse simulate --gpus 1024 --hours 24 --seed 7 --truth truth.jsonl --speed 0[/]
    """
    options: Any = context.find_root().obj
    assert isinstance(options, Options)  # noqa: S101 - the callback put it there
    if kafka and out:
        raise MisuseError("--kafka and --out are two places to go to: give one")
    if speed is not None and out:
        raise MisuseError("--speed is for Kafka: files are written as fast as it goes")
    settings = options.settings()
    given = _given(
        settings.simulate,
        gpus=gpus,
        inventory=inventory,
        machines=machines,
        hours=hours,
        interval_s=interval_s,
        seed=seed,
        fault_rate=fault_rate,
        fault_mix=fault_mix,
        kinds=kind or [],
        truth=truth,
        speed=speed,
    )
    settings = settings.model_copy(update={"simulate": given})
    if out:
        _to_files(given, out)
    else:
        from infra.commands import roles

        roles.simulate(settings)
        _show_truth_of(settings)


def _given(
    settings: SimulateSettings,
    *,
    gpus: int | None,
    inventory: Path | None,
    machines: str | None,
    hours: float | None,
    interval_s: float | None,
    seed: int | None,
    fault_rate: float | None,
    fault_mix: str | None,
    kinds: list[str],
    truth: Path | None,
    speed: float | None,
) -> SimulateSettings:
    """The settings with what was said on the command line laid over them. Raises `MisuseError`."""
    from pydantic import ValidationError

    from producers.settings import SimulateSettings
    from producers.simulate.library import rates
    from producers.simulate.topology import racks_of

    if machines is not None and machines not in get_args(_MACHINES):
        raise MisuseError(f"--machines is {machines!r}; allowed are {', '.join(get_args(_MACHINES))}")
    if fault_mix is not None and fault_mix not in get_args(_MIX):
        raise MisuseError(f"--fault-mix is {fault_mix!r}; allowed are {', '.join(get_args(_MIX))}")
    changes: dict[str, Any] = {}
    if gpus and inventory:
        raise MisuseError("--gpus and --inventory are two fleets: give one")
    if machines is not None and not gpus:
        raise MisuseError("--machines says what the racks of --gpus are made of: give --gpus too")
    if gpus or inventory or hours or fault_rate is not None or fault_mix is not None or kinds:
        # by chance instead of by the script
        changes |= {"faults": (), "fault_rate": (settings.fault_rate or 1.0) if fault_rate is None else fault_rate}
    try:
        if gpus:
            mixed = machines is None or machines == "both"
            changes |= {
                "inventory": None,  # that of the settings would win over the racks
                "racks": racks_of(gpus, ("hgx", "nvl72") if mixed else (machines,)),  # type: ignore[arg-type]
                "racks_per_leaf": 4,
            }
        for name, value in (
            ("inventory", inventory),
            ("duration_s", hours and hours * 3600),
            ("interval_ms", interval_s and round(interval_s * 1000)),
            ("seed", seed),
            ("fault_mix", fault_mix),
            ("fault_kinds", tuple(kinds) or None),
            ("truth_path", truth),
            ("speed", speed),
        ):
            if value is not None:
                changes[name] = value
        found = SimulateSettings.model_validate({**settings.model_dump(), **changes})
        rates(found)
    except (ValidationError, ValueError) as error:
        raise MisuseError(f"no such fleet can be simulated: {error}") from error
    return found


def _to_files(settings: SimulateSettings, out: Path) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from producers.simulate.files import run

    console = Console(stderr=True)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"simulating into {out}", total=1.0)

        def beat(share: float) -> bool:
            progress.update(task, completed=share)
            return True

        try:
            fleet, truth = run(settings, out, beat=beat)
        except OSError as error:
            raise OperatorError(f"the simulated fleet cannot be written to {out}: {error.strerror or error}") from error
    size = sum(path.stat().st_size for path in out.iterdir() if path.is_file())
    count = sum(len(node.gpus) for node in fleet.nodes)
    console.print(f"{count:,} GPUs for {(settings.duration_s or 0) / 3600:g} h in {out}, {size / 1e6:,.0f} MB")
    if fleet.homeless:
        console.print(f"{fleet.homeless} faults found no healthy place and were left out", style="yellow")
    _show(console, truth)


def _show_truth_of(settings: Settings) -> None:
    """The summary of a run whose truth went to a file."""
    import msgspec
    from rich.console import Console

    from producers.simulate.truth import Truth

    path = settings.simulate.truth_path
    if path is None or not path.exists():
        return
    _show(Console(stderr=True), [msgspec.json.decode(line, type=Truth) for line in path.read_bytes().splitlines()])


def _show(console: Any, truth: Iterable[Truth]) -> None:
    """One line for each kind: how many, on how many components; in the middle, how long until it was to be seen, and
    from then until work died of it.
    """
    from rich.table import Table

    by_kind: dict[tuple[str, bool], list[Truth]] = defaultdict(list)
    for line in truth:
        by_kind[line.fault, line.role == "harmless"].append(line)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("what", no_wrap=True)
    for name in ("times", "components", "seen after", "warning"):
        table.add_column(name, justify="right")
    table.add_column("note", no_wrap=True)
    for (kind, harmless), lines in sorted(by_kind.items(), key=lambda item: (item[0][1], item[0][0])):
        faults = {line.fault_id or line.component: line for line in reversed(lines) if line.role != "symptom"}
        waits = sorted((line.first_observable_ms - line.start_ms) / 1000 for line in faults.values())
        leads = sorted(
            (line.hard_ms - line.first_observable_ms) / 1000 for line in faults.values() if line.hard_ms is not None
        )
        again = sum(line.repeats is not None for line in faults.values())
        table.add_row(
            kind,
            f"{len(faults):,}",
            f"{len({line.component for line in lines}):,}",
            f"{waits[len(waits) // 2]:,.0f} s" if waits else "-",
            f"{leads[len(leads) // 2]:,.0f} s" if leads and leads[len(leads) // 2] >= 1 else "-",
            "[dim]no fault[/]" if harmless else f"{again} came again" if again else "",
        )
    console.print(table if by_kind else "nothing broke")
