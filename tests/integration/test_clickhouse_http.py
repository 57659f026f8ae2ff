"""The embedded ClickHouse as its clients see it: clickhouse-connect unchanged, and plain HTTP."""

import http.client
import io
import json
import shutil
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import clickhouse_connect
import fastavro
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError

from infra.clickhouse.launch import Running, launched

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with launched(tmp_path_factory.mktemp("clickhouse")) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Client]:
    with clickhouse_connect.get_client(
        host=server.host, port=server.port, username=server.username, password=server.password
    ) as connected:
        connected.command("CREATE DATABASE fleetpulse")
        yield connected


@pytest.fixture
def table(client: Client) -> Iterator[str]:
    client.command("CREATE TABLE fleetpulse.t (gpu String, tick Int64, watts Float32) ENGINE = MergeTree ORDER BY tick")
    yield "fleetpulse.t"
    client.command("DROP TABLE fleetpulse.t SYNC")


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


def ask(server: Running, body: bytes | str = b"", *, method: str = "POST", path: str = "/", **url: str) -> Reply:
    """One request as the writer; keys of the URL in `url`, headers among them as `header_X_ClickHouse_Format`."""
    headers = {"Authorization": "Basic " + b64encode(f"{server.username}:{server.password}".encode()).decode()}
    for key in [key for key in url if key.startswith("header_")]:
        headers[key.removeprefix("header_").replace("_", "-")] = url.pop(key)
    connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
    connection.request(method, f"{path}?{urlencode(url)}", body, headers)
    answer = connection.getresponse()
    reply = Reply(answer.status, dict(answer.headers.items()), answer.read())
    connection.close()
    return reply


# --- clickhouse-connect ------------------------------------------------------------------------------------------


def test_a_client_connects_and_asks(client: Client) -> None:
    assert client.ping()
    assert client.command("SELECT 40 + 2") == 42
    result = client.query("SELECT number AS n, toString(number) AS s FROM numbers(3)")
    assert result.column_names == ("n", "s")
    assert result.result_rows == [(0, "0"), (1, "1"), (2, "2")]
    assert result.summary["read_rows"] == "3"
    assert client.query("SELECT 1 WHERE 0").result_rows == []


def test_parameters_are_bound_by_the_engine(client: Client) -> None:
    found = client.query(
        "SELECT {word:String}, {many:Array(Int32)}, {when:DateTime}",
        parameters={"word": "it's a \\ \t\n'; DROP", "many": [1, 2], "when": "2026-01-02 03:04:05"},
    ).first_row
    assert found[0] == "it's a \\ \t\n'; DROP"
    assert found[1] == [1, 2]
    assert client.query("SELECT {long:String}", parameters={"long": "x" * 200_000}).first_row == ("x" * 200_000,)


def test_rows_columns_frames_and_arrow_go_in_and_come_out(client: Client, table: str) -> None:
    assert client.insert(table, [["g0", 1, 1.5]], column_names=["gpu", "tick", "watts"]).written_rows == 1
    client.insert(table, [["g1"], [2], [2.5]], column_names=["gpu", "tick", "watts"], column_oriented=True)
    client.insert_df(table, pd.DataFrame({"gpu": ["g2"], "tick": [3], "watts": np.array([3.5], "float32")}))
    client.insert_arrow(table, pa.table({"gpu": ["g3"], "tick": [4], "watts": pa.array([4.5], pa.float32())}))
    assert client.query(f"SELECT gpu, tick, watts FROM {table} ORDER BY tick").result_rows == [
        ("g0", 1, 1.5),
        ("g1", 2, 2.5),
        ("g2", 3, 3.5),
        ("g3", 4, 4.5),
    ]
    assert client.query_df(f"SELECT sum(watts) AS s FROM {table}")["s"].tolist() == [12.0]
    assert client.query_arrow(f"SELECT max(tick) AS m FROM {table}").to_pydict() == {"m": [4]}
    assert client.query_np(f"SELECT tick FROM {table} ORDER BY tick").ravel().tolist() == [1, 2, 3, 4]
    frame: Any = pl.from_arrow(client.query_arrow(f"SELECT gpu FROM {table} ORDER BY tick"))
    assert frame["gpu"].cast(pl.String).to_list() == ["g0", "g1", "g2", "g3"]


AVRO = fastavro.parse_schema(
    {
        "type": "record",
        "name": "sample",
        "fields": [
            {"name": "gpu", "type": "string"},
            {"name": "tick", "type": "long"},
            {"name": "watts", "type": "float"},
        ],
    }
)


def avro(*ticks: int) -> bytes:
    file = io.BytesIO()
    fastavro.writer(file, AVRO, [{"gpu": f"g{tick}", "tick": tick, "watts": tick / 2} for tick in ticks])
    return file.getvalue()


@pytest.mark.parametrize("compression", [None, "zstd", "gzip", "lz4"])
def test_avro_goes_in_plain_and_compressed(client: Client, table: str, compression: str | None) -> None:
    data = avro(*range(5000))
    if compression == "zstd":
        import cramjam

        data = bytes(cramjam.zstd.compress(data))
    elif compression == "gzip":
        import gzip

        data = gzip.compress(data)
    elif compression == "lz4":
        import lz4.frame

        data = lz4.frame.compress(data)
    summary = client.raw_insert(table, insert_block=data, fmt="Avro", compression=compression)
    assert summary.written_rows == 5000
    assert client.command(f"SELECT sum(tick) FROM {table}") == sum(range(5000))


def test_raw_inserts_and_raw_queries(client: Client, table: str) -> None:
    client.raw_insert(table, ["gpu", "tick"], "g,1\ng,2\n", fmt="CSV")
    client.raw_insert(table, ["gpu", "tick"], (b"g,%d\n" % tick for tick in range(3, 6)), fmt="CSV")
    assert client.raw_query(f"SELECT tick FROM {table} ORDER BY tick", fmt="CSV") == b"1\n2\n3\n4\n5\n"
    assert json.loads(client.raw_query("SELECT 1 AS a", fmt="JSON"))["data"] == [{"a": 1}]
    assert client.raw_stream("SELECT number FROM numbers(3)", fmt="TabSeparated").read() == b"0\n1\n2\n"


def test_an_answer_comes_block_by_block(client: Client) -> None:
    with client.query_row_block_stream("SELECT number FROM numbers(500000)") as blocks:
        sizes = [len(block) for block in blocks]
    assert sum(sizes) == 500_000
    assert len(sizes) > 3
    with client.query_df_stream("SELECT number FROM numbers(200000)") as frames:
        assert sum(len(frame) for frame in frames) == 200_000


@pytest.mark.parametrize("encoding", ["lz4", "zstd", "gzip", False])
def test_answers_are_compressed_as_the_client_can_read_them(server: Running, encoding: str | bool) -> None:
    with clickhouse_connect.get_client(
        host=server.host, port=server.port, username=server.username, password=server.password, compress=encoding
    ) as client:
        held = client.query("SELECT number FROM numbers(100000)")
        assert len(held.result_rows) == 100_000
        with client.query_rows_stream("SELECT number FROM numbers(300000)") as rows:
            assert sum(row[0] for row in rows) == 300_000 * 299_999 // 2
    reply = ask(
        server,
        "SELECT number FROM numbers(1000) FORMAT CSV",
        enable_http_compression="1",
        header_Accept_Encoding=encoding or "identity",
    )
    assert reply.headers.get("Content-Encoding") == (encoding or None)


def test_errors_carry_their_code_and_name(client: Client) -> None:
    for statement, code, name in [
        ("SELEC 1", 62, "SYNTAX_ERROR"),
        ("SELECT * FROM nowhere", 60, "UNKNOWN_TABLE"),
        ("SELECT throwIf(1)", 395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
        ("SELECT 1; SELECT 2", 62, "SYNTAX_ERROR"),
    ]:
        with pytest.raises(DatabaseError) as error:
            client.command(statement)
        assert (error.value.code, error.value.name) == (code, name)


def test_an_error_in_the_middle_of_an_answer_is_seen(client: Client) -> None:
    statement = "SELECT throwIf(number = 900000) FROM numbers(1000000)"
    with pytest.raises(StreamFailureError, match="FUNCTION_THROW_IF"), client.query_rows_stream(statement) as rows:
        for _ in rows:
            pass
    assert client.command("SELECT 1") == 1  # in the same session


def test_settings_hold_for_one_query(client: Client) -> None:
    assert client.command("SELECT getSetting('max_block_size')", settings={"max_block_size": 777}) == 777
    assert client.command("SELECT getSetting('max_block_size')") != 777


def test_a_session_keeps_its_settings_database_and_temporary_tables(server: Running, client: Client) -> None:
    with clickhouse_connect.get_client(
        host=server.host, port=server.port, username=server.username, password=server.password, session_id="mine"
    ) as session:
        session.command("SET max_block_size = 1234")
        session.command("CREATE TEMPORARY TABLE kept (a Int32)")
        session.insert("kept", [[7]], column_names=["a"])
        session.command("USE system")
        assert session.command("SELECT getSetting('max_block_size')", settings={"max_block_size": 5}) == 5
        assert session.command("SELECT getSetting('max_block_size')") == 1234
        assert session.command("SELECT a FROM kept") == 7
        assert session.command("SELECT currentDatabase()") == "system"
    assert client.command("SELECT getSetting('max_block_size')") != 1234
    assert client.command("SELECT currentDatabase()") == "default"
    with pytest.raises(DatabaseError, match="kept"):
        client.command("SELECT a FROM kept")


def test_a_refused_insert_leaves_nothing(client: Client, table: str) -> None:
    with pytest.raises(DatabaseError, match="INCORRECT_DATA"):
        client.raw_insert(table, ["gpu", "tick"], b"g,1\ng,not a number\n", fmt="CSV")
    assert client.command(f"SELECT count() FROM {table}") == 0


def test_an_insert_that_fails_behind_its_data_is_an_error_too(client: Client) -> None:
    """The engine's own interface for data in pieces acknowledges these."""
    for statement in (
        "CREATE TABLE fleetpulse.bounded (a Int32, CONSTRAINT positive CHECK a > 0) ENGINE = MergeTree ORDER BY a",
        "CREATE TABLE fleetpulse.way_in (a Int32) ENGINE = Null",
        "CREATE TABLE fleetpulse.behind (a Int32) ENGINE = MergeTree ORDER BY a",
        "CREATE MATERIALIZED VIEW fleetpulse.view TO fleetpulse.behind AS "
        "SELECT throwIf(a < 0) + a AS a FROM fleetpulse.way_in",
    ):
        client.command(statement)
    for table, target, code in (("bounded", "bounded", 469), ("way_in", "behind", 395)):
        with pytest.raises(DatabaseError) as error:
            client.raw_insert(f"fleetpulse.{table}", insert_block=b"1\n-1\n", fmt="CSV")
        assert error.value.code == code
        with pytest.raises(DatabaseError) as error:
            client.insert(f"fleetpulse.{table}", [[1], [-1]], column_names=["a"])
        assert error.value.code == code
        assert client.command(f"SELECT count() FROM fleetpulse.{target}") == 0


def test_an_insert_takes_settings_parameters_and_functions(client: Client, table: str, server: Running) -> None:
    statement = "INSERT INTO {t:Identifier} (gpu, tick) SETTINGS max_threads = 1 FORMAT CSV"
    assert ask(server, "g,1\ng,2\n", query=statement, param_t="t", database="fleetpulse").status == 200
    assert ask(server, f"INSERT INTO {table} (gpu, tick) VALUES ('it''s', 1 + 2), (upper('g'), 4)").status == 200
    assert client.query(f"SELECT gpu, tick FROM {table} ORDER BY tick").result_rows == [
        ("g", 1),
        ("g", 2),
        ("it's", 3),
        ("G", 4),
    ]


def test_many_clients_ask_at_one_time(server: Running) -> None:
    found: list[int] = []

    def work(number: int) -> None:
        with clickhouse_connect.get_client(
            host=server.host, port=server.port, username=server.username, password=server.password
        ) as client:
            found.extend(int(client.command(f"SELECT {number} + sleep(0.01)")) for _ in range(5))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(list(range(12)) * 5)


# --- plain HTTP --------------------------------------------------------------------------------------------------


def test_curl(server: Running) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    url = f"http://{server.host}:{server.port}"

    def curl(*words: str) -> str:
        return subprocess.run(["curl", "-sS", *words], capture_output=True, text=True, check=True, timeout=30).stdout

    assert curl(f"{url}/?query=SELECT+1") == "1\n"
    assert curl(f"{url}/ping") == "Ok.\n"
    assert curl(f"{url}/") == "Ok.\n"
    assert curl(url, "--data-binary", "SELECT 1 AS a FORMAT JSONEachRow") == '{"a":1}\n'
    writer = ["--user", f"{server.username}:{server.password}"]
    assert curl(*writer, url, "--data-binary", "CREATE TABLE curled (a Int32) ENGINE = Memory") == ""
    assert curl(*writer, f"{url}/?query=INSERT+INTO+curled+FORMAT+CSV", "--data-binary", "1\n2\n") == ""
    assert curl(*writer, url, "--data-binary", "INSERT INTO curled VALUES (3), (4)") == ""
    assert curl(f"{url}/?query=SELECT+sum(a)+FROM+curled") == "10\n"
    assert "AUTHENTICATION_FAILED" in curl("--user", "fleetpulse:wrong", f"{url}/?query=SELECT+1")


def test_an_answer_says_what_it_is(server: Running) -> None:
    reply = ask(server, "SELECT number FROM numbers(5) FORMAT CSV", wait_end_of_query="1", query_id="my-query")
    assert reply.headers["X-ClickHouse-Format"] == "CSV"
    assert reply.headers["X-ClickHouse-Query-Id"] == "my-query"
    assert reply.headers["X-ClickHouse-Timezone"]
    assert reply.headers["Content-Type"].startswith("text/csv")
    summary = json.loads(reply.headers["X-ClickHouse-Summary"])
    assert (summary["read_rows"], summary["result_rows"]) == ("5", "5")
    assert "X-ClickHouse-Format" not in ask(server, "SET max_threads = 1").headers


def test_an_error_says_what_it_is(server: Running) -> None:
    reply = ask(server, "SELECT * FROM nowhere")
    assert reply.status == 404
    assert reply.headers["X-ClickHouse-Exception-Code"] == "60"
    assert reply.body.startswith(b"Code: 60. DB::Exception: ")
    assert b"(UNKNOWN_TABLE)" in reply.body
    assert b"(version " in reply.body


def test_the_format_comes_from_the_statement_the_url_or_a_header(server: Running) -> None:
    assert ask(server, "SELECT 'a,b'").body == b"a,b\n"
    assert ask(server, "SELECT 'a,b'", default_format="CSV").body == b'"a,b"\n'
    assert ask(server, "SELECT 'a,b'", header_X_ClickHouse_Format="CSV").body == b'"a,b"\n'
    assert ask(server, "SELECT 'a,b' FORMAT TSV", default_format="CSV").body == b"a,b\n"


@pytest.mark.parametrize("output", ["JSON", "CSVWithNames", "Parquet", "TabSeparatedWithNamesAndTypes", "JSONCompact"])
def test_formats_with_head_or_foot_stay_one_document(server: Running, output: str) -> None:
    reply = ask(server, f"SELECT number AS n FROM numbers(200000) FORMAT {output}")
    if output == "Parquet":
        assert pl.read_parquet(io.BytesIO(reply.body)).height == 200_000
    elif output.startswith("JSON"):
        assert json.loads(reply.body)["rows"] == 200_000
    else:
        heads = 2 if output.endswith("Types") else 1
        assert reply.body.count(b"\n") == 200_000 + heads
        assert reply.body.count(b"n") >= 1


def test_a_large_answer_that_is_held_comes_whole(server: Running) -> None:
    reply = ask(server, "SELECT number FROM numbers(5000000) FORMAT CSV", wait_end_of_query="1")
    assert reply.headers["Content-Length"] == str(len(reply.body))
    assert len(reply.body) > 16 * 2**20  # more than is held in memory
    assert reply.body.endswith(b"\n4999999\n")
    assert json.loads(reply.headers["X-ClickHouse-Summary"])["result_rows"] == "5000000"


def test_a_held_answer_that_fails_late_is_only_an_error(server: Running) -> None:
    reply = ask(server, "SELECT throwIf(number = 4000000) FROM numbers(5000000) FORMAT CSV", wait_end_of_query="1")
    assert reply.headers["X-ClickHouse-Exception-Code"] == "395"
    assert reply.body.startswith(b"Code: 395")


def test_a_setting_that_does_not_exist_is_told(server: Running) -> None:
    reply = ask(server, "SELECT 1", no_such_setting="1")
    assert reply.headers["X-ClickHouse-Exception-Code"] == "115"


def test_get_only_reads(server: Running) -> None:
    reply = ask(server, method="GET", query="CREATE TABLE by_get (a Int32) ENGINE = Memory")
    assert reply.headers["X-ClickHouse-Exception-Code"] == "164"
    assert b"POST" in reply.body
    assert ask(server, "EXISTS TABLE by_get").body == b"0\n"


def test_a_long_statement_in_the_url(server: Running) -> None:
    numbers = ",".join(str(number) for number in range(20_000))
    assert ask(server, method="GET", query=f"SELECT length([{numbers}])").body == b"20000\n"


def test_time_and_memory_are_bounded_by_settings(server: Running) -> None:
    slow = ask(server, "SELECT sum(sipHash64(number)) FROM numbers(100000000000)", max_execution_time="0.3")
    assert slow.headers["X-ClickHouse-Exception-Code"] == "159"
    large = ask(server, "SELECT groupArray(toString(number)) FROM numbers(1000000000)", max_memory_usage="50000000")
    assert large.headers["X-ClickHouse-Exception-Code"] == "241"


def _running(server: Running) -> list[str]:
    found = ask(server, "SELECT Settings['log_comment'] FROM system.processes FORMAT TSV").body.decode().split("\n")
    return [comment for comment in found if comment.startswith("slow")]


def _until(server: Running, count: int) -> bool:
    for _ in range(100):
        if len(_running(server)) == count:
            return True
        time.sleep(0.05)
    return False


SLOW = "SELECT sum(sipHash64(number)) FROM numbers(1000000000000)"


def test_the_writer_can_stop_a_query_by_its_id(server: Running) -> None:
    replies: list[Reply] = []
    thread = threading.Thread(target=lambda: replies.append(ask(server, SLOW, query_id="slow-1")))
    thread.start()
    assert _until(server, 1)
    assert ask(server, "SELECT 1", query_id="slow-1").headers["X-ClickHouse-Exception-Code"] == "216"
    assert b"slow-1" not in ask(server, "KILL QUERY WHERE Settings['log_comment'] = 'slow-1' SYNC").body
    thread.join(10)
    assert replies[0].headers["X-ClickHouse-Exception-Code"] == "394"


@pytest.mark.parametrize("hold", ["0", "1"])
def test_a_query_ends_when_its_client_goes_away(server: Running, hold: str) -> None:
    connection = http.client.HTTPConnection(server.host, server.port)
    connection.request("POST", f"/?query_id=slow-2&wait_end_of_query={hold}", SLOW)
    assert _until(server, 1)
    connection.close()
    assert _until(server, 0)


def test_a_stream_ends_when_its_client_goes_away(server: Running) -> None:
    connection = http.client.HTTPConnection(server.host, server.port)
    connection.request("POST", "/?query_id=slow-3", "SELECT number FROM numbers(1000000000000) FORMAT Native")
    assert connection.getresponse().read(1000)
    assert _until(server, 1)
    connection.close()
    assert _until(server, 0)


def test_an_upload_that_breaks_off_inserts_nothing(server: Running, client: Client, table: str) -> None:
    connection = http.client.HTTPConnection(server.host, server.port)
    key = b64encode(f"{server.username}:{server.password}".encode()).decode()
    connection.putrequest("POST", f"/?{urlencode({'query': f'INSERT INTO {table} (gpu, tick) FORMAT CSV'})}")
    connection.putheader("Authorization", f"Basic {key}")
    connection.putheader("Content-Length", "1000")
    connection.endheaders(b"g,1\ng,2\n")
    time.sleep(0.2)
    connection.close()
    time.sleep(0.5)
    assert client.command(f"SELECT count() FROM {table}") == 0


def test_a_body_that_is_not_what_it_says_is_refused(server: Running) -> None:
    insert = "INSERT INTO FUNCTION null('a Int32') FORMAT CSV"
    for encoding, code in (("gzip", "271"), ("zstd", "271"), ("lz4", "271"), ("unheard-of", "432")):
        reply = ask(server, "1\n2\n", query=insert, header_Content_Encoding=encoding)
        assert (encoding, reply.headers.get("X-ClickHouse-Exception-Code")) == (encoding, code)
    assert ask(server, "1\n2\n", query=insert, header_Content_Encoding="identity").status == 200


def test_what_is_not_offered_says_so(server: Running) -> None:
    assert b"Content-Encoding" in ask(server, "SELECT 1", decompress="1").body
    assert ask(server, path="/nowhere").status == 404


def test_the_status_says_how_well_the_server_is_confined(server: Running) -> None:
    status = json.loads(ask(server, method="GET", path="/status").body)
    assert set(status) >= {"version", "confined", "landlock_abi", "filtered", "gaps", "running"}
    assert status["confined"] is not bool(status["gaps"])
