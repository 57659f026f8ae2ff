"""`python -m infra.clickhouse`: the embedded ClickHouse by itself.

Logs go to standard error. Standard output gets one line, `ready HOST PORT`, once the server answers.
"""

import argparse
import faulthandler
import signal
import sys
import threading
from pathlib import Path

import structlog
from pydantic import SecretStr

from infra.clickhouse.access import password_in
from infra.clickhouse.folder import StartError
from infra.clickhouse.server import run
from infra.clickhouse.settings import EmbeddedClickHouseSettings


def main() -> int:
    """Serve until SIGTERM or SIGINT; 1 if it cannot start."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.clickhouse", description="The embedded ClickHouse by itself."
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the database")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8123, help="port to listen on, 0 for any free one (%(default)s)")
    parser.add_argument("--confine", choices=["auto", "require", "off"], default="auto", help="see README.md")
    parser.add_argument("--grace-seconds", type=float, default=15, help="how long statements may finish at a stop")
    parser.add_argument("--keep-free-mib", type=int, default=512, help="room left free on the disk (%(default)s)")
    parser.add_argument(
        "--analyst-password-file",
        type=Path,
        help="ask the read-only login for the password in this file (made if absent)",
    )
    given = parser.parse_args()
    faulthandler.enable()  # a crash of the engine says where it was
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    asked = given.analyst_password_file
    settings = EmbeddedClickHouseSettings(
        data_dir=given.data_dir,
        analyst_password=SecretStr(password_in(asked)) if asked else None,
        host=given.host,
        port=given.port,
        confine=given.confine,
        grace_seconds=given.grace_seconds,
        keep_free_bytes=given.keep_free_mib * 2**20,
    )
    try:
        run(
            settings,
            stop=stop,
            beat=lambda: None,
            ready=lambda port: print(f"ready {given.host} {port}", flush=True),
        )
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
