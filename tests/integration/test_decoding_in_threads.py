"""Records of one class decoded for the first time by several threads at once, as at a worker's beginning."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

_PROCESSES = 12
"""Without what `schemas/records.py` prepares, one in five crashes."""
_SCRIPT = """
import sys, threading
import msgspec
from schemas.records import Fault, Incident

sys.setswitchinterval(1e-6)
begin = threading.Barrier(4)
fields = {"evidence": [{"id": "a", "at_ms": 1, "source": "x", "text": "y"}], "members": [], "fault_id": "f"}

def decode(kind):
    begin.wait()
    for _ in range(50):
        try:
            msgspec.convert(fields, kind)
        except msgspec.ValidationError:
            pass

threads = [threading.Thread(target=decode, args=(kind,)) for kind in (Fault, Fault, Incident, Fault)]
for one in threads:
    one.start()
for one in threads:
    one.join()
"""


def test_threads_that_decode_a_class_for_the_first_time_do_not_crash() -> None:
    here = Path(__file__).parents[2]
    ended = [
        subprocess.run([sys.executable, "-c", _SCRIPT], cwd=here, check=False, timeout=60).returncode
        for _ in range(_PROCESSES)
    ]
    assert ended == [0] * _PROCESSES
