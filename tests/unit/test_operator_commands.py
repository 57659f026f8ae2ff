"""`fleetpulse maintenance` and `fleetpulse fault`: times as people write them, misuse told, nothing said to nobody."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from infra.commands.say import Place, clock, duration_s, moment_ms, racks_in_words, word
from infra.errors import MisuseError
from schemas.catalog import load
from streams.faults import words

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 5, 4, 20, 30, tzinfo=UTC)
NOW_MS = round(NOW.timestamp() * 1000)


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "infra.cli", *arguments],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "HOME": str(cwd), "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90m", 5400), ("2h", 7200), ("1h30m", 5400), ("1h 30min", 5400), ("3d", 259_200), (" 45S ", 45)],
)
def test_time_spans_are_read_as_people_write_them(text: str, seconds: int) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "-2h", "2h?", "0m", "9999d", "two hours", "1.5h"])
def test_what_is_no_time_span_is_misuse(text: str) -> None:
    with pytest.raises(MisuseError, match="no time span; write"):
        duration_s(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("now", "2026-05-04 20:30 UTC"),
        ("+2h", "2026-05-05 00:00 UTC"),
        ("22:00", "2026-05-04 22:00 UTC"),
        ("6:15", "2026-05-05 06:15 UTC"),
        ("2026-05-06T01:00", "2026-05-06 01:00 UTC"),
        ("2026-05-06 01:00", "2026-05-06 01:00 UTC"),
        ("2026-05-06T01:00+02:00", "2026-05-05 23:00 UTC"),
        ("2026-05-06T01:00Z", "2026-05-06 01:00 UTC"),
    ],
)
def test_times_are_read_as_people_write_them(text: str, meant: str) -> None:
    after_ms = round(NOW.replace(hour=22, minute=0).timestamp() * 1000)
    assert clock(moment_ms(text, NOW_MS, after=after_ms)) == meant


@pytest.mark.parametrize("text", ["", "soon", "25:00", "12:60", "2026-13-01T00:00", "+x", "99999-01-01T00:00"])
def test_what_is_no_time_is_misuse(text: str) -> None:
    with pytest.raises(MisuseError):
        moment_ms(text, NOW_MS, after=NOW_MS)


def test_one_word_to_several_racks_is_one_event_and_two_words_are_two() -> None:
    said = [word("maintenance_ended", Place("a", rack), NOW_MS, "over", {"scope": "pdu:p"}) for rack in ("r1", "r2")]
    assert len({event.event_id for event in said}) == 1
    assert [event.rack for event in said] == ["r1", "r2"]
    assert (
        word("maintenance_ended", Place("a", "r1"), NOW_MS + 1, "over", {"scope": "pdu:p"}).event_id != said[0].event_id
    )


def test_every_word_is_one_that_the_streams_understand_and_the_catalogue_knows() -> None:
    catalog = load()
    for kind in words.WORDS:
        event = word(kind, Place("a", "r1"), NOW_MS, "text", {"by": "ann"})
        assert words.is_word(event)
        entry = catalog.of(event)
        assert (entry.rule, entry.severity) == (f"event.{kind}", event.severity)


def test_racks_are_named_where_they_are_few() -> None:
    assert racks_in_words([Place("a", "r1")]) == "rack r1"
    assert racks_in_words([Place("a", f"r{number}") for number in range(3)]) == "racks r0, r1, r2"
    assert racks_in_words([Place("a", f"r{number}") for number in range(31)]) == "31 racks"


@pytest.mark.parametrize(("arguments", "said"), [
    (("maintenance", "announce", "r12", "--until", "+1h", "--reason", "x"), "'r12' is nothing that work can be"),
    (("maintenance", "announce", "rack:", "--until", "+1h", "--reason", "x"), "it may be rack:NAME, node:NAME"),
    (("maintenance", "announce", "rack:r", "--until", "soon", "--reason", "x"), "'soon' is no time; write now"),
    (("maintenance", "announce", "rack:r", "--until", "2020-01-01T00:00", "--reason", "x"), "which is over, or not"),
    (("maintenance", "announce", "rack:r", "--from", "+2h", "--until", "now", "--reason", "x"), "not after the beg"),
    (("maintenance", "end", "cluster:c"), "'cluster:c' is nothing"),
    (("fault", "snooze", "node:n1", "--for", "later"), "'later' is no time span"),
    (("fault", "ack", "node:n1", "--rack", "r1"), "--rack and --site go together"),
    (("fault", "ack", "3f9a1c20", "--rack", "r1", "--site", "a"), "is not a whole fault id"),
    (("fault", "end", "3f9a1c20", "--class", "gpu_lost"), "--class narrows a component down"),
])  # fmt: skip
def test_misuse_is_told_in_one_line_and_exits_2(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"fleetpulse {arguments[0]}: ")
    assert said in line


def test_without_a_kafka_it_says_what_to_start(tmp_path: Path) -> None:
    done = run("maintenance", "end", "rack:r1", cwd=tmp_path)
    assert done.returncode == 1
    assert "there is no Kafka" in done.stderr


def test_a_broker_that_is_away_is_told_and_nothing_is_said(tmp_path: Path) -> None:
    away = {"FLEETPULSE_KAFKA__BOOTSTRAP": "127.0.0.1:1"}
    done = run("maintenance", "end", "rack:r1", "--rack", "r1", "--site", "a", cwd=tmp_path, **away)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "Kafka at 127.0.0.1:1 has not taken 1 of 1 words" in line
    assert done.stdout == ""


def test_a_fault_id_without_a_history_needs_a_place(tmp_path: Path) -> None:
    done = run("fault", "ack", "3f9a1c20", cwd=tmp_path, FLEETPULSE_KAFKA__BOOTSTRAP="127.0.0.1:1")
    assert done.returncode == 1
    assert "name the component, or give --rack and --site" in done.stderr


@pytest.mark.parametrize("command", ["maintenance", "fault"])
def test_help_teaches_by_example(tmp_path: Path, command: str) -> None:
    done = run(command, "--help", cwd=tmp_path, COLUMNS="120")
    assert done.returncode == 0
    for name in {"maintenance": ("announce", "end"), "fault": ("ack", "snooze", "end")}[command]:
        assert name in done.stdout
        shown = run(command, name, "--help", cwd=tmp_path, COLUMNS="140")
        assert f"fleetpulse {command} {name} " in shown.stdout
