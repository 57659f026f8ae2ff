"""What a worker holds for one partition, and what it has to keep to go on with it elsewhere.

These are the cores of the stream processors with their memory: pure but for the bytes that `memory` gives to be kept.
A memory entry is kept under `kind|id`; `None` lets it go.
"""

from streams.partitions.faults import FaultPartition
from streams.partitions.incidents import IncidentPartition
from streams.partitions.memory import Memory
from streams.partitions.outcome import Outcome, dead_letter
from streams.partitions.readings import CounterPartition, SamplePartition

__all__ = [
    "CounterPartition",
    "FaultPartition",
    "IncidentPartition",
    "Memory",
    "Outcome",
    "SamplePartition",
    "dead_letter",
]
