"""Every metric of the sinks."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

# -- loader: Kafka to ClickHouse

RECORDS = Counter("fleetpulse_loader_records_total", "Records that are in ClickHouse", ["topic"])
BYTES = Counter("fleetpulse_loader_bytes_total", "Bytes of those records", ["topic"])
BATCHES = Counter("fleetpulse_loader_batches_total", "Batches written", ["topic"])
REDONE = Counter("fleetpulse_loader_batches_redone_total", "Batches that were begun before and done again", ["topic"])
REPAIRED = Counter(
    "fleetpulse_loader_records_repaired_total",
    "Records of redone batches that ClickHouse had remembered but did not hold",
    ["topic"],
)
REFUSED = Counter("fleetpulse_loader_records_refused_total", "Records sent to the dead letters", ["topic", "reason"])
INSERT_SECONDS = Histogram(
    "fleetpulse_loader_insert_seconds",
    "One insert, from the request to ClickHouse's answer",
    ["topic"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60),
)
INSERT_FAILURES = Counter("fleetpulse_loader_insert_failures_total", "Inserts that failed and are retried", ["topic"])
DELAY_SECONDS = Histogram(
    "fleetpulse_loader_delay_seconds",
    "From the newest record of a batch being in Kafka to it being in ClickHouse",
    ["topic"],
    buckets=(0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 300, 1800),
)
LAG_RECORDS = Gauge(
    "fleetpulse_loader_lag_records", "Records in Kafka that are not in ClickHouse", ["topic", "partition"]
)
PAUSED = Gauge("fleetpulse_loader_partitions_paused", "Partitions not read on, because ClickHouse is slower or away")

# -- alerts: incidents to people

PAGES = Counter("fleetpulse_alerts_pages_total", "Incidents that page, each once")
DELIVERED = Counter("fleetpulse_alerts_delivered_total", "Notices that a channel took", ["channel", "notice"])
DELIVERY_FAILURES = Counter("fleetpulse_alerts_delivery_failures_total", "Attempts that failed", ["channel"])
GIVEN_UP = Counter("fleetpulse_alerts_given_up_total", "Notices that a channel will never take", ["channel"])
WAITING = Gauge("fleetpulse_alerts_waiting", "Notices not yet delivered", ["channel"])
UNREADABLE = Counter(
    "fleetpulse_alerts_records_unreadable_total", "Incident records that could not be read", ["reason"]
)
FAULT_TO_ALERT_SECONDS = Histogram(
    "fleetpulse_alerts_fault_to_alert_seconds",
    "From the first evidence being seen on a node to the alert being delivered",
    ["channel"],
    buckets=(0.25, 0.5, 1, 1.5, 2, 3, 5, 10, 30, 60, 300),
)
