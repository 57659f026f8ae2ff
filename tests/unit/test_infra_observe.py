"""How a process is seen: one log line format whoever speaks, and a health page that notices a loop that stopped."""

from __future__ import annotations

import io
import json
import logging
import re
import threading
import time
from pathlib import Path

import structlog

from infra.observe import Heartbeat, configure_logging, endpoint
from infra.presence import Presence, ask


def _lines(**options: object) -> tuple[io.StringIO, structlog.stdlib.BoundLogger]:
    out = io.StringIO()
    configure_logging("loader", to=out, **options)  # type: ignore[arg-type]
    return out, structlog.get_logger()


def test_our_lines_and_a_librarys_have_the_same_format() -> None:
    out, log = _lines()
    log.info("batch written", topic="gpu.samples", rows=12)
    logging.getLogger("a.library").warning("lost %s", "a broker")
    ours, theirs = out.getvalue().splitlines()
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert re.fullmatch(rf"{stamp} info    loader     batch written topic=gpu.samples rows=12", ours)
    assert re.fullmatch(rf"{stamp} warning loader     lost a broker logger=a\.library", theirs)


def test_a_value_with_spaces_or_line_breaks_stays_on_its_line() -> None:
    out, log = _lines()
    log.warning("refused", reason="two words\nand a line")
    assert out.getvalue().count("\n") == 1
    assert 'reason="two words⏎and a line"' in out.getvalue()


def test_json_lines_are_json_whoever_speaks() -> None:
    out, log = _lines(json_lines=True)
    log.info("batch written", rows=12)
    logging.getLogger("a.library").warning("retrying")
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert (first["process"], first["level"], first["event"], first["rows"]) == ("loader", "info", "batch written", 12)
    assert (second["event"], second["logger"]) == ("retrying", "a.library")


def test_what_is_below_the_level_is_silent() -> None:
    out, log = _lines(level="warning")
    log.info("quiet")
    logging.getLogger("anything").info("quiet too")
    assert out.getvalue() == ""


def test_an_exception_comes_with_its_trace() -> None:
    out, log = _lines()
    try:
        int("odd")
    except ValueError:
        log.exception("it failed")
    assert "it failed" in out.getvalue()
    assert "ValueError: invalid literal" in out.getvalue()


def test_a_loop_that_stops_beating_turns_the_health_page_red_and_is_named() -> None:
    now = 0.0
    heart = Heartbeat("streams-0", stale_seconds=5, now=lambda: now)
    with endpoint(heart) as port:
        here = Presence("streams-0", 1, 0.0, port)
        assert ask(here, "/healthz")[0] == 200
        now = 5.1
        status, body = ask(here, "/healthz")
        assert status == 503
        assert json.loads(body)["stopped"] == "the main loop of streams-0"
        heart.beat()
        assert ask(here, "/healthz")[0] == 200


def test_metrics_are_served_beside_it() -> None:
    with endpoint(Heartbeat("loader", stale_seconds=5)) as port:
        status, body = ask(Presence("loader", 1, 0.0, port), "/metrics")
    assert status == 200
    assert b"fleetpulse_beat_age_seconds" in body


def test_a_path_that_is_not_there_says_which_are() -> None:
    with endpoint(Heartbeat("loader", stale_seconds=5)) as port:
        assert ask(Presence("loader", 1, 0.0, port), "/")[0] == 404


def test_the_endpoint_sleeps_until_it_is_asked_and_ends_at_once() -> None:
    heartbeat = Heartbeat("loader", stale_seconds=10)
    before = set(threading.enumerate())
    with endpoint(heartbeat) as port:
        (thread,) = set(threading.enumerate()) - before
        switches = Path(f"/proc/self/task/{thread.native_id}/status")
        began = _voluntary_switches(switches.read_text())
        time.sleep(0.6)
        assert _voluntary_switches(switches.read_text()) - began <= 1
        assert ask(Presence("loader", 1, 0.0, port), "/healthz")[0] == 200
        ends_at = time.monotonic()
    assert time.monotonic() - ends_at < 0.5
    assert not thread.is_alive()


def _voluntary_switches(status: str) -> int:
    return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)$", status, re.MULTILINE)[1])  # type: ignore[index]
