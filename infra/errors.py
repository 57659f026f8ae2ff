"""What a process of ours says when it cannot go on: one message, written for the person who reads it."""

from __future__ import annotations


class OperatorError(RuntimeError):
    """A stop with a reason: what was being done, to what, what was found, what to do. The CLI prints just that."""


class MisuseError(OperatorError):
    """What was asked for cannot be done as it was said; the CLI exits with 2 instead of 1."""
