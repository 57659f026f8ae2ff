"""Following systemd's journal: `journalctl` writes a JSON record a line, each with a cursor to go on from.

It has what `/dev/kmsg` has lost, and the last lines of the boot before.
"""

from __future__ import annotations

import os
import subprocess
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from producers.kernel_log.generation import KernelLogError, SourceLine
from producers.kernel_log.lines import LINE_BYTES

JOURNAL = Path("journal:")
"""What stands for the journal among the paths of logs."""
COMMAND = ("journalctl", "--output=json", "--follow", "--no-pager", "--quiet")
KERNEL_ONLY = "_TRANSPORT=kernel"
"""Not `--dmesg`, which knows the running boot only."""
_STOP_S = 2.0


class _Record(msgspec.Struct):
    cursor: str = msgspec.field(name="__CURSOR", default="")


_records = msgspec.json.Decoder(_Record)


class JournalReader:
    """The kernel's records in the journal; each once, in order. `journalctl` runs for as long as it is read.

    `read` does not block. It raises `KernelLogError` where the journal cannot be followed.
    """

    def __init__(self, cursor: str | None, *, from_beginning: bool, command: Sequence[str] = COMMAND) -> None:
        self._command = command
        self._from_beginning = from_beginning
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._is_old = False
        self._waiting: deque[SourceLine] = deque()
        """What was read and not given."""
        self.cursor = cursor
        """Of the last record that was given."""

    def read(self, limit_bytes: int, limit_lines: int | None = None) -> list[SourceLine]:
        """What is new, at most about `limit_bytes` of it, and at most `limit_lines`."""
        process = self._running()
        if not self._waiting:
            self._fetch(process, limit_bytes)
        count = len(self._waiting) if limit_lines is None else min(limit_lines, len(self._waiting))
        lines = [self._waiting.popleft() for _ in range(count)]
        if lines:
            self.cursor = lines[-1].cursor
        elif process.poll() is not None:
            raise KernelLogError(self._why_it_ended(process))
        return lines

    def has(self, count: int) -> bool:
        """Whether so many records are at hand: `journalctl` takes its time to find them."""
        if len(self._waiting) < count:
            self._fetch(self._running(), LINE_BYTES)
        return len(self._waiting) >= count

    def ear(self) -> int | None:
        """What can be read as soon as there is more than `read` gave; None where only looking tells."""
        if self._process is None or self._process.stdout is None or self._waiting:
            return None
        return self._process.stdout.fileno()

    def close(self) -> None:
        """End `journalctl`; what was read and not given is read again the next time."""
        process, self._process = self._process, None
        self._rest = b""
        self._waiting.clear()
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = self._started()
        return self._process

    def _started(self) -> subprocess.Popen[bytes]:
        if self.cursor:
            where = f"--after-cursor={self.cursor}"
        else:
            where = "--lines=all" if self._from_beginning else "--lines=1"  # the last one only tells where we are
            self._is_old = not self._from_beginning
        command = [*self._command, where, KERNEL_ONLY]
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except OSError as error:
            raise KernelLogError(
                f"following the journal with {command[0]}: {(error.strerror or str(error)).lower()}; name /dev/kmsg or "
                "a log file in agent.kernel_logs where there is no systemd"
            ) from error
        if process.stdout is not None and process.stderr is not None:
            os.set_blocking(process.stdout.fileno(), False)
            os.set_blocking(process.stderr.fileno(), False)
        return process

    def _fetch(self, process: subprocess.Popen[bytes], limit_bytes: int) -> None:
        if process.stdout is None:
            return
        taken = 0
        while taken < limit_bytes:
            try:
                data = os.read(process.stdout.fileno(), 1 << 16)
            except BlockingIOError:
                break
            if not data:
                break
            taken += len(data)
            *whole, self._rest = (self._rest + data).split(b"\n")
            for line in whole:
                self._take(line)
            if len(self._rest) > LINE_BYTES:
                self._rest = b""  # no record of the kernel is so long

    def _take(self, line: bytes) -> None:
        try:
            cursor = _records.decode(line).cursor
        except msgspec.DecodeError:
            return
        if cursor:
            self._waiting.append(SourceLine(cursor, line.decode(errors="replace"), old=self._is_old))
            self._is_old = False

    def _why_it_ended(self, process: subprocess.Popen[bytes]) -> str:
        """And end it properly, so that the next read begins anew."""
        status, said = process.returncode, b""
        if process.stderr is not None:
            with suppress(BlockingIOError):
                said = os.read(process.stderr.fileno(), 1000)
        self.close()
        text = said.decode(errors="replace").strip().splitlines()
        return (
            f"following the journal: {self._command[0]} ended with status {status}"
            f"{f' ({text[-1]})' if text else ''}; is this user in the group systemd-journal, and journald running?"
        )
