"""What the kernel knows of its clock: whether somebody disciplines it, and how far off it may be (adjtimex)."""

from __future__ import annotations

import os
from functools import cache
from typing import Any, NamedTuple

_UNSYNCHRONISED = 0x40
"""STA_UNSYNC of <sys/timex.h>."""


class KernelClock(NamedTuple):
    """The kernel's own view of the clock."""

    disciplined: bool
    """The kernel was told so. A chrony without `rtcsync` never tells it, though it sets the clock: the error counts."""
    max_error_s: float
    """The clock is off by no more: what the daemon said, plus 0.5 ms for each second since. It ends at 16."""
    estimated_error_s: float


def kernel_clock() -> KernelClock:
    """Ask the kernel; needs no rights. Raises `OSError` where that is forbidden, `NotImplementedError` without it."""
    import ctypes

    call, structure = _adjtimex()
    answer = structure()
    if call(ctypes.byref(answer)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{os.strerror(number)} (adjtimex)")
    return KernelClock(
        disciplined=not answer.status & _UNSYNCHRONISED,
        max_error_s=answer.maxerror / 1e6,
        estimated_error_s=answer.esterror / 1e6,
    )


@cache
def _adjtimex() -> tuple[Any, Any]:
    """The call, and `struct timex` as far as it is read here."""
    import ctypes

    class Timex(ctypes.Structure):
        _fields_ = (
            ("modes", ctypes.c_uint),
            ("offset", ctypes.c_long),
            ("freq", ctypes.c_long),
            ("maxerror", ctypes.c_long),
            ("esterror", ctypes.c_long),
            ("status", ctypes.c_int),
            ("rest", ctypes.c_char * 256),  # the kernel writes some 160 bytes more
        )

    try:
        return ctypes.CDLL(None, use_errno=True).adjtimex, Timex
    except AttributeError as error:
        raise NotImplementedError("this system has no adjtimex") from error
