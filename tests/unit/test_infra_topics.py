"""The topic list with an installation's own counts over it."""

from __future__ import annotations

import pytest

from infra.errors import OperatorError
from infra.topics import configuration, wanted


def test_topics_that_are_keyed_by_rack_keep_the_same_number_of_partitions() -> None:
    with pytest.raises(OperatorError, match="same number of partitions, found gpu.samples 8, gpu.counters 4"):
        wanted({"gpu.samples": 8})


def test_partitions_can_be_raised_together() -> None:
    names = [name for name, topic in wanted().items() if topic.key == "rack"]
    listed = wanted(dict.fromkeys(names, 16))
    assert {listed[name].partitions for name in names} == {16}


def test_a_topic_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(OperatorError, match="retention_hours names 'gpu.sample', which is not a topic.*gpu.samples"):
        wanted(retention_hours={"gpu.sample": 1})


def test_retention_for_ever_is_minus_one_for_the_broker_too() -> None:
    listed = wanted(retention_hours={"gpu.samples": 2, "hardware.events": -1})
    assert configuration(listed["gpu.samples"])["retention.ms"] == "7200000"
    assert configuration(listed["hardware.events"])["retention.ms"] == "-1"
