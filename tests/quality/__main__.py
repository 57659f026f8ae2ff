"""`python -m tests.quality [NAME…]`: how well faults are found, printed as one table.

Exit status 1 where a part did not come to its end; an aim that is missed is a row, not an error.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import structlog

from tests.benchmarks import table
from tests.benchmarks.context import machine
from tests.benchmarks.table import Row
from tests.quality.context import Context
from tests.quality.seeds import SCORING, parse, purpose

PARTS = {
    "fleets": "simulated fleets: faults found, incidents, each detector off in turn",
    "smd": "Server Machine Dataset, point by point, beside four baselines",
    "msft_cloud": "Cloud Monitoring Dataset, event by event, beside four baselines",
}
"""In the order in which they run."""
_GPUS, _HOURS = 1024, 24.0


class Part(Protocol):
    """What each module of the table offers."""

    def run(self, context: Context) -> Iterator[Row]:
        """Measure; gives rows as they come."""


def main() -> int:
    """Parse, measure, print."""
    names = "\n".join(f"  {name:<12} {about}" for name, about in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.quality",
        description=f"Score detection and correlation where the truth is known, and print one table.\n\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which parts; all without a name")
    parser.add_argument(
        "--seeds",
        type=_seeds,
        default=SCORING,
        metavar="N-M,…",
        help="simulated fleets: 1-20 to tune rules with, 101-120 (the default) to score, never both",
    )
    parser.add_argument("--gpus", type=int, default=_GPUS, help="GPUs of each fleet (%(default)s)")
    parser.add_argument("--hours", type=float, default=_HOURS, help="how long each is watched (%(default)s)")
    parser.add_argument(
        "--processes", type=int, default=len(os.sched_getaffinity(0)), help="fleets at a time (%(default)s)"
    )
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="also write the table to FILE, between its <!-- table --> marks where it has them",
    )
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in PARTS]:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    # parts of ours say how they are; here only the table speaks
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    context = Context(given.seeds, given.gpus, given.hours, given.processes, _say)
    table.plain(sys.stdout, None)
    rows, began_s = [], time.monotonic()
    for name in PARTS:
        if name in given.names or not given.names:
            for row in _rows(name, context):
                rows.append(row)
                table.plain(sys.stdout, row)
    minutes = (time.monotonic() - began_s) / 60
    about = f"Seeds for {purpose(given.seeds)}; {minutes:.0f} min on {machine()}."
    print(about, flush=True)
    if given.markdown:
        table.write_markdown(given.markdown, table.markdown(rows, about))
    return int(any(row.verdict == "failed" for row in rows))


def _rows(name: str, context: Context) -> Iterator[Row]:
    try:
        part = cast("Part", import_module(f"tests.quality.{name}"))
        yield from part.run(context)
    except Exception as error:  # noqa: BLE001 - the others go on
        yield table.failed(f"{name}: {PARTS[name]}", f"{type(error).__name__}: {error}")


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _say(doing: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{doing}", end="\r", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
