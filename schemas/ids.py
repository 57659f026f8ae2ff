"""Component ids and stable hashes: the same thing gets the same id wherever it is met."""

from __future__ import annotations

from hashlib import blake2b


def stable_id(*parts: object) -> str:
    """A 32-digit hexadecimal hash of `parts`, the same in every process."""
    return blake2b("\x1f".join(map(str, parts)).encode(), digest_size=16).hexdigest()


def gpu_id(gpu: str | None, node: str = "", pci: str | None = None) -> str:
    """`gpu:SERIAL` (UUID where there is no serial); where neither is known the slot has to do: `gpu:NODE/PCI`."""
    return f"gpu:{gpu}" if gpu else f"gpu:{node}/{pci or 'unknown'}"


def node_id(node: str) -> str:
    """`node:NAME`."""
    return f"node:{node}"


def nvswitch_id(node: str, pci: str | None) -> str:
    """`nvswitch:NODE/PCI`: an NVSwitch of a node."""
    return f"nvswitch:{node}/{pci or 'unknown'}"


def rack_id(rack: str) -> str:
    """`rack:NAME`."""
    return f"rack:{rack}"


def device_id(kind: str, name: str) -> str:
    """`pdu:NAME`, `cooling:NAME`, `meter:NAME`, `bmc:NODE`, `switch:NAME`: what stands around the nodes."""
    return f"{kind}:{name}"


def port_id(node: str, device: str, port: int) -> str:
    """`port:NODE/mlx5_0/1`: an InfiniBand or RoCE port of a node."""
    return f"port:{node}/{device}/{port}"
