"""Prefixes of kernel lines: which time they tell, and physical lines of a stream."""

from __future__ import annotations

import io
import json

import pytest

from producers.kernel_log.lines import LINE_BYTES, numbered, unwrap

MESSAGE = "NVRM: Xid (PCI:0000:19:00): 94, pid=1"
NOW_MS = 1_731_700_000_000  # 2024-11-15T19:46:40 UTC
BOOT_MS = 1_731_600_000_000
BOOT_ID = "6a2c6a2c-6a2c-6a2c-6a2c-6a2c6a2c6a2c"


@pytest.mark.parametrize(("prefix", "event_ms"), [
    ("", None),
    ("[...] ", None),
    ("[  123.456789] ", BOOT_MS + 123_456),
    ("<3>[6085126.134786] ", BOOT_MS + 6_085_126_134),
    ("[   12.5][ T1234] ", BOOT_MS + 12_500),
    ("kern  :err   : [  123.456789] ", BOOT_MS + 123_456),
    ("kernel: [16450076.435595] ", BOOT_MS + 16_450_076_435),
    ("3,4471,3023054882,-;", BOOT_MS + 3_023_054),
    ("4,1227,437812449,c,caller=T12;", BOOT_MS + 437_812),
    ("[Fri Nov 15 12:02:03 2024] ", 1_731_672_123_000),
    ("[Fri Nov  1 12:02:03 2024] ", 1_730_462_523_000),
    ("2024-11-15T12:02:03,570101+00:00 ", 1_731_672_123_570),
    ("2024-11-15T12:02:03.570101+01:00 host kernel: [  1.0] ", 1_731_668_523_570),
    ("2024-11-15T12:02:03-0530 host kernel: ", 1_731_691_923_000),
    ("2024-11-15T12:02:03Z ", 1_731_672_123_000),
    ("2024-11-15 12:02:03 ", 1_731_672_123_000),
    ("Fri 2024-11-15 12:02:03 UTC host kernel: ", 1_731_672_123_000),
    ("1731672123.570101 host kernel: ", 1_731_672_123_570),
    ("Nov 15 12:02:03 host kernel: ", 1_731_672_123_000),
    ("Nov 15 12:02:03 host kernel: [  123.456789] ", 1_731_672_123_000),
    ("<4>Nov 15 12:02:03 host kernel: ", 1_731_672_123_000),
    ("Nov 16 12:02:03 host kernel: ", 1_731_758_523_000),  # a clock a little ahead is not a year behind
    ("Dec  6 12:02:03 host kernel: ", 1_701_864_123_000),  # last year's December
    ("Feb 29 00:00:00 host kernel: ", 1_709_164_800_000),
    ("kwi 15 07:56:59 testowy kernel: ", None),  # a month in Polish
    ("Feb 31 00:00:00 host kernel: ", None),
    ("2024-13-15T12:02:03 ", None),
])  # fmt: skip
def test_a_prefix_tells_the_time_or_nothing(prefix: str, event_ms: int | None) -> None:
    line = unwrap(prefix + MESSAGE, now_ms=NOW_MS, boot_ms=BOOT_MS)
    assert line.event_ms == event_ms
    assert len(line.messages) == 1
    assert line.messages[0].endswith(MESSAGE)


def test_what_depends_on_boot_or_year_is_unknown_without_them() -> None:
    for prefix in ("[  123.456789] ", "3,4471,3023054882,-;", "Nov 15 12:02:03 host kernel: "):
        assert unwrap(prefix + MESSAGE).event_ms is None


def test_a_journal_record_tells_time_and_boot() -> None:
    record = {"MESSAGE": MESSAGE, "__REALTIME_TIMESTAMP": "1731672123570101", "_BOOT_ID": "6a2c" * 8}
    line = unwrap(json.dumps(record))
    assert (line.messages, line.event_ms, line.boot_id) == ((MESSAGE,), 1_731_672_123_570, BOOT_ID)


def test_a_brace_does_not_make_a_journal_record() -> None:
    assert unwrap("{not json} " + MESSAGE).messages == ("{not json} " + MESSAGE,)


def test_lines_end_at_newlines_only_and_need_not_be_text() -> None:
    stream = io.BytesIO(b"one\x0b\x0c\x85\r\n\n\xff\xfe three\nfour")
    assert [(number, text.rstrip("\r\n")) for number, text in numbered(stream)] == [
        (1, "one\x0b\x0c\ufffd"),
        (2, ""),
        (3, "\ufffd\ufffd three"),
        (4, "four"),
    ]


def test_a_line_without_an_end_does_not_fill_the_memory() -> None:
    pieces = list(numbered(io.BytesIO(b"x" * (LINE_BYTES * 2 + 5) + b"\nnext\n")))
    assert [number for number, _ in pieces] == [1, 1, 1, 2]
    assert max(len(text) for _, text in pieces) == LINE_BYTES
