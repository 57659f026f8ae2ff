"""Quix Streams as its guide has it: its own tumbling window, reduced message by message, its state in RocksDB."""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from fastavro import parse_schema, schemaless_reader
from quixstreams import Application

from tests.benchmarks.measured.meter import Meter
from tests.benchmarks.measured.windows import LIMITS

HEADER_BYTES = 10


def main(given: dict[str, Any]) -> None:
    """`given`: bootstrap, group, topic, schema (path), warm_up, enough, limit_s."""
    schema = parse_schema(json.loads(Path(given["schema"]).read_text()))
    meter = Meter(warm_up=given["warm_up"], enough=given["enough"], limit_s=given["limit_s"])
    beyond = 0

    def add(window: dict[str, list[float]], record: dict[str, Any]) -> dict[str, list[float]]:
        """Sums per GPU; a message is one node of the rack that keys the window."""
        nonlocal beyond
        for place, gpu in enumerate(record["gpus"]):
            count, *sums = window.get(gpu) or [0, 0.0, 0.0, 0.0]
            sums = [total + record[metric][place] for total, metric in zip(sums, LIMITS, strict=True)]
            window[gpu] = [count + 1, *sums]
            beyond += sum(total / (count + 1) > limit for total, limit in zip(sums, LIMITS.values(), strict=True))
        return window

    with tempfile.TemporaryDirectory() as folder:
        app = Application(
            broker_address=given["bootstrap"],
            consumer_group=given["group"],
            auto_offset_reset="earliest",
            loglevel="ERROR",
            use_changelog_topics=False,
            state_dir=folder,
        )
        topic = app.topic(given["topic"], value_deserializer="bytes", key_deserializer="bytes")

        def count(_: Any) -> None:
            meter.add(8)
            if meter.done:
                app.stop()

        decoded = app.dataframe(topic).apply(lambda value: schemaless_reader(io.BytesIO(value[HEADER_BYTES:]), schema))
        decoded.tumbling_window(60_000).reduce(
            reducer=add, initializer=lambda record: add({}, record)
        ).current().update(count)
        app.run()
    print(meter.result(beyond=beyond))


main(json.loads(sys.argv[1]))
