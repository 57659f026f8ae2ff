"""Which programs hold GPUs now, as nvidia-smi lists them: what a diagnostic has to wait for."""

from __future__ import annotations

import subprocess

_QUERY = ("--query-compute-apps=gpu_uuid,pid,process_name", "--format=csv,noheader")


class BusyUnknownError(RuntimeError):
    """Nobody can tell whether a job holds a GPU: what was asked, what was found, what to do."""


def gpu_programs(command: str = "nvidia-smi", timeout_s: float = 20.0) -> list[str]:
    """`pid 4711 python3 on GPU-604a…`, one for each program and GPU. Blocks. Raises `BusyUnknownError`.

    Only root sees the programs of containers by their names; their pids are there in any case.
    """
    asked = f"which programs hold GPUs could not be asked with {command}"
    try:
        done = subprocess.run(
            [command, *_QUERY],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BusyUnknownError(f"{asked}: no answer for {timeout_s:.0f} s; the driver or a GPU may hang") from error
    except OSError as error:
        raise BusyUnknownError(f"{asked}: {error.strerror}; install it (it comes with the driver)") from error
    if done.returncode:
        said = (done.stdout.strip() or done.stderr.strip() or "nothing").splitlines()[0]
        raise BusyUnknownError(f"{asked}: exit {done.returncode}, it says: {said}")
    rows = [[cell.strip() for cell in line.split(",", 2)] for line in done.stdout.splitlines() if line.strip()]
    return [f"pid {row[1]} {row[2]} on {row[0]}" for row in rows if len(row) == 3 and row[1].isdecimal()]
