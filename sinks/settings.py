"""What the sinks can be told. Values arrive here; nothing in `sinks` reads the environment."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sinks.channels import ChannelSettings


class LoaderSettings(BaseModel):
    """The ClickHouse loader."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    group: str = Field(
        "fleetpulse-loader", description="Kafka consumer group; loaders of one group share the partitions"
    )
    instance: str | None = Field(
        None,
        description="Lasting name of this loader, shared with no other: started again under it, it has its partitions "
        "back at once; without it, Kafka waits for the old one's session to end",
    )
    database: str = Field("fleetpulse", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="ClickHouse database")
    batch_records: int = Field(40_000, ge=1, description="A batch is cut at so many records")
    batch_bytes: int = Field(32 * 1024 * 1024, ge=1024, description="A batch is cut at so many bytes")
    batch_age_ms: int = Field(1000, ge=1, description="A batch waits no longer for more records")
    compression: Literal["none", "lz4", "zstd"] = Field(
        "none", description="Of insert bodies: none is fastest on one machine, lz4 saves a network two thirds"
    )
    retry_max_seconds: float = Field(
        15, gt=0, description="Longest pause between two attempts while ClickHouse is away"
    )


class AlertSettings(BaseModel):
    """Alerts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    group: str = Field("fleetpulse-alerts", description="Kafka consumer group")
    instance: str | None = Field(None, description="Lasting name of this process, shared with no other (see loader)")
    channels: ChannelSettings = Field(default_factory=ChannelSettings, description="Who is told, and how")
    retry_first_seconds: float = Field(
        1, gt=0, description="Pause after the first failed attempt; it doubles from there"
    )
    retry_max_seconds: float = Field(300, gt=0, description="Longest pause between two attempts of one notice")
    keep_days: float = Field(90, gt=0, description="Delivered alerts are remembered so long, for their dedup")
