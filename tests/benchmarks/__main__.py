"""`python -m tests.benchmarks [NAME…]`: measure, and print one table.

Exit status 1 where a benchmark did not come to its end; an aim that is missed is a row, not an error.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import structlog

from tests.benchmarks import table
from tests.benchmarks.context import Context, Cores, machine
from tests.benchmarks.screen import screen
from tests.benchmarks.table import Row

BENCHMARKS = {
    "codec": "encoding, decoding and the pure parts, alone",
    "streams": "GPU samples per second and core beside other libraries",
    "correlation": "fault records per second beside a thousand open incidents",
    "sink": "rows per second into ClickHouse beside ClickHouse by itself; bytes on disk",
    "alert_delay": "from a fault seen on its node to the webhook",
    "agent": "what the agent takes from its node",
    "node_sources": "what a read of the host and its ports costs",
    "simulate": "how large a fleet one core plays into Kafka",
    "startup": "how long the embedded servers need to be usable",
    "fleet_cost": "what each part costs at 1,000, 10,000 and 100,000 GPUs; with --markdown also drawn",
    "fleet_scale": "100,000 GPUs at 1 Hz for five minutes, end to end; only when it is named",
}
"""In the order in which they run."""
ONLY_BY_NAME = frozenset({"fleet_scale"})
"""They take minutes that most who measure do not want to wait."""


class Benchmark(Protocol):
    """What each module of this folder offers."""

    def run(self, context: Context) -> Iterator[Row]:
        """Measure; gives rows as they come."""


def main() -> int:
    """Parse, measure, print."""
    names = "\n".join(f"  {name:<12} {about}" for name, about in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=f"Measure fleetpulse on this machine and print one table.\n\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which benchmarks; without a name all but fleet_scale")
    parser.add_argument("--scale", type=float, default=1.0, help="0.1 for a quick look that says less (%(default)s)")
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="also write the table to FILE, between its <!-- table --> marks where it has them",
    )
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in BENCHMARKS]:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    # parts of ours say how they are; here only the table speaks
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cores = Cores.of_this_process()
    about = machine() + ("" if given.scale == 1 else f"; at {given.scale:g} of the usual size")
    chosen = [name for name in BENCHMARKS if name in (given.names or BENCHMARKS.keys() - ONLY_BY_NAME)]
    pictures = given.markdown.parent if given.markdown else None
    os.sched_setaffinity(0, cores.others)
    rows = []
    try:
        with screen(about) as shown:
            for name in chosen:
                for row in _rows(name, cores, given.scale, shown.say, pictures):
                    rows.append(row)
                    shown.add(row)
    except KeyboardInterrupt:
        return 130
    if given.markdown:
        table.write_markdown(given.markdown, table.markdown(rows, f"Taken on {about}."))
    return int(any(row.verdict == "failed" for row in rows))


def _rows(name: str, cores: Cores, scale: float, say: Callable[[str], None], pictures: Path | None) -> Iterator[Row]:
    scratch = Path(tempfile.mkdtemp(prefix=f"fleetpulse-bench-{name}-"))
    try:
        benchmark = cast("Benchmark", import_module(f"tests.benchmarks.{name}"))
        for row in benchmark.run(Context(scratch, cores, scale, lambda doing: say(f"{name}: {doing}"), pictures)):
            yield replace(row, benchmark=name)
    except Exception as error:  # noqa: BLE001 - the others go on
        yield replace(table.failed(f"{name}: {BENCHMARKS[name]}", f"{type(error).__name__}: {error}"), benchmark=name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
