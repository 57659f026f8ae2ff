"""Where in the log something was told: what makes the memory of a run that is done again harmless."""

from __future__ import annotations

from typing import NamedTuple


class Source(NamedTuple):
    """Where a record stood in the log. No offset: there is no log, as in a back-test, or it is the clock that tells."""

    is_event: bool
    """Of `hardware.events`; else of `fleet.anomalies`."""
    offset: int | None

    def knows(self, other: Source) -> bool:
        """Whether what was told at `other` was known once this record had come.

        Memory is kept piece by piece. When a run is done again after a kill, some of it may already know what comes
        later in that run, and must be read as it was. A run is of one topic, so all that the other one told was before.
        """
        if self.offset is None or other.offset is None or self.is_event != other.is_event:
            return True
        return other.offset <= self.offset


CLOCK = Source(is_event=True, offset=None)
"""What no record but the passing of time has told."""
