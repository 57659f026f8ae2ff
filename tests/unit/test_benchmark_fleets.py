"""What the benchmarks of whole fleets reckon from what they saw, and the drawing of it."""

from __future__ import annotations

from xml.dom import minidom

import pytest

from tests.benchmarks.chart import Panel, svg
from tests.benchmarks.fleet import CONSUMERS, PARTS, Look, Played


def played(behind: list[int], per_look: int = 2000, gpus: int = 8000) -> Played:
    """A fleet of 1,000 nodes, looked at each two seconds."""
    looks = [
        Look(2.0 * number, per_look * number, dict.fromkeys(CONSUMERS, records), dict.fromkeys(PARTS, 0.5 * number))
        for number, records in enumerate(behind)
    ]
    return Played(gpus, looks, dict.fromkeys(PARTS, 100.0))


def test_a_fleet_that_is_handled_as_it_comes_is_as_far_behind_as_it_was() -> None:
    steady = played([500, 1500] * 20)
    assert steady.samples_per_s == 8000
    assert steady.kept_pace
    assert steady.behind_s("loader") == pytest.approx((1.0, 1.5, 1.0))
    assert abs(steady.growth("streams")) < 0.01
    assert steady.cores() == dict.fromkeys(PARTS, 0.25)


def test_one_that_is_handled_at_half_its_pace_falls_behind_by_half_a_second_a_second() -> None:
    slow = played([1000 * number for number in range(40)])
    assert slow.growth("streams") == pytest.approx(0.5)
    assert slow.handled_per_s("streams") == pytest.approx(4000)


def test_a_simulator_that_cannot_keep_up_is_told() -> None:
    assert not played([0] * 10, per_look=1900).kept_pace


def test_the_drawing_is_sound_and_has_every_line_and_size() -> None:
    curves = {part: [(1000.0, 0.01 * rank), (100_000.0, 0.5 * rank)] for rank, part in enumerate(PARTS, 1)}
    drawn = svg(Panel("cores", "GPUs", curves), Panel("memory", "GPUs", curves))
    read = minidom.parseString(drawn)  # noqa: S318 - our own
    assert len(read.getElementsByTagName("polyline")) == 2 * len(PARTS)
    said = [one.firstChild.data for one in read.getElementsByTagName("text")]
    assert said.count("100k") == 2
    assert {*PARTS, "cores", "memory", "1k", "10k", "0.01", "0.1"} <= set(said)
