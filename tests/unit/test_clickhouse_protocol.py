"""The HTTP protocol: keys of a request, headers and errors of an answer."""

import json

import pytest
from clickhouse_connect.driver.transform import extract_exception_with_tag

from infra.clickhouse.protocol import (
    Counts,
    QueryError,
    broken_stream,
    engine_error,
    http_status,
    query_error,
    query_of,
    quoted,
    result_headers,
    set_statement,
    summary,
)


def test_keys_that_are_not_the_transports_own_are_settings() -> None:
    query = query_of(
        {
            "query": "SELECT 1",
            "database": "fleetpulse",
            "max_threads": "3",
            "param_gpu": "GPU-1",
            "wait_end_of_query": "1",
            "enable_http_compression": "1",
            "client_protocol_version": "54405",
            "insert_deduplication_token": "a:0:1-2",
        },
        {},
    )
    assert query.settings == {"max_threads": "3", "insert_deduplication_token": "a:0:1-2"}
    assert query.params == {"gpu": "GPU-1"}
    assert (query.database, query.hold, query.compress) == ("fleetpulse", True, True)


def test_headers_may_name_the_database_and_the_format() -> None:
    query = query_of({}, {"X-ClickHouse-Database": "d", "X-ClickHouse-Format": "CSV"})
    assert (query.database, query.default_format) == ("d", "CSV")


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ({"max threads": "1"}, 115),
        ({"a=1, readonly": "0"}, 115),
        ({"param_x = '1', readonly": "0"}, 115),
        ({"default_format": "CSV INTO OUTFILE"}, 73),
        ({"default_format": "CSV\r\nX-Evil: 1"}, 73),
        ({"query_id": "a\r\nX-Evil: 1"}, 36),
        ({"query_id": "x" * 201}, 36),
        ({"session_timeout": "0"}, 407),
        ({"session_timeout": "3601"}, 407),
        ({"session_timeout": "soon"}, 407),
        ({"decompress": "1"}, 48),
    ],
)
def test_keys_that_mean_nothing_are_refused(url: dict[str, str], code: int) -> None:
    with pytest.raises(QueryError) as refused:
        query_of(url, {})
    assert refused.value.code == code


def test_a_value_cannot_leave_its_quotes() -> None:
    assert quoted("it's \\ 'x', readonly = 0") == r"'it\'s \\ \'x\', readonly = 0'"
    assert set_statement({"a": "1", "b": "x'"}) == r"SET a = '1', b = 'x\''"


def test_the_summary_is_json_whose_numbers_are_strings() -> None:
    told = json.loads(summary(Counts(read_rows=5, written_rows=7, elapsed_s=0.25)))
    assert told["read_rows"] == "5"
    assert told["written_rows"] == "7"
    assert told["elapsed_ns"] == "250000000"


def test_an_error_has_clickhouses_words() -> None:
    assert query_error(164, "READONLY", "no.").text == "Code: 164. DB::Exception: no. (READONLY)"


@pytest.mark.parametrize(
    ("text", "code", "name"),
    [
        ("Code: 62. DB::Exception: Syntax error (a CAUSE) here. (SYNTAX_ERROR)", 62, "SYNTAX_ERROR"),
        ("Code: 76. DB::ErrnoException: No file. (CANNOT_OPEN_FILE) (version 26.9.2.1)", 76, "CANNOT_OPEN_FILE"),
        ("While executing: Code: 27. DB::ParsingException: x. (CANNOT_PARSE_INPUT)", 27, "CANNOT_PARSE_INPUT"),
        ("std::bad_alloc", 1001, "STD_EXCEPTION"),
        ("", 1001, "STD_EXCEPTION"),
    ],
)
def test_an_engines_error_keeps_its_code_and_name(text: str, code: int, name: str) -> None:
    error = engine_error(text)
    assert (error.code, error.name) == (code, name)
    assert error.text.startswith(f"Code: {code}.")


@pytest.mark.parametrize(("code", "status"), [(62, 400), (60, 404), (164, 403), (516, 403), (159, 408), (999, 500)])
def test_the_status_follows_from_the_code(code: int, status: int) -> None:
    assert http_status(code) == status


def test_a_client_understands_an_error_inside_an_answer() -> None:
    message = broken_stream("0123456789abcdef", "Code: 395. DB::Exception: no. (FUNCTION_THROW_IF_VALUE_IS_NON_ZERO)")
    assert extract_exception_with_tag(b"\x00\x01" + message, "0123456789abcdef") == (
        "Code: 395. DB::Exception: no. (FUNCTION_THROW_IF_VALUE_IS_NON_ZERO)"
    )


def test_an_answer_says_its_format() -> None:
    assert result_headers("JSON")["Content-Type"].startswith("application/json")
    assert result_headers("Native") == {
        "X-ClickHouse-Format": "Native",
        "Content-Type": "application/octet-stream",
    }
