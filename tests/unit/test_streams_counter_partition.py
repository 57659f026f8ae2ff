"""One partition of counters and what it keeps: spans go on after a kill, whichever run was not committed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

from schemas.records import Anomaly, GpuCounters
from streams.partitions import CounterPartition, Memory, Outcome
from streams.settings import StreamsSettings
from tests.streams_scenes import CODEC, START_MS, Message, counters, log

SETTINGS = StreamsSettings()
NOW_MS = START_MS + 10_000_000
END = 10**6


def rising(begin_s: int, end_s: int, gpus: int = 8) -> Iterable[GpuCounters]:
    """The first GPU corrects twelve errors an hour, the others none."""
    for at_s in range(begin_s, end_s, 30):
        yield counters("n1", at_s, gpus, ecc_volatile_dram_correctable=[float(at_s // 300), *[3.0] * (gpus - 1)])


LOG = log(rising(0, 3600))
"""Too many from 3300 s on; 30 s a message."""


def partition(memory: dict[str, bytes], first: int) -> CounterPartition:
    held = CounterPartition(SETTINGS, CODEC, memory, first, END)
    if first:
        since_ms = held.rebuild_from_ms(LOG[first].timestamp)
        held.rebuild([one for one in LOG[:first] if one.timestamp >= since_ms])
    held.resume(first, NOW_MS)
    return held


def kept(memory: dict[str, bytes], changes: Memory) -> dict[str, bytes]:
    return {key: state for key, state in (memory | changes).items() if state is not None}


def told(outcome: Outcome) -> list[tuple[str, str, int]]:
    found = [one for one in outcome.records if isinstance(one, Anomaly)]
    return [(one.rule, one.state, (one.tick_ms - START_MS) // 1000) for one in found]


def run(held: CounterPartition, messages: Sequence[Message], size: int = 10) -> tuple[Outcome, dict[str, bytes]]:
    """Several runs, taken together; and the memory that they leave."""
    whole, memory = Outcome(), dict[str, bytes]()
    for begin in range(0, len(messages), size):
        part = messages[begin : begin + size]
        outcome = held.run(part, part[-1].timestamp)
        whole.records += outcome.records
        memory = kept(memory, outcome.memory)
    return whole, memory


STRAIGHT = told(run(partition({}, 0), LOG)[0])


def test_the_scene_is_one_in_which_an_hour_matters() -> None:
    assert STRAIGHT == [("corrected_errors_rise", "raised", 3295)]


@pytest.mark.parametrize("killed_at", [30, 37, 60, 100, 109])
@pytest.mark.parametrize("redone", [0, 5])
def test_a_successor_goes_on_counting_with_little_of_the_log(killed_at: int, redone: int) -> None:
    first = partition({}, 0)
    _, memory = run(first, LOG[:killed_at])
    begin = max(0, killed_at - redone)
    second = partition(memory, begin)
    since_ms = second.rebuild_from_ms(LOG[begin].timestamp)
    assert LOG[begin].timestamp - since_ms <= 700_000, "not the hour that the span is long"
    assert told(run(second, LOG[begin:])[0]) == STRAIGHT


def test_what_is_kept_is_little_and_kept_twice_in_turn() -> None:
    _, memory = run(partition({}, 0), LOG)
    spans = [key for key in memory if key.startswith("counted|")]
    assert {key.split("|")[1] for key in spans} == {"0", "1"}
    assert len(spans) == len(set(spans))
    assert sum(len(memory[key]) for key in spans) / len(spans) < 120, "bytes: seven of eight GPUs count nothing"


def test_it_is_not_kept_with_every_run() -> None:
    held = partition({}, 0)
    changes = [held.run([one], one.timestamp).memory for one in LOG]
    times = sum(any(key.startswith("counted|") for key in change) for change in changes)
    assert times in {3600 // 300, 3600 // 300 + 1}


def test_while_a_backlog_is_worked_off_it_is_kept_once_a_minute_so_that_one_is_always_committed() -> None:
    held = partition({}, 0)
    changes = [held.run([one], NOW_MS + 1000 * at).memory for at, one in enumerate(LOG)]
    kept_at = [at for at, change in enumerate(changes) if any(key.startswith("counted|") for key in change)]
    assert kept_at == [0, 60]


def test_a_memory_that_another_build_wrote_is_left_out() -> None:
    _, memory = run(partition({}, 0), LOG[:50])
    broken = {key: b"not ours" if key.startswith("counted|") else state for key, state in memory.items()}
    assert partition(broken, 50).rebuild_from_ms(LOG[50].timestamp) < LOG[0].timestamp, "an hour is read back instead"
    assert told(run(partition(broken, 50), LOG[50:])[0]) == STRAIGHT


def test_anomalies_of_samples_and_of_counters_do_not_get_into_each_others_way() -> None:
    _, memory = run(partition({}, 0), LOG)
    assert [key.partition("|")[0] for key in memory if "standing" in key] == ["standing_count"]
