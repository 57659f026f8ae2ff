"""The whole pipeline on one machine: which processes it is, in which order they start, and what lies between."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import structlog

from infra.commands.provision import migrate_tables, provision_topics
from infra.settings import Settings
from infra.supervise import Role, Supervisor, sole
from schemas.ids import stable_id

log = structlog.get_logger()

SERVERS, READERS, SOURCES = 0, 1, 2
"""Tiers: what everything needs; what reads and writes topics; what produces."""


def servers(settings: Settings) -> list[Role]:
    """The embedded servers that these settings leave to us."""
    roles = []
    if settings.kafka.bootstrap is None:
        roles.append(Role("kafka", ("kafka",), SERVERS))
    if settings.clickhouse.host is None:
        roles.append(Role("clickhouse", ("clickhouse",), SERVERS))
    return roles


def readers(settings: Settings, workers: int) -> list[Role]:
    """Sinks and stream workers.

    The sinks get lasting names: what is started again after a kill has its partitions back at once, where Kafka would
    else wait for the old session to end.
    """
    names = [f"streams-{number}" for number in range(workers)]
    lasting = stable_id(socket.gethostname(), settings.data_dir.absolute())[:12]
    return [
        Role("loader", ("loader",), READERS, environment={"FLEETPULSE_LOADER__INSTANCE": f"loader-{lasting}"}),
        Role("alerts", ("alerts",), READERS, environment={"FLEETPULSE_ALERTS__INSTANCE": f"alerts-{lasting}"}),
        *(Role(name, ("streams", "--name", name), READERS) for name in names),
    ]


def agent() -> Role:
    """This machine as a node."""
    return Role("agent", ("agent",), SOURCES)


def simulation(**environment: str) -> Role:
    """The simulated fleet; it ends when its script does."""
    return Role("simulate", ("simulate",), SOURCES, ends=True, environment=environment)


@contextmanager
def running(
    settings: Settings,
    options: Sequence[str],
    *,
    workers: int = 1,
    sources: Sequence[Role] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
    log_dir: Path | None = None,
    waiting: Callable[[str], None] = lambda _: None,
) -> Iterator[Supervisor]:
    """Everything started, in order, while inside; stopped, in order, afterwards.

    `environment` is given to every process. `waiting` is called a few times each second with what is being waited for.
    Raises `OperatorError` where a part does not start.
    """
    data_dir = settings.data_dir.absolute()
    with sole(data_dir):
        supervisor = Supervisor(data_dir, options=options, environment=environment, log_dir=log_dir)
        try:
            supervisor.start(servers(settings), waiting=lambda: waiting("servers"))
            waiting("topics and tables")
            provision_topics(settings)
            migrate_tables(settings)
            supervisor.start(readers(settings, workers), waiting=lambda: waiting("stream workers and sinks"))
            supervisor.start(sources, waiting=lambda: waiting("sources"))
            yield supervisor
        finally:
            supervisor.stop()
