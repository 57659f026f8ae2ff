"""Diagnostics as a source of the agent: started when due or asked for, never at a job's cost, and told as findings.

`dcgmi` is a program that prints real documents, hangs, or fails.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.dcgm.diagnostics_source import SCHEDULE, DiagnosticsSource
from producers.dcgm.findings import counts, events, outcome
from producers.dcgm.interpretation import rows_of_errors, rows_of_tests
from producers.dcgm.run import AlreadyRunningError, DcgmiMissingError, DiagnosticsError, Request, Run, Runs
from producers.dcgm.settings import DiagnosticsSettings
from producers.source import Origin
from schemas.catalog import load
from schemas.catalog.causes import causes
from schemas.records import HardwareEvent
from streams.faults import FaultBook
from streams.topology import Topology

ORIGIN = Origin("site", "rack-7", "node-1", "boot-1")
CATALOG = load()
DAY_MS = 86_400_000
NOON_MS = 20_000 * DAY_MS + DAY_MS // 2
PASS = {"DCGM Diagnostic": {"test_categories": [{"category": "Deployment", "tests": [
    {"name": "software", "results": [{"entity_group": "GPU", "entity_id": 0, "status": "Pass"}]}]}]}}  # fmt: skip


class Node:
    """A node with a dcgmi, a state folder and programs on its GPUs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "dcgm_diag"
        self.dcgmi = folder / "dcgmi"
        self.calls = folder / "calls"
        self.programs: list[str] = []
        self.clock_s = 100.0
        self.prints(json.dumps(PASS))

    def prints(self, text: str, *, exit_code: int = 0, errors: str = "", before: str = "", after: str = "") -> None:
        document = self.dcgmi.with_suffix(".txt")
        document.write_text(text)
        self.dcgmi.write_text(
            f"#!/bin/sh\necho \"$@\" >> '{self.calls}'\n{before}\ncat '{document}'\n{after}\n"
            f"printf %s '{errors}' >&2\nexit {exit_code}\n"
        )
        self.dcgmi.chmod(0o755)

    def runs(self, **more: Any) -> Runs:
        """As a process that looks after runs has them."""
        given = {"boot_id": "boot-1", "command": str(self.dcgmi), "clock": lambda: self.clock_s, "grace_s": 5.0}
        return Runs(self.folder, **{**given, **more})

    def source(self, origin: Origin = ORIGIN, gpu_of: Any = lambda _: None, **settings: Any) -> DiagnosticsSource:
        return DiagnosticsSource(
            origin,
            CATALOG,
            DiagnosticsSettings(**{"spread_minutes": 0, **settings}),
            self.folder,
            busy=lambda: self.programs,
            gpu_of=gpu_of,
            runs=self.runs(boot_id=origin.boot_id, arguments=settings.get("arguments", ())),
        )

    def ask(self, level: int = 1, **more: Any) -> None:
        self.runs().ask(Request(level=level, **more))

    def started(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    if made.folder.is_dir():
        for run in made.runs().poll():  # whatever a test left
            if run.ended_ms is None and run.pid:
                kill(run.pid)


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def kill(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def until(source: DiagnosticsSource, *kinds: str, now_ms: int = NOON_MS) -> list[HardwareEvent]:
    """Read until an event of one of these kinds has come; all events up to it."""
    deadline = time.monotonic() + 10
    told: list[HardwareEvent] = []
    while not any(event.kind in kinds for event in told):
        assert time.monotonic() < deadline, told
        told += [event for event in source.read(now_ms) if isinstance(event, HardwareEvent)]
        time.sleep(0.005)
    return told


def wait(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def diagnose(node: Node, level: int = 1, **more: Any) -> list[HardwareEvent]:
    node.ask(level)
    return until(node.source(**more), "diag_finished", "diag_incomplete")


def kinds(events: list[HardwareEvent]) -> list[str]:
    return [event.kind for event in events]


# --- what a run comes to ----------------------------------------------------------------------------------------------


def test_a_real_document_becomes_findings_of_its_gpus(node: Node, shared_data: Path) -> None:
    text = (shared_data / "dcgm_diag" / "dcgm1.7_nvidia_per_gpu_fail.json").read_text()
    node.prints(f"Successfully ran diagnostic for group.\n{text}\nDone {{ok}}\n", exit_code=1)

    events = diagnose(node, 3, gpu_of={0: "S0", 2: "S2", 3: "S3"}.get)

    assert node.started() == ["diag -r 3 -j"]
    # read by hand from the document: memory was skipped on GPU 0 (ECC is off), GPU 2 failed sm_stress
    findings = [event for event in events if event.kind in {"diag_fault", "diag_warning"}]
    slow = next(e for e in findings if (e.details["test"], e.details["gpu_index"]) == ("sm_stress", "2"))
    assert (slow.kind, slow.gpu, slow.severity, slow.action) == ("diag_fault", "S2", "critical", "drain_and_diagnose")
    assert slow.source == "dcgm_diag"
    assert slow.details["result"] == "fail"
    assert (slow.details["error_id"], slow.details["error"]) == ("50", "STRESS_LEVEL")
    assert slow.details["category"] == "perf_threshold"
    assert slow.details["meaning"].endswith(".")
    assert slow.details["gpu_named_by"] == "index"
    assert "thermal" in slow.details["explains"].split(",")
    assert "Max stress level of 1096.5 did not exceed desired stress level of 3000.0 for GPU 2" in slow.raw
    ecc = next(event for event in findings if event.details["test"] == "memory")
    assert (ecc.kind, ecc.gpu, ecc.details["result"], ecc.severity) == ("diag_warning", "S0", "not_run", "warning")
    (finished,) = [event for event in events if event.kind == "diag_finished"]
    number = {name: int(finished.details[name]) for name in ("pass", "warn", "fail", "not_run")}
    assert sum(number.values()) == 17 * 4
    assert number["fail"] == len([event for event in findings if event.details["result"] == "fail"]) > 0
    assert finished.details["exit_code"] == "1"  # that a test failed is no failure of the run


def test_a_skip_is_said_and_is_never_a_pass(node: Node, shared_data: Path) -> None:
    node.prints((shared_data / "dcgm_diag" / "dcgm4_gb10_partial_skip.json").read_text())

    events = diagnose(node, 3)

    left_out = {event.details["test"]: event for event in events if event.kind == "diag_not_run"}
    assert set(left_out) == {"pcie", "memory", "targeted_stress", "sm_stress"}
    assert left_out["pcie"].details["why"] == "Plugin is not allowed on this SKU"
    assert all(event.severity == "info" for event in left_out.values())
    (finished,) = [event for event in events if event.kind == "diag_finished"]
    assert (finished.details["pass"], finished.details["not_run"]) == ("1", "4")


def test_one_test_that_was_skipped_on_all_gpus_is_said_once(node: Node) -> None:
    results = [
        {"entity_group": "GPU", "entity_id": index, "status": "Skip", "info": [f"GPU {index}: not on GPU {index}."]}
        for index in range(8)
    ]
    tests = [{"name": "pulse_test", "results": results}]
    node.prints(json.dumps({"DCGM Diagnostic": {"test_categories": [{"category": "Stress", "tests": tests}]}}))

    (event,) = [event for event in diagnose(node) if event.kind == "diag_not_run"]

    assert event.details["gpus"] == "0,1,2,3,4,5,6,7"
    assert event.details["why"] == "not on the GPU."


def test_a_setting_that_is_wrong_wakes_nobody(node: Node, shared_data: Path) -> None:
    node.prints((shared_data / "dcgm_diag" / "dcgm3_gcm_diag_fail.json").read_text())

    events = [event for event in diagnose(node) if event.kind in {"diag_fault", "diag_warning"}]

    assert {event.details["test"]: (event.kind, event.gpu) for event in events} == {
        "Persistence Mode": ("diag_warning", None),
        "Environment Variables": ("diag_warning", None),
    }
    assert CATALOG.of(events[0]).fault_class == "informational"


def test_a_node_without_trouble_says_only_that_it_was_tested(node: Node) -> None:
    assert kinds(diagnose(node)) == ["diag_started", "diag_finished"]


def test_the_serial_in_the_document_goes_before_the_one_behind_the_number(node: Node) -> None:
    made = json.loads(json.dumps(PASS).replace("Pass", "Fail"))
    made["entity_groups"] = [
        {"entity_group": "GPU", "entity_group_id": 1, "entities": [{"entity_id": 0, "serial_num": "1655022005478"}]}
    ]
    node.prints(json.dumps(made))

    finding = next(event for event in diagnose(node, gpu_of=lambda _: "other") if event.details.get("test"))

    assert (finding.gpu, finding.details["gpu_named_by"]) == ("1655022005478", "document")


# --- what a stream can make of it -------------------------------------------------------------------------------------


def test_whatever_a_finding_explains_is_the_class_of_its_fault() -> None:
    classes = {(row.severity, row.explains[0]) for row in rows_of_errors().values() if row.explains}
    classes |= {(row.severity, row.explains[0]) for row in rows_of_tests().values() if row.explains}
    # DCGM quotes XIDs and SXids, which are judged by the catalogue
    classes |= {(e.severity, e.fault_class) for e in CATALOG if e.rule.startswith(("xid.", "sxid."))}
    for severity, fault_class in classes - {("critical", "unknown"), ("info", "informational")}:
        kind = "diag_fault" if severity == "critical" else "diag_warning"
        assert CATALOG.entry(kind, None, fault_class).fault_class == fault_class
        assert CATALOG.entry(kind, None, fault_class).severity == ("critical" if kind == "diag_fault" else "warning")


def test_a_finding_joins_the_open_fault_that_it_can_explain(node: Node) -> None:
    entry = {"entity_group": "GPU", "entity_id": 0, "status": "Fail", "warnings": [{"warning": "x", "error_id": 13}]}
    tests = [{"name": "pcie", "results": [entry]}]
    node.prints(json.dumps({"DCGM Diagnostic": {"test_categories": [{"category": "Integration", "tests": tests}]}}))
    book = FaultBook(CATALOG, causes(), Topology())
    link = ORIGIN.event(
        CATALOG, "nvlink_down", source="nvml_counters", event_ms=1, observed_ms=1, gpu="S0", raw="link 3 is down"
    )
    (opened,) = book.on_event(link, 1)

    finding = next(event for event in diagnose(node, gpu_of={0: "S0"}.get) if event.kind == "diag_fault")
    (joined,) = book.on_event(finding, 2)

    assert finding.details["explains"].split(",")[0] == "nvlink"
    assert joined.fault_id == opened.fault_id
    assert [evidence.source for evidence in joined.evidence] == ["nvml_counters", "dcgm_diag"]
    assert joined.severity == "critical"


def test_an_xid_that_a_test_met_is_laid_to_the_fault_of_that_xid(node: Node) -> None:
    warning = {"warning": "Detected XID 79 for GPU 0", "error_id": 101}
    entry = {"entity_group": "GPU", "entity_id": 0, "status": "Fail", "warnings": [warning]}
    tests = [{"name": "targeted_stress", "results": [entry]}]
    node.prints(json.dumps({"DCGM Diagnostic": {"test_categories": [{"category": "Stress", "tests": tests}]}}))

    (event,) = [event for event in diagnose(node) if event.kind == "diag_fault"]

    assert CATALOG.of(event).fault_class == CATALOG.entry("xid", 79).fault_class == "gpu_lost"
    assert (event.action, event.details["rule"]) == (CATALOG.entry("xid", 79).action, "xid.79")


def test_what_the_operator_decided_goes_before_the_interpretation(node: Node, tmp_path: Path) -> None:
    override = tmp_path / "catalog.toml"
    override.write_text('[event.diag_fault.variant.gpu_memory_uncorrectable]\naction = "replace"\n')
    node.prints(json.dumps(PASS).replace("Pass", "Fail").replace("software", "memory"))
    node.ask()
    source = DiagnosticsSource(
        ORIGIN, load(override), DiagnosticsSettings(), node.folder, busy=list, runs=node.runs()
    )  # fmt: skip

    finding = next(event for event in until(source, "diag_finished") if event.kind == "diag_fault")

    assert finding.action == "replace"


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_while_a_job_holds_a_gpu_nothing_is_started_and_the_job_is_named(node: Node) -> None:
    node.programs = ["pid 4711 python3 on GPU-1"]
    source = node.source()
    node.ask(2)

    (event,) = source.read(NOON_MS)

    assert isinstance(event, HardwareEvent)
    assert event.kind == "diag_refused"
    assert "pid 4711 python3 on GPU-1" in event.raw
    assert "or force it" in event.raw
    assert list(source.read(NOON_MS + 1_000)) == []  # a request that was answered is no request any more
    assert node.started() == []


def test_who_forces_it_gets_it(node: Node) -> None:
    node.programs = ["pid 4711 python3 on GPU-1"]
    source = node.source()
    node.ask(1, force=True, by="alice")

    events = until(source, "diag_finished")

    assert events[0].kind == "diag_started"
    assert (events[0].details["forced"], events[0].details["by"]) == ("true", "alice")


def test_where_nobody_can_tell_whether_jobs_run_nothing_is_started(node: Node) -> None:
    def fails() -> list[str]:
        raise OSError("nvidia-smi is not there")

    source = DiagnosticsSource(ORIGIN, CATALOG, DiagnosticsSettings(), node.folder, busy=fails, runs=node.runs())
    node.ask()

    (event,) = source.read(NOON_MS)

    assert isinstance(event, HardwareEvent)
    assert (event.kind, "nvidia-smi is not there" in event.raw) == ("diag_refused", True)
    assert node.started() == []


def test_a_node_that_is_never_free_says_so_once_for_each_run_that_is_due(node: Node) -> None:
    source = node.source(every_hours=24)
    node.programs = ["pid 1 a on GPU-1"]
    assert len([event for hour in range(72) for event in source.read(NOON_MS + hour * 3_600_000)]) == 3


def test_a_run_that_is_due_waits_for_the_job_and_says_so_once(node: Node) -> None:
    source = node.source(every_hours=24, retry_minutes=10)
    node.programs = ["pid 1 a on GPU-1"]
    told = [event for minute in range(60) for event in source.read(NOON_MS + minute * 60_000)]
    assert [event.kind for event in told if isinstance(event, HardwareEvent)] == ["diag_refused"]
    node.programs = []

    assert list(source.read(NOON_MS + 59 * 60_000)) == []  # not each second: every ten minutes
    events = until(source, "diag_finished", now_ms=NOON_MS + 60 * 60_000)
    assert events[0].details["by"] == SCHEDULE


# --- when -------------------------------------------------------------------------------------------------------------


def test_without_schedule_and_request_nothing_is_ever_run(node: Node) -> None:
    source = node.source()
    assert [event for day in range(9) for event in source.read(NOON_MS + day * DAY_MS)] == []
    assert node.started() == []


def test_it_runs_every_so_often_also_over_a_restart_of_the_agent(node: Node) -> None:
    source = node.source(every_hours=24, level=2)
    until(source, "diag_finished")
    assert list(source.read(NOON_MS)) == []
    assert node.started() == ["diag -r 2 -j"]

    again = node.source(every_hours=24, level=2)
    assert [event for hour in range(1, 21) for event in again.read(NOON_MS + hour * 3_600_000)] == []
    until(again, "diag_finished", now_ms=NOON_MS + DAY_MS)
    assert len(node.started()) == 2


@pytest.mark.parametrize(
    ("from_hour", "until_hour", "hours"),
    [(2, 4, {2, 3}), (22, 3, {22, 23, 0, 1, 2}), (0, 24, set(range(24))), (6, 6, set(range(24)))],
)
def test_it_starts_in_its_hours_only(node: Node, from_hour: int, until_hour: int, hours: set[int]) -> None:
    node.programs = ["pid 1 a on GPU-1"]  # what is refused was due
    midnight_ms = 20_000 * DAY_MS
    due = set()
    for hour in range(24):
        source = node.source(every_hours=1, from_hour=from_hour, until_hour=until_hour)
        due |= {hour} if list(source.read(midnight_ms + hour * 3_600_000 + 1_800_000)) else set()
    assert due == hours


def test_the_nodes_of_a_fleet_do_not_all_start_at_once(node: Node) -> None:
    node.programs = ["pid 1 a on GPU-1"]
    starts = []
    for number in range(20):
        source = node.source(Origin("site", "rack", f"node-{number}", "boot-1"), every_hours=24, spread_minutes=60)
        starts.append(next(minute for minute in range(70) if list(source.read(NOON_MS + minute * 60_000))))
    assert len(set(starts)) > 10
    assert max(starts) <= 61


def test_it_comes_a_little_early_rather_than_creeping_out_of_its_hours(node: Node) -> None:
    two = 20_000 * DAY_MS + 2 * 3_600_000
    source = node.source(every_hours=24, from_hour=2, until_hour=3)
    until(source, "diag_finished", now_ms=two + 3_000_000)
    assert list(source.read(two + DAY_MS - 1)) == []
    assert kinds([*source.read(two + DAY_MS)]) == ["diag_started"]  # type: ignore[list-item]
    until(source, "diag_finished", now_ms=two + DAY_MS)


# --- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["", "{", '{"level": 9}', '{"level": "two"}', '{"level": 1, "wait": 3}', "[1]"])
def test_a_request_that_is_none_is_answered_with_what_is_expected(node: Node, wrong: str) -> None:
    node.folder.mkdir(parents=True)
    (node.folder / "request.json").write_text(wrong)
    source = node.source()

    (event,) = source.read(NOON_MS)

    assert isinstance(event, HardwareEvent)
    assert event.kind == "diag_refused"
    assert '{"level": 1, "force": false, "by": "your name"}' in event.raw
    assert list(source.read(NOON_MS)) == []


def test_a_request_says_when_it_was_asked_for(node: Node) -> None:
    node.runs(wall_ms=lambda: NOON_MS).ask(Request(level=1))
    request = node.runs().take_request()
    assert request is not None
    assert request.asked_ms == NOON_MS


@pytest.mark.parametrize(
    ("hours", "why"),
    [(1.1, "it was asked for 1.1 h ago, and a request that no agent sees holds for 1 h; ask again"),
     (720, "it was asked for 720.0 h ago"),
     (-3, "it bears a time 3.0 h ahead of this node's clock")],
)  # fmt: skip
def test_a_request_that_no_agent_saw_for_an_hour_is_refused_once(node: Node, hours: float, why: str) -> None:
    node.ask(2, force=True, by="alice", asked_ms=wall_ms() - round(hours * 3_600_000))
    source = node.source()

    (event,) = source.read(NOON_MS)

    assert isinstance(event, HardwareEvent)
    assert (event.kind, event.details["by"], event.details["level"]) == ("diag_refused", "alice", "2")
    assert event.details["why"].startswith(why)
    assert list(source.read(NOON_MS)) == []
    assert list(node.source().read(NOON_MS)) == []
    assert node.started() == []


def test_a_request_of_less_than_an_hour_ago_is_carried_out(node: Node) -> None:
    node.ask(1, asked_ms=wall_ms() - 3_000_000)
    until(node.source(), "diag_finished")


def test_a_request_written_by_hand_is_as_old_as_its_file(node: Node) -> None:
    node.folder.mkdir(parents=True)
    path = node.folder / "request.json"
    source = node.source()
    path.write_text('{"level": 1}')
    until(source, "diag_finished")

    path.write_text('{"level": 1}')
    two_hours_ago = time.time() - 7200
    os.utime(path, (two_hours_ago, two_hours_ago))
    (event,) = source.read(NOON_MS)
    assert isinstance(event, HardwareEvent)
    assert (event.kind, "2.0 h ago" in event.raw) == ("diag_refused", True)


@pytest.mark.parametrize(
    ("seen_after_hours", "is_in_time"),
    [(0.5, True), (2, False)],
    ids=["seen in time, it waits for hours", "an agent that was not there saw it too late"],
)
def test_a_request_grows_old_only_until_an_agent_sees_it(
    node: Node, tmp_path: Path, seen_after_hours: float, is_in_time: bool
) -> None:
    go, now = tmp_path / "go", {"ms": NOON_MS}
    node.prints(json.dumps(PASS), before=f"while [ ! -e '{go}' ]; do sleep 0.02; done")
    source = DiagnosticsSource(
        ORIGIN, CATALOG, DiagnosticsSettings(), node.folder,
        busy=list, runs=node.runs(wall_ms=lambda: now["ms"]), wall_ms=lambda: now["ms"],
    )  # fmt: skip
    node.ask(4, asked_ms=NOON_MS)
    until(source, "diag_started")
    node.ask(1, asked_ms=NOON_MS)
    now["ms"] += round(seen_after_hours * 3_600_000)
    assert list(source.read(now["ms"])) == []
    now["ms"] += 4 * 3_600_000
    go.touch()

    told = until(source, "diag_finished")
    told += until(source, "diag_finished") if is_in_time else []

    assert ("diag_refused" in kinds(told)) is not is_in_time
    assert node.started()[1:] == (["diag -r 1 -j"] if is_in_time else [])


def test_a_request_during_a_run_waits_for_its_end(node: Node, tmp_path: Path) -> None:
    go = tmp_path / "go"
    node.prints(json.dumps(PASS), before=f"while [ ! -e '{go}' ]; do sleep 0.02; done")
    source = node.source()
    node.ask(1)
    until(source, "diag_started")
    node.ask(2)
    for _ in range(5):
        assert list(source.read(NOON_MS)) == []
    go.touch()

    events = until(source, "diag_finished") + until(source, "diag_finished")

    assert node.started() == ["diag -r 1 -j", "diag -r 2 -j"]
    assert kinds(events) == ["diag_finished", "diag_started", "diag_finished"]


# --- never two at once ------------------------------------------------------------------------------------------------


def test_two_runs_never_go_on_at_once_whoever_starts_them(node: Node, tmp_path: Path) -> None:
    go = tmp_path / "go"
    node.prints(json.dumps(PASS), before=f"while [ ! -e '{go}' ]; do sleep 0.02; done")
    by_hand = node.runs()
    begun = by_hand.start(1, 60, by="fleetpulse diagnose")
    with pytest.raises(AlreadyRunningError, match=f"level 1, asked for by fleetpulse diagnose.*pid {begun.pid}"):
        node.runs().start(2, 60, by="somebody else")
    source = node.source()
    # the agent sees it, tells of it, and starts nothing beside it
    node.ask(3)
    assert kinds([*source.read(NOON_MS)]) == ["diag_started"]  # type: ignore[list-item]
    go.touch()
    finished = next(event for event in until(source, "diag_finished") if event.kind == "diag_finished")

    assert finished.details["by"] == "fleetpulse diagnose"
    until(source, "diag_finished")
    assert node.started() == ["diag -r 1 -j", "diag -r 3 -j"]
    assert by_hand.look(begun.id) is not None
    os.waitpid(begun.pid or 0, 0)  # the agent, which is no parent of it, has seen it through


def test_the_lock_goes_to_the_run_whatever_its_number_is(node: Node, tmp_path: Path) -> None:
    go = tmp_path / "go"
    node.prints(json.dumps(PASS), before=f"while [ ! -e '{go}' ]; do sleep 0.02; done")
    script = (
        "import sys\nfrom pathlib import Path\nfrom producers.dcgm.run import Runs\n"
        "Runs(Path(sys.argv[1]), boot_id='boot-1', command=sys.argv[2]).start(1, 60, by='a process with few files')\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, node.folder, node.dcgmi],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=True,
        timeout=20,
    )
    with pytest.raises(AlreadyRunningError, match="a process with few files"):
        node.runs().start(1, 60, by="test")
    go.touch()
    assert kinds(until(node.source(), "diag_finished"))[-1] == "diag_finished"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_what_root_starts_by_hand_can_be_told_by_an_agent_without_rights(node: Node) -> None:
    (node.folder / "runs").mkdir(parents=True)
    os.chown(node.folder, 65534, 65534)
    os.chown(node.folder / "runs", 65534, 65534)
    begun = node.runs().start(1, 60, by="root")
    assert (node.folder / "runs" / begun.id).stat().st_uid == 65534
    until(node.source(), "diag_finished")


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_run_that_does_not_end_is_stopped_with_all_its_processes(node: Node, tmp_path: Path) -> None:
    node.prints("", before=f"trap '' INT\nsleep 300 & echo $! > '{tmp_path}/child'\nwait; wait; sleep 300")
    source = node.source(timeout_s=(300, 900, 5400, 21_600))
    node.ask(1)
    until(source, "diag_started")
    wait(lambda: (tmp_path / "child").exists() and bool((tmp_path / "child").read_text()))
    child = int((tmp_path / "child").read_text())

    node.clock_s += 299
    assert list(source.read(NOON_MS)) == []
    node.clock_s += 1  # told to end, and does not care
    assert list(source.read(NOON_MS)) == []
    node.clock_s += 4
    assert list(source.read(NOON_MS)) == []
    os.kill(child, 0)
    node.clock_s += 1
    (event,) = until(source, "diag_incomplete")

    assert (event.details["variant"], event.severity) == ("timed_out", "warning")
    assert "a GPU may hang" in event.raw
    wait(lambda: not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text())
    assert list(source.read(NOON_MS)) == []


def test_a_run_that_ends_when_it_is_told_to_is_not_killed(node: Node) -> None:
    node.prints("stopped\n", before="trap 'exit 2' INT\nwhile :; do sleep 0.02; done")
    source = node.source(timeout_s=(300, 900, 5400, 21_600))
    node.ask(1)
    until(source, "diag_started")
    time.sleep(0.1)  # the trap has to stand
    node.clock_s += 300

    (event,) = until(source, "diag_incomplete")

    assert (event.details["variant"], event.details["exit_code"]) == ("timed_out", "2")


def test_a_run_outlives_the_agent_and_is_told_by_the_next_one(node: Node, tmp_path: Path) -> None:
    go = tmp_path / "go"
    node.prints(json.dumps(PASS), before=f"while [ ! -e '{go}' ]; do sleep 0.02; done")
    node.ask(2)
    (begun,) = until(node.source(), "diag_started")

    after = node.source()  # another process would know no more than what is in the folder
    (seen,) = after.read(NOON_MS)
    go.touch()
    events = until(after, "diag_finished")

    assert isinstance(seen, HardwareEvent)
    assert seen.event_id == begun.event_id
    assert events[-1].details["run"] == begun.details["run"]
    assert "exit_code" not in events[-1].details  # it was nobody's child
    assert node.started() == ["diag -r 2 -j"]


@pytest.mark.parametrize("boot", ["boot-1", "boot-2"])
def test_a_run_that_was_cut_is_said(node: Node, tmp_path: Path, boot: str) -> None:
    node.prints(json.dumps(PASS), before=f"touch '{tmp_path}/there'; sleep 300")
    node.ask(2)
    until(node.source(), "diag_started")
    wait((tmp_path / "there").exists)
    (kept,) = node.folder.glob("runs/*/run.json")
    kill(json.loads(kept.read_bytes())["pid"])

    after = node.source(Origin("site", "rack-7", "node-1", boot))
    *_, event = until(after, "diag_incomplete")  # dying takes its time, in which it is seen to run

    assert event.details["variant"] == "cut"
    assert event.details.get("boot") == (None if boot == "boot-1" else "boot-1")
    assert "was cut off" in event.raw
    assert list(after.read(NOON_MS)) == []


def test_what_was_not_yet_taken_when_the_agent_died_is_told_again_under_the_same_ids(node: Node) -> None:
    node.prints(json.dumps(PASS).replace("Pass", "Fail"))
    node.ask()
    first = until(node.source(), "diag_finished")

    second = until(node.source(), "diag_finished")  # the first never came to its next read
    third = node.source()
    list(third.read(NOON_MS))
    assert list(third.read(NOON_MS)) == []
    assert list(node.source().read(NOON_MS)) == []

    told = {event.event_id for event in first if event.kind != "diag_started"}
    assert {event.event_id for event in second} == told
    assert len(told) == len([event for event in first if event.kind != "diag_started"])


@pytest.mark.parametrize(
    ("text", "errors", "exit_code", "variant", "says"),
    [
        ("", "", 226, "no_document", "exit code 226"),
        ("Error: unable to establish a connection to the specified host: localhost", "", 235, "no_document",
         "start DCGM's service"),
        ("", "must be root", 1, "no_document", "as a user who may use DCGM"),
        ("not json {", "", 0, "no_document", "run it by hand"),
        (json.dumps(PASS)[:-3], "", 0, "broken_document", "is not whole"),
    ],
)  # fmt: skip
def test_a_run_without_a_whole_result_says_why(
    node: Node, text: str, errors: str, exit_code: int, variant: str, says: str
) -> None:
    node.prints(text, errors=errors, exit_code=exit_code)

    event = diagnose(node)[-1]

    assert (event.kind, event.details["variant"]) == ("diag_incomplete", variant)
    assert says in event.raw


def test_without_dcgmi_a_schedule_is_an_error_with_its_remedy_and_heals(node: Node) -> None:
    node.dcgmi.unlink()
    source = node.source(every_hours=24, from_hour=12, until_hour=13)
    for hour in range(24):  # within its hours and without: what is missing stays missing
        with pytest.raises(DcgmiMissingError, match="install NVIDIA's datacenter-gpu-manager"):
            source.read(NOON_MS + hour * 3_600_000)
    node.prints(json.dumps(PASS))
    assert kinds(until(source, "diag_finished", now_ms=NOON_MS + DAY_MS)) == ["diag_started", "diag_finished"]


def test_without_dcgmi_a_request_is_answered_and_all_else_is_quiet(node: Node) -> None:
    node.dcgmi.unlink()
    source = node.source()
    assert list(source.read(NOON_MS)) == []
    node.ask()
    (event,) = source.read(NOON_MS)
    assert isinstance(event, HardwareEvent)
    assert (event.kind, "install NVIDIA's" in event.raw) == ("diag_refused", True)
    assert list(source.read(NOON_MS)) == []


def test_a_dcgmi_that_this_user_may_not_run_is_named(node: Node) -> None:
    node.dcgmi.chmod(0o644)
    with pytest.raises(DcgmiMissingError, match="may not run it: make it executable"):
        node.runs().check()


def test_a_folder_that_cannot_be_written_is_named(node: Node) -> None:
    node.folder.write_text("a file stands where the folder should be")
    with pytest.raises(DiagnosticsError, match="which cannot be written: .*; set agent.state_dir"):
        node.runs().start(1, 60, by="test")


def test_old_runs_are_forgotten_and_the_last_ones_kept(node: Node) -> None:
    source = node.source()
    for _ in range(13):
        node.ask()
        until(source, "diag_finished")
    list(source.read(NOON_MS))
    assert len(list(node.folder.glob("runs/*"))) <= 11


def test_a_damaged_note_of_a_run_costs_only_that_run(node: Node) -> None:
    folder = node.folder / "runs" / "2000-01-01T00-00-00.000Z-r1"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{not json")
    assert kinds(diagnose(node)) == ["diag_started", "diag_finished"]


def test_more_arguments_are_passed_on(node: Node) -> None:
    diagnose(node, 2, arguments=("-p", "memtest.test0=true"))
    assert node.started() == ["diag -r 2 -j -p memtest.test0=true"]


def test_every_event_can_be_encoded_as_it_is(node: Node, shared_data: Path) -> None:
    node.prints((shared_data / "dcgm_diag" / "dcgm1.7_nvidia_per_gpu_fail.json").read_text())
    for event in diagnose(node):
        assert all(isinstance(value, str) for value in event.details.values())
        assert msgspec.convert(msgspec.to_builtins(event), HardwareEvent) == event


RUN = Run(
    id="r",
    level=3,
    by="test",
    forced=False,
    boot_id="boot-1",
    started_ms=1_000,
    deadline_s=9.0,
    ended_ms=5_000,
    exit_code=0,
)
STATUS = st.sampled_from(["Pass", "FAIL", "Skip", "Warn", "", None, 7])
ENTRY = st.fixed_dictionaries(
    {"status": STATUS},
    optional={
        "gpu_ids": st.text("0123, x", max_size=8),
        "entity_id": st.integers(-1, 9),
        "entity_group": st.sampled_from(["GPU", "CPU", ""]),
        "info": st.lists(st.text(max_size=9), max_size=2),
        "warnings": st.lists(
            st.fixed_dictionaries({"warning": st.text(max_size=20)}, optional={"error_id": st.integers(-1, 140)}),
            max_size=2,
        ),
    },
)


@settings(max_examples=100, deadline=None)
@given(st.lists(ENTRY, max_size=4), st.text(max_size=40), st.integers(0, 400))
def test_whatever_dcgmi_prints_every_result_is_told_and_no_skip_is_a_pass(
    entries: list[dict[str, Any]], errors: str, cut: int
) -> None:
    tests = [{"name": "memory", "results": entries}]
    document = json.dumps({"DCGM Diagnostic": {"test_categories": [{"category": "Hardware", "tests": tests}]}})

    found = outcome(RUN, document[: len(document) - cut], errors, "node-1", CATALOG)
    told = events(found, ORIGIN, CATALOG, lambda index: f"S{index}", 6_000)

    assert told[-1].kind == ("diag_incomplete" if found.trouble else "diag_finished")
    number = counts(found.results)
    assert sum(number.values()) == len(found.results)
    assert number["pass"] <= sum(entry["status"] == "Pass" for entry in entries) * 8
    grave = [result for result in found.results if result.severity != "info"]
    assert len([event for event in told if event.kind in {"diag_fault", "diag_warning"}]) == len(grave)
    for event in told:
        assert all(isinstance(value, str) for value in event.details.values())
        assert event.raw
