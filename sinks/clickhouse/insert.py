"""Writing one batch: an Avro block as it is, in one request, as one block; and whose fault it is when that fails."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

from clickhouse_connect.driver.exceptions import DatabaseError

SETTINGS: dict[str, Any] = {
    # a batch stays one block, so that one token stands for it, in the table and in its dependent views
    "max_insert_block_size": 10_000_000,
    "max_block_size": 10_000_000,
    "min_insert_block_size_rows": 0,
    "min_insert_block_size_bytes": 0,
    "max_insert_threads": 1,
    "parallel_view_processing": 0,
    # collapsing a batch before it is written is work without effect: the roll-ups are grouped already, and what two
    # batches may both have is collapsed by merges; 10 to 25 % of an insert's processor time (measured)
    "optimize_on_insert": 0,
    # an answer means that it is written
    "async_insert": 0,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    # a record written with an earlier schema lacks fields: they take the column's default
    "input_format_avro_allow_missing_fields": 1,
    # a replay of old records may touch many days
    "throw_on_max_partitions_per_insert_block": 0,
}
"""Settings of every insert."""

# https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp
_CONSTRAINT = 469
_CANNOT_READ = {6, 26, 27, 32, 33, 38, 41, 69, 72, 117, 128, 131, 190, 321, 349, 395, 407}
"""Codes of values that cannot be read or are out of bounds. TYPE_MISMATCH (53) and CANNOT_CONVERT_TYPE (70) are not
among them: an Avro block carries its types, so they say that the table is not the one this build expects."""
# a std::exception of the Avro library, or a code of its own, by where it is met
_AVRO = re.compile(
    r"avro::Exception(?:, e\.what\(\) =|:) (?P<what>.*?)\.?(?: \(version | \(AVRO_EXCEPTION|$)", re.DOTALL
)
_VIOLATED = re.compile(r"Constraint `(?P<name>\w+)` .*? is violated at row (?P<row>\d+)\.", re.DOTALL)
_VALUES = re.compile(r"Column values: (?P<values>.*?)\.? \(VIOLATED_CONSTRAINT\)", re.DOTALL)
_DETAIL_CHARACTERS = 500


class RejectedError(Exception):
    """ClickHouse will never take this block: something in it is wrong. Nothing of it was written."""

    def __init__(self, reason: str, detail: str, suspect: int | None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        """The word for the dead letter."""
        self.detail = detail
        self.suspect = suspect
        """Place of the record that ClickHouse points at, from 0, where it points at one."""


class Client(Protocol):
    """What is needed of a `clickhouse_connect` client. Both raise `clickhouse_connect.driver.exceptions.Error`."""

    def raw_insert(
        self, table: str, /, *, insert_block: bytes, settings: dict[str, Any], fmt: str, compression: str | None
    ) -> Any:
        """One insert of bytes in a format."""

    def query(self, query: str, /, parameters: dict[str, Any] | None = None) -> Any:
        """Run one query; the rows are in `.result_rows`."""

    def command(self, cmd: str, /, *, settings: dict[str, Any] | None = None) -> Any:
        """Run one statement."""

    def close(self) -> None:
        """Give its connections back."""


@dataclass(frozen=True, slots=True)
class Insert:
    """One block on its way."""

    table: str
    """With the database."""
    block: bytes
    """An Avro object container file with one block."""
    token: str | None
    """What ClickHouse remembers it by; None where rows have keys of their own."""


def write(client: Client, insert: Insert, *, compression: str | None = None) -> None:
    """Write one block; blocks until ClickHouse has it.

    Raises `RejectedError` where the block itself is at fault, and ClickHouse's errors as they come where it is not
    (away, restarting, disk full, table missing): those may be retried with the same token.
    """
    settings = SETTINGS | ({"insert_deduplication_token": insert.token} if insert.token else {})
    try:
        client.raw_insert(
            insert.table, insert_block=insert.block, settings=settings, fmt="Avro", compression=compression
        )
    except DatabaseError as error:
        if rejected := rejection(error.code, str(error)):
            raise rejected from error
        raise


def rejection(code: int | None, message: str) -> RejectedError | None:
    """What an error says about the block; None where the block is not at fault."""
    if code == _CONSTRAINT and (violated := _VIOLATED.search(message)):
        values = _VALUES.search(message)
        detail = f"ClickHouse: found {values['values']}" if values else f"ClickHouse: {message}"
        return RejectedError(violated["name"], detail[:_DETAIL_CHARACTERS], int(violated["row"]) - 1)
    if avro := _AVRO.search(message):
        return RejectedError("rejected_by_sink", f"ClickHouse cannot read it as Avro: {avro['what']}", None)
    if code in _CANNOT_READ:
        return RejectedError("rejected_by_sink", f"ClickHouse: {message}"[:_DETAIL_CHARACTERS], None)
    return None
