"""The inventory on real Kafka: a file is loaded and shown; a worker tells what moved, and another goes on after it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from infra.cli import app
from infra.errors import OperatorError
from infra.kafka import EmbeddedKafka
from infra.topics import provision, wanted
from schemas.records import HardwareEvent, InventoryRecord
from schemas.topics import EVENTS, INVENTORY, STREAMS_STATE
from streams.settings import StreamsSettings
from tests.streams_processes import CODEC, Kafka, WorkerProcess, wait_until
from tests.streams_scenes import START_MS

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

FLEET = """\
site: hall-a
racks:
- {name: r1, nodes: 'n[1-2]', slots: [1, 9], leaf_switches: l1, leaf_switch: l1, pdus: p1, pdu: p1}
- {name: r2, nodes: n3, slots: 1}
nodes:
- {name: n1, gpus: [S1, S2]}
"""


@pytest.fixture
def kafka(fresh_kafka: EmbeddedKafka) -> Kafka:
    """A broker of one's own with the contract's topics, empty."""
    provision({"bootstrap.servers": fresh_kafka.bootstrap}, wanted())
    return Kafka(fresh_kafka.bootstrap)


def found(serial: str, node: str, rack: str, minute: int) -> InventoryRecord:
    return InventoryRecord(
        component=f"gpu:{serial}",
        kind="gpu",
        site="hall-a",
        rack=rack,
        node=node,
        gpu_serial=serial,
        source="discovered",
        seen_ms=START_MS + minute * 60_000,
    )


def fleetpulse(kafka: Kafka, *arguments: str) -> str:
    done = CliRunner().invoke(
        app,
        ["inventory", *arguments],
        env={"FLEETPULSE_KAFKA__BOOTSTRAP": kafka.bootstrap},
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_file_is_loaded_shown_and_what_moves_is_told_once_whoever_lives(kafka: Kafka, tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(FLEET)
    dry = fleetpulse(kafka, "load", str(file), "--dry-run")
    assert "9 added, 0 changed, 0 removed; nothing was sent" in dry
    assert not kafka.messages(INVENTORY)
    assert "9 added, 0 changed, 0 removed; sent to" in fleetpulse(kafka, "load", str(file))
    assert "there was nothing to send" in fleetpulse(kafka, "load", str(file))
    file.write_text(FLEET.replace("slots: 1}", "slots: 2}").replace("[S1, S2]", "[S1]"))
    assert "0 added, 1 changed, 1 removed; sent" in fleetpulse(kafka, "load", str(file))
    kept = {one.key(): CODEC.decode(one.value(), InventoryRecord) for one in kafka.messages(INVENTORY)}
    assert len(kept) == 9, "what compaction would leave"
    assert {key for key, record in kept.items() if record.removed} == {b"gpu:S2|declared"}

    kafka.send(INVENTORY, [("gpu:S1", found("S1", "n1", "r1", 0)), ("gpu:S7", found("S7", "n2", "r1", 0))])
    shown = fleetpulse(kafka, "show", "--node", "n1")
    assert "node:n1" in shown
    assert "agree" in shown
    assert "gpu:S7" not in shown
    assert "discovered, not declared" in fleetpulse(kafka, "show", "--gpu", "S7")
    assert "declared, not discovered" in fleetpulse(kafka, "show", "--rack", "r2")
    assert "hall-a  r1" in fleetpulse(kafka, "show")
    with pytest.raises(OperatorError, match="knows no GPU S9"):
        fleetpulse(kafka, "show", "--gpu", "S9")

    settings = StreamsSettings()
    moved = [("gpu_moved", "S7"), ("inventory_contradiction", "S1")]
    kafka.send(INVENTORY, [("gpu:S7", found("S7", "n3", "r2", 60)), ("gpu:S1", found("S1", "n2", "r1", 60))])
    with WorkerProcess(kafka.bootstrap, tmp_path / "first", settings) as worker:
        expected = Counter([*moved, ("gpu_moved", "S1")])
        wait_until(lambda: told(kafka) == expected, "moves and the contradiction are told")
        wait_until(lambda: b"inventory|0" in {one.key() for one in kafka.messages(STREAMS_STATE)}, "it is remembered")
        worker.kill()
    again = found("S7", "n1", "r1", 120)
    kafka.send(INVENTORY, [("gpu:S7", again), ("gpu:S7", replace(again, seen_ms=again.seen_ms + 600_000))])
    with (
        WorkerProcess(kafka.bootstrap, tmp_path / "second", settings) as second,
        WorkerProcess(kafka.bootstrap, tmp_path / "third", settings) as third,
    ):
        expected += Counter([("gpu_moved", "S7")])
        wait_until(lambda: told(kafka) == expected, "the next move is told, and what was told before is not")
        assert second.runs
        assert third.runs
        events = {one.event_id: one for one in kafka.records(EVENTS, HardwareEvent)}
        assert len(events) == 4
        assert {one.key(): CODEC.decode(one.value(), HardwareEvent).rack for one in kafka.messages(EVENTS)} == {
            b"r1": "r1",
            b"r2": "r2",
        }
        for process in (second, third):
            assert "Traceback" not in process.said()


def told(kafka: Kafka) -> Counter[tuple[str, str | None]]:
    return Counter((one.kind, one.gpu) for one in kafka.records(EVENTS, HardwareEvent))
