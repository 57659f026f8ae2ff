"""What the XIDs about GPU memory carry: which address, where on the chip, what is asked for.

`48, … detected on GPU in the framebuffer at physAddr 0xe9b9107e0 partition 3, subpartition 0.`
`63, … Row Remapper: New row (0x0000000e9b9107e0) marked for remapping, reset gpu to activate.`
`95, … Uncontained: LTC TAG (0x2, 0x0). RST: Yes, D-RST: No`
The forms are those of NVIDIA's open kernel modules (ras_events.c and gpu_error_cont.c), and of older drivers.
"""

from __future__ import annotations

import re

_HEX = r"(?:0x)?[0-9a-fA-F](?:_?[0-9a-fA-F]){0,23}"
_PLACE = (
    re.compile(rf"\bphysAddr:? (?P<address>{_HEX})\b"),
    re.compile(r"\bpartition (?P<partition>[0-9]{1,6})\b"),
    re.compile(r"\bsubpartition (?P<subpartition>[0-9]{1,6})\b"),
)
_DETECTED = re.compile(
    r"detected on GPU in (?:the )?(?P<location>[A-Za-z][\w -]{0,40}?)(?= at\b| location\b|\s{0,4}[.,(]|\s{0,4}$)"
)
_REPAIR = (
    re.compile(r"\b(?P<repair>Row|Bank) [Rr]emapper|Dynamic (?P<page>Page) Retirement|(?P<dram>DRAM) Retirement"),
    re.compile(rf"\((?P<address>{_HEX})\)|\bat (?P<at>0x[0-9a-fA-F]{{1,16}})"),
    re.compile(r"\) - (?P<failure>[^.]{1,80})|failed due to (?P<due_to>.{1,60}?) at 0x"),
)
_CONTAINMENT = re.compile(
    rf"\b(?P<containment>Contained|Uncontained): (?P<location>[A-Za-z][\w /-]{{0,40}}?)"
    rf"(?: \((?P<first>{_HEX})(?:,\s{{0,4}}(?P<second>{_HEX}))?\))?\."
)
_CONTAINED = re.compile(r"\b(?P<containment>Contained|Uncontained) ECC error")
_RESETS = re.compile(r"(?<!-)\bRST: (?P<reset>Yes|No)(?:, D-RST: (?P<drain_and_reset>Yes|No))?")
_SBE_STORM = re.compile(r"in (?P<location>framebuffer) at logical|(?P<sm>SM) SBE interrupt storm")
_ESCAPED = re.compile(r"\bDRAM:(?P<dram>[0-9]+), LTC:(?P<ltc>[0-9]+), MMU:(?P<mmu>[0-9]+), PCIE:(?P<pcie>[0-9]+)")
_UNCORRECTABLE = re.compile(
    r"(?P<location>[A-Z][\w -]{1,30}), Uncorrectable (?:DRAM|SRAM) [Ee]rror(?: in FBPA (?P<fbpa>[0-9]{1,6}))?"
)
_PATTERNS: dict[int, tuple[re.Pattern[str], ...]] = {
    48: (*_PLACE, _DETECTED),
    63: _REPAIR,
    64: _REPAIR,
    92: (_PLACE[1], _SBE_STORM),
    94: (_PLACE[0], _CONTAINMENT, _CONTAINED, _RESETS),
    95: (_PLACE[0], _CONTAINMENT, _CONTAINED, _RESETS),
    140: (_ESCAPED,),
    171: (*_PLACE, _UNCORRECTABLE),
    172: (_UNCORRECTABLE,),
}
CODES = frozenset(_PATTERNS)
"""The XIDs whose lines carry something about memory."""
_NAMES = {"page": "repair", "dram": "repair", "at": "address", "due_to": "failure", "sm": "location"}
"""Groups that say the same in another place of a pattern."""


def read_memory(code: int, rest: str, details: dict[str, str]) -> None:
    """Add to `details` what follows an XID of `CODES`: location, address, partition, subpartition or slice, repair,
    failure, containment, reset and drain_and_reset.

    Addresses are hexadecimal without leading zeros, so that the lines of one error name the same.
    """
    found: dict[str, str] = {}
    for pattern in _PATTERNS[code]:
        if match := pattern.search(rest):
            named = ((name, value) for name, value in match.groupdict().items() if value)
            found |= {_NAMES.get(name, name) if code != 140 else name: value for name, value in named}
    _name_numbers(found)
    if "address" in found:
        found["address"] = f"{int(found['address'], 16):#x}"
    for name in ("repair", "containment"):
        if name in found:
            found[name] = found[name].lower()
    if found.get("repair") == "page" and "address" in found:
        found["page"] = found.pop("address")  # retired pages are numbered, not addressed
    if code == 94 and "Yes" in {found.get("reset"), found.get("drain_and_reset")}:
        found["variant"] = "reset_required"
    if code == 64 and "already pending" in found.get("failure", ""):
        found["variant"] = "already_pending"
    details |= found


def _name_numbers(found: dict[str, str]) -> None:
    """The numbers behind a location: two are a partition and, in the L2 cache, a slice; one is an engine."""
    first, second = found.pop("first", None), found.pop("second", None)
    if first and second:
        part = "slice" if found["location"].startswith("LTC") else "subpartition"
        found["partition"], found[part] = str(int(first, 16)), str(int(second, 16))
    elif first:
        found["engine"] = first
