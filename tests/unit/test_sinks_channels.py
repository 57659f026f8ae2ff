"""What each channel does with a notice; the webhook talks to a real HTTP server."""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import msgspec
import pytest

from schemas.records import Alternative, Incident, Member
from sinks.alerts import pause_seconds
from sinks.channels import ChannelSettings
from sinks.channels.channel import ChannelModel, DeliveryError, Notice
from sinks.channels.console import Console, ConsoleSettings, block
from sinks.channels.webhook import WebhookSettings

INCIDENT = Incident(
    incident_id="8b1d",
    revision=1,
    state="open",
    page=True,
    site="s",
    racks=["rack-3"],
    root="gpu:1650324",
    root_fault_id="f-1",
    root_class="nvlink",
    root_code=149,
    root_node="node-17",
    root_gpu="1650324",
    root_pci="0000:91:00",
    title="NVLink failure of GPU 1650324 takes rack rack-3 down",
    severity="critical",
    action="check_hardware",
    reason="its XID 149 came 0.4 s before the first XID 145 of the rack",
    score=0.97,
    members=[
        Member(fault_id="f-1", component="gpu:1650324", fault_class="nvlink", code=149, role="root", because="first"),
        Member(fault_id="f-2", component="gpu:2", fault_class="nvlink", code=145, role="symptom", because="echo"),
        Member(fault_id="f-3", component="gpu:3", fault_class="nvlink", code=145, role="symptom", because="echo"),
    ],
    evidence=[f"line {number}" for number in range(6)],
    first_ms=1_763_000_000_000,
    last_ms=1_763_000_000_000,
    observed_ms=1_763_000_000_100,
    decided_ms=1_763_000_001_000,
)
PAGE = Notice("page", INCIDENT, None)
NOW_MS = INCIDENT.observed_ms + 1_700


def test_the_console_block_says_root_action_reason_evidence_and_delay() -> None:
    out = io.StringIO()
    Console(out).deliver(PAGE, NOW_MS)
    text = out.getvalue()
    assert text.startswith("▲ CRITICAL NVLink failure of GPU 1650324 takes rack rack-3 down\n")
    for expected in (
        "gpu:1650324 (node node-17, PCI 0000:91:00, rack rack-3)",
        "check hardware",
        "its XID 149 came 0.4 s before the first XID 145 of the rack",
        "2 more faults",
        "line 0",
        "… and 2 more",
        "2025-11-13 02:13:20 UTC, told 1.7 s after it was first seen",
        "8b1d",
    ):
        assert expected in text
    assert text.endswith("\n\n"), "blocks stand apart"


def test_text_from_a_machine_cannot_break_out_of_its_line() -> None:
    text = block(
        Notice("page", msgspec.structs.replace(INCIDENT, evidence=["a\nb\r\n▲ CRITICAL c" + "d" * 999]), None), NOW_MS
    )
    assert sum(line.startswith("▲") for line in text.splitlines()) == 1
    assert max(map(len, text.splitlines())) < 200


OTHER = Alternative(
    component="nvswitch:node-17/0000:05:00",
    fault_class="nvswitch",
    score=0.61,
    because="its ports lead to all of them",
    tell_apart="run dcgmi diag on node-17: it names the switch or the GPU",
)
DOUBTFUL = msgspec.structs.replace(INCIDENT, alternatives=[OTHER, msgspec.structs.replace(OTHER, tell_apart="")])


def test_a_page_says_what_else_it_could_be_and_what_would_tell_them_apart() -> None:
    lines = [line.strip() for line in block(Notice("page", DOUBTFUL, None), NOW_MS).splitlines()]
    other = (
        "or else   it could also be nvswitch of nvswitch:node-17/0000:05:00 (score 0.61 against 0.97): "
        "its ports lead to all of them"
    )
    at = lines.index(other)
    assert lines[at + 1] == "to tell apart: run dcgmi diag on node-17: it names the switch or the GPU"
    assert lines.count(other) == 2, "the second does not know what would decide"
    assert "or else" not in block(PAGE, NOW_MS)


def test_the_webhook_has_the_alternatives_beside_the_title(receiver: Receiver) -> None:
    webhook(receiver.url).open().deliver(Notice("page", DOUBTFUL, None), NOW_MS)
    ((_, _, body),) = receiver.got
    assert [one["component"] for one in body["alternatives"]] == [OTHER.component] * 2


def test_a_page_that_comes_late_says_that_it_is_over() -> None:
    assert "it has cleared meanwhile" in block(Notice("page", INCIDENT, NOW_MS), NOW_MS)
    assert "it has cleared meanwhile" not in block(PAGE, NOW_MS)


class Receiver:
    """An HTTP server that answers what it is told to."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.got: list[tuple[str, dict[str, str], Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((self.path, dict(self.headers), json.loads(body)))
                code, headers = receiver.answers.pop(0) if receiver.answers else (200, {})
                self.send_response(code)
                for name, value in {"Content-Length": "5", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"said\n")

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def webhook(url: str, **settings: Any) -> ChannelModel:
    return WebhookSettings.model_validate({"url": url, "timeout_seconds": 2, **settings})


def test_the_webhook_posts_the_incident_with_its_id_as_the_key_of_duplicates(receiver: Receiver) -> None:
    webhook(receiver.url, headers={"Authorization": "Bearer secret"}).open().deliver(PAGE, NOW_MS)
    ((path, headers, body),) = receiver.got
    assert path == "/hook"
    assert headers["Authorization"] == "Bearer secret"
    assert headers["Content-Type"] == "application/json"
    assert headers["Idempotency-Key"] == "8b1d-page"
    assert (body["notice"], body["dedup_key"], body["delay_ms"]) == ("page", "8b1d", 1_700)
    assert body["incident"]["members"][0]["component"] == "gpu:1650324"


@pytest.mark.parametrize(
    ("code", "may_pass"),
    [
        (500, True),
        (502, True),
        (503, True),
        (408, True),
        (429, True),
        (400, False),
        (401, False),
        (404, False),
        (302, False),
    ],
)
def test_what_the_webhook_answers_decides_whether_trying_again_can_help(
    receiver: Receiver, code: int, may_pass: bool
) -> None:
    receiver.answers = [(code, {"Location": receiver.url, "Retry-After": "7"})]
    with pytest.raises(DeliveryError, match=f"answered {code} .*: said") as failed:
        webhook(receiver.url).open().deliver(PAGE, NOW_MS)
    assert failed.value.may_pass is may_pass
    assert failed.value.after_seconds == 7
    assert len(receiver.got) == 1, "a redirect is not followed: it would lose the body"


def test_a_webhook_that_is_not_there_may_come_back() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        with pytest.raises(DeliveryError, match=r"no answer from 127\.0\.0\.1") as failed:
            webhook(url).open().deliver(PAGE, NOW_MS)
    assert failed.value.may_pass


def test_a_webhook_that_does_not_answer_in_time_may_do_so_later() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(DeliveryError, match="timed out") as failed:
            webhook(url, timeout_seconds=0.1).open().deliver(PAGE, NOW_MS)
    assert failed.value.may_pass


def test_secrets_of_a_webhook_do_not_show() -> None:
    assert "hunter2" not in repr(webhook("http://127.0.0.1/", headers={"Authorization": "hunter2"}))


def test_the_console_is_on_and_the_webhook_off_until_told() -> None:
    assert ChannelSettings().enabled() == {"console": ConsoleSettings()}
    told = ChannelSettings.model_validate({"console": None, "webhook": {"url": "https://pager.example/hook"}})
    assert list(told.enabled()) == ["webhook"]


def test_pauses_double_up_to_a_limit_and_heed_what_the_other_side_asks() -> None:
    pauses = [pause_seconds(n, first=1, longest=60, asked=None, chance=0.5) for n in range(9)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert pause_seconds(0, first=1, longest=60, asked=30, chance=0.5) == 30
    assert pause_seconds(0, first=1, longest=60, asked=9_999, chance=0.5) == 60
    assert pause_seconds(10_000, first=1, longest=60, asked=None, chance=0) == 48
