"""What the open faults make of each GPU, node and rack, and whether it may be rented (`streams/health/README.md`).

`book.py` holds the racks of a partition, `rack.py` one rack, `judging.py` applies the table.
"""

from streams.health.book import HealthBook, Heard
from streams.health.rack import Where

__all__ = ["HealthBook", "Heard", "Where"]
