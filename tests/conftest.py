"""The real parts that tests run against: given ones, containers, or this machine's own (the default).

- `FLEETPULSE_TEST_KAFKA=host:port` and `FLEETPULSE_TEST_CLICKHOUSE=http://user:password@host:port` use what is there.
- `pytest --containers` starts both in containers, where Docker is; without Docker it says so and skips.
- Otherwise both are the embedded ones, started once per run, when the first test asks for them.
"""

from __future__ import annotations

import logging
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import structlog
from hypothesis import settings

ROOT = Path(__file__).parent.parent

# a time limit for each example would fail tests on a busy machine, and say nothing about the code
settings.register_profile("fleetpulse", deadline=None)
settings.load_profile("fleetpulse")


@dataclass(frozen=True, slots=True)
class KafkaUnderTest:
    """A broker for tests."""

    bootstrap: str

    @property
    def client(self) -> dict[str, str]:
        """The librdkafka configuration that reaches it."""
        return {"bootstrap.servers": self.bootstrap}


@dataclass(frozen=True, slots=True)
class ClickHouseUnderTest:
    """A ClickHouse for tests, with a login that may do everything."""

    host: str
    port: int
    username: str
    password: str


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--containers", action="store_true", help="run against Kafka and ClickHouse in containers")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first: what is broken in the core says so before a broker starts."""
    order = ("unit", "property", "integration", "quality", "benchmarks", "e2e")
    level = {name: place for place, name in enumerate(order)}
    items.sort(key=lambda item: level.get(item.path.relative_to(ROOT / "tests").parts[0], 0))


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A command that is run inside a test sets logging up for its process, which is that of all other tests too."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def _docker(request: pytest.FixtureRequest) -> bool:
    """Whether containers were asked for. Skips where they were and Docker is not there."""
    if not request.config.getoption("--containers"):
        return False
    try:
        found = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=20, check=False)
        why = found.stderr.strip().splitlines()[-1] if found.returncode and found.stderr.strip() else ""
        ready = found.returncode == 0
    except (OSError, subprocess.TimeoutExpired) as error:
        ready, why = False, str(error)
    if not ready:
        pytest.skip(f"--containers needs Docker, which is not reachable here ({why})")
    return True


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaUnderTest]:
    """One Kafka broker for the whole run; its topics are those that tests make."""
    if given := os.environ.get("FLEETPULSE_TEST_KAFKA"):
        yield KafkaUnderTest(given)
    elif _docker(request):
        from testcontainers.community.kafka import KafkaContainer

        container = KafkaContainer("confluentinc/cp-kafka:7.6.0").with_kraft()
        with container as started:
            yield KafkaUnderTest(started.get_bootstrap_server())
    else:
        from infra.kafka import BrokerLimits, EmbeddedKafka

        with EmbeddedKafka(tmp_path_factory.mktemp("kafka"), limits=BrokerLimits(brief=True)) as broker:
            yield KafkaUnderTest(broker.bootstrap)


@pytest.fixture
def fresh_kafka(tmp_path: Path) -> Iterator[object]:
    """A broker of one's own (`infra.kafka.EmbeddedKafka`, started), to be killed, stopped and started again."""
    from infra.kafka import BrokerLimits, EmbeddedKafka

    with EmbeddedKafka(tmp_path / "kafka", limits=BrokerLimits(brief=True)) as broker:
        yield broker


@pytest.fixture(scope="session")
def topics(kafka: KafkaUnderTest) -> dict[str, object]:
    """The contract's topics, present on the session's broker: name to `schemas.topics.Topic`."""
    from infra.topics import provision, wanted

    listed = wanted()
    provision(kafka.client, listed)
    return dict(listed)


@pytest.fixture
def unique() -> str:
    """A short word no other test has: for group ids, database names, racks, topics."""
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture
def new_topic(kafka: KafkaUnderTest, unique: str) -> Callable[..., str]:
    """`new_topic("samples", partitions=2)` makes a topic on the session's broker and returns its unique name."""
    from confluent_kafka.admin import AdminClient, NewTopic

    def make(name: str, partitions: int = 1, **config: str) -> str:
        topic = f"{unique}.{name}"
        order = NewTopic(topic, partitions, 1, config={key.replace("_", "."): value for key, value in config.items()})
        admin = AdminClient(kafka.client)  # kept by name: its orders end with it
        admin.create_topics([order])[topic].result(30)
        return topic

    return make


@pytest.fixture(scope="session")
def clickhouse(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClickHouseUnderTest]:
    """One ClickHouse for the whole run; tests make databases of their own in it."""
    if given := os.environ.get("FLEETPULSE_TEST_CLICKHOUSE"):
        url = urlsplit(given if "//" in given else f"http://{given}")
        if not url.hostname:
            pytest.fail(
                f"FLEETPULSE_TEST_CLICKHOUSE is {given!r}: expected host:port or http://user:password@host:port"
            )
        yield ClickHouseUnderTest(url.hostname, url.port or 8123, url.username or "default", url.password or "")
    elif _docker(request):
        from testcontainers.community.clickhouse import ClickHouseContainer

        container = ClickHouseContainer("clickhouse/clickhouse-server:25.8", username="test", password="test")
        with container as started:
            port = int(started.get_exposed_port(8123))
            yield ClickHouseUnderTest(started.get_container_host_ip(), port, "test", "test")
    else:
        from infra.clickhouse.launch import launched

        with launched(tmp_path_factory.mktemp("clickhouse")) as server:
            yield ClickHouseUnderTest(server.host, server.port, server.username, server.password)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real captures that lies beside a working copy; skips where it is not."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"real captures are not on this machine ({path} is not there)")
    return path
