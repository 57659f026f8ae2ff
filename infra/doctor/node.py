"""What a node's sources need: driver, kernel log, programs, dcgm-exporter, devices around the node, the clock."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from infra.doctor.finding import Check, Finding, Verdict
from infra.settings import Settings

_KMSG = Path("/dev/kmsg")
_PROBE_SECONDS = 2.0
_PROBES_AT_ONCE = 32
_FIRST_BYTES = 1 << 16


def gpus(_: Settings) -> Iterator[Finding]:
    """Whether the NVIDIA driver answers."""
    import pynvml

    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        driver = pynvml.nvmlSystemGetDriverVersion()
        pynvml.nvmlShutdown()
        yield Finding(Verdict.GOOD, "NVIDIA GPUs", f"{count}, driver {driver}")
    except pynvml.NVMLError as error:
        yield Finding(
            Verdict.NOTE,
            "NVIDIA GPUs",
            f"none that the driver shows ({error})",
            "only a node's agent needs them; on a GPU node check `nvidia-smi`",
        )


def kernel_log(settings: Settings) -> Iterator[Finding]:
    """Whether kernel messages can be read."""
    from producers.kernel_log.journal import COMMAND, JOURNAL

    for path in settings.agent.kernel_logs:
        if path == JOURNAL:
            yield _program(COMMAND[0], "kernel log", "the journal", "install systemd's journalctl, or read /dev/kmsg")
            continue
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            yield Finding(Verdict.GOOD, "kernel log", str(path))
        except OSError as error:
            missing = error.errno in {errno.ENOENT, errno.ENOTDIR}
            # a log that somebody named is wanted; the default is what a container, or another system, has not
            verdict = Verdict.BROKEN if missing and "kernel_logs" in settings.agent.model_fields_set else Verdict.NOTE
            mend = f"the agent would see no XID here: {_mend_log(path, error.errno)}"
            yield Finding(verdict, "kernel log", f"{path}: {error.strerror}", mend)


def _mend_log(path: Path, number: int | None) -> str:
    if number in {errno.ENOENT, errno.ENOTDIR}:
        if path == _KMSG:
            return "name a log file, or journal:, in agent.kernel_logs; a container needs the host's device"
        return "correct agent.kernel_logs, or create the file (does the log daemon write it?)"
    if number in {errno.EACCES, errno.EPERM}:
        if path == _KMSG:
            return "run it as root or with CAP_SYSLOG"
        return "run it as root, or put its user into the file's group (often adm)"
    return "correct agent.kernel_logs"


def node_programs(settings: Settings) -> Iterator[Finding]:
    """The programs that single sources of the agent run; only where their source is wanted, or a GPU is there."""
    from producers.discovery import has_nvidia_gpu

    part = settings.agent
    if has_nvidia_gpu() or part.dcgm_diag.every_hours:
        mend = "diagnostics cannot run: install NVIDIA's datacenter-gpu-manager"
        yield _program(part.dcgm_diag.command, "DCGM diagnostics", part.dcgm_diag.command, mend)
    if any(bmc.url is None for bmc in part.facility.bmcs):
        yield _program("ipmitool", "management controllers", "ipmitool", "apt install ipmitool, or set url (Redfish)")
    for device in part.facility.devices:
        if device.serial is not None:
            yield _readable(Path(device.serial), f"device {device.name}")


def exporter(settings: Settings) -> Iterator[Finding]:
    """Whether dcgm-exporter's page is there, where one is to be read."""
    part, about = settings.agent.dcgm_exporter, "dcgm-exporter"
    if part.url is None:
        return
    headers = {"User-Agent": "fleetpulse"}
    if part.authorization_file is not None:
        try:
            headers["Authorization"] = part.authorization_file.read_text().strip()
        except OSError as error:
            mend = "let the agent's user read it, or correct agent.dcgm_exporter.authorization_file"
            yield Finding(Verdict.NOTE, about, f"{part.authorization_file}: {error.strerror}", mend)
            return
    trouble = _page_trouble(part.url, headers)
    if trouble is None:
        yield Finding(Verdict.GOOD, about, part.url)
    else:
        yield Finding(Verdict.NOTE, about, f"{part.url}: {trouble[0]}", trouble[1])


def _page_trouble(url: str, headers: dict[str, str]) -> tuple[str, str] | None:
    """What is wrong with a page of dcgm-exporter, and what to do; None: nothing."""
    import urllib.request
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError

    class NoRedirect(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: object) -> None:
            return None

    # as the agent asks: past proxies, and not to wherever the page points
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), NoRedirect)
    correct = "correct agent.dcgm_exporter.url; by default the page is http://HOST:9400/metrics"
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the setting allows http and https only
        with opener.open(request, timeout=_PROBE_SECONDS) as answer:
            begins = answer.read1(_FIRST_BYTES)
    except HTTPError as error:
        error.close()
        refused = error.code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
        return f"answers {error.code}", "set agent.dcgm_exporter.authorization_file" if refused else correct
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        is_it = "is dcgm-exporter running (systemctl status dcgm-exporter), and does it listen there?"
        return _why(reason), f"{is_it} Else correct agent.dcgm_exporter.url"
    return (
        None
        if b"DCGM_" in begins
        else ("this page has none of DCGM's metrics", f"see the exporter's log, or {correct}")
    )


def facility(settings: Settings) -> Iterator[Finding]:
    """Whether something listens where devices and management controllers are said to be."""
    part = settings.agent.facility
    wanted = [(f"device {one.name}", one.host, one.port) for one in part.devices if one.host is not None]
    for bmc in part.bmcs:
        if bmc.url is None:
            continue
        about, url = f"controller of {bmc.of_node or settings.agent.node}", urlsplit(bmc.url)
        wanted.append((about, url.hostname or "", url.port or (443 if url.scheme == "https" else 80)))
    places = list(dict.fromkeys((host, port) for _, host, port in wanted))  # a serial server has many devices
    with ThreadPoolExecutor(_PROBES_AT_ONCE) as pool:
        troubles = dict(zip(places, pool.map(_tcp_trouble, places), strict=True))
    for about, host, port in wanted:
        where, trouble = f"{host} port {port}", troubles[host, port]
        if trouble is None:
            yield Finding(Verdict.GOOD, about, f"{where} takes connections")
        else:
            mend = "is it on, and is its network reachable from here? Else correct host, port or url in agent.facility"
            yield Finding(Verdict.NOTE, about, f"{where}: {trouble}", mend)


def _tcp_trouble(place: tuple[str, int]) -> str | None:
    try:
        socket.create_connection(place, timeout=_PROBE_SECONDS).close()
    except (OSError, ValueError) as error:
        return _why(error)
    return None


def _why(error: BaseException | str) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {_PROBE_SECONDS:g} s"
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def _program(command: str, what: str, good: str, mend: str) -> Finding:
    if shutil.which(command):
        return Finding(Verdict.GOOD, what, good)
    return Finding(Verdict.NOTE, what, f"{command} is not on the PATH", mend)


def _readable(path: Path, what: str) -> Finding:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError as error:
        mend = "put the agent's user into the group of the device (often dialout), or correct agent.facility"
        return Finding(Verdict.NOTE, what, f"{path}: {error.strerror}", mend)
    return Finding(Verdict.GOOD, what, str(path))


def clock(settings: Settings) -> Iterator[Finding]:
    """Whether somebody keeps the clock right, by the measure that the agent takes."""
    from producers.host.clock import kernel_clock

    try:
        off_s = kernel_clock().max_error_s
    except (OSError, NotImplementedError) as error:
        yield Finding(Verdict.NOTE, "clock", f"how right it is cannot be told here: {_why(error)}")
        return
    if off_s < settings.agent.host.clock_error_s:
        yield Finding(Verdict.GOOD, "clock", f"off by {off_s:.3f} s at most, as the kernel reckons")
    else:
        mend = "this node's events may be out of order with those of others; run chrony, ntpd or systemd-timesyncd"
        yield Finding(Verdict.NOTE, "clock", f"nobody sets it: it may be off by {off_s:.0f} s or more", mend)


CHECKS: tuple[Check, ...] = (gpus, kernel_log, node_programs, exporter, facility, clock)
