"""Reading what is new in a log file that grows, is rotated, copied, truncated and compressed while nobody looks."""

from __future__ import annotations

import glob
import os
import re
from contextlib import suppress
from itertools import pairwise
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
from producers.kernel_log.notify import FileWatch

log = structlog.get_logger()

Start = Literal["end", "beginning"]
"""Where to begin in an input that was never read before."""
_ROTATED = re.compile(r"(?:\.(?P<number>[0-9]{1,6})|(?P<date>[-.][0-9]{8}[-_T0-9]{0,12}))(?:\.gz)?")
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
        self._listing: frozenset[tuple[str, int]] = frozenset()
        """The files beside ours when it was looked for rotated ones last, by name and inode."""
        self._watch = _watch(path)
        self._told = False
        """The kernel tells when the file that was read last changes."""

    def read(self, limit_bytes: int, limit_lines: int | None = None) -> list[SourceLine]:
        """What is new, at most about `limit_bytes` of it, and at most `limit_lines`."""
        self._told = self._watch is not None and self._watch.renew()
        if not self._generations:
            self._listing = _listing(self._path)
            self._generations = self._first()
        self._look_for_rotation()
        lines: list[SourceLine] = []
        while True:
            file = self._generations[0]
            # until it has written into the next file, the logger may go on in this one
            last = any(later.reaches(1) for later in self._generations[1:])
            begin = file.offset
            left = None if limit_lines is None else limit_lines - len(lines)
            lines += file.lines(limit_bytes, left, last=last)
            limit_bytes -= file.offset - begin
            if not last or limit_bytes <= 0 or len(lines) == limit_lines or not file.is_done():
                return lines
            self._generations[1].previous = file.last_name()
            self._generations.pop(0).close()

    def ear(self) -> int | None:
        """What can be read as soon as there is more than `read` gave; None where only looking tells."""
        is_alone = len(self._generations) == 1 and self._generations[0].is_done()
        return self._watch.descriptor if self._watch is not None and self._told and is_alone else None

    def position(self) -> FilePosition | None:
        """Up to where everything was given; None before anything was."""
        return self._generations[0].position() if self._generations else self._resume

    def close(self) -> None:
        """Let go of the file."""
        self._resume = self.position()
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        while self._generations:
            self._generations.pop().close()

    def _first(self) -> list[Generation]:
        """Where to begin: after what was read before, which rotations may have renamed in the meantime."""
        resume = self._resume
        if resume is None:
            file = PlainFile(self._path, None if self._start == "end" else 0)
            file.previous = self._newest_rotated()
            return [file]
        file = PlainFile(self._path)
        if resume.offset == 0:
            files = [*self._after(resume.previous, or_all=True), file]
            files[0].previous = resume.previous
            return files
        if file.continues(resume):
            file.offset = resume.offset
            return [file]
        earlier = self._rotated(resume)
        if not earlier:
            log.warning("the log was replaced, lines may be missing", path=str(self._path), read_bytes=resume.offset)
        return [*earlier, file]

    def _newest_rotated(self) -> str | None:
        name = None
        for paths in _logrotated(self._path):
            if file := _opened(paths):
                name = file.last_name() or name
                file.close()
        return name

    def _after(self, name: str | None, *, or_all: bool = False) -> list[Generation]:
        """What was rotated after the file of that name; where there is no such, nothing, or all that there is."""
        files: list[Generation] = []
        is_found = or_all
        for paths in _logrotated(self._path):
            if file := _opened(paths):
                files.append(file)
                if name is not None and file.last_name() == name:
                    is_found = True
                    while files:
                        files.pop().close()
        while not is_found and files:
            files.pop().close()
        return files

    def _look_for_rotation(self) -> None:
        newest = self._generations[-1]
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return  # between a rename and the new file
        is_renamed = (named.st_dev, named.st_ino) != (newest.status.st_dev, newest.status.st_ino)
        if newest.offset == 0:
            listing = _listing(self._path)
            if is_renamed or listing != self._listing:
                self._listing = listing
                self._generations[-1:] = self._begun_again(newest)
        elif not newest.continues(newest.position()):  # truncated; what it held was copied, or is gone
            self._generations.pop().close()
            self._generations += [*self._rotated(newest.position()), PlainFile(self._path)]
        elif is_renamed:  # it is open here, wherever it is now; what matters is what came after it
            self._generations += [*self._after(newest.name()), PlainFile(self._path)]

    def _begun_again(self, newest: Generation) -> list[Generation]:
        """All that came after the file before `newest`, of which nothing was read: it may have been filled, copied and
        truncated any number of times, and nothing in it would show that.
        """
        for earlier, later in pairwise(self._generations):
            later.previous = earlier.last_name()
        files = [*self._after(newest.previous, or_all=True), PlainFile(self._path)]
        files[0].previous = newest.previous
        if newest.reaches(1) and newest.name() not in {file.last_name() for file in files}:
            return [newest, *files]  # moved to where nobody would find it
        newest.close()
        return files

    def _rotated(self, position: FilePosition) -> list[Generation]:
        """The file beside ours that continues `position`, and what was rotated after it; oldest first.

        It was renamed (`kern.log.1`), copied before a truncation, or compressed since.
        """
        for files in _by_age(self._path).values():
            if found := _from(files, position):
                found[0].offset = position.offset
                return found
        return []


def _watch(path: Path) -> FileWatch | None:
    """None where the kernel gives none: a user may have so many only (`fs.inotify`)."""
    with suppress(OSError, AttributeError):
        return FileWatch(path)
    return None


def _from(files: list[list[Path]], position: FilePosition) -> list[Generation]:
    """The files from the one that continues `position` on, open; none where there is no such."""
    found: list[Generation] = []
    for paths in files:
        file = _opened(paths)
        if file is not None and (found or file.continues(position)):
            found.append(file)
        elif file is not None:
            file.close()
    return found


def _opened(paths: list[Path]) -> Generation | None:
    """The first of these names of one file that can be opened: a file that is being compressed has two for a while."""
    for path in paths:
        try:
            return generation(path)
        except (OSError, KernelLogError):
            continue
    return None


def _by_age(path: Path) -> dict[str, list[list[Path]]]:
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
        same.insert(len(same) if found.suffix == COMPRESSED else 0, found)
    return {way: [files[age] for age in sorted(files)] for way, files in ways.items()}


def _listing(path: Path) -> frozenset[tuple[str, int]]:
    with os.scandir(path.parent) as entries:
        return frozenset((each.name, each.inode()) for each in entries if each.name.startswith(path.name))


def _logrotated(path: Path) -> list[list[Path]]:
    """The files that logrotate has named, oldest first."""
    ways = _by_age(path)
    return [files for way in ("date", "number") for files in ways.get(way, [])]
