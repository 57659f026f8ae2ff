"""Our ClickHouse loader as it is in production; counts by its own metric."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import clickhouse_connect

from schemas.topics import SAMPLES
from sinks import loader, metrics
from sinks.settings import LoaderSettings

_LOOK_S = 0.005


def main(given: dict[str, Any]) -> None:
    """`given`: bootstrap, group, database, clickhouse (host, port, username, password), records, limit_s.

    The clock runs from the assignment of the partitions to the last record written.
    """
    began: list[float] = []
    assigned = loader._Loader._assigned

    def noted(*arguments: Any) -> None:
        began.append(time.perf_counter())
        assigned(*arguments)

    setattr(loader._Loader, "_assigned", noted)  # noqa: B010 - a method replaced for the measurement
    stop = threading.Event()
    ended = 0.0
    written = metrics.RECORDS.labels(SAMPLES)._value

    def watch() -> None:
        nonlocal ended
        last, limit = 0.0, time.monotonic() + given["limit_s"]
        while last < given["records"] and time.monotonic() < limit:
            if (now := written.get()) != last:
                last, ended = now, time.perf_counter()
            time.sleep(_LOOK_S)
        stop.set()

    threading.Thread(target=watch, daemon=True).start()
    loader.run(
        LoaderSettings(group=given["group"], database=given["database"]),
        kafka={"bootstrap.servers": given["bootstrap"], "log_level": 0},
        connect=lambda: clickhouse_connect.get_client(**given["clickhouse"], autogenerate_session_id=False),
        stop=stop,
        beat=lambda: None,
    )
    print(json.dumps({"records": int(written.get()), "wall_s": ended - began[0]}))


main(json.loads(sys.argv[1]))
