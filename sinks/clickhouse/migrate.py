"""Bringing a ClickHouse to the tables and views of this build.

`migrations/NNNN_name.sql` hold tables: applied in order, each once, and never changed afterwards (its checksum is
recorded). `views/*.sql` hold no data: replaced whenever their text is another. Both name the database `${database}`.

ClickHouse has no transactions over DDL and no lock to take, so every statement can be run again without harm
(`IF NOT EXISTS`, `OR REPLACE`): two that start at once, or one that was killed half-way, end with the same tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from graphlib import TopologicalSorter
from hashlib import sha256
from pathlib import Path
from string import Template
from typing import Any, Protocol

import structlog

FOLDER = Path(__file__).parent
_NAME = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql")
_REFERENCE = re.compile(r"\$\{database\}\.(\w+)")
# ClickHouse 25.8 takes a column's comment before its codec only, later ones take both orders
_CODEC_COMMENT = re.compile(
    r" (?P<codec>CODEC\((?:[^()]|\([^()]*\))*\)) (?P<comment>COMMENT '(?:[^']|'')*')(?=,?$)", re.MULTILINE
)

log = structlog.get_logger()


class MigrationError(Exception):
    """The database and the migrations of this build contradict each other; the message says how, and what to do."""


class Client(Protocol):
    """What is needed of a `clickhouse_connect` client. Both raise `clickhouse_connect.driver.exceptions.Error`."""

    def command(self, cmd: str, /) -> Any:
        """Run one statement."""

    def query(self, query: str, /) -> Any:
        """Run one query; the rows are in `.result_rows`."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of `migrations/` or `views/`."""

    version: int
    """0 for a view."""
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file's text."""
        return sha256(self.text.encode()).hexdigest()

    def statements(self, database: str) -> list[str]:
        """Its statements, in order, for one database. A semicolon at the end of a line ends a statement."""
        text = _CODEC_COMMENT.sub(r" \g<comment> \g<codec>", Template(self.text).substitute(database=database))
        parts = (part.strip() for part in re.split(r";[ \t]*(?:\n|$)", text))
        return [part for part in parts if any(line and not line.startswith("--") for line in part.splitlines())]


def migrations(folder: Path = FOLDER / "migrations") -> list[Migration]:
    """The migrations of this build in order. Raises `MigrationError` where a file's name or number is wrong."""
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(
                f"{path.name} is not named NNNN_name.sql, so its place in the order is unknown: rename it"
            )
        found.append(Migration(int(match["version"]), match["name"], path.read_text()))
    for place, migration in enumerate(found, start=1):
        if migration.version != place:
            raise MigrationError(
                f"migration {migration.version:04d}_{migration.name} stands where {place:04d} is expected: "
                "numbers begin at 1, without gaps and without doubles"
            )
    return found


def views(folder: Path = FOLDER / "views") -> list[Migration]:
    """The views of this build, each after those it reads. Raises `graphlib.CycleError` where they go in a circle."""
    found = {path.stem: Migration(0, path.stem, path.read_text()) for path in sorted(folder.glob("*.sql"))}
    # sorted, so that the order is the same in every process
    reads = {name: sorted(set(_REFERENCE.findall(view.text)) & found.keys() - {name}) for name, view in found.items()}
    return [found[name] for name in TopologicalSorter(reads).static_order()]


def migrate(
    client: Client,
    database: str,
    *,
    tables: Iterable[Migration] | None = None,
    beat: Callable[[], None] = lambda: None,
) -> list[str]:
    """Bring `database` (made where it is not there) to this build's tables and views; returns what was applied.

    Blocks until done, with a `beat` after every statement. Running it again changes nothing. Raises `MigrationError`
    where an applied migration was changed, or where the database was migrated by a newer build, and ClickHouse's
    errors as they come.
    """
    wanted = list(migrations() if tables is None else tables)
    client.command(f"CREATE DATABASE IF NOT EXISTS {database}")
    client.command(
        f"CREATE TABLE IF NOT EXISTS {database}.schema_migrations (version UInt32, name String, checksum String, "
        "applied_at DateTime64(3, 'UTC') DEFAULT now64(3)) "
        "ENGINE = ReplacingMergeTree(applied_at) ORDER BY (version, name) "
        "COMMENT 'Which migrations and views (version 0) of fleetpulse this database has'"
    )
    rows = client.query(
        f"SELECT version, name, checksum FROM {database}.schema_migrations FINAL ORDER BY version, name"  # noqa: S608
    ).result_rows
    applied = {(int(version), str(name)): str(checksum) for version, name, checksum in rows}
    _check(wanted, applied, database)
    done = []
    for migration in [*wanted, *views()]:
        if applied.get((migration.version, migration.name)) == migration.checksum:
            continue
        for statement in migration.statements(database):
            client.command(statement)
            beat()
        client.query(
            f"INSERT INTO {database}.schema_migrations (version, name, checksum) "  # noqa: S608 - our own names
            f"VALUES ({migration.version}, '{migration.name}', '{migration.checksum}')"
        )
        label = f"{migration.version:04d}_{migration.name}" if migration.version else f"view {migration.name}"
        done.append(label)
        log.info("migrated", database=database, applied=label)
    return done


def _check(wanted: list[Migration], applied: dict[tuple[int, str], str], database: str) -> None:
    by_version = {version: (name, checksum) for (version, name), checksum in applied.items() if version}
    for migration in wanted:
        name, checksum = by_version.pop(migration.version, (migration.name, migration.checksum))
        label = f"{migration.version:04d}_{migration.name}"
        if name != migration.name:
            raise MigrationError(
                f"database {database} has migration {migration.version:04d} as {name!r}, this build has {label}: "
                "two builds of different origin use this database; give one of them a database of its own"
            )
        if checksum != migration.checksum:
            raise MigrationError(
                f"migration {label} was applied to database {database} with another text (checksum "
                f"{checksum[:12]}…, now {migration.checksum[:12]}…): put the file back as it was, "
                "and bring the change as a new migration"
            )
    if by_version:
        newest = max(by_version)
        raise MigrationError(
            f"database {database} has migration {newest:04d}_{by_version[newest][0]}, which this build does not know: "
            "it was migrated by a newer build; run that one"
        )
