"""Making sure of a batch of GPU samples that may or may not have been written.

An insert token alone is not enough. ClickHouse notes the token on disk just before it puts the part in place
(`MergeTreeSink::commitPart`), so a server killed between the two remembers a batch that it does not hold, and would
drop the redo. And it forgets tokens in time. So whoever redoes a batch first looks which records are there, writes what
is not, and holds the roll-up against the samples. This happens after a crash or a failed insert only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import structlog

from schemas.codec import Codec
from schemas.records import GpuSample
from sinks.batches import Entry
from sinks.clickhouse.insert import Client

log = structlog.get_logger()

_MINUTE_MS = 60_000
_QUERY_BYTES = 64 * 1024 * 1024

# ${database} is our own setting, checked to be an identifier; everything else is bound.
_PRESENT = """
SELECT DISTINCT toString(node), toString(boot_id), sequence, toUnixTimestamp64Milli(tick_at)
FROM ${database}.gpu_samples
WHERE tick_at BETWEEN fromUnixTimestamp64Milli({from_ms:Int64}) AND fromUnixTimestamp64Milli({to_ms:Int64})
    AND rack IN {racks:Array(String)}
"""
_MINUTES_THAT_DIFFER = """
WITH
    fromUnixTimestamp64Milli({from_ms:Int64}) AS begin,
    fromUnixTimestamp64Milli({to_ms:Int64}) AS end,
    touched AS
    (
        SELECT DISTINCT gpu
        FROM ${database}.gpu_samples
        WHERE tick_at >= begin AND tick_at < end AND rack IN {racks:Array(String)}
    )
SELECT gpu, minute
FROM
(
    SELECT gpu, toStartOfMinute(tick_at) AS minute, toInt64(count()) AS difference
    FROM ${database}.gpu_samples
    WHERE tick_at >= begin AND tick_at < end AND gpu IN (touched)
    GROUP BY gpu, minute
    UNION ALL
    SELECT gpu, minute, -toInt64(sum(samples)) AS difference
    FROM ${database}.gpu_minute_states
    WHERE minute >= begin AND minute < end AND gpu IN (touched)
    GROUP BY gpu, minute
)
GROUP BY gpu, minute
HAVING sum(difference) != 0
"""
_FORGET_MINUTES = """
ALTER TABLE ${database}.gpu_minute_states
DELETE WHERE gpu IN ({gpus}) AND minute BETWEEN {begin} AND {end}
"""
_ROLLED_SAMPLES = """
FROM (SELECT * FROM ${database}.gpu_samples
WHERE gpu IN ({gpus}) AND toStartOfMinute(tick_at) BETWEEN {begin} AND {end}) AS gpu_samples
"""


class _Key(NamedTuple):
    """One node's record: what `gpu_samples` keeps of where it came from."""

    node: str
    boot_id: str
    sequence: int
    tick_ms: int


class _Scope(NamedTuple):
    """What a batch touches."""

    racks: list[str]
    from_ms: int
    to_ms: int


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
    ticks = [key.tick_ms for key, _ in keyed]
    scope = _Scope(sorted({sample.rack for sample in samples}), min(ticks), max(ticks))
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


def _absent(client: Client, database: str, scope: _Scope, keyed: Sequence[tuple[_Key, Entry]]) -> list[Entry]:
    there = set(map(tuple, _rows(client, database, _PRESENT, scope._asdict())))
    return [entry for key, entry in keyed if key not in there]


def _reconcile_minutes(client: Client, database: str, scope: _Scope) -> None:
    """Make the roll-up of the minutes that a batch touches what the samples say."""
    whole_minutes = scope._replace(
        from_ms=scope.from_ms // _MINUTE_MS * _MINUTE_MS, to_ms=(scope.to_ms // _MINUTE_MS + 1) * _MINUTE_MS
    )
    wrong = _rows(client, database, _MINUTES_THAT_DIFFER, whole_minutes._asdict())
    if not wrong:
        return
    log.warning("the roll-up by minute differs from the samples: rebuilding it", rows=len(wrong))
    roll = _rows(
        client,
        database,
        "SELECT as_select FROM system.tables WHERE database = {database:String} AND name = 'gpu_minute_roll'",
        {"database": database},
    )[0][0]
    head, source, tail = str(roll).partition(f"FROM {database}.gpu_samples")
    if not source:
        raise LookupError(f"view gpu_minute_roll of database {database} does not read gpu_samples: {roll}")
    minutes = [row[1] for row in wrong]
    values = {
        "gpus": ", ".join(sorted({_quoted(str(row[0])) for row in wrong})),
        "begin": _minute(min(minutes)),
        "end": _minute(max(minutes)),
    }
    # literals, because a mutation is kept as text; the list may be longer than a query is by default
    forget = _FORGET_MINUTES.replace("${database}", database).format(**values)
    rolled = _ROLLED_SAMPLES.replace("${database}", database).format(**values)
    client.command(forget, settings={"mutations_sync": 1, "max_query_size": _QUERY_BYTES})
    client.command(
        f"INSERT INTO {database}.gpu_minute_states {head}{rolled}{tail}",
        # the same rows may have been rolled up before: nothing of this may be taken for a repetition
        settings={"insert_deduplicate": 0, "max_query_size": _QUERY_BYTES},
    )


def _rows(client: Client, database: str, query: str, parameters: dict[str, Any]) -> Sequence[Sequence[Any]]:
    rows: Sequence[Sequence[Any]] = client.query(query.replace("${database}", database), parameters).result_rows
    return rows


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _minute(at: datetime) -> str:
    return f"toDateTime('{at:%Y-%m-%d %H:%M:%S}', 'UTC')"
