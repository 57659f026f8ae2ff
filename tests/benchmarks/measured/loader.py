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
_SHARE = 0.85


def main(given: dict[str, Any]) -> None:
    """`given`: bootstrap, group, database, clickhouse (host, port, username, password), records, limit_s.

    The clock runs from the assignment of the partitions until 85 % are written: the last batches of a partition are
    not full and wait for their age, which says nothing of the speed.
    """
    began: list[float] = []
    assigned = loader._Loader._assigned

    def noted(*arguments: Any) -> None:
        began.append(time.perf_counter())
        assigned(*arguments)

    setattr(loader._Loader, "_assigned", noted)  # noqa: B010 - a method replaced for the measurement
    stop = threading.Event()
    counted, counted_at = 0.0, 0.0
    written = metrics.RECORDS.labels(SAMPLES)._value

    def watch() -> None:
        nonlocal counted, counted_at
        last, limit = 0.0, time.monotonic() + given["limit_s"]
        while last < given["records"] and time.monotonic() < limit:
            last = written.get()
            if last >= _SHARE * given["records"] and not counted:
                counted, counted_at = last, time.perf_counter()
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
    print(json.dumps({"written": int(written.get()), "records": int(counted), "wall_s": counted_at - began[0]}))


main(json.loads(sys.argv[1]))
