"""What one writes by hand: a confluent-kafka loop, fastavro, NumPy windows. No library of ours."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer
from fastavro import parse_schema, schemaless_reader

from tests.benchmarks.measured.meter import Meter
from tests.benchmarks.measured.windows import NodeWindows

HEADER_BYTES = 10


def main(given: dict[str, Any]) -> None:
    """`given`: bootstrap, group, topic, schema (path), warm_up, enough, limit_s."""
    schema = parse_schema(json.loads(Path(given["schema"]).read_text()))
    meter = Meter(warm_up=given["warm_up"], enough=given["enough"], limit_s=given["limit_s"])
    windows = NodeWindows()
    consumer = Consumer(
        {
            "bootstrap.servers": given["bootstrap"],
            "group.id": given["group"],
            "auto.offset.reset": "earliest",
            "enable.auto.commit": True,
        }
    )
    consumer.subscribe([given["topic"]])
    while not meter.done:
        for message in consumer.consume(1000, 0.1):
            if message.error() is None:
                meter.add(windows.add(schemaless_reader(io.BytesIO(message.value()[HEADER_BYTES:]), schema)))
    consumer.close()
    print(meter.result(beyond=windows.beyond))


main(json.loads(sys.argv[1]))
