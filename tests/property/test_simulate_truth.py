"""Whatever breaks, wherever and in whatever company: the truth holds together and the records are whole."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.settings import RackSpec, SimulateSettings
from producers.simulate.fleet import SimulatedFleet
from producers.simulate.library import library
from schemas.codec import SingleObjectCodec

START_MS = 1_736_121_600_000
RACKS = (RackSpec(kind="hgx", racks=1, nodes=2), RackSpec(kind="nvl72", racks=1, nodes=2))
KINDS = st.lists(st.sampled_from(sorted(library())), min_size=1, max_size=4, unique=True).map(tuple)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), kinds=KINDS, interval_s=st.sampled_from([1, 7, 30, 60]))
def test_the_truth_holds_together_and_every_record_is_whole(seed: int, kinds: tuple[str, ...], interval_s: int) -> None:
    given_settings = SimulateSettings(
        racks=RACKS,
        faults=(),
        seed=seed,
        fault_rate=60_000,
        fault_mix="even",
        fault_kinds=kinds,
        harmless_rate=100,
        interval_ms=interval_s * 1000,
    )
    fleet, codec = SimulatedFleet(given_settings, START_MS), SingleObjectCodec()
    numbers: dict[tuple[str, str], int] = defaultdict(int)
    sent = []
    for tick in range(60):
        step = fleet.step()
        for values in step.readings.values():
            assert values.shape == (24,)
            assert not np.isinf(values).any()
        for sample in step.samples:
            assert sample.sequence == numbers[sample.node, sample.boot_id]
            numbers[sample.node, sample.boot_id] += 1
        sent = [message for _, message in fleet.encoded(step, step.tick_ms)]
        if tick % 10 == 0:
            assert sorted(sent) == sorted(codec.encode(sample) for sample in step.samples)
        for event in fleet.events(step):
            assert codec.encode(event)
    end_ms = START_MS + 60 * interval_s * 1000
    for line in fleet.truth():
        assert line.fault in kinds
        assert START_MS - 1000 <= line.start_ms <= line.first_observable_ms <= end_ms
        assert line.cleared_ms is None or line.start_ms <= line.cleared_ms <= end_ms
        assert line.component.partition(":")[0] in {"gpu", "node", "rack", "pdu", "switch", "port"}


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), ticks=st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_looking_at_a_fleet_in_pieces_changes_nothing(seed: int, ticks: list[int]) -> None:
    """What was asked of it, and when, leaves no trace: truth may be read between any two ticks."""
    given_settings = SimulateSettings(racks=RACKS, faults=(), seed=seed, fault_rate=30_000, interval_ms=30_000)
    in_pieces, at_once = (SimulatedFleet(given_settings, START_MS) for _ in range(2))
    for piece in ticks:
        for _ in range(piece):
            step = in_pieces.step()
            step.hosts()
            list(in_pieces.encoded(step, step.tick_ms))
        in_pieces.truth()
    for _ in range(sum(ticks)):
        last = at_once.step()

    assert in_pieces.truth() == at_once.truth()
    assert last.samples == step.samples or any(
        np.isnan(values).any() for values in last.readings.values()
    )  # NaN differs from itself
    for name, values in last.readings.items():
        assert np.array_equal(values, step.readings[name], equal_nan=True)
