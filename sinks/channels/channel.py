"""What a channel is: one way in which people are told.

A channel is one module with a settings model, whose `open` makes the channel, and one line in `ChannelSettings`.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from schemas.records import Incident

NoticeKind = Literal["page", "resolve"]


class Notice(msgspec.Struct, frozen=True):
    """One thing to tell about one incident."""

    kind: NoticeKind
    incident: Incident
    """The revision that paged."""
    cleared_ms: int | None
    """When the incident cleared, where it has, event time."""

    def delay_ms(self, now_ms: int) -> int:
        """From the first evidence being seen on a node until `now_ms`."""
        return now_ms - self.incident.observed_ms


class DeliveryError(Exception):
    """A notice was not taken. The message says why, for a human."""

    def __init__(self, message: str, *, may_pass: bool = True, after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.may_pass = may_pass
        """Whether trying again can help: False where the other side understood and refuses."""
        self.after_seconds = after_seconds
        """How long the other side asks us to wait."""


class Channel(Protocol):
    """One way to tell people. Used by one thread."""

    def deliver(self, notice: Notice, now_ms: int) -> None:
        """Hand one notice over; returning means that it was taken.

        May block for a bounded time, on a thread of its own. Raises `DeliveryError`; the caller keeps the notice and
        tries again. A notice may come twice (after a crash), so pass `incident_id` on as the key of duplicates.
        """


class ChannelModel(BaseModel):
    """Settings that every channel has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    resolve: bool = Field(False, description="Also tell when the incident has cleared")
    refusals: int = Field(5, ge=1, description="Give up on a notice after the other side refused it so often")

    def open(self) -> Channel:
        """The channel with these settings. Does not connect."""
        raise NotImplementedError
