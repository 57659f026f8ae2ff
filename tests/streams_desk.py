"""A correlator at work, with all that it wrote, and the fleets that it watches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from schemas.catalog import load
from schemas.catalog.causes import causes
from schemas.records import Fault, Incident
from streams.correlation import KINDS, Correlator
from streams.topology import Topology
from tests.streams_scenes import START_MS, fault, in_inventory

CATALOG = load()
SETTLE_MS = 1000


def nvl72(rack: str = "nvl1") -> Topology:
    topology = Topology()
    for node in range(18):
        name = f"{rack}-n{node:02}"
        topology.learn(in_inventory(f"node:{name}", rack=rack, nvlink_domain=rack))
        for slot in range(4):
            topology.learn(in_inventory(f"gpu:{name}-{slot}", rack=rack, node=name, nvlink_domain=rack))
    return topology


def hgx(*racks: str, nodes: int = 4) -> Topology:
    topology = Topology()
    for rack in racks:
        for node in range(nodes):
            topology.learn(in_inventory(f"node:{rack}-n{node}", rack=rack))
    return topology


class Desk:
    """A correlator with all that it wrote. Times are seconds of the wall clock."""

    def __init__(self, topology: Topology | None = None) -> None:
        self.topology = topology or Topology()
        self.correlator = Correlator(CATALOG, causes(), self.topology, settle_ms=SETTLE_MS)
        self.written: list[Incident] = []

    def take(self, faults: Iterable[Fault], at_s: float = 0) -> None:
        for one in faults:
            self.correlator.on_fault(one, START_MS + round(at_s * 1000))

    def wait(self, at_s: float) -> list[Incident]:
        found = self.correlator.advance(START_MS + round(at_s * 1000))
        self.written += found
        return found

    def now(self) -> dict[str, Incident]:
        """The newest record of each incident."""
        return {one.incident_id: one for one in self.written}

    def only(self) -> Incident:
        (one,) = self.now().values()
        return one

    def holding(self, one: Fault) -> str:
        """The id of the incident that holds a fault."""
        return self.correlator._held[one.fault_id].incident_id

    def pages(self) -> int:
        return sum(one.page for one in self.written)

    def restarted(self) -> Desk:
        self.correlator._touched.groups = set(self.correlator._groups)
        self.correlator._touched.faults = set(self.correlator._held)
        return self.with_memory(self.correlator.changes())

    def with_memory(self, memory: Mapping[str, bytes | None]) -> Desk:
        """Another one that goes on from what was kept."""
        again = Desk(self.topology)
        again.written = list(self.written)
        for kind in KINDS:
            for key, state in memory.items():
                if key.startswith(f"{kind}|") and state is not None:
                    again.correlator.restore(kind, state)
        again.correlator.restored()
        return again


KEPT_S = 30 * 60 + 60
"""What is over is kept for so long: the same trouble may come back."""


def held_by(desk: Desk) -> int:
    """How much of anything is held after time has gone on."""
    correlator = desk.correlator
    correlator._ties.settle()
    held = (correlator._held, correlator._groups, correlator._members, correlator._fresh, correlator._unspoken)
    return sum(map(len, (*held, correlator._ties)))


def cleared(one: Fault, at_s: float) -> Fault:
    at_ms = START_MS + round(at_s * 1000)
    return replace(one, state="cleared", revision=one.revision + 1, cleared_ms=at_ms)


def nvlink(gpu: str, code: int | None, at_s: float, rack: str = "nvl1", **fields: Any) -> Fault:
    severity, action = ("critical", "reset_gpu") if code == 149 else ("warning", "none")
    given = {"severity": severity, "action": action} | fields
    return fault("nvlink", code, at_s=at_s, gpu=gpu, node=gpu.rpartition("-")[0], rack=rack, **given)


def application(gpu: str, at_s: float, rack: str = "nvl1") -> Fault:
    node = gpu.rpartition("-")[0]
    return fault("application", 45, at_s=at_s, gpu=gpu, node=node, rack=rack, severity="info", action="none")
