"""When Python looks for what hangs in circles and can be let go."""

import gc

_NEW, _TIMES, _TIMES_AGAIN = 50_000, 20, 100
"""Objects made before the young ones are looked at, and how often that happens before older ones are."""


def collect_seldom() -> None:
    """Look through the objects of this process less often.

    Most of what a stream worker makes is let go as soon as nobody holds it, and what it keeps (faults, their ties,
    topology) it keeps for long: Python's own settings look through it again and again, for a sixth of the time that
    correlation takes (measured).
    """
    gc.set_threshold(_NEW, _TIMES, _TIMES_AGAIN)
