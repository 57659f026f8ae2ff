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
_FROM_SHARE, _SHARE = 0.1, 0.85


def main(given: dict[str, Any]) -> None:
    """`given`: bootstrap, group, database, clickhouse (host, port, username, password), records, limit_s.

    The clock runs from when 10 % are written until 85 % are: the first batches have to be gathered while ClickHouse has
    nothing to do, and the last ones are not full and wait for their age. Neither says anything of the speed.
    """
    stop = threading.Event()
    begun, begun_at, counted, counted_at = 0.0, 0.0, 0.0, 0.0
    written = metrics.RECORDS.labels(SAMPLES)._value

    def watch() -> None:
        nonlocal begun, begun_at, counted, counted_at
        last, limit = 0.0, time.monotonic() + given["limit_s"]
        while last < given["records"] and time.monotonic() < limit:
            last = written.get()
            if last >= _FROM_SHARE * given["records"] and not begun:
                begun, begun_at = last, time.perf_counter()
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
    print(json.dumps({"written": int(written.get()), "records": int(counted - begun), "wall_s": counted_at - begun_at}))


main(json.loads(sys.argv[1]))
