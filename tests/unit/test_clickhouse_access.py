"""The writer's password, and who a request is from."""

import base64
import stat
import threading
from pathlib import Path

import pytest

from infra.clickhouse.access import Keys, login, writer_password
from infra.clickhouse.front import names_loopback
from infra.clickhouse.protocol import QueryError

OPEN = Keys(writer="w-secret", analyst=None)
CLOSED = Keys(writer="w-secret", analyst="a-secret")


def _basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_the_password_is_made_at_the_first_start_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "writer.password"
    password = writer_password(path)
    assert len(password) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert writer_password(path) == password
    assert [each.name for each in path.parent.iterdir()] == ["writer.password"]


def test_two_starts_at_one_time_agree_on_the_password(tmp_path: Path) -> None:
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(writer_password(tmp_path / "writer.password"))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(set(found)) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644])
def test_a_password_that_others_could_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "writer.password"
    writer_password(path)
    path.chmod(mode)
    with pytest.raises(PermissionError, match=rf"mode {mode:04o}.*chmod 600"):
        writer_password(path)


def test_a_link_in_the_passwords_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("known")
    (tmp_path / "writer.password").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        writer_password(tmp_path / "writer.password")


def test_an_empty_password_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "writer.password"
    path.touch(mode=0o600)
    with pytest.raises(PermissionError, match="empty"):
        writer_password(path)


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ({}, _basic("fleetpulse", "w-secret")),
        ({}, {"X-ClickHouse-User": "fleetpulse", "X-ClickHouse-Key": "w-secret"}),
        ({"user": "fleetpulse", "password": "w-secret"}, {}),
    ],
)
def test_the_writer_shows_his_password(url: dict[str, str], headers: dict[str, str]) -> None:
    assert login(OPEN, url, headers).writes


@pytest.mark.parametrize(
    "headers", [{}, _basic("default", ""), _basic("analyst", ""), {"X-ClickHouse-User": "analyst"}]
)
def test_without_a_name_one_is_the_analyst_and_cannot_write(headers: dict[str, str]) -> None:
    found = login(OPEN, {}, headers)
    assert (found.name, found.writes) == ("analyst", False)


@pytest.mark.parametrize(
    ("keys", "headers"),
    [
        (OPEN, _basic("fleetpulse", "wrong")),
        (OPEN, _basic("fleetpulse", "")),
        (OPEN, _basic("eve", "w-secret")),
        (OPEN, _basic("FLEETPULSE", "w-secret")),
        (OPEN, {"Authorization": "Bearer w-secret"}),
        (OPEN, {"Authorization": "Basic ###"}),
        (CLOSED, {}),
        (CLOSED, _basic("analyst", "wrong")),
        (CLOSED, _basic("default", "")),
    ],
)
def test_who_cannot_prove_it_is_not_let_in(keys: Keys, headers: dict[str, str]) -> None:
    with pytest.raises(QueryError) as refused:
        login(keys, {}, headers)
    assert refused.value.code == 516


def test_the_analyst_may_have_a_password() -> None:
    assert not login(CLOSED, {}, _basic("analyst", "a-secret")).writes


@pytest.mark.parametrize("host", ["localhost", "localhost:8123", "127.0.0.1:8123", "127.9.9.9", "[::1]:8123"])
def test_a_host_header_of_this_machine(host: str) -> None:
    assert names_loopback(host)


@pytest.mark.parametrize(
    "host", ["evil.example:8123", "127.0.0.1.evil.example", "10.0.0.1", "", "[fe80::1]", "localhost.evil"]
)
def test_a_host_header_of_elsewhere(host: str) -> None:
    assert not names_loopback(host)
