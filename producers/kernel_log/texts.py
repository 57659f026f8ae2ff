"""Kernel lines without a code that tell about hardware: one row per kind of text.

A needle is looked for first, because most lines of a log are none of ours and a substring search is cheap. Named groups
become fields (`pci`) or details; `severity` becomes the catalogue's variant.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Text(NamedTuple):
    """One kind of text: the event kind, what must occur in it, and what it looks like."""

    kind: str
    needle: str
    pattern: re.Pattern[str]


def _text(kind: str, needle: str, pattern: str) -> Text:
    return Text(kind, needle, re.compile(pattern))


_ADDRESS = r"(?P<pci>(?:[0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}(?:\.[0-9a-fA-F])?)"

TEXTS: tuple[Text, ...] = (
    _text("gpu_map", "GPU at PCI:", rf"GPU at PCI:{_ADDRESS}: (?P<uuid>GPU-[0-9a-fA-F-]{{8,40}})"),
    _text("gpu_serial", "GPU serial number is", rf"GPU {_ADDRESS}: GPU serial number is (?P<serial>\w{{1,40}})"),
    _text("gpu_serial", "GPU Board Serial Number:", r"GPU Board Serial Number:\s*(?P<serial>\w{1,40})"),
    # the driver stops printing each timeout; XID 119 came before
    _text("gsp_text", "Rate limiting GSP", rf"Rate limiting GSP RPC error prints for GPU at PCI:{_ADDRESS}"),
    _text(
        "gpu_init_text",
        "RmInitAdapter failed",
        rf"(?:GPU {_ADDRESS}: )?RmInitAdapter failed!?(?: \((?P<status>[^)]{{0,60}})\))?",
    ),
    # other knvlink lines are progress; only those that name a failure count
    _text(
        "nvlink_text", "knvlink", r"(?P<function>knvlink\w{0,80}):.{0,400}\b(?:[Ff]ail\w*|[Ee]rror|[Tt]ime[sd]? ?out)\b"
    ),
    # systemd-networkd, and the drivers' own words: `eth0: NIC Link is Down`, `mlx5_core 0000:5e:00.0 ib0: Link down`
    _text(
        "link_flap",
        "arrier",
        rf"(?:{_ADDRESS} )?(?P<interface>[A-Za-z][\w.@-]{{0,30}}): Lost carrier",
    ),
    _text(
        "link_flap",
        "ink ",
        rf"(?:{_ADDRESS} )?(?P<interface>[A-Za-z][\w.@-]{{0,30}}): (?:NIC )?[Ll]ink (?:is )?[Dd]own\b",
    ),
    _text(
        "pcie_limited",
        "PCIe bandwidth, limited by",
        rf"(?P<driver>[\w-]{{1,32}}) {_ADDRESS}: (?P<available_gbps>[0-9.]{{1,12}}) Gb/s available PCIe bandwidth, "
        r"limited by (?P<limited_by>.{1,60}?) at (?P<limiting_device>\S{1,32})"
        r"(?: \(capable of (?P<capable_gbps>[0-9.]+) Gb/s with (?P<capable_of>[^)]{1,60})\))?",
    ),
    _text(
        "pcie_power",
        "insufficient power on",
        rf"{_ADDRESS}.{{0,100}}[Dd]etected insufficient power on the PCIe slot(?: \((?P<watts>[0-9]+)W\))?",
    ),
    _text(
        "pcie_aer",
        "PCIe Bus Error",
        rf"{_ADDRESS}: (?:AER: )?PCIe Bus Error: severity=(?:(?:Corrected|Correctable)|Uncorrect(?:ed|able) "
        r"\((?P<severity>Non-?Fatal|Fatal)\)), type=(?P<layer>[^,]{1,40})",
    ),
    # of the root port's own lines only those that no "PCIe Bus Error" may follow: the device can be gone
    _text(
        "pcie_aer",
        "AER: ",
        r"AER: (?:Multiple )?Uncorrect(?:ed|able) \((?P<severity>Non-Fatal|Fatal)\) error "
        rf"(?:message )?received(?: from|:) {_ADDRESS}",
    ),
)
NEEDLES: tuple[str, ...] = (
    "Xid", "XID", "Lost carrier", "ink is Down", "ink down", "ink is down", "Link Down", "PCIe", "AER: ",
)  # fmt: skip
"""One of these is in every line of ours that is not the GPU driver's (NVRM)."""
NVRM_NEEDLES: tuple[str, ...] = (
    "Xid", "XID", "The NVIDIA GPU", "fallen off the bus", "GPU at PCI:", "erial", "Rate limiting", "RmInitAdapter",
    "knvlink", "\\x0a", "#012",
)  # fmt: skip
"""One of these is in every line of the GPU driver that tells something: a GSP dump alone is 40 lines that do not."""
VIRTUAL_INTERFACE = re.compile(r"veth|docker|br-|virbr|cali|cni|flannel|lxc|tap|tun|dummy|vmnet|lo$|ovs|genev|vxlan")
"""Software interfaces come and go with containers; their carrier is no hardware's."""
ADAPTER_DRIVERS = frozenset({"nvidia", "mlx5_core", "bnxt_en", "ice", "i40e"})
"""Drivers whose device was named in the line; the bus scan (`pci …`) says it of every bridge and disk."""
