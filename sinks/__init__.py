"""Where the stream ends: ClickHouse, alerts, reports."""
