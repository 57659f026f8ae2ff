"""One process of the pipeline per command: each calls the body that its part of the flow declares."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from infra import addresses
from infra.errors import MisuseError, OperatorError
from infra.process import serve
from infra.settings import Settings
from producers.settings import AgentSettings

ALERTS_FOLDER = "alerts"
"""Under the data directory: the outbox."""
_BROKER_SECONDS = 10.0

Beat = Callable[[], None]


def kafka(settings: Settings) -> None:
    """The embedded Kafka."""
    from infra.kafka import BrokerLimits, EmbeddedKafka

    part = settings.kafka
    if part.bootstrap:
        raise MisuseError(f"kafka.bootstrap is {part.bootstrap}: with a broker of yours the embedded one has no use")
    limits = BrokerLimits(heap_mib=part.heap_mib, retention_mib_per_partition=part.retention_mib_per_partition)

    def body(*, stop: threading.Event, beat: Beat, ready: Beat) -> None:
        with EmbeddedKafka(addresses.kafka_dir(settings), port=part.port, limits=limits) as broker:
            ready()
            while not stop.wait(0.5):
                if (code := broker.died()) is not None:
                    raise OperatorError(
                        f"Kafka ended by itself (exit {code}); the end of {broker.log_path}:\n{broker.last_lines()}"
                    )
                beat()

    serve("kafka", settings, body)


def clickhouse(settings: Settings) -> None:
    """The embedded ClickHouse."""
    from infra.clickhouse.server import run
    from infra.clickhouse.settings import EmbeddedClickHouseSettings
    from infra.ports import free_port

    part = settings.clickhouse
    if part.host:
        raise MisuseError(f"clickhouse.host is {part.host}: with a server of yours the embedded one has no use")
    address = addresses.Address("127.0.0.1", part.port or addresses.kept_clickhouse_port(settings) or free_port())
    its = EmbeddedClickHouseSettings(
        data_dir=addresses.clickhouse_dir(settings),
        host=address.host,
        port=address.port,
        password_file=part.password_file,
        analyst_password=part.analyst_password,
        nice=part.nice,
    )

    # before it runs: its process confines itself to its own folder
    addresses.keep_clickhouse(settings, address)

    def body(*, stop: threading.Event, beat: Beat, ready: Beat) -> None:
        run(its, stop=stop, beat=beat, ready=lambda _: ready())

    serve("clickhouse", settings, body)


def streams(settings: Settings, name: str) -> None:
    """A stream worker."""
    from streams.credentials import CredentialsError
    from streams.worker import run

    def body(*, stop: threading.Event, beat: Beat, ready: Beat) -> None:
        ready()
        kafka, folder = addresses.kafka_client(settings), _folder(settings, name)
        try:
            run(settings.streams, kafka=kafka, data_dir=folder, stop=stop, beat=beat)
        except CredentialsError as error:
            raise OperatorError(str(error)) from error

    serve(name, settings, body)


def loader(settings: Settings) -> None:
    """The ClickHouse loader."""
    from sinks.loader import run

    part = settings.loader
    if "database" not in part.model_fields_set:
        part = part.model_copy(update={"database": settings.clickhouse.database})

    def body(*, stop: threading.Event, beat: Beat, ready: Beat) -> None:
        kafka = _broker(settings)
        ready()
        run(part, kafka=kafka, connect=addresses.writer(settings), stop=stop, beat=beat)

    serve("loader", settings, body)


def alerts(settings: Settings) -> None:
    """The alerts."""
    from sinks.alerts import run

    def body(*, stop: threading.Event, beat: Beat, ready: Beat) -> None:
        kafka = _broker(settings)
        ready()
        run(settings.alerts, kafka=kafka, data_dir=_folder(settings, ALERTS_FOLDER), stop=stop, beat=beat)

    serve("alerts", settings, body)


def agent(settings: Settings) -> NoReturn:
    """The agent of this node: this process becomes it (`infra/lean.py`)."""
    from infra import lean

    observe = settings.observe
    lean.become(
        lean.Handed(
            data_dir=settings.data_dir.absolute(),
            observe=lean.Observe(
                observe.level, observe.json_lines, observe.host, dict(observe.ports), observe.stale_seconds
            ),
            agent=agent_settings(settings),
            kafka=addresses.kafka_client(settings),
        )
    )


def agent_settings(settings: Settings) -> AgentSettings:
    """The agent's settings; its state lies in the data directory, unless it was put elsewhere."""
    part = settings.agent
    if "state_dir" in part.model_fields_set:
        return part
    return part.model_copy(update={"state_dir": _folder(settings, "agent")})


def simulate(settings: Settings) -> None:
    """The simulated fleet."""
    from producers.simulate import run

    def body(*, stop: threading.Event, beat: Beat, ready: Beat) -> None:
        kafka = _broker(settings)
        ready()
        run(settings.simulate, kafka=kafka, stop=stop, beat=beat)

    serve("simulate", settings, body)


def _broker(settings: Settings) -> dict[str, Any]:
    """The same for a process that can do nothing without a broker: it must answer now. Later it may come and go."""
    from infra.kafka import why_silent

    if (why := why_silent(addresses.kafka_client(settings), timeout_seconds=_BROKER_SECONDS)) is not None:
        raise OperatorError(
            f"no Kafka broker answers at {addresses.bootstrap(settings)} ({why}): start it (`fleetpulse kafka`), set "
            "kafka.bootstrap to one that runs, or mend kafka.client"
        )
    return _client(settings)


def _client(settings: Settings) -> dict[str, Any]:
    """A librdkafka configuration whose own messages come in our line format."""
    return {**addresses.kafka_client(settings), "logger": logging.getLogger("librdkafka")}


def _folder(settings: Settings, name: str) -> Path:
    folder = settings.data_dir.absolute() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OperatorError(
            f"{folder} cannot be made: {error.strerror}; choose a data directory that can be written with --data-dir"
        ) from error
    return folder
