"""Correlation alone, no Kafka: fault records beside a thousand incidents that are open; the best of some passes."""

from __future__ import annotations

import dataclasses
import gc
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from msgspec.structs import replace

from schemas.catalog import load
from schemas.catalog.causes import causes
from schemas.codec import SingleObjectCodec
from schemas.ids import gpu_id, node_id, stable_id
from schemas.records import Evidence, Fault, InventoryRecord
from schemas.topics import FAULTS
from streams.correlation import Correlator
from streams.garbage import collect_seldom
from streams.partitions import IncidentPartition
from streams.readback import Record
from streams.settings import StreamsSettings
from streams.topology import Topology

_START_MS = 1_790_000_000_000
_RUN = 2000
_PASSES = 3
_APART_MS = 60_000
"""What is open has come so far apart."""
_NODES_A_RACK, _GPUS_A_NODE, _NODES_A_JOB = 4, 8, 4
_SYMPTOMS = ("gpu_silent", "nvlink", "nvlink", "nvlink", "application", "application", "application")
_STORM, _PROGRAMS = 0.75, 0.245
"""Shares of what comes: repeats of what is open, errors of programs all over the fleet. The rest breaks and ends, each
time with some fifteen records: a twelfth of all."""


class Fleet:
    """Nodes of eight GPUs with jobs across racks, and the faults on them."""

    def __init__(self, nodes: int) -> None:
        self.nodes = [f"r{number // _NODES_A_RACK}-n{number}" for number in range(nodes)]
        self.topology = Topology()
        for number, node in enumerate(self.nodes):
            self._learn(f"node:{node}", node, pdu=f"pdu{number // 2}", leaf_switch=f"leaf{number // 16}")
            for slot in range(_GPUS_A_NODE):
                self._learn(f"gpu:{node}-{slot}", node, job=f"job{number // _NODES_A_JOB}")
        self._chance = random.Random(7)
        self._made = 0

    def _learn(self, component: str, node: str, **fields: Any) -> None:
        kind, rack = component.partition(":")[0], node.partition("-")[0]
        self.topology.learn(
            InventoryRecord(
                component=component, kind=kind, site="hall-a", rack=rack, node=node, source="declared",
                seen_ms=_START_MS, **fields,
            )
        )  # fmt: skip

    def fault(
        self, fault_class: str, code: int | None, node: str, slot: int | None, at_ms: int, **fields: Any
    ) -> Fault:
        """A new fault of a GPU, or of a node where `slot` is None."""
        self._made += 1
        gpu = None if slot is None else f"{node}-{slot}"
        line = f"NVRM: Xid (PCI:0000:2a:00): {code}, pid=1234, name=python3, something is wrong with {gpu or node}"
        given: dict[str, Any] = {"severity": "critical", "action": "reset_gpu"} | fields
        return Fault(
            fault_id=stable_id("bench", self._made), revision=1, state="open", site="hall-a",
            rack=node.partition("-")[0], node=node, gpu=gpu, component=gpu_id(gpu) if gpu else node_id(node),
            component_kind="gpu" if gpu else "node", fault_class=fault_class, code=code, rule=f"xid.{code}",
            reason="because", first_ms=at_ms, last_ms=at_ms, count=1, observed_ms=at_ms,
            job=self.topology.job(gpu, at_ms),
            evidence=[Evidence(id=stable_id("line", self._made), at_ms=at_ms, source="kernel_log", text=line)],
            **given,
        )  # fmt: skip

    def lost(self, number: int, at_ms: int) -> list[Fault]:
        """A GPU that is lost, and what its neighbours and its job say of it."""
        node = self.nodes[number % len(self.nodes)]
        found = [self.fault("gpu_lost", 79, node, 0, at_ms)]
        for slot, fault_class in enumerate(_SYMPTOMS):
            code = {"nvlink": 74, "application": 45}.get(fault_class)
            severity = "info" if fault_class == "application" else "critical"
            found.append(self.fault(fault_class, code, node, slot, at_ms + 100 * slot, severity=severity))
        return found

    def log(self, standing: list[Fault], records: int, at_ms: int) -> list[Fault]:
        """Records as they come while all that stands goes on: mostly repeats, many programs that die, some news."""
        chance, newest = self._chance, {one.fault_id: one for one in standing}
        ids, came, number = list(newest), [], 0
        while len(came) < records:
            drawn, now_ms = chance.random(), at_ms + 40 * len(came) // 1000
            if drawn < _STORM:
                one = newest[chance.choice(ids)]
                again = replace(one, revision=one.revision + 1, state="updated", count=one.count + 1, last_ms=now_ms)
                newest[one.fault_id] = again
                came.append(again)
            elif drawn < _STORM + _PROGRAMS:
                node, slot = chance.choice(self.nodes), chance.randrange(_GPUS_A_NODE)
                came.append(self.fault("application", 31, node, slot, now_ms, severity="info", action="none"))
            else:
                number += 1
                broken = self.lost(chance.randrange(len(self.nodes)), now_ms)
                came += broken
                came += [replace(one, revision=2, state="cleared", cleared_ms=now_ms) for one in broken]
        return came[:records]


def main(given: dict[str, Any]) -> None:
    """`given`: how many incidents are open, and how many records come."""
    catalog, table, codec = load(), causes(), SingleObjectCodec()
    found: dict[str, Any] = {}
    alone, whole = [], []
    fleet = Fleet(nodes=max(given["incidents"], 64))
    standing = [
        one for number in range(given["incidents"]) for one in fleet.lost(number, _START_MS + _APART_MS * number)
    ]
    at_ms = _START_MS + _APART_MS * given["incidents"]
    log = fleet.log(standing, given["records"], at_ms)
    messages = [Record(FAULTS, 0, at, at_ms, b"hall-a", codec.encode(one)) for at, one in enumerate(log)]
    collect_seldom()
    gc.freeze()  # in life a record is gone when it is taken in: the collector need not look through them all
    for _ in range(_PASSES):
        correlator = Correlator(catalog, table, fleet.topology, settle_ms=1000)

        def take(run: list[Fault], now_ms: int, correlator: Correlator = correlator) -> int:
            for one in run:
                correlator.on_fault(one, now_ms)
            written = correlator.advance(now_ms)
            correlator.changes()
            return len(written)

        for one in standing:
            take([one], one.first_ms)
        correlator.advance(at_ms)
        found |= {"open": len(correlator), "standing": len(standing)}
        alone.append(_rate(log, take, at_ms))
    for _ in range(_PASSES):
        partition = IncidentPartition(StreamsSettings(), catalog, table, fleet.topology, codec, {}, {FAULTS: 10**9})
        for number, one in enumerate(standing):
            partition.run([Record(FAULTS, 0, number, one.first_ms, b"hall-a", codec.encode(one))], one.first_ms)
        later = [dataclasses.replace(message, offset=message.offset + len(standing)) for message in messages]
        whole.append(_rate(later, partition.run, at_ms))
    print(json.dumps(found | {"correlator": max(alone), "partition": max(whole)}))


def _rate(things: list[Any], take: Callable[[list[Any], int], object], at_ms: int) -> tuple[float, float]:
    """Records a second, in runs as a worker gets them, and the share of the core that they had.

    The clock goes on with what is measured.
    """
    began, used = time.perf_counter(), time.process_time()
    for run in _runs(things):
        take(run, at_ms + 1000 + round((time.perf_counter() - began) * 1000))
    lasted = time.perf_counter() - began
    return len(things) / lasted, (time.process_time() - used) / lasted


def _runs(things: list[Any]) -> Iterator[list[Any]]:
    for at in range(0, len(things), _RUN):
        yield things[at : at + _RUN]


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
