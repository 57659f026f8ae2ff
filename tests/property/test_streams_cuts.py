"""What comes out depends on the log, never on where its runs are cut, how often they come, or who was killed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.records import Anomaly, Record
from streams.partitions import CounterPartition, SamplePartition
from streams.readings.processor import CounterProcessor, Processor, SampleProcessor
from streams.settings import StreamsSettings
from tests.streams_scenes import CODEC, START_MS, Message, counters, log, message, runs, sample

SETTINGS = StreamsSettings()
NAN = float("nan")
NODES = ("n1", "n2", "n3")
cuts = st.lists(st.integers(0, 10**6), max_size=12)
seeds = st.integers(0, 2**32)


@st.composite
def logs(draw: st.DrawFn) -> list[Message]:
    """Some minutes of a partition: heat, unread GPUs, gaps, late and early clocks, moves, newcomers, junk."""
    made: list[Message] = []
    length = draw(st.integers(20, 70))
    quiet = {node: (draw(st.integers(0, 70)), draw(st.integers(0, 25))) for node in NODES}
    heat = {node: (draw(st.integers(0, 60)), draw(st.integers(0, 40))) for node in NODES}
    unread = {node: (draw(st.integers(0, 60)), draw(st.integers(0, 30))) for node in NODES}
    offset_s = {node: draw(st.sampled_from([0, 0, 0, 0.4, -1, -3, -40, 5, 4000])) for node in NODES}
    interval_s = {node: draw(st.sampled_from([1, 1, 1, 2, 7])) for node in NODES}
    mover_at = draw(st.integers(0, 90))

    def within(second: int, span: tuple[int, int]) -> bool:
        return span[0] <= second < span[0] + span[1]

    for second in range(length):
        order = draw(st.permutations(NODES))
        for node in order:
            if within(second, quiet[node]) or second % interval_s[node]:
                continue
            serials = [f"{node}-0", *(["mover"] if node == ("n1" if second < mover_at else "n2") else [])]
            first = 91.0 if within(second, heat[node]) else 50.0
            values = [NAN if within(second, unread[node]) else first, 60.0][: len(serials)]
            one = sample(
                node,
                second + offset_s[node],
                serials,
                interval_ms=1000 * interval_s[node],
                temperature_celsius=values,
            )
            made.append(message(one, at_ms=START_MS + 1000 * second + 30))
        if draw(st.integers(0, 30)) == 0:
            made.append(message(b"junk", at_ms=START_MS + 1000 * second))
        if draw(st.integers(0, 10)) == 0 and made:
            made.append(made[draw(st.integers(0, len(made) - 1))])
    return log(made)


RARELY_S = 60


@st.composite
def working_logs(draw: st.DrawFn) -> list[Message]:
    """Some hours of a rack at work, a tick a minute: a straggler, a cooler that fails, paste that ages, and all that
    can befall a log. Long enough for baselines to be learnt.
    """
    made: list[Message] = []
    length = draw(st.integers(90, 150))
    slow = draw(st.integers(0, 100)), draw(st.integers(0, 40))
    aging_from, heating_from = draw(st.integers(20, 100)), draw(st.integers(20, 120))
    idle = {node: (draw(st.integers(0, 120)), draw(st.integers(0, 20))) for node in NODES}
    unread = {node: (draw(st.integers(0, 120)), draw(st.integers(0, 5))) for node in NODES}
    random = Random(draw(st.integers(0, 2**32)))
    for minute in range(length):
        for node in random.sample(NODES, len(NODES)):
            busy = not idle[node][0] <= minute < sum(idle[node])
            watts = [(600.0 if busy else 80.0) + random.gauss(0, 4) for _ in range(4)]
            celsius = [30 + 0.05 * one + random.gauss(0, 0.3) for one in watts]
            mhz = [1980.0 if busy else 345.0] * 4
            if node == "n1":
                celsius[1] += 0.2 * max(0, minute - aging_from)
                celsius[2] += 1.0 * max(0, min(25, minute - heating_from))
                mhz[3] *= 0.6 if slow[0] <= minute < sum(slow) else 1.0
            if unread[node][0] <= minute < sum(unread[node]):
                celsius[random.randrange(4)] = random.choice([NAN, float("inf"), -1e38])
            one = sample(
                node,
                minute * RARELY_S,
                4,
                interval_ms=1000 * RARELY_S,
                temperature_celsius=celsius,
                power_watts=watts,
                sm_clock_mhz=mhz,
                gpu_utilization_percent=95.0 if busy else 0.0,
                throttle_reasons=0,
            )
            made.append(message(one, at_ms=START_MS + 1000 * minute * RARELY_S + 30))
            if random.random() < 0.02:
                made.append(made[random.randrange(len(made))])
        if random.random() < 0.05 and len(made) > 3:
            made[-1], made[-3] = made[-3], made[-1]
    return log(made)


def counted_log(seed: int, *, nvml_stops: bool = True) -> list[Message]:
    """Some hours of a rack's counters: ones that rise, resets, gaps, two sources of which one may stop, lanes that are
    lost, clocks that are off, and all that can befall a log.
    """
    made: list[Message] = []
    random = Random(seed)
    length = random.randrange(120, 300)
    rising = random.randrange(length), random.randrange(5, 200)
    narrow = random.randrange(length), random.randrange(60)
    reset_at = random.randrange(400)
    quiet = {node: (random.randrange(300), random.randrange(90)) for node in NODES}
    off_s = {node: random.choice([0, 0, 0, 40, -40, -3600]) for node in NODES}
    nvml_until = random.randrange(50, 800) if nvml_stops else length
    total = 1000.0
    for step in range(length):
        total = 0.0 if step == reset_at else total + (random.randrange(4) if rising[0] <= step < sum(rising) else 0)
        for node in random.sample(NODES, len(NODES)):
            if quiet[node][0] <= step < sum(quiet[node]):
                continue
            lanes = 8.0 if node == "n2" and narrow[0] <= step < sum(narrow) else 16.0
            row = {
                "ecc_volatile_dram_correctable": [total if node == "n1" else 5.0, random.choice([7.0, 7.0, NAN])],
                "row_remap_correctable": [total // 40, 0.0],
                "nvlink_replays": [total * 20, total],
                "pcie_width": [lanes, 16.0],
                "pcie_width_max": [16.0, 16.0],
            }
            at_ms = START_MS + 30_000 * step + random.randrange(20_000)
            if step < nvml_until or node != "n1":
                one = counters(node, 30 * step + off_s[node], 2, **row)
                made.append(message(one, at_ms=at_ms))
            if node == "n1":
                stale = {name: [value - 3 for value in values] for name, values in row.items()}
                one = counters(node, 30 * step + off_s[node], 2, source="dcgm", interval_ms=15_000, **stale)
                made.append(message(one, at_ms=at_ms))
        if random.random() < 0.02 and made:
            made += [message(b"junk", at_ms=made[-1].timestamp), made[random.randrange(len(made))]]
    return log(made)


def anomalies(parts: Sequence[Sequence[Message]], processor: Processor | None = None) -> list[Anomaly]:
    processor = processor or SampleProcessor(SETTINGS, CODEC)
    return [one for run in parts if run for one in processor.run(run).anomalies]


@settings(max_examples=25, deadline=None)
@given(logs(), cuts)
def test_the_same_log_cut_anywhere_gives_the_same_anomalies_in_the_same_order(
    messages: list[Message], where: list[int]
) -> None:
    assert anomalies(runs(messages, where)) == anomalies([messages])


@settings(max_examples=12, deadline=None)
@given(working_logs(), cuts, st.integers(0, 100))
def test_so_does_what_is_found_beside_peers_and_baselines_however_it_is_cut_and_delivered_twice(
    messages: list[Message], where: list[int], twice: int
) -> None:
    parts = runs(messages, where)
    at = twice % len(parts)
    assert anomalies([*parts[: at + 1], *parts[at:]]) == anomalies([messages])


def test_the_logs_of_racks_at_work_are_ones_in_which_every_detector_finds_something() -> None:
    found: set[str] = set()

    @settings(max_examples=12, deadline=None, derandomize=True, database=None)
    @given(working_logs())
    def look(messages: list[Message]) -> None:
        found.update(one.detector for one in anomalies([messages]))

    look()
    assert found >= {"peer", "level", "trend", "threshold"}


@settings(max_examples=8, deadline=None)
@given(working_logs(), st.lists(st.integers(0, 10**6), max_size=4))
def test_a_kill_gives_the_same_beside_peers_and_baselines_where_the_log_is_read_back_far_enough(
    messages: list[Message], where: list[int]
) -> None:
    kill_between(messages, runs(messages, where), 1)


@settings(max_examples=5, deadline=None)
@given(logs())
def test_message_by_message_gives_the_same_as_all_at_once(messages: list[Message]) -> None:
    assert anomalies([[one] for one in messages]) == anomalies([messages])


@settings(max_examples=20, deadline=None)
@given(logs(), cuts, st.integers(0, 100))
def test_a_run_that_is_delivered_twice_changes_nothing(messages: list[Message], where: list[int], twice: int) -> None:
    parts = runs(messages, where)
    at = twice % len(parts) if parts else 0
    assert anomalies([*parts[: at + 1], *parts[at:]]) == anomalies(parts)


@settings(max_examples=15, deadline=None)
@given(logs(), cuts, st.integers(0, 2))
def test_a_kill_after_any_run_gives_the_same_anomalies(messages: list[Message], where: list[int], redone: int) -> None:
    """Each run is the last one of a worker that is killed before its last `redone` runs were committed."""
    kill_between(messages, runs(messages, where), redone)


@settings(max_examples=10, deadline=None)
@given(seeds, cuts, st.integers(0, 100))
def test_so_do_counters_however_they_are_cut_and_delivered_twice(seed: int, where: list[int], twice: int) -> None:
    messages = counted_log(seed)
    parts = runs(messages, where)
    at = twice % len(parts)
    straight = anomalies([messages], CounterProcessor(SETTINGS, CODEC))
    assert anomalies([*parts[: at + 1], *parts[at:]], CounterProcessor(SETTINGS, CODEC)) == straight


def test_the_logs_of_counters_are_ones_in_which_much_is_found() -> None:
    logs_ = (counted_log(seed) for seed in range(12))
    found = {
        f"{one.rule} {one.state}" for log_ in logs_ for one in anomalies([log_], CounterProcessor(SETTINGS, CODEC))
    }
    assert found >= {
        "corrected_errors_rise raised", "corrected_errors_rise cleared", "corrected_errors_keep_coming raised",
        "nvlink_replays_rise raised", "rows_remapped_for_corrected_errors raised", "pcie_link_narrow raised",
        "pcie_link_narrow cleared",
    }  # fmt: skip


@settings(max_examples=10, deadline=None)
@given(seeds, st.lists(st.integers(0, 10**6), min_size=1, max_size=4), st.integers(0, 1))
def test_a_kill_gives_the_same_findings_on_counters_though_little_of_the_log_is_read_back(
    seed: int, where: list[int], redone: int
) -> None:
    """What spans of hours and days have counted is kept, and goes on from there. GPUs are met in another order then.

    Which source speaks is not kept: it is found anew in what is read back.
    """
    messages = counted_log(seed, nvml_stops=False)

    def known(found: Iterable[Record]) -> set[tuple[str, str]]:
        of_spans = (one for one in found if isinstance(one, Anomaly) and one.detector in ("counter_rate", "budget"))
        return {(one.anomaly_id, one.state) for one in of_spans}

    memory: dict[str, bytes] = {}
    written: set[tuple[str, str]] = set()
    parts = runs(messages, where)
    for number in range(len(parts)):
        begin = max(0, number - redone)
        first = parts[begin][0].offset
        held = CounterPartition(SETTINGS, CODEC, memory, first, len(messages))
        since_ms = held.rebuild_from_ms(messages[first].timestamp)
        held.rebuild([one for one in messages[:first] if one.timestamp >= since_ms])
        held.resume(first, START_MS)
        for run in parts[begin : number + 1]:
            outcome = held.run(run, run[-1].timestamp)
            written |= known(outcome.records)
            kept = memory | outcome.memory
            memory = {key: state for key, state in kept.items() if state is not None}
    assert written == known(anomalies([messages], CounterProcessor(SETTINGS, CODEC)))


def kill_between(messages: list[Message], parts: list[list[Message]], redone: int) -> None:
    """Kill a worker after each run, `redone` runs of it not committed; what was written must be what is expected."""
    expected = [(one.anomaly_id, one.state) for one in anomalies([messages])]
    memory: dict[str, bytes] = {}
    written: list[tuple[str, str]] = []
    for number in range(len(parts)):
        first = parts[max(0, number - redone)][0].offset
        held = SamplePartition(SETTINGS, CODEC, memory, len(messages))
        held.rebuild(messages[:first])
        held.resume(first, START_MS)
        for run in parts[max(0, number - redone) : number + 1]:
            outcome = held.run(run, START_MS)
            for one in outcome.records:
                assert isinstance(one, Anomaly)
                if (one.anomaly_id, one.state) not in written:
                    written.append((one.anomaly_id, one.state))
            kept = memory | outcome.memory
            memory = {key: state for key, state in kept.items() if state is not None}
    assert written == list(dict.fromkeys(expected))
