"""Faults that share one cause become one incident, with a root, symptoms, and one page.

`correlator.py` lets incidents grow, merge and fall apart, `memory.py` is what is kept of them. What hangs together is
found by `ties.py`: by rows of the causal table, by more at once than by chance (`together.py`), or as the same trouble
again (`again.py`). `roots.py` weighs the candidates for the root, `incidents.py` puts into words what is said.
"""

from streams.correlation.correlator import Correlator
from streams.correlation.memory import KINDS

__all__ = ["KINDS", "Correlator"]
