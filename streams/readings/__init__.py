"""Samples and counters: from bytes to ticks of a whole partition, and the detectors over them.

`decode.py` and `layouts.py` make columns of a run of messages (`columns.py`), `ticks.py` gathers them by event time
(`time.py`, `roster.py`, `speakers.py`), `processor.py` runs all of it over one of the `tables.py`.
"""
