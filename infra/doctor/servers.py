"""What this machine has room for, and the servers: Java, ports, processes, Kafka's topics, ClickHouse's tables."""

from __future__ import annotations

import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from infra import addresses
from infra.doctor.finding import Check, Finding, Verdict
from infra.errors import OperatorError
from infra.presence import Presence, ask, is_healthy, present
from infra.settings import Settings

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

_GIB = 2**30
_LEAST_FREE_BYTES = 2 * _GIB
_LEAST_MEMORY_BYTES = 2 * _GIB


def python(_: Settings) -> Iterator[Finding]:
    """The interpreter."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(Verdict.GOOD, "Python", f"{version}, {sys.executable}")


def data_dir(settings: Settings) -> Iterator[Finding]:
    """Whether the data directory can be written, and the room on its disk."""
    folder = settings.data_dir.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield Finding(
            Verdict.BROKEN,
            "data directory",
            f"{folder}: {error.strerror}",
            "choose one that you may write: --data-dir, or FLEETPULSE_DATA_DIR",
        )
        return
    free = shutil.disk_usage(folder).free
    room = f"{folder}, {free / _GIB:.1f} GiB free"
    if free < _LEAST_FREE_BYTES:
        yield Finding(Verdict.BROKEN, "data directory", room, "the embedded servers need 2 GiB; make room")
    else:
        yield Finding(Verdict.GOOD, "data directory", room)


def memory(settings: Settings) -> Iterator[Finding]:
    """Whether the embedded servers fit."""
    import psutil

    if settings.kafka.bootstrap and settings.clickhouse.host:
        return
    free = psutil.virtual_memory().available
    if free < _LEAST_MEMORY_BYTES:
        yield Finding(
            Verdict.BROKEN,
            "memory",
            f"{free / _GIB:.1f} GiB available",
            "the embedded servers need about 2 GiB; end something, or set kafka.bootstrap and clickhouse.host",
        )
    else:
        yield Finding(Verdict.GOOD, "memory", f"{free / _GIB:.1f} GiB available")


def java(settings: Settings) -> Iterator[Finding]:
    """What the embedded Kafka needs."""
    if settings.kafka.bootstrap:
        return
    from infra.kafka import KAFKA_VERSION, java_runtime, kafka_jars

    try:
        runtime = java_runtime()
        yield Finding(Verdict.GOOD, "Java", runtime)
    except OperatorError as error:
        yield Finding(Verdict.BROKEN, "Java", "not there", str(error))
        return
    try:
        count = len(kafka_jars(addresses.kafka_dir(settings)))
        yield Finding(Verdict.GOOD, "Kafka's jars", f"{count} of Apache Kafka {KAFKA_VERSION}")
    except OperatorError as error:
        yield Finding(Verdict.BROKEN, "Kafka's jars", "not there", str(error))


def processes(settings: Settings) -> Iterator[Finding]:
    """What runs on the data directory."""
    here = present(settings.data_dir.absolute())
    if not here:
        yield Finding(Verdict.NOTE, "processes", "none runs on this data directory", "`fleetpulse up` starts them")
    if "up" in here:
        yield from _restarts(here["up"], set(here))
    for name, one in here.items():
        where = f"process {one.pid}, http://{one.host}:{one.port}/metrics"
        if is_healthy(one):
            yield Finding(Verdict.GOOD, name, where)
        else:
            yield Finding(
                Verdict.BROKEN, name, where, f"its main loop does not answer; see http://{one.host}:{one.port}/healthz"
            )


def _restarts(supervisor: Presence, here: set[str]) -> Iterator[Finding]:
    """What the supervisor says of its processes: one that dies again and again is absent most of the time."""
    from prometheus_client.parser import text_string_to_metric_families

    page = ask(supervisor, "/metrics")[1].decode()
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name != "fleetpulse_process_restarts_total" or not sample.value:
                continue
            name, times = sample.labels["process"], f"died and was started again {sample.value:.0f} times"
            if name in here:
                yield Finding(Verdict.NOTE, name, times, "what `fleetpulse up` logged says why")
            else:
                yield Finding(Verdict.BROKEN, name, f"{times}, and is away now", "what `fleetpulse up` logged says why")


def ports(settings: Settings) -> Iterator[Finding]:
    """Whether chosen ports of what we would start are free."""
    here = present(settings.data_dir.absolute())
    wanted = []
    if settings.kafka.bootstrap is None and settings.kafka.port and "kafka" not in here:
        wanted.append(("kafka.port", settings.kafka.port))
    if settings.clickhouse.host is None and settings.clickhouse.port and "clickhouse" not in here:
        wanted.append(("clickhouse.port", settings.clickhouse.port))
    wanted += [(f"observe.ports.{name}", port) for name, port in settings.observe.ports.items() if name not in here]
    for key, port in wanted:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                yield Finding(Verdict.GOOD, key, f"port {port} is free")
            except OSError as error:
                mend = f"port {port} cannot be had ({error.strerror}); end what uses it, or set another {key}"
                yield Finding(Verdict.BROKEN, key, f"port {port}", mend)


def kafka(settings: Settings) -> Iterator[Finding]:
    """Whether Kafka answers and has the topics."""
    from infra.kafka import why_silent
    from infra.topics import inspect, wanted

    given = settings.kafka.bootstrap
    if not given and "kafka" not in present(settings.data_dir.absolute()):
        yield Finding(Verdict.NOTE, "Kafka", "the embedded one is not running", "`fleetpulse up` starts it")
        return
    where = addresses.bootstrap(settings)
    if (why := why_silent(addresses.kafka_client(settings), timeout_seconds=5)) is not None:
        mend = "check kafka.bootstrap and kafka.client, and that the broker can be reached from here"
        yield Finding(Verdict.BROKEN, "Kafka", f"{where} does not answer: {why}", mend if given else "see its log")
        return
    yield Finding(Verdict.GOOD, "Kafka", where)
    part = settings.kafka
    try:
        state = inspect(addresses.kafka_client(settings), wanted(part.partitions, part.retention_hours))
    except OperatorError as error:
        yield Finding(Verdict.BROKEN, "topics", "could not be read", str(error))
        return
    if state.missing:
        missing = ", ".join(state.missing)
        yield Finding(Verdict.BROKEN, "topics", f"missing: {missing}", "`fleetpulse topics` creates them")
    else:
        yield Finding(Verdict.GOOD, "topics", f"{len(state.present)} are there")
    for drift in state.drift:
        yield Finding(
            Verdict.NOTE, "topics", str(drift), "nothing is changed for you; kafka-configs or kafka-topics do it"
        )


def clickhouse(settings: Settings) -> Iterator[Finding]:
    """Whether ClickHouse answers both logins and has the tables."""
    given = settings.clickhouse.host
    if not given and "clickhouse" not in present(settings.data_dir.absolute()):
        yield Finding(Verdict.NOTE, "ClickHouse", "the embedded one is not running", "`fleetpulse up` starts it")
        return
    where = addresses.clickhouse(settings)
    try:
        client = addresses.writer(settings)()
    except Exception as error:  # noqa: BLE001 - clickhouse-connect raises its own and the network's
        said = str(error).strip().splitlines()[0][:200]
        mend = "check clickhouse.host, port, username and password_file" if given else "see what `fleetpulse up` logs"
        yield Finding(Verdict.BROKEN, "ClickHouse", f"{where.host}:{where.port}: {said}", mend)
        return
    with client:
        yield Finding(Verdict.GOOD, "ClickHouse", f"{where.host}:{where.port}, version {client.server_version}")
        yield from _migrations(client, settings.clickhouse.database)
    try:
        with addresses.analyst(settings)():
            yield Finding(Verdict.GOOD, "analyst login", settings.clickhouse.analyst_username)
    except Exception as error:  # noqa: BLE001 - as above
        said = str(error).strip().splitlines()[0][:200]
        yield Finding(
            Verdict.BROKEN, "analyst login", said, "`fleetpulse sql` needs it: clickhouse.analyst_username, _password"
        )


def _migrations(client: Client, database: str) -> Iterator[Finding]:
    from clickhouse_connect.driver.exceptions import Error

    from sinks.clickhouse.migrate import migrations

    wanted = {migration.version for migration in migrations()}
    mend = "`fleetpulse migrate` brings them up to date"
    try:
        rows = client.query(f"SELECT DISTINCT version FROM {database}.schema_migrations").result_rows  # noqa: S608
    except Error:
        yield Finding(Verdict.BROKEN, "tables", f"database {database} has none of ours", mend)
        return
    missing = wanted - {int(version) for (version,) in rows}
    if missing:
        yield Finding(Verdict.BROKEN, "tables", f"{len(missing)} of {len(wanted)} migrations are missing", mend)
    else:
        yield Finding(Verdict.GOOD, "tables", f"database {database}, all {len(wanted)} migrations")


CHECKS: tuple[Check, ...] = (python, data_dir, memory, java, ports, processes, kafka, clickhouse)
