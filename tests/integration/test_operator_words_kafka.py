"""An operator's commands on real Kafka: what they say reaches the faults, whoever of the workers lives."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from infra.cli import app
from infra.commands.fault import _open_faults
from infra.errors import MisuseError, OperatorError
from infra.kafka import EmbeddedKafka
from infra.settings import ClickHouseSettings, Settings
from infra.topics import provision, wanted
from schemas.records import Anomaly, Fault, HardwareEvent
from schemas.topics import ANOMALIES, EVENTS, FAULTS, INVENTORY
from streams.settings import StreamsSettings
from tests.sinks_database import connected, migrated
from tests.streams_processes import Kafka, WorkerProcess, wait_until
from tests.streams_scenes import anomaly, fault, in_inventory

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


def fleetpulse(kafka: Kafka, data_dir: Path, *arguments: str) -> str:
    done = CliRunner().invoke(
        app,
        ["--data-dir", str(data_dir), *arguments],
        env={"FLEETPULSE_KAFKA__BOOTSTRAP": kafka.bootstrap},
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    (line,) = done.stdout.splitlines()
    return line


def silent(node: str, rack: str) -> Anomaly:
    now_ms = time.time_ns() // 1_000_000
    found = anomaly("node_silent", gpu=None, node=node, rack=rack)
    return replace(found, begin_ms=now_ms - 5000, tick_ms=now_ms)


def newest(kafka: Kafka) -> dict[str, Fault]:
    """By component and class."""
    found: dict[str, Fault] = {}
    for one in kafka.records(FAULTS, Fault):
        key = f"{one.component}|{one.fault_class}"
        if key not in found or found[key].revision < one.revision:
            found[key] = one
    return found


def test_the_history_knows_which_open_faults_are_meant_and_where_they_are(clickhouse: Any) -> None:
    with connected(clickhouse) as client, migrated(client) as database:
        part = ClickHouseSettings(
            host=clickhouse.host,
            port=clickhouse.port,
            database=database.name,
            analyst_username=clickhouse.username,
            analyst_password=clickhouse.password,
        )
        settings = Settings(clickhouse=part)
        lost = fault("gpu_lost", 79, gpu="S1", rack="r7", fault_id="aa11bb" + "0" * 26)
        silent_gpu = fault("gpu_silent", gpu="S1", rack="r7", fault_id="aa11bb" + "1" * 26)
        over = fault("thermal", gpu="S1", rack="r7", fault_id="cc" * 16)
        database.insert(lost, silent_gpu, over, replace(over, revision=2, state="cleared", cleared_ms=over.last_ms))

        def meant(component: str = "", fault_id: str = "", fault_class: str | None = None) -> list[tuple[str, str]]:
            targets = _open_faults(settings, component, fault_id, fault_class)
            assert {target.place for target in targets} == {("hall-a", "r7")}
            return sorted((target.fault_id, target.fault_class) for target in targets)

        both = [(lost.fault_id, "gpu_lost"), (silent_gpu.fault_id, "gpu_silent")]
        assert meant(component="gpu:S1") == both
        assert meant(component="gpu:S1", fault_class="gpu_lost") == both[:1]
        assert meant(fault_id="aa11bb0") == both[:1]
        with pytest.raises(MisuseError, match="2 open faults begin with aa11bb: .*gpu_lost of gpu:S1.*more of the id"):
            meant(fault_id="aa11bb")
        with pytest.raises(OperatorError, match="no open fault cccccc; the last one .thermal of gpu:S1. is over"):
            meant(fault_id="cccccc")
        with pytest.raises(OperatorError, match="no open fault node:n9 "):
            meant(component="node:n9")
        with pytest.raises(MisuseError, match="too short"):
            meant(fault_id="aa")


def test_words_reach_the_faults_of_every_rack_and_survive_the_worker_that_heard_them(
    fresh_kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    provision({"bootstrap.servers": fresh_kafka.bootstrap}, wanted())
    kafka = Kafka(fresh_kafka.bootstrap)
    nodes = {"n1": "r1", "n2": "r2"}
    for node, rack in nodes.items():
        kafka.send(INVENTORY, [(f"node:{node}|declared", in_inventory(f"node:{node}", node=node, rack=rack, pdu="p1"))])

    said = fleetpulse(
        kafka, tmp_path, "maintenance", "announce", "pdu:p1", "--until", "+1h", "--reason", "breakers", "--by", "ann"
    )
    assert said.startswith("announced to racks r1, r2: pdu:p1 from ")
    assert {(one.rack, one.source) for one in kafka.records(EVENTS, HardwareEvent)} == {
        ("r1", "operator"), ("r2", "operator"),
    }  # fmt: skip

    def is_explained() -> bool:
        faults = newest(kafka)
        work = faults.get("pdu:p1|maintenance")
        quiet = [faults.get(f"node:{node}|node_silent") for node in nodes]
        return work is not None and all(
            fault is not None and (fault.severity, fault.maintenance) == ("info", work.fault_id) for fault in quiet
        )

    with WorkerProcess(kafka.bootstrap, tmp_path / "first", StreamsSettings()) as first:
        kafka.send(ANOMALIES, [(rack, silent(node, rack)) for node, rack in nodes.items()])
        wait_until(is_explained, "the silence of both racks is explained by the one announced work")
        # no history is there to be asked, so the component is what is said
        said = fleetpulse(kafka, tmp_path, "fault", "ack", "node:n1", "--by", "bob", "--note", "watching it")
        assert said == "acknowledged: all of node:n1 (rack r1), by bob"
        wait_until(lambda: newest(kafka)["node:n1|node_silent"].acknowledged_by == "bob", "it is acknowledged")
        first.kill()
    assert newest(kafka)["node:n2|node_silent"].acknowledged_by is None
    assert "Traceback" not in first.said()

    until_ms = newest(kafka)["node:n2|node_silent"].snoozed_until_ms
    fleetpulse(kafka, tmp_path, "fault", "end", "node:n1", "--by", "bob", "--note", "back")
    assert fleetpulse(kafka, tmp_path, "maintenance", "end", "pdu:p1", "--by", "ann") == (
        "told racks r1, r2: work on pdu:p1 is over, says ann"
    )
    with WorkerProcess(kafka.bootstrap, tmp_path / "second", StreamsSettings()) as second:
        wait_until(lambda: newest(kafka)["pdu:p1|maintenance"].state == "cleared", "the work is over")
        wait_until(lambda: newest(kafka)["node:n1|node_silent"].state == "cleared", "the fault was ended")
        assert newest(kafka)["node:n1|node_silent"].reason.endswith(". Ended by bob: back")
        wait_until(
            lambda: (newest(kafka)["node:n2|node_silent"].snoozed_until_ms or 0) < (until_ms or 0),
            "what is still silent waits a quarter of an hour more, and not the whole hour",
        )
        assert "Traceback" not in second.said()
    by_revision: dict[tuple[str, int], set[tuple[str, str, str]]] = {}
    for one in kafka.records(FAULTS, Fault):
        told = (one.state, one.severity, one.reason)
        by_revision.setdefault((one.fault_id, one.revision), set()).add(told)
    assert all(len(told) == 1 for told in by_revision.values()), "two workers write one revision alike"
