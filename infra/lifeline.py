"""Start a command that does not outlive its parent, however the parent ends.

`kill -9` on a supervisor runs no clean-up of the supervisor's. Linux can: a process that asked for it gets a signal
when its parent dies (prctl(2), PR_SET_PDEATHSIG), and the wish survives `execve`. This file is that small step
between `fork` and the real program; it is run as a script, so that no Python of ours runs between fork and exec.

The signal follows the parent's *thread*: start commands from a thread that lives as long as the process does.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def tied(command: Sequence[str], *, death: signal.Signals = signal.SIGTERM) -> list[str]:
    """`command`, to be started by this process, which gets the signal `death` when this process is gone."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(death)), *command]


def tie_to_parent(parent: int, death: int = signal.SIGTERM) -> None:
    """Ask for the signal `death` when the parent dies; where it died already, end here."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, death, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(1)


if __name__ == "__main__":
    tie_to_parent(int(sys.argv[1]), int(sys.argv[2]))
    os.execvp(sys.argv[3], sys.argv[3:])  # noqa: S606 - the list is ours
