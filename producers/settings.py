"""What can be set on the agent, its publisher and the simulated fleet. Values only: nothing is read here."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from producers.dcgm.settings import DiagnosticsSettings, ExporterSettings
from producers.facility.settings import FacilitySettings
from producers.host.settings import HostSettings
from producers.infiniband.settings import InfiniBandSettings

FaultName = Literal["gpu_falls_off_bus", "gpu_overheats", "nvlink_fails", "node_goes_silent"]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PublisherSettings(_Settings):
    """How records travel to Kafka."""

    compression: Literal["zstd", "lz4"] = Field(
        default="zstd", description="Compression of what is sent. zstd makes less of it, lz4 costs less processor time."
    )
    linger_ms: int = Field(
        default=50, ge=0, le=5000, description="How long a record may wait for others to travel with."
    )
    queue_records: int = Field(
        default=10_000, ge=100, description="Records in memory at most; what comes on top goes to the spool on disk."
    )
    spool_mib: int = Field(
        default=256,
        ge=1,
        description="Disk for what cannot be sent while the broker is away; the oldest samples go first.",
    )
    flush_s: float = Field(
        default=5.0, ge=0, description="How long a stop waits for the broker before the rest goes to the spool."
    )


class AgentSettings(_Settings):
    """The agent of one node."""

    site: str = Field(default="default", min_length=1, description="The data hall or region this node is in.")
    rack: str = Field(default="unknown", min_length=1, description="The rack this node is in; records are keyed by it.")
    node: str = Field(
        default_factory=socket.gethostname, min_length=1, description="This node's name; the host name if not given."
    )
    slot: int | None = Field(default=None, description="Rack unit or tray of this node.")
    nvlink_domain: str | None = Field(default=None, description="The NVLink domain, where the driver does not tell.")
    leaf_switch: str | None = Field(default=None, description="The leaf switch of the node's fabric ports.")
    pdu: str | None = Field(default=None, description="The PDU or power shelf that feeds this node.")
    interval_ms: int = Field(default=1000, ge=100, le=3_600_000, description="How often GPUs are read.")
    counters_interval_ms: int = Field(
        default=30_000,
        ge=1000,
        le=3_600_000,
        description="How often the GPUs' error counters, limits and modes are read.",
    )
    deadline_ms: int = Field(
        default=1000, ge=50, description="A read that takes longer is reported as hanging, and its ticks are skipped."
    )
    kernel_logs: tuple[Path, ...] = Field(
        default=(Path("/dev/kmsg"),),
        description="Where kernel messages are read: /dev/kmsg, log files that are followed, or journal: for journald.",
    )
    kernel_log_interval_ms: int = Field(
        default=250,
        ge=50,
        le=60_000,
        description="How often kernel logs are read at most; where nobody tells that there is more, how often they are "
        "looked at.",
    )
    inventory_interval_s: int = Field(
        default=600, ge=1, description="How often the inventory is sent although it is the same."
    )
    state_dir: Path = Field(
        default=Path("var/agent"),
        description="Where the agent keeps what must survive a restart: cursors, known GPUs, spool.",
    )
    catalog: Path | None = Field(
        default=None, description="A catalogue file of your own, layered over the one that ships."
    )
    host: HostSettings = HostSettings()
    infiniband: InfiniBandSettings = InfiniBandSettings()
    dcgm_exporter: ExporterSettings = ExporterSettings()
    dcgm_diag: DiagnosticsSettings = DiagnosticsSettings()
    facility: FacilitySettings = FacilitySettings()
    publish: PublisherSettings = PublisherSettings()


class RackSpec(_Settings):
    """Racks of one kind in the simulated fleet."""

    kind: Literal["hgx", "nvl72"] = Field(
        default="hgx",
        description="hgx: nodes of 8 GPUs, an NVLink domain each. nvl72: trays of 4 GPUs, one domain per rack.",
    )
    racks: int = Field(default=1, ge=1, description="How many of them.")
    nodes: int | None = Field(
        default=None, ge=1, le=64, description="Nodes per rack: 4 (hgx) or 18 (nvl72) if not given."
    )


class Injection(_Settings):
    """One fault at one place and time."""

    fault: FaultName
    at_s: float = Field(ge=0, description="Seconds after the simulation's first tick.")
    node: str = Field(description="The node's name, such as hgx-01-n02.")
    gpu: int = Field(
        default=0, ge=0, description="The GPU's index in its node; of no meaning where the node goes silent."
    )
    clear_after_s: float | None = Field(
        default=None, gt=0, description="When the repair is done, counted from at_s. Left out: it stays."
    )
    warns_s: float = Field(
        default=0.0,
        ge=0,
        description="So long before at_s the link of an nvlink_fails begins to train again and again.",
    )


class SimulateSettings(_Settings):
    """The simulated fleet."""

    site: str = Field(default="demo", min_length=1, description="The site the simulated racks are in.")
    racks: tuple[RackSpec, ...] = Field(
        (RackSpec(kind="hgx", racks=2), RackSpec(kind="nvl72", racks=2)), min_length=1, description="The racks."
    )
    inventory: Path | None = Field(
        default=None, description="A declared inventory (YAML or CSV) whose nodes are simulated, instead of racks."
    )
    racks_per_leaf: int = Field(default=1, ge=1, description="Neighbouring racks of a kind that share a leaf switch.")
    interval_ms: int = Field(default=1000, ge=100, le=60_000, description="Time between ticks.")
    counters_interval_s: int = Field(default=30, ge=1, description="Time between two readings of the error counters.")
    host_interval_s: int = Field(
        default=60, ge=1, description="Time between two samples of the hosts and their fabric ports."
    )
    duration_s: float | None = Field(
        default=90.0, gt=0, description="How long it runs, in the fleet's own time; none: until it is stopped."
    )
    warmup_s: float = Field(default=15.0, ge=0, description="Healthy time before the first scripted fault.")
    seed: int = Field(default=1, ge=0, description="The same seed gives the same fleet, jobs, noise and faults.")
    faults: tuple[FaultName, ...] = Field(
        ("gpu_falls_off_bus", "gpu_overheats", "node_goes_silent", "nvlink_fails"),
        description="Scripted faults, one of each, each in a rack of its own where there are enough racks.",
    )
    inject: tuple[Injection, ...] = Field(default=(), description="More faults, at given places and times.")
    fault_rate: float = Field(
        default=0.0,
        ge=0,
        description="Faults of the library come by chance: so many times as often as published (1: as often); 0: none.",
    )
    fault_mix: Literal["published", "even"] = Field(
        default="published",
        description="published: each kind as often as in real fleets. even: as many faults, every kind as often.",
    )
    fault_kinds: tuple[str, ...] = Field(
        default=(), description="Only these kinds of the library, as in producers/simulate/library.toml; empty: all."
    )
    harmless_rate: float = Field(
        default=1.0,
        ge=0,
        description="The same as fault_rate for what is no fault, such as program errors; only where that is above 0.",
    )
    application_errors: bool = Field(
        default=True, description="Now and then a job fails by its own fault (XID 13, 31, 43), which must wake nobody."
    )
    speed: float = Field(
        default=1.0,
        ge=0,
        description="1 is real time, 10 ten times faster, 0 as fast as it goes; times then lie in the past.",
    )
    start_ms: int | None = Field(
        default=None, description="Event time of the first tick; now (speed 1), or as long ago as the simulation lasts."
    )
    truth_path: Path | None = Field(
        default=None, description="Where the injected faults are written, a JSON line each."
    )
    publish: PublisherSettings = PublisherSettings(queue_records=100_000)
