"""What can be set on the source of InfiniBand ports."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from producers.infiniband.tree import SYSFS


class InfiniBandSettings(BaseModel):
    """The InfiniBand and RoCE ports of one node."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(default=True, description="Whether ports are read. A node without any says nothing.")
    interval_ms: int = Field(default=10_000, ge=1000, le=3_600_000, description="How often ports are read.")
    tree: Path = Field(default=SYSFS, description="Where the kernel shows the devices.")
    down_s: float = Field(
        default=60.0,
        ge=0,
        description="A port that was active is critical when it is down for so long: links train within some seconds.",
    )
    slow_s: float = Field(
        default=20.0, ge=0, description="A port that is slower than its peers is reported when it is so for so long."
    )
