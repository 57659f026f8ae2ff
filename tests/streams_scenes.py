"""Records as the stream processors meet them, with everything that a test does not care about filled in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from schemas.codec import SingleObjectCodec
from schemas.ids import gpu_id, node_id, stable_id
from schemas.records import Anomaly, Fault, GpuCounters, GpuSample, HardwareEvent, InventoryRecord, Record
from schemas.topics import ANOMALIES, COUNTERS, EVENTS, FAULTS, SAMPLES
from streams.readings.columns import SampleColumns
from streams.readings.decode import SampleDecoder

CODEC = SingleObjectCodec()
START_MS = 1_700_000_000_000
"""Where scenes begin: on a tick."""

_TOPIC_OF = {GpuSample: SAMPLES, GpuCounters: COUNTERS, HardwareEvent: EVENTS, Anomaly: ANOMALIES, Fault: FAULTS}


@dataclass(frozen=True, slots=True)
class Message:
    """A record in a Kafka log."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


def message(what: Record | bytes | None, offset: int = 0, at_ms: int | None = None, topic: str = SAMPLES) -> Message:
    """One message; it reached Kafka at `at_ms`, or just when the record says."""
    if not isinstance(what, Record):
        return Message(topic, 0, offset, START_MS if at_ms is None else at_ms, None, what)
    said = (getattr(what, name, None) for name in ("tick_ms", "event_ms", "last_ms"))
    says = next((one for one in said if isinstance(one, int)), START_MS)
    return Message(_TOPIC_OF[type(what)], 0, offset, says if at_ms is None else at_ms, None, CODEC.encode(what))


def log(records: Iterable[Record | bytes | Message | None], first: int = 0) -> list[Message]:
    """Messages with growing offsets."""
    made = [one if isinstance(one, Message) else message(one) for one in records]
    return [replace(one, offset=offset) for offset, one in enumerate(made, first)]


def sample(
    node: str = "n1",
    at_s: float = 0,
    gpus: Sequence[str] | int = 2,
    *,
    rack: str = "r1",
    interval_ms: int = 1000,
    **fields: Any,
) -> GpuSample:
    """A node's sample, `at_s` after the start; `gpus` are its serials, or how many (`n1-0`, `n1-1`, …).

    A metric given as a number is that of every GPU. Where none is given, all are 50 °C warm.
    """
    names = [f"{node}-{index}" for index in range(gpus)] if isinstance(gpus, int) else list(gpus)
    tick_ms = START_MS + round(at_s * 1000)
    columns = {"temperature_celsius": 50.0} | fields
    return GpuSample(
        site="hall-a",
        rack=rack,
        node=node,
        boot_id="boot-1",
        sequence=round(at_s * 1000),
        tick_ms=tick_ms,
        observed_ms=tick_ms + 20,
        interval_ms=interval_ms,
        gpus=names,
        gpu_index=list(range(len(names))),
        **{name: value if isinstance(value, list) else [value] * len(names) for name, value in columns.items()},
    )


def counters(
    node: str = "n1",
    at_s: float = 0,
    gpus: Sequence[str] | int = 2,
    *,
    rack: str = "r1",
    source: str = "nvml",
    boot_id: str = "boot-1",
    interval_ms: int = 30_000,
    **fields: Any,
) -> GpuCounters:
    """A node's counters, `at_s` after the start, in the manner of `sample`; a number is that of every GPU."""
    names = [f"{node}-{index}" for index in range(gpus)] if isinstance(gpus, int) else list(gpus)
    tick_ms = START_MS + round(at_s * 1000)
    return GpuCounters(
        site="hall-a",
        rack=rack,
        node=node,
        boot_id=boot_id,
        sequence=round(at_s * 1000),
        tick_ms=tick_ms,
        observed_ms=tick_ms + 20,
        interval_ms=interval_ms,
        source=source,
        gpus=names,
        gpu_index=list(range(len(names))),
        **{name: value if isinstance(value, list) else [float(value)] * len(names) for name, value in fields.items()},
    )


def event(
    kind: str = "xid",
    code: int | None = None,
    *,
    at_s: float = 0,
    node: str = "n1",
    gpu: str | None = "n1-0",
    rack: str = "r1",
    event_id: str | None = None,
    **fields: Any,
) -> HardwareEvent:
    """A hardware event; its id is made of what it is, unless one is given."""
    event_ms = START_MS + round(at_s * 1000)
    given: dict[str, Any] = {
        "site": "hall-a",
        "boot_id": "boot-1",
        "sequence": 0,
        "event_ms": event_ms,
        "observed_ms": event_ms + 30,
        "source": "kernel_log",
        "severity": "warning",
        "raw": f"{kind} {code or ''} on {gpu or node}",
    }
    identity = event_id or stable_id(kind, code, node, gpu, at_s, sorted(fields.items()))
    return HardwareEvent(event_id=identity, kind=kind, code=code, node=node, gpu=gpu, rack=rack, **(given | fields))


def anomaly(
    rule: str = "gpu_silent",
    state: str = "raised",
    *,
    at_s: float = 0,
    begin_s: float = 0,
    gpu: str | None = "n1-0",
    node: str = "n1",
    rack: str = "r1",
    **fields: Any,
) -> Anomaly:
    """A finding of the silence detector (`gpu_silent`, `node_silent`) or of a threshold (`gpu_hot`, …)."""
    silence = rule in {"gpu_silent", "node_silent"}
    component = gpu_id(gpu) if gpu else node_id(node)
    begin_ms = START_MS + round(begin_s * 1000)
    given: dict[str, Any] = {
        "anomaly_id": stable_id(rule, component, begin_ms),
        "site": "hall-a",
        "detector": "silence" if silence else "threshold",
        "fault_class": rule if silence else "thermal",
        "severity": "critical",
        "action": "drain_and_diagnose",
        "tick_ms": START_MS + round(at_s * 1000),
        "reason": "because",
    }
    return Anomaly(
        rule=rule,
        state=state,
        component=component,
        gpu=gpu,
        node=node,
        rack=rack,
        begin_ms=begin_ms,
        **(given | fields),
    )


def fault(
    fault_class: str = "gpu_lost",
    code: int | None = None,
    *,
    at_s: float = 0,
    gpu: str | None = "n1-0",
    node: str = "n1",
    rack: str = "r1",
    revision: int = 1,
    state: str = "open",
    **fields: Any,
) -> Fault:
    """A fault of a GPU, or of a node where `gpu` is None."""
    component = gpu_id(gpu) if gpu else node_id(node)
    first_ms = START_MS + round(at_s * 1000)
    given: dict[str, Any] = {
        "fault_id": stable_id(component, fault_class),
        "site": "hall-a",
        "component": component,
        "component_kind": "gpu" if gpu else "node",
        "severity": "critical",
        "action": "reset_gpu",
        "rule": "xid.79",
        "reason": "because",
        "first_ms": first_ms,
        "last_ms": first_ms,
        "count": 1,
        "evidence": [],
        "observed_ms": first_ms,
    }
    return Fault(
        fault_class=fault_class,
        code=code,
        gpu=gpu,
        node=node,
        rack=rack,
        revision=revision,
        state=state,
        **(given | fields),
    )


def in_inventory(component: str, *, rack: str = "r1", site: str = "hall-a", **fields: Any) -> InventoryRecord:
    """An inventory record of `gpu:SERIAL` or `node:NAME`."""
    kind = component.partition(":")[0]
    return InventoryRecord(
        component=component, kind=kind, site=site, rack=rack, source="declared", seen_ms=START_MS, **fields
    )


def columns(records: Iterable[Record | bytes | Message | None]) -> SampleColumns:
    """A run, decoded."""
    decoded = SampleDecoder(CODEC, future_ms=60_000)(log(records)).columns
    assert decoded is not None
    return decoded


def runs(messages: Sequence[Message], cuts: Iterable[int] = ()) -> list[list[Message]]:
    """A log in runs, cut before the given places; without any, it is one run."""
    edges = sorted({0, len(messages), *(cut % (len(messages) + 1) for cut in cuts)})
    return [list(messages[first:end]) for first, end in pairwise(edges)]
