"""Reading what is new in a log file that grows, is rotated, copied, truncated and compressed while nobody looks."""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import Literal

import structlog

from producers.kernel_log.generation import (
    FilePosition,
    Generation,
    KernelLogError,
    PlainFile,
    SourceLine,
    generation,
)
from producers.kernel_log.lines import COMPRESSED

log = structlog.get_logger()

Start = Literal["end", "beginning"]
"""Where to begin in an input that was never read before."""
_ROTATED = re.compile(r"(?:\.(?P<number>[0-9]{1,6})|(?P<date>[-.][0-9]{8}[-_T0-9]{0,12}))(?:\.gz|\.xz)?")
"""What logrotate puts behind a log's name: a number that grows with age, or a date (`dateext`)."""


class FileFollower:
    """The lines of one log file, from generation to generation; each line once, in order.

    `read` does not block beyond the disk. It raises `OSError` or `KernelLogError` where the file cannot be read.
    """

    def __init__(self, path: Path, position: FilePosition | None, start: Start) -> None:
        self._path = path
        self._resume = position
        self._start: Start = start
        self._generations: list[Generation] = []
        """What is being read, and what comes after it."""

    def read(self, limit_bytes: int, limit_lines: int | None = None) -> list[SourceLine]:
        """What is new, at most about `limit_bytes` of it, and at most `limit_lines`."""
        if not self._generations:
            self._generations = self._first()
        if len(self._generations) == 1:
            self._look_for_rotation()
        lines: list[SourceLine] = []
        while True:
            file, last = self._generations[0], len(self._generations) > 1
            begin = file.offset
            left = None if limit_lines is None else limit_lines - len(lines)
            lines += file.lines(limit_bytes, left, last=last)
            limit_bytes -= file.offset - begin
            if not last or limit_bytes <= 0 or len(lines) == limit_lines or not file.is_done():
                return lines
            self._generations.pop(0).close()

    def position(self) -> FilePosition | None:
        """Up to where everything was given; None before anything was."""
        return self._generations[0].position() if self._generations else self._resume

    def close(self) -> None:
        """Let go of the file."""
        self._resume = self.position()
        while self._generations:
            self._generations.pop().close()

    def _first(self) -> list[Generation]:
        """Where to begin: after what was read before, which rotations may have renamed in the meantime."""
        resume = self._resume
        if resume is None:
            return [PlainFile(self._path, None if self._start == "end" else 0)]
        file = PlainFile(self._path)
        if file.continues(resume):
            file.offset = resume.offset
            return [file]
        earlier = self._rotated(resume)
        if not earlier and resume.offset:
            log.warning("the log was replaced, lines may be missing", path=str(self._path), read_bytes=resume.offset)
        return [*earlier, file]

    def _look_for_rotation(self) -> None:
        file = self._generations[0]
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return  # between a rename and the new file
        if (named.st_dev, named.st_ino) != (file.status.st_dev, file.status.st_ino):
            ours, *between = self._rotated(file.position()) or [None]
            if ours is not None:
                ours.close()
            self._generations += [*(each for each in between if each is not None), PlainFile(self._path)]
        elif not file.continues(file.position()):
            earlier = self._rotated(file.position())
            file.close()
            self._generations = [*earlier, PlainFile(self._path)]

    def _rotated(self, position: FilePosition) -> list[Generation]:
        """The file beside ours that continues `position`, and what was rotated after it; oldest first.

        It was renamed (`kern.log.1`), copied before a truncation, or compressed since.
        """
        for file_paths in _by_age(self._path):
            found: list[Generation] = []
            for paths in file_paths:
                if (file := _opened(paths)) is None:
                    continue
                if found:
                    found.append(file)
                elif file.continues(position):
                    file.offset = position.offset
                    found.append(file)
                else:
                    file.close()
            if found:
                return found
        return []


def _opened(paths: list[Path]) -> Generation | None:
    """The first of these names of one file that can be opened: a file that is being compressed has two for a while."""
    for path in paths:
        try:
            return generation(path)
        except (OSError, KernelLogError):
            continue
    return None


def _by_age(path: Path) -> list[list[list[Path]]]:
    """The files beside a log that may be earlier ones of it, by the way they are named, oldest first in each."""
    ways: dict[str, dict[tuple[int, str], list[Path]]] = {}
    for found in sorted(path.parent.glob(f"{glob.escape(path.name)}?*")):
        suffix = found.name[len(path.name) :]
        rotated = _ROTATED.fullmatch(suffix)
        if rotated is None:
            way, age = suffix, (0, "")
        elif rotated["number"]:
            way, age = "number", (-int(rotated["number"]), "")
        else:
            way, age = "date", (0, rotated["date"])
        same = ways.setdefault(way, {}).setdefault(age, [])
        same.insert(len(same) if found.suffix in COMPRESSED else 0, found)
    return [[files[age] for age in sorted(files)] for files in ways.values()]
