"""Where a fault happens, and the words that plans of many kinds share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from producers.simulate.plan import Effect, KernelLine, Report, Said
from producers.simulate.topology import Gpu, Node

Draw = np.random.Generator

MINUTE_S, HOUR_S = 60.0, 3600.0


class Scene:
    """The fleet as a fault finds it: who stands beside whom."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = tuple(nodes)
        self.gpus: tuple[tuple[Node, Gpu], ...] = tuple((node, gpu) for node in nodes for gpu in node.gpus)

    @cached_property
    def racks(self) -> Mapping[str, tuple[Node, ...]]:
        """Rack to its nodes."""
        return _groups(self.nodes, "rack")

    @cached_property
    def pdus(self) -> Mapping[str, tuple[Node, ...]]:
        """PDU to the nodes that it feeds."""
        return _groups(self.nodes, "pdu")

    @cached_property
    def leaves(self) -> Mapping[str, tuple[Node, ...]]:
        """Leaf switch to the nodes behind it."""
        return _groups(self.nodes, "leaf_switch")

    @cached_property
    def domains(self) -> Mapping[str, tuple[Node, ...]]:
        """NVLink domain to its nodes."""
        return _groups(self.nodes, "nvlink_domain")

    def peers(self, node: Node, gpu: Gpu) -> tuple[tuple[Node, Gpu], ...]:
        """The other GPUs of a GPU's NVLink domain."""
        inside = self.domains[node.nvlink_domain]
        return tuple((other, one) for other in inside for one in other.gpus if one.number != gpu.number)


@dataclass(frozen=True, slots=True)
class Spot:
    """Where one fault is: the nodes that it is about, and the GPU where it is about one."""

    scene: Scene
    name: str
    nodes: tuple[Node, ...]
    gpu: Gpu | None = None

    @property
    def node(self) -> Node:
        """The node, where it is about one."""
        return self.nodes[0]

    @property
    def one(self) -> Gpu:
        """The GPU. Raises `ValueError` where it is about none."""
        if self.gpu is None:
            raise ValueError(f"{self.name} is no GPU")
        return self.gpu

    @property
    def node_numbers(self) -> tuple[int, ...]:
        """Of all its nodes."""
        return tuple(node.number for node in self.nodes)

    @property
    def gpu_numbers(self) -> tuple[int, ...]:
        """Of all GPUs of its nodes."""
        return tuple(gpu.number for node in self.nodes for gpu in node.gpus)


def lasts(draw: Draw, median_s: float, *, least_s: float = 30.0, most_s: float = 16 * HOUR_S) -> float:
    """How long something takes: log-normal, a third of it takes more than 1.5 times the median."""
    return float(np.clip(draw.lognormal(np.log(median_s), 0.7), least_s, most_s))


def xid(node: Node, gpu: Gpu, at_s: float, rest: str, part: int = 0) -> Said:
    """An XID line of the GPU's driver."""
    return Said(at_s, KernelLine(node, at_s, f"NVRM: Xid (PCI:{gpu.pci}): {rest}"), part)


def sxid(node: Node, switch: int, at_s: float, rest: str, part: int = -1) -> Said:
    """An SXid line of the driver of one of the node's NVSwitches."""
    pci = node.platform.switches[switch]
    return Said(at_s, KernelLine(node, at_s, f"nvidia-nvswitch{switch}: SXid (PCI:0000:{pci}.0): {rest}"), part)


def log(node: Node, at_s: float, text: str, part: int = 0) -> Said:
    """Any other kernel line."""
    return Said(at_s, KernelLine(node, at_s, text), part)


def told(
    node: Node,
    at_s: float,
    kind: str,
    text: str,
    *,
    part: int = -1,
    gpu: Gpu | None = None,
    source: str = "agent",
    details: Mapping[str, str] | None = None,
) -> Said:
    """An event of another source than the kernel log."""
    return Said(at_s, Report(node, gpu, kind, text, source, at_s, tuple((details or {}).items())), part)


def recovery(node: Node, gpu: Gpu, at_s: float, before: str, now: str, part: int = 0) -> Said:
    """XID 154: what the driver wants to be done changes."""
    numbers = {"None": 0, "GPU Reset Required": 1, "Node Reboot Required": 2, "Drain and Reset": 4}
    words = f"154, GPU recovery action changed from 0x{numbers[before]} ({before}) to 0x{numbers[now]} ({now})"
    return xid(node, gpu, at_s, words, part)


def reboot(node: Node, begin_s: float, end_s: float) -> tuple[tuple[Said, ...], tuple[Effect, ...]]:
    """An operator boots a node again: its agent says goodbye, and is there again afterwards."""
    goodbye = told(node, begin_s - 1.0, "agent_stopped", "the agent was stopped")
    return (goodbye, back(node, end_s)), (Effect("dark", begin_s, end_s, (node.number,)),)


def back(node: Node, at_s: float) -> Said:
    """The agent begins to watch."""
    sources = "nvml,kernel_log,inventory"
    return told(node, at_s + 0.5, "agent_started", f"watching {sources}", details={"sources": sources})


def _groups(nodes: Sequence[Node], name: str) -> dict[str, tuple[Node, ...]]:
    groups: dict[str, list[Node]] = {}
    for node in nodes:
        groups.setdefault(getattr(node, name), []).append(node)
    return {key: tuple(inside) for key, inside in groups.items()}
