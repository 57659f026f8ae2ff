"""Where Kafka and ClickHouse are for this installation, and how to log in: yours where set, else the embedded ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from infra.errors import OperatorError
from infra.kafka import BROKER_FILE
from infra.settings import ClickHouseSettings, Settings

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

DEFAULT_HTTP_PORT = 8123


class _Broker(msgspec.Struct):
    port: int


class Address(msgspec.Struct, frozen=True):
    """Where a server listens."""

    host: str
    port: int


def kafka_dir(settings: Settings) -> Path:
    """Where the embedded Kafka keeps its data."""
    return settings.data_dir.absolute() / "kafka"


def clickhouse_dir(settings: Settings) -> Path:
    """Where the embedded ClickHouse keeps its data."""
    return settings.data_dir.absolute() / "clickhouse"


def bootstrap(settings: Settings) -> str:
    """`host:port,…` of Kafka. Raises `OperatorError` where none is set and none was ever started here.

    The embedded broker keeps its port, so its address is right also while it is being started again.
    """
    if settings.kafka.bootstrap:
        return settings.kafka.bootstrap
    kept = kafka_dir(settings) / BROKER_FILE
    try:
        return f"127.0.0.1:{msgspec.json.decode(kept.read_bytes(), type=_Broker).port}"
    except (OSError, msgspec.DecodeError) as error:
        raise OperatorError(
            f"there is no Kafka: kafka.bootstrap is not set and no embedded one was started in {settings.data_dir}; "
            "run `fleetpulse up` (or `fleetpulse kafka`), or set FLEETPULSE_KAFKA__BOOTSTRAP"
        ) from error


def kafka_client(settings: Settings) -> dict[str, Any]:
    """A librdkafka client configuration that reaches Kafka."""
    return {**settings.kafka.client, "bootstrap.servers": bootstrap(settings)}


def clickhouse(settings: Settings) -> Address:
    """Where ClickHouse's HTTP interface is. Raises `OperatorError` as `bootstrap` does."""
    if settings.clickhouse.host:
        return Address(settings.clickhouse.host, settings.clickhouse.port or DEFAULT_HTTP_PORT)
    try:
        return msgspec.json.decode(_address_file(settings).read_bytes(), type=Address)
    except (OSError, msgspec.DecodeError) as error:
        raise OperatorError(
            f"there is no ClickHouse: clickhouse.host is not set and no embedded one was started in "
            f"{settings.data_dir}; run `fleetpulse up` (or `fleetpulse clickhouse`), or set FLEETPULSE_CLICKHOUSE__HOST"
        ) from error


def kept_clickhouse_port(settings: Settings) -> int | None:
    """The port that the embedded ClickHouse had when it last ran here."""
    try:
        return msgspec.json.decode(_address_file(settings).read_bytes(), type=Address).port
    except (OSError, msgspec.DecodeError):
        return None


def keep_clickhouse(settings: Settings, address: Address) -> None:
    """Remember where the embedded ClickHouse listens, for a restart and for its clients."""
    path = _address_file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_bytes(msgspec.json.encode(address))
    temporary.replace(path)


def _address_file(settings: Settings) -> Path:
    return settings.data_dir.absolute() / "clickhouse.json"


def writer(settings: Settings) -> Callable[[], Client]:
    """A function that logs in to write; it raises what clickhouse-connect raises."""
    here = clickhouse(settings)
    return lambda: _client(settings.clickhouse, here, settings.clickhouse.username, _writer_password(settings))


def analyst(settings: Settings) -> Callable[[], Client]:
    """A function that logs in to read."""
    here, part = clickhouse(settings), settings.clickhouse
    password = part.analyst_password.get_secret_value() if part.analyst_password else ""
    return lambda: _client(part, here, part.analyst_username, password, database=part.database)


def _client(
    part: ClickHouseSettings, here: Address, username: str, password: str, *, database: str = "default"
) -> Client:
    import clickhouse_connect

    return clickhouse_connect.get_client(
        host=here.host,
        port=here.port,
        username=username,
        password=password,
        database=database,
        secure=part.secure,
        # our own statements of one client run one after the other; a session id would make the server hold one
        autogenerate_session_id=False,
    )


def _writer_password(settings: Settings) -> str:
    part = settings.clickhouse
    if part.password is not None:
        return part.password.get_secret_value()
    path = part.password_file
    if path is None and part.host is None:
        path = clickhouse_dir(settings) / "writer.password"
    if path is None:
        return ""
    try:
        return path.read_text().strip()
    except OSError as error:
        raise OperatorError(f"ClickHouse's password file {path} cannot be read: {error.strerror}") from error
