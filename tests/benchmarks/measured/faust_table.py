"""Plain Faust, as its guide has it: one agent, one windowed table, every GPU's running mean in it."""

from __future__ import annotations

import asyncio
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import faust
from fastavro import parse_schema, schemaless_reader

from tests.benchmarks.measured.meter import Meter
from tests.benchmarks.measured.windows import LIMITS

HEADER_BYTES = 10


def main(given: dict[str, Any]) -> None:
    """`given`: bootstrap, group, topic, partitions, schema (path), warm_up, enough, limit_s."""
    schema = parse_schema(json.loads(Path(given["schema"]).read_text()))
    meter = Meter(warm_up=given["warm_up"], enough=given["enough"], limit_s=given["limit_s"])
    beyond = 0
    with tempfile.TemporaryDirectory() as folder:
        app = faust.App(
            given["group"],
            broker=f"kafka://{given['bootstrap']}",
            datadir=folder,
            store="memory://",
            web_enabled=False,
            topic_partitions=given["partitions"],
            topic_replication_factor=1,
            topic_disable_leader=True,
            consumer_auto_offset_reset="earliest",
        )
        topic = app.topic(given["topic"], key_serializer="raw", value_serializer="raw")
        means = app.Table("means", default=lambda: [0, 0.0, 0.0, 0.0], partitions=given["partitions"]).tumbling(
            60.0, expires=120.0
        )

        @app.agent(topic)  # type: ignore[untyped-decorator]
        async def look(stream: Any) -> None:
            nonlocal beyond
            async for value in stream:
                record = schemaless_reader(io.BytesIO(value[HEADER_BYTES:]), schema)
                for place, gpu in enumerate(record["gpus"]):
                    count, *sums = means[gpu].now()
                    sums = [total + record[metric][place] for total, metric in zip(sums, LIMITS, strict=True)]
                    means[gpu] = [count + 1, *sums]
                    beyond += sum(
                        total / (count + 1) > limit for total, limit in zip(sums, LIMITS.values(), strict=True)
                    )
                meter.add(len(record["gpus"]))

        async def serve() -> None:
            await app.start()
            while not meter.done:
                if app.crashed:
                    raise app.crash_reason or RuntimeError("the Faust app crashed")
                await asyncio.sleep(0.1)
            await app.stop()

        asyncio.run(serve())
    print(meter.result(beyond=beyond))


main(json.loads(sys.argv[1]))
