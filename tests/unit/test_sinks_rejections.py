"""Whose fault a failed insert is: texts as ClickHouse 26.9 sends them."""

from __future__ import annotations

import pytest

from sinks.clickhouse.insert import rejection

CONSTRAINT = (
    "Code: 469. DB::Exception: Constraint `time_in_future` for table fp.gpu_samples_in "
    "(41cbfbb6-ef97-40a3-978f-234e2441b1ff) is violated at row 2. Expression: (tick_ms < "
    "(toUnixTimestamp64Milli(now64(3)) + 86400000)). Column values: tick_ms = 4611686018427387904. "
    "(VIOLATED_CONSTRAINT)"
)
AVRO = (
    "Code: 1001. DB::Exception: std::exception. Code: 1001, type: avro::Exception, e.what() = "
    "Cannot have negative length: -4412 (version 26.9.2.1). (STD_EXCEPTION)"
)


def test_a_broken_constraint_names_the_reason_the_value_and_the_record() -> None:
    found = rejection(469, CONSTRAINT)
    assert found is not None
    assert (found.reason, found.suspect) == ("time_in_future", 1)
    assert found.detail == "ClickHouse: found tick_ms = 4611686018427387904"


@pytest.mark.parametrize(
    ("code", "message", "what"),
    [
        (1001, AVRO, "Cannot have negative length: -4412"),
        (748, "Code: 748. DB::Exception: avro::Exception: EOF reached. (AVRO_EXCEPTION)", "EOF reached"),
    ],
)
def test_bytes_that_are_not_avro_are_the_blocks_fault(code: int, message: str, what: str) -> None:
    found = rejection(code, message)
    assert found is not None
    assert (found.reason, found.suspect) == ("rejected_by_sink", None)
    assert found.detail == f"ClickHouse cannot read it as Avro: {what}"


@pytest.mark.parametrize("code", [27, 72, 117, 190])
def test_values_that_cannot_be_read_are_the_blocks_fault(code: int) -> None:
    assert rejection(code, f"Code: {code}. DB::Exception: …") is not None


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (None, "Error HTTPConnectionPool(host='127.0.0.1', port=8123): Max retries exceeded"),
        (60, "Code: 60. DB::Exception: Table fp.gpu_samples_in does not exist. (UNKNOWN_TABLE)"),
        (241, "Code: 241. DB::Exception: Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED)"),
        (243, "Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space. (NOT_ENOUGH_SPACE)"),
        (252, "Code: 252. DB::Exception: Too many parts (3000). Merges are slower than inserts. (TOO_MANY_PARTS)"),
        (53, "Code: 53. DB::Exception: Type String is not compatible with Avro int. (TYPE_MISMATCH)"),
        (1001, "Code: 1001. DB::Exception: std::exception. type: std::bad_alloc. (STD_EXCEPTION)"),
    ],
)
def test_whatever_may_pass_is_not_the_blocks_fault(code: int | None, message: str) -> None:
    assert rejection(code, message) is None
