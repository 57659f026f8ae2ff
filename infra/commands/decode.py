"""`fleetpulse decode`: what our decoders make of raw input, as JSON, without Kafka or anything else running."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import msgspec
import typer

from infra.commands.decode_sources import fail, register

if TYPE_CHECKING:
    from producers.kernel_log import Decoder
    from schemas.catalog import Catalog

app = typer.Typer(
    name="decode",
    help="What fleetpulse makes of raw input, as JSON lines. Needs nothing running.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
)
_FLUSH_BYTES = 1 << 16


@app.command("kernel-log")
def kernel_log(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="dmesg, journalctl (-k, -o json) or syslog text, /dev/kmsg records (also .gz); - is standard input.",
        ),
    ],
    catalog: Annotated[
        Path | None, typer.Option(help="A catalogue file of your own (TOML), layered over the one that ships.")
    ] = None,
    boot_ms: Annotated[
        int | None,
        typer.Option(help="When the machine booted (UTC milliseconds): gives stamps such as [123.456] their time."),
    ] = None,
    node: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="The node that the log is of; each object then says so, for `replay events`."
        ),
    ] = "",
    driver: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION",
            help="The GPU driver's version, such as 570.86: what the registers of NVLink lines (XID 144 to 150) mean "
            "changed with 575. Left out: what they say under one version only, or under all.",
        ),
    ] = None,
) -> None:
    """Print one JSON object for each hardware event of a kernel log; counts by kind go to standard error.

    Each object has at least line, kind (xid, sxid, fallen_off_bus, gpu_map, link_flap, …), code (the XID or SXid), pci,
    gpu (serial, once the log named it), action and severity by the catalogue, event_ms and raw. What a line does not
    tell is null. Lines that tell nothing about hardware print nothing. `fleetpulse replay` tells what comes of them.

    [dim]fleetpulse decode kernel-log /var/log/kern.log[/]
    [dim]dmesg --follow --time-format iso | fleetpulse decode kernel-log -[/]
    [dim]journalctl -k -o json | fleetpulse decode kernel-log - | jq 'select(.severity == "critical")'[/]
    """
    from producers.kernel_log import Decoder, open_log
    from schemas.catalog import CatalogError, load

    decoder = Decoder(now_ms=time.time_ns() // 1_000_000, boot_ms=boot_ms)
    try:
        entries = load(catalog)
        if driver is not None:
            decoder.gpus.tell_driver(driver)
    except CatalogError as error:
        fail(str(error))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--driver") from error
    counts: Counter[str] = Counter()
    try:
        if file == "-":
            _print_events(sys.stdin.buffer, sys.stdout.buffer, entries, decoder, counts, node, at_once=True)
        else:
            with open_log(Path(file)) as stream:
                _print_events(stream, sys.stdout.buffer, entries, decoder, counts, node, at_once=False)
    except BrokenPipeError:
        # The reader has seen enough (`| head`); Python would complain once more while it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        pass
    except OSError as error:
        fail(f"decoding the kernel log {file}: {(error.strerror or str(error)).lower()}")
    total = f"{counts.total()} hardware event" + ("" if counts.total() == 1 else "s")
    print("; ".join([total, *(f"{kind} {count}" for kind, count in sorted(counts.items()))]), file=sys.stderr)


def _print_events(
    stream: BinaryIO,
    out: BinaryIO,
    entries: Catalog,
    decoder: Decoder,
    counts: Counter[str],
    node: str,
    *,
    at_once: bool,
) -> None:
    """Write an object per event as it is found; `at_once` flushes each, for a log that is still being written."""
    from producers.kernel_log import numbered

    encoder = msgspec.json.Encoder()
    named = {"node": node} if node else {}
    pending: list[bytes] = []
    size = 0
    try:
        for number, raw in numbered(stream):
            for event in decoder.feed(number, raw):
                entry = entries.entry(event.kind, event.code, event.details.get("variant"))
                counts[event.kind] += 1
                text = encoder.encode(
                    {
                        "line": event.line,
                        **named,
                        "kind": event.kind,
                        "code": event.code,
                        "pci": event.pci,
                        "gpu": event.gpu,
                        "link": event.link,
                        "severity": entry.severity,
                        "action": entry.action,
                        "fault_class": entry.fault_class,
                        "name": entry.name,
                        "nvidia_action": entry.nvidia_action,
                        "rule": entry.rule,
                        "overridden": entry.overridden,
                        "event_ms": event.event_ms,
                        "source": "kernel_log",
                        "details": event.details,
                        "raw": event.raw,
                    }
                )
                pending += (text, b"\n")
                size += len(text)
            if pending and (at_once or size >= _FLUSH_BYTES):
                out.write(b"".join(pending))
                out.flush()
                pending, size = [], 0
    finally:  # what was understood comes out, whatever ends the reading
        out.write(b"".join(pending))
        out.flush()


register(app)

if __name__ == "__main__":
    app()
