"""The topic list is a contract: what it must hold for one stream task to see a whole rack."""

from __future__ import annotations

import re

import pytest

from schemas import topics as names
from schemas.records import RECORDS
from schemas.topics import Topic, topics


def test_every_topic_has_a_schema_of_ours_or_says_none() -> None:
    for name, topic in topics().items():
        assert topic.schema == "none" or topic.schema in RECORDS, name


def test_every_record_has_a_topic() -> None:
    assert {topic.schema for topic in topics().values()} - {"none"} == set(RECORDS)


def test_a_schema_file_is_named_after_its_topic() -> None:
    from schemas.registry import FOLDER, parse

    of_topic = {name: topic.schema for name, topic in topics().items() if topic.schema != "none"}
    of_file = {path.stem: parse(path.read_bytes(), current=True).name for path in FOLDER.glob("*.avsc")}
    assert of_file == of_topic


def test_the_names_in_code_are_the_names_in_the_list() -> None:
    constants = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    assert constants == set(topics())


def keyed_by(key: str) -> dict[str, Topic]:
    return {name: topic for name, topic in topics().items() if topic.key == key}


@pytest.mark.parametrize("key", ["rack", "site"])
def test_topics_with_the_same_key_share_one_partition_count(key: str) -> None:
    assert len({topic.partitions for topic in keyed_by(key).values()}) == 1


def test_the_memory_of_the_streams_has_a_place_for_every_partition_they_work_on() -> None:
    worked_on = [names.SAMPLES, names.EVENTS, names.ANOMALIES, names.FAULTS]
    assert topics()[names.STREAMS_STATE].partitions >= max(topics()[name].partitions for name in worked_on)


def test_what_must_outlive_time_is_compacted_and_kept() -> None:
    for name in (names.INVENTORY, names.STREAMS_STATE):
        assert (topics()[name].cleanup, topics()[name].retention_hours) == ("compact", -1)


def test_records_are_stamped_by_the_broker() -> None:
    # so that a node whose clock is wrong can be told, and a replay of an old log is not deleted at once
    assert {topic.timestamp for topic in topics().values()} == {"append"}


def test_every_topic_says_in_a_sentence_what_it_is_for() -> None:
    for name, topic in topics().items():
        assert re.fullmatch(r"[A-Z].{20,}\.", topic.purpose), name
