"""`fleetpulse doctor` on what the agent reads: logs, dcgm-exporter, devices and controllers, each with its remedy."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from infra.doctor.finding import Finding, Verdict
from infra.doctor.node import clock, exporter, facility, kernel_log
from infra.settings import Settings, load
from producers.host.clock import KernelClock

PAGE = b'# HELP DCGM_FI_DEV_SM_CLOCK SM clock\nDCGM_FI_DEV_SM_CLOCK{gpu="0"} 1980\n'


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("FLEETPULSE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def settings_of(agent: str = "") -> Settings:
    """The settings of a file with this below `[agent]`."""
    path = Path("fleetpulse.toml")
    path.write_text(f"[agent]\n{agent}\n")
    return load(path)


def only(check: Callable[[Settings], Iterator[Finding]], agent: str) -> Finding:
    (finding,) = check(settings_of(agent))
    return finding


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- kernel logs ------------------------------------------------------------------------------------------------------


def refuses(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Opening fails in this way (a test that runs as root is refused nothing)."""

    def refuse(path: object, *_: object) -> int:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr("infra.doctor.node.os.open", refuse)


def test_a_log_that_can_be_read_is_good(tmp_path: Path) -> None:
    log = tmp_path / "kern.log"
    log.write_text("")
    found = only(kernel_log, f'kernel_logs = ["{log}"]')
    assert (found.verdict, found.found) == (Verdict.GOOD, str(log))


def test_a_log_that_was_named_and_is_missing_is_broken(tmp_path: Path) -> None:
    found = only(kernel_log, f'kernel_logs = ["{tmp_path}/kern.lgo"]')
    assert found.verdict is Verdict.BROKEN
    assert found.found == f"{tmp_path}/kern.lgo: No such file or directory"
    assert "correct agent.kernel_logs, or create the file" in found.mend
    assert "root" not in found.mend


def test_a_log_that_was_named_in_the_environment_is_wanted_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEETPULSE_AGENT__KERNEL_LOGS", f'["{tmp_path}/kern.log"]')
    assert only(kernel_log, "").verdict is Verdict.BROKEN


def test_without_dev_kmsg_by_default_it_is_noted_what_to_name(monkeypatch: pytest.MonkeyPatch) -> None:
    refuses(monkeypatch, errno.ENOENT)
    found = only(kernel_log, "")
    assert found.verdict is Verdict.NOTE
    assert found.found == "/dev/kmsg: No such file or directory"
    assert "agent.kernel_logs" in found.mend
    assert "CAP_SYSLOG" not in found.mend


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
@pytest.mark.parametrize(
    ("agent", "mend"), [("", "root or with CAP_SYSLOG"), ('kernel_logs = ["kern.log"]', "the file's group (often adm)")]
)
def test_a_log_that_may_not_be_read_here_is_noted_with_the_right_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, agent: str, mend: str, number: int
) -> None:
    refuses(monkeypatch, number)
    found = only(kernel_log, agent)
    assert found.verdict is Verdict.NOTE  # the agent may run as another user
    assert mend in found.mend


# --- dcgm-exporter ----------------------------------------------------------------------------------------------------


@contextmanager
def web(status: int = 200, body: bytes = PAGE, *, location: str = "", slow_s: float = 0) -> Iterator[tuple[str, Any]]:
    """A page and what was asked of it."""
    asked: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(dict(self.headers))
            time.sleep(slow_s)
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_an_exporter_that_nobody_named_is_not_looked_for() -> None:
    assert list(exporter(settings_of())) == []


def test_an_exporter_with_its_page_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # the agent does not ask through it either
    with web() as (url, _):
        found = only(exporter, f'dcgm_exporter.url = "{url}"')
    assert (found.verdict, found.found) == (Verdict.GOOD, url)


def test_an_exporter_is_shown_the_authorization(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("Bearer abc\n")
    with web() as (url, asked):
        only(exporter, f'dcgm_exporter.url = "{url}"\ndcgm_exporter.authorization_file = "{tmp_path}/key"')
    assert asked[0]["Authorization"] == "Bearer abc"


def test_an_authorization_that_cannot_be_read_is_told() -> None:
    found = only(exporter, 'dcgm_exporter.url = "http://127.0.0.1:1/"\ndcgm_exporter.authorization_file = "none"')
    assert (found.verdict, found.found) == (Verdict.NOTE, "none: No such file or directory")


def test_an_exporter_that_is_away_is_noted_with_what_to_look_at() -> None:
    url = f"http://127.0.0.1:{free_port()}/metrics"
    found = only(exporter, f'dcgm_exporter.url = "{url}"')
    assert (found.verdict, found.found) == (Verdict.NOTE, f"{url}: Connection refused")
    assert "systemctl status dcgm-exporter" in found.mend


@pytest.mark.parametrize(
    ("page", "said", "mend"),
    [
        ({"status": 404}, "answers 404", "correct agent.dcgm_exporter.url"),
        ({"status": 401}, "answers 401", "agent.dcgm_exporter.authorization_file"),
        ({"status": 302, "location": "http://127.0.0.1:1/"}, "answers 302", "correct agent.dcgm_exporter.url"),
        ({"body": b"<html>welcome"}, "this page has none of DCGM's metrics", "correct agent.dcgm_exporter.url"),
        ({"body": b""}, "this page has none of DCGM's metrics", "see the exporter's log"),
    ],
    ids=["wrong page", "locked", "elsewhere", "another program", "no GPU"],
)
def test_a_page_that_is_none_of_an_exporter_is_noted(page: dict[str, Any], said: str, mend: str) -> None:
    with web(**page) as (url, _):
        found = only(exporter, f'dcgm_exporter.url = "{url}"')
    assert (found.verdict, found.found) == (Verdict.NOTE, f"{url}: {said}")
    assert mend in found.mend


def test_an_exporter_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.doctor.node._PROBE_SECONDS", 0.1)
    with web(slow_s=0.5) as (url, _):
        found = only(exporter, f'dcgm_exporter.url = "{url}"')
    assert (found.verdict, found.found) == (Verdict.NOTE, f"{url}: no answer within 0.1 s")


# --- devices around the node ------------------------------------------------------------------------------------------


def device(name: str, port: int) -> str:
    return (
        f'[[agent.facility.devices]]\nname = "{name}"\nkind = "pdu"\nmap = "my.toml"\n'
        f'host = "127.0.0.1"\nport = {port}\nunit = 1\n'
    )


def test_where_nothing_is_configured_nothing_is_asked() -> None:
    assert list(facility(settings_of())) == []


def test_devices_and_controllers_that_take_connections_are_good_and_the_others_noted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        here, away = there.getsockname()[1], free_port()
        bmcs = "".join(
            f'[[agent.facility.bmcs]]\nof_node = "{node}"\nurl = "https://127.0.0.1:{port}"\n'
            for node, port in (("n1", here), ("n2", away))
        )
        found = list(facility(settings_of(device("a", here) + device("b", away) + bmcs)))

    assert [(one.about, one.verdict) for one in found] == [
        ("device a", Verdict.GOOD),
        ("device b", Verdict.NOTE),
        ("controller of n1", Verdict.GOOD),
        ("controller of n2", Verdict.NOTE),
    ]
    assert found[1].found == f"127.0.0.1 port {away}: Connection refused"
    assert "agent.facility" in found[1].mend


def test_devices_on_one_serial_server_cost_one_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        port = there.getsockname()[1]
        found = list(facility(settings_of("".join(device(name, port) for name in "abc"))))
        there.settimeout(0.2)
        there.accept()[0].close()
        with pytest.raises(TimeoutError):
            there.accept()
    assert [one.verdict for one in found] == [Verdict.GOOD] * 3


@pytest.mark.parametrize(("url", "port"), [("https://127.0.0.1", 443), ("http://127.0.0.1", 80)])
def test_a_controller_without_a_port_is_asked_at_that_of_its_scheme(url: str, port: int) -> None:
    (found,) = facility(settings_of(f'[[agent.facility.bmcs]]\nof_node = "n"\nurl = "{url}"\n'))
    assert found.found.startswith(f"127.0.0.1 port {port}")


# --- the clock --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("off_s", "verdict", "said"),
    [(0.012, Verdict.GOOD, "off by 0.012 s at most"), (16.0, Verdict.NOTE, "nobody sets it: it may be off by 16 s")],
)
def test_the_clock_is_judged_as_the_agent_judges_it(
    monkeypatch: pytest.MonkeyPatch, off_s: float, verdict: Verdict, said: str
) -> None:
    # a chrony without `rtcsync` never tells the kernel that it sets the clock, so its flag says nothing
    known = KernelClock(disciplined=False, max_error_s=off_s, estimated_error_s=off_s)
    monkeypatch.setattr("producers.host.clock.kernel_clock", lambda: known)
    found = only(clock, "")
    assert found.verdict is verdict
    assert said in found.found


def test_a_clock_that_cannot_be_asked_is_noted_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden() -> KernelClock:
        raise OSError(errno.EPERM, "Operation not permitted (adjtimex)")

    monkeypatch.setattr("producers.host.clock.kernel_clock", forbidden)
    found = only(clock, "")
    assert (found.verdict, found.mend) == (Verdict.NOTE, "")
    assert "Operation not permitted" in found.found
