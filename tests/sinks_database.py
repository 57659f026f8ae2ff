"""A database of one test module: records go in as the loader brings them, rows come out as an analyst reads them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import clickhouse_connect

from schemas import container, registry
from schemas.codec import SingleObjectCodec
from schemas.records import Record
from sinks.clickhouse.insert import Insert, write
from sinks.clickhouse.migrate import migrate
from sinks.clickhouse.tables import ROUTES

CODEC = SingleObjectCodec()


class Database:
    """One database of one test module; `$` in a query stands for its name."""

    def __init__(self, client: Any, name: str) -> None:
        self.client = client
        self.name = name

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.client.query(query.replace("$", self.name)).result_rows]

    def row(self, query: str) -> dict[str, Any]:
        (found,) = self.client.query(query.replace("$", self.name)).named_results()
        return dict(found)

    def insert(self, *records: Record, token: str | None = None) -> None:
        way_in = next(route.way_in for route in ROUTES if route.kind is type(records[0]))
        framed = [CODEC.split(CODEC.encode(record)) for record in records]
        self.insert_bodies(way_in, framed[0].schema, [each.body for each in framed], token)

    def insert_bodies(
        self, way_in: str, schema: registry.Schema, bodies: Sequence[bytes], token: str | None = None
    ) -> None:
        write(self.client, Insert(f"{self.name}.{way_in}", container.frame(schema, bodies), token))


@contextmanager
def connected(clickhouse: Any, **options: Any) -> Iterator[Any]:
    """A client of the ClickHouse under test."""
    client = clickhouse_connect.get_client(
        host=clickhouse.host,
        port=clickhouse.port,
        username=clickhouse.username,
        password=clickhouse.password,
        **options,
    )
    try:
        yield client
    finally:
        client.close()


@contextmanager
def migrated(client: Any) -> Iterator[Database]:
    """A new database with this build's tables and views, gone afterwards."""
    name = f"tables_{uuid.uuid4().hex[:8]}"
    migrate(client, name)
    yield Database(client, name)
    client.command(f"DROP DATABASE {name} SYNC")
