"""A Kafka that asks for TLS and a login: clients get in with `kafka.client`, and say so where they cannot."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from infra.kafka import BrokerLimits, EmbeddedKafka, why_silent
from infra.ports import free_port
from infra.topics import provision, wanted
from schemas.codec import SingleObjectCodec
from schemas.records import Fault
from schemas.topics import EVENTS, FAULTS
from streams.settings import StreamsSettings
from tests.streams_processes import Kafka, WorkerProcess, wait_until
from tests.streams_scenes import event

pytestmark = pytest.mark.integration

USER, PASSWORD = "fleet", "in and out"


class Guarded(EmbeddedKafka):
    """The broker, with one more listener: TLS, and a login by name and password."""

    def __init__(self, folder: Path, certificate: Path) -> None:
        super().__init__(folder, limits=BrokerLimits(brief=True))
        self._certificate = certificate
        self.guarded = f"127.0.0.1:{free_port()}"

    def _write_settings(self, identity: Any) -> Path:
        path = super()._write_settings(identity)
        module = "org.apache.kafka.common.security.plain.PlainLoginModule"
        lines = [
            line + (f",GUARDED://{self.guarded}" if line.startswith("listeners=") else "")
            + (",GUARDED:SASL_SSL" if line.startswith("listener.security.protocol.map=") else "")
            for line in path.read_text().splitlines()
        ]  # fmt: skip
        its = {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self._certificate,
            "sasl.enabled.mechanisms": "PLAIN",
            "plain.sasl.jaas.config": f'{module} required user_{USER}="{PASSWORD}";',
        }
        lines += [f"listener.name.guarded.{key}={value}" for key, value in its.items()]
        path.write_text("\n".join(lines) + "\n")
        return path


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 with its key, signed by itself."""
    folder = tmp_path_factory.mktemp("tls")
    words = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", str(folder / "key.pem")]
    names = ["-out", str(folder / "ca.pem"), "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", "req", *words, *names], check=True, capture_output=True)
    (folder / "both.pem").write_text((folder / "key.pem").read_text() + (folder / "ca.pem").read_text())
    return folder / "ca.pem"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, authority: Path) -> Iterator[Guarded]:
    with Guarded(tmp_path_factory.mktemp("kafka"), authority.with_name("both.pem")) as broker:
        yield broker


def client(broker: Guarded, authority: Path, **changes: str) -> dict[str, str]:
    return {
        "bootstrap.servers": broker.guarded,
        "security.protocol": "sasl_ssl",
        "sasl.mechanism": "PLAIN",
        "sasl.username": USER,
        "sasl.password": PASSWORD,
        "ssl.ca.location": str(authority),
    } | changes


def test_a_stream_worker_reads_and_writes_behind_a_login(guarded: Guarded, authority: Path, tmp_path: Path) -> None:
    given = client(guarded, authority)
    provision(given, wanted())
    producer = Producer(given)
    lost = event(code=79)
    producer.produce(EVENTS, key=lost.rack, value=SingleObjectCodec().encode(lost))
    assert producer.flush(30) == 0
    inside = Kafka(guarded.bootstrap)
    with WorkerProcess(guarded.guarded, tmp_path / "worker", StreamsSettings(), given) as worker:
        found = wait_until(lambda: inside.records(FAULTS, Fault), "the event is a fault")
        assert found[0].fault_class == "gpu_lost"
        assert worker.stop() == 0, worker.said()
    assert PASSWORD not in worker.said()


def test_a_wrong_password_is_said(guarded: Guarded, authority: Path, tmp_path: Path) -> None:
    given = client(guarded, authority, **{"sasl.password": "wrong"})
    assert "Authentication failed" in (why_silent(given, timeout_seconds=5) or "")
    with WorkerProcess(guarded.guarded, tmp_path / "worker", StreamsSettings(), given) as worker:
        wait_until(lambda: not worker.runs, "the worker gives up")
        assert "Authentication failed" in worker.said()


def test_an_authority_that_did_not_sign_the_broker_is_said(guarded: Guarded, tmp_path: Path) -> None:
    given = {key: value for key, value in client(guarded, tmp_path).items() if key != "ssl.ca.location"}
    assert "certificate verify failed" in (why_silent(given, timeout_seconds=5) or "")
