"""The simulated fleet as `fleetpulse simulate --speed 0` plays it: from the first tick until all is acknowledged."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

from producers import metrics, simulate
from producers.settings import RackSpec, SimulateSettings


def main(given: dict[str, Any]) -> None:
    """`given`: bootstrap, racks, nodes, ticks."""
    settings = SimulateSettings(
        racks=(RackSpec(kind="hgx", racks=given["racks"], nodes=given["nodes"]),),
        duration_s=float(given["ticks"]),
        speed=0,
        faults=(),
    )
    began, used = time.perf_counter(), time.process_time()
    simulate.run(
        settings,
        kafka={"bootstrap.servers": given["bootstrap"], "log_level": 0},
        stop=threading.Event(),
        beat=lambda: None,
    )
    print(
        json.dumps(
            {
                "samples": metrics.SIMULATED_SAMPLES._value.get(),
                "wall_s": time.perf_counter() - began,
                "cpu_s": time.process_time() - used,
            }
        )
    )


main(json.loads(sys.argv[1]))
