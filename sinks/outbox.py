"""Alerts on their way, in a SQLite file: what is in here is delivered, however often the process dies.

An incident pages once: its id is the key. A notice (page or resolve) is owed once to each channel.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from schemas.records import Incident
from sinks.channels.channel import Notice, NoticeKind

FILE = "alerts.sqlite3"

_DAY_MS = 86_400_000
_TABLES = """
CREATE TABLE IF NOT EXISTS incident (
    incident_id TEXT PRIMARY KEY,
    record BLOB NOT NULL,
    received_ms INTEGER NOT NULL,
    cleared_ms INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notice (
    incident_id TEXT NOT NULL REFERENCES incident ON DELETE CASCADE,
    channel TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'given_up')),
    due_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    refusals INTEGER NOT NULL DEFAULT 0,
    done_ms INTEGER,
    error TEXT,
    PRIMARY KEY (incident_id, channel, kind)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS notice_due ON notice (channel, due_ms) WHERE state = 'waiting';
"""


class OutboxError(Exception):
    """The outbox file cannot be used; the message names it and says what to do."""


@dataclass(frozen=True, slots=True)
class Owed:
    """A notice that is due, and its history."""

    notice: Notice
    attempts: int
    """Attempts so far."""
    refusals: int
    """Those that the other side refused for good."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A notice that a channel took."""

    incident_id: str
    channel: str
    kind: str
    title: str
    root: str
    severity: str
    action: str
    delivered_ms: int
    delay_ms: int
    """From the first evidence being seen on a node to the delivery."""


class Outbox:
    """One thread's hold on the file; others may hold it at the same time. Every write is on disk when it returns."""

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises `OutboxError`."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.executescript(_TABLES)
        except (sqlite3.Error, OSError) as error:
            raise OutboxError(
                f"cannot keep alerts in {path}: {error}; give a data directory that can be written"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let the file go."""
        self._db.close()

    def page(self, incident: Incident, channels: Iterable[str], now_ms: int) -> bool:
        """Owe an incident's page to each channel, once and for all; False where it was owed before."""
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            new = self._db.execute(
                "INSERT INTO incident (incident_id, record, received_ms) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (incident.incident_id, msgspec.json.encode(incident), now_ms),
            )
            if not new.rowcount:
                return False
            self._owe(incident.incident_id, channels, "page", now_ms)
        return True

    def cleared(self, incident_id: str, cleared_ms: int, channels: Iterable[str], now_ms: int) -> bool:
        """Note that an incident which paged has cleared, and owe that to `channels`; False where that is known."""
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            changed = self._db.execute(
                "UPDATE incident SET cleared_ms = ? WHERE incident_id = ? AND cleared_ms IS NULL",
                (cleared_ms, incident_id),
            )
            if not changed.rowcount:
                return False
            self._owe(incident_id, channels, "resolve", now_ms)
        return True

    def due(self, channel: str, now_ms: int) -> Owed | None:
        """The notice that has been due longest."""
        row = self._db.execute(
            "SELECT kind, record, cleared_ms, attempts, refusals FROM notice JOIN incident USING (incident_id) "
            "WHERE channel = ? AND state = 'waiting' AND due_ms <= ? ORDER BY due_ms, kind LIMIT 1",
            (channel, now_ms),
        ).fetchone()
        if row is None:
            return None
        kind, record, cleared_ms, attempts, refusals = row
        return Owed(Notice(kind, msgspec.json.decode(record, type=Incident), cleared_ms), attempts, refusals)

    def delivered(self, channel: str, notice: Notice, now_ms: int) -> None:
        """A channel took a notice."""
        self._done(channel, notice, "delivered", now_ms, None)

    def given_up(self, channel: str, notice: Notice, now_ms: int, error: str) -> None:
        """A channel will never take a notice."""
        self._done(channel, notice, "given_up", now_ms, error)

    def failed(self, channel: str, notice: Notice, *, due_ms: int, refused: bool, error: str) -> None:
        """A channel did not take a notice; it is due again at `due_ms`."""
        self._db.execute(
            "UPDATE notice SET attempts = attempts + 1, refusals = refusals + ?, due_ms = ?, error = ? "
            "WHERE incident_id = ? AND channel = ? AND kind = ?",
            (int(refused), due_ms, error, notice.incident.incident_id, channel, notice.kind),
        )

    def waiting(self, channel: str) -> int:
        """How many notices a channel has still to take."""
        row = self._db.execute("SELECT count(*) FROM notice WHERE channel = ? AND state = 'waiting'", (channel,))
        return int(row.fetchone()[0])

    def forget(self, older_than_days: float, now_ms: int) -> int:
        """Drop incidents that old with nothing left to deliver; returns how many."""
        dropped = self._db.execute(
            "DELETE FROM incident WHERE received_ms < ? AND NOT EXISTS "
            "(SELECT 1 FROM notice WHERE notice.incident_id = incident.incident_id AND state = 'waiting')",
            (now_ms - int(older_than_days * _DAY_MS),),
        )
        return dropped.rowcount

    def _owe(self, incident_id: str, channels: Iterable[str], kind: NoticeKind, now_ms: int) -> None:
        self._db.executemany(
            "INSERT INTO notice (incident_id, channel, kind, due_ms) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            [(incident_id, channel, kind, now_ms) for channel in channels],
        )

    def _done(self, channel: str, notice: Notice, state: str, now_ms: int, error: str | None) -> None:
        self._db.execute(
            "UPDATE notice SET state = ?, attempts = attempts + 1, done_ms = ?, error = ? "
            "WHERE incident_id = ? AND channel = ? AND kind = ?",
            (state, now_ms, error, notice.incident.incident_id, channel, notice.kind),
        )


def deliveries(data_dir: Path) -> list[Delivery]:
    """What was delivered so far, oldest first, read beside a running alerts process. Empty where there is no outbox."""
    path = data_dir / FILE
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'notice'").fetchone():
            return []  # the process that makes it has only just begun
        rows = db.execute(
            "SELECT channel, kind, done_ms, record FROM notice JOIN incident USING (incident_id) "
            "WHERE state = 'delivered' ORDER BY done_ms, channel"
        ).fetchall()
    found = []
    for channel, kind, done_ms, record in rows:
        incident = msgspec.json.decode(record, type=Incident)
        found.append(
            Delivery(
                incident_id=incident.incident_id,
                channel=channel,
                kind=kind,
                title=incident.title,
                root=incident.root,
                severity=incident.severity,
                action=incident.action,
                delivered_ms=done_ms,
                delay_ms=done_ms - incident.observed_ms,
            )
        )
    return found
