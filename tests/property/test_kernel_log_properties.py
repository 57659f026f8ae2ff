"""What must hold for any kernel log, whatever its bytes."""

from __future__ import annotations

import io
import json

from hypothesis import given
from hypothesis import strategies as st

from producers.kernel_log import Decoder, KernelEvent, decode, numbered
from schemas.catalog import load

CATALOG = load()
PIECES = st.sampled_from(
    [
        "NVRM: ", "Xid ", "XID", "SXid ", "(PCI:0000:01:00", "): ", "79", "149, ", "154", ", pid=", "name=", "'", "0x",
        "Fatal", "Nonfatal", "Link ", "-1", "(0x00000007 0x1)", "RLW_REMAP ", "Contained: ", "LTC TAG (0x2,",
        "RST: Yes", "48, ", "63, ", "64, ", "94, ", "physAddr 0x_", "partition 3", "Row Remapper: ", "145, ",
        "mlx5_0: ", "WC error: 4, Message: ", "dump error cqe", "mlx5_core 0000:5e:00.0: ", "Machine Check: 0 Bank 7: ",
        "CPU 3: ", "8c00004000010092", "EDAC MC0: 1 CE ", " on ", "nvme nvme0: ", "QID 4 timeout, aborting", "pcie",
        "The NVIDIA GPU ", "0000:b3:00.0", "fallen off the bus", "GPU at PCI:",
        "GPU Board Serial Number: ", "knvlink", ": failed", "Lost carrier", "eth0: ", "AER: ",
        "PCIe Bus Error: severity=",
        "available PCIe bandwidth, limited by ", "Severity 1", "Data {", "\\x0a", "#012", "\x1b[31m", '{"MESSAGE":[',
        "3,4471,3023054882,-;", "[ 123.456]", "2024-11-15T12:02:03", "Feb 30 00:00:00 ", "<3>", "\r", "\x00", "\u0661",
        "changed from 0x0 (None) to 0x2 (Node Reboot Required)", "critical error", "GPU-", "nvidia-nvswitch0: ",
    ]
)  # fmt: skip
ODD_LINE = st.lists(st.one_of(PIECES, st.text(max_size=5)), max_size=12).map("".join)
GARBAGE = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=60)
ADDRESS = st.builds("{:04x}:{:02x}:{:02x}".format, st.integers(0, 0xFFFF), st.integers(0, 0xFF), st.integers(0, 0x1F))
CODE = st.integers(0, 2**31 - 1)
PREFIXES = (
    "", "[ 123.456] ", "<3>[6085126.134786] ", "[Fri Aug 30 11:43:09 2024] ", "2024-11-15T12:02:03,570101+00:00 ",
    "Aug 10 15:36:05 host kernel: ", "kwi 15 07:56:59 testowy kernel: ", "kernel: [12.5] ", "3,4471,3023054882,-;",
    "[...] ", "1731672123.570101 host kernel: ",
)  # fmt: skip


def read(data: bytes) -> list[KernelEvent]:
    return list(decode(numbered(io.BytesIO(data)), Decoder(now_ms=1_731_700_000_000, boot_ms=1_731_600_000_000)))


def meaning(event: KernelEvent) -> tuple[object, ...]:
    return event.kind, event.code, event.pci, event.link, event.details


@given(st.one_of(st.binary(max_size=300), st.lists(ODD_LINE, max_size=8).map(lambda lines: "\n".join(lines).encode())))
def test_no_bytes_make_it_fail_and_every_event_can_be_sent(data: bytes) -> None:
    lines = data.count(b"\n") + 1
    for event in read(data):
        assert 1 <= event.line <= lines
        entry = CATALOG.entry(event.kind, event.code, event.details.get("variant"))
        assert event.kind in {"xid", "sxid"} or entry.rule.startswith(f"event.{event.kind}")
        assert event.code is None or 0 <= event.code < 2**31
        assert event.link is None or 0 <= event.link < 2**31
        assert all(isinstance(value, str) for value in event.details.values())
        json.dumps(event.details)
        event.raw.encode()


@given(st.lists(GARBAGE, max_size=6), ADDRESS, CODE, st.lists(GARBAGE, max_size=6), st.sampled_from(["X", "SX"]))
def test_a_code_between_any_lines_is_always_found(
    before: list[str], address: str, code: int, after: list[str], letter: str
) -> None:
    line = f"NVRM: {letter}id (PCI:{address}): {code}, pid=1"
    found = read("\n".join([*before, line, *after]).encode())
    kind = "xid" if letter == "X" else "sxid"
    assert (len(before) + 1, kind, code, address) in [(e.line, e.kind, e.code, e.pci) for e in found]


@given(st.lists(st.tuples(ODD_LINE, ADDRESS, CODE), min_size=1, max_size=8))
def test_no_line_costs_its_neighbour(lines: list[tuple[str, str, int]]) -> None:
    text = "".join(f"{odd.replace(chr(10), '')}\nNVRM: Xid (PCI:{address}): {code}\n" for odd, address, code in lines)
    found = {(event.line, event.code, event.pci) for event in read(text.encode()) if event.kind == "xid"}
    assert {(2 * place, code, address) for place, (_, address, code) in enumerate(lines, start=1)} <= found


@given(ADDRESS, CODE, st.one_of(st.just(""), ODD_LINE.filter(lambda text: "\n" not in text and "\\x0a" not in text)))
def test_a_message_means_the_same_behind_every_prefix(address: str, code: int, rest: str) -> None:
    message = f"NVRM: Xid (PCI:{address}): {code}, {rest}".replace("#012", "").replace("\x1b", "").replace("\r", "")
    plain = [meaning(event) for event in read(message.encode())]
    for prefix in PREFIXES:
        assert [meaning(event) for event in read((prefix + message).encode())] == plain, prefix
    assert [meaning(event) for event in read(json.dumps({"MESSAGE": message}).encode())] == plain
    assert [meaning(event) for event in read(json.dumps({"MESSAGE": list(message.encode())}).encode())] == plain
    assert [meaning(event) for event in read(message.encode() + b"\r\n")] == plain


@given(st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=40))
def test_the_rest_of_an_xid_line_never_costs_the_code(rest: str) -> None:
    (event, *_) = read(f"NVRM: Xid (PCI:0000:01:00): 79, {rest}".encode())
    assert (event.kind, event.code, event.pci) == ("xid", 79, "0000:01:00")
