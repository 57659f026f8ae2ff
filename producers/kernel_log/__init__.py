"""What the kernel log says about the hardware: XID, SXid, GPUs off the bus, links, PCIe, and the rest of the node.

`decode` is pure (lines to events), `KernelLogSource` follows `/dev/kmsg`, the journal and log files for the agent and
sums up storms, `events_of_file` reads a whole log for a replay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from producers.kernel_log.decode import Decoder, decode
from producers.kernel_log.events import GpuMap, KernelEvent, normal_pci
from producers.kernel_log.lines import numbered, open_log

if TYPE_CHECKING:
    from producers.kernel_log.generation import KernelLogError
    from producers.kernel_log.record import events_of_file, events_of_lines
    from producers.kernel_log.source import KernelLogSource

__all__ = [
    "Decoder", "GpuMap", "KernelEvent", "KernelLogError", "KernelLogSource", "decode", "events_of_file",
    "events_of_lines", "normal_pci", "numbered", "open_log",
]  # fmt: skip

_LATER = {
    "KernelLogError": "generation",
    "KernelLogSource": "source",
    "events_of_file": "record",
    "events_of_lines": "record",
}
"""What decoding does without is imported when it is asked for: half the start of `fleetpulse decode` would go there."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
