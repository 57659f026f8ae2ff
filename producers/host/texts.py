"""What the kernel writes in /proc, as values. Pure, and never raises: a line that is none of ours costs only itself."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

_AVG10 = re.compile(r"(some|full) avg10=([0-9]{1,3}(?:\.[0-9]{1,4})?)(?: .*)?")
_COUNTER = re.compile(r"(\w{1,64})[ \t]+([0-9]{1,19})[ \t]*")
_UPTIME = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,4})?)(?:\s.*)?", re.DOTALL)
_OCTAL = re.compile(r"\\([0-3][0-7]{2})")
_IMAGES = frozenset({"squashfs", "iso9660", "erofs", "udf", "cramfs", "romfs"})
"""File systems that are always full, because they are images that nobody writes to."""
_POOLS = frozenset({"zfs", "bcachefs"})
"""Local file systems whose device is no path under /dev."""


class Mount(NamedTuple):
    """One mounted file system."""

    device: str
    path: str
    kind: str


def pressure(text: str) -> dict[str, float]:
    """`some` and `full` of /proc/pressure/*: percent of the last 10 s. What is not told is not in it."""
    found = (_AVG10.fullmatch(line.strip()) for line in text.splitlines())
    return {match[1]: float(match[2]) for match in found if match and float(match[2]) <= 100.0}


def counters(text: str, wanted: Collection[str]) -> dict[str, int]:
    """The wanted lines of /proc/vmstat: `pswpin 17`."""
    found = (_COUNTER.fullmatch(line) for line in text.splitlines())
    return {match[1]: value for match in found if match and match[1] in wanted and (value := int(match[2])) < 1 << 63}


def uptime_s(text: str) -> float | None:
    """Seconds since the boot, of /proc/uptime."""
    match = _UPTIME.fullmatch(text.strip())
    return float(match[1]) if match else None


def mounts(text: str) -> list[Mount]:
    """The local file systems of /proc/self/mounts, each once, where it is mounted the highest.

    Left out: what lies in memory or is the kernel's (no device), network file systems (their room is not the node's,
    and asking for it hangs when their server does), loop devices and images, and further mounts of the same device,
    which containers have by the hundred.
    """
    found: dict[str, Mount] = {}
    for line in text.split("\n"):  # a path may hold any other kind of line end
        fields = line.split(" ")
        if len(fields) < 4:
            continue
        mount = Mount(_unescaped(fields[0]), _unescaped(fields[1]), fields[2])
        local = mount.device.startswith("/dev/") or mount.kind in _POOLS
        if not local or mount.device.startswith("/dev/loop") or mount.kind in _IMAGES or mount.kind.startswith("fuse"):
            continue
        if not mount.path.startswith("/") or "\0" in mount.path:
            continue
        kept = found.get(mount.device)
        if kept is None or mount.path.count("/") < kept.path.count("/") or mount.path == "/":
            found[mount.device] = mount
    return list(found.values())


def _unescaped(field: str) -> str:
    r"""`/my disk` of `/my\040disk`; bytes above 0x7f are written as they are."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)
