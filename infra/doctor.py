"""`fleetpulse doctor`: what this machine and this installation have, what is missing, and how to mend it.

A check is a function from settings to findings; it says what it found, never raises, and takes a few seconds at most.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra import addresses
from infra.errors import OperatorError
from infra.presence import Presence, ask, is_healthy, present
from infra.settings import Settings

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

_GIB = 2**30
_KMSG = Path("/dev/kmsg")
_LEAST_FREE_BYTES = 2 * _GIB
_LEAST_MEMORY_BYTES = 2 * _GIB
_PROBE_SECONDS = 2.0
_PROBES_AT_ONCE = 32
_FIRST_BYTES = 1 << 16
_TIME_ERROR = 5  # linux/timex.h: the clock is not synchronised


class Verdict(Enum):
    """How a check ended."""

    GOOD = "✓"
    NOTE = "·"
    """Not there, and not needed."""
    BROKEN = "✗"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    verdict: Verdict
    about: str
    found: str
    mend: str = ""
    """What it means and what to do, where something is to be done."""


Check = Callable[[Settings], Iterator[Finding]]


def python(_: Settings) -> Iterator[Finding]:
    """The interpreter."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(Verdict.GOOD, "Python", f"{version}, {sys.executable}")


def data_dir(settings: Settings) -> Iterator[Finding]:
    """Whether the data directory can be written, and the room on its disk."""
    folder = settings.data_dir.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield Finding(
            Verdict.BROKEN,
            "data directory",
            f"{folder}: {error.strerror}",
            "choose one that you may write: --data-dir, or FLEETPULSE_DATA_DIR",
        )
        return
    free = shutil.disk_usage(folder).free
    room = f"{folder}, {free / _GIB:.1f} GiB free"
    if free < _LEAST_FREE_BYTES:
        yield Finding(Verdict.BROKEN, "data directory", room, "the embedded servers need 2 GiB; make room")
    else:
        yield Finding(Verdict.GOOD, "data directory", room)


def memory(settings: Settings) -> Iterator[Finding]:
    """Whether the embedded servers fit."""
    import psutil

    if settings.kafka.bootstrap and settings.clickhouse.host:
        return
    free = psutil.virtual_memory().available
    if free < _LEAST_MEMORY_BYTES:
        yield Finding(
            Verdict.BROKEN,
            "memory",
            f"{free / _GIB:.1f} GiB available",
            "the embedded servers need about 2 GiB; end something, or set kafka.bootstrap and clickhouse.host",
        )
    else:
        yield Finding(Verdict.GOOD, "memory", f"{free / _GIB:.1f} GiB available")


def java(settings: Settings) -> Iterator[Finding]:
    """What the embedded Kafka needs."""
    if settings.kafka.bootstrap:
        return
    from infra.kafka import KAFKA_VERSION, java_runtime, kafka_jars

    try:
        runtime = java_runtime()
        yield Finding(Verdict.GOOD, "Java", runtime)
    except OperatorError as error:
        yield Finding(Verdict.BROKEN, "Java", "not there", str(error))
        return
    try:
        count = len(kafka_jars(addresses.kafka_dir(settings)))
        yield Finding(Verdict.GOOD, "Kafka's jars", f"{count} of Apache Kafka {KAFKA_VERSION}")
    except OperatorError as error:
        yield Finding(Verdict.BROKEN, "Kafka's jars", "not there", str(error))


def processes(settings: Settings) -> Iterator[Finding]:
    """What runs on the data directory."""
    here = present(settings.data_dir.absolute())
    if not here:
        yield Finding(Verdict.NOTE, "processes", "none runs on this data directory", "`fleetpulse up` starts them")
    if "up" in here:
        yield from _restarts(here["up"], set(here))
    for name, one in here.items():
        where = f"process {one.pid}, http://{one.host}:{one.port}/metrics"
        if is_healthy(one):
            yield Finding(Verdict.GOOD, name, where)
        else:
            yield Finding(
                Verdict.BROKEN, name, where, f"its main loop does not answer; see http://{one.host}:{one.port}/healthz"
            )


def _restarts(supervisor: Presence, here: set[str]) -> Iterator[Finding]:
    """What the supervisor says of its processes: one that dies again and again is absent most of the time."""
    from prometheus_client.parser import text_string_to_metric_families

    page = ask(supervisor, "/metrics")[1].decode()
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name != "fleetpulse_process_restarts_total" or not sample.value:
                continue
            name, times = sample.labels["process"], f"died and was started again {sample.value:.0f} times"
            if name in here:
                yield Finding(Verdict.NOTE, name, times, "what `fleetpulse up` logged says why")
            else:
                yield Finding(Verdict.BROKEN, name, f"{times}, and is away now", "what `fleetpulse up` logged says why")


def ports(settings: Settings) -> Iterator[Finding]:
    """Whether chosen ports of what we would start are free."""
    here = present(settings.data_dir.absolute())
    wanted = []
    if settings.kafka.bootstrap is None and settings.kafka.port and "kafka" not in here:
        wanted.append(("kafka.port", settings.kafka.port))
    if settings.clickhouse.host is None and settings.clickhouse.port and "clickhouse" not in here:
        wanted.append(("clickhouse.port", settings.clickhouse.port))
    wanted += [(f"observe.ports.{name}", port) for name, port in settings.observe.ports.items() if name not in here]
    for key, port in wanted:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                yield Finding(Verdict.GOOD, key, f"port {port} is free")
            except OSError as error:
                mend = f"port {port} cannot be had ({error.strerror}); end what uses it, or set another {key}"
                yield Finding(Verdict.BROKEN, key, f"port {port}", mend)


def kafka(settings: Settings) -> Iterator[Finding]:
    """Whether Kafka answers and has the topics."""
    from infra.kafka import answers
    from infra.topics import inspect, wanted

    given = settings.kafka.bootstrap
    if not given and "kafka" not in present(settings.data_dir.absolute()):
        yield Finding(Verdict.NOTE, "Kafka", "the embedded one is not running", "`fleetpulse up` starts it")
        return
    where = addresses.bootstrap(settings)
    if not answers(where, timeout_seconds=5):
        mend = "check kafka.bootstrap, and that the broker's port is reachable from here" if given else "see its log"
        yield Finding(Verdict.BROKEN, "Kafka", f"{where} does not answer", mend)
        return
    yield Finding(Verdict.GOOD, "Kafka", where)
    part = settings.kafka
    try:
        state = inspect(addresses.kafka_client(settings), wanted(part.partitions, part.retention_hours))
    except OperatorError as error:
        yield Finding(Verdict.BROKEN, "topics", "could not be read", str(error))
        return
    if state.missing:
        missing = ", ".join(state.missing)
        yield Finding(Verdict.BROKEN, "topics", f"missing: {missing}", "`fleetpulse topics` creates them")
    else:
        yield Finding(Verdict.GOOD, "topics", f"{len(state.present)} are there")
    for drift in state.drift:
        yield Finding(
            Verdict.NOTE, "topics", str(drift), "nothing is changed for you; kafka-configs or kafka-topics do it"
        )


def clickhouse(settings: Settings) -> Iterator[Finding]:
    """Whether ClickHouse answers both logins and has the tables."""
    given = settings.clickhouse.host
    if not given and "clickhouse" not in present(settings.data_dir.absolute()):
        yield Finding(Verdict.NOTE, "ClickHouse", "the embedded one is not running", "`fleetpulse up` starts it")
        return
    where = addresses.clickhouse(settings)
    try:
        client = addresses.writer(settings)()
    except Exception as error:  # noqa: BLE001 - clickhouse-connect raises its own and the network's
        said = str(error).strip().splitlines()[0][:200]
        mend = "check clickhouse.host, port, username and password_file" if given else "see what `fleetpulse up` logs"
        yield Finding(Verdict.BROKEN, "ClickHouse", f"{where.host}:{where.port}: {said}", mend)
        return
    with client:
        yield Finding(Verdict.GOOD, "ClickHouse", f"{where.host}:{where.port}, version {client.server_version}")
        yield from _migrations(client, settings.clickhouse.database)
    try:
        with addresses.analyst(settings)():
            yield Finding(Verdict.GOOD, "analyst login", settings.clickhouse.analyst_username)
    except Exception as error:  # noqa: BLE001 - as above
        said = str(error).strip().splitlines()[0][:200]
        yield Finding(
            Verdict.BROKEN, "analyst login", said, "`fleetpulse sql` needs it: clickhouse.analyst_username, _password"
        )


def _migrations(client: Client, database: str) -> Iterator[Finding]:
    from clickhouse_connect.driver.exceptions import Error

    from sinks.clickhouse.migrate import migrations

    wanted = {migration.version for migration in migrations()}
    mend = "`fleetpulse migrate` brings them up to date"
    try:
        rows = client.query(f"SELECT DISTINCT version FROM {database}.schema_migrations").result_rows  # noqa: S608
    except Error:
        yield Finding(Verdict.BROKEN, "tables", f"database {database} has none of ours", mend)
        return
    missing = wanted - {int(version) for (version,) in rows}
    if missing:
        yield Finding(Verdict.BROKEN, "tables", f"{len(missing)} of {len(wanted)} migrations are missing", mend)
    else:
        yield Finding(Verdict.GOOD, "tables", f"database {database}, all {len(wanted)} migrations")


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
        try:
            port = url.port or (443 if url.scheme == "https" else 80)
        except ValueError as error:
            yield Finding(Verdict.NOTE, about, f"{bmc.url}: {error}", "correct the url in agent.facility.bmcs")
            continue
        wanted.append((about, url.hostname or "", port))
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


def clock(_: Settings) -> Iterator[Finding]:
    """Whether the kernel says that the clock is kept right."""
    state = _clock_state()
    if state is None:
        yield Finding(Verdict.NOTE, "clock", "whether it is synchronised cannot be told here")
    elif state:
        yield Finding(Verdict.GOOD, "clock", f"synchronised, {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())} UTC")
    else:
        mend = "event times of this node may be off; run chrony, ntpd or systemd-timesyncd"
        yield Finding(Verdict.NOTE, "clock", "the kernel says it is not synchronised", mend)


def _clock_state() -> bool | None:
    import ctypes

    class Timex(ctypes.Structure):
        _fields_ = (("modes", ctypes.c_uint), ("rest", ctypes.c_byte * 256))

    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.byref(Timex()))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR


CHECKS: tuple[Check, ...] = (
    python, data_dir, memory, java, ports, processes, kafka, clickhouse, gpus, kernel_log, node_programs,
    exporter, facility, clock,
)  # fmt: skip


def examine(settings: Settings) -> list[Finding]:
    """Every finding of every check. A check that fails by itself is a finding."""
    findings: list[Finding] = []
    for check in CHECKS:
        try:
            findings += check(settings)
        except Exception as error:  # noqa: BLE001 - one broken check must not hide the others
            name = check.__name__.replace("_", " ")
            findings.append(Finding(Verdict.BROKEN, name, f"the check failed: {type(error).__name__}: {error}"))
    return findings


def run(settings: Settings) -> int:
    """Print what was found; 1 if something needed is broken."""
    console = Console()
    findings = examine(settings)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    colours = {Verdict.GOOD: "green", Verdict.NOTE: "yellow", Verdict.BROKEN: "bold red"}
    for finding in findings:
        text = escape(finding.found)
        if finding.mend and finding.verdict is not Verdict.GOOD:
            text += f"\n[dim]→[/] {escape(finding.mend)}"
        table.add_row(f"[{colours[finding.verdict]}]{finding.verdict.value}[/]", finding.about, text)
    console.print(table)
    broken = [finding.about for finding in findings if finding.verdict is Verdict.BROKEN]
    console.print()
    if broken:
        console.print(f"[bold red]broken:[/] {escape(', '.join(broken))}")
        return 1
    console.print("[green]everything that is needed is there[/]; `·` marks what this machine does without")
    return 0
