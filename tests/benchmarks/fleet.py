"""A simulated fleet in real time, end to end: simulator, Kafka, stream worker, loader, ClickHouse on all cores.

Each part is the process that a user starts. What each takes of processor and memory is read from outside, and how far
the two consumer groups are behind from what they have committed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import clickhouse_connect
import numpy as np
import psutil
from confluent_kafka import Consumer, KafkaException, TopicPartition

from infra.clickhouse.launch import launched
from infra.kafka import EmbeddedKafka
from infra.topics import provision, wanted
from schemas.topics import SAMPLES, topics
from sinks.clickhouse.migrate import migrate
from sinks.settings import LoaderSettings
from streams.settings import StreamsSettings
from tests.benchmarks.context import BenchmarkError, Context, Measured, on, quiet

PARTS = ("simulator", "Kafka", "streams", "loader", "ClickHouse")
GPUS_PER_NODE, _NODES_PER_RACK = 8, 8
GPUS_PER_RACK = GPUS_PER_NODE * _NODES_PER_RACK
_LOOK_S = 2.0
_ASK_S = 10.0
_READY_S = 180.0
"""A hundred thousand simulated GPUs take a while to be placed and declared."""
_BATCH_AGE_MS = 10_000
"""Of the loader. Every insert writes a roll-up by minute of every GPU in it, so one that spans ten seconds costs
ClickHouse a fifth of ten that span one; the history is seen that much later, and pages do not wait for it."""
_GATHERS_S = {"streams": 0.0, "loader": _BATCH_AGE_MS / 1000}
"""For how long a consumer waits for more before it writes."""
CONSUMERS = tuple(_GATHERS_S)
_KEPT_PACE = 0.99
"""Of the rate that is asked for: less is a simulator that does not keep up."""


@dataclass(frozen=True, slots=True)
class Look:
    """How things stand at one moment. Records are those of `gpu.samples`: one is a node with its GPUs at a tick."""

    at_s: float
    sent: int
    """Records in Kafka, in all."""
    behind: Mapping[str, int]
    """Consumer (streams, loader) to the records that it has not dealt with."""
    busy_s: Mapping[str, float]
    """Part to the processor time that it has used."""


@dataclass(frozen=True, slots=True)
class Played:
    """What was seen while a fleet of `gpus` played."""

    gpus: int
    looks: Sequence[Look]
    memory_mib: Mapping[str, float]
    """Part to its memory at the end; what processes share is counted once (PSS)."""

    @property
    def seconds(self) -> float:
        """How long was looked."""
        return self.looks[-1].at_s - self.looks[0].at_s

    @property
    def samples_per_s(self) -> float:
        """GPU samples that went into Kafka."""
        return GPUS_PER_NODE * (self.looks[-1].sent - self.looks[0].sent) / self.seconds

    @property
    def kept_pace(self) -> bool:
        """Whether the simulator could send each second what the fleet has to say in a second."""
        return self.samples_per_s >= _KEPT_PACE * self.gpus

    def handled_per_s(self, consumer: str) -> float:
        """GPU samples that a consumer has dealt with."""
        first, last = self.looks[0], self.looks[-1]
        records = (last.sent - last.behind[consumer]) - (first.sent - first.behind[consumer])
        return GPUS_PER_NODE * records / self.seconds

    def behind_s(self, consumer: str) -> tuple[float, float, float]:
        """How many seconds a consumer is behind: the median, the most, and at the end (the mean of the last tenth)."""
        per_s = self.gpus / GPUS_PER_NODE
        seconds = np.array([look.behind[consumer] / per_s for look in self.looks])
        return float(np.median(seconds)), float(seconds.max()), float(seconds[-max(1, len(seconds) // 10) :].mean())

    def growth(self, consumer: str) -> float:
        """By how much a consumer falls further behind: seconds of the fleet per second, by least squares.

        One that gathers is behind by less each time it has written: of it the least in each two batches' time counts.
        """
        per_s = self.gpus / GPUS_PER_NODE
        at, behind = np.array([(look.at_s, look.behind[consumer] / per_s) for look in self.looks]).T
        window_s = 2 * _GATHERS_S[consumer] or _LOOK_S
        begins = np.unique((at - at[0]) // window_s, return_index=True)[1]
        least, when = np.minimum.reduceat(behind, begins), at[begins]
        return float(np.polyfit(when, least, 1)[0]) if len(when) > 1 else 0.0

    def cores(self) -> dict[str, float]:
        """Part to the processor seconds that it takes each second."""
        first, last = self.looks[0].busy_s, self.looks[-1].busy_s
        return {part: (last[part] - first[part]) / self.seconds for part in PARTS}


def play(context: Context, gpus: int, *, warm_up_s: float, seconds: float) -> Played:
    """Let a fleet play and watch it. Raises `BenchmarkError` where a part ends or nothing comes through."""
    racks = -(-gpus // GPUS_PER_RACK)
    fleet = f"{racks * GPUS_PER_RACK:,} GPUs"
    folder = context.scratch / f"fleet-{gpus}"
    database = LoaderSettings().database
    with ExitStack() as stack:
        context.say(f"{fleet}: starting Kafka and ClickHouse")
        stack.enter_context(on(context.cores.measured | context.cores.others))
        stack.enter_context(quiet(context.scratch / "servers.err"))
        broker = stack.enter_context(EmbeddedKafka(folder / "kafka"))
        server = stack.enter_context(launched(folder / "clickhouse"))
        provision({"bootstrap.servers": broker.bootstrap}, wanted())
        login = {"host": server.host, "port": server.port, "username": server.username, "password": server.password}
        client = clickhouse_connect.get_client(**login)
        stack.callback(client.close)
        migrate(client, database)
        settings = {
            "KAFKA__BOOTSTRAP": broker.bootstrap,
            **{f"CLICKHOUSE__{name.upper()}": str(value) for name, value in login.items()},
            "LOADER__BATCH_AGE_MS": str(_BATCH_AGE_MS),
            "SIMULATE__RACKS": f'[{{"kind": "hgx", "racks": {racks}, "nodes": {_NODES_PER_RACK}}}]',
            "SIMULATE__DURATION_S": "86400",
            "SIMULATE__FAULTS": "[]",
        }
        context.say(f"{fleet}: starting the stream worker, the loader and the simulator")
        roles = {"simulator": "simulate", "streams": "streams", "loader": "loader"}
        started = {name: stack.enter_context(context.command(role, settings)) for name, role in roles.items()}
        pids = {name: one.pid for name, one in started.items()} | {"Kafka": broker.pid, "ClickHouse": server.pid}
        parts = {name: psutil.Process(pids[name]) for name in PARTS}
        watch = stack.enter_context(_Watch(broker.bootstrap))
        deadline = time.monotonic() + _READY_S
        while not watch.flows():
            if time.monotonic() > deadline:
                raise BenchmarkError(f"of {fleet} nothing came through within {_READY_S:.0f} s")
            _sleep(_LOOK_S, started)
        context.say(f"{fleet}: warming up for {warm_up_s:.0f} s")
        _sleep(warm_up_s, started)
        looks: list[Look] = []
        began = time.monotonic()
        while not looks or looks[-1].at_s < seconds:
            _sleep(began + _LOOK_S * len(looks) - time.monotonic(), started)
            looks.append(watch.look(time.monotonic() - began, parts))
            behind = ", ".join(f"{name} {records:,}" for name, records in looks[-1].behind.items())
            context.say(f"{fleet}: {looks[-1].at_s:.0f} of {seconds:.0f} s; records behind: {behind}")
        memory = {name: _memory_mib(process) for name, process in parts.items()}
    return Played(racks * GPUS_PER_RACK, looks, memory)


class _Watch:
    """Kafka and processes, from outside."""

    def __init__(self, bootstrap: str) -> None:
        groups = {"streams": StreamsSettings().app_id, "loader": LoaderSettings().group}
        self._places = [TopicPartition(SAMPLES, number) for number in range(topics()[SAMPLES].partitions)]
        self._consumers = {
            name: Consumer({"bootstrap.servers": bootstrap, "group.id": group, "log_level": 0})
            for name, group in groups.items()
        }

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        for consumer in self._consumers.values():
            consumer.close()

    def flows(self) -> bool:
        """Whether both consumers have dealt with something."""
        return all(self._done(name) for name in self._consumers)

    def look(self, at_s: float, parts: Mapping[str, psutil.Process]) -> Look:
        """How things stand now."""
        busy = {name: _busy_s(process) for name, process in parts.items()}
        done = {name: self._done(name) for name in self._consumers}
        asked = self._consumers["streams"]
        sent = sum(asked.get_watermark_offsets(place, timeout=_ASK_S)[1] for place in self._places)
        return Look(at_s, sent, {name: max(0, sent - records) for name, records in done.items()}, busy)

    def _done(self, name: str) -> int:
        """Records that a consumer has committed."""
        try:
            committed = self._consumers[name].committed(self._places, timeout=_ASK_S)
        except KafkaException:
            return 0  # a broker that has just begun does not know its groups yet
        return sum(max(0, place.offset) for place in committed)


def _busy_s(process: psutil.Process) -> float:
    return sum(times.user + times.system for times in (one.cpu_times() for one in _family(process)))


def _memory_mib(process: psutil.Process) -> float:
    return float(sum(one.memory_full_info().pss for one in _family(process)) / 2**20)


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _sleep(seconds: float, started: Mapping[str, Measured]) -> None:
    time.sleep(max(0.0, seconds))
    for process in started.values():
        process.alive()
