"""XID and SXid messages taken apart.

`NVRM: Xid (PCI:0000:9b:00): 119, pid=2024380, name=nvidia-smi, Timeout after 6s of waiting for RPC response …`
`nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 28006, Non-fatal, Link 46 MC TS crumbstore MCTO (First)`
(formats: https://docs.nvidia.com/deploy/xid-errors/ and the Fabric Manager user guide, runtime errors).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from producers.kernel_log.events import normal_pci
from producers.kernel_log.memory import CODES, read_memory
from producers.kernel_log.nvlink5 import Word, decode_registers
from schemas.catalog.nvlink5 import Branch

_CODED = re.compile(
    r"""(?P<sxid>S)?X(?:id|ID)(?![A-Za-z])\s{0,4}
        (?: \((?P<where>[^()]{0,80})\)            # the usual form
          | \((?P<open>PCI:[0-9a-fA-F:.]{4,20})(?=:\s) # the closing bracket is missing
          | (?:[a-z]{1,12}\ ){0,2}error           # "Xid critical error: 79"
        )\s{0,4}:\s{0,4}
        (?P<code>0x[0-9a-fA-F]{1,16}|[0-9]{1,20})\b""",
    re.VERBOSE,
)
_SWITCH = re.compile(r"nvidia-nvswitch([0-9]{1,4}):\s*$")
_INSTANCE = re.compile(r"GPU-I:([0-9]{1,4})")
_PID = re.compile(r"^[\s,:]*pid='?(?:(?P<pid>[0-9]{1,20})(?![^,'])|[^,']{0,40})'?")
_NAME = re.compile(r"^[\s,]*name='?(?P<name>[^,']{0,200}?)'?(?=,|$)")
_CAUSED_BY = re.compile(r"caused by previous Xid (?P<caused_by_xid>[0-9]{1,9})")
_CHANNEL = re.compile(r"\b[Cc]h(?:annel)? (?:ID )?(?:0x)?(?P<channel>[0-9a-fA-F]{8})\b")
_LINK = re.compile(r"\blink (?P<link>-?[0-9]{1,4})(?![0-9])", re.IGNORECASE)
_FATALITY = re.compile(r"\b(?P<non>non-?)?fatal\b", re.IGNORECASE)
_SUBCODE = re.compile(r"\b(?P<subcode>[A-Z][A-Z0-9_/]{2,40})\s{1,8}(?:[Nn]on-?)?[Ff]atal\b")
_REGISTERS = re.compile(r"\(\s{0,4}(?P<registers>0x[0-9a-fA-F]{1,16}(?:,?\s{1,4}0x[0-9a-fA-F]{1,16}){0,15})")
_SWITCH_SEVERITY = re.compile(r"^[\s,]*Severity (?P<level>[0-9])\b")
_SWITCH_DATA = re.compile(r"^[\s,]*Data \{")
_RECOVERY = re.compile(
    r"recovery action changed from (?P<was>0x[0-9a-fA-F]{1,8})(?: \((?P<was_text>[^)]{1,60})\))?"
    r"(?: to (?P<now>0x[0-9a-fA-F]{1,8})(?: \((?P<now_text>[^)]{1,60})\))?)?"
)
RECOVERY_ACTIONS = {0: "None", 1: "GPU Reset Required", 2: "Node Reboot Required", 3: "Drain P2P", 4: "Drain and Reset"}
"""The driver's words for its numbers (`NV2080_CTRL_GPU_RECOVERY_ACTION` in the driver's headers)."""
_FUNCTION = re.compile(r"Expected function (?P<function>[0-9]+ \(\w{1,60}\))")
_GSP_TIMEOUT = 119
_NVLINK, _NVLINK5 = 74, range(144, 151)
_MAX_CODE = 2**31 - 1


class Coded(NamedTuple):
    """One XID or SXid. `code` is None where the number is beyond what a code can be."""

    kind: str
    code: int | None
    pci: str | None
    link: int | None
    details: dict[str, str]
    at: int
    """Where in the message it begins."""


def find_coded(message: str, branch: Branch | None = None) -> list[Coded]:
    """Every XID and SXid of a message, in order; lines glued together hold more than one.

    `branch` is that of the driver which wrote it, where it is known.
    """
    matches = list(_matches(message))
    ends = [*(match.start() for match in matches), len(message)][1:]
    return [
        _coded(message, match, message[match.end() : end], branch) for match, end in zip(matches, ends, strict=True)
    ]


def _matches(message: str) -> Iterator[re.Match[str]]:
    """Looks for the three letters first: most messages have none, and the search for letters is ten times as fast."""
    for word in ("Xid", "XID"):
        at = message.find(word)
        while at >= 0:
            begin = at - 1 if message[at - 1 : at] == "S" else at
            if not message[max(0, begin - 1) : begin].isalpha() and (match := _CODED.match(message, begin)):
                yield match
            at = message.find(word, at + 3)


def _coded(message: str, match: re.Match[str], rest: str, branch: Branch | None) -> Coded:
    where = match["where"] or match["open"] or ""
    code: int | None = int(match["code"], 16 if match["code"].startswith("0x") else 10)
    details: dict[str, str] = {}
    if code is not None and code > _MAX_CODE:
        details["code_text"], code = match["code"], None
    if instance := _INSTANCE.search(where):
        details["gpu_instance"] = instance[1]
    if switch := _SWITCH.search(message, max(0, match.start() - 40), match.start()):
        details["nvswitch"] = switch[1]
    link = _read_sxid(rest, details) if match["sxid"] else _read_xid(code, rest, details, branch)
    return Coded(
        "sxid" if match["sxid"] else "xid", code, normal_pci(where.partition(" ")[0]), link, details, match.start()
    )


def _read_xid(code: int | None, rest: str, details: dict[str, str], branch: Branch | None) -> int | None:
    for pattern in (_PID, _NAME):
        if found := pattern.search(rest):
            rest = rest[found.end() :]
            details |= {name: value for name, value in found.groupdict().items() if value and value != "<unknown>"}
    for pattern in (_CHANNEL, _CAUSED_BY, _FUNCTION) if code == _GSP_TIMEOUT else (_CHANNEL, _CAUSED_BY):
        if found := pattern.search(rest):
            details |= found.groupdict()
    if code in CODES:
        read_memory(code, rest, details)
    elif code == 154:
        _read_recovery(rest, details)
    if code == _NVLINK:
        _read_registers(rest, details)
    elif code is not None and code in _NVLINK5:
        _read_nvlink5(code, rest, details, branch)
    else:
        return None
    link = _LINK.search(rest)
    return _link(link) if link else None


def _read_registers(rest: str, details: dict[str, str]) -> tuple[int, ...]:
    """The words in brackets behind an NVLink error; a bracket that a cut line does not close is no obstacle."""
    found = _REGISTERS.search(rest)
    if found is None:
        return ()
    words = found["registers"].replace(",", " ").split()
    details["registers"] = " ".join(words)
    return tuple(int(word, 16) for word in words)


def _read_nvlink5(code: int, rest: str, details: dict[str, str], branch: Branch | None) -> None:
    """`RLW_SRC_TRACK Nonfatal XC1 i0 Link 03 (0x040868e2 0x00000008 …)`: unit, fatality, link, interrupt registers."""
    word: Word | None = None
    if fatality := _FATALITY.search(rest):
        details["variant"] = word = "nonfatal" if fatality["non"] else "fatal"
    if subcode := _SUBCODE.search(rest):
        details["subcode"] = subcode["subcode"]
    if registers := _read_registers(rest, details):
        details |= decode_registers(code, details.get("subcode"), word, registers[:2], branch)


def _read_recovery(rest: str, details: dict[str, str]) -> None:
    """`GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)`."""
    found = _RECOVERY.search(rest)
    if found is None:
        return
    for name, number, text in (("recovery_was", "was", "was_text"), ("recovery_action", "now", "now_text")):
        if found[number]:
            value = found[text] or RECOVERY_ACTIONS.get(int(found[number], 16)) or found[number]
            details[name] = value
    if "recovery_action" in details:
        details["variant"] = re.sub(r"\W+", "_", details["recovery_action"].strip().lower())


def _read_sxid(rest: str, details: dict[str, str]) -> int | None:
    if level := _SWITCH_SEVERITY.search(rest):
        details["part"] = "severity"
        details["variant"] = "nonfatal" if level["level"] == "0" else "fatal"
    elif _SWITCH_DATA.search(rest):
        details["part"] = "data"
    elif fatality := _FATALITY.search(rest):
        details["variant"] = "nonfatal" if fatality["non"] else "fatal"
    link = _LINK.search(rest)
    return _link(link) if link else None


def _link(found: re.Match[str]) -> int | None:
    """The driver writes -1 where an error belongs to no link."""
    number = int(found["link"])
    return number if number >= 0 else None
