"""The library of faults: that they come as often as claimed, and that the truth is what the records show."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import fastavro
import msgspec
import numpy as np
import pytest

from producers.settings import RackSpec, SimulateSettings
from producers.simulate.arrivals import Arrivals
from producers.simulate.counters import LINK_COUNTERS
from producers.simulate.faults import PLANS
from producers.simulate.faults.nvlink import other_end
from producers.simulate.faults.scene import Scene
from producers.simulate.files import run as run_to_files
from producers.simulate.fleet import SimulatedFleet, Step
from producers.simulate.library import library, rates
from producers.simulate.topology import build, from_inventory, racks_of
from producers.simulate.truth import Truth
from schemas.catalog import load
from schemas.codec import SingleObjectCodec
from schemas.ids import gpu_id, node_id, nvswitch_id
from schemas.records import GpuCounters, HardwareEvent, NodeSample

START_MS = 1_736_121_600_000
TICK_MS = 30_000
TITAN = Path(__file__).parents[3] / "shared/data/titan/gc_full.csv"
RACKS = (RackSpec(kind="hgx", racks=2), RackSpec(kind="nvl72", racks=1, nodes=6))
BY_CHANCE = SimulateSettings(racks=RACKS, faults=(), interval_ms=TICK_MS, harmless_rate=0.0)
HEALTHY = BY_CHANCE.model_copy(update={"application_errors": False})


class Run:
    """A fleet that was played, and all that it said."""

    def __init__(self, settings: SimulateSettings, hours: float) -> None:
        self.fleet = SimulatedFleet(settings, START_MS)
        self.steps: list[Step] = []
        self.events: list[HardwareEvent] = []
        for _ in range(round(hours * 3_600_000 / settings.interval_ms)):
            step = self.fleet.step()
            self.steps.append(step)
            self.events += self.fleet.events(step)
        self.truth = self.fleet.truth()
        self.gpu = {gpu_id(gpu.serial): gpu.number for node in self.fleet.nodes for gpu in node.gpus}
        self.node = {node.name: node for node in self.fleet.nodes}

    def column(self, metric: str, component: str) -> dict[int, float]:
        return {step.tick_ms: float(step.readings[metric][self.gpu[component]]) for step in self.steps}

    def heard(self, node: str) -> dict[int, bool]:
        return {step.tick_ms: node in {one.name for one in step.nodes} for step in self.steps}


def one_kind(kind: str, *, hours: float = 12, rate: float = 300, seed: int = 3) -> Run:
    """A run in which only faults of one kind come, some of them."""
    settings = HEALTHY.model_copy(update={"fault_kinds": (kind,), "fault_rate": rate, "seed": seed})
    return Run(settings, hours)


def rate_for(kind: str, per_day: float = 12.0) -> float:
    """The multiplier at which so many of a kind come to the test fleet in a day."""
    return per_day * 1000 / library()[kind].per_1000_gpu_days / 88


@pytest.fixture(scope="module")
def everything() -> Run:
    """Six hours in which all kinds come, much too often."""
    settings = BY_CHANCE.model_copy(
        update={"racks": racks_of(256), "fault_rate": 1500, "fault_mix": "even", "harmless_rate": 5.0, "seed": 11}
    )
    return Run(settings, 6)


def test_every_kind_of_the_library_has_a_plan_and_a_source() -> None:
    assert set(PLANS) == set(library())
    assert all(kind.source and kind.shows for kind in library().values())


def test_faults_come_as_often_as_the_library_says_over_many_fleets() -> None:
    scene = Scene(build(racks_of(1024), seed=1))
    settings = SimulateSettings(faults=(), fault_rate=60, harmless_rate=0.3)
    days = 30
    found: Counter[str] = Counter()
    homeless = again = 0
    for seed in range(days):
        arrivals = Arrivals(settings.model_copy(update={"seed": seed}), scene)
        come = arrivals.due(86_399.999)
        found.update(one.kind for one in come if one.repeats is None)
        again += sum(one.repeats is not None for one in come)
        homeless += arrivals.homeless

    assert homeless < 30
    for kind, rate in rates(settings).items():
        expected = rate * 1024 * days
        # six standard deviations of a Poisson count: fails for no seed in a lifetime
        assert abs(found[kind] - expected) <= 6 * np.sqrt(expected) + 2 + homeless, kind
    total = sum(rate * 1024 * days for kind, rate in rates(settings).items() if not library()[kind].harmless)
    share = sum(kind.repeats * kind.per_1000_gpu_days for kind in library().values() if not kind.harmless) / sum(
        kind.per_1000_gpu_days for kind in library().values() if not kind.harmless
    )
    # those whose repair or return is past midnight are not seen
    assert 0.15 * share * total < again < 1.3 * share * total


def test_the_sum_of_the_faults_is_that_of_the_fleet_it_is_modelled_on() -> None:
    hard = sum(kind.per_1000_gpu_days for kind in library().values() if not kind.harmless)
    gpu_days = 16_384 * 54 / 1000

    assert (419 - 54 - 7 - 3 - 2) / gpu_days <= hard <= 419 / gpu_days


@pytest.mark.skipif(not TITAN.exists(), reason="the lives of Titan's GPUs are not here")
def test_the_figures_of_titan_are_those_of_its_data() -> None:
    with TITAN.open(newline="") as lines:
        rows = [(row["SN"], row["event"], row["duration"]) for row in csv.DictReader(lines)]
    gpu_days = sum(float(duration) for _, _, duration in rows if duration not in ("", "NA")) / 86_400_000
    events = Counter(event for _, event, _ in rows)
    again = Counter((serial, event) for serial, event, _ in rows if event in {"DBE", "OTB"})

    assert round(events["DBE"] / gpu_days, 3) == 0.131
    assert round(events["OTB"] / gpu_days, 3) == 0.042
    assert round(sum(count > 1 for count in again.values()) / len(again), 3) == 0.061
    assert 0.5 < library()["gpu_falls_off_bus"].per_1000_gpu_days / (events["OTB"] / gpu_days) < 2


def test_even_means_as_many_faults_each_kind_as_often() -> None:
    published = rates(SimulateSettings(fault_rate=10))
    even = rates(SimulateSettings(fault_rate=10, fault_mix="even"))
    hard = [kind for kind in even if not library()[kind].harmless]

    assert len({round(even[kind], 12) for kind in hard}) == 1
    assert sum(even[kind] for kind in hard) == pytest.approx(sum(published[kind] for kind in hard))


def test_what_comes_of_one_kind_does_not_depend_on_the_others() -> None:
    scene = Scene(build(racks_of(1024), seed=1))
    alone = Arrivals(SimulateSettings(faults=(), fault_rate=200, fault_kinds=("port_flaps",)), scene).due(86_000)
    among = Arrivals(SimulateSettings(faults=(), fault_rate=200), scene).due(86_000)

    at = [one.plan.begin_s for one in alone if one.repeats is None]
    assert at == [one.plan.begin_s for one in among if one.kind == "port_flaps" and one.repeats is None]
    assert len(at) > 3


def test_a_kind_that_is_not_in_the_library_is_refused() -> None:
    with pytest.raises(ValueError, match="'meteorite' is no kind of fault; there are memory_degrades"):
        SimulatedFleet(SimulateSettings(fault_rate=1, fault_kinds=("meteorite",)), START_MS)


def test_the_same_seed_gives_the_same_bytes_with_faults_too() -> None:
    settings = BY_CHANCE.model_copy(update={"fault_rate": 8000, "fault_mix": "even", "harmless_rate": 30})
    runs: list[tuple[list[bytes], list[Truth]]] = []
    for seed in (5, 5, 6):
        fleet = SimulatedFleet(settings.model_copy(update={"seed": seed}), START_MS)
        said: list[bytes] = []
        for tick in range(60):
            step = fleet.step()
            said += [message for _, message in fleet.encoded(step, step.tick_ms)]
            said += [message for _, message in fleet.encoded_counters(step, step.tick_ms)]
            said += [msgspec.json.encode(event) for event in fleet.events(step)]
            # asking for a record, or not, changes nothing
            hosts = step.hosts() if seed != 5 or tick % 2 == 0 or len(runs) == 0 else []
            said += [msgspec.json.encode(host) for host in hosts] if tick % 4 == 0 else []
        runs.append((said, fleet.truth()))
    assert runs[0][1]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_counters_are_sent_as_the_codec_makes_them(everything: Run) -> None:
    codec = SingleObjectCodec()
    fleet = SimulatedFleet(BY_CHANCE.model_copy(update={"fault_rate": 5000}), START_MS)
    read = 0
    for _ in range(60):
        step = fleet.step()
        sent = {node.name: message for node, message in fleet.encoded_counters(step, step.tick_ms)}
        assert sent == {record.node: codec.encode(record) for record in step.counters}
        read += len(sent)
    assert read
    one = codec.decode(
        next(iter(sent.values())) if sent else codec.encode(everything.steps[0].counters[0]), GpuCounters
    )
    assert set(one.pcie_width) <= {16.0, 8.0}


def test_records_are_numbered_without_a_gap_from_boot_to_boot(everything: Run) -> None:
    numbers: dict[tuple[str, str], list[int]] = defaultdict(list)
    for step in everything.steps:
        for sample in step.samples:
            numbers[sample.node, sample.boot_id].append(sample.sequence)

    boots = Counter(node for node, _ in numbers)
    assert max(boots.values()) > 1, "some node was booted"
    for found in numbers.values():
        assert found == list(range(len(found)))


def test_all_that_is_said_is_of_the_catalogue_and_none_of_it_names_the_simulation(everything: Run) -> None:
    catalog = load()
    assert len(everything.events) > 300
    for event in everything.events:
        assert not catalog.of(event).rule.endswith("unknown"), event.raw
        text = msgspec.json.encode(event).decode()
        assert not any(kind in text for kind in library()), text
    ids = {line.fault_id for line in everything.truth if line.fault_id}
    records = b"".join(msgspec.json.encode(sample) for step in everything.steps[::100] for sample in step.samples)
    assert not any(fault_id.encode() in records for fault_id in ids)


def test_every_fault_has_one_root_and_times_in_their_order(everything: Run) -> None:
    parts: dict[str, list[Truth]] = defaultdict(list)
    for line in everything.truth:
        parts[line.fault_id or ""].append(line)

    assert len({line.fault for line in everything.truth}) > 15
    for lines in parts.values():
        assert sum(line.role == "root" for line in lines) == (0 if lines[0].role == "harmless" else 1)
        assert len({line.component for line in lines}) == len(lines)
        begin_ms = lines[0].start_ms
        for line in lines:
            assert begin_ms <= line.start_ms <= line.first_observable_ms
            assert line.cleared_ms is None or line.cleared_ms >= line.start_ms
        assert lines[0].first_observable_ms == min(line.first_observable_ms for line in lines) or lines[0].node


def test_what_is_said_of_a_component_is_not_said_before_it_is_observable(everything: Run) -> None:
    """Every kernel line or event that asks for an action belongs to a fault of the truth, and not to its past."""
    catalog = load()
    spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for line in everything.truth:
        until = line.cleared_ms or START_MS + 10**9
        spans[line.component].append((line.first_observable_ms, until))
        spans[node_id(line.node)].append((line.first_observable_ms, until))
    skewed = {line.node for line in everything.truth if line.fault == "clock_skews"}
    checked = 0
    for event in everything.events:
        entry = catalog.of(event)
        if entry.fault_class in {"informational", "application"} or event.node in skewed or event.code == 45:
            continue
        component = gpu_id(event.gpu) if event.gpu else node_id(event.node)
        known = spans[component] or spans[node_id(event.node)]
        assert any(first - 1 <= event.event_ms <= until + 20_000 for first, until in known), event.raw
        checked += 1
    assert checked > 30


@pytest.mark.parametrize("kind", ["cooling_degrades", "paste_drifts"])
def test_a_gpu_that_is_cooled_badly_is_hotter_than_its_healthy_twin_from_when_on_the_truth_says(kind: str) -> None:
    broken, twin = one_kind(kind, rate=rate_for(kind)), Run(HEALTHY.model_copy(update={"seed": 3}), 12)
    roots = sorted((line for line in broken.truth if line.role == "root"), key=lambda line: line.start_ms)
    begins_ms = START_MS + broken.fleet._world.incidents[0].parts[0].begin_s * 1000

    assert len(roots) > 1
    # until the first begins both fleets are the same; later who throttles slows down its job, too
    for ill, well in zip(broken.steps, twin.steps, strict=True):
        if ill.tick_ms < begins_ms:
            for name, values in ill.readings.items():
                assert (values == well.readings[name]).all(), name
    for line in roots:
        hot, cool = (run.column("temperature_celsius", line.component) for run in (broken, twin))
        assert hot[line.first_observable_ms] - cool[line.first_observable_ms] >= 2
        if line.repeats is None:
            since = [tick for tick in hot if line.start_ms <= tick < line.first_observable_ms]
            assert all(hot[tick] - cool[tick] <= 4 for tick in since)


def test_a_bad_cooler_throttles_and_bad_paste_does_not_for_long() -> None:
    throttled = {}
    for kind in ("cooling_degrades", "paste_drifts"):
        run = one_kind(kind, rate=rate_for(kind))
        bits = np.array([step.throttle for step in run.steps])
        numbers = [run.gpu[line.component] for line in run.truth if line.role == "root"]
        throttled[kind] = ((bits[:, numbers] & 0x60) > 0).mean()

    assert throttled["cooling_degrades"] > 0.005
    assert throttled["paste_drifts"] < throttled["cooling_degrades"] / 4


def test_a_slow_gpu_gives_no_reason_and_its_job_waits_for_it() -> None:
    run = one_kind("gpu_runs_slow", rate=rate_for("gpu_runs_slow", 24))
    twin = Run(HEALTHY.model_copy(update={"seed": 3}), 12)
    roots = [line for line in run.truth if line.role == "root"]
    assert roots
    peers_slowed = 0
    for line in roots:
        slow, well = run.column("sm_clock_mhz", line.component), twin.column("sm_clock_mhz", line.component)
        at = line.first_observable_ms
        assert slow[at] < 0.85 * well[at]
        first = min(one.start_ms for one in roots if one.component == line.component)
        assert all(slow[tick] == well[tick] for tick in slow if tick < first)
        index = (at - START_MS) // TICK_MS
        number = run.gpu[line.component]
        assert not run.steps[index].throttle[number] & 0xE8
        mates = [gpu.number for node in run.fleet.nodes if node.name == line.node for gpu in node.gpus]
        ours, theirs = (one.steps[index].readings["tensor_active_percent"][mates] for one in (run, twin))
        peers_slowed += bool((ours < 0.9 * theirs).sum() > 1)
    assert peers_slowed


@pytest.mark.parametrize("kind", ["power_brake", "brown_out"])
def test_a_power_brake_shows_in_the_throttle_reasons_of_all_that_it_brakes(kind: str) -> None:
    run = one_kind(kind, rate=rate_for(kind))
    bits = {step.tick_ms: step.throttle for step in run.steps}
    symptoms = [line for line in run.truth if line.role == "symptom"]
    assert symptoms
    for line in symptoms:
        number = run.gpu[line.component]
        assert bits[line.first_observable_ms][number] & 0x80
        assert not bits[max(START_MS, line.start_ms // TICK_MS * TICK_MS)][number] & 0x80 or (
            line.first_observable_ms == line.start_ms
        )
    braked = {number for values in bits.values() for number in np.flatnonzero(values & 0x80)}
    assert braked == {run.gpu[line.component] for line in symptoms}


@pytest.mark.parametrize("kind", ["gpu_falls_off_bus", "gsp_times_out"])
def test_a_gpu_that_is_lost_is_not_read_until_its_node_is_booted(kind: str) -> None:
    run = one_kind(kind, rate=rate_for(kind))
    roots = [line for line in run.truth if line.role == "root"]
    assert roots
    code = {"gpu_falls_off_bus": 79, "gsp_times_out": 119}[kind]
    for line in roots:
        said = [event for event in run.events if event.gpu == line.gpu and event.event_ms >= line.start_ms]
        assert min(event.event_ms for event in said if event.kind in {"xid", "pcie_aer"}) == pytest.approx(
            line.first_observable_ms, abs=1
        ) or line.first_observable_ms < min(event.event_ms for event in said if event.code == code)
        power = run.column("power_watts", line.component)
        dead = [tick for tick, value in power.items() if np.isnan(value) and tick >= line.start_ms]
        assert dead
        assert min(dead) >= line.first_observable_ms
        if line.cleared_ms:
            node = run.node[line.node]
            before, after = (
                next(step for step in steps if step.tick_ms > line.cleared_ms).boots[node.number]
                if place
                else next(step for step in steps if step.tick_ms >= line.start_ms).boots[node.number]
                for place, steps in enumerate((run.steps, run.steps))
            )
            assert before != after


def test_rising_errors_are_in_the_counters_before_the_gpu_says_anything() -> None:
    for kind, counter in (("memory_degrades", "ecc_volatile_correctable"), ("nvlink_degrades", "nvlink_recoveries")):
        run = one_kind(kind, rate=rate_for(kind))
        leads = []
        for line in (one for one in run.truth if one.role == "root" and one.repeats is None):
            number = run.gpu[line.component]
            values = {s.tick_ms: s.counts[counter][number] for s in run.steps if s.counts is not None}
            at = line.first_observable_ms
            assert at in values, "it shows at a reading of the counters"
            began = max(tick for tick in values if tick <= line.start_ms)
            assert values[at] > values[began] or kind == "nvlink_degrades"
            if line.hard_ms:
                leads.append(line.hard_ms - at)
                assert not [e for e in run.events if e.gpu == line.gpu and line.start_ms <= e.event_ms < line.hard_ms]
        assert leads
        assert np.median(leads) > 5 * 60_000


def test_a_failed_link_of_a_rack_is_felt_by_its_domain_within_seconds_and_by_no_other() -> None:
    settings = HEALTHY.model_copy(
        update={"racks": (RackSpec(kind="nvl72", racks=2),), "fault_kinds": ("nvlink_degrades",), "fault_rate": 800}
    )
    run = Run(settings, 8)
    fatal = [event for event in run.events if event.code == 149]
    assert fatal
    for event in fatal:
        echoes = [e for e in run.events if e.code == 145 and abs(e.event_ms - event.event_ms) < 3000]
        assert {echo.rack for echo in echoes} == {event.rack}
        assert 50 <= len({echo.gpu for echo in echoes}) <= 71
        assert event.gpu not in {echo.gpu for echo in echoes}
        assert all(0 < echo.event_ms - event.event_ms <= 2100 for echo in echoes)


@pytest.fixture(scope="module")
def links() -> Run:
    return one_kind("nvlink_degrades", rate=rate_for("nvlink_degrades"))


def test_the_errors_of_a_gpu_are_those_of_its_links(links: Run) -> None:
    for step in links.steps:
        if step.counts is None or step.link_counts is None:
            continue
        for total, of_links in LINK_COUNTERS.items():
            np.testing.assert_array_equal(step.counts[total], step.link_counts[of_links].sum(axis=1))


def test_the_link_that_degrades_shows_it_and_the_others_of_its_gpu_do_not(links: Run) -> None:
    at_hand = {step.tick_ms: step.link_counts for step in links.steps if step.link_counts is not None}
    roots = [line for line in links.truth if line.role == "root" and line.hard_ms]
    assert roots
    for line in roots:
        number = links.gpu[line.component]
        before = at_hand[max(tick for tick in at_hand if tick <= line.start_ms)]
        after = at_hand[max(tick for tick in at_hand if tick < line.hard_ms)]
        rise = after["nvlink_link_replays"][number] - before["nvlink_link_replays"][number]
        bad = int(rise.argmax())
        assert rise[bad] > 1000 > 100 > sum(rise) - rise[bad]
        down = at_hand[min(tick for tick in at_hand if tick >= line.hard_ms)]
        assert np.flatnonzero(down["nvlink_link_active"][number] == 0).tolist() == [bad]


def test_a_link_of_an_hgx_gpu_is_told_of_by_the_switch_at_its_other_end_too(links: Run) -> None:
    failed = [event for event in links.events if event.code == 74]
    assert failed
    for event in failed:
        node = links.node[event.node]
        switches = [
            e for e in links.events if e.kind == "sxid" and e.node == event.node and e.event_ms > event.event_ms
        ]
        fatal = next(e for e in switches if e.code == 20034)
        assert fatal.event_ms - event.event_ms < 1000
        assert (fatal.severity, fatal.details["variant"]) == ("critical", "fatal")
        part = next(one for one in links.truth if one.component == nvswitch_id(node.name, fatal.pci))
        root = next(one for one in links.truth if one.fault_id == part.fault_id and one.role == "root")
        assert (part.role, root.gpu) == ("symptom", event.gpu)


def test_a_rack_wide_domain_has_its_switches_elsewhere(links: Run) -> None:
    assert {links.node[event.node].kind for event in links.events if event.kind == "sxid"} == {"hgx"}


def test_no_two_links_of_a_node_lead_to_the_same_port_of_a_switch() -> None:
    (node, *_) = build((RackSpec(kind="hgx", racks=1, nodes=1),), seed=1)
    ends = [other_end(node, gpu, link) for gpu in node.gpus for link in range(node.platform.links)]
    assert len(set(ends)) == len(ends)
    assert {switch for switch, _ in ends} == set(range(len(node.platform.switches)))
    assert all(0 <= port < 64 for _, port in ends)


def test_lost_power_takes_every_node_behind_the_pdu_at_once_and_no_other() -> None:
    run = one_kind("pdu_phase_lost", rate=rate_for("pdu_phase_lost", 6))
    roots = [line for line in run.truth if line.role == "root"]
    assert roots
    for root in roots:
        behind = {node.name for node in run.fleet.nodes if f"pdu:{node.pdu}" == root.component}
        hit = {line.node for line in run.truth if line.fault_id == root.fault_id and line.component.startswith("node:")}
        assert hit == behind
        assert len(behind) > 1
        for line in run.truth:
            if line.fault_id == root.fault_id and line.component.startswith("node:"):
                heard = run.heard(line.node)
                assert not heard[line.first_observable_ms]
                assert heard.get(line.first_observable_ms - TICK_MS, True)


def test_a_leaf_switch_takes_a_port_of_each_of_its_nodes_within_seconds() -> None:
    run = one_kind("leaf_switch_lost", rate=rate_for("leaf_switch_lost", 24))
    root = next(line for line in run.truth if line.role == "root")
    behind = {node.name for node in run.fleet.nodes if f"switch:{node.leaf_switch}" == root.component}
    down = [event for event in run.events if event.kind == "link_flap" and 0 <= event.event_ms - root.start_ms < 3000]

    assert {event.node for event in down} == behind
    assert len({event.details["interface"] for event in down}) == 1
    assert root.first_observable_ms == min(event.event_ms for event in down)
    # a port that is down is down in the samples of the host too
    after = next(step for step in run.steps if step.tick_ms > root.start_ms and step.hosts())
    ports = [port for host in after.hosts() if host.node in behind for port in host.ports if port.state == "down"]
    assert len(ports) in {0, len(behind)}


def test_a_clock_that_is_off_puts_wrong_times_on_everything_the_node_sends() -> None:
    run = one_kind("clock_skews", rate=rate_for("clock_skews"))
    root = next(line for line in run.truth if line.role == "root")
    for step in run.steps[::15]:
        off = {sample.tick_ms - step.tick_ms for sample in step.samples if sample.node == root.node}
        wrong = any(
            one.node == root.node and one.start_ms <= step.tick_ms < (one.cleared_ms or START_MS * 2)
            for one in run.truth
        )
        assert (off != {0}) == wrong
        if wrong:
            assert {event.event_ms > step.tick_ms + 10**9 for event in run.events} <= {False}


def test_a_hung_probe_says_so_and_gives_no_samples_until_it_is_back() -> None:
    run = one_kind("probe_hangs", rate=rate_for("probe_hangs"))
    said = [event for event in run.events if event.kind in {"source_failed", "source_recovered"}]
    roots = [line for line in run.truth if line.role == "root" and line.cleared_ms]
    assert {event.kind for event in said} == {"source_failed", "source_recovered"}
    for line in roots:
        heard = run.heard(line.node)
        assert not any(there for tick, there in heard.items() if line.start_ms <= tick < (line.cleared_ms or 0))


def test_harmless_things_come_by_the_hundred_and_are_marked_as_such() -> None:
    settings = BY_CHANCE.model_copy(update={"fault_rate": 1e-9, "harmless_rate": 20.0, "racks": racks_of(256)})
    run = Run(settings, 8)
    catalog = load()

    assert {line.role for line in run.truth} == {"harmless"}
    codes = Counter(event.code for event in run.events if event.kind == "xid")
    assert set(codes) == {13, 31, 43, 45}
    assert codes.total() > 300
    assert not any(catalog.faults[catalog.of(event).fault_class].pages for event in run.events)


def test_maintenance_is_announced_before_the_rack_goes_down() -> None:
    settings = HEALTHY.model_copy(update={"fault_kinds": ("rack_maintenance",), "fault_rate": 1, "harmless_rate": 3000})
    run = Run(settings, 12)
    announced = [event for event in run.events if event.kind == "maintenance_announced"]
    assert announced
    for event in announced:
        rack = event.details["scope"].removeprefix("rack:")
        down = {
            step.tick_ms: sum(node.rack == rack for node in step.nodes)
            for step in run.steps
            if event.event_ms < step.tick_ms < event.event_ms + 28 * 60_000
        }
        assert all(down.values())
        goodbyes = [e for e in run.events if e.kind == "agent_stopped" and e.rack == rack]
        assert goodbyes or event.event_ms > START_MS + 11 * 3_600_000


def test_a_repeat_offender_breaks_again_in_the_same_place() -> None:
    run = one_kind("gpu_runs_slow", rate=rate_for("gpu_runs_slow", 80))
    by_id = {line.fault_id: line for line in run.truth if line.role == "root"}
    again = [line for line in by_id.values() if line.repeats]

    assert again
    for line in again:
        first = by_id.get(line.repeats)
        if first is not None:
            assert line.component == first.component
            assert first.cleared_ms is not None
            assert line.start_ms > first.cleared_ms


def test_two_faults_never_hold_the_same_node_at_once(everything: Run) -> None:
    spans = defaultdict(list)
    for incident in everything.fleet._world.incidents:
        if not incident.arrival.harmless:
            for node in {part.node for part in incident.arrival.plan.parts if part.role == "root" and part.node}:
                spans[node].append((incident.arrival.plan.begin_s, incident.arrival.plan.clears_s))
    for found in spans.values():
        assert all(before[1] <= after[0] for before, after in pairwise(sorted(found)))


def test_a_fleet_goes_to_files_that_others_can_read(tmp_path: Path) -> None:
    settings = BY_CHANCE.model_copy(
        update={"fault_rate": 20_000, "fault_mix": "even", "duration_s": 1800.0, "harmless_rate": 20.0}
    )
    fleet, truth = run_to_files(settings, tmp_path / "one")
    run_to_files(settings, tmp_path / "two")
    files = sorted(path.name for path in (tmp_path / "one").iterdir())

    assert files == [
        "events.jsonl", "gpu.counters.avro", "gpu.samples.avro", "inventory.jsonl", "node.samples.avro", "truth.jsonl",
    ]  # fmt: skip
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    with (tmp_path / "one/gpu.samples.avro").open("rb") as file:
        samples = list(fastavro.reader(file))
    assert len(samples) <= len(fleet.nodes) * 60
    assert len(samples) > len(fleet.nodes) * 35
    with (tmp_path / "one/node.samples.avro").open("rb") as file:
        hosts = [msgspec.convert(one, NodeSample) for one in fastavro.reader(file)]
    assert {host.source for host in hosts} == {"host", "infiniband"}
    lines = (tmp_path / "one/truth.jsonl").read_bytes().splitlines()
    assert [msgspec.json.decode(line, type=Truth) for line in lines] == truth
    event = msgspec.json.decode((tmp_path / "one/events.jsonl").read_bytes().splitlines()[0])
    assert {"kind", "code", "gpu", "severity", "action", "rule", "event_ms", "raw", "node", "rack"} <= set(event)


def test_so_many_gpus_are_so_many_gpus() -> None:
    assert [sum(len(node.gpus) for node in build(racks_of(gpus), 1)) for gpus in (16, 1024, 2048)] == [16, 1024, 2048]
    with pytest.raises(ValueError, match="too few"):
        racks_of(1)


def test_a_fleet_can_be_built_from_an_inventory() -> None:
    first = SimulatedFleet(BY_CHANCE, START_MS)
    nodes = from_inventory(first.inventory(), seed=1)
    again = SimulatedFleet(BY_CHANCE, START_MS, nodes)

    def of(fleet: SimulatedFleet) -> set[tuple[str, str, str, str]]:
        return {(node.rack, node.name, node.pdu, gpu.serial) for node in fleet.nodes for gpu in node.gpus}

    assert of(first) == of(again)
    assert len(again.step().samples) == len(nodes)
    with pytest.raises(ValueError, match="no node 'hgx-01-n01', but GPUs in it"):
        from_inventory([record for record in first.inventory() if record.kind == "gpu"], seed=1)


def test_a_declared_inventory_can_be_simulated_its_gpus_made_up_where_it_names_none(tmp_path: Path) -> None:
    declared = tmp_path / "fleet.yaml"
    declared.write_text(
        'site: hall-a\ntemplates: {tray: {nodes: "{rack}-n[1-3]", gpus_per_node: 4, sku: GB200 NVL72}}\n'
        "racks:\n  - {name: nvl-7, template: tray}\n"
    )
    fleet = SimulatedFleet(BY_CHANCE.model_copy(update={"inventory": declared}), START_MS)

    assert [(node.rack, node.name, node.kind, len(node.gpus)) for node in fleet.nodes] == [
        ("nvl-7", f"nvl-7-n{number}", "nvl72", 4) for number in (1, 2, 3)
    ]
    assert len({gpu.serial for node in fleet.nodes for gpu in node.gpus}) == 12
