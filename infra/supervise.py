"""Keep a set of processes running on one machine: start them in order, start again what dies, stop them in order.

Each is `python -m infra.cli ROLE`, in a process group of its own and tied to this process: Ctrl-C reaches only the
supervisor, and nothing stays behind when the supervisor itself is killed.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import structlog

from infra.errors import OperatorError
from infra.lifeline import tied
from infra.metrics import PROCESS_RESTARTS, PROCESS_UP
from infra.presence import is_healthy, present

log = structlog.get_logger()

LOCK_FILE = "up.lock"
"""In a data directory: held by its supervisor."""

_STOP_SECONDS = 30.0
"""A little more than a process takes to end itself when its body does not."""
_PROBE_SECONDS = 5.0
_HUNG_SECONDS = 60.0
"""How long `/healthz` may say 503, or nothing, before a process counts as dead. Longer than any honest pause."""


_OURS = {
    "PYTHONUNBUFFERED": "1",
    # with -P this very code is run, not what happens to be called `infra` in the current directory
    "PYTHONPATH": os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")))),
}


@dataclass(frozen=True, slots=True)
class Role:
    """One process to keep running."""

    name: str
    """The process name, e.g. `streams-0`: in logs, metrics and `run/`."""
    arguments: tuple[str, ...]
    """What follows `python -m infra.cli`."""
    tier: int
    """Lower tiers start first, and stop last."""
    ends: bool = False
    """It may end by itself with exit 0, and is done then."""
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before a process that died is started again."""

    first_seconds: float = 0.5
    most_seconds: float = 30.0
    forgiven_seconds: float = 60.0
    """Having run so long, a process begins with a clean slate."""

    def wait_seconds(self, deaths: int) -> float:
        """Seconds to wait after the `deaths`-th death in a row (1 is the first)."""
        return float(min(self.most_seconds, self.first_seconds * 2 ** min(deaths - 1, 30)))


@dataclass(slots=True)
class _Child:
    role: Role
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0
    restarts: int = 0
    due: float | None = None
    """When to start it again."""
    done: bool = False
    unhealthy_since: float | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """One process as the supervisor sees it."""

    name: str
    state: str
    """running, waiting (to be started again), done, stopped"""
    pid: int | None
    restarts: int


class Supervisor:
    """The processes of one data directory.

    Call everything from one thread that lives as long as the process: the kernel ties the children to that thread.
    `step` must be called a few times each second; it starts again what died.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        options: Sequence[str] = (),
        environment: Mapping[str, str] = MappingProxyType({}),
        log_dir: Path | None = None,
        backoff: Backoff | None = None,
        program: Sequence[str] = (sys.executable, "-P", "-m", "infra.cli"),
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`options` go before every role's own arguments, `environment` is every role's besides its own; logs go to
        `log_dir`, or where this process's go.
        """
        self._data_dir = data_dir.absolute()
        self._options = tuple(options)
        self._environment = dict(environment)
        self._log_dir = log_dir
        self._backoff = backoff or Backoff()
        self._program = tuple(program)
        self._now = now
        self._children: dict[str, _Child] = {}
        self._probe_at = 0.0

    def start(
        self, roles: Sequence[Role], *, ready_seconds: float = 120.0, waiting: Callable[[], None] = lambda: None
    ) -> None:
        """Start `roles` together and return when all are there; `waiting` is called meanwhile.

        Raises `OperatorError` where one ends before it is there: what cannot start once is not tried for ever.
        """
        for role in roles:
            self._children[role.name] = child = _Child(role)
            self._spawn(child)
        deadline = self._now() + ready_seconds
        missing = {role.name for role in roles}
        while missing:
            waiting()
            here = present(self._data_dir)
            for name in sorted(missing):
                process = self._children[name].process
                code = process.poll() if process else None
                if code is not None and not (code == 0 and self._children[name].role.ends):
                    raise OperatorError(f"{name} did not start ({_how(code)}){self._last_words(name)}")
                if code == 0 or (process and name in here and here[name].pid == process.pid):
                    missing.discard(name)
            if self._now() > deadline:
                late = ", ".join(sorted(missing))
                raise OperatorError(f"{late} did not start within {ready_seconds:.0f} s{self._last_words(late)}")
            time.sleep(0.05)

    def step(self) -> None:
        """Look after everybody once: start again what died and is due."""
        now = self._now()
        for child in self._children.values():
            if child.done:
                continue
            code = child.process.poll() if child.process else None
            if child.process is not None and code is not None:
                self._note_end(child, code, now)
            if child.due is not None and now >= child.due:
                child.due = None
                child.restarts += 1
                PROCESS_RESTARTS.labels(child.role.name).inc()
                self._spawn(child)
                log.warning("started again", name=child.role.name, restarts=child.restarts)
        if now >= self._probe_at:
            self._probe_at = now + _PROBE_SECONDS
            self._end_what_hangs(now)

    def status(self) -> list[Status]:
        """Every process, in starting order."""
        return [
            Status(
                name,
                "done"
                if child.done
                else "waiting"
                if child.due is not None
                else "running"
                if child.process
                else "stopped",
                child.process.pid if child.process else None,
                child.restarts,
            )
            for name, child in self._children.items()
        ]

    def is_done(self, name: str) -> bool:
        """Whether a process that ends by itself has ended well."""
        return self._children[name].done

    def stop(self) -> None:
        """Stop everything, sources first, servers last. What does not end is killed, and said."""
        for tier in sorted({child.role.tier for child in self._children.values()}, reverse=True):
            self.stop_roles([child.role.name for child in self._children.values() if child.role.tier == tier])

    def stop_roles(self, names: Sequence[str]) -> None:
        """Stop these together and do not start them again."""
        children = [self._children[name] for name in names]
        for child in children:
            child.due = None
            if child.process and child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        for child in children:
            if child.process is None:
                continue
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("did not stop and is killed", name=child.role.name, pid=child.process.pid)
                child.process.kill()
                child.process.wait()
            PROCESS_UP.labels(child.role.name).set(0)
            child.process = None

    def _spawn(self, child: _Child) -> None:
        role = child.role
        command = [*self._program, *self._options, *role.arguments]
        out = None
        if self._log_dir:
            self._log_dir.mkdir(parents=True, exist_ok=True)
            out = (self._log_dir / f"{role.name}.log").open("ab")
        try:
            child.process = subprocess.Popen(
                tied(command),
                stdin=subprocess.DEVNULL,
                stdout=out or sys.stderr.fileno(),
                stderr=out or sys.stderr.fileno(),
                env={**os.environ, **_OURS, **self._environment, **role.environment},
                start_new_session=True,
            )
        finally:
            if out:
                out.close()
        child.started = self._now()
        child.unhealthy_since = None
        PROCESS_UP.labels(role.name).set(1)

    def _note_end(self, child: _Child, code: int, now: float) -> None:
        child.process = None
        PROCESS_UP.labels(child.role.name).set(0)
        if code == 0 and child.role.ends:
            child.done = True
            log.info("has ended", name=child.role.name)
            return
        child.deaths = 1 if now - child.started > self._backoff.forgiven_seconds else child.deaths + 1
        wait = self._backoff.wait_seconds(child.deaths)
        child.due = now + wait
        log.warning("died and is started again", name=child.role.name, how=_how(code), after_seconds=wait)

    def _end_what_hangs(self, now: float) -> None:
        here = present(self._data_dir)
        for name, child in self._children.items():
            if child.process is None or child.process.poll() is not None or name not in here:
                continue
            if here[name].pid != child.process.pid or is_healthy(here[name]):
                child.unhealthy_since = None
                continue
            child.unhealthy_since = child.unhealthy_since or now
            if now - child.unhealthy_since > _HUNG_SECONDS:
                log.error("hangs and is killed", name=name, pid=child.process.pid, seconds=_HUNG_SECONDS)
                child.process.kill()

    def _last_words(self, name: str) -> str:
        path = self._log_dir / f"{name}.log" if self._log_dir else None
        if path is None or not path.exists():
            return "; what it said stands above"
        lines = path.read_text(errors="replace").splitlines()[-4:]
        return f"; the end of {path}:\n" + "\n".join(lines)


def _how(code: int) -> str:
    """What a process's exit status says about its end."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit {code}"


@contextmanager
def sole(data_dir: Path) -> Iterator[None]:
    """Be the only supervisor of `data_dir` while inside; waits for what a killed one left to end.

    Raises `OperatorError` where there is another, where a process of ours still runs there, or where the directory
    cannot be written.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = (data_dir / LOCK_FILE).open("a+")
    except OSError as error:
        raise OperatorError(
            f"the data directory {data_dir} cannot be used: {error.strerror}; choose another with --data-dir"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise OperatorError(
                f"fleetpulse already runs on {data_dir} (process {lock.read().strip() or 'unknown'}); "
                "stop it, or choose another directory with --data-dir"
            ) from None
        lock.seek(0)
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        _wait_for_leftovers(data_dir)
        yield


def _wait_for_leftovers(data_dir: Path, seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while left := present(data_dir):
        if time.monotonic() > deadline:
            who = ", ".join(f"{one.process} (process {one.pid})" for one in left.values())
            raise OperatorError(f"on {data_dir} there still runs {who}; stop it first, then try again")
        time.sleep(0.1)
