"""Every metric of the embedded ClickHouse."""

from prometheus_client import Counter, Gauge, Histogram

# One request with a statement, by login (fleetpulse, analyst) and by what the engine calls its class in small letters.
QUERIES = Counter("fleetpulse_clickhouse_queries", "Statements answered.", ["login", "kind"])
# By ClickHouse's error code; a refused login is 516, a refused statement 164.
ERRORS = Counter("fleetpulse_clickhouse_errors", "Statements that failed.", ["code"])
RUNNING = Gauge("fleetpulse_clickhouse_running_queries", "Statements that run or wait for a handle now.")
SESSIONS = Gauge("fleetpulse_clickhouse_sessions", "Sessions that are open now.")
# From the request's head to the end of its answer.
SECONDS = Histogram(
    "fleetpulse_clickhouse_query_seconds",
    "How long a statement took.",
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
# Bodies as the engine sees them: after decompression, before compression.
RECEIVED_BYTES = Counter("fleetpulse_clickhouse_received_bytes", "Bytes of statements and of data to insert.")
SENT_BYTES = Counter("fleetpulse_clickhouse_sent_bytes", "Bytes of results.")
# As the engine counts them: with the rows of materialized views.
WRITTEN_ROWS = Counter("fleetpulse_clickhouse_written_rows", "Rows written.")
RESULT_ROWS = Counter("fleetpulse_clickhouse_result_rows", "Rows handed out.")
