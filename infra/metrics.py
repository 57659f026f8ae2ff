"""Every metric that running the processes adds; what the parts count themselves stands in their own `metrics.py`."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

BEAT_AGE_SECONDS = Gauge("fleetpulse_beat_age_seconds", "Seconds since this process's main loop last said it is alive.")
PROCESS_UP = Gauge("fleetpulse_process_up", "1 while the supervised process runs.", ["process"])
PROCESS_RESTARTS = Counter(
    "fleetpulse_process_restarts_total", "Times the supervisor started a process again that had died.", ["process"]
)
