"""The cage of the serving process: what it cannot do whatever a statement talks the engine into.

Three walls, each put up by the process for itself before the engine starts; none needs root and none can be taken down:

- Landlock: no right on any file outside the database folder (read only: the libraries that Python and the engine
  load), no TCP connection, no signal to other processes. Needs Linux 5.13 for files, 6.7 for connections, 6.12 for
  signals.
- seccomp: no new socket of any kind (so no UDP, no DNS, no local sockets either), no program started, no look into
  other processes. Needs Linux on x86-64 or 64-bit ARM.
- limits: no core file, which would hold the password.

They bind the calling thread and every thread and process it starts afterwards; threads that ran before stay free.
Sources: linux/landlock.h, linux/seccomp.h, linux/filter.h; `man 7 landlock`, `man 2 seccomp`.
"""

import contextlib
import ctypes
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PR_SET_NO_NEW_PRIVS: Final = 38
PR_SET_SECCOMP: Final = 22
SECCOMP_MODE_FILTER: Final = 2

# The same numbers on every architecture (linux/include/uapi/asm-generic/unistd.h).
LANDLOCK_CREATE_RULESET: Final = 444
LANDLOCK_ADD_RULE: Final = 445
LANDLOCK_RESTRICT_SELF: Final = 446
LANDLOCK_CREATE_RULESET_VERSION: Final = 1
LANDLOCK_RULE_PATH_BENEATH: Final = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_DIR, MAKE_REG, MAKE_SYM, REFER, TRUNCATE = (1 << bit for bit in (7, 8, 12, 13, 14))
# How many rights on files each version of Landlock knows: the mask of all those that it can refuse.
_FILE_RIGHTS_BY_ABI: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_CONNECT_TCP_AND_BIND_TCP: Final = 3  # ABI 4
_SCOPE_ABSTRACT_SOCKET_AND_SIGNAL: Final = 3  # ABI 6

READ: Final = EXECUTE | READ_FILE | READ_DIR
KEEP: Final = (
    READ_FILE | WRITE_FILE | READ_DIR | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SYM | REFER | TRUNCATE
)
_OF_A_FILE: Final = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE

AUXILIARY_VECTOR: Final = Path("/proc/self/auxv")
"""What the kernel told the process at its start: page size, processor features, where the vDSO lies.

The engine reads it when it is loaded. Kept from it, it takes what lies behind the environment for it, which is true
only until somebody sets a variable; then it reads whatever the heap holds there, and some starts crash (chDB 4.4:
SIGSEGV as it looks for the vDSO). It holds a few addresses of this process; the rest is known anyway.
"""

# What the engine and the C library look up by name, and nothing else that tells about this process or others.
SYSTEM_PATHS: Final = (
    str(AUXILIARY_VECTOR),
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/hosts",  # with the next two "localhost" is found, the default host of a dictionary over a table
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/usr/share/zoneinfo",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/loadavg",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
    "/dev/null",
    "/dev/urandom",
)

# Refused calls: (x86-64, 64-bit ARM).
REFUSED_CALLS: Final = {
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "io_uring_setup": (425, 425),  # would open sockets behind this filter's back
    "mount": (165, 40),
    "unshare": (272, 97),
    "bpf": (321, 280),
    "kexec_load": (246, 104),
}
_ARCHITECTURES: Final = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Confinement:
    """What holds: the version of Landlock (0: none) and whether the system-call filter is on."""

    landlock_abi: int
    filtered: bool

    @property
    def files(self) -> bool:
        """Files outside the database folder are out of reach."""
        return self.landlock_abi >= 1

    @property
    def hosts(self) -> bool:
        """Other hosts are out of reach."""
        return self.filtered or self.landlock_abi >= 4

    @property
    def whole(self) -> bool:
        """All walls stand."""
        return self.files and self.hosts and self.filtered

    def gaps(self) -> list[str]:
        """What does not hold on this kernel, in words."""
        gaps = []
        if not self.files:
            gaps.append("files outside the database folder are not walled off (the kernel has no Landlock)")
        if not self.hosts:
            gaps.append("connections to other hosts are not walled off")
        if not self.filtered:
            gaps.append(f"system calls are not filtered on {sys.platform}/{platform.machine()}")
        return gaps


OPEN: Final = Confinement(landlock_abi=0, filtered=False)


def landlock_abi() -> int:
    """The version of Landlock that this kernel offers; 0 where there is none or it is switched off."""
    if sys.platform != "linux":
        return 0
    found: int = _libc.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), LANDLOCK_CREATE_RULESET_VERSION)
    return max(found, 0)


def confine(*, keep: Iterable[Path], read: Iterable[Path]) -> Confinement:
    """Confine this thread and all that it will start; files under `keep` may be written, those under `read` be read.

    Raises:
        OSError: a wall that this kernel offers could not be put up.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return OPEN
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "give up new privileges")
    abi = landlock_abi()
    if abi:
        _landlock(abi, [(path, KEEP) for path in keep] + [(path, READ) for path in read])
    return Confinement(abi, _seccomp())


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot {what}: {os.strerror(number)}")
    return result


def _landlock(abi: int, rules: Iterable[tuple[Path, int]]) -> None:
    known = (1 << _FILE_RIGHTS_BY_ABI.get(abi, 16)) - 1
    net = _CONNECT_TCP_AND_BIND_TCP if abi >= 4 else 0
    scope = _SCOPE_ABSTRACT_SOCKET_AND_SIGNAL if abi >= 6 else 0
    attributes = struct.pack("QQQ", known, net, scope)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = _check(
        _libc.syscall(LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0),
        "make a Landlock ruleset",
    )
    try:
        for path, rights in rules:
            with contextlib.suppress(FileNotFoundError):
                _add(ruleset, path, rights & known)
        _check(_libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0), "enforce the Landlock ruleset")
    finally:
        os.close(ruleset)


def _add(ruleset: int, path: Path, rights: int) -> None:
    beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not path.is_dir():
            rights &= _OF_A_FILE
        rule = struct.pack("=Qi", rights, beneath)
        _check(
            _libc.syscall(LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0), f"allow {path} in Landlock"
        )
    finally:
        os.close(beneath)


def _seccomp() -> bool:
    machine = _ARCHITECTURES.get(platform.machine())
    if machine is None:
        return False
    column, audit_arch = machine
    program = _filter([numbers[column] for numbers in REFUSED_CALLS.values()], audit_arch)
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HP", len(program) // 8, ctypes.addressof(instructions))
    result = _libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0)
    return bool(result == 0)


def _filter(refused: list[int], audit_arch: int) -> bytes:
    """A BPF program: EPERM for the refused calls and for every foreign calling convention, leave for the rest."""
    load, equal, at_least, end = 0x20, 0x15, 0x35, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000 | 1  # SECCOMP_RET_ALLOW; SECCOMP_RET_ERRNO with EPERM
    count = len(refused)
    steps = [
        (load, 0, 0, 4),  # seccomp_data.arch
        (equal, 0, count + 3, audit_arch),  # another architecture: refuse
        (load, 0, 0, 0),  # seccomp_data.nr
        (at_least, count + 1, 0, 0x40000000),  # the x32 numbers of x86-64: refuse
    ]
    steps += [(equal, count - place, 0, number) for place, number in enumerate(refused)]
    steps += [(end, 0, 0, allow), (end, 0, 0, refuse)]
    return b"".join(struct.pack("HBBI", *step) for step in steps)
