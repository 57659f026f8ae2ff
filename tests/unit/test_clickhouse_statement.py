"""Where an INSERT's data begin, which output format a statement names, and what can be handed out block by block."""

import pytest

from infra.clickhouse.body import joined
from infra.clickhouse.statement import format_of, insert_of, selects


@pytest.mark.parametrize(
    ("statement", "head", "data_format", "data"),
    [
        (b"INSERT INTO t FORMAT CSV\n1,2", b"INSERT INTO t", "CSV", b"1,2"),
        (b"insert into t format csv\r\n1,2", b"insert into t", "csv", b"1,2"),
        (b"INSERT INTO t FORMAT Native \t\n\n\x00\xff", b"INSERT INTO t", "Native", b"\n\x00\xff"),
        (b"INSERT INTO t FORMAT Avro Obj\x01", b"INSERT INTO t", "Avro", b"Obj\x01"),
        (b"INSERT INTO t VALUES (1),(2)", b"INSERT INTO t", "Values", b" (1),(2)"),
        (b"INSERT INTO db.t (a, `b c`) VALUES(1)", b"INSERT INTO db.t (a, `b c`)", "Values", b"(1)"),
        (b"INSERT INTO TABLE t FORMAT TSV\n", b"INSERT INTO TABLE t", "TSV", b""),
        (b"INSERT t FORMAT TSV\n", b"INSERT t", "TSV", b""),
        (b"INSERT INTO t(* EXCEPT(a)) FORMAT TSV\n1", b"INSERT INTO t(* EXCEPT(a))", "TSV", b"1"),
        (
            b"INSERT INTO FUNCTION null('format Int32') FORMAT TSV\n1",
            b"INSERT INTO FUNCTION null('format Int32')",
            "TSV",
            b"1",
        ),
        (
            b"INSERT INTO t SETTINGS a='FORMAT x', b=1 FORMAT JSONEachRow\n{}",
            b"INSERT INTO t",
            "JSONEachRow",
            b"{}",
        ),
        (
            b"/* FORMAT x */ INSERT -- FORMAT x\n INTO t FORMAT CSV\n",
            b"/* FORMAT x */ INSERT -- FORMAT x\n INTO t",
            "CSV",
            b"",
        ),
        (b"INSERT INTO {table:Identifier} FORMAT CSV\n1", b"INSERT INTO {table:Identifier}", "CSV", b"1"),
        # a table may be called as one likes
        (b"INSERT INTO format FORMAT CSV\n1", b"INSERT INTO format", "CSV", b"1"),
        (b"INSERT INTO values VALUES (1)", b"INSERT INTO values", "Values", b" (1)"),
        (b"INSERT INTO db.format (a) FORMAT CSV\n1", b"INSERT INTO db.format (a)", "CSV", b"1"),
        (b"INSERT INTO into FORMAT CSV\n1", b"INSERT INTO into", "CSV", b"1"),
        # data that look like a statement
        (b"INSERT INTO t FORMAT CSV\n'FORMAT TSV", b"INSERT INTO t", "CSV", b"'FORMAT TSV"),
    ],
)
def test_an_insert_is_cut_where_its_data_begin(statement: bytes, head: bytes, data_format: str, data: bytes) -> None:
    insert = insert_of(statement)
    assert insert is not None
    assert (insert.head.strip(), insert.format, statement[insert.data_at :]) == (head, data_format, data)


def test_data_from_elsewhere_stand_before_the_settings() -> None:
    insert = insert_of(b"INSERT INTO t (a) SETTINGS b = 1, c = 'x' FORMAT CSV\n1")
    assert insert is not None
    assert insert.statement() == b"INSERT INTO t (a) SETTINGS b = 1, c = 'x' FORMAT CSV"
    assert insert.statement(b"FROM INFILE 'f'") == (
        b"INSERT INTO t (a) FROM INFILE 'f' SETTINGS b = 1, c = 'x' FORMAT CSV"
    )


@pytest.mark.parametrize(
    "statement",
    [
        b"",
        b"SELECT 1 FORMAT CSV",
        b"INSERT INTO t SELECT 1 FORMAT CSV",
        b"INSERT INTO t (a) WITH x AS (SELECT 1) SELECT * FROM x",
        b"INSERT INTO t (SELECT 1)",
        b"INSERT INTO t FROM INFILE 'x' FORMAT CSV",
        b"INSERT INTO t FORMAT",
        b"INSERT INTO t FORMAT 'CSV'",
        b"INSERT",
        b"CREATE TABLE insert (a Int32)",
        b"WITH 1 AS x INSERT INTO t SELECT x",
    ],
)
def test_what_carries_no_data_is_left_to_the_engine_whole(statement: bytes) -> None:
    assert insert_of(statement) is None


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (b"SELECT 1", None),
        (b"SELECT 1 FORMAT JSON", "JSON"),
        (b"SELECT 1\n FORMAT Native", "Native"),
        (b"SELECT 1 format json;", "json"),
        (b"SELECT 1 FORMAT JSON SETTINGS max_threads = 1", "JSON"),
        (b"SELECT 1 FORMAT JSON -- FORMAT CSV", "JSON"),
        (b"SELECT 'FORMAT CSV'", None),
        (b"SELECT `FORMAT` FROM t", None),
        (b"SELECT format FROM t", None),
        (b"SELECT format FROM t FORMAT CSV", "CSV"),
        (b"SELECT 1 AS FORMAT", None),
        (b"SELECT $x$ FORMAT CSV $x$ FORMAT TSV", "TSV"),
    ],
)
def test_the_format_named_at_the_end_counts(statement: bytes, expected: str | None) -> None:
    assert format_of(statement) == expected


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (b"SELECT 1", True),
        (b"/* why */ with x as (select 1) select * from x", True),
        (b"((SELECT 1)) UNION ALL SELECT 2", True),
        (b"FROM t SELECT a", True),
        (b"SHOW TABLES", False),
        (b"DESCRIBE TABLE t", False),
        (b"EXPLAIN SELECT 1", False),
        (b"", False),
    ],
)
def test_only_a_select_can_be_handed_out_block_by_block(statement: bytes, expected: bool) -> None:
    assert selects(statement) is expected


@pytest.mark.parametrize(
    "hostile",
    [b"SELECT '" + b"\\'" * 200_000, b"SELECT " + b"/*" * 200_000, b"SELECT `" + b"\\`" * 200_000, b"$a" * 200_000,
     b"SELECT $a$" + b"$b$" * 100_000, b"SELECT '" + b"\\" * 200_001, b"INSERT INTO " + b'"' * 200_001],
)  # fmt: skip
@pytest.mark.timeout(20)
def test_no_statement_takes_long_to_look_at(hostile: bytes) -> None:
    format_of(hostile)
    selects(hostile)
    insert_of(hostile)


def test_with_an_insert_in_the_url_the_body_is_data_untouched() -> None:
    text, insert, data = joined(b"INSERT INTO t FORMAT CSV", b"INSERT INTO x FORMAT TSV\n")
    assert insert is not None
    assert (text, insert.head, data) == (b"INSERT INTO t FORMAT CSV", b"INSERT INTO t", b"INSERT INTO x FORMAT TSV\n")


def test_data_may_begin_in_the_url_and_go_on_in_the_body() -> None:
    _, insert, data = joined(b"INSERT INTO t FORMAT CSV\n1,2", b"3,4")
    assert insert is not None
    assert data == b"1,2\n3,4"


def test_otherwise_url_and_body_are_one_statement() -> None:
    assert joined(b"SELECT 1", b"+ 1") == (b"SELECT 1\n+ 1", None, b"")
    assert joined(b"SELECT 1", b"") == (b"SELECT 1", None, b"")
    text, insert, data = joined(b"INSERT INTO t", b"VALUES (1)")
    assert insert is not None
    assert (text, data) == (b"INSERT INTO t\nVALUES (1)", b" (1)")
