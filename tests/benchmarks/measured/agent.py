"""The agent as `fleetpulse agent` starts it, with the simulated NVML in the place of the driver's library."""

from __future__ import annotations

import json
import sys
from typing import Any

from infra import cli
from producers import agent
from producers.simulate.nvml import SimulatedNvml


def main(given: dict[str, Any]) -> None:
    """`given`: gpus, data_dir. Ends on SIGTERM."""
    setattr(agent, "Library", lambda: SimulatedNvml(given["gpus"]))  # noqa: B010 - not part of its interface
    sys.argv[1:] = ["agent", "--data-dir", given["data_dir"]]
    cli.main()


main(json.loads(sys.argv[1]))
