"""The stream worker beside what one would write instead: the same topic, one core, in turn, in the same run."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from confluent_kafka.admin import AdminClient

from infra.topics import provision, wanted
from schemas.registry import FOLDER
from schemas.topics import ANOMALIES, EVENTS, FAULTS, INCIDENTS, INVENTORY, SAMPLES, topics
from tests.benchmarks.context import ROOT, BenchmarkError, Context
from tests.benchmarks.fleet_log import GPUS_PER_NODE, FleetLog, records, send, told
from tests.benchmarks.table import Row, count, judged, skipped, times

_RACKS, _TICKS = 125, 480
_SINGLE_TICKS = 120
"""Written one by one, Kafka takes some thousand records a second."""
_PASSES = 3
_WARM_UP_SHARE = 0.1
_SLOW_LIMIT_S = 6.0
"""How long a contender is measured that would take minutes for the whole topic."""
_LIMIT_S = 60.0

_FAULT_RATE = 5000.0
"""So many faults come in the minutes of the log as in a month of a real fleet of its size."""

AIM_PER_S, AIM_TO_FAULTS_PER_S = 300_000, 400_000
AIM_HAND_WRITTEN, AIM_QUIX = 4, 8


@dataclass(frozen=True, slots=True)
class Pass:
    """One measurement."""

    per_s: float
    """GPU samples a second of wall clock."""
    busy: float
    """Share of the core that the process had."""


def run(context: Context) -> Iterable[Row]:
    """Rows: ours, then each contender with the ratio to it."""
    log = FleetLog(racks=context.sized(_RACKS, least=4), ticks=_TICKS)
    with context.kafka() as bootstrap:
        context.say(f"writing {count(log.samples)} GPU samples to Kafka")
        send(bootstrap, records(log))
        yield from _beside(context, bootstrap, log)
    yield _to_faults(context)
    with context.kafka() as bootstrap:
        alone = FleetLog(racks=max(2, log.racks // 2), ticks=_SINGLE_TICKS)
        context.say("writing samples to Kafka as single agents would")
        send(bootstrap, records(alone), one_by_one=True)
        ours = median(_ours(context, bootstrap, alone, turn).per_s for turn in range(_PASSES))
        yield Row(
            "stream worker, each record a Kafka batch of its own (one agent per node)", f"{count(ours)} GPU samples/s"
        )


def _to_faults(context: Context) -> Row:
    """The whole way through the worker, on a fleet in which things break."""
    log = FleetLog(racks=context.sized(_RACKS, least=4), ticks=_TICKS, fault_rate=_FAULT_RATE)
    with context.kafka() as bootstrap:
        context.say(f"writing {count(log.samples)} GPU samples of a fleet that breaks to Kafka")
        by_topic: dict[str, list[tuple[bytes, bytes]]] = {INVENTORY: [], EVENTS: []}

        def samples() -> Iterator[tuple[bytes, bytes]]:
            for topic, key, value in told(log):
                if topic == SAMPLES:
                    yield key, value
                else:
                    by_topic[topic].append((key, value))

        sent = send(bootstrap, samples())
        for topic, prepared in by_topic.items():
            send(bootstrap, prepared, topic=topic)
        found = []
        for turn in range(_PASSES):
            context.say(f"pass {turn + 1} of {_PASSES}: our worker, from samples and events to faults")
            _forget_conclusions(bootstrap)
            given = _given(bootstrap, log, f"faults-{turn}", turn, limit_s=_LIMIT_S)
            more = {"to_faults": True, "events": len(by_topic[EVENTS]), "enough": sent * GPUS_PER_NODE}
            found.append(context.measure("worker", given | more, limit_s=2 * _LIMIT_S))
    middle = sorted(found, key=lambda one: _pass(one).per_s)[len(found) // 2]
    written, per_s = middle["written"], _pass(middle).per_s
    return judged(
        "the same worker on a fleet that breaks, until all has become faults and incidents",
        f"{count(per_s)} GPU samples/s",
        f"≥ {count(AIM_TO_FAULTS_PER_S)}/s",
        met=per_s >= AIM_TO_FAULTS_PER_S,
        beside=f"passes {', '.join(count(_pass(one).per_s) for one in found)}; {len(by_topic[EVENTS])} events, "
        f"{written[ANOMALIES]} anomalies, {written[FAULTS]} fault records, {written[INCIDENTS]} incident records",
    )


def _beside(context: Context, bootstrap: str, log: FleetLog) -> Iterator[Row]:
    contenders: dict[str, Callable[[int], Pass]] = {
        "hand_written": lambda turn: _other(context, bootstrap, log, "hand_written", turn),
    }
    why_not = None
    try:
        python = contenders_python(context)
        contenders["quix"] = lambda turn: _other(context, bootstrap, log, "quix", turn, python=python)
        contenders["quix_window"] = lambda turn: _other(context, bootstrap, log, "quix_window", turn, python=python)
    except BenchmarkError as error:
        why_not = error
    ours: list[Pass] = []
    others: dict[str, list[Pass]] = {name: [] for name in contenders}
    for turn in range(_PASSES):
        context.say(f"pass {turn + 1} of {_PASSES}: our worker")
        ours.append(_ours(context, bootstrap, log, turn))
        for name, measure in contenders.items():
            context.say(f"pass {turn + 1} of {_PASSES}: {name.replace('_', '-')}")
            others[name].append(measure(turn))
    mine = _middle(ours)
    yield judged(
        "stream worker: 24 metrics, ticks, all detectors, delivery",
        f"{count(mine.per_s)} GPU samples/s",
        f"≥ {count(AIM_PER_S)}/s",
        met=mine.per_s >= AIM_PER_S,
        beside=f"passes {', '.join(count(one.per_s) for one in ours)}; {mine.busy:.0%} of the core busy",
    )
    yield _ratio(
        "confluent-kafka + fastavro + NumPy, 3 metrics", mine, _middle(others["hand_written"]), AIM_HAND_WRITTEN
    )
    if why_not is None:
        yield _ratio("Quix Streams, its own window, the same 3 metrics", mine, _middle(others["quix_window"]), AIM_QUIX)
        bare = _middle(others["quix"])
        ratio = f"ours is {times(mine.per_s / bare.per_s)}"
        yield Row("Quix Streams around the hand-written window", f"{count(bare.per_s)} GPU samples/s", ratio)
    else:
        yield skipped("Quix Streams, the same 3 metrics", why_not)
    context.say("plain Faust with a windowed table")
    plain = _other(context, bootstrap, log, "faust_table", 0, warm_up=2_000)
    yield Row(
        "plain Faust with a windowed table, the same 3 metrics",
        f"{count(plain.per_s)} GPU samples/s",
        f"ours is {times(mine.per_s / plain.per_s)}",
    )


def _ratio(what: str, mine: Pass, other: Pass, aim: float) -> Row:
    ratio = mine.per_s / other.per_s
    return judged(
        what, f"{count(other.per_s)} GPU samples/s", f"≥ {aim:g}×", met=ratio >= aim, beside=f"ours is {times(ratio)}"
    )


def _middle(passes: list[Pass]) -> Pass:
    return sorted(passes, key=lambda one: one.per_s)[len(passes) // 2]


def _ours(context: Context, bootstrap: str, log: FleetLog, turn: int) -> Pass:
    _forget_conclusions(bootstrap)
    found = context.measure("worker", _given(bootstrap, log, "worker", turn, limit_s=_LIMIT_S), limit_s=2 * _LIMIT_S)
    if found["total"] != log.samples or found["rejected"]:
        raise BenchmarkError(f"the worker dealt with {found['total']} of {log.samples} samples; it says {found}")
    return _pass(found)


def _other(
    context: Context,
    bootstrap: str,
    log: FleetLog,
    name: str,
    turn: int,
    *,
    python: str = sys.executable,
    warm_up: int | None = None,
) -> Pass:
    given = _given(bootstrap, log, name, turn, limit_s=_SLOW_LIMIT_S)
    if warm_up is not None:
        given["warm_up"] = warm_up
    return _pass(context.measure(name, given, limit_s=2 * _LIMIT_S, python=python))


def _given(bootstrap: str, log: FleetLog, name: str, turn: int, *, limit_s: float) -> dict[str, Any]:
    return {
        "bootstrap": bootstrap,
        "group": f"bench-{name}-{turn}",
        "topic": SAMPLES,
        "partitions": topics()[SAMPLES].partitions,
        "schema": str(FOLDER / f"{SAMPLES}.avsc"),
        "warm_up": round(log.samples * _WARM_UP_SHARE),
        "enough": log.samples,
        "limit_s": limit_s,
    }


def _pass(found: dict[str, Any]) -> Pass:
    return Pass(found["samples"] / found["wall_s"], found["cpu_s"] / found["wall_s"])


def _forget_conclusions(bootstrap: str) -> None:
    """Make the topics anew that a worker writes: the next pass begins without the memory of the one before."""
    kafka = {"bootstrap.servers": bootstrap}
    listed = wanted()
    admin = AdminClient({**kafka, "log_level": 0})
    for future in admin.delete_topics([name for name in listed if name.startswith(("fleet.", "streams."))]).values():
        future.result(30)
    provision(kafka, listed)


def contenders_python(context: Context) -> str:
    """The Python of an environment with the other libraries, made where it is not there: their pins contradict ours.

    Raises `BenchmarkError` where it cannot be made (no network, no wheels).
    """
    wanted_file = Path(__file__).with_name("requirements.txt")
    place = ROOT / ".venv-bench"
    python = place / "bin" / "python"
    stamp = place / f".installed-{hashlib.sha256(wanted_file.read_bytes()).hexdigest()[:12]}"
    if not stamp.exists():
        context.say("installing Quix Streams into .venv-bench")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(wanted_file)]
        for command in ([sys.executable, "-m", "venv", str(place)], pip):
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode:
                said = (done.stderr or done.stdout).strip().splitlines()
                raise BenchmarkError(f"cannot be installed here: {said[-1] if said else command}")
        stamp.touch()
    return str(python)
