"""The read-only login over HTTP, all defences up: what it is for works, and no attack comes through."""

import http.client
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import clickhouse_connect
import pytest

from infra.clickhouse.confine import landlock_abi
from infra.clickhouse.launch import Running, launched
from tests.integration.clickhouse_attacks import ATTACKS, WANTED

pytestmark = pytest.mark.integration

SECRET = "this-must-not-be-seen"


@dataclass(frozen=True, slots=True)
class Scene:
    """A server with tables, a file that must not be seen, a place where none may appear, a host that watches."""

    server: Running
    root: Path
    host: str
    reached: threading.Event

    def meant(self, statement: str) -> str:
        words = {
            "{file}": self.root / "secret.txt",
            "{folder}": self.root / "data" / "engine",
            "{new}": self.root / "new",
            "{host}": self.host,
        }
        for word, meaning in words.items():
            statement = statement.replace(word, str(meaning))
        return statement

    def state(self) -> str:
        """What the analyst must not be able to change."""
        code, state = self.ask(
            """SELECT (SELECT (sum(a), count()) FROM d.t),
                (SELECT groupArray((database, name, create_table_query)) FROM
                    (SELECT * FROM system.tables WHERE database NOT IN ('system', 'information_schema') ORDER BY ALL)),
                (SELECT arraySort(groupArray(name)) FROM system.databases),
                (SELECT count() FROM system.functions WHERE origin != 'System')""",
            writes=True,
        )
        assert code == "", state
        return state

    def ask(
        self,
        body: str,
        *,
        writes: bool = False,
        method: str = "POST",
        headers: dict[str, str] | None = None,
        **url: str,
    ) -> tuple[str, str]:
        """The code of the error, if it is one, and the answer."""
        login = f"{self.server.username}:{self.server.password}" if writes else "analyst:"
        sent = {"Authorization": "Basic " + b64encode(login.encode()).decode()} | (headers or {})
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=60)
        connection.request(method, f"/?{urlencode(url)}", body.encode(), sent)
        reply = connection.getresponse()
        text = reply.read().decode("utf-8", "replace")
        connection.close()
        return reply.headers.get("X-ClickHouse-Exception-Code", ""), text


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    root = tmp_path_factory.mktemp("scene")
    (root / "secret.txt").write_text(SECRET)
    reached = threading.Event()
    with launched(root / "data") as server, socket.create_server(("127.0.0.1", 0)) as watching:

        def watch() -> None:
            try:
                while True:
                    watching.accept()[0].close()
                    reached.set()
            except OSError:
                return

        threading.Thread(target=watch, daemon=True).start()
        made = Scene(server, root, f"127.0.0.1:{watching.getsockname()[1]}", reached)
        for statement in (
            "CREATE DATABASE d",
            "CREATE TABLE d.t (a Int32) ENGINE = MergeTree ORDER BY a",
            "INSERT INTO d.t VALUES (1), (2)",
            "CREATE VIEW d.v AS SELECT a FROM d.t",
            "CREATE TABLE d.u (a UInt64, file String, v String) ENGINE = MergeTree ORDER BY a",
            "INSERT INTO d.u VALUES (1, 'x', 'y')",
            "CREATE DICTIONARY d.k (a UInt64, v String) PRIMARY KEY a "
            "SOURCE(CLICKHOUSE(TABLE 'u' DB 'd')) LAYOUT(FLAT()) LIFETIME(0)",
        ):
            assert made.ask(statement, writes=True) == ("", "")
        yield made
        watching.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def before(scene: Scene) -> str:
    return scene.state()


@pytest.mark.parametrize("statement", [attack.statement for attack in ATTACKS])
def test_an_attack_is_refused_and_changes_nothing(scene: Scene, before: str, statement: str) -> None:
    code, answer = scene.ask(scene.meant(statement))
    assert code, f"it ran: {answer}"
    assert SECRET not in answer
    assert not (scene.root / "new").exists()
    assert not scene.reached.is_set()
    assert scene.state() == before


@pytest.mark.parametrize(
    "statement",
    [attack.statement for attack in ATTACKS if "cage" in attack.held_by],
)
def test_not_even_the_writer_reaches_out_of_the_confined_process(scene: Scene, statement: str) -> None:
    if landlock_abi() < 4:
        pytest.skip("this kernel's Landlock does not know connections (Linux 6.7)")
    _, answer = scene.ask(scene.meant(statement), writes=True)
    assert SECRET not in answer
    assert "root:" not in answer
    assert not (scene.root / "new").exists()
    assert not scene.reached.is_set()


@pytest.mark.parametrize("statement", WANTED)
def test_what_the_login_is_for_works(scene: Scene, statement: str) -> None:
    code, answer = scene.ask(statement)
    assert code == "", answer


def test_the_analyst_connects_with_an_ordinary_client(scene: Scene) -> None:
    for username in ("analyst", "default", None):
        with clickhouse_connect.get_client(host=scene.server.host, port=scene.server.port, username=username) as client:
            assert client.query("SELECT a FROM d.t ORDER BY a").result_rows == [(1,), (2,)]
            assert client.query_df("SELECT a FROM d.t WHERE a = {a:Int32}", parameters={"a": 2})["a"].tolist() == [2]
            with client.query_rows_stream("SELECT number FROM numbers(200000)") as rows:
                assert sum(1 for _ in rows) == 200_000


def test_every_handle_is_narrowed_before_it_sees_a_statement(scene: Scene) -> None:
    """That these hold is in test_clickhouse_layers.py; here, that they are there."""
    _, answer = scene.ask(
        "SELECT currentRoles(), getSetting('readonly'), getSetting('max_execution_time'), "
        "getSetting('max_memory_usage') > 0, getSetting('max_temporary_data_on_disk_size_for_query') > 0"
    )
    assert answer == "['analyst']\t1\t60\t1\t1\n"


def test_a_syntax_error_is_told_with_its_place(scene: Scene) -> None:
    code, answer = scene.ask("SELECT a FORM d.t")
    assert code == "62"
    assert "d.t" in answer


@pytest.mark.parametrize(
    "url",
    [
        {"readonly": "0"},
        {"readonly": "2"},
        {"max_execution_time": "0"},
        {"max_memory_usage": "0"},
        {"allow_ddl": "1"},
        {"log_comment": "x"},
        {"implicit_select": "1"},
        {"param_x', readonly": "0"},
        {"default_format": "CSV INTO OUTFILE"},
    ],
)
def test_settings_cannot_be_changed_in_the_url(scene: Scene, url: dict[str, str]) -> None:
    code, _ = scene.ask("SELECT 1", **url)
    assert code


@pytest.mark.parametrize("url", [{"role": "writer"}, {"user": "fleetpulse"}, {"quota_key": "x"}, {"session_id": "s"}])
def test_keys_of_the_transport_lend_no_rights(scene: Scene, url: dict[str, str]) -> None:
    code, _ = scene.ask("INSERT INTO d.t VALUES (3)", **url)
    assert code == "164"


def test_a_parameter_cannot_name_what_a_statement_cannot(scene: Scene) -> None:
    secret = str(scene.root / "secret.txt")
    for statement, param in (
        ("SELECT arrayMap({f:Identifier}, {p:Array(String)})", "file"),
        ("SELECT * FROM {f:Identifier}", secret),
        ("SELECT * FROM system.{f:Identifier}", "stack_trace"),
    ):
        code, answer = scene.ask(statement, param_f=param, param_p=f"['{secret}']")
        assert code, answer
        assert SECRET not in answer


def test_the_statement_may_come_in_two_halves(scene: Scene) -> None:
    secret = str(scene.root / "secret.txt")
    assert scene.ask(f"('{secret}')", query="SELECT file")[0] == "164"
    assert scene.ask("TABLE d.t", query="DROP")[0] == "164"
    assert scene.ask("; DROP TABLE d.t", query="SELECT 1")[0] == "62"
    assert scene.ask("(4)", query="INSERT INTO d.t VALUES")[0] == "164"


def test_the_writers_session_is_out_of_reach(scene: Scene) -> None:
    assert scene.ask("CREATE TEMPORARY TABLE private (a Int32)", writes=True, session_id="w") == ("", "")
    assert scene.ask("SELECT * FROM private", writes=True, session_id="w") == ("", "")
    assert scene.ask("SELECT 1", session_id="w", session_check="1")[0] == "372"
    assert scene.ask("SELECT * FROM private", session_id="w")[0] in {"60", "497"}


def test_others_queries_go_on(scene: Scene) -> None:
    answers: list[tuple[str, str]] = []
    slow = "SELECT sum(sleepEachRow(0.05)) FROM numbers(20) SETTINGS max_block_size = 1"
    thread = threading.Thread(target=lambda: answers.append(scene.ask(slow, writes=True, query_id="victim")))
    thread.start()
    time.sleep(0.3)
    for attempt in (
        "KILL QUERY WHERE Settings['log_comment'] = 'victim'",
        "KILL QUERY WHERE 1 SYNC",
        "KILL QUERY WHERE user = 'default' ASYNC",
    ):
        assert scene.ask(attempt)[0] == "164"
    thread.join()
    assert answers == [("", "0\n")]


def test_the_writer_finds_a_handle_however_many_ask(scene: Scene) -> None:
    threads = [
        threading.Thread(target=scene.ask, args=("SELECT sum(sleepEachRow(0.1)) FROM numbers(10)",)) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    began_s = time.monotonic()
    assert scene.ask("SELECT 1", writes=True) == ("", "1\n")
    assert time.monotonic() - began_s < 0.8  # the others take a second each
    for thread in threads:
        thread.join()


def test_a_statement_beyond_reason_is_refused(scene: Scene) -> None:
    assert scene.ask("SELECT " + "(" * 20_000 + "1" + ")" * 20_000)[0]
    assert scene.ask("SELECT '" + "x" * 3 * 2**20 + "'")[0] == "62"
    assert scene.ask("SELECT " + "+".join("1" for _ in range(50_000)))[0]
    assert scene.ask("SELECT 1") == ("", "1\n")


def test_a_web_page_that_borrows_the_address_is_not_let_in(scene: Scene) -> None:
    assert scene.ask("SELECT 1", headers={"Host": "evil.example"})[0] == "516"
    assert scene.ask("SELECT 1", headers={"Host": f"localhost:{scene.server.port}"})[0] == ""


def test_with_a_password_nobody_reads_without_it(tmp_path: Path) -> None:
    with launched(tmp_path, 0, "--analyst-password-file", str(tmp_path / "analyst.password")) as server:
        scene = Scene(server, tmp_path, "", threading.Event())
        assert scene.ask("SELECT 1")[0] == "516"
        known = b64encode(b"analyst:" + (tmp_path / "analyst.password").read_bytes().strip()).decode()
        assert scene.ask("SELECT 1", headers={"Authorization": f"Basic {known}"}) == ("", "1\n")
