"""Reading `/dev/kmsg`: one record per read, with the kernel's own sequence number
(https://www.kernel.org/doc/Documentation/ABI/testing/dev-kmsg).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from producers.kernel_log.follow import Start
from producers.kernel_log.generation import SourceLine

_RECORD_BYTES = 1 << 16
"""The kernel refuses a read into less than its longest record (8 KiB so far)."""


class KmsgReader:
    """The records of the kernel's ring buffer; each once, in order, and the gaps told.

    `read` does not block. It raises `OSError` where the device cannot be opened or read.
    """

    def __init__(
        self, path: Path, sequence: int | None, start: Start, read: Callable[[int, int], bytes] = os.read
    ) -> None:
        self._path = path
        self._read = read
        self._descriptor: int | None = None
        self._old_until_drained = sequence is None and start == "end"
        self.sequence = sequence
        """Number of the last record that was given."""

    def read(self, limit_bytes: int, until: int | None = None) -> list[SourceLine]:
        """What is new, at most about `limit_bytes` of it, and up to the record with the number `until`."""
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        lines: list[SourceLine] = []
        taken = 0
        while taken < limit_bytes and (until is None or self.sequence is None or self.sequence < until):
            try:
                data = self._read(self._descriptor, _RECORD_BYTES)
            except BlockingIOError:
                self._old_until_drained = False
                break
            except BrokenPipeError:
                continue  # records were overwritten before we came; the gap in the numbers says how many
            except OSError:
                if not lines:
                    raise
                break  # give what was read; the next read meets the error again
            if not data:
                break
            taken += len(data)
            lines.append(self._line(data))
        return lines

    def ear(self) -> int | None:
        """What can be read as soon as there is more than `read` gave; None where only looking tells."""
        return self._descriptor

    def close(self) -> None:
        """Let go of the device."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _line(self, data: bytes) -> SourceLine:
        """The record without the properties (` SUBSYSTEM=…`) that follow it in lines of their own."""
        text = data.decode(errors="replace").partition("\n")[0]
        fields = text.partition(";")[0].split(",")
        if len(fields) < 3 or not fields[1].isdecimal():
            return SourceLine(f"kmsg:{self.sequence}:{text}", text)
        number, before = int(fields[1]), self.sequence
        if before is not None and number <= before:
            return SourceLine(f"kmsg:{number}", text, old=True)
        self.sequence = number
        lost = 0 if before is None or self._old_until_drained else number - before - 1
        return SourceLine(f"kmsg:{number}", text, old=self._old_until_drained, lost=lost)
