"""The embedded ClickHouse: chDB (the engine as a library) behind ClickHouse's own HTTP protocol.

Clients cannot tell it from a small server: ``clickhouse_connect.get_client`` and ``curl`` work unchanged.
Start it with ``python -m infra.clickhouse --data-dir DIR``; what it does not promise stands in README.md.
"""
