"""Every metric that producers keep about themselves, with its meaning. Served by whoever starts the process."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

DELIVERED = Counter(
    "fleetpulse_producer_delivered_records_total",
    "Records that the broker has acknowledged.",
    ["topic"],
)
FAILED = Counter(
    "fleetpulse_producer_failed_records_total",
    "Deliveries that ended in an error; the record went back to the spool unless it was dropped too.",
    ["topic"],
)
SPOOLED = Counter(
    "fleetpulse_producer_spooled_records_total",
    "Records that went to the spool on disk because the broker could not take them.",
    ["topic"],
)
DROPPED = Counter(
    "fleetpulse_producer_dropped_records_total",
    "Records that are lost, by reason: spool_full, torn, refused, no_spool. Each is also reported as an event.",
    ["topic", "reason"],
)
QUEUE = Gauge(
    "fleetpulse_producer_queue_records",
    "Records in memory that the broker has not acknowledged yet.",
)
SPOOL_BYTES = Gauge(
    "fleetpulse_spool_bytes",
    "Bytes on disk that wait for the broker.",
)
READ_SECONDS = Histogram(
    "fleetpulse_source_read_seconds",
    "How long one read of a source took.",
    ["source"],
    buckets=(0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)
FAILED_READS = Counter(
    "fleetpulse_source_failed_reads_total",
    "Reads of a source that raised an error.",
    ["source"],
)
SKIPPED_TICKS = Counter(
    "fleetpulse_source_skipped_ticks_total",
    "Ticks that were skipped because the read before had not come back.",
    ["source"],
)
HANGING = Gauge(
    "fleetpulse_source_hanging_seconds",
    "For how long the running read has been over its deadline; 0 while all is well.",
    ["source"],
)
GPUS = Gauge(
    "fleetpulse_gpus",
    "GPUs of this node by state: read, unreadable (answers nothing), lost (known here and gone).",
    ["state"],
)
SIMULATED_SAMPLES = Counter(
    "fleetpulse_simulated_gpu_samples_total",
    "GPU samples that the simulated fleet has produced.",
)
