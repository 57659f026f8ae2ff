"""What can be set on the two sources that DCGM feeds."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ExporterSettings(_Settings):
    """Metrics of a dcgm-exporter that runs on this node."""

    url: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="Its page, such as http://127.0.0.1:9400/metrics; not read if not given.",
    )
    samples: bool = Field(
        default=False,
        description="Its metrics stand in for NVML and are sent as GPU samples; otherwise its counters only.",
    )
    interval_ms: int = Field(
        default=15_000,
        ge=500,
        le=3_600_000,
        description="How often the page is read; the exporter renews it every 30 s unless it is told otherwise.",
    )
    timeout_s: float = Field(default=5.0, gt=0, le=60, description="How long the exporter may take for its page.")
    page_mib: int = Field(default=16, ge=1, le=256, description="A page that is longer is not read.")
    frozen_s: float = Field(
        default=300,
        gt=0,
        description="The energy that GPUs have used must grow within this time, else the page is taken for an old one.",
    )
    xid_events: bool = Field(
        default=False,
        description="Send an event when a GPU's last XID changes, where the kernel log (it tells more) cannot be read.",
    )
    authorization_file: Path | None = Field(
        default=None, description="A file with the value of the Authorization header, where the exporter wants one."
    )


class DiagnosticsSettings(_Settings):
    """Runs of `dcgmi diag` on this node."""

    level: int = Field(
        default=1,
        ge=1,
        le=4,
        description="Of scheduled runs. 1: seconds, looks at the setup; 2: minutes; 3: half an hour; 4: hours.",
    )
    every_hours: float | None = Field(
        default=None, gt=0, description="Time between scheduled runs; runs on request only if not given."
    )
    from_hour: int = Field(
        default=0, ge=0, le=23, description="Scheduled runs start from this hour of the day on, UTC."
    )
    until_hour: int = Field(
        default=24, ge=1, le=24, description="And before this one; earlier than from_hour is past midnight."
    )
    spread_minutes: float = Field(
        default=60,
        ge=0,
        le=1440,
        description="Nodes start spread over this time, by their names: a fleet that loads at once trips breakers.",
    )
    retry_minutes: float = Field(
        default=10, gt=0, description="A scheduled run that a job kept from starting is tried again after this time."
    )
    command: str = Field(default="dcgmi", min_length=1, description="The dcgmi program: a name on the PATH, or a path.")
    arguments: tuple[str, ...] = Field(
        default=(), description="More arguments of dcgmi diag, such as --parameters and memtest.test0=true."
    )
    timeout_s: tuple[float, float, float, float] = Field(
        default=(300, 900, 5400, 21_600),
        description="How long a run of level 1, 2, 3 and 4 may take before it is killed.",
    )
    force: bool = Field(
        default=False,
        description="Start scheduled runs although jobs hold GPUs. The jobs will suffer, or fail the run.",
    )
