"""Records on disk that wait for the broker: bounded, in order, and whole after a kill.

A lane per topic, each a row of append-only segment files. A record is framed by its length and a CRC-32 and written
with one system call: after `kill -9` at most the last record is torn, which is found, cut off and counted. (The page
cache outlives a process, so nothing is synced; a power cut may take the last seconds.)

A segment is deleted once all its records are acknowledged. What was being sent when the process died is sent again:
at least once, and readers take duplicates.
"""

from __future__ import annotations

import errno
import fcntl
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import IO

import structlog

MIB = 1024 * 1024

log = structlog.get_logger()

MAGIC = b"FPS1"
_FRAME = Struct("<II")
"""Length of the payload, CRC-32 of the payload. The payload is the key's length (two bytes), the key, the value."""
_KEY = Struct("<H")
_FIRST = 10**15
"""The first segment's number: there is room below, for what a stopping producer hands back (older than all here)."""


class SpoolError(RuntimeError):
    """The spool cannot be used at all; the message says where and what to do."""


@dataclass(slots=True, eq=False)
class Segment:
    """One file of a lane. In memory: about 300 bytes, whatever the file holds."""

    path: Path
    number: int
    size: int = 0
    """Bytes, header included: the end of the last whole record."""
    records: int = 0
    offset: int = len(MAGIC)
    """Where the next record to be taken begins."""
    taken: int = 0
    settled: int = 0
    writer: IO[bytes] | None = None
    reader: IO[bytes] | None = None

    @property
    def waiting(self) -> int:
        """Records that were not taken yet."""
        return self.records - self.taken

    def seal(self) -> None:
        """Nothing is added any more."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    def close(self) -> None:
        """Close the files."""
        self.seal()
        if self.reader is not None:
            self.reader.close()
            self.reader = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of the spool on its way to the broker."""

    topic: str
    key: bytes
    value: bytes
    segment: Segment


class Spool:
    """Undelivered records in `folder`, `limit_bytes` in all. One process at a time; not thread-safe.

    `topics` lists the lanes, the one to be given up first in front: where the disk share is used up, the oldest
    segment of the first lane goes, and a record never pushes out one of a lane behind its own.
    Raises `SpoolError` where the folder cannot be used; later, a disk that fails costs records, which are counted.
    """

    def __init__(self, folder: Path, limit_bytes: int, topics: Sequence[str]) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._segment_bytes = max(16 * 1024, min(limit_bytes // 32, 8 * 1024 * 1024))
        self._lanes: dict[str, list[Segment]] = {topic: [] for topic in topics}
        self._drops: Counter[tuple[str, str]] = Counter()
        self._complained = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "lock").open("wb")
        except OSError as error:
            raise SpoolError(_cannot(folder, error)) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise SpoolError(
                f"another process uses the spool {folder}: stop it, or give this one a state_dir of its own"
            ) from error
        try:
            for topic in topics:
                self._open_lane(topic)
        except OSError as error:
            self._lock.close()
            raise SpoolError(_cannot(folder, error)) from error

    def __len__(self) -> int:
        """Records that are not acknowledged."""
        return sum(segment.records - segment.settled for lane in self._lanes.values() for segment in lane)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(segment.size for lane in self._lanes.values() for segment in lane)

    def waits(self, topic: str) -> bool:
        """Whether records of `topic` have not been taken yet: then new ones have to queue behind them."""
        return any(segment.waiting for segment in self._lanes[topic])

    def waiting(self) -> list[str]:
        """Topics with records that have not been taken yet, the most precious first."""
        return [topic for topic in reversed(self._lanes) if self.waits(topic)]

    def append(self, topic: str, key: bytes, value: bytes) -> None:
        """Put a record at the end of its lane. Makes room as the class says; drops are counted, nothing is raised."""
        frame = _frame(key, value)
        lane = self._lanes[topic]
        for attempt in range(2):
            while self.size + len(frame) > self._limit:
                if not self._give_up_oldest(topic):
                    self._drop(topic, 1)
                    return
            if not lane or lane[-1].size + len(frame) > self._segment_bytes:
                if lane:
                    lane[-1].seal()
                lane.append(self._new_segment(topic, lane[-1].number + 1 if lane else _FIRST))
            try:
                _write(lane[-1], frame)
            except OSError as error:  # the disk is full, although our share of it is not
                self._complain(error)
                if not lane[-1].records:
                    self._forget(topic, lane[-1])
                if attempt or not self._give_up_oldest(topic):
                    self._drop(topic, 1)
                    return
            else:
                self._complained = False
                return

    def prepend(self, topic: str, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Put records (key, value) before all others of their lane: they are older, a producer handed them back."""
        lane = self._lanes[topic]
        segment = self._new_segment(topic, lane[0].number - 1 if lane else _FIRST)
        for key, value in records:
            try:
                _write(segment, _frame(key, value))
            except OSError as error:
                self._complain(error)
                self._drop(topic, 1)
        segment.seal()
        if segment.records:
            lane.insert(0, segment)
        else:
            segment.path.unlink(missing_ok=True)
        while self.size > self._limit and self._give_up_oldest(topic):
            pass

    def take(self, topic: str, limit: int) -> list[Entry]:
        """The next records of a lane, `limit` at most, oldest first. They stay on disk until they are settled."""
        entries: list[Entry] = []
        for segment in list(self._lanes[topic]):
            while segment.waiting and len(entries) < limit:
                found = self._read(topic, segment)
                if found is not None:
                    entries.append(Entry(topic, *found, segment))
        return entries

    def settle(self, entry: Entry) -> None:
        """The broker has the record (or nobody will ever take it); with its last one the segment is deleted."""
        segment = entry.segment
        segment.settled += 1
        if segment.settled >= segment.records and segment in self._lanes[entry.topic]:
            self._forget(entry.topic, segment)

    def rewind(self, topic: str) -> None:
        """Take a lane from its beginning again: what was taken could not be sent."""
        for segment in self._lanes[topic]:
            segment.offset, segment.taken, segment.settled = len(MAGIC), 0, 0

    def drops(self) -> dict[tuple[str, str], int]:
        """Records lost since this was last asked, by topic and reason: spool_full, torn."""
        found = dict(self._drops)
        self._drops.clear()
        return found

    def close(self) -> None:
        """Close the files and let the next process in."""
        for lane in self._lanes.values():
            for segment in lane:
                segment.close()
        self._lock.close()

    def _open_lane(self, topic: str) -> None:
        (self._folder / topic).mkdir(exist_ok=True)
        for path in sorted((self._folder / topic).glob("*.segment")):
            segment = self._recover(topic, path)
            if segment.records:
                self._lanes[topic].append(segment)
            else:
                path.unlink()

    def _recover(self, topic: str, path: Path) -> Segment:
        """Count a segment's whole records, and cut off what the last process could not finish."""
        segment = Segment(path, int(path.stem))
        data = path.read_bytes()
        if data.startswith(MAGIC):
            segment.size = len(MAGIC)
            while (payload := _payload(data, segment.size)) is not None:
                segment.size += _FRAME.size + len(payload)
                segment.records += 1
        if segment.size < len(data):
            log.warning(
                "a spooled record was torn", path=str(path), kept=segment.records, lost_bytes=len(data) - segment.size
            )
            self._drop(topic, 1, "torn")
            with path.open("r+b") as file:
                file.truncate(segment.size)
        return segment

    def _read(self, topic: str, segment: Segment) -> tuple[bytes, bytes] | None:
        payload = None
        try:
            if segment.reader is None:
                segment.reader = segment.path.open("rb")
            segment.reader.seek(segment.offset)
            head = segment.reader.read(_FRAME.size)
            if len(head) == _FRAME.size:
                payload = _payload(head + segment.reader.read(_FRAME.unpack(head)[0]), 0)
        except OSError as error:
            self._complain(error)
        if payload is None:  # it was whole when it was written: the disk failed, and the rest cannot be trusted
            self._drop(topic, segment.waiting, "torn")
            segment.records = segment.taken
            if segment.settled >= segment.records:
                self._forget(topic, segment)
            return None
        segment.offset += _FRAME.size + len(payload)
        segment.taken += 1
        middle = _KEY.size + _KEY.unpack_from(payload)[0]
        return payload[_KEY.size : middle], payload[middle:]

    def _new_segment(self, topic: str, number: int) -> Segment:
        return Segment(self._folder / topic / f"{number:016d}.segment", number)

    def _give_up_oldest(self, topic: str) -> bool:
        """Drop the oldest segment of the least precious lane, up to the lane of `topic` itself."""
        for name, lane in self._lanes.items():
            if lane:
                # what is under way may still arrive; better counted for nothing than lost in silence
                self._drop(name, lane[0].records - lane[0].settled)
                self._forget(name, lane[0])
                return True
            if name == topic:
                break
        return False

    def _drop(self, topic: str, count: int, reason: str = "spool_full") -> None:
        if count:
            self._drops[topic, reason] += count

    def _forget(self, topic: str, segment: Segment) -> None:
        segment.close()
        segment.path.unlink(missing_ok=True)
        self._lanes[topic].remove(segment)

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            log.error("the spool cannot use its disk", folder=str(self._folder), error=error.strerror)


def _cannot(folder: Path, error: OSError) -> str:
    where = error.filename or folder
    return (
        f"cannot keep undelivered records in {folder} ({where}: {error.strerror}); give a state_dir that can be written"
    )


def _frame(key: bytes, value: bytes) -> bytes:
    payload = _KEY.pack(len(key)) + key + value
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _payload(data: bytes, at: int) -> bytes | None:
    """The payload of the frame at `at`, None where it is not whole."""
    if at + _FRAME.size > len(data):
        return None
    length, crc = _FRAME.unpack_from(data, at)
    payload = data[at + _FRAME.size : at + _FRAME.size + length]
    return payload if len(payload) == length >= _KEY.size and zlib.crc32(payload) == crc else None


def _write(segment: Segment, frame: bytes) -> None:
    """Add a frame with one write, or leave the file as it was and raise `OSError`."""
    if segment.writer is None:
        segment.writer = segment.path.open("ab", buffering=0)
    data = frame if segment.size else MAGIC + frame
    if segment.writer.write(data) != len(data):  # the disk took a part of it: end the file with a whole record again
        segment.writer.truncate(segment.size)
        raise OSError(errno.ENOSPC, "No space left on device")
    segment.size += len(data)
    segment.records += 1
