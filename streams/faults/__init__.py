"""Evidence folded into faults: one component, one class, one life, however often it is reported.

`book.py` leads the lives, `shelf.py` holds them and what has to be kept of them; the other files each know one thing:
evidence, announced work, operators' words, what a component went through, and what the ladder makes of it.
"""

from streams.faults.book import FaultBook
from streams.faults.held import OpenFault

__all__ = ["FaultBook", "OpenFault"]
