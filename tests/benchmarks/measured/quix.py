"""Quix Streams with the same logic in one callback, its most favourable form: no state store, no repartition."""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from fastavro import parse_schema, schemaless_reader
from quixstreams import Application  # type: ignore[import-not-found]

from tests.benchmarks.measured.meter import Meter
from tests.benchmarks.measured.windows import NodeWindows

HEADER_BYTES = 10


def main(given: dict[str, Any]) -> None:
    """`given`: bootstrap, group, topic, schema (path), warm_up, enough, limit_s."""
    schema = parse_schema(json.loads(Path(given["schema"]).read_text()))
    meter = Meter(warm_up=given["warm_up"], enough=given["enough"], limit_s=given["limit_s"])
    windows = NodeWindows()
    app = Application(
        broker_address=given["bootstrap"],
        consumer_group=given["group"],
        auto_offset_reset="earliest",
        loglevel="ERROR",
        use_changelog_topics=False,
        state_dir=str(Path(tempfile.gettempdir()) / given["group"]),  # stays empty
    )
    topic = app.topic(given["topic"], value_deserializer="bytes", key_deserializer="bytes")

    def look(value: bytes) -> None:
        meter.add(windows.add(schemaless_reader(io.BytesIO(value[HEADER_BYTES:]), schema)))
        if meter.done:
            app.stop()

    app.dataframe(topic).update(look)
    app.run()
    print(meter.result(beyond=windows.beyond))


main(json.loads(sys.argv[1]))
