"""What NVIDIA's DCGM says: `dcgmi diag` results with their interpretation, and the metrics of dcgm-exporter."""

from __future__ import annotations
