"""What a benchmark is given: room on disk, cores, real servers, and processes of its own to measure.

A benchmark is one module with `run(context) -> Iterable[Row]`. It gives its rows as it has them, is bounded in count
and time, and leaves no process behind. What it raises becomes a row that says why; the others go on.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from infra.clickhouse.launch import Running, launched
from infra.kafka import KAFKA_VERSION, EmbeddedKafka
from infra.lifeline import tied

ROOT = Path(__file__).resolve().parent.parent.parent
_STOP_S = 15.0
# One thread each: a worker is one core, and the fleet scales by partitions.
_ONE_THREAD = dict.fromkeys(("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class BenchmarkError(RuntimeError):
    """A benchmark cannot come to its end; the message says why."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores are whose. On a machine with one core everything shares it."""

    measured: frozenset[int]
    others: frozenset[int]

    @staticmethod
    def of_this_process() -> Cores:
        """The last core for what is measured, the rest for brokers, clients and clocks."""
        *others, measured = sorted(os.sched_getaffinity(0))
        return Cores(frozenset({measured}), frozenset(others or {measured}))


@dataclass(frozen=True, slots=True)
class Context:
    """One benchmark's surroundings."""

    scratch: Path
    """An empty folder of its own, removed afterwards."""
    cores: Cores
    scale: float
    """1 is the size that is reported; smaller is quicker and says less."""
    say: Callable[[str], None]
    """What is being done now, for the one who waits."""
    pictures: Path | None = None
    """Where drawings go; None where nobody wants them."""

    @property
    def count(self) -> int:
        """How many cores there are."""
        return len(self.cores.measured | self.cores.others)

    def sized(self, number: float, *, least: int = 1) -> int:
        """A count or a number of seconds at this scale."""
        return max(least, round(number * self.scale))

    @contextmanager
    def kafka(self) -> Iterator[str]:
        """An empty real Kafka with our topics, away from the measured core; gives `host:port`."""
        from infra.topics import provision, wanted

        self.say("starting Kafka")
        folder = self._empty("kafka")
        with on(self.cores.others), EmbeddedKafka(folder) as broker:
            provision({"bootstrap.servers": broker.bootstrap}, wanted())
            yield broker.bootstrap

    @contextmanager
    def clickhouse(self, cores: frozenset[int]) -> Iterator[Running]:
        """An empty embedded ClickHouse on these cores."""
        self.say("starting ClickHouse")
        folder = self._empty("clickhouse")
        with ExitStack() as stack:
            with on(cores), quiet(self.scratch / "clickhouse.err"):
                running = stack.enter_context(launched(folder))
            yield running

    def _empty(self, name: str) -> Path:
        """A folder for a server, without what the one before had in it."""
        shutil.rmtree(self.scratch / name, ignore_errors=True)
        return self.scratch / name

    def start(
        self,
        module: str,
        given: Mapping[str, Any],
        *,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        cores: frozenset[int] | None = None,
    ) -> Measured:
        """Start `measured/<module>.py` as a process on the measured core, or on `cores`.

        `environment`: settings of ours, without the prefix.
        """
        command = [python, "-m", f"tests.benchmarks.measured.{module}", json.dumps(given)]
        return Measured(module, command, self.scratch, cores or self.cores.measured, environment or {})

    def command(self, role: str, settings: Mapping[str, str]) -> Measured:
        """Start `fleetpulse ROLE` as a user does, on all cores; `settings` are its environment without the prefix."""
        command = [sys.executable, "-m", "infra.cli", role, "--data-dir", str(self.scratch)]
        return Measured(role, command, self.scratch, self.cores.measured | self.cores.others, settings)

    def measure(
        self,
        module: str,
        given: Mapping[str, Any],
        *,
        limit_s: float,
        python: str = sys.executable,
        cores: frozenset[int] | None = None,
    ) -> dict[str, Any]:
        """Run a process on the measured core, or on `cores`, to its end; gives what it found."""
        with self.start(module, given, python=python, cores=cores) as process:
            return process.result(limit_s)


class Measured:
    """A process on cores of its own. It ends with the `with` block, and with us."""

    def __init__(
        self, name: str, command: Sequence[str], scratch: Path, cores: frozenset[int], environment: Mapping[str, str]
    ) -> None:
        self._name = name
        self._said = scratch / f"{name}-{time.monotonic_ns()}"
        clean = {key: value for key, value in os.environ.items() if not key.startswith("FLEETPULSE_")}
        with (
            self._said.with_suffix(".out").open("wb") as out,
            self._said.with_suffix(".err").open("wb") as err,
            on(cores),
        ):
            self.process = subprocess.Popen(
                tied(command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=ROOT,
                env=clean | _ONE_THREAD | {f"FLEETPULSE_{key}": value for key, value in environment.items()},
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def result(self, limit_s: float) -> dict[str, Any]:
        """Wait for its end; gives the object of its last line. Raises `BenchmarkError`."""
        try:
            code = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(
                f"{self._name} did not end within {limit_s:.0f} s; it said: {self.last_words()}"
            ) from None
        if code:
            raise BenchmarkError(f"{self._name} ended with exit status {code}: {self.last_words()}")
        lines = self._said.with_suffix(".out").read_text().strip().splitlines()
        if not lines:
            raise BenchmarkError(f"{self._name} ended without a result; it said: {self.last_words()}")
        found: dict[str, Any] = json.loads(lines[-1])
        return found

    def alive(self) -> None:
        """Raise `BenchmarkError` where it has ended."""
        if self.process.poll() is not None:
            raise BenchmarkError(f"{self._name} ended by itself ({self.process.returncode}): {self.last_words()}")

    def last_words(self) -> str:
        """The end of what it wrote to standard error."""
        lines = [
            line for line in self._said.with_suffix(".err").read_text(errors="replace").splitlines() if line.strip()
        ]
        return " / ".join(lines[-3:]) or "nothing"

    def stop(self) -> None:
        """Ask it to end; after a while it is killed."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def __enter__(self) -> Measured:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextmanager
def on(cores: frozenset[int]) -> Iterator[None]:
    """This thread, and what it starts, on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def quiet(said: Path) -> Iterator[None]:
    """What children that are started meanwhile write to standard error goes to a file: the table has the screen."""
    before = os.dup(2)
    try:
        with said.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def machine() -> str:
    """What the numbers were taken on, in one line."""
    names = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory_gib = psutil.virtual_memory().total / 2**30
    versions = [f"{name} {metadata.version(name)}" for name in ("faust-streaming", "confluent-kafka", "polars", "chdb")]
    return (
        f"{names[0] if names else platform.processor()}, {len(os.sched_getaffinity(0))} cores, {memory_gib:.0f} GiB; "
        f"Linux {platform.release()}, Python {platform.python_version()}, Kafka {KAFKA_VERSION}, {', '.join(versions)}"
    )


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
