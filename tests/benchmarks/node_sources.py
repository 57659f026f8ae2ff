"""What one read of the host and of its InfiniBand ports costs: processor time, on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from producers.host.settings import HostSettings
from producers.host.source import HostSource
from producers.infiniband.settings import InfiniBandSettings
from producers.infiniband.source import InfiniBandSource
from producers.infiniband.tables import table
from producers.source import Origin
from schemas.catalog import load
from tests.benchmarks.context import Context
from tests.benchmarks.table import Row, judged

_READS = 300
_PORTS = 9
AIM_MS = 10.0
"""At a read each 10 s this is 0.1 % of a core."""


def run(context: Context) -> Iterable[Row]:
    """Rows: milliseconds of processor time per read."""
    origin, catalog = Origin("site", "rack-1", "node-1", "boot"), load()
    reads = context.sized(_READS, least=20)
    host = HostSource(origin, catalog, HostSettings(), context.scratch)
    context.say("reading the host")
    yield _row("host: one read", _cost_ms(host.read, reads), "psutil, /proc and /sys of this machine")
    tree = context.scratch / "infiniband"
    counters = _ports(tree)
    ports = InfiniBandSource(origin, catalog, InfiniBandSettings(tree=tree))
    context.say("reading InfiniBand ports")
    beside = f"{counters} counters each; plain files, so without the adapters' own time to answer"
    yield _row(f"infiniband: one read of {_PORTS} ports", _cost_ms(ports.read, reads), beside)


def _row(name: str, cost_ms: float, beside: str) -> Row:
    return judged(name, f"{cost_ms:.1f} ms", f"< {AIM_MS:g} ms", met=cost_ms < AIM_MS, beside=beside)


def _cost_ms(read: Callable[[int], object], reads: int) -> float:
    read(0)  # imports, and what is looked up once
    began = time.process_time()
    for number in range(reads):
        read(number)
    return 1000 * (time.process_time() - began) / reads


def _ports(tree: Path) -> int:
    """A tree as the kernel shows it for so many ConnectX-7; gives the counters of each."""
    for number in range(_PORTS):
        device = tree / f"mlx5_{number}"
        texts = {
            "board_id": "MT_0000000838", "hca_type": "MT4129", "fw_ver": "28.41.1000", "ports/1/state": "4: ACTIVE",
            "ports/1/phys_state": "5: LinkUp", "ports/1/rate": "400 Gb/sec (4X NDR)",
            "ports/1/link_layer": "InfiniBand",
        }  # fmt: skip
        texts |= {f"ports/1/counters/{counter}": "230442669431839" for counter in table().counter}
        for file, text in texts.items():
            path = device / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
    return len(table().counter)
