"""InfiniBand (and RoCE) ports: state, speed beside the card's and its peers', and every counter with its meaning.

`read_tree` and `decode` are pure (a sysfs tree, or the text of ibstat, ibstatus and perfquery, to readings) and never
raise. `source.py` watches this node's ports for the agent. infiniband.toml has the counters with their IBTA meaning and
limits, the speeds and the cards.
"""

from __future__ import annotations

from producers.infiniband.decode import decode, read_tree
from producers.infiniband.port import Decoded, PortReading
from producers.infiniband.tables import table
from producers.infiniband.tree import SYSFS

__all__ = ["SYSFS", "Decoded", "PortReading", "decode", "read_tree", "table"]
