from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from producers.kernel_log.decode import decode
from producers.settings import Injection, RackSpec, SimulateSettings
from producers.simulate.fleet import SimulatedFleet, Step
from producers.simulate.script import spread
from producers.simulate.topology import build
from producers.simulate.truth import Truth
from schemas.catalog import load
from schemas.catalog.metrics import metrics
from schemas.codec import SingleObjectCodec
from schemas.ids import gpu_id
from schemas.records import GpuSample

START_MS = 1_700_000_000_000
SMALL = (RackSpec(kind="hgx", racks=1, nodes=2), RackSpec(kind="nvl72", racks=1, nodes=3))
DEMO_SHORT = (RackSpec(kind="hgx", racks=2, nodes=2), RackSpec(kind="nvl72", racks=2, nodes=4))
HEALTHY = SimulateSettings(racks=SMALL, faults=(), application_errors=False)


def played(settings: SimulateSettings, seconds: int | None = None) -> tuple[SimulatedFleet, list[Step]]:
    fleet = SimulatedFleet(settings, START_MS)
    return fleet, [fleet.step() for _ in range(seconds or int(settings.duration_s or 0))]


def column(steps: list[Step], component: str, metric: str) -> dict[int, float]:
    """Tick to the value of one GPU."""
    found = {}
    for step in steps:
        for sample in step.samples:
            if component in (names := [gpu_id(gpu) for gpu in sample.gpus]):
                found[step.tick_ms] = getattr(sample, metric)[names.index(component)]
    return found


def roots(truth: list[Truth], fault: str) -> list[Truth]:
    return [one for one in truth if one.fault == fault and one.role == "root"]


@pytest.fixture(scope="module")
def demo() -> tuple[SimulatedFleet, list[Step]]:
    return played(SimulateSettings())


def test_the_same_seed_gives_the_same_records_and_another_seed_others() -> None:
    first, again, other = (
        [step.samples for step in played(SimulateSettings(racks=SMALL, seed=seed), 60)[1]] for seed in (7, 7, 8)
    )

    codec = SingleObjectCodec()
    as_bytes = [[codec.encode(sample) for tick in run for sample in tick] for run in (first, again, other)]
    assert as_bytes[0] == as_bytes[1]
    assert as_bytes[0] != as_bytes[2]
    assert {s.gpus[0] for s in first[0]}.isdisjoint({s.gpus[0] for s in other[0]})


def test_the_demo_fleet_is_two_hgx_and_two_nvl72_racks() -> None:
    nodes = build(SimulateSettings().racks, seed=1)

    assert Counter(node.rack for node in nodes) == {"hgx-01": 4, "hgx-02": 4, "nvl72-01": 18, "nvl72-02": 18}
    assert {len(node.gpus) for node in nodes if node.kind == "hgx"} == {8}
    assert {len(node.gpus) for node in nodes if node.kind == "nvl72"} == {4}
    serials = [gpu.serial for node in nodes for gpu in node.gpus]
    assert len(set(serials)) == len(serials) == 208
    assert len({node.nvlink_domain for node in nodes if node.kind == "nvl72"}) == 2


def test_what_is_sent_is_what_the_codec_makes_of_the_samples(demo: tuple[SimulatedFleet, list[Step]]) -> None:
    fleet, steps = demo
    codec = SingleObjectCodec()

    for step in steps[::7]:
        sent = [message for _, message in fleet.encoded(step, observed_ms=step.tick_ms)]
        assert sent == [codec.encode(sample) for sample in sorted(step.samples, key=lambda s: len(s.gpus) == 4)]


def test_a_healthy_fleet_is_near_no_limit_of_the_catalogue() -> None:
    _, steps = played(HEALTHY.model_copy(update={"racks": (RackSpec(racks=2), RackSpec(kind="nvl72"))}), 900)

    for name, metric in metrics().items():
        for rule in metric.rules:
            for step in steps:
                values = step.throttle if name == "throttle_reasons" else step.readings[name]
                if rule.raise_bits is not None:
                    assert not (values.astype(np.int64) & rule.raise_bits).any(), rule.name
                elif rule.raise_above is not None:
                    assert values.max() < rule.raise_above - 4, rule.name
                elif rule.raise_below is not None:
                    assert values.min() > rule.raise_below + 4, rule.name
        if name not in ("throttle_reasons", "fan_speed_percent"):
            assert not any(np.isnan(step.readings[name]).any() for step in steps), name
    assert not any(step.lines or step.reports for step in steps)


def test_jobs_load_their_gpus_together_come_and_go_and_warm_what_they_load() -> None:
    settings = HEALTHY.model_copy(update={"racks": (RackSpec(racks=4),), "interval_ms": 10_000})
    fleet, steps = played(settings, 2000)
    load = np.array([step.readings["gpu_utilization_percent"] for step in steps])
    job = {gpu: name for step in steps for gpu, name in ((r.gpu_serial, r.job) for r in step.placements())}

    assert any(step.moved for step in steps)
    assert job, "the scheduler tells what runs where"
    busy = load > 30
    assert 0.5 < busy.mean() < 0.98
    same_node = [np.corrcoef(load[:, [g.number for g in node.gpus]].T).mean() for node in fleet.nodes]
    strangers = np.corrcoef(load[:, [node.gpus[0].number for node in fleet.nodes]].T)
    assert np.mean(same_node) > strangers[~np.eye(len(strangers), dtype=bool)].mean() + 0.2
    hot = np.array([step.readings["temperature_celsius"] for step in steps])
    assert hot[busy].mean() > hot[~busy].mean() + 15


def test_a_job_that_serves_people_follows_the_day() -> None:
    settings = HEALTHY.model_copy(update={"racks": (RackSpec(racks=16),), "interval_ms": 60_000})
    fleet, steps = played(settings, 24 * 60)
    numbers = {gpu.serial: gpu.number for node in fleet.nodes for gpu in node.gpus}
    serving = np.zeros(len(numbers), bool)
    by_hour: dict[int, list[float]] = defaultdict(list)
    for tick, step in enumerate(steps):
        for record in step.placements():
            serving[numbers[record.gpu_serial or ""]] = (record.job or "").startswith("inference")
        if serving.sum() > 8:
            by_hour[int((START_MS / 3_600_000 + tick / 60) % 24)] += [
                float(step.readings["gpu_utilization_percent"][serving].mean())
            ]

    afternoon, night = (np.mean([np.mean(by_hour[hour]) for hour in hours]) for hours in ((14, 15, 16), (2, 3, 4)))
    assert afternoon > 1.5 * night


def test_readings_have_the_steps_that_nvml_has() -> None:
    _, steps = played(HEALTHY, 50)

    whole = ("temperature_celsius", "temperature_margin_celsius", "gpu_utilization_percent", "sm_clock_mhz")
    for step in steps:
        for name in whole:
            assert (step.readings[name] == np.rint(step.readings[name])).all(), name


def test_a_gpu_that_falls_off_the_bus_says_so_in_the_kernel_log_then_in_nvml_then_in_nothing(
    demo: tuple[SimulatedFleet, list[Step]],
) -> None:
    fleet, steps = demo
    (truth,) = roots(fleet.truth(), "gpu_falls_off_bus")
    lines = [line for step in steps for line in step.lines if line.node.name == truth.node]
    said = [(START_MS + line.at_s * 1000, line.text) for line in lines if ": 79, " in line.text]
    reported = [
        (step.tick_ms, r.kind)
        for step in steps
        for r in step.reports
        if r.gpu and gpu_id(r.gpu.serial) == truth.component
    ]
    values = column(steps, truth.component, "temperature_celsius")
    unread = [tick for tick, value in values.items() if math.isnan(value)]

    assert [at for at, _ in said] == [truth.first_observable_ms] == [truth.start_ms]
    assert START_MS + 15_000 <= truth.start_ms < START_MS + 16_000
    assert reported == [(unread[0], "gpu_lost")]
    assert 0 <= unread[0] - truth.start_ms < 1000
    assert unread == [tick for tick in values if tick >= unread[0]]
    assert set(column(steps, truth.component, "throttle_reasons").values()) >= {-1}
    assert truth.cleared_ms is None


def test_an_overheating_gpu_creeps_past_its_limit_is_throttled_and_cools_down_again(
    demo: tuple[SimulatedFleet, list[Step]],
) -> None:
    fleet, steps = demo
    (truth,) = roots(fleet.truth(), "gpu_overheats")
    celsius = column(steps, truth.component, "temperature_celsius")
    throttle = column(steps, truth.component, "throttle_reasons")
    clock = column(steps, truth.component, "sm_clock_mhz")
    hot = [tick for tick, value in celsius.items() if value >= 87]

    assert truth.first_observable_ms == hot[0]
    assert START_MS + 30_000 < hot[0] < START_MS + 50_000
    assert len(hot) > 15
    assert 90 < max(celsius.values()) < 97
    assert max(abs(later - earlier) for earlier, later in pairwise(celsius.values())) <= 4, "it creeps"
    assert celsius[START_MS + 14_000] < 78
    assert any(int(bits) & 0x40 for bits in throttle.values())
    assert min(clock[tick] for tick in hot) < 0.7 * max(clock.values())
    assert celsius[START_MS + 80_000] < 80
    assert truth.cleared_ms == START_MS + 60_000


def test_an_nvlink_failure_is_fatal_at_its_root_and_echoes_in_its_rack_only_within_two_seconds(
    demo: tuple[SimulatedFleet, list[Step]],
) -> None:
    fleet, steps = demo
    (root,) = roots(fleet.truth(), "nvlink_fails")
    symptoms = [one for one in fleet.truth() if one.fault == "nvlink_fails" and one.role == "symptom"]
    echoes = {
        (line.node.name, line.text.split("PCI:")[1].split(")")[0]): START_MS + round(line.at_s * 1000)
        for step in steps
        for line in step.lines
        if ": 145, " in line.text
    }
    fatal = [line for step in steps for line in step.lines if ": 149, " in line.text]

    assert [(line.node.name, "Fatal" in line.text) for line in fatal] == [(root.node, True)]
    assert root.rack.startswith("nvl72")
    assert len(symptoms) == len(echoes) == 71
    assert {one.rack for one in symptoms} == {root.rack}
    assert root.component not in {one.component for one in symptoms}
    assert sorted(echoes.values()) == sorted(one.first_observable_ms for one in symptoms)
    assert root.hard_ms is not None
    assert all(root.hard_ms < at <= root.hard_ms + 2000 for at in echoes.values())
    recoveries = {
        step.tick_ms: record.nvlink_recoveries[[gpu_id(gpu) for gpu in record.gpus].index(root.component)]
        for step in steps
        for record in step.counters
        if root.gpu in record.gpus
    }
    before, after = (max(at for at in recoveries if at < when) for when in (root.start_ms, root.hard_ms + 30_000))
    assert recoveries[after] - recoveries[before] >= 60, "its counters had warned of it"
    assert before < root.first_observable_ms <= root.hard_ms
    links = column(steps, root.component, "nvlink_links_active")
    assert (links[START_MS + 30_000], links[START_MS + 50_000]) == (18, 17)


def test_a_silent_node_sends_nothing_any_more(demo: tuple[SimulatedFleet, list[Step]]) -> None:
    fleet, steps = demo
    (truth,) = roots(fleet.truth(), "node_goes_silent")
    heard = [step.tick_ms for step in steps if truth.node in {sample.node for sample in step.samples}]

    assert truth.component == f"node:{truth.node}"
    assert heard == [step.tick_ms for step in steps if step.tick_ms < truth.first_observable_ms]
    assert truth.first_observable_ms == min(step.tick_ms for step in steps if step.tick_ms >= truth.start_ms)
    assert not [line for step in steps for line in step.lines if line.node.name == truth.node and line.at_s > 28]


def test_scripted_faults_have_a_rack_each_and_are_through_in_time(demo: tuple[SimulatedFleet, list[Step]]) -> None:
    truth = [one for one in demo[0].truth() if one.role == "root"]

    assert sorted(one.fault for one in truth) == sorted(SimulateSettings().faults)
    assert len({one.rack for one in truth}) == 4
    assert all(START_MS + 15_000 <= one.start_ms <= START_MS + 40_000 for one in truth)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_the_jobs_are_doing_every_scripted_fault_shows_and_nothing_else_does(seed: int) -> None:
    fleet, steps = played(SimulateSettings(racks=DEMO_SHORT, duration_s=60, warmup_s=6, seed=seed))

    roots_found = {one.component: one for one in fleet.truth() if one.role == "root"}
    assert sorted(one.fault for one in roots_found.values()) == sorted(SimulateSettings().faults)
    hot = {
        gpu_id(gpu)
        for step in steps
        for sample in step.samples
        for gpu, celsius in zip(sample.gpus, sample.temperature_celsius, strict=True)
        if celsius > 80
    }
    assert hot == {one.component for one in roots_found.values() if one.fault == "gpu_overheats"}


def test_every_line_of_a_simulated_kernel_is_one_event_of_the_catalogue(
    demo: tuple[SimulatedFleet, list[Step]],
) -> None:
    catalog = load()
    lines = [line.text for step in demo[1] for line in step.lines]

    events = list(decode(enumerate(lines, start=1)))

    assert [event.line for event in events] == list(range(1, len(lines) + 1))
    for event in events:
        assert not catalog.entry(event.kind, event.code).rule.endswith("unknown"), event.raw
        assert event.pci is not None
    assert {event.code for event in events if event.kind == "xid"} >= {45, 79, 145, 149}


def test_application_errors_come_now_and_then_and_are_of_a_class_that_wakes_nobody() -> None:
    _, steps = played(HEALTHY.model_copy(update={"application_errors": True}), 600)
    catalog = load()

    lines = [line.text for step in steps for line in step.lines]

    events = list(decode(enumerate(lines, start=1)))

    assert 10 < len(events) < 60
    assert {event.code for event in events} == {13, 31, 43}
    for event in events:
        assert not catalog.faults[catalog.entry("xid", event.code).fault_class].pages


def test_a_lost_gpu_that_is_repaired_is_read_again() -> None:
    injection = Injection(fault="gpu_falls_off_bus", at_s=5.5, node="hgx-01-n02", gpu=3, clear_after_s=10)
    fleet, steps = played(HEALTHY.model_copy(update={"inject": (injection,)}), 30)
    (truth,) = fleet.truth()

    values = column(steps, truth.component, "power_watts")
    unread = [tick for tick, value in values.items() if math.isnan(value)]
    reports = [(step.tick_ms, report.kind) for step in steps for report in step.reports]

    assert unread == [START_MS + second * 1000 for second in range(6, 16)]
    assert reports == [(START_MS + 6000, "gpu_lost"), (START_MS + 16_000, "gpu_found")]
    assert truth.cleared_ms == START_MS + 15_500


def test_many_faults_of_one_kind_are_spread_over_nodes_and_time() -> None:
    racks = (RackSpec(kind="hgx", racks=30),)
    nodes = build(racks, seed=1)
    injections = spread(nodes, "gpu_falls_off_bus", 110, first_s=5, last_s=60)
    fleet, _ = played(HEALTHY.model_copy(update={"racks": racks, "inject": injections}), 70)

    truth = fleet.truth()

    assert len({one.node for one in truth}) == len(truth) == 110
    assert len({one.start_ms for one in truth}) > 100
    assert min(one.start_ms for one in truth) >= START_MS + 5000
    assert max(one.start_ms for one in truth) < START_MS + 62_000
    with pytest.raises(ValueError, match="this fleet has 120"):
        spread(nodes, "gpu_falls_off_bus", 121, first_s=0, last_s=1)


@pytest.mark.parametrize(
    ("injection", "message"),
    [
        (Injection(fault="gpu_overheats", at_s=1, node="nowhere"), "no node 'nowhere'"),
        (Injection(fault="gpu_overheats", at_s=1, node="hgx-01-n01", gpu=8), "GPUs 0 to 7, not 8"),
    ],
)
def test_a_fault_at_a_place_that_is_not_there_is_refused(injection: Injection, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimulatedFleet(HEALTHY.model_copy(update={"inject": (injection,)}), START_MS)


def samples_of(steps: list[Step]) -> Iterator[GpuSample]:
    for step in steps:
        yield from step.samples


def test_every_node_is_numbered_without_a_gap() -> None:
    _, steps = played(HEALTHY, 20)

    for node in {sample.node for sample in samples_of(steps)}:
        own = [sample for sample in samples_of(steps) if sample.node == node]
        assert [sample.sequence for sample in own] == list(range(20))
        assert [sample.tick_ms for sample in own] == [START_MS + 1000 * tick for tick in range(20)]


def test_a_second_run_is_another_boot_so_that_its_events_are_not_taken_for_those_of_the_first() -> None:
    first, second = SimulatedFleet(HEALTHY, START_MS), SimulatedFleet(HEALTHY, START_MS + 60_000)

    assert {node.boot_id for node in first.nodes}.isdisjoint({node.boot_id for node in second.nodes})
    assert [node.gpus for node in first.nodes] == [node.gpus for node in second.nodes]
