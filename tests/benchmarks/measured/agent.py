"""The agent as `fleetpulse agent` starts it, with the simulated NVML in the place of the driver's library."""

from __future__ import annotations

# ruff: noqa: E402 - as in infra/lean.py
import sys

sys.modules["rich"] = None  # type: ignore[assignment]

import json
from pathlib import Path
from typing import Any

from infra import lean
from producers import node
from producers.settings import AgentSettings
from producers.simulate.nvml import SimulatedNvml


def main(given: dict[str, Any]) -> None:
    """`given`: gpus, data_dir, bootstrap, kernel_log. Ends on SIGTERM."""
    setattr(node, "Library", lambda: SimulatedNvml(given["gpus"]))  # noqa: B010 - not part of its interface
    folder = Path(given["data_dir"])
    settings = AgentSettings(rack="r1", state_dir=folder / "agent", kernel_logs=(Path(given["kernel_log"]),))
    lean.serve_agent(
        lean.Handed(
            data_dir=folder,
            observe=lean.Observe("info", False, "127.0.0.1", {}, 20),
            agent=settings.model_dump_json(),
            kafka={"bootstrap.servers": given["bootstrap"]},
        )
    )


main(json.loads(sys.argv[1]))
