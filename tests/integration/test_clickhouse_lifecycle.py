"""Starting, stopping and being killed: nothing acknowledged is lost, and what stands in the way is named."""

import http.client
import json
import os
import shutil
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
from urllib.request import urlopen

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

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
        connection.close()
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


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    with launched(tmp_path) as server, _connected(server) as client:
        client.command("CREATE TABLE t (a Int32) ENGINE = MergeTree ORDER BY a")
    (definition,) = (tmp_path / "engine").rglob("t.sql")
    definition.write_text("not a definition")
    refused = _start("--data-dir", tmp_path, "--port", "0")
    assert refused.returncode == 1
    assert f"error: the engine cannot open the database in {tmp_path / 'engine'}" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_nearly_full_disk_is_read_but_not_written(tmp_path: Path) -> None:
    with launched(tmp_path) as server, _connected(server) as client:
        client.command("CREATE TABLE t (a Int32) ENGINE = MergeTree ORDER BY a")
        client.insert("t", [[1]], column_names=["a"])
    everything_mib = str(2**40)
    with launched(tmp_path, 0, "--keep-free-mib", everything_mib) as server, _connected(server) as client:
        for insert in ("INSERT INTO t VALUES (2)", "INSERT INTO t SELECT 2"):
            with pytest.raises(DatabaseError, match=rf"{tmp_path}/engine has \d+ MiB free.*free some space"):
                client.command(insert)
        assert client.command("SELECT sum(a) FROM t") == 1
        client.command("DROP TABLE t SYNC")
        assert client.command("EXISTS TABLE t") == 0


def test_a_full_disk_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """On a disk of its own, mounted where only this process can see it."""
    words = [
        sys.executable,
        "-m",
        "infra.clickhouse",
        "--data-dir",
        str(tmp_path),
        "--port",
        "0",
        "--keep-free-mib",
        "8",
    ]
    mount = f"mount -t tmpfs -o size=64m tmpfs {tmp_path}"
    unshare = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshare, mount], check=False, capture_output=True).returncode
    ):
        pytest.skip("this machine does not let a process mount a disk of its own")
    script = f'{mount} && exec "$@"'
    with subprocess.Popen(
        [*unshare, script, "sh", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        try:
            assert child.stdout is not None
            _, host, port = child.stdout.readline().split()
            disk = Path(f"/proc/{child.pid}/root{tmp_path}")
            password = (disk / "writer.password").read_text().strip()
            with _connected(Running(host, int(port), "fleetpulse", password, child.pid)) as client:
                client.command("CREATE TABLE t (batch Int64, a UInt64) ENGINE = MergeTree ORDER BY batch")
                acknowledged = []
                for batch in range(30):
                    try:
                        client.command(f"INSERT INTO t SELECT {batch}, rand64() FROM numbers(300000)")
                        acknowledged.append(batch)
                    except DatabaseError as error:
                        assert "NOT_ENOUGH_SPACE" in str(error)  # noqa: PT017 - one of many
                assert 3 < len(acknowledged) < 30
                # read to the end: a row that was not written would raise here
                counts = client.query("SELECT batch, count(), sum(a) > 0 FROM t GROUP BY batch ORDER BY batch")
                assert counts.result_rows == [(batch, 300_000, 1) for batch in acknowledged]
                client.command("TRUNCATE TABLE t")
                client.command("INSERT INTO t SELECT 99, rand64() FROM numbers(300000)")
        finally:
            child.terminate()
            child.wait(30)


# The C library keeps the kernel's auxiliary vector behind the environment, until somebody sets a variable: then the
# environment moves to the heap, and anything may lie there. Here it is 33 (AT_SYSINFO_EHDR) with an address of nothing.
_MOVED_ENVIRONMENT = """
import ctypes, sys
environ = ctypes.c_void_p.in_dll(ctypes.CDLL(None), "environ")
entries = ctypes.cast(environ, ctypes.POINTER(ctypes.c_void_p))
count = next(at for at in range(10_000) if not entries[at])
moved = (ctypes.c_void_p * (count + 7))(*entries[:count], None, 33, 0x1234567890ABCDEF, 0, 0)
environ.value = ctypes.addressof(moved)
from infra.clickhouse.__main__ import main
sys.exit(main())
"""


def test_it_starts_whatever_lies_behind_its_environment(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _MOVED_ENVIRONMENT, "--data-dir", str(tmp_path / "data"), "--port", "0"]
    known = os.environ | {"TMPDIR": str(tmp_path)}  # the one variable that a start sets: it is replaced in its place
    with subprocess.Popen(
        command, cwd=ROOT, env=known, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            assert server.stderr is not None
            assert server.stdout.readline().startswith("ready "), server.stderr.read()
        finally:
            server.terminate()
        server.communicate()
    assert server.returncode == 0


def test_all_threads_that_serve_are_confined(tmp_path: Path) -> None:
    with launched(tmp_path) as server, _connected(server) as client:
        if not json.loads(urlopen(f"http://{server.host}:{server.port}/status").read())["filtered"]:
            pytest.skip("this machine's system calls cannot be filtered")
        client.command("SELECT count() FROM numbers_mt(10000000)")
        threads = {}
        for task in Path(f"/proc/{server.pid}/task").iterdir():
            status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
            threads[int(task.name)] = status["Seccomp"]
    free = {thread for thread, filtered in threads.items() if filtered != "2"}
    assert free == {server.pid}  # the main thread, which only waits
    assert len(threads) > 3


def test_the_engine_stands_back_where_processors_are_short_and_what_watches_it_does_not(tmp_path: Path) -> None:
    with launched(tmp_path) as server:
        # man 5 proc: field 19, counted from behind the name, which may hold anything
        niceness = {
            int(thread.name): int((thread / "stat").read_text().rpartition(")")[2].split()[16])
            for thread in Path(f"/proc/{server.pid}/task").iterdir()
        }
    of_main = niceness.pop(server.pid)
    assert len(niceness) > 3
    # where it may, the engine puts one of its own, which watches its memory, before all others
    assert set(niceness.values()) - {-20} == {min(19, of_main + 10)}
