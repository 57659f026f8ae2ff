"""The plan of one fault: what is said, what changes, and whose part it is. Frozen values, made before anything happens.

Times are seconds of the fleet's time. Where a plan names GPUs and nodes by number, these are their places in the
fleet's arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from producers.simulate.topology import Gpu, Node
from producers.simulate.truth import Role
from schemas.ids import gpu_id, node_id, nvswitch_id

Channel = Literal[
    # around GPUs, see `signals.Drive`; the value is the factor, or degrees
    "rise",
    "inlet_celsius",
    "clock",
    "power",
    # what is read of GPUs
    "unreadable",  # NVML fails: every column is NaN
    "throttle",  # the value is a mask of NVML's clock event reasons
    "links",  # so many NVLinks are down
    # counters; the value is by how much they have grown when the effect ends (`count`, with the counter's name),
    # or what they read meanwhile (`stands`)
    "count",
    "stands",
    # nodes
    "dark",  # off: nothing is sent or logged; afterwards it has booted
    "cut",  # it runs, but its agent sends nothing
    "hung",  # NVML hangs: no GPU samples, all else goes on
    "skew_ms",  # its clock is off by so much
    "ports",  # so many of its fabric ports are down
    # jobs
    "stops",  # programs on these GPUs die, at the beginning
    "held",  # no jobs for these nodes, until the end
]
NODE_CHANNELS = frozenset({"dark", "cut", "hung", "skew_ms", "ports", "held"})


@dataclass(frozen=True, slots=True)
class KernelLine:
    """What the kernel of a node says at a moment of the fleet's time."""

    node: Node
    at_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    """What another source of a node reports at a moment; `kind` is a key of the catalogue's events."""

    node: Node
    gpu: Gpu | None
    kind: str
    text: str
    source: str = "nvml"
    at_s: float | None = None
    """None: at the tick."""
    details: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Said:
    """A kernel line or report of a plan, and whose part it shows (-1: nobody's)."""

    at_s: float
    what: KernelLine | Report
    part: int = -1


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that is different from `begin_s` to `end_s`."""

    channel: Channel
    begin_s: float
    end_s: float
    on: tuple[int, ...]
    """Numbers of GPUs, or of nodes."""
    value: float = 1.0
    ramp_s: float = 0.0
    """The value is reached by and by, in so long."""
    name: str = ""
    """Which counter."""
    parts: tuple[int, ...] = ()
    """Whose part it shows: one for all of `on`, or one for each; nobody's where empty."""
    visible: float = 0.0
    """From which size on it shows: degrees, or counts."""
    link: int = -1
    """Which NVLink, of what is about one: `links`, and NVLink's counters."""

    def share(self, now_s: float) -> float:
        """How much of the value is reached, 0 to 1."""
        if now_s < self.begin_s:
            return 0.0
        return 1.0 if self.ramp_s <= 0 else min(1.0, (now_s - self.begin_s) / self.ramp_s)


@dataclass(frozen=True, slots=True)
class Part:
    """The part that one component has in a fault."""

    component: str
    node: str
    rack: str
    gpu: str | None
    role: Role
    begin_s: float

    @classmethod
    def of_gpu(cls, node: Node, gpu: Gpu, begin_s: float, role: Role = "root") -> Part:
        """A GPU's."""
        return cls(gpu_id(gpu.serial), node.name, node.rack, gpu.serial, role, begin_s)

    @classmethod
    def of_switch(cls, node: Node, pci: str, begin_s: float, role: Role = "symptom") -> Part:
        """An NVSwitch's, by its PCI address."""
        return cls(nvswitch_id(node.name, pci), node.name, node.rack, None, role, begin_s)

    @classmethod
    def of_node(cls, node: Node, begin_s: float, role: Role = "root") -> Part:
        """A node's."""
        return cls(node_id(node.name), node.name, node.rack, None, role, begin_s)


@dataclass(frozen=True, slots=True)
class Plan:
    """One fault, thought through to its end. `parts[0]` is the root."""

    begin_s: float
    clears_s: float
    """When it is repaired, or over by itself."""
    parts: tuple[Part, ...]
    said: tuple[Said, ...] = ()
    effects: tuple[Effect, ...] = ()
    hard_s: float | None = None
    """When work died of it."""
    frees_s: float = math.nan
    """From when on its place may break again; its end, where not told."""
