"""`fleetpulse decode` for what other tools print: nvidia-smi, DCGM, InfiniBand. `register` adds them to the command."""

from __future__ import annotations

import os
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, NoReturn

import msgspec
import typer

if TYPE_CHECKING:
    from schemas.catalog import Catalog

_FLUSH_BYTES = 1 << 16
_INPUT_BYTES = 64 << 20
"""What is read whole: a diagnostic has some 100 kB."""
_DEFAULT_TREE = "/sys/class/infiniband"

_File = Annotated[str, typer.Argument(metavar="FILE", help="What the tool printed; - reads standard input.")]
_Node = Annotated[
    str, typer.Option(help="The node it is from: names what has no serial number of its own.", metavar="NAME")
]
_Override = Annotated[
    Path | None, typer.Option("--catalog", help="A catalogue file of your own (TOML), layered over the one that ships.")
]


def register(app: typer.Typer) -> None:
    """Add the subcommands to `fleetpulse decode`."""
    app.command("nvidia-smi")(nvidia_smi)
    app.command("dcgm-diag")(dcgm_diag)
    app.command("dcgm-exporter")(dcgm_exporter)
    app.command("infiniband")(infiniband)


def nvidia_smi(file: _File, node: _Node = "", catalog: _Override = None) -> None:
    """Print one JSON object for each GPU that nvidia-smi shows: -q text, -q -x XML or --query-gpu CSV, any driver.

    metrics has the columns of gpu.samples in their units; counters, limits, state, throttle and identity the rest.
    What the board does not offer is null; what could not be read is null too, and unreadable says what stood there.
    A GPU that is lost or unreadable, and a driver that does not answer, are objects with kind, severity and action.

    [dim]nvidia-smi -q -x | fleetpulse decode nvidia-smi - | jq '.metrics.temperature_celsius'[/]
    [dim]fleetpulse decode nvidia-smi gpu-17.txt | jq 'select(.kind == "gpu_lost")'[/]
    """
    from producers.kernel_log import numbered
    from producers.nvidia_smi import GpuEvent, decode

    entries = _catalog(catalog)

    def shown(item: object) -> object:
        if not isinstance(item, GpuEvent):
            return item
        entry = entries.entry(item.kind)
        judged = ("severity", "action", "fault_class", "name", "nvidia_action", "rule", "overridden", "reason")
        return msgspec.to_builtins(item) | {name: getattr(entry, name) for name in judged}

    with _input(file) as stream:
        _print(file, decode(numbered(stream), node), shown, at_once=file == "-")


def dcgm_diag(file: _File, node: _Node = "", catalog: _Override = None) -> None:
    """Print one JSON object for each GPU and test of `dcgmi diag -j`, any DCGM version, with what it means.

    result is pass, warn, fail or not_run: a test that was skipped is never a pass. severity, category, action, meaning
    and reason judge it; explains lists the classes of open faults that it can explain. A test that is about the whole
    node has gpu null.

    [dim]dcgmi diag -r 2 -j | fleetpulse decode dcgm-diag -[/]
    [dim]fleetpulse decode dcgm-diag diag.json | jq 'select(.result != "pass") | [.gpu, .test, .meaning, .action]'[/]
    """
    from producers.dcgm.diagnostics import decode

    entries = _catalog(catalog)
    with _input(file) as stream:
        document = stream.read(_INPUT_BYTES + 1)
        if len(document) > _INPUT_BYTES:
            fail(f"decoding {_name(file)}: it has more than {_INPUT_BYTES >> 20} MiB; a diagnostic has far less")
        _print(file, decode(document.decode(errors="replace"), node, entries))


def dcgm_exporter(file: _File, node: _Node = "") -> None:
    """Print one JSON object for each GPU of a page of dcgm-exporter (MIG instances, links and switches by themselves).

    metrics has the columns of gpu.samples in their units, counters the rest that has a name of ours, other what keeps
    DCGM's. Values that DCGM leaves blank are null. Pages may follow each other.

    [dim]curl -s http://gpu-17:9400/metrics | fleetpulse decode dcgm-exporter -[/]
    """
    from producers.dcgm.exporter import decode
    from producers.kernel_log import numbered

    with _input(file) as stream:
        _print(file, decode(numbered(stream), node), at_once=file == "-")


def infiniband(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="A sysfs tree (the class, one device, a copy), or a file with the text of ibstat, ibstatus or "
            "perfquery; - reads such text from standard input.",
        ),
    ] = _DEFAULT_TREE,
    node: _Node = "",
) -> None:
    """Print one JSON object for each InfiniBand or RoCE port: state, rate beside card and peers, every counter.

    degraded tells whether it is down or slower than the ports of the same kind of card in this node, and reason why.
    errors, signals and traffic have the counters, meanings what the ones that are not 0 mean, and saturated those that
    have reached the end of their range.

    [dim]fleetpulse decode infiniband                                  this machine's ports[/]
    [dim]ibstat | fleetpulse decode infiniband --node gpu-17 -[/]
    [dim]fleetpulse decode infiniband copy-of-sys | jq 'select(.degraded or .errors.link_downed > 0)'[/]
    """
    from producers.infiniband import decode, read_tree
    from producers.kernel_log import numbered

    tree = Path(path)
    if path != "-" and tree.is_dir():
        # only this machine's own tree is known to be this machine's
        here = socket.gethostname() if tree.resolve().is_relative_to("/sys") else "unknown"
        with _ending(path):
            _print(path, read_tree(tree, node or here))
        return
    if path == _DEFAULT_TREE and not tree.exists():
        fail(f"reading {path}: this machine has no InfiniBand devices, or their driver is not loaded")
    with _input(path) as stream:
        _print(path, decode(numbered(stream), node or "unknown"))


def _catalog(override: Path | None) -> Catalog:
    from schemas.catalog import CatalogError, load

    try:
        return load(override)
    except CatalogError as error:
        fail(str(error))


@contextmanager
def _ending(file: str) -> Iterator[None]:
    """How the command ends early: quietly where the reader or the user has seen enough, else with the reason."""
    try:
        yield
    except BrokenPipeError:
        # The reader has seen enough (`| head`); Python would complain once more while it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        pass
    except OSError as error:
        fail(f"decoding {_name(file)}: {(error.strerror or str(error)).lower()}")


@contextmanager
def _input(file: str) -> Iterator[BinaryIO]:
    """The file, or standard input."""
    with _ending(file):
        if file == "-":
            yield sys.stdin.buffer
        else:
            with Path(file).open("rb") as stream:
                yield stream


def _print(
    file: str,
    decoded: Iterable[object],
    shown: Callable[[object], object] = lambda item: item,
    *,
    at_once: bool = False,
) -> None:
    """Objects on standard output, one a line; complaints and counts on standard error. Exit 1 after a complaint."""
    from producers.unreadable import Unreadable

    encoder = msgspec.json.Encoder()
    counts: Counter[str] = Counter()
    pending: list[bytes] = []
    size, complaints = 0, 0
    out = sys.stdout.buffer
    for item in decoded:
        if isinstance(item, Unreadable):
            complaints += 1
            print(f"{_name(file)}: {item}", file=sys.stderr)
            continue
        counts[_label(item)] += 1
        line = encoder.encode(shown(item))
        pending += (line, b"\n")
        size += len(line)
        if at_once or size >= _FLUSH_BYTES:
            out.write(b"".join(pending))
            out.flush()
            pending, size = [], 0
    out.write(b"".join(pending))
    out.flush()
    total = f"{counts.total()} object{'' if counts.total() == 1 else 's'}"
    summary = [total, *(f"{name} {count}" for name, count in sorted(counts.items()))]
    if complaints:
        summary.append(f"could not be read: {complaints} place{'' if complaints == 1 else 's'}, see above")
    print("; ".join(summary), file=sys.stderr)
    if complaints:
        raise typer.Exit(1)


def _label(item: object) -> str:
    """What the counts tell apart: events by their kind, diagnostics by their result."""
    return str(getattr(item, "kind", None) or getattr(item, "result", None) or "reading")


def _name(file: str) -> str:
    return "standard input" if file == "-" else file


def fail(message: str) -> NoReturn:
    """End with a reason, told as every command of ours tells it."""
    print(f"fleetpulse decode: {message}", file=sys.stderr)
    raise typer.Exit(1)
