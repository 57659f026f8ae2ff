"""Starting, stopping and being killed: nothing acknowledged is lost, and what stands in the way is named."""

import http.client
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client

from infra.clickhouse.launch import Running, launched

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def _start(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "infra.clickhouse", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


@contextmanager
def _connected(server: Running) -> Iterator[Client]:
    with clickhouse_connect.get_client(
        host=server.host, port=server.port, username=server.username, password=server.password
    ) as client:
        yield client


def _insert(server: Running, statement: str, data: bytes) -> int:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    key = b64encode(f"{server.username}:{server.password}".encode()).decode()
    connection.request("POST", f"/?{urlencode({'query': statement})}", data, {"Authorization": f"Basic {key}"})
    status = connection.getresponse().status
    connection.close()
    return status


def test_kill_9_in_the_middle_of_inserts_loses_nothing_acknowledged(tmp_path: Path) -> None:
    acknowledged: set[int] = set()
    sent = 0
    for kill in range(4):
        with launched(tmp_path) as server:
            with _connected(server) as client:
                client.command(
                    "CREATE TABLE IF NOT EXISTS kept (batch Int64, part Int64) ENGINE = MergeTree ORDER BY batch"
                )
                found = {
                    row[0]: row[1] for row in client.query("SELECT batch, count() FROM kept GROUP BY 1").result_rows
                }
                assert acknowledged <= set(found)
                assert set(found.values()) <= {1000}  # no half-written batch
            threading.Timer(0.4 + 0.1 * kill, os.kill, [server.pid, signal.SIGKILL]).start()
            try:
                while True:
                    rows = b"".join(b"%d,%d\n" % (sent, part) for part in range(1000))
                    if _insert(server, "INSERT INTO kept FORMAT CSV", rows) == 200:
                        acknowledged.add(sent)
                    sent += 1
            except (OSError, http.client.HTTPException):
                sent += 1
    assert len(acknowledged) > 20
    with launched(tmp_path) as server, _connected(server) as client:
        kept = {row[0] for row in client.query("SELECT batch FROM kept GROUP BY 1 HAVING count() = 1000").result_rows}
        assert acknowledged <= kept


def test_a_stop_lets_running_statements_finish(tmp_path: Path) -> None:
    with launched(tmp_path) as server:
        replies: list[int] = []
        statement = "SELECT sleepEachRow(0.1) FROM numbers(10) SETTINGS max_block_size = 1"

        def ask() -> None:
            with _connected(server) as client:
                replies.append(len(client.query(statement).result_rows))

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.5)
        os.kill(server.pid, signal.SIGTERM)
        thread.join(20)
        assert replies == [10]


def test_a_stop_does_not_wait_for_ever(tmp_path: Path) -> None:
    with launched(tmp_path, 0, "--grace-seconds", "0.5") as server:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
        connection.request("POST", "/", "SELECT sum(sipHash64(number)) FROM numbers(1000000000000)")
        time.sleep(0.5)
        began_s = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        assert b"QUERY_WAS_CANCELLED" in connection.getresponse().read()
        os.waitpid(server.pid, 0)
        assert time.monotonic() - began_s < 10


def test_what_was_written_is_there_after_a_stop(tmp_path: Path) -> None:
    with launched(tmp_path) as server, _connected(server) as client:
        client.command("CREATE TABLE t (a Int32) ENGINE = MergeTree ORDER BY a")
        client.insert("t", [[1], [2]], column_names=["a"])
        password = server.password
    with launched(tmp_path) as server, _connected(server) as client:
        assert client.command("SELECT sum(a) FROM t") == 3
        assert server.password == password


def test_a_second_process_on_the_folder_is_refused(tmp_path: Path) -> None:
    with launched(tmp_path) as server:
        second = _start("--data-dir", tmp_path, "--port", "0")
        assert second.returncode == 1
        assert f"pid {server.pid}" in second.stderr
        assert second.stderr.count("\n") == 1
        assert second.stdout == ""


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = _start("--data-dir", tmp_path, "--port", str(port))
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: cannot listen on 127.0.0.1:{port}: ")
    assert "choose another port" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_named() -> None:
    refused = _start("--data-dir", "/proc/fleetpulse", "--port", "0")  # not even root can make a folder there
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: cannot prepare the database folder /proc/fleetpulse: ")
    assert refused.stderr.count("\n") == 1


def test_a_password_file_open_to_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "writer.password").write_text("known to all")
    (tmp_path / "writer.password").chmod(0o644)
    refused = _start("--data-dir", tmp_path, "--port", "0")
    assert refused.returncode == 1
    assert "chmod 600" in refused.stderr


def test_a_folder_that_is_not_a_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "metadata").write_text("this is no folder")
    refused = _start("--data-dir", tmp_path, "--port", "0")
    assert refused.returncode == 1
    assert "error: the engine cannot open the database in" in refused.stderr


def test_without_room_for_more_an_insert_fails_and_the_server_lives(tmp_path: Path) -> None:
    with launched(tmp_path) as server, _connected(server) as client:
        client.command("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")
        # no file may grow beyond this: to the engine the same as a disk without room
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        with pytest.raises(Exception, match=r"File too large|CANNOT_WRITE|errno"):
            client.command("INSERT INTO t SELECT rand64() FROM numbers(1000000)")
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert client.command("SELECT count() FROM t") == 0
        client.command("INSERT INTO t SELECT rand64() FROM numbers(1000000)")
        assert client.command("SELECT count() FROM t") == 1_000_000


def test_all_threads_that_serve_are_confined(tmp_path: Path) -> None:
    with launched(tmp_path) as server, _connected(server) as client:
        client.command("SELECT count() FROM numbers_mt(10000000)")
        threads = {}
        for task in Path(f"/proc/{server.pid}/task").iterdir():
            status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
            threads[int(task.name)] = status["Seccomp"]
    free = {thread for thread, filtered in threads.items() if filtered != "2"}
    assert free == {server.pid}  # the main thread, which only waits
    assert len(threads) > 3
