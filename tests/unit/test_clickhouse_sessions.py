"""Sessions: one statement at a time, and an end."""

import pytest

from infra.clickhouse.protocol import QueryError
from infra.clickhouse.sessions import MAX_SESSIONS, Sessions


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class HandleInUse:
    """Stands in for a handle of the engine, which this module only passes on."""


def test_a_session_runs_one_statement_at_a_time() -> None:
    sessions = Sessions(Clock())
    session = sessions.take("fleetpulse", "s", check=False)
    with pytest.raises(QueryError) as locked:
        sessions.take("fleetpulse", "s", check=False)
    assert locked.value.code == 373
    sessions.give(session, timeout_s=60)
    assert sessions.take("fleetpulse", "s", check=False) is session


def test_two_users_do_not_share_a_session() -> None:
    sessions = Sessions(Clock())
    assert sessions.take("fleetpulse", "s", check=False) is not sessions.take("analyst", "s", check=False)


def test_a_session_that_must_exist_is_missed() -> None:
    with pytest.raises(QueryError) as missing:
        Sessions(Clock()).take("fleetpulse", "s", check=True)
    assert missing.value.code == 372


def test_a_session_ends_when_its_time_is_over_but_not_while_it_is_busy() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    idle, busy = sessions.take("u", "idle", check=False), sessions.take("u", "busy", check=False)
    idle.handle = idle_handle = HandleInUse()  # type: ignore[assignment]
    busy.handle = HandleInUse()  # type: ignore[assignment]
    sessions.give(idle, timeout_s=10)
    clock.now_s += 9.9
    assert list(sessions.ended()) == []
    clock.now_s += 0.1
    assert list(sessions.ended()) == [idle_handle]
    assert len(sessions) == 1


def test_sessions_are_bounded() -> None:
    sessions = Sessions(Clock())
    for number in range(MAX_SESSIONS):
        sessions.take("u", str(number), check=False)
    with pytest.raises(QueryError, match="Too many sessions"):
        sessions.take("u", "one more", check=False)
