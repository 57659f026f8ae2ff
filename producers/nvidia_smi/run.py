"""`nvidia-smi -q -x` as a program: run under a deadline, its output bounded, never a second one beside a stuck one."""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Callable

OUTPUT_BYTES = 64 << 20
"""A node of 16 GPUs with MIG is some 2 MB."""
_DIES_S = 2.0
"""A killed program is gone by then, or it is inside the driver and cannot be."""
_CHUNK = 1 << 16


class NvidiaSmiError(Exception):
    """nvidia-smi gave no report; says what happened and what to do."""


class NvidiaSmi:
    """The program, found on PATH each time that it is asked for."""

    def __init__(
        self,
        program: str = "nvidia-smi",
        *,
        timeout_s: float = 20.0,
        output_bytes: int = OUTPUT_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._program = program
        self._timeout_s = timeout_s
        self._output_bytes = output_bytes
        self._clock = clock
        self._stuck: subprocess.Popen[bytes] | None = None

    def available(self) -> bool:
        """Whether it is there."""
        return shutil.which(self._program) is not None

    def query(self) -> tuple[bytes, int]:
        """What it prints, and its exit code. Raises `NvidiaSmiError` where it cannot be run or does not end."""
        if self._stuck is not None and self._stuck.poll() is None:
            raise NvidiaSmiError(
                f"nvidia-smi (process {self._stuck.pid}) was killed and does not die: it hangs in the GPU driver; "
                "look for XIDs in the kernel log, then drain and reboot the node"
            )
        self._stuck = None
        try:
            process = subprocess.Popen(
                [shutil.which(self._program) or self._program, "-q", "-x"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=os.environ | {"LC_ALL": "C"},
                start_new_session=True,
            )
        except OSError as error:
            raise NvidiaSmiError(
                f"{self._program} cannot be run: {error.strerror}; install the driver's tools (nvidia-utils), "
                "or make the file executable for the agent's user"
            ) from error
        try:
            return self._collect(process)
        finally:
            self._end(process)

    def _collect(self, process: subprocess.Popen[bytes]) -> tuple[bytes, int]:
        out = process.stdout
        assert out is not None  # noqa: S101 - for the type checker: it is a pipe
        ends = self._clock() + self._timeout_s
        parts: list[bytes] = []
        size = 0
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            while True:
                left = ends - self._clock()
                if left <= 0 or not selector.select(left):
                    raise NvidiaSmiError(
                        f"nvidia-smi -q -x did not end within {self._timeout_s:g} s: a GPU or the driver hangs; "
                        "run it by hand, and look for XIDs in the kernel log"
                    )
                part = os.read(out.fileno(), _CHUNK)
                if not part:
                    break
                parts.append(part)
                size += len(part)
                if size > self._output_bytes:
                    raise NvidiaSmiError(
                        f"nvidia-smi -q -x printed more than {self._output_bytes >> 20} MiB, which is no report; "
                        "run it by hand and see whether it is NVIDIA's program"
                    )
        try:
            code = process.wait(max(0.1, ends - self._clock()))
        except subprocess.TimeoutExpired:
            raise NvidiaSmiError(
                f"nvidia-smi -q -x printed its report and did not end within {self._timeout_s:g} s: the driver hangs"
            ) from None
        return b"".join(parts), code

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill what is left of it, with what it started. What does not die is remembered."""
        if process.stdout is not None:
            process.stdout.close()
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            try:
                process.wait(_DIES_S)
            except subprocess.TimeoutExpired:
                self._stuck = process
