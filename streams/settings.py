"""What a user may set of the stream processors."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class StreamsSettings(BaseModel):
    """The part `[streams]` of the settings file."""

    model_config = ConfigDict(extra="forbid")

    app_id: str = Field("fleetpulse-streams", description="Consumer group; two fleets on one Kafka need two.")
    tick_ms: int = Field(1000, ge=100, description="Samples are compared with their peers on this grid, milliseconds.")
    grace_ms: int = Field(2000, ge=0, description="How long a tick waits for the last nodes of a rack, event time.")
    silence_ms: int = Field(
        5000, ge=1000, description="A node or GPU without a reading for so long is silent (at least three intervals)."
    )
    future_ms: int = Field(
        60_000, ge=1000, description="A sample whose time lies so far after its arrival in Kafka is a dead letter."
    )
    counters_tick_ms: int = Field(
        15_000, ge=1000, description="The grid of gpu.counters, milliseconds: no source reads them more often."
    )
    counters_grace_ms: int = Field(
        30_000, ge=0, description="How long a tick of counters waits for the last nodes of a rack, event time."
    )
    rebuild_ms: int = Field(120_000, ge=0, description="How much of the log is read back to rebuild windows.")
    settle_ms: int = Field(1000, ge=0, description="How long an incident gathers faults before it may page.")
    idle_ms: int = Field(
        10_000, ge=1000, description="A partition with no record for so long is judged by the wall clock instead."
    )
    two_places_ms: int = Field(
        900_000,
        ge=1000,
        description="A component that two places claim within so long is in both: longer than the agents' "
        "inventory_interval_s, shorter than it takes to carry a board to another node and back.",
    )
    max_run: int = Field(2000, ge=1, description="Records handled as one run; more starves the group's heartbeat.")
    catalog_override: str | None = Field(None, description="An operator's catalogue file, layered over ours.")
    metrics_override: str | None = Field(
        None,
        description="An operator's file of limits, over metrics.toml, counters.toml and sources.toml.",
    )
