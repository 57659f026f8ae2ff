"""Every metric of the stream processors."""

from prometheus_client import Counter, Gauge, Histogram

READINGS = Counter(
    "fleetpulse_stream_readings_total", "GPU readings, of samples and of counters, decoded and handed to detectors."
)
MESSAGES = Counter("fleetpulse_stream_messages_total", "Messages handled.", ["topic"])
LATE = Counter("fleetpulse_stream_late_messages_total", "Samples and counters that came after their tick had closed.")
REJECTED = Counter("fleetpulse_stream_rejected_messages_total", "Messages sent to dead.letters.", ["topic", "reason"])
FAILED_RUNS = Counter(
    "fleetpulse_stream_failed_runs_total", "Runs in which our own code failed: please report.", ["topic"]
)
WRITTEN = Counter("fleetpulse_stream_records_written_total", "Records written.", ["topic"])
RUN_SECONDS = Histogram(
    "fleetpulse_stream_run_seconds",
    "From a run's arrival at the agent to its outputs being delivered.",
    ["topic"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
LAG = Gauge("fleetpulse_stream_lag_messages", "Messages in Kafka that are not handled yet.", ["topic", "partition"])
OPEN_FAULTS = Gauge("fleetpulse_stream_open_faults", "Faults open now.", ["partition"])
OPEN_INCIDENTS = Gauge("fleetpulse_stream_open_incidents", "Groups of faults held now.", ["partition"])
COMPONENTS = Gauge(
    "fleetpulse_stream_components", "Components by their newest verdict.", ["partition", "kind", "health"]
)
REBUILD_SECONDS = Histogram(
    "fleetpulse_stream_rebuild_seconds",
    "Reading windows of samples and counters back after an assignment.",
    buckets=(0.1, 0.5, 1, 2, 5, 10, 30),
)
