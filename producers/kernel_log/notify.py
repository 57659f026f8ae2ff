"""Being told by the kernel (inotify) that a log file has changed, instead of looking again and again."""

from __future__ import annotations

import ctypes
import os
import weakref
from contextlib import suppress
from functools import cache
from pathlib import Path

_MODIFY, _ATTRIB, _DELETE_SELF, _MOVE_SELF = 0x002, 0x004, 0x400, 0x800
"""Of <sys/inotify.h>: written or truncated; links changed, as by a removal while it is open; removed; renamed."""
_TELLING = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "tmpfs", "overlay"})
"""File systems on which every writer is this kernel's. What another machine writes (NFS, virtiofs), nobody tells."""
_EVENTS_BYTES = 1 << 16


class FileWatch:
    """Watches whatever file is at a path. Raises `OSError` where the kernel gives no more watches."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.descriptor = _inotify().inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        """Can be read once the file has changed since `renew`."""
        if self.descriptor < 0:
            raise _error("inotify_init1")
        self._close = weakref.finalize(self, os.close, self.descriptor)
        self._watched: int | None = None

    def renew(self) -> bool:
        """Forget what was told, and watch the file that is at the path now; to be called before it is read.

        False where nobody would tell that it changes: it is not there, or not on a file system that tells.
        """
        with suppress(BlockingIOError):
            while os.read(self.descriptor, _EVENTS_BYTES):
                pass
        mask = _MODIFY | _ATTRIB | _DELETE_SELF | _MOVE_SELF
        found = _inotify().inotify_add_watch(self.descriptor, os.fsencode(self._path), mask)
        if self._watched not in (None, found):  # what was there before was renamed
            _inotify().inotify_rm_watch(self.descriptor, self._watched)
        self._watched = found if found >= 0 else None
        with suppress(OSError):  # gone since
            return self._watched is not None and _tells(self._path.stat().st_dev)
        return False

    def close(self) -> None:
        """Let the kernel forget it."""
        self._close()


@cache
def _inotify() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{os.strerror(number)} ({call})")


@cache
def _tells(device: int) -> bool:
    """Whether files of this device are on a file system that tells; one that cannot be found out does not."""
    with suppress(OSError, IndexError, ValueError):
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            mount, _, system = line.partition(" - ")
            major, minor = mount.split()[2].split(":")
            if os.makedev(int(major), int(minor)) == device:
                return system.split()[0] in _TELLING
    return False
