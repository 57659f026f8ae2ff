"""`python -m infra.clickhouse`: the embedded ClickHouse by itself."""

import argparse
import signal
import sys
import threading
from pathlib import Path

from infra.clickhouse.server import run
from infra.clickhouse.settings import EmbeddedClickHouseSettings


def main() -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m infra.clickhouse", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the database")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8123, help="port to listen on, 0 for any free one (%(default)s)")
    given = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    settings = EmbeddedClickHouseSettings(data_dir=given.data_dir, host=given.host, port=given.port)
    run(settings, stop=stop, beat=lambda: None, ready=lambda port: print(f"ready {given.host} {port}", flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
