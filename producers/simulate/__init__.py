"""A simulated GPU fleet that speaks through the same topics as a real one, and the truth about what breaks in it.

README.md beside this file says which file does what, how to use it as a library, and what breaks how often.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from producers.settings import SimulateSettings


def run(settings: SimulateSettings, *, kafka: dict[str, Any], stop: threading.Event, beat: Callable[[], None]) -> None:
    """The body of the simulator's process: see `play.run`."""
    from producers.simulate.play import run as play  # an agent on the simulated NVML needs none of its arrays

    play(settings, kafka=kafka, stop=stop, beat=beat)
