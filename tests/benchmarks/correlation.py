"""Correlation alone: how many fault records a second become incidents while a thousand of these are open."""

from __future__ import annotations

from collections.abc import Iterable

from tests.benchmarks.context import Context
from tests.benchmarks.table import Row, count, judged

_INCIDENTS, _RECORDS = 1000, 40_000
_LIMIT_S = 300.0
AIM_PER_S = 20_000


def run(context: Context) -> Iterable[Row]:
    """Rows: the correlator, then the same from Avro to the memory that is kept."""
    incidents, records = context.sized(_INCIDENTS, least=20), context.sized(_RECORDS, least=2000)
    context.say(f"{count(records)} fault records beside {incidents} open incidents")
    found = context.measure("correlate", {"incidents": incidents, "records": records}, limit_s=_LIMIT_S)
    per_s, busy = found["correlator"]
    yield judged(
        f"correlation beside {found['open']} open incidents",
        f"{count(per_s)} fault records/s",
        f"≥ {count(AIM_PER_S)}/s",
        met=per_s >= AIM_PER_S,
        beside=f"{count(found['standing'])} faults stand; {busy:.0%} of the core busy",
    )
    per_s, busy = found["partition"]
    yield Row(
        "the same, from Avro to incidents and memory",
        f"{count(per_s)} fault records/s",
        f"{busy:.0%} of the core busy",
    )
