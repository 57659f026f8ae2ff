"""Bring the topics of `schemas/topics.toml` into being, and say where a cluster's topics are not what it asks for.

What exists is never changed: partitions cannot be taken away, and a retention someone chose may have its reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from infra.errors import OperatorError
from schemas.topics import Topic, topics

_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Drift:
    """One way in which a topic is not what the list asks for."""

    topic: str
    setting: str
    found: str
    wanted: str

    def __str__(self) -> str:
        return f"topic {self.topic}: {self.setting} is {self.found}, the list asks for {self.wanted}"


@dataclass(frozen=True, slots=True)
class Provisioned:
    """What `provision` did and found."""

    created: tuple[str, ...]
    present: tuple[str, ...]
    drift: tuple[Drift, ...]


def wanted(
    partitions: Mapping[str, int] | None = None, retention_hours: Mapping[str, int] | None = None
) -> dict[str, Topic]:
    """The topic list with an installation's own partition counts and retentions laid over it.

    Raises `OperatorError` for a topic that does not exist, and where topics that are keyed alike would no longer have
    the same number of partitions: one stream task must see a whole rack.
    """
    listed = dict(topics())
    for field, changes in (("partitions", partitions or {}), ("retention_hours", retention_hours or {})):
        for name, value in changes.items():
            if name not in listed:
                raise OperatorError(
                    f"kafka.{field} names {name!r}, which is not a topic; topics are {', '.join(listed)}"
                )
            listed[name] = msgspec.structs.replace(listed[name], **{field: value})
    by_rack = {name: topic.partitions for name, topic in listed.items() if topic.key == "rack"}
    if len(set(by_rack.values())) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in by_rack.items())
        raise OperatorError(f"topics keyed by rack need the same number of partitions, found {counts}")
    return listed


@dataclass(frozen=True, slots=True)
class State:
    """What a cluster has of a topic list."""

    present: tuple[str, ...]
    missing: tuple[str, ...]
    drift: tuple[Drift, ...]


def inspect(kafka: Mapping[str, Any], topic_list: Mapping[str, Topic], *, timeout_seconds: float = 30.0) -> State:
    """Look, and change nothing. `kafka` is a librdkafka client configuration. Raises `OperatorError`."""
    return _inspect(AdminClient({**kafka, "log_level": 0}), kafka, topic_list, timeout_seconds)


def provision(
    kafka: Mapping[str, Any], topic_list: Mapping[str, Topic], *, replication: int = 1, timeout_seconds: float = 30.0
) -> Provisioned:
    """Create what is missing and report drift. `kafka` is a librdkafka client configuration. Raises `OperatorError`."""
    admin = AdminClient({**kafka, "log_level": 0})
    state = _inspect(admin, kafka, topic_list, timeout_seconds)
    created = _create(admin, {name: topic_list[name] for name in state.missing}, replication, timeout_seconds)
    return Provisioned(tuple(created), state.present, state.drift)


def _inspect(
    admin: AdminClient, kafka: Mapping[str, Any], topic_list: Mapping[str, Topic], timeout_seconds: float
) -> State:
    try:
        found = admin.list_topics(timeout=timeout_seconds).topics
    except KafkaException as error:
        raise OperatorError(
            f"no Kafka broker answers at {kafka.get('bootstrap.servers')} ({error.args[0].str()}); "
            "start it, or mend kafka.bootstrap"
        ) from error
    present = [name for name in topic_list if name in found]
    drift = [
        Drift(name, "partitions", str(len(found[name].partitions)), str(topic_list[name].partitions))
        for name in present
        if len(found[name].partitions) != topic_list[name].partitions
    ]
    drift += _config_drift(admin, {name: topic_list[name] for name in present}, timeout_seconds)
    return State(tuple(present), tuple(name for name in topic_list if name not in found), tuple(drift))


def configuration(topic: Topic) -> dict[str, str]:
    """The broker-side settings of a topic."""
    return {
        "cleanup.policy": topic.cleanup,
        "retention.ms": str(-1 if topic.retention_hours < 0 else topic.retention_hours * _HOUR_MS),
        "message.timestamp.type": "LogAppendTime" if topic.timestamp == "append" else "CreateTime",
    }


def _create(admin: AdminClient, missing: Mapping[str, Topic], replication: int, timeout_seconds: float) -> list[str]:
    if not missing:
        return []
    orders = [
        NewTopic(name, topic.partitions, replication, config=configuration(topic)) for name, topic in missing.items()
    ]
    created = []
    for name, future in admin.create_topics(orders, request_timeout=timeout_seconds).items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:  # another process was faster
                continue
            raise OperatorError(f"topic {name} could not be created: {error.args[0].str()}") from error
        created.append(name)
    return created


def _config_drift(admin: AdminClient, present: Mapping[str, Topic], timeout_seconds: float) -> list[Drift]:
    if not present:
        return []
    asked = [ConfigResource(ResourceType.TOPIC, name) for name in present]
    drift = []
    for resource, future in admin.describe_configs(asked, request_timeout=timeout_seconds).items():
        try:
            found = future.result()
        except KafkaException:  # a login may be allowed to use a topic and not to read its settings
            continue
        drift += [
            Drift(resource.name, setting, found[setting].value, value)
            for setting, value in configuration(present[resource.name]).items()
            if setting in found and found[setting].value != value
        ]
    return drift
