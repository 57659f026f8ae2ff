"""Making sure of a batch of GPU samples that may or may not have been written.

An insert token alone is not enough. ClickHouse notes the token on disk just before it puts the part in place
(`MergeTreeSink::commitPart`), so a server killed between the two remembers a batch that it does not hold, and would drop
the redo. And it forgets tokens in time. So whoever redoes a batch first looks which records are there, writes what is
not, and holds the roll-up against the samples. This happens after a crash or a failed insert only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import structlog

from schemas.codec import Codec
from schemas.records import GpuSample
from sinks.batches import Entry
from sinks.clickhouse.insert import Client

log = structlog.get_logger()

_MINUTE_MS = 60_000


class _Key(NamedTuple):
    """One node's record: what `gpu_samples` keeps of where it came from."""

    node: str
    boot_id: str
    sequence: int
    tick_ms: int


def write_once(
    client: Client,
    database: str,
    codec: Codec,
    entries: Sequence[Entry],
    insert: Callable[[Sequence[Entry], bool], None],
) -> int:
    """Bring a batch into `gpu_samples` and `gpu_minute_states` that may be there already, wholly or in part.

    `entries` decode as GPU samples. `insert(entries, again)` writes entries; `again` asks for a token that
    ClickHouse has not met. Returns how many records ClickHouse had remembered but did not hold. Raises what `insert`
    and ClickHouse raise; doing all of it once more is harmless.
    """
    samples = [codec.decode(entry.value, GpuSample) for entry in entries]
    keyed = [
        (_Key(sample.node, sample.boot_id, sample.sequence, sample.tick_ms), entry)
        for sample, entry in zip(samples, entries, strict=True)
        if sample.gpus
    ]
    if not keyed:
        return 0
    scope = {
        "racks": sorted({sample.rack for sample in samples}),
        "from_ms": min(key.tick_ms for key, _ in keyed),
        "to_ms": max(key.tick_ms for key, _ in keyed),
    }
    lost: list[Entry] = []
    if _absent(client, database, scope, keyed):
        insert(entries, False)
        lost = _absent(client, database, scope, keyed)
        if lost:
            log.warning(
                "ClickHouse remembered a batch that it does not hold: writing it again",
                records=len(lost),
                of=len(entries),
            )
            insert(lost, True)
    _reconcile_minutes(client, database, scope)
    return len(lost)


def _absent(client: Client, database: str, scope: dict[str, Any], keyed: Sequence[tuple[_Key, Entry]]) -> list[Entry]:
    rows = client.query(
        "SELECT DISTINCT toString(node), toString(boot_id), sequence, toUnixTimestamp64Milli(tick_at) "  # noqa: S608
        f"FROM {database}.gpu_samples "
        "WHERE tick_at BETWEEN fromUnixTimestamp64Milli({from_ms:Int64}) AND fromUnixTimestamp64Milli({to_ms:Int64}) "
        "AND rack IN {racks:Array(String)}",
        parameters=scope,
    ).result_rows
    there = set(map(tuple, rows))
    return [entry for key, entry in keyed if key not in there]


def _reconcile_minutes(client: Client, database: str, scope: dict[str, Any]) -> None:
    """Make the roll-up of the minutes that a batch touches what the samples say."""
    span = {
        "racks": scope["racks"],
        "from_ms": scope["from_ms"] // _MINUTE_MS * _MINUTE_MS,
        "to_ms": (scope["to_ms"] // _MINUTE_MS + 1) * _MINUTE_MS,
    }
    samples = (
        f"SELECT * FROM {database}.gpu_samples "  # noqa: S608 - our own names
        "WHERE tick_at >= fromUnixTimestamp64Milli({from_ms:Int64}) AND tick_at < fromUnixTimestamp64Milli({to_ms:Int64}) "
        "AND gpu IN (SELECT gpu FROM " + database + ".gpu_samples WHERE rack IN {racks:Array(String)} "
        "AND tick_at >= fromUnixTimestamp64Milli({from_ms:Int64}) AND tick_at < fromUnixTimestamp64Milli({to_ms:Int64}))"
    )
    wrong = client.query(
        "SELECT gpu, minute, sum(samples_there) AS there, sum(samples_rolled) AS rolled FROM ("
        f"SELECT gpu, toStartOfMinute(tick_at) AS minute, count() AS samples_there, 0 AS samples_rolled FROM ({samples}) "
        "GROUP BY gpu, minute UNION ALL "
        f"SELECT gpu, minute, 0, sum(samples) FROM {database}.gpu_minute_states "
        "WHERE minute >= fromUnixTimestamp64Milli({from_ms:Int64}) AND minute < fromUnixTimestamp64Milli({to_ms:Int64}) "
        f"AND gpu IN (SELECT gpu FROM ({samples})) GROUP BY gpu, minute"
        ") GROUP BY gpu, minute HAVING there != rolled",
        parameters=span,
    ).result_rows
    if not wrong:
        return
    log.warning("the roll-up by minute differs from the samples: rebuilding it", rows=len(wrong))
    roll = client.query(
        "SELECT as_select FROM system.tables WHERE database = {database:String} AND name = 'gpu_minute_roll'",
        parameters={"database": database},
    ).result_rows[0][0]
    head, source, tail = str(roll).partition(f"FROM {database}.gpu_samples")
    if not source:
        raise LookupError(f"view gpu_minute_roll of database {database} does not read gpu_samples: {roll}")
    gpus = ", ".join(sorted({_quoted(str(row[0])) for row in wrong}))
    begin, end = min(row[1] for row in wrong), max(row[1] for row in wrong)
    minutes = f"BETWEEN toDateTime('{begin:%Y-%m-%d %H:%M:%S}', 'UTC') AND toDateTime('{end:%Y-%m-%d %H:%M:%S}', 'UTC')"
    client.command(
        f"ALTER TABLE {database}.gpu_minute_states DELETE WHERE gpu IN ({gpus}) AND minute {minutes}",
        settings={"mutations_sync": 1},
    )
    client.command(
        f"INSERT INTO {database}.gpu_minute_states {head}FROM (SELECT * FROM {database}.gpu_samples "  # noqa: S608
        f"WHERE gpu IN ({gpus}) AND toStartOfMinute(tick_at) {minutes}) AS gpu_samples{tail}",
        # the same rows may have been rolled up before: nothing of this may be taken for a repetition
        settings={"insert_deduplicate": 0, "max_query_size": 0},
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
