"""`fleetpulse inventory check`, and what a load would change."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from msgspec.structs import replace

from producers.inventory import parse
from producers.inventory.compare import changes, key_of, standing
from schemas.records import InventoryRecord

ROOT = Path(__file__).parents[2]
FLEET = "site: a\nracks:\n- {name: r1, nodes: 'n[1-2]', slots: [1, 2], pdus: p1, pdu: p1}\n"


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "infra.cli", "inventory", *arguments],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "HOME": str(cwd), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def records(text: str = FLEET) -> list[InventoryRecord]:
    return parse(text.encode(), "f.yaml").records(1000)


def test_a_sound_file_is_summed_up(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text(FLEET)
    done = run("check", "fleet.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "fleet.yaml: 1 site, 1 rack, 2 nodes, 1 PDU; 0 GPUs by serial",
        "  a: 1 rack, 2 nodes, 0 GPUs",
    ]


def test_every_error_of_a_file_is_printed_with_its_line_and_the_exit_is_1(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text("site: a\nracks:\n- {nam: r1}\n- {name: r2, pdu: p, nodes: n}\n")
    done = run("check", "fleet.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        'fleet.yaml:3: a rack has no key "nam"; did you mean "name"?',
        'fleet.yaml:4: node n hangs on pdu "p", which is not declared; declare it under `pdus:`',
        "fleetpulse inventory: fleet.yaml has 2 errors; nothing of it was used",
    ]


def test_a_file_that_is_not_there_is_misuse_and_two_questions_at_once_are_too(tmp_path: Path) -> None:
    assert run("check", "none.yaml", cwd=tmp_path).returncode == 2
    assert run("show", "--node", "n", "--rack", "r", cwd=tmp_path).returncode == 2


def test_a_load_sends_what_is_new_what_differs_and_what_is_gone() -> None:
    before = standing(records())
    wanted = records(FLEET.replace("n[1-2]", "n[2-3]"))
    found = {change.record.component: change for change in changes(before, wanted, {"a"}, 2000)}
    assert {component: change.kind for component, change in found.items()} == {
        "node:n1": "removed", "node:n2": "changed", "node:n3": "added",
    }  # fmt: skip
    assert found["node:n2"].fields == (("slot", 2, 1),)
    gone = found["node:n1"].record
    assert (gone.removed, gone.seen_ms, gone.rack) == (True, 2000, "r1")


def test_what_was_removed_is_not_removed_again_and_may_come_back() -> None:
    log = [*records(), *(replace(record, removed=True) for record in records())]
    assert changes(standing(log), [], {"a"}, 2000) == []
    assert {change.kind for change in changes(standing(log), records(), {"a"}, 2000)} == {"added"}


def test_a_load_leaves_other_sites_and_what_agents_found_alone() -> None:
    other = records(
        FLEET.replace("site: a", "site: b").replace("r1", "r2").replace("n[1-2]", "x[1-2]").replace("p1", "q")
    )
    found = [replace(record, source="discovered") for record in records()]
    assert changes(standing([*other, *found]), [], {"a"}, 2000) == []


def test_declared_and_discovered_records_of_one_component_outlive_each_other_in_a_compacted_topic() -> None:
    record = records()[-1]
    assert key_of(record) == "node:n2|declared"
    assert key_of(replace(record, source="discovered")) == "node:n2"
    one = standing([record, replace(record, source="discovered", slot=9)])["node:n2"]
    assert one.declared is not None
    assert one.discovered is not None
    assert (one.declared.slot, one.discovered.slot) == (2, 9)
