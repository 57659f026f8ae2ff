"""A simulated GPU fleet that speaks through the same topics as a real one.

`topology` says who is there, `signals` what healthy GPUs read, `script` what breaks and the truth about it, `fleet`
puts a tick together, `play` sends it. `nvml` is a stand-in for one node's driver library.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from producers.settings import SimulateSettings


def run(settings: SimulateSettings, *, kafka: dict[str, Any], stop: threading.Event, beat: Callable[[], None]) -> None:
    """The body of the simulator's process: see `play.run`."""
    from producers.simulate.play import run as play  # an agent on the simulated NVML needs none of its arrays

    play(settings, kafka=kafka, stop=stop, beat=beat)
