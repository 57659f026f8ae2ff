"""What `nvidia-smi` prints, as readings: `-q` text, `-q -x` XML and `--query-gpu` CSV, of every driver version.

`decode` is pure (lines to readings and events) and never raises; what it cannot read it says, and goes on.
"""

from __future__ import annotations

from producers.nvidia_smi.reading import GpuEvent, GpuReading, decode

__all__ = ["GpuEvent", "GpuReading", "decode"]
