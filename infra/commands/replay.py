"""`fleetpulse replay`: what was recorded through the fault and correlation code again, and what came of it.

Here: what is read, and which way it goes. `replay_pipeline` sends it the whole way round, `streams.replay` lives
through it in this process; `replay_shown` prints what either came to.
"""

from __future__ import annotations

import heapq
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from infra.errors import MisuseError, OperatorError
from infra.options import Options

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra.settings import Settings
    from producers.decoded import Place
    from schemas.catalog import Catalog
    from schemas.records import HardwareEvent, InventoryRecord
    from streams.replay import Arrived, Outcome, Said, Told

app = typer.Typer(
    name="replay",
    help="What was recorded, through the fault and correlation code again.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
)
_ELSEWHERE = "replay"
"""Site and rack of what nobody knows the place of: a site of its own, beside what is live."""
_COMPLAINTS = 20
"""Lines that could not be read and are named one by one; the rest is counted."""

_INVENTORY = Annotated[
    Path | None,
    typer.Option(
        help="Where nodes are and what they hang on: a file as `fleetpulse inventory` reads (.yaml, .csv), or records "
        "as JSON lines (.jsonl, as `fleetpulse simulate --out` writes).",
        exists=True,
        dir_okay=False,
    ),
]
_INCIDENTS = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Print the incidents here, one JSON object each; - is standard output.",
        dir_okay=False,
        allow_dash=True,
    ),
]
_BROKER = Annotated[
    bool | None,
    typer.Option(
        "--broker/--no-broker",
        help="Through Kafka and the whole pipeline, or in this process with nothing running. If neither is said: in "
        "this process where --incidents is given.",
    ),
]
_SECONDS = Annotated[float, typer.Option(help="With a broker: how long to wait for an answer.", min=1)]
_RACK = Annotated[str | None, typer.Option(help="The rack of nodes that neither line nor inventory places.")]
_SITE = Annotated[str | None, typer.Option(help="The site of these.")]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was read."""

    events: tuple[HardwareEvent, ...]
    """In the order of time."""
    inventory: tuple[InventoryRecord, ...]
    unreadable: int = 0
    """Lines of it that could not be read, each told already."""

    def arrived(self) -> list[Arrived]:
        """All of it as it would have reached Kafka, had nothing taken time."""
        from streams.replay import Arrived

        moves = [Arrived(record.seen_ms, record) for record in self.inventory]
        events = [Arrived(event.event_ms, event) for event in self.events]
        return list(heapq.merge(sorted(moves, key=lambda one: one.at_ms), events, key=lambda one: one.at_ms))


@app.command("kernel-log")
def kernel_log(
    context: typer.Context,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="dmesg, journalctl (-k, -o json) or syslog text (also .gz); - is standard input."
        ),
    ],
    node: Annotated[str, typer.Option(help="The node it is from.")],
    rack: _RACK = None,
    site: _SITE = None,
    inventory: _INVENTORY = None,
    boot_ms: Annotated[
        int | None,
        typer.Option(help="When the machine booted (UTC milliseconds): gives stamps such as [123.456] their time."),
    ] = None,
    incidents: _INCIDENTS = None,
    broker: _BROKER = None,
    seconds: _SECONDS = 60,
) -> None:
    """Tell what a node's kernel log comes to: its faults and incidents, with root, evidence and action.

    Without --incidents the log goes through the pipeline that runs on the data directory (where none does, one is
    started for the occasion), and the history is asked. A pipeline that is in use pages for what it finds.

    Stamps without a zone are taken as UTC, those without a year as the last such day; a line without a time happened
    now.

    [dim]fleetpulse replay kernel-log --node gpu-17 --incidents - /var/log/kern.log[/]
    [dim]ssh gpu-17 dmesg --time-format iso | fleetpulse replay kernel-log --node gpu-17 -[/]
    """
    from producers.kernel_log import events_of_file

    settings = _settings(context)
    now_ms = time.time_ns() // 1_000_000
    declared = _inventory(inventory, now_ms)
    place = _places(declared, site, rack)(node)
    try:
        found = events_of_file(
            Path(file),
            site=site or place.site,
            rack=rack or place.rack,
            node=node,
            now_ms=now_ms,
            boot_ms=boot_ms,
            catalog=_catalog(settings.agent.catalog),
        )
        events = sorted(found, key=lambda event: event.event_ms)
    except OSError as error:
        raise MisuseError(f"the kernel log {_name(file)} cannot be read: {error.strerror}") from error
    if untimed := sum(event.event_ms == now_ms for event in events):
        _say(
            f"{untimed} of {len(events)} events have no time and are taken to have happened now; --boot-ms places "
            "stamps such as [123.456]"
        )
    recorded = Recorded(tuple(events), tuple(declared))
    _replay(context, settings, recorded, incidents=incidents, broker=broker, seconds=seconds)


@app.command("events")
def events(
    context: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE…", help="Events as JSON lines, of any number of nodes (also .gz); - is standard input."
        ),
    ],
    node: Annotated[str, typer.Option(help="The node of lines that name none.")] = "",
    rack: _RACK = None,
    site: _SITE = None,
    inventory: _INVENTORY = None,
    incidents: _INCIDENTS = None,
    broker: _BROKER = None,
    seconds: _SECONDS = 60,
) -> None:
    """Tell what the events of many nodes come to, from JSON lines as `fleetpulse decode` prints them.

    A line needs kind (xid, sxid, fallen_off_bus, …) and node, and should have event_ms, or event_at or timestamp (ISO
    8601, UTC where no zone is told). Beside them count code, pci, gpu, link, source, details, raw, count, boot_id,
    event_id, site and rack. What the catalogue says of a code goes before the line's own severity and action. Lines may
    be in any order; one without a time happened when the one before it of the same node did. Readings, which decode
    prints too, are passed over. A line that cannot be read is named and the rest goes on; then the exit status is 1.

    Each incident is one object: incident_id, root (component, node, gpu, pci, code, …), members (the same, with their
    role), action, pages (how often somebody is woken), state, severity, title, reason, alternatives, first_ms, last_ms.

    [dim]ssh gpu-17 dmesg --time-format iso | fleetpulse decode kernel-log --node gpu-17 - >> rack.jsonl[/]
    [dim]fleetpulse replay events rack.jsonl --inventory fleet.yaml --incidents - | jq '{title, action, pages}'[/]
    [dim]fleetpulse sql --format json "SELECT * FROM hardware_events" | fleetpulse replay events - --incidents -[/]
    [dim]fleetpulse simulate --gpus 144 --hours 2 --fault-rate 2000 --out fleet/[/]
    [dim]fleetpulse replay events fleet/events.jsonl --inventory fleet/inventory.jsonl --incidents incidents.jsonl[/]
    """
    from producers.decoded import EventLines

    settings = _settings(context)
    now_ms = time.time_ns() // 1_000_000
    declared = _inventory(inventory, now_ms)
    reader = EventLines(_catalog(settings.agent.catalog), _places(declared, site, rack), node=node, now_ms=now_ms)
    found: list[HardwareEvent] = []
    readings = unreadable = 0
    for file in files:
        told, others, bad = _read(reader, file)
        found += told
        readings, unreadable = readings + others, unreadable + bad
    if readings:
        _say(f"{readings} lines are readings, not events: passed over")
    if reader.untimed:
        _say(
            f"{reader.untimed} events have no time of their own: they have that of the event before them on their "
            "node, or after them, or now"
        )
    found.sort(key=lambda event: event.event_ms)
    recorded = Recorded(tuple(found), tuple(declared), unreadable)
    _replay(context, settings, recorded, incidents=incidents, broker=broker, seconds=seconds)


def _replay(
    context: typer.Context,
    settings: Settings,
    recorded: Recorded,
    *,
    incidents: Path | None,
    broker: bool | None,
    seconds: float,
) -> None:
    """Live through it, one way or the other, and print what it came to. Exit 1 where not all of it could be used."""
    from infra.commands import replay_pipeline, replay_shown

    late = ""
    kinds = Counter(event.kind for event in recorded.events)
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    nodes = len({event.node for event in recorded.events})
    _say(
        f"{len(recorded.events)} hardware events of {nodes} node{'' if nodes == 1 else 's'}"
        + (f": {counted}" if counted else "; there is nothing to replay")
    )
    outcome, told, said = in_process(settings, recorded)
    through = broker if broker is not None else incidents is None
    if through and recorded.events:
        from streams.replay import pauses

        options = _options(context)
        with replay_pipeline.reached(options, settings, _say) as pipeline:
            late = pipeline.send(recorded.events, recorded.inventory, pauses(told, said), seconds)
            if incidents is None:
                late = late or pipeline.wait_for_history(seconds)
                replay_shown.print_history(settings, recorded.events)
            else:
                outcome = pipeline.outcome(recorded.events)
    elif incidents is None:
        replay_shown.print_text(outcome)
    if incidents is not None:
        objects = replay_shown.objects(outcome)
        _write(incidents, objects)
        pages = sum(one["pages"] for one in objects)
        _say(f"faults {len(outcome.faults)}; incidents {len(objects)}; pages {pages}")
    if late:
        _say(f"not everything came through within {seconds:.0f} s: {late}")
    if recorded.unreadable or late:
        raise typer.Exit(1)


def in_process(settings: Settings, recorded: Recorded) -> tuple[Outcome, list[Told], list[Said]]:
    """What it comes to without anything running; with all records, in order."""
    from schemas.catalog.causes import causes
    from streams.replay import Outcome, live_through

    override = settings.streams.catalog_override
    told, said = live_through(
        recorded.arrived(),
        catalog=_catalog(Path(override) if override else None),
        table=causes(),
        settle_ms=settings.streams.settle_ms,
    )
    outcome = Outcome()
    for one in told:
        outcome.take(one.fault)
    for each in said:
        outcome.take(each.incident)
    return outcome, told, said


def _read(reader: Any, file: str) -> tuple[list[HardwareEvent], int, int]:
    """The events of one file, how many lines are readings, and how many could not be read; the latter are told."""
    from producers.decoded import Reading
    from producers.kernel_log import numbered
    from producers.unreadable import Unreadable

    found: list[HardwareEvent] = []
    readings = bad = 0
    try:
        with _opened(file) as stream:
            for one in reader.read(numbered(stream)):
                if isinstance(one, Unreadable):
                    bad += 1
                    if bad <= _COMPLAINTS:
                        _say(f"{_name(file)}: {one.place}: {one.reason}")
                elif isinstance(one, Reading):
                    readings += 1
                else:
                    found.append(one)
    except OSError as error:
        raise MisuseError(f"the events {_name(file)} cannot be read: {error.strerror or error}") from error
    if bad > _COMPLAINTS:
        _say(f"{_name(file)}: … and {bad - _COMPLAINTS} more lines that cannot be read")
    return found, readings, bad


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    from producers.kernel_log import open_log

    if file == "-":
        yield sys.stdin.buffer
    else:
        with open_log(Path(file)) as stream:
            yield stream


def _inventory(file: Path | None, now_ms: int) -> list[InventoryRecord]:
    """The records of an inventory. Raises `MisuseError`, `OperatorError` with every problem told."""
    import msgspec

    from schemas.records import InventoryRecord

    if file is None:
        return []
    if file.suffix != ".jsonl":
        from infra.commands.inventory import load_file

        # what a file declares holds from the beginning, whenever that was
        return [msgspec.structs.replace(record, seen_ms=0) for record in load_file(file).records(now_ms)]
    decoder = msgspec.json.Decoder(InventoryRecord)
    found = []
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise MisuseError(f"the inventory {file} cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                found.append(decoder.decode(line))
        except msgspec.DecodeError as error:
            raise OperatorError(f"the inventory {file}, line {number}, is no inventory record: {error}") from error
    return found


def _places(inventory: Sequence[InventoryRecord], site: str | None, rack: str | None) -> Callable[[str], Place]:
    from producers.decoded import Place

    elsewhere = Place(site or _ELSEWHERE, rack or _ELSEWHERE)
    known = {
        record.node: Place(record.site, record.rack)
        for record in reversed(inventory)  # the first one: where a node was when the log began
        if record.kind == "node" and record.node and not record.removed
    }
    return lambda node: known.get(node, elsewhere)


def _catalog(override: Path | None) -> Catalog:
    from schemas.catalog import CatalogError, load

    try:
        return load(override)
    except CatalogError as error:
        raise MisuseError(str(error)) from error


def _write(path: Path, objects: Sequence[dict[str, Any]]) -> None:
    import msgspec

    data = b"".join(msgspec.json.encode(one) + b"\n" for one in objects)
    if str(path) == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        path.write_bytes(data)
    except OSError as error:
        raise OperatorError(f"the incidents cannot be written to {path}: {error.strerror}") from error


def _settings(context: typer.Context) -> Settings:
    from infra import observe

    settings = _options(context).settings()
    observe.configure_logging("replay", level="warning", json_lines=settings.observe.json_lines)
    return settings


def _name(file: str) -> str:
    return "standard input" if file == "-" else file


def _say(text: str) -> None:
    """To the one who waits: standard output is for the answer."""
    print(text, file=sys.stderr)


def _options(context: typer.Context) -> Options:
    found: Any = context.find_root().obj
    assert isinstance(found, Options)  # noqa: S101 - the callback put it there
    return found
