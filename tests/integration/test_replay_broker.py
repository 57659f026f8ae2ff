"""The same log through a broker and without one comes to the same incidents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infra.cli import app
from infra.kafka import EmbeddedKafka
from infra.topics import provision, wanted
from schemas.records import HardwareEvent, InventoryRecord
from schemas.topics import EVENTS, INVENTORY
from streams.settings import StreamsSettings
from tests.replay_scenes import INVENTORY as RACK
from tests.replay_scenes import as_text, rack_log
from tests.streams_processes import Kafka, WorkerProcess

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]

BY_THE_CLOCK = {"state", "cleared_ms"}
"""What only quiet ends stands on where the clock is the wall's."""


@pytest.fixture
def kafka(fresh_kafka: EmbeddedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kafka]:
    """A broker with a stream worker on it, and `fleetpulse` set up for it."""
    provision({"bootstrap.servers": fresh_kafka.bootstrap}, wanted())
    monkeypatch.setenv("FLEETPULSE_KAFKA__BOOTSTRAP", fresh_kafka.bootstrap)
    monkeypatch.chdir(tmp_path)
    with WorkerProcess(fresh_kafka.bootstrap, tmp_path / "worker", StreamsSettings()):
        yield Kafka(fresh_kafka.bootstrap)


def replay(*arguments: str | Path) -> list[dict[str, Any]]:
    done = CliRunner().invoke(app, ["replay", *map(str, arguments), "--incidents", "-"])
    assert done.exit_code == 0, done.stderr
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    return [{name: value for name, value in one.items() if name not in BY_THE_CLOCK} for one in objects]


def test_a_log_of_many_nodes_and_a_real_kernel_log_come_to_the_same_both_ways(
    kafka: Kafka, tmp_path: Path, shared_data: Path
) -> None:
    (tmp_path / "fleet.yaml").write_text(RACK)
    (tmp_path / "events.jsonl").write_text(as_text(rack_log()))
    log = ("events", tmp_path / "events.jsonl", "--inventory", tmp_path / "fleet.yaml")
    through = replay(*log, "--broker")
    assert len(through) == 5
    assert through == replay(*log, "--no-broker")
    assert len(kafka.records(EVENTS, HardwareEvent)) == len(rack_log())
    told = {one.component for one in kafka.records(INVENTORY, InventoryRecord)}
    assert {"node:tray-1", "node:box-3", "nvlink_domain:nvl-dense"} <= told

    capture = ("kernel-log", shared_data / "kernel_log" / "gpud_dmesg-with-xid-119.log", "--node", "gpu-17")
    (incident,) = replay(*capture, "--broker")
    assert replay(*capture, "--no-broker") == [incident]
    assert (incident["root"]["gpu"], incident["root"]["code"], incident["pages"]) == ("1650124014249", 119, 1)
    # sent once more it is the same log
    assert replay(*capture, "--broker") == [incident]
