"""`fleetpulse topics` and `fleetpulse migrate`: what must be there before records flow."""

from __future__ import annotations

from typing import Any, cast

import structlog

from infra import addresses, observe
from infra.errors import OperatorError
from infra.settings import Settings

log = structlog.get_logger()


def topics(settings: Settings) -> None:
    """Create missing topics, by themselves."""
    observe.configure_logging("topics", level=settings.observe.level, json_lines=settings.observe.json_lines)
    provision_topics(settings)


def migrate(settings: Settings) -> None:
    """Bring tables and views up to date, by themselves."""
    observe.configure_logging("migrate", level=settings.observe.level, json_lines=settings.observe.json_lines)
    migrate_tables(settings)


def provision_topics(settings: Settings) -> None:
    """Create missing topics and log drift. Raises `OperatorError`."""
    from infra.topics import provision, wanted

    part = settings.kafka
    done = provision(
        addresses.kafka_client(settings),
        wanted(part.partitions, part.retention_hours),
        replication=part.replication,
    )
    log.info("topics are there", created=len(done.created), present=len(done.present))
    for drift in done.drift:
        log.warning(str(drift))


def migrate_tables(settings: Settings) -> None:
    """Run the migrations that are missing. Raises `OperatorError`, with what ClickHouse says where it refuses."""
    from clickhouse_connect.driver.exceptions import Error

    from sinks.clickhouse.migrate import MigrationError, migrate

    where = addresses.clickhouse(settings)
    try:
        with addresses.writer(settings)() as client:
            applied = migrate(cast("Any", client), settings.clickhouse.database)
    except (MigrationError, Error) as error:
        said = str(error).strip()
        raise OperatorError(
            f"the tables in ClickHouse at {where.host}:{where.port} cannot be set up: {said}"
        ) from error
    log.info("tables are there", database=settings.clickhouse.database, applied=len(applied))
