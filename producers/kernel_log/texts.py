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


def text(kind: str, needle: str, pattern: str) -> Text:
    """A row."""
    return Text(kind, needle, re.compile(pattern))


ADDRESS = r"(?P<pci>(?:[0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}(?:\.[0-9a-fA-F])?)"
_UNCORRECTED = r"Uncorrect(?:ed|able) \((?P<severity>Non-?Fatal|Fatal)\)"

NVRM_TEXTS: tuple[Text, ...] = (
    text("gpu_map", "GPU at PCI:", rf"GPU at PCI:{ADDRESS}: (?P<uuid>GPU-[0-9a-fA-F-]{{8,40}})"),
    text("gpu_serial", "GPU serial number is", rf"GPU {ADDRESS}: GPU serial number is (?P<serial>\w{{1,40}})"),
    text("gpu_serial", "GPU Board Serial Number:", r"GPU Board Serial Number:\s*(?P<serial>\w{1,40})"),
    # the driver stops printing each timeout; XID 119 came before
    text("gsp_text", "Rate limiting GSP", rf"Rate limiting GSP RPC error prints for GPU at PCI:{ADDRESS}"),
    text(
        "gpu_init_text",
        "RmInitAdapter failed",
        rf"(?:GPU {ADDRESS}: )?RmInitAdapter failed!?(?: \((?P<status>[^)]{{0,60}})\))?",
    ),
    # other knvlink lines are progress; only those that name a failure count
    text(
        "nvlink_text", "knvlink", r"(?P<function>knvlink\w{0,80}):.{0,400}\b(?:[Ff]ail\w*|[Ee]rror|[Tt]ime[sd]? ?out)\b"
    ),
)
"""What the GPU driver says."""

TEXTS: tuple[Text, ...] = (
    # systemd-networkd, and the drivers' own words: `eth0: NIC Link is Down`, `mlx5_core 0000:5e:00.0 ib0: Link down`
    text(
        "link_flap",
        "arrier",
        rf"(?:{ADDRESS} )?(?P<interface>[A-Za-z][\w.@-]{{0,30}}): Lost carrier",
    ),
    text(
        "link_flap",
        "ink ",
        rf"(?:{ADDRESS} )?(?P<interface>[A-Za-z][\w.@-]{{0,30}}): (?:NIC )?[Ll]ink (?:is )?[Dd]own\b",
    ),
    text(
        "link_up",
        "ink ",
        rf"(?:{ADDRESS} )(?P<interface>[A-Za-z][\w.@-]{{0,30}}): (?:NIC )?[Ll]ink (?:is )?[Uu]p\b",
    ),
    # InfiniBand's own words: `infiniband mlx5_0: Port: 1 Link DOWN`
    text(
        "link_flap",
        "ink DOWN",
        r"\b(?P<interface>mlx[45]_[0-9]{1,4}): Port: (?P<port>[0-9]{1,3}) Link DOWN\b",
    ),
    text(
        "link_up",
        "ink ACTIVE",
        r"\b(?P<interface>mlx[45]_[0-9]{1,4}): Port: (?P<port>[0-9]{1,3}) Link ACTIVE\b",
    ),
    text(
        "cable",
        "ort module event",
        rf"mlx5_core {ADDRESS}: Port module event(?:\[error\])?: module (?P<module>[0-9]{{1,4}}), "
        r"(?P<reason>Cable (?P<severity>plugged|unplugged)|[^\n]{1,80})",
    ),
    text(
        "cqe_error",
        "WC error: ",
        r"\b(?P<interface>mlx5_[0-9]{1,4}):.{0,80}WC error: (?P<status>[0-9]{1,4}), "
        r"[Mm]essage: (?P<reason>[^\n]{1,80})",
    ),
    text("cqe_error", "dump error cqe", r"\b(?P<interface>mlx5_[0-9]{1,4}):.{0,60}dump error cqe"),
    text(
        "cqe_error",
        "rror cqe on cqn",
        rf"mlx5_core {ADDRESS} (?P<interface>[\w.@-]{{1,30}}): Error cqe on cqn (?P<queue>0x[0-9a-f]+),.{{0,80}}?"
        r" syndrome +(?P<status>0x[0-9a-f]{1,4})",
    ),
    text(
        "adapter_health",
        "mlx5_core",
        rf"mlx5_core {ADDRESS}:.{{0,80}}(?P<reason>device's health compromised|Fatal error [0-9]{{1,4}} detected"
        r"|handling bad device|health recovery (?:flow aborted|failed)|Health issue observed, [^,\n]{1,60}"
        r"|\w{1,40}\(0x[0-9a-fA-F]{1,8}\) timeout\. Will cause a leak)",
    ),
    text(
        "pcie_limited",
        "PCIe bandwidth, limited by",
        rf"(?P<driver>[\w-]{{1,32}}) {ADDRESS}: (?P<available_gbps>[0-9.]{{1,12}}) Gb/s available PCIe bandwidth, "
        r"limited by (?P<limited_by>.{1,60}?) at (?P<limiting_device>\S{1,32})"
        r"(?: \(capable of (?P<capable_gbps>[0-9.]+) Gb/s with (?P<capable_of>[^)]{1,60})\))?",
    ),
    text(
        "pcie_power",
        "insufficient power on",
        rf"{ADDRESS}.{{0,100}}[Dd]etected insufficient power on the PCIe slot(?: \((?P<watts>[0-9]+)W\))?",
    ),
    text(
        "pcie_aer",
        "PCIe Bus Error",
        rf"(?:(?P<driver>[A-Za-z][\w-]{{0,31}}) )?{ADDRESS}: (?:AER: )?PCIe Bus Error: "
        rf"severity=(?:Corrected|Correctable|{_UNCORRECTED}), type=(?P<layer>[^,]{{1,40}})",
    ),
    # of the root port's own lines only those that no "PCIe Bus Error" may follow: the device can be gone
    text(
        "pcie_aer",
        "AER: ",
        rf"AER: (?:Multiple )?{_UNCORRECTED} error (?:message )?received(?: from|:) {ADDRESS}",
    ),
)
NEEDLES: tuple[str, ...] = (
    "Xid", "XID", "Lost carrier", "ink is ", "ink down", "ink up", "Link Down", "PCIe", "AER: ", "mlx5_",
)  # fmt: skip
"""One of these is in each of those lines, or it is an XID."""
NVRM_NEEDLES: tuple[str, ...] = (
    "Xid", "XID", "The NVIDIA GPU", "fallen off the bus", "GPU at PCI:", "erial", "Rate limiting", "RmInitAdapter",
    "knvlink", "\\x0a", "#012",
)  # fmt: skip
"""One of these is in every line of the GPU driver that tells something: a GSP dump alone is 40 lines that do not."""
VIRTUAL_INTERFACE = re.compile(r"veth|docker|br-|virbr|cali|cni|flannel|lxc|tap|tun|dummy|vmnet|lo$|ovs|genev|vxlan")
"""Software interfaces come and go with containers; their carrier is no hardware's."""
GPU_DRIVERS = frozenset({"nvidia", "vfio-pci"})
"""Drivers whose devices are GPUs, as far as we are concerned."""
ADAPTER_DRIVERS = frozenset({"nvidia", "mlx5_core", "bnxt_en", "ice", "i40e"})
"""Drivers whose device was named in the line; the bus scan (`pci …`) says it of every bridge and disk."""
