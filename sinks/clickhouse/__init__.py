"""The ClickHouse side of the sinks: the tables and how they came to be, and the one way rows go in."""
