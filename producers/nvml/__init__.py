"""What NVML says of this node's GPUs: samples each second, counters twice a minute, XIDs where no kernel log is read.

`NvmlSource` opens the driver and finds the GPUs; `NvmlCountersSource` and `NvmlXidSource` use its handles. All three
ask an `Nvml`: the real one is `Library`, a simulated one is in `producers/simulate/nvml.py`.
"""

from __future__ import annotations

from producers.nvml.counters import NvmlCountersSource
from producers.nvml.interface import Nvml, NvmlError
from producers.nvml.library import Library
from producers.nvml.source import NvmlSource
from producers.nvml.xids import NvmlXidSource

__all__ = ["Library", "Nvml", "NvmlCountersSource", "NvmlError", "NvmlSource", "NvmlXidSource"]
