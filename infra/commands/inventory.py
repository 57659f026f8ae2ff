"""`fleetpulse inventory`: check a declared inventory, publish it, and see where things are."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.errors import MisuseError, OperatorError
from infra.options import Options

if TYPE_CHECKING:
    from producers.inventory import Inventory
    from producers.inventory.compare import Change, Standing
    from schemas.records import InventoryRecord

app = typer.Typer(
    name="inventory",
    help="What stands where: a file that declares it, and what agents discovered.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
)
_FILE = Annotated[
    Path, typer.Argument(metavar="FILE", help="The inventory: .yaml, or .csv. Its form: producers/inventory/README.md.")
]
_MOST_ROWS = 200
"""Rows of a table on the screen; counts and totals are always of everything."""
_PLACE = ("node", "slot", "rack", "site")
_ALSO = ("chassis_serial", "leaf_switch", "pdu", "nvlink_domain", "pci", "gpu_index", "sku")


@app.command()
def check(file: _FILE) -> None:
    """Check a file without sending anything. Prints a summary, or every error with its line, and then exits with 1.

    [dim]fleetpulse inventory check fleet.yaml[/]
    """
    inventory = load_file(file)
    print(_summary(file, inventory))
    for site, racks, nodes, gpus in _by_site(inventory):
        print(f"  {site}: {_number(racks, 'rack')}, {_number(nodes, 'node')}, {_number(gpus, 'GPU')}")


@app.command()
def load(
    context: typer.Context,
    file: _FILE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change; send nothing.")] = False,
) -> None:
    """Declare what a file says, and take back what it declared before and says no more (of its sites only).

    Only differences are sent. A file with an error in it changes nothing.

    [dim]fleetpulse inventory load fleet.yaml --dry-run[/]
    """
    from infra import addresses, observe
    from producers.inventory import compare, topic

    settings = _options(context).settings()
    observe.configure_logging("inventory", level="warning", json_lines=settings.observe.json_lines)
    inventory = load_file(file)
    kafka = addresses.kafka_client(settings)
    now_ms = time.time_ns() // 1_000_000
    before = compare.standing(topic.read(kafka))
    found = compare.changes(before, inventory.records(now_ms), inventory.sites, now_ms)
    print(_summary(file, inventory))
    if dry_run:
        _print_changes(found)
        print(f"{_counted(found)}; nothing was sent (--dry-run)")
        return
    if found:
        topic.publish(kafka, settings.agent.publish, (change.record for change in found))
    print(_counted(found) + (f"; sent to {kafka['bootstrap.servers']}" if found else "; there was nothing to send"))


@app.command()
def show(
    context: typer.Context,
    node: Annotated[str | None, typer.Option(help="One node and its GPUs.")] = None,
    gpu: Annotated[str | None, typer.Option(metavar="SERIAL", help="One GPU.")] = None,
    rack: Annotated[str | None, typer.Option(help="One rack and what is in it.")] = None,
) -> None:
    """Show where things are, declared beside discovered; without an option, the racks with their numbers.

    [dim]fleetpulse inventory show --gpu 1650923000123[/]
    """
    from infra import addresses, observe
    from producers.inventory import compare, topic

    if sum(one is not None for one in (node, gpu, rack)) > 1:
        raise MisuseError("give one of --node, --gpu and --rack")
    settings = _options(context).settings()
    observe.configure_logging("inventory", level="warning", json_lines=settings.observe.json_lines)
    known = compare.standing(topic.read(addresses.kafka_client(settings)))
    if node is None and gpu is None and rack is None:
        _print_racks(known)
        return
    if gpu is not None:
        what, chosen = f"GPU {gpu}", [key for key in known if key == f"gpu:{gpu}"]
    elif node is not None:
        what, chosen = f"node {node}", [key for key, one in known.items() if _is_in(one, "node", node)]
    else:
        what, chosen = f"rack {rack}", [key for key, one in known.items() if _is_in(one, "rack", rack)]
    if not chosen:
        raise OperatorError(
            f"the inventory knows no {what}; it knows {len(known)} components (`fleetpulse inventory show` lists racks)"
        )
    _print_components({key: known[key] for key in chosen})


def load_file(file: Path) -> Inventory:
    """A declared inventory. Raises `OperatorError` once every problem is told, `MisuseError` where it is not there."""
    from producers.inventory import InventoryError, load

    try:
        return load(file)
    except OSError as error:
        raise MisuseError(f"the inventory file {file} cannot be read: {error.strerror}") from error
    except InventoryError as error:
        for line in error.lines():
            print(line, file=sys.stderr)
        raise OperatorError(f"{file} has {_number(len(error.problems), 'error')}; nothing of it was used") from error


def _summary(file: Path, inventory: Inventory) -> str:
    kinds = Counter(device.kind for device in inventory.devices)
    parts = [
        (len(inventory.sites), "site"),
        (len(inventory.racks), "rack"),
        (len(inventory.nodes), "node"),
        (inventory.expected_gpus, "GPU"),
        (len(inventory.nvlink_domains), "NVLink domain"),
        (kinds["leaf_switch"], "leaf switch"),
        (kinds["pdu"], "PDU"),
        (kinds["cooling"], "cooler"),
    ]
    said = ", ".join(_number(count, one) for count, one in parts if count)
    return f"{file}: {said}; {_number(len(inventory.gpus), 'GPU')} by serial"


def _number(count: int, one: str) -> str:
    """`1 rack`, `2 racks`, `2 leaf switches`."""
    if count == 1:
        return f"{count} {one}"
    return f"{count} {one}es" if one.endswith("ch") else f"{count} {one}s"


def _by_site(inventory: Inventory) -> Iterable[tuple[str, int, int, int]]:
    site = {rack.name: rack.site for rack in inventory.racks}
    serials = Counter(gpu.node for gpu in inventory.gpus)
    racks = Counter(rack.site for rack in inventory.racks)
    nodes: Counter[str] = Counter()
    gpus: Counter[str] = Counter()
    for node in inventory.nodes:
        nodes[site[node.rack]] += 1
        gpus[site[node.rack]] += serials[node.name] if node.gpus is None else node.gpus
    return [(name, racks[name], nodes[name], gpus[name]) for name in sorted(racks)]


def _counted(found: Sequence[Change]) -> str:
    kinds = Counter(change.kind for change in found)
    return ", ".join(f"{kinds[kind]} {kind}" for kind in ("added", "changed", "removed"))


def _print_changes(found: Sequence[Change]) -> None:
    rows = [
        (
            change.kind,
            change.record.component,
            _place(change.record)
            if change.kind != "changed"
            else ", ".join(f"{field}: {_said(before)} → {_said(after)}" for field, before, after in change.fields),
        )
        for change in sorted(found, key=lambda one: one.kind, reverse=True)
    ]
    _print_table(("change", "component", "what"), rows)


def _print_racks(known: dict[str, Standing]) -> None:
    from streams.inventory import differences

    numbers: dict[tuple[str, str], Counter[str]] = {}
    for one in known.values():
        record = one.discovered or one.declared
        if record is None:
            continue
        count = numbers.setdefault((record.site, record.rack), Counter())
        if record.kind in {"node", "gpu"}:
            count[f"{record.kind} declared"] += one.declared is not None
            count[f"{record.kind} discovered"] += one.discovered is not None
        count["differs"] += bool(one.declared and one.discovered and differences(one.declared, one.discovered))
    columns = ("node declared", "node discovered", "gpu declared", "gpu discovered", "differs")
    rows = [(*place, *(count[column] for column in columns)) for place, count in sorted(numbers.items())]
    _print_table(
        ("site", "rack", "nodes declared", "discovered", "GPUs declared", "discovered", "differ"), rows, empty="no rack"
    )


def _print_components(known: dict[str, Standing]) -> None:
    from streams.inventory import differences

    rows = []
    for component, one in sorted(known.items(), key=lambda item: (item[0].startswith("gpu:"), item[0])):
        if one.declared and one.discovered:
            found = differences(one.declared, one.discovered)
            note = "differ in " + ", ".join(d.field.replace("_", " ") for d in found) if found else "agree"
        else:
            note = "declared, not discovered" if one.declared else "discovered, not declared"
            if (one.declared or one.discovered) and component.partition(":")[0] not in {"gpu", "node"}:
                note = ""  # nobody discovers a rack or a switch
        rows.append((component, _place(one.declared), _place(one.discovered), _seen(one.discovered), note))
    _print_table(("component", "declared", "discovered", "last found", ""), rows)


def _print_table(names: Sequence[str], rows: Sequence[Sequence[Any]], empty: str = "nothing changes") -> None:
    from rich.console import Console

    from infra.commands.sql import table

    # a pipe has no width to fit into
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 10_000)
    if not rows:
        console.print(f"[dim]{empty}[/]")
        return
    console.print(table(names, rows[:_MOST_ROWS]), soft_wrap=not console.is_terminal)
    if len(rows) > _MOST_ROWS:
        console.print(f"[dim]… and {len(rows) - _MOST_ROWS} more[/]")


def _is_in(one: Standing, field: str, name: str | None) -> bool:
    return any(
        record is not None
        and getattr(record, field) == name
        and not (field == "node" and record.kind not in {"gpu", "node"})
        for record in (one.declared, one.discovered)
    )


def _place(record: InventoryRecord | None) -> str:
    """Where it is and what it belongs to, as far as is known."""
    if record is None:
        return ""
    named = record.component.partition(":")[2]
    facts = [
        f"{field.replace('_', ' ').replace('gpu index', 'index')} {value}"
        for field in (*_PLACE, *_ALSO)
        if (value := getattr(record, field)) is not None and value != named
    ]
    return ", ".join(facts)


def _seen(record: InventoryRecord | None) -> str:
    if record is None:
        return ""
    seconds = max(0, time.time_ns() // 1_000_000 - record.seen_ms) // 1000
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"


def _said(value: object) -> str:
    return "nothing" if value is None else str(value)


def _options(context: typer.Context) -> Options:
    found: Any = context.find_root().obj
    assert isinstance(found, Options)  # noqa: S101 - the callback put it there
    return found
