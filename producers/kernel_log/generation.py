"""One file of a log that is rotated: the one that grows, or an earlier one, renamed, copied or compressed."""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from abc import ABC, abstractmethod
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from producers.kernel_log.lines import COMPRESSED, LINE_BYTES, open_log

log = structlog.get_logger()

HEAD_BYTES = 256
"""So many first bytes tell one log file from the next: they hold a time stamp."""
_ENOUGH_HEAD_BYTES = 64
"""With fewer, a file of another inode is not taken for the same log."""
_PIECE_BYTES = 1 << 16
"""What a damaged file loses before the damage is less than this."""
_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile)


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
    """How far a file was read; of a compressed one, what it unpacks to."""

    device: int
    inode: int
    offset: int
    head_bytes: int
    head_hash: str
    previous: str | None = None
    """The name of the file before it. Of a file of which nothing was read, nothing else is known."""


class Generation(ABC):
    """One file on disk, whatever its name is now; `offset` is where the first line begins that was not given."""

    def __init__(self, status: os.stat_result, offset: int) -> None:
        self.status = status
        self.offset = offset
        self.previous: str | None = None
        """The name of the file that was rotated away before this one began."""
        self._name: str | None = None
        self._note_head()

    @abstractmethod
    def at(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset` on; fewer at the end only."""

    @abstractmethod
    def reaches(self, offset: int) -> bool:
        """Whether the file is at least so long."""

    @abstractmethod
    def is_done(self) -> bool:
        """Whether all that is there now was given."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""

    def position(self) -> FilePosition:
        """Up to where it was given."""
        device, inode = self.status.st_dev, self.status.st_ino
        return FilePosition(device, inode, self.offset, self.head_bytes, self.head_hash, self.previous)

    def continues(self, position: FilePosition) -> bool:
        """Whether this file still begins with what was read up to `position`."""
        known = self.status.st_ino == position.inode or position.head_bytes >= _ENOUGH_HEAD_BYTES
        return known and self._hash_of(position.head_bytes) == position.head_hash and self.reaches(position.offset)

    def lines(self, limit_bytes: int, limit_lines: int | None, *, last: bool) -> list[SourceLine]:
        """Whole lines from here on. A line without its end is left for later, unless nothing can follow (`last`)."""
        lines: list[SourceLine] = []
        begin = self.offset
        while self.offset - begin < limit_bytes and len(lines) != limit_lines and not self.is_done():
            try:
                chunk = self.at(self.offset, LINE_BYTES)
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
            if limit_lines is not None and len(lines) + len(whole) > limit_lines:
                whole, cut = whole[: limit_lines - len(lines)], False
            for line in whole:
                lines.append(SourceLine(f"{self.name()}:{self.offset}", line.decode(errors="replace")))
                self.offset += len(line) + 1
            self.offset -= cut  # it had no newline
        if self.head_bytes < HEAD_BYTES:
            self._note_head()
        return lines

    def name(self) -> str:
        """A hash of its first line, which stays the same when the file grows, is copied or compressed."""
        if self._name is None:
            self._name = _hash(self.at(0, HEAD_BYTES).partition(b"\n")[0])
        return self._name

    def last_name(self) -> str | None:
        """Its name, or that of the file before where it is empty."""
        return self.name() if self.reaches(1) else self.previous

    def _note_head(self) -> None:
        self.head_bytes = min(HEAD_BYTES, self.offset)
        self.head_hash = self._hash_of(self.head_bytes)

    def _hash_of(self, size: int) -> str:
        return _hash(self.at(0, size))


class PlainFile(Generation):
    """A file as it was written; it may still grow."""

    def __init__(self, path: Path, offset: int | None = 0) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        status = os.fstat(self.descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(self.descriptor)
            raise KernelLogError(f"reading the kernel log {path}: it is not a file; give a log file or /dev/kmsg")
        super().__init__(status, status.st_size if offset is None else offset)

    def at(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset` on."""
        return os.pread(self.descriptor, size, offset)

    def reaches(self, offset: int) -> bool:
        """Whether the file is at least so long now."""
        return os.fstat(self.descriptor).st_size >= offset

    def is_done(self) -> bool:
        """Whether all that is there now was given."""
        return self.offset >= os.fstat(self.descriptor).st_size

    def close(self) -> None:
        """Let go of the file."""
        os.close(self.descriptor)


class CompressedFile(Generation):
    """A file that was compressed after its rotation: read as a stream, a line's length of it in memory at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream = open_log(path)
        self._ended = False
        self._start = 0
        """Where in the stream `_buffer` begins."""
        self._head = self._buffer = self._more(HEAD_BYTES)
        super().__init__(path.stat(), 0)

    def at(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset` on. There is no way back, but for the head."""
        if offset < self._start:
            return self._head[offset : offset + size]
        while not self._ended and self._start + len(self._buffer) < offset + size:
            passed = min(len(self._buffer), offset - self._start)
            self._start += passed
            self._buffer = self._buffer[passed:] + self._more(_PIECE_BYTES)
        return self._buffer[offset - self._start :][:size]

    def reaches(self, offset: int) -> bool:
        """Whether it unpacks to at least so much; unpacks that far."""
        return offset == 0 or bool(self.at(offset - 1, 1))

    def is_done(self) -> bool:
        """Whether all of it was given."""
        return not self.at(self.offset, 1)

    def close(self) -> None:
        """Let go of the file."""
        self._stream.close()

    def _more(self, size: int) -> bytes:
        try:
            more = self._stream.read(size)
        except _DAMAGE as error:
            log.warning("a rotated log is damaged, its rest is lost", path=str(self._path), error=str(error))
            more = b""
        self._ended = not more
        return more


def generation(path: Path) -> Generation:
    """An earlier file of a log. Raises `OSError` or `KernelLogError` where it cannot be read."""
    return CompressedFile(path) if path.suffix == COMPRESSED else PlainFile(path)


def _hash(data: bytes) -> str:
    return blake2b(data, digest_size=8).hexdigest()
