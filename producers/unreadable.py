"""The place in a document that a decoder could not read: said, and gone past."""

from __future__ import annotations

import msgspec


class Unreadable(msgspec.Struct, frozen=True, kw_only=True):
    """What could not be read, and why; what stands around it was read."""

    place: str
    """`line 12`, or a path inside of what was read."""
    what: str
    """What should have been there."""
    reason: str
    """What was found instead."""

    def __str__(self) -> str:
        return f"{self.place}: {self.what}: {self.reason}"
