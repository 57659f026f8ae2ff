"""Sessions: what a client keeps from one request to the next under its session_id.

A session is only a name until a statement gives it state (SET, USE, CREATE TEMPORARY TABLE); from then on it keeps its
handle. All calls come from the event loop's thread.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from infra.clickhouse.engine import Handle
from infra.clickhouse.protocol import query_error

MAX_SESSIONS: Final = 1000  # a handle that waits costs about 100 kB


@dataclass(slots=True)
class Session:
    """One session; `own_settings` and `database` are what its own SET and USE made of its handle."""

    busy: bool = True
    ends_at_s: float = 0.0
    handle: Handle | None = None
    own_settings: dict[str, str] = field(default_factory=dict)
    database: str = "default"


class Sessions:
    """All sessions of a server, by user and session_id."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._sessions: dict[tuple[str, str], Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def take(self, user: str, session_id: str, *, check: bool) -> Session:
        """The session for one statement; give it back afterwards.

        Raises:
            QueryError: another statement runs in it, there is none although the client insists (`check`), or too many.
        """
        session = self._sessions.get((user, session_id))
        if session is None:
            if check:
                raise query_error(372, "SESSION_NOT_FOUND", f"Session {session_id} not found")
            if len(self._sessions) >= MAX_SESSIONS:
                raise query_error(202, "TOO_MANY_SIMULTANEOUS_QUERIES", f"Too many sessions are open: {MAX_SESSIONS}")
            session = self._sessions[user, session_id] = Session()
        elif session.busy:
            raise query_error(373, "SESSION_IS_LOCKED", f"Session {session_id} is locked by a concurrent client")
        session.busy = True
        return session

    def give(self, session: Session, *, timeout_s: float) -> None:
        """End of a statement; the session lives on for this long."""
        session.busy = False
        session.ends_at_s = self._clock_s() + timeout_s

    def ended(self, *, everything: bool = False) -> Iterator[Handle]:
        """Drop the sessions whose time is over (or all) and hand out their handles to be closed."""
        now_s = self._clock_s()
        for key, session in list(self._sessions.items()):
            if everything or (not session.busy and session.ends_at_s <= now_s):
                del self._sessions[key]
                if session.handle is not None:
                    yield session.handle
