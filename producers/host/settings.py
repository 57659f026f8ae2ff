"""What can be set on the source of the host."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class HostSettings(BaseModel):
    """The host of one node. Where two limits are given, what began at the first ends at the second."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(default=True, description="Whether the host is read.")
    interval_ms: int = Field(default=10_000, ge=1000, le=3_600_000, description="How often the host is read.")
    proc: Path = Field(default=Path("/proc"), description="Where the kernel's process file system is mounted.")
    sys: Path = Field(default=Path("/sys"), description="Where the kernel's device file system is mounted.")
    disk_full_percent: float = Field(
        default=95.0, gt=0, le=100, description="A file system filled so far is reported: the system's, the agent's."
    )
    disk_freed_percent: float = Field(
        default=92.0, gt=0, le=100, description="A file system that was full has room again below this."
    )
    memory_exhausted_percent: float = Field(
        default=2.0, ge=0, le=100, description="Available memory below this share of all is reported."
    )
    memory_free_percent: float = Field(
        default=5.0, ge=0, le=100, description="Memory that was exhausted is free again above this."
    )
    thrashing_percent: float = Field(
        default=20.0,
        gt=0,
        le=100,
        description="Share of time in which all programs wait for memory (PSI full) that is thrashing.",
    )
    thrashing_over_percent: float = Field(default=5.0, ge=0, le=100, description="Thrashing is over below this.")
    swapping_bytes_per_second: float = Field(
        default=32 * 1024 * 1024,
        gt=0,
        description="Where the kernel tells no pressure: read from swap, and written to it, both faster than this is "
        "thrashing.",
    )
    memory_s: float = Field(
        default=30.0, ge=0, description="Memory that is exhausted or thrashing is reported when it lasts so long."
    )
    clock_error_s: float = Field(
        default=4.0,
        gt=0,
        description="A clock that may be off by more is not synchronised. The kernel adds 0.5 ms each second in which "
        "nobody disciplines it, so 4 s are 2 hours; daemons ask their servers at least each half hour.",
    )
    clock_s: float = Field(
        default=300.0, ge=0, description="A clock is reported when it lasts so long: after a boot it takes a while."
    )
