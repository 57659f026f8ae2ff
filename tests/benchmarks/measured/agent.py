"""The agent as `fleetpulse agent` starts it, with the simulated NVML in the place of the driver's library."""

from __future__ import annotations

# ruff: noqa: E402 - as in infra/lean.py
import sys

sys.modules["rich"] = None  # type: ignore[assignment]

import json
import pickle
import subprocess
from pathlib import Path
from typing import Any

from infra import lean
from producers import node
from producers.simulate.nvml import SimulatedNvml

_SETTINGS = """
import pickle, sys
from pathlib import Path
from infra.lean import plain
from producers.settings import AgentSettings
told = AgentSettings(rack="r1", state_dir=Path(sys.argv[1]), kernel_logs=(Path(sys.argv[2]),))
sys.stdout.buffer.write(pickle.dumps(plain(told)))
"""


def main(given: dict[str, Any]) -> None:
    """`given`: gpus, data_dir, bootstrap, kernel_log. Ends on SIGTERM."""
    setattr(node, "Library", lambda: SimulatedNvml(given["gpus"]))  # noqa: B010 - not part of its interface
    folder = Path(given["data_dir"])
    told = subprocess.run(  # settings are read, and checked, in another process, as by `fleetpulse agent`
        [sys.executable, "-c", _SETTINGS, str(folder / "agent"), given["kernel_log"]], check=True, capture_output=True
    )
    lean.serve_agent(
        lean.Handed(
            data_dir=folder,
            observe=lean.Observe("info", False, "127.0.0.1", {}, 20),
            agent=pickle.loads(told.stdout),  # noqa: S301 - our own
            kafka={"bootstrap.servers": given["bootstrap"]},
        )
    )


main(json.loads(sys.argv[1]))
