"""What more than one file of tests on real Kafka and the real ClickHouse engine needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.sinks_database import Database, connected, migrated


@pytest.fixture(scope="module")
def client(clickhouse: Any) -> Iterator[Any]:
    """A connection to the server that all tests share."""
    with connected(clickhouse) as made:
        yield made


@pytest.fixture(scope="module")
def db(client: Any) -> Iterator[Database]:
    """A database for the tests of one file, with all tables and views."""
    with migrated(client) as made:
        yield made


@pytest.fixture
def serial(unique: str) -> str:
    """A GPU that no other test knows."""
    return f"1650{unique}"
