"""Deduplication over HTTP as the loader relies on it: a batch with a token goes in once, through views too."""

import io
from collections.abc import Iterator

import clickhouse_connect
import fastavro
import lz4.frame
import pytest
from clickhouse_connect.driver.client import Client

from infra.clickhouse.launch import launched

pytestmark = pytest.mark.integration

SAMPLES = fastavro.parse_schema(
    {
        "type": "record",
        "name": "sample",
        "fields": [
            {"name": "node", "type": "string"},
            {"name": "tick_ms", "type": "long"},
            {"name": "gpus", "type": {"type": "array", "items": "string"}},
            {"name": "power_watts", "type": {"type": "array", "items": "float"}},
        ],
    }
)

TABLES = (
    "CREATE DATABASE d",
    "CREATE TABLE d.way_in (node String, tick_ms Int64, gpus Array(String), power_watts Array(Float32)) ENGINE = Null",
    """CREATE TABLE d.samples (node String, tick_ms Int64, gpu String, power_watts Float32)
       ENGINE = MergeTree ORDER BY (gpu, tick_ms) SETTINGS non_replicated_deduplication_window = 100""",
    """CREATE MATERIALIZED VIEW d.unfold TO d.samples AS
       SELECT node, tick_ms, gpu, power_watts FROM d.way_in ARRAY JOIN gpus AS gpu, power_watts""",
    """CREATE TABLE d.minutes (gpu String, minute Int64, samples UInt64)
       ENGINE = SummingMergeTree ORDER BY (gpu, minute) SETTINGS non_replicated_deduplication_window = 100""",
    """CREATE MATERIALIZED VIEW d.roll_up TO d.minutes AS
       SELECT gpu, intDiv(tick_ms, 60000) AS minute, count() AS samples FROM d.samples GROUP BY gpu, minute""",
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with (
        launched(tmp_path_factory.mktemp("clickhouse")) as server,
        clickhouse_connect.get_client(
            host=server.host, port=server.port, username=server.username, password=server.password
        ) as connected,
    ):
        for statement in TABLES:
            connected.command(statement)
        yield connected


@pytest.fixture(autouse=True)
def _empty(client: Client) -> None:
    client.command("TRUNCATE TABLE d.samples")
    client.command("TRUNCATE TABLE d.minutes")


def batch(first: int, last: int) -> bytes:
    """Samples of one node with 8 GPUs, ticks first to last."""
    file = io.BytesIO()
    gpus = [f"gpu{number}" for number in range(8)]
    fastavro.writer(
        file,
        SAMPLES,
        (
            {"node": "n1", "tick_ms": tick * 1000, "gpus": gpus, "power_watts": [float(tick)] * 8}
            for tick in range(first, last + 1)
        ),
    )
    return file.getvalue()


def insert(client: Client, data: bytes | Iterator[bytes], token: str, compression: str | None = None) -> None:
    client.raw_insert(
        "d.way_in",
        insert_block=data,  # type: ignore[arg-type] - any iterator of bytes will do
        fmt="Avro",
        compression=compression,
        settings={
            "insert_deduplication_token": token,
            "deduplicate_blocks_in_dependent_materialized_views": "1",
        },
    )


def counted(client: Client) -> tuple[int, int, int]:
    """Rows, distinct rows, and rows as the roll-up of the roll-up counts them."""
    rows = client.query("SELECT count(), uniqExact(gpu, tick_ms) FROM d.samples").first_row
    return int(rows[0]), int(rows[1]), int(str(client.command("SELECT sum(samples) FROM d.minutes")))


def test_a_batch_that_is_sent_again_with_its_token_goes_in_once(client: Client) -> None:
    for _ in range(3):
        insert(client, batch(0, 999), "samples:0:0-999")
    assert counted(client) == (8000, 8000, 8000)


def test_the_next_batch_goes_in_although_it_is_alike(client: Client) -> None:
    insert(client, batch(0, 99), "samples:0:0-99")
    insert(client, batch(0, 99), "samples:0:100-199")
    assert counted(client) == (1600, 800, 1600)


def test_a_repeat_is_known_however_its_bytes_arrive(client: Client) -> None:
    data = batch(0, 4999)
    insert(client, data, "samples:0:0-4999")
    in_pieces = iter([data[at : at + 1000] for at in range(0, len(data), 1000)])
    insert(client, in_pieces, "samples:0:0-4999")
    insert(client, lz4.frame.compress(data), "samples:0:0-4999", compression="lz4")
    assert counted(client) == (40_000, 40_000, 40_000)


def test_a_repeat_is_known_after_a_merge(client: Client) -> None:
    for number in range(5):
        insert(client, batch(number * 10, number * 10 + 9), f"samples:0:{number}")
    client.command("OPTIMIZE TABLE d.samples FINAL")
    for number in range(5):
        insert(client, batch(number * 10, number * 10 + 9), f"samples:0:{number}")
    assert counted(client) == (400, 400, 400)
