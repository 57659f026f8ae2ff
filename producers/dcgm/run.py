"""Runs of `dcgmi diag` on this node: started, watched, stopped in time, and never two at once.

A run is a process group of its own that holds the lock of the folder, and its output goes to a file there. So a run
outlives the process that started it, and whoever looks next (the agent after a restart, `fleetpulse diagnose`) sees it
through. The folder:

    lock                 held (flock) by the running dcgmi itself, whoever started it
    request.json         a run that somebody asks the agent for: {"level": 2, "force": false, "by": "alice"}; with
                         asked_ms, else it was asked for when the file was written
    runs/ID/run.json     what is known of a run (`Run`)
    runs/ID/output.txt   what dcgmi printed; runs/ID/errors.txt: what it complained of

Nothing here waits: `poll` looks, and says how things are.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import structlog

log = structlog.get_logger()

GRACE_S = 15.0
"""dcgmi has so long to call the diagnostic off (it does so on SIGINT) before it is killed."""
OUTPUT_BYTES = 64 << 20
"""What is read of an output; a document has some 100 kB."""
_KEEP_RUNS = 10
_LOOK_S = 0.05
_LOCK_FD = 3
"""Where a run has the lock open."""


class DiagnosticsError(RuntimeError):
    """A diagnostic could not be started or kept: what was tried, what was found, what to do."""


class DcgmiMissingError(DiagnosticsError):
    """There is no dcgmi to run."""


class AlreadyRunningError(DiagnosticsError):
    """A diagnostic runs on this node already."""


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run that somebody asks the agent for."""

    level: int
    force: bool = False
    by: str = "request"
    asked_ms: int | None = None
    """When, UTC; None: not left for the agent (yet)."""

    def __post_init__(self) -> None:
        if not 1 <= self.level <= 4:
            raise ValueError(f"level is {self.level}; dcgmi knows 1 to 4")


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    id: str
    level: int
    by: str
    forced: bool
    boot_id: str
    started_ms: int
    deadline_s: float
    """On the clock that runs since the node booted, which nobody sets."""
    pid: int | None = None
    """Its process group too; None where it was killed before it could be written down."""
    pid_started: int | None = None
    """When the process was started, in the kernel's own count: tells it from another one with its number."""
    stopped_s: float | None = None
    """When it was told to end because its time was over; same clock."""
    ended_ms: int | None = None
    exit_code: int | None = None
    """None where it ended unseen, negative for a signal."""
    reported: bool = False


class Runs:
    """The runs of one folder."""

    def __init__(
        self,
        folder: Path,
        *,
        boot_id: str,
        command: str = "dcgmi",
        arguments: Sequence[str] = (),
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Callable[[], float] = time.monotonic,
        grace_s: float = GRACE_S,
    ) -> None:
        self.folder = folder
        self.command = command
        self.grace_s = grace_s
        self._arguments = tuple(arguments)
        self._boot_id = boot_id
        self._wall_ms = wall_ms
        self._clock = clock
        self._children: set[int] = set()
        self._damaged: set[str] = set()
        """Runs that cannot be read, which was told."""

    def check(self) -> str:
        """The path of dcgmi. Raises `DcgmiMissingError`."""
        found = shutil.which(self.command)
        if found is not None:
            return found
        path = Path(self.command)
        if path.exists() and path.parent != Path():
            raise DcgmiMissingError(f"{path} is there, but this user may not run it: make it executable (chmod +x)")
        raise DcgmiMissingError(
            f"there is no {self.command} on this node: install NVIDIA's datacenter-gpu-manager, or say where it is "
            "(dcgm_diag.command), or switch its schedule off (dcgm_diag.every_hours)"
        )

    def start(self, level: int, timeout_s: float, *, by: str, forced: bool = False) -> Run:
        """Start a run. Raises `DiagnosticsError`."""
        program = self.check()
        self._make_folder()
        with self._locked(tries=3) as lock:
            if lock is None:
                raise AlreadyRunningError(f"a diagnostic runs on this node already: {self._describe_holder()}")
            now_ms = self._wall_ms()
            stamp = time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime(now_ms / 1000))
            run = Run(
                id=f"{stamp}.{now_ms % 1000:03d}Z-r{level}",
                level=level,
                by=by,
                forced=forced,
                boot_id=self._boot_id,
                started_ms=now_ms,
                deadline_s=self._clock() + timeout_s,
            )
            self._prune()
            self._keep(run)
            self._hand_over(self.folder / "runs" / run.id)
            argv = [program, "diag", "-r", str(level), "-j", *self._arguments]
            try:
                pid = self._spawn(argv, self.folder / "runs" / run.id, lock)
            except OSError as error:
                shutil.rmtree(self.folder / "runs" / run.id, ignore_errors=True)
                raise DiagnosticsError(f"{program} could not be started: {error.strerror}") from error
            self._children.add(pid)
            run = msgspec.structs.replace(run, pid=pid, pid_started=_started(pid))
            self._keep(run)
        return run

    def poll(self) -> list[Run]:
        """Runs that are not reported yet, the oldest first. One whose `ended_ms` is None still runs."""
        open_runs = [run for run in self._all() if not run.reported]
        if not any(run.ended_ms is None for run in open_runs):
            return open_runs
        with self._locked() as lock:
            # whoever starts one holds the lock, so all but the last are over in any case
            over = open_runs if lock is not None else open_runs[:-1]
            seen = [self._end(run) if run in over and run.ended_ms is None else run for run in open_runs]
        return [self._in_time(run) if run.ended_ms is None else run for run in seen]

    def stop(self, run: Run) -> None:
        """Tell a run to end; kill it where it was told so long ago."""
        if run.stopped_s is None:
            self._signal(run, signal.SIGINT)
            self._keep(msgspec.structs.replace(run, stopped_s=self._clock()))
        elif self._clock() - run.stopped_s >= self.grace_s:
            self._signal(run, signal.SIGKILL)

    def overrun_s(self, run: Run) -> float:
        """For how long a run goes on although it was to be killed; 0 where all is well."""
        return 0.0 if run.ended_ms is not None else max(0.0, self._clock() - run.deadline_s - 2 * self.grace_s)

    def look(self, run_id: str) -> Run | None:
        """What is known of one run, reported or not."""
        return self._load(run_id)

    def report(self, run_id: str) -> None:
        """What a run came to is told."""
        run = self._load(run_id)
        if run is not None:
            self._keep(msgspec.structs.replace(run, reported=True))

    def output(self, run: Run) -> str:
        """What it printed; empty where nothing."""
        return _text(self.folder / "runs" / run.id / "output.txt")

    def errors(self, run: Run) -> str:
        """What it complained of."""
        return _text(self.folder / "runs" / run.id / "errors.txt")

    def take_request(self) -> Request | None:
        """The run that somebody asks for; it is asked for no more. Raises `DiagnosticsError` for what is no request."""
        return self._request(remove=True)

    def waiting_request(self) -> Request | None:
        """The same, and it stays asked for. None for what is no request: that is said when it is taken."""
        try:
            return self._request(remove=False)
        except DiagnosticsError:
            return None

    def ask(self, request: Request) -> None:
        """Leave a request for the agent, asked for now if it does not say when. Raises `DiagnosticsError`."""
        self._make_folder()
        if request.asked_ms is None:
            request = msgspec.structs.replace(request, asked_ms=self._wall_ms())
        try:
            _replace(self.folder / "request.json", msgspec.json.encode(request))
        except OSError as error:
            raise DiagnosticsError(f"no request can be left in {self.folder}: {error.strerror}") from error

    def _request(self, *, remove: bool) -> Request | None:
        path = self.folder / "request.json"
        try:
            with path.open("rb") as file:
                text, written_ms = file.read(), os.fstat(file.fileno()).st_mtime_ns // 1_000_000
            if remove:
                path.unlink()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DiagnosticsError(
                f"{path} cannot be read and removed: {error.strerror}; mend its permissions"
            ) from error
        try:
            request = msgspec.json.decode(text, type=Request)
        except (msgspec.DecodeError, ValueError) as error:
            raise DiagnosticsError(
                f'{path} is no request: {error}; expected is {{"level": 1, "force": false, "by": "your name"}}'
            ) from error
        return msgspec.structs.replace(request, asked_ms=written_ms) if request.asked_ms is None else request

    def _make_folder(self) -> None:
        try:
            (self.folder / "runs").mkdir(parents=True, exist_ok=True)
            (self.folder / "lock").touch()
        except OSError as error:
            raise DiagnosticsError(
                f"diagnostics keep their runs in {self.folder}, which cannot be written: {error.strerror}; "
                "set agent.state_dir, or run it as the agent's user"
            ) from error

    @contextmanager
    def _locked(self, tries: int = 1) -> Iterator[int | None]:
        """The lock, as long as nobody else has it: None where a run is going on."""
        try:
            lock = os.open(self.folder / "lock", os.O_RDONLY | os.O_CLOEXEC)  # whoever may read it may lock it
        except OSError as error:
            raise DiagnosticsError(f"the lock {self.folder / 'lock'} cannot be opened: {error.strerror}") from error
        try:
            got = _flock(lock)
            for _ in range(tries - 1):
                if got:
                    break
                time.sleep(_LOOK_S)  # somebody may only be looking
                got = _flock(lock)
            yield lock if got else None
        finally:
            os.close(lock)  # no unlock: that would take it from the run, which has it too

    def _spawn(self, argv: list[str], folder: Path, lock: int) -> int:
        created = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        return os.posix_spawn(
            argv[0],
            argv,
            {**os.environ, "LC_ALL": "C"},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, lock, _LOCK_FD),
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(folder / "output.txt"), created, 0o644),
                (os.POSIX_SPAWN_OPEN, 2, str(folder / "errors.txt"), created, 0o644),
            ],
            setsid=True,
            setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE],
        )

    def _in_time(self, run: Run) -> Run:
        """A run that still runs, told to end where its time is over."""
        if self._clock() >= run.deadline_s:
            self.stop(run)
            return self._load(run.id) or run
        return run

    def _end(self, run: Run) -> Run:
        """A run that is over: when, and how."""
        exit_code = None
        if run.pid is not None and run.pid in self._children:
            with suppress(ChildProcessError):
                pid, status = os.waitpid(run.pid, os.WNOHANG)
                if not pid:  # it has let the lock go, and is not quite dead
                    return run
                exit_code = os.waitstatus_to_exitcode(status)
            self._children.discard(run.pid)
        try:
            wrote_ms = (self.folder / "runs" / run.id / "output.txt").stat().st_mtime_ns // 1_000_000
        except OSError:
            wrote_ms = run.started_ms
        seen_ms = self._wall_ms() if exit_code is not None else wrote_ms
        ended_ms = max(run.started_ms, min(seen_ms, self._wall_ms()))
        run = msgspec.structs.replace(run, ended_ms=ended_ms, exit_code=exit_code)
        self._keep(run)
        return run

    def _signal(self, run: Run, number: int) -> None:
        if run.pid is None or (run.pid not in self._children and _started(run.pid) != run.pid_started):
            return  # it is not known any more whose number that is
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(run.pid, number)

    def _describe_holder(self) -> str:
        going = [run for run in self._all() if run.ended_ms is None]
        if not going:
            return "its lock is held by a process that is not known"
        run, since_s = going[-1], (self._wall_ms() - going[-1].started_ms) / 1000
        return f"level {run.level}, asked for by {run.by}, for {since_s:.0f} s (pid {run.pid})"

    def _all(self) -> list[Run]:
        """Every run that is kept, the oldest first."""
        try:
            names = sorted(path.name for path in (self.folder / "runs").iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DiagnosticsError(f"the runs in {self.folder} cannot be listed: {error.strerror}") from error
        return [run for name in names if (run := self._load(name)) is not None]

    def _load(self, run_id: str) -> Run | None:
        path = self.folder / "runs" / run_id / "run.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Run)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            if run_id not in self._damaged:
                self._damaged.add(run_id)
                log.warning("what is known of a diagnostic cannot be read", path=str(path), error=str(error))
            return None

    def _keep(self, run: Run) -> None:
        folder = self.folder / "runs" / run.id
        try:
            folder.mkdir(exist_ok=True)
            _replace(folder / "run.json", msgspec.json.encode(run))
        except OSError as error:
            raise DiagnosticsError(f"what is known of a diagnostic cannot be kept in {folder}: {error}") from error

    def _hand_over(self, folder: Path) -> None:
        """What root starts by hand is the agent's all the same: it has to note there what it told."""
        owner = self.folder.stat()
        if os.geteuid() == 0 != owner.st_uid:
            os.chown(folder, owner.st_uid, owner.st_gid)

    def _prune(self) -> None:
        told = [run for run in self._all() if run.reported]
        for run in told[: 1 - _KEEP_RUNS]:
            shutil.rmtree(self.folder / "runs" / run.id, ignore_errors=True)


def _flock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _started(pid: int) -> int | None:
    """The kernel's start time of a process; None where there is none (any more)."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(OUTPUT_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_bytes(content)
    temporary.replace(path)
