"""`fleetpulse agent --once --print`: what this node would send, as JSON lines."""

from __future__ import annotations

import sys

import msgspec

from infra import observe
from infra.settings import Settings


def run(settings: Settings) -> None:
    """Read every source one time and print the records; a metric that was not read is null."""
    from producers.agent import collect_once

    observe.configure_logging("agent", level=settings.observe.level, json_lines=settings.observe.json_lines)
    for record in collect_once(settings.agent):
        line = {"record": type(record).__name__, **msgspec.to_builtins(record)}
        sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()
