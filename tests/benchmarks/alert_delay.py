"""From a fault seen on its node to the webhook: publisher, Kafka, stream worker, alerts, an HTTP server.

Every fault is a kernel line of its own GPU in its own rack, so each must page by itself; a healthy fleet of 208 GPUs
reports through the same topics meanwhile. The clock runs from when the agent's decoder has the line (`observed_ms`).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import median, quantiles
from typing import Any

import msgspec

from producers.kernel_log.record import events_of_lines
from producers.publisher import Publisher
from producers.settings import PublisherSettings
from schemas.catalog import load
from schemas.ids import gpu_id, node_id
from schemas.records import InventoryRecord
from schemas.topics import EVENTS, INVENTORY
from tests.benchmarks.context import BenchmarkError, Context, Measured
from tests.benchmarks.table import Row, judged

_FAULTS, _SECONDS = 120, 60.0
_READY_S, _LAST_S = 60.0, 20.0
_SITE, _PCI = "bench", "0000:2a:00"
_LINES = {
    79: "pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
    119: "pid=4711, name=python3, Timeout after 6s of waiting for RPC response from GPU0 GSP! Expected function 76 "
    "(GSP_RM_CONTROL) (0x20801702 0x4).",
    48: "pid=4711, name=python3, An uncorrectable double bit error (DBE) has been detected on GPU in the framebuffer",
    95: "pid=4711, name=python3, Uncontained: FBHUB. RST: Yes, D-RST: No",
    64: "pid='<unknown>', name=<unknown>, Row Remapper: New row (0x00000000123abc) marked for remapping failed",
    62: "pid='<unknown>', name=<unknown>, 2027(0x6b98) 00000000 00000000",
}
"""XIDs that page, each with the words that come with it."""
AIM_S = 3.0


@dataclass(slots=True)
class Arrivals:
    """When the webhook heard of each root component, UTC seconds."""

    at: dict[str, float] = field(default_factory=dict)
    doubled: int = 0

    def note(self, root: str, now: float) -> None:
        """A page has come."""
        self.doubled += root in self.at
        self.at.setdefault(root, now)


def run(context: Context) -> Iterable[Row]:
    """Rows: median, and p99 with the aim."""
    faults = context.sized(_FAULTS, least=12)
    catalog = load()
    silent = [code for code in _LINES if not catalog.faults[catalog.entry("xid", code).fault_class].pages]
    if silent:
        raise BenchmarkError(f"by the catalogue XID {silent} wakes nobody: choose others")
    with ExitStack() as stack:
        bootstrap = stack.enter_context(context.kafka())
        arrivals, url = stack.enter_context(_webhook())
        publisher = Publisher({"bootstrap.servers": bootstrap}, PublisherSettings())
        _declare(publisher, faults + 1)
        processes = _start(stack, context, bootstrap, url)
        context.say("waiting until a first fault comes through")
        _until_ready(publisher, arrivals, processes)
        context.say(f"breaking {faults} GPUs in {_SECONDS * min(1.0, context.scale):.0f} s")
        seen = _inject(publisher, faults, _SECONDS * min(1.0, context.scale))
        deadline = time.monotonic() + _LAST_S
        while len(arrivals.at) <= faults and time.monotonic() < deadline:
            publisher.poll(0.1)
        for process in processes:
            process.alive()
    delays = sorted(arrivals.at[root] - at for root, at in seen.items() if root in arrivals.at)
    yield from _rows(delays, faults, arrivals.doubled)


def _rows(delays: Sequence[float], faults: int, doubled: int) -> Iterator[Row]:
    if len(delays) < 2:
        raise BenchmarkError(f"of {faults} faults {len(delays)} reached the webhook")
    p99 = quantiles(delays, n=100, method="inclusive")[98]
    yield Row(
        "fault to alert, median", f"{median(delays):.2f} s", f"fastest {delays[0]:.2f} s, slowest {delays[-1]:.2f} s"
    )
    yield judged(
        "fault to alert, p99",
        f"{p99:.2f} s",
        f"< {AIM_S:g} s",
        met=p99 < AIM_S and len(delays) == faults and not doubled,
        beside=f"{len(delays)} of {faults} faults paged, {doubled} twice",
    )


def _start(stack: ExitStack, context: Context, bootstrap: str, url: str) -> list[Measured]:
    where = {"KAFKA__BOOTSTRAP": bootstrap}
    webhook = {"ALERTS__CHANNELS__CONSOLE": "null", "ALERTS__CHANNELS__WEBHOOK__URL": url}
    healthy = {
        "SIMULATE__DURATION_S": "600",
        "SIMULATE__FAULTS": "[]",
        "SIMULATE__APPLICATION_ERRORS": "false",
    }
    return [
        stack.enter_context(context.command(role, where | more))
        for role, more in (("streams", {}), ("alerts", webhook), ("simulate", healthy))
    ]


def _declare(publisher: Publisher, gpus: int) -> None:
    """The inventory of the GPUs that will break: one per node, one node per rack."""
    now_ms = time.time_ns() // 1_000_000
    for number in range(gpus):
        node = InventoryRecord(
            component=node_id(_node(number)),
            kind="node",
            site=_SITE,
            rack=_rack(number),
            node=_node(number),
            source="declared",
            seen_ms=now_ms,
        )
        gpu = msgspec.structs.replace(
            node, component=_root(number), kind="gpu", gpu_index=1, pci=_PCI, gpu_serial=_serial(number)
        )
        for record in (node, gpu):
            publisher.publish(INVENTORY, record.component, record)
    publisher.poll(1.0)


def _inject(publisher: Publisher, faults: int, seconds: float) -> dict[str, float]:
    """Break GPUs 1… at random moments; gives when each was seen, by root component."""
    chance = random.Random(7)
    codes = list(_LINES)
    moments = sorted(chance.uniform(0, seconds) for _ in range(faults))
    began, seen = time.monotonic(), {}
    for number, moment in enumerate(moments, start=1):
        while (left_s := began + moment - time.monotonic()) > 0:
            publisher.poll(min(left_s, 0.05))
        seen[_root(number)] = _break(publisher, number, codes[number % len(codes)])
    return seen


def _break(publisher: Publisher, number: int, code: int) -> float:
    """One kernel line, decoded and published as the agent does; gives when it was seen, UTC seconds."""
    line = f"kernel: NVRM: Xid (PCI:{_PCI}): {code}, {_LINES[code]}"
    now_ms = time.time_ns() // 1_000_000
    events = events_of_lines([(number, line)], site=_SITE, rack=_rack(number), node=_node(number), now_ms=now_ms)
    for event in events:
        publisher.publish(EVENTS, event.rack, event)
    publisher.poll()
    return now_ms / 1000


def _until_ready(publisher: Publisher, arrivals: Arrivals, processes: Sequence[Measured]) -> None:
    _break(publisher, 0, 79)
    deadline = time.monotonic() + _READY_S
    while _root(0) not in arrivals.at:
        for process in processes:
            process.alive()
        if time.monotonic() > deadline:
            raise BenchmarkError(f"a first fault did not reach the webhook within {_READY_S:.0f} s")
        publisher.poll(0.1)


@contextmanager
def _webhook() -> Iterator[tuple[Arrivals, str]]:
    arrivals = Arrivals()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            notice: dict[str, Any] = msgspec.json.decode(self.rfile.read(int(self.headers["Content-Length"])))
            arrivals.note(notice["root"], time.time())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield arrivals, f"http://127.0.0.1:{server.server_port}/alerts"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _rack(number: int) -> str:
    return f"bench-{number:03d}"


def _node(number: int) -> str:
    return f"bench-{number:03d}-n01"


def _serial(number: int) -> str:
    return f"16599{number:08d}"


def _root(number: int) -> str:
    return gpu_id(_serial(number))
