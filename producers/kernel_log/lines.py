"""What stands in front of a kernel message, in every form that kernel lines come in.

`dmesg` (plain, `-T`, `--time-format iso`, `-x`, coloured), `journalctl` (all short forms, `-o json`), syslog files (old
and RFC 3339 stamps), `/dev/kmsg` records, and nothing at all. A prefix that is not known is no error: the message is
found all the same, only its time is not.
"""

from __future__ import annotations

import errno
import re
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import BinaryIO, cast
from uuid import UUID

import msgspec

LINE_BYTES = 1 << 20
"""A longer line comes in pieces, so that no input can fill the memory."""

COMPRESSED = ".gz"
"""What a rotated log ends in that is unpacked while it is read."""

_MONTHS = {
    name: number
    for number, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), start=1
    )
}
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_KMSG = re.compile(r"[0-9]{1,10},[0-9]{1,20},([0-9]{1,18}),[^;]{0,200};")
_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[T ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:[.,]([0-9]{1,9}))?"
    r" ?(Z|UTC|[+-][0-9]{2}:?[0-9]{2})?(?![0-9])"
)
_CTIME = re.compile(r"\[?[A-Z][a-z]{2} ([A-Z][a-z]{2}) +([0-9]{1,2}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) ([0-9]{4})\]?")
_SYSLOG = re.compile(
    r"(?:<[0-9]{1,3}>)?([^\W\d_]{3,9})\.? +([0-9]{1,2}) ([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.[0-9]+)? "
)
_UNIX = re.compile(r"([0-9]{9,10})\.([0-9]{6}) ")
_MONOTONIC = re.compile(r"\[ *([0-9]{1,12}\.[0-9]{1,9})\]")
_STAMP_CHARS = 120
"""Stamps stand at the start of a line; a number in brackets further on is not one."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FUTURE = timedelta(days=1)
"""How far a syslog stamp may lie ahead of now before it must be last year's; clocks and zones differ."""


class Line(msgspec.Struct, frozen=True):
    """A physical line without its wrapping; one line may carry several messages (a driver prints newlines)."""

    messages: tuple[str, ...]
    event_ms: int | None = None
    """UTC milliseconds; None where the line does not tell."""
    boot_id: str | None = None
    """Of journald records."""


class _JournalRecord(msgspec.Struct):
    message: str | list[int] | None = msgspec.field(name="MESSAGE", default=None)
    source_us: str | None = msgspec.field(name="_SOURCE_REALTIME_TIMESTAMP", default=None)
    realtime_us: str | None = msgspec.field(name="__REALTIME_TIMESTAMP", default=None)
    boot_id: str | None = msgspec.field(name="_BOOT_ID", default=None)


_journal = msgspec.json.Decoder(_JournalRecord)


def open_log(path: Path) -> BinaryIO:
    """A log for reading, unpacked on the way where it is compressed. Raises `OSError`."""
    if path.suffix != COMPRESSED:
        return path.open("rb")
    import gzip

    return cast("BinaryIO", gzip.open(path))


def numbered(stream: BinaryIO) -> Iterator[tuple[int, str]]:
    """The physical lines of a stream with their numbers from 1; pieces of an overlong line share its number.

    Raises `OSError` where the stream cannot be read on.
    """
    number, fresh = 0, True
    try:
        while chunk := stream.readline(LINE_BYTES):
            number += fresh
            fresh = chunk.endswith(b"\n")
            yield number, chunk.decode(errors="replace")
    except (EOFError, zlib.error) as error:
        raise OSError(errno.EIO, f"the compressed log is damaged after line {number}: {error}") from error


def is_journal_bytes(raw: str) -> bool:
    """A journald record whose message is an array of bytes, as journalctl writes what is not printable text."""
    return raw.startswith("{") and '"MESSAGE"' in raw and "[" in raw


def unwrap(raw: str, *, now_ms: int | None = None, boot_ms: int | None = None) -> Line:
    """Messages and time of one physical line; never raises.

    `now_ms` gives syslog stamps their year, `boot_ms` (UTC milliseconds of the boot) turns monotonic stamps into times;
    without them such lines have no time. Stamps without a zone are taken as UTC.
    """
    if raw.startswith("{") and (line := _unwrap_journal(raw)) is not None:
        return line
    if "\x1b" in raw:
        raw = _ANSI.sub("", raw)
    if kmsg := _KMSG.match(raw):
        messages = tuple(raw[kmsg.end() :].split("\\x0a"))  # the kernel escapes what is not printable
        return Line(messages, None if boot_ms is None else boot_ms + int(kmsg[1]) // 1000)
    messages = tuple(raw.split("#012")) if "#012" in raw else (raw,)  # rsyslog escapes a newline so
    return Line(messages, _event_ms(raw[:_STAMP_CHARS], now_ms, boot_ms))


def _unwrap_journal(raw: str) -> Line | None:
    try:
        record = _journal.decode(raw)
        message = record.message
        if isinstance(message, list):
            message = bytes(message).decode(errors="replace")
        stamp = record.source_us or record.realtime_us
        event_ms = int(stamp) // 1000 if stamp else None
    except (msgspec.DecodeError, ValueError, UnicodeError):
        return None
    return Line(tuple((message or "").split("\n")), event_ms, _dashed(record.boot_id))


def _dashed(boot_id: str | None) -> str | None:
    """The journal writes the kernel's boot id without its dashes."""
    if boot_id is None or not re.fullmatch(r"[0-9a-fA-F]{32}", boot_id):
        return boot_id
    return str(UUID(boot_id))


def _event_ms(head: str, now_ms: int | None, boot_ms: int | None) -> int | None:
    try:
        found = _CTIME.match(head) if head.startswith("[") else None  # `dmesg -T`, without the longer search
        if found is None and (iso := _ISO.search(head)):
            return _ms(_iso(iso))
        if found or (found := _CTIME.search(head)):
            month, day, hour, minute, second, year = found.groups()
            return _ms(datetime(int(year), _month(month), int(day), int(hour), int(minute), int(second), tzinfo=UTC))
        if found := _SYSLOG.match(head):
            return None if now_ms is None else _ms(_syslog(found, now_ms))
        if found := _UNIX.match(head):
            return int(found[1]) * 1000 + int(found[2]) // 1000
        if (found := _MONOTONIC.search(head)) and boot_ms is not None:
            return boot_ms + int(float(found[1]) * 1000)
    except (ValueError, OverflowError):
        pass  # a day 31 of February, a month in another language: the message counts, its time is not known
    return None


def _iso(found: re.Match[str]) -> datetime:
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    microsecond = int((fraction or "0").ljust(6, "0")[:6])
    offset = UTC
    if zone and zone[0] in "+-":
        ahead = timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
        offset = timezone(-ahead if zone[0] == "-" else ahead)
    return datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), microsecond, tzinfo=offset)


def _syslog(found: re.Match[str], now_ms: int) -> datetime:
    """A stamp without a year lies at most a day ahead of now: what looks later is from last year."""
    month, day, hour, minute, second = found.groups()
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    for year in range(now.year + 1, now.year - 8, -1):  # eight years back there is a leap year for 29 February
        try:
            stamp = datetime(year, _month(month), int(day), int(hour), int(minute), int(second), tzinfo=UTC)
        except ValueError:
            if year > now.year - 8 and (int(day), _month(month)) == (29, 2):
                continue
            raise
        if stamp <= now + _FUTURE:
            return stamp
    raise ValueError(found[0])


def _month(name: str) -> int:
    try:
        return _MONTHS[name.lower()]
    except KeyError:
        raise ValueError(name) from None


def _ms(stamp: datetime) -> int:
    return (stamp - _EPOCH) // timedelta(milliseconds=1)
