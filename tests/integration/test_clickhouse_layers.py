"""Each defence of the read-only login by itself: with all others taken away it still holds what it is there for."""

import os
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from multiprocessing import get_context
from pathlib import Path

import pytest

from infra.clickhouse.analyst import Policy, rules
from infra.clickhouse.confine import confine, landlock_abi
from infra.clickhouse.engine import Engine, Handle
from infra.clickhouse.folder import held
from infra.clickhouse.protocol import QueryError
from infra.clickhouse.server import libraries
from tests.integration.clickhouse_attacks import ATTACKS, Attack

pytestmark = pytest.mark.integration

SECRET = "this-must-not-be-seen"
HELD = "held"


def _tables(engine: Engine) -> None:
    with engine.handle() as handle:
        for statement in (
            "CREATE DATABASE d",
            "CREATE TABLE d.t (a Int32) ENGINE = MergeTree ORDER BY a",
            "INSERT INTO d.t VALUES (1)",
            "CREATE TABLE d.u (a Int32, file String) ENGINE = MergeTree ORDER BY a",
        ):
            handle.query(statement)


class _WithoutNames(Policy):
    """The policy as far as it is the classifier's."""

    def _check_tree(self, *_: object) -> None:
        pass

    def _check_plain(self, *_: object) -> None:
        pass


class _WithoutClass(Handle):
    """A handle whose classifier finds nothing wrong."""

    def classify(self, statement: bytes) -> tuple[str, int]:
        return "READ_ONLY", 1 if statement else 0


def _classified(handle: Handle, statement: str, policy: Policy) -> None:
    without = _WithoutNames(**{field.name: getattr(policy, field.name) for field in fields(policy)})
    without.check(handle, statement.encode(), {})
    handle.query(statement)


def _named(handle: Handle, statement: str, policy: Policy) -> None:
    policy.check(_WithoutClass(handle._connection), statement.encode(), {})
    handle.query(statement)


def _granted(handle: Handle, statement: str, _: Policy) -> None:
    handle.query("SET ROLE analyst")
    handle.query(statement)


def _read_only(handle: Handle, statement: str, _: Policy) -> None:
    handle.query("SET readonly = 1")
    handle.query(statement)


def _as_it_is(handle: Handle, statement: str, _: Policy) -> None:
    handle.query(statement)


LAYERS: Mapping[str, Callable[[Handle, str, Policy], None]] = {
    "class": _classified,
    "names": _named,
    "role": _granted,
    "readonly": _read_only,
    "cage": _as_it_is,  # of a process that is confined
}


def _watch(server: socket.socket, reached: threading.Event) -> None:
    while True:
        server.accept()[0].close()
        reached.set()


def _outcomes(root: Path, attacks: list[Attack], layers: tuple[str, ...], caged: bool) -> dict[tuple[str, str], str]:
    """Every attack against each of these layers alone: held, or what happened. Runs in a process of its own."""
    outcomes = {}
    (root / "new").parent.mkdir(parents=True, exist_ok=True)
    with held(root, memory_bytes=2**30, keep_free_bytes=0) as folder, socket.create_server(("127.0.0.1", 0)) as server:
        reached = threading.Event()
        threading.Thread(target=_watch, args=(server, reached), daemon=True).start()
        secret_file = root / "secret.txt"
        secret_file.write_text(SECRET)
        words = {
            "{file}": str(secret_file),
            "{folder}": str(root / "engine"),
            "{new}": str(root / "new"),
            "{host}": f"127.0.0.1:{server.getsockname()[1]}",
        }
        table = rules()

        def serve() -> None:
            if caged:
                confine(keep=[folder.engine], read=[folder.config, *libraries()])
            os.environ["TMPDIR"] = str(folder.temporary)
            engine = Engine(folder)
            _tables(engine)
            with engine.handle() as handle:
                policy = Policy.of(table, handle)
            for attack in attacks:
                statement = attack.statement
                for word, meant in words.items():
                    statement = statement.replace(word, meant)
                for layer in set(layers) & set(attack.held_by):
                    outcomes[attack.statement, layer] = _outcome(engine, LAYERS[layer], statement, policy)
            engine.close()

        def _outcome(
            engine: Engine, layer: Callable[[Handle, str, Policy], None], statement: str, policy: Policy
        ) -> str:
            try:
                with engine.handle() as handle:
                    layer(handle, statement, policy)
            except QueryError as error:
                if SECRET in error.text:
                    return "the secret is in the error's text"
                outcome = HELD
            else:
                outcome = "it ran"
            return "it connected" if reached.is_set() else outcome

        thread = threading.Thread(target=serve)
        thread.start()
        thread.join()
    return outcomes


def _of_a_process(root: Path, layers: tuple[str, ...], *, caged: bool) -> dict[tuple[str, str], str]:
    attacks = [attack for attack in ATTACKS if set(layers) & set(attack.held_by)]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_outcomes, root, attacks, layers, caged).result(timeout=120)


@pytest.fixture(scope="module")
def uncaged(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    return _of_a_process(tmp_path_factory.mktemp("uncaged"), ("class", "names"), caged=False)


@pytest.fixture(scope="module")
def granted(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    return _of_a_process(tmp_path_factory.mktemp("granted"), ("role", "readonly"), caged=False)


@pytest.fixture(scope="module")
def caged(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    if landlock_abi() < 1:
        pytest.skip("this kernel has no Landlock")
    return _of_a_process(tmp_path_factory.mktemp("caged"), ("cage",), caged=True)


@pytest.mark.parametrize(
    ("layer", "statement"),
    [(layer, attack.statement) for attack in ATTACKS for layer in attack.held_by],
)
def test_alone_it_holds(layer: str, statement: str, request: pytest.FixtureRequest) -> None:
    process = {"class": "uncaged", "names": "uncaged", "role": "granted", "readonly": "granted", "cage": "caged"}[layer]
    assert request.getfixturevalue(process)[statement, layer] == HELD
