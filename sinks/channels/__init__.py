"""How people are told: one module per channel, one line each in `ChannelSettings`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from sinks.channels.channel import ChannelModel
from sinks.channels.console import ConsoleSettings
from sinks.channels.webhook import WebhookSettings


class ChannelSettings(BaseModel):
    """Which channels there are; one that is null is off."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    console: ConsoleSettings | None = Field(default_factory=ConsoleSettings, description="Where this process runs")
    webhook: WebhookSettings | None = Field(None, description="HTTP POST of JSON")

    def enabled(self) -> dict[str, ChannelModel]:
        """The channels that are on, by name."""
        return {name: channel for name in type(self).model_fields if (channel := getattr(self, name)) is not None}
