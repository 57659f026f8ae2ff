"""The records of every topic as frozen values; the field lists are those of the `.avsc` files beside this module.

A test holds each class against its schema, field by field, so that the two cannot drift apart.
"""

from __future__ import annotations

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A value that travels through a topic."""


class GpuSample(Record, frozen=True, kw_only=True):
    """One node at one tick: every array has one entry per GPU, in the order of `gpus`; NaN is `not read`."""

    site: str
    rack: str
    node: str
    boot_id: str
    sequence: int
    tick_ms: int
    observed_ms: int
    interval_ms: int = 1000
    gpus: list[str]
    gpu_index: list[int]
    temperature_celsius: list[float] = []
    memory_temperature_celsius: list[float] = []
    temperature_margin_celsius: list[float] = []
    power_watts: list[float] = []
    power_average_watts: list[float] = []
    sm_clock_mhz: list[float] = []
    memory_clock_mhz: list[float] = []
    gpu_utilization_percent: list[float] = []
    memory_utilization_percent: list[float] = []
    sm_active_percent: list[float] = []
    tensor_active_percent: list[float] = []
    dram_active_percent: list[float] = []
    memory_used_bytes: list[float] = []
    bar1_used_bytes: list[float] = []
    fan_speed_percent: list[float] = []
    pcie_tx_bytes_per_second: list[float] = []
    pcie_rx_bytes_per_second: list[float] = []
    nvlink_tx_bytes_per_second: list[float] = []
    nvlink_rx_bytes_per_second: list[float] = []
    nvlink_links_active: list[float] = []
    performance_state: list[float] = []
    encoder_utilization_percent: list[float] = []
    decoder_utilization_percent: list[float] = []
    process_count: list[float] = []
    throttle_reasons: list[int] = []


class HardwareEvent(Record, frozen=True, kw_only=True):
    """Something that happened once on a node (or `count` times, summarised), with its raw text."""

    event_id: str
    site: str
    rack: str
    node: str
    boot_id: str
    sequence: int
    event_ms: int
    observed_ms: int
    source: str
    kind: str
    code: int | None = None
    gpu: str | None = None
    pci: str | None = None
    link: int | None = None
    severity: str
    action: str = "none"
    count: int = 1
    details: dict[str, str] = {}
    raw: str = ""
    last_raw: str | None = None


class InventoryRecord(Record, frozen=True, kw_only=True):
    """Where one component is and what it belongs to; the newest record of a component id replaces the ones before."""

    component: str
    kind: str
    site: str
    rack: str
    node: str | None = None
    slot: int | None = None
    gpu_index: int | None = None
    gpu_uuid: str | None = None
    gpu_serial: str | None = None
    pci: str | None = None
    nvlink_domain: str | None = None
    leaf_switch: str | None = None
    pdu: str | None = None
    chassis_serial: str | None = None
    sku: str | None = None
    driver_version: str | None = None
    vbios_version: str | None = None
    job: str | None = None
    source: str
    seen_ms: int
    removed: bool = False


class Anomaly(Record, frozen=True, kw_only=True):
    """A detector's finding on samples, once when raised and once when cleared."""

    anomaly_id: str
    site: str
    rack: str
    node: str | None = None
    gpu: str | None = None
    component: str
    detector: str
    rule: str
    metric: str | None = None
    fault_class: str
    state: str
    severity: str
    action: str = "none"
    value: float | None = None
    limit: float | None = None
    begin_ms: int
    tick_ms: int
    reason: str


class Evidence(Record, frozen=True, kw_only=True):
    """One piece of evidence of a fault."""

    id: str
    at_ms: int
    source: str
    text: str


class Fault(Record, frozen=True, kw_only=True):
    """One component's problem of one class, at one revision of its life."""

    fault_id: str
    revision: int
    state: str
    site: str
    rack: str
    node: str | None = None
    gpu: str | None = None
    pci: str | None = None
    component: str
    component_kind: str
    fault_class: str
    code: int | None = None
    severity: str
    action: str
    rule: str
    reason: str
    first_ms: int
    last_ms: int
    cleared_ms: int | None = None
    count: int
    evidence: list[Evidence]
    observed_ms: int


class Member(Record, frozen=True, kw_only=True):
    """One fault of an incident, and its role there."""

    fault_id: str
    component: str
    fault_class: str
    code: int | None = None
    role: str
    because: str


class Incident(Record, frozen=True, kw_only=True):
    """Faults that share one cause, at one revision."""

    incident_id: str
    revision: int
    state: str
    page: bool
    site: str
    racks: list[str]
    root: str
    root_fault_id: str
    root_class: str
    root_code: int | None = None
    root_node: str | None = None
    root_gpu: str | None = None
    root_pci: str | None = None
    title: str
    severity: str
    action: str
    reason: str
    score: float
    members: list[Member]
    evidence: list[str]
    first_ms: int
    last_ms: int
    cleared_ms: int | None = None
    observed_ms: int
    decided_ms: int


class DeadLetter(Record, frozen=True, kw_only=True):
    """Bytes that could not be used, as they came, where from, and why."""

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    reader: str
    key: bytes | None = None
    value: bytes
    observed_ms: int


RECORDS: dict[str, type[Record]] = {
    kind.__name__: kind for kind in (GpuSample, HardwareEvent, InventoryRecord, Anomaly, Fault, Incident, DeadLetter)
}
"""Schema name to record class."""
