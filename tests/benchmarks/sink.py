"""The loader beside ClickHouse reading the same Avro by itself: same server, same tables, in turn.

The server has one core, always the same. The loader has another, which it shares with Kafka, and then the server's own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

import clickhouse_connect
import psutil

from schemas import container
from schemas.codec import HEADER_BYTES
from schemas.registry import current
from sinks.clickhouse.insert import SETTINGS
from sinks.clickhouse.migrate import migrate
from sinks.settings import LoaderSettings
from streams.readings.tables import METRICS
from tests.benchmarks.context import BenchmarkError, Context
from tests.benchmarks.fleet_log import GPUS_PER_NODE, FleetLog, records, send
from tests.benchmarks.table import Row, count, judged, times

_RACKS, _TICKS = 15, 2700
_PASSES = 3
_LIMIT_S = 120.0
_SPAN_RACKS, _SPAN_TICKS, _SPANS_S = 195, 40, (1, 5, 10, 20)
"""A fleet of 12,480 GPUs, in batches that span so many of its seconds."""
_MERGE_S = 3.0
"""What is merged behind the last insert belongs to its cost."""
_VALUES = len(METRICS) + 1
"""Per GPU and tick: the metrics and the throttle reasons."""
AIM_RATIO, AIM_BYTES = 0.8, 1.0


def run(context: Context) -> Iterable[Row]:
    """Rows: the loader beside the server alone, and bytes per value on disk."""
    log = FleetLog(racks=_RACKS, ticks=context.sized(_TICKS, least=20))
    with context.clickhouse(context.cores.measured) as server, context.kafka() as bootstrap:
        context.say(f"simulating {count(log.samples)} GPU samples")
        made = list(records(log))
        send(bootstrap, made)
        bodies = [value[HEADER_BYTES:] for _, value in made]
        file = container.frame(current("GpuSample"), bodies)
        size = round(len(bodies) * LoaderSettings().batch_bytes / len(file))
        batches = [container.frame(current("GpuSample"), bodies[at : at + size]) for at in range(0, len(bodies), size)]
        del made, bodies
        login: dict[str, Any] = {
            "host": server.host,
            "port": server.port,
            "username": server.username,
            "password": server.password,
        }
        client = clickhouse_connect.get_client(**login, autogenerate_session_id=False, send_receive_timeout=_LIMIT_S)
        alone, in_batches, loaded, squeezed = [], [], [], []
        database = ""
        for turn in range(_PASSES):
            context.say(f"pass {turn + 1} of {_PASSES}: ClickHouse by itself")
            alone.append(log.samples / _insert(client, f"alone_{turn}", [file], log.samples))
            context.say(f"pass {turn + 1} of {_PASSES}: ClickHouse by itself, in batches")
            in_batches.append(log.samples / _insert(client, f"batches_{turn}", batches, log.samples))
            for cores, rates in ((context.cores.others, loaded), (context.cores.measured, squeezed)):
                context.say(f"pass {turn + 1} of {_PASSES}: the loader")
                if database:
                    client.command(f"DROP DATABASE {database} SYNC")
                database = f"loaded_{len(loaded) + len(squeezed)}"
                given = {"bootstrap": bootstrap, "group": database, "database": database, "clickhouse": login}
                found = context.measure(
                    "loader",
                    given | {"records": log.messages, "limit_s": _LIMIT_S},
                    limit_s=2 * _LIMIT_S,
                    cores=cores,
                )
                _check(client, database, log.samples)
                rates.append(GPUS_PER_NODE * found["records"] / found["wall_s"])
        ratio = median(loaded) / median(alone)
        yield judged(
            "loader: Kafka to ClickHouse, exactly once",
            f"{count(median(loaded))} rows/s",
            f"≥ {AIM_RATIO:g}×",
            met=ratio >= AIM_RATIO,
            beside=f"the server alone on the same Avro {count(median(alone))}: {times(ratio)}; "
            f"passes {_list(loaded)} / {_list(alone)}",
        )
        ratio = median(squeezed) / median(alone)
        yield Row(
            "the same, loader and server squeezed onto one core",
            f"{count(median(squeezed))} rows/s",
            f"{times(ratio)} of the server alone; passes {_list(squeezed)}",
        )
        ratio = median(loaded) / median(in_batches)
        yield Row(
            "the server alone, the same Avro in batches as the loader's",
            f"{count(median(in_batches))} rows/s",
            f"the loader is {times(ratio)}; passes {_list(in_batches)}",
        )
        context.say("merging, to see what stays on disk")
        yield _on_disk(client, database, log.samples)
        client.command(f"DROP DATABASE {database} SYNC")
        yield _by_span(context, client, psutil.Process(server.pid))
        client.close()


def _by_span(context: Context, client: Any, server: psutil.Process) -> Row:
    """What a sample costs by how many seconds of the fleet are in a batch: all GPUs are rolled up with each."""
    log = FleetLog(racks=context.sized(_SPAN_RACKS, least=8), ticks=_SPAN_TICKS)
    bodies = [value[HEADER_BYTES:] for _, value in records(log)]
    found = []
    for seconds in _SPANS_S:
        context.say(f"ClickHouse by itself, batches of {seconds} s")
        size = log.nodes * seconds
        files = [container.frame(current("GpuSample"), bodies[at : at + size]) for at in range(0, len(bodies), size)]
        database = f"span_{seconds}"
        migrate(client, database)
        busy = server.cpu_times()
        for file in files:
            client.raw_insert(f"{database}.gpu_samples_in", insert_block=file, fmt="Avro", settings=SETTINGS)
        time.sleep(_MERGE_S)
        spent = server.cpu_times()
        _check(client, database, log.samples)
        client.command(f"DROP DATABASE {database} SYNC")
        cost_s = spent.user + spent.system - busy.user - busy.system
        found.append(f"{seconds} s: {100_000 * cost_s / log.samples:.2f}")
    return Row(
        "processor seconds of ClickHouse for 100,000 rows, by how long a batch spans",
        found[0],
        f"{', '.join(found[1:])}; {count(GPUS_PER_NODE * log.nodes)} GPUs, merging included",
    )


def _insert(client: Any, database: str, files: Sequence[bytes], rows: int) -> float:
    """Seconds that the server needs for Avro files, one request each, with its own default settings."""
    migrate(client, database)
    began = time.perf_counter()
    for file in files:
        client.raw_insert(f"{database}.gpu_samples_in", insert_block=file, fmt="Avro")
    took = time.perf_counter() - began
    _check(client, database, rows)
    client.command(f"DROP DATABASE {database} SYNC")
    return took


def _check(client: Any, database: str, rows: int) -> None:
    found = client.query(f"SELECT count() FROM {database}.gpu_samples").result_rows[0][0]
    if found != rows:
        raise BenchmarkError(f"{database}.gpu_samples has {found} rows, expected {rows}")


def _on_disk(client: Any, database: str, rows: int) -> Row:
    client.command(f"OPTIMIZE TABLE {database}.gpu_samples FINAL")
    size = client.query(
        "SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND table = 'gpu_samples' AND database = {d:String}",
        parameters={"d": database},
    ).result_rows[0][0]
    per_value = size / rows / _VALUES
    return judged(
        "history on disk, simulated fleet, merged",
        f"{per_value:.2f} bytes/value",
        f"≤ {AIM_BYTES:g} byte",
        met=per_value <= AIM_BYTES,
        beside=f"{size / rows:.1f} bytes a GPU sample of {_VALUES} values, with its keys",
    )


def _list(rates: Sequence[float]) -> str:
    return ", ".join(count(rate) for rate in rates)
