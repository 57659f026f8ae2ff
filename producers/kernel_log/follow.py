"""Reading what is new in a log file that grows, is rotated, copied and truncated, or replaced while nobody looked."""

from __future__ import annotations

import glob
import os
import stat
from hashlib import blake2b
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import structlog

from producers.kernel_log.lines import LINE_BYTES

log = structlog.get_logger()

Start = Literal["end", "beginning"]
"""Where to begin in an input that was never read before."""
HEAD_BYTES = 256
"""So many first bytes tell one log file from the next: they hold a time stamp."""
_ENOUGH_HEAD_BYTES = 64
"""With fewer, a file of another inode is not taken for the same log."""


class KernelLogError(RuntimeError):
    """A kernel log that cannot be read; the message says what to do."""


class SourceLine(NamedTuple):
    """A line as an input gave it."""

    cursor: str
    """Names this line among all lines of this input, the same after a restart."""
    text: str
    old: bool = False
    """Was there before we began: it may say whose a PCI address is, but is no event."""
    lost: int = 0
    """So many lines before this one are gone."""


class FilePosition(msgspec.Struct, frozen=True):
    """How far a file was read."""

    device: int
    inode: int
    offset: int
    head_bytes: int
    head_hash: str


class _Generation:
    """One file on disk, whatever its name is now; `offset` is where the first line begins that was not given."""

    def __init__(self, path: Path, offset: int | None = 0) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.status = os.fstat(self.descriptor)
        if not stat.S_ISREG(self.status.st_mode):
            os.close(self.descriptor)
            raise KernelLogError(f"reading the kernel log {path}: it is not a file; give a log file or /dev/kmsg")
        self.offset = self.status.st_size if offset is None else offset
        self._note_head()

    def _note_head(self) -> None:
        self.head_bytes = min(HEAD_BYTES, self.offset)
        self.head_hash = self._hash_of(self.head_bytes)

    def _hash_of(self, size: int) -> str:
        return blake2b(os.pread(self.descriptor, size, 0), digest_size=8).hexdigest()

    def position(self) -> FilePosition:
        return FilePosition(self.status.st_dev, self.status.st_ino, self.offset, self.head_bytes, self.head_hash)

    def continues(self, position: FilePosition) -> bool:
        """Whether this file still begins with what was read up to `position`."""
        known = self.status.st_ino == position.inode or position.head_bytes >= _ENOUGH_HEAD_BYTES
        long_enough = os.fstat(self.descriptor).st_size >= position.offset
        return known and long_enough and self._hash_of(position.head_bytes) == position.head_hash

    def lines(self, limit_bytes: int, *, last: bool) -> list[SourceLine]:
        """Whole lines from here on. A line without its end is left for later, unless nothing can follow (`last`)."""
        lines: list[SourceLine] = []
        begin = self.offset
        while self.offset - begin < limit_bytes and not self.is_done():
            try:
                chunk = os.pread(self.descriptor, LINE_BYTES, self.offset)
            except OSError:
                if not lines:
                    raise
                break  # give what was read; the next read meets the error again
            *whole, rest = chunk.split(b"\n")
            at_end = len(chunk) < LINE_BYTES
            cut = bool(rest) and (last if at_end else not whole)
            if cut:
                whole.append(rest)
            if not whole:
                break
            for line in whole:
                cursor = f"{self.status.st_dev}:{self.status.st_ino}:{self.offset}"
                lines.append(SourceLine(cursor, line.decode(errors="replace")))
                self.offset += len(line) + 1
            self.offset -= cut  # it had no newline
        if self.head_bytes < HEAD_BYTES:
            self._note_head()
        return lines

    def is_done(self) -> bool:
        return self.offset >= os.fstat(self.descriptor).st_size

    def close(self) -> None:
        os.close(self.descriptor)


class FileFollower:
    """The lines of one log file, from generation to generation; each line once, in order.

    `read` does not block beyond the disk. It raises `OSError` or `KernelLogError` where the file cannot be read.
    """

    def __init__(self, path: Path, position: FilePosition | None, start: Start) -> None:
        self._path = path
        self._resume = position
        self._start: Start = start
        self._generations: list[_Generation] = []
        """What is being read, and what comes after it."""

    def read(self, limit_bytes: int) -> list[SourceLine]:
        """What is new, at most about `limit_bytes` of it."""
        if not self._generations:
            self._generations = self._first()
        if len(self._generations) == 1:
            self._look_for_rotation()
        lines: list[SourceLine] = []
        while len(self._generations) > 1:
            lines += self._generations[0].lines(limit_bytes, last=True)
            if not self._generations[0].is_done():
                return lines
            self._generations.pop(0).close()
        return lines + self._generations[0].lines(limit_bytes, last=False)

    def position(self) -> FilePosition | None:
        """Up to where everything was given; None before anything was."""
        return self._generations[0].position() if self._generations else self._resume

    def close(self) -> None:
        """Let go of the file."""
        self._resume = self.position()
        while self._generations:
            self._generations.pop().close()

    def _first(self) -> list[_Generation]:
        """Where to begin: after what was read before, which a rotation may have renamed in the meantime."""
        resume = self._resume
        if resume is None:
            return [_Generation(self._path, None if self._start == "end" else 0)]
        file = _Generation(self._path)
        if file.continues(resume):
            file.offset = resume.offset
            return [file]
        earlier = self._rotated(resume)
        if earlier is None and resume.offset:
            log.warning("the log was replaced, lines may be missing", path=str(self._path), read_bytes=resume.offset)
        return [file] if earlier is None else [earlier, file]

    def _look_for_rotation(self) -> None:
        file = self._generations[0]
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return  # between a rename and the new file
        if (named.st_dev, named.st_ino) != (file.status.st_dev, file.status.st_ino):
            self._generations.append(_Generation(self._path))
        elif not file.continues(file.position()):
            earlier = self._rotated(file.position())
            file.close()
            fresh = _Generation(self._path)
            self._generations = [fresh] if earlier is None else [earlier, fresh]

    def _rotated(self, position: FilePosition) -> _Generation | None:
        """The file beside ours that continues `position`: renamed (`kern.log.1`), or copied before a truncation."""
        for path in sorted(self._path.parent.glob(f"{glob.escape(self._path.name)}?*")):
            try:
                file = _Generation(path)
            except (OSError, KernelLogError):
                continue
            if file.continues(position):
                file.offset = position.offset
                return file
            file.close()
        return None
