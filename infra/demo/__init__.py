"""`fleetpulse demo`: the whole pipeline on this machine, a simulated fleet that breaks on schedule, and a scorecard."""

from __future__ import annotations

import shutil
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from infra import observe, pipeline
from infra.demo.scorecard import Scorecard
from infra.demo.show import Show, ending, show_for
from infra.demo.watch import Watch
from infra.errors import MisuseError, OperatorError
from infra.settings import Settings
from infra.supervise import LOCK_FILE, Supervisor, sole

if TYPE_CHECKING:
    from infra.options import Options

SITE = "demo"
_MARK = ".fleetpulse-demo"
"""A data directory of the demo's own, which the next demo may empty."""
_COUNTERS_SECONDS = 2
_LOOK_SECONDS = 0.25
_PLAIN_COLUMNS = 120
"""A file or a pipe has no width of its own."""
_SETTLE_SECONDS = 20.0
"""How much longer a verdict may take that is still missing then. It comes in seconds; a busy machine takes longer."""
_FOR_EVER_SECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Script:
    """How large and how long."""

    duration_seconds: float = 90
    """When the scorecard is due, from the fleet's first tick."""
    warmup_seconds: float = 15
    racks: str | None = None
    """`simulate.racks` as JSON; its default where None."""

    def environment(self, truth: Path) -> dict[str, str]:
        """The settings of the simulation."""
        given = {
            "SITE": SITE,
            # it must outlive the scorecard: a fleet that ends is a fleet that has fallen silent
            "DURATION_S": str(_FOR_EVER_SECONDS),
            "WARMUP_S": str(self.warmup_seconds),
            "TRUTH_PATH": str(truth),
            "COUNTERS_INTERVAL_S": str(_COUNTERS_SECONDS),
        }
        if self.racks:
            given["RACKS"] = self.racks
        return {f"FLEETPULSE_SIMULATE__{name}": value for name, value in given.items()}


HASTE = {f"FLEETPULSE_STREAMS__COUNTERS_{name}_MS": str(_COUNTERS_SECONDS * 1000) for name in ("TICK", "GRACE")}
"""Nobody watches for as long as counters are given in a fleet that nobody watches: they are read and judged sooner."""
LONG = Script()
SHORT = Script(
    # the GPU that overheats needs 31 s to get too hot, and must stay so for 5 s
    duration_seconds=46,
    warmup_seconds=6,
    racks='[{"kind":"hgx","racks":2,"nodes":2},{"kind":"nvl72","racks":2,"nodes":4}]',
)


class _Interrupted(BaseException):
    """Ctrl-C or SIGTERM."""


def run(options: Options, *, keep: bool, short: bool, plain: bool) -> int:
    """Play the demo; 0 only if every fault was found with the right root and nobody was woken for nothing."""
    settings = options.settings()
    _refuse_other_servers(settings)
    data_dir = (options.data_dir or Path("var/demo")).absolute()
    settings = settings.model_copy(update={"data_dir": data_dir})
    _empty(data_dir)
    observe.configure_logging("demo", level="error")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    script = SHORT if short else LONG
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PLAIN_COLUMNS)
    try:
        with ExitStack() as stack:
            show = stack.enter_context(show_for(console, plain=plain, total_seconds=script.duration_seconds))
            child_options = ["--data-dir", str(data_dir)]
            if options.config:
                child_options += ["--config", str(options.config.absolute())]
            supervisor = stack.enter_context(
                pipeline.running(
                    settings, child_options, environment=HASTE, log_dir=data_dir / "log", waiting=show.starting
                )
            )
            card = _play(settings, script, supervisor, show)
            show.close()
            ending(console, settings, card, data_dir, keep=keep)
            if keep:
                _stay(console, supervisor, data_dir)
            console.print("[dim]stopping …[/]")
            _let_nothing_interrupt()
    except _Interrupted:
        console.print("stopped before the end", style="yellow")
        return 130
    return 0 if card.passed else 1


def _play(settings: Settings, script: Script, supervisor: Supervisor, show: Show) -> Scorecard:
    truth = settings.data_dir / "truth.jsonl"
    roles = [pipeline.simulation(**script.environment(truth))]
    if _has_gpu():
        roles.append(pipeline.agent())
    supervisor.start(roles, waiting=lambda: show.starting("the simulated fleet"))
    with Watch(settings, site=SITE, truth=truth, expected=len(settings.simulate.faults)) as watch:
        began = time.monotonic()
        while True:
            supervisor.step()
            seen = watch.seen()
            elapsed = time.monotonic() - began
            due = elapsed > script.duration_seconds
            show.update(seen, elapsed, "the last verdicts" if due else "the fleet runs")
            passed = seen.card is not None and seen.card.passed
            if due and (passed or elapsed > script.duration_seconds + _SETTLE_SECONDS):
                return seen.card or Scorecard((), ())
            time.sleep(_LOOK_SECONDS)


def _stay(console: Console, supervisor: Supervisor, data_dir: Path) -> None:
    console.print(f"everything still runs (data in {data_dir}); [bold]Ctrl-C[/] ends it")
    try:
        while True:
            supervisor.step()
            time.sleep(_LOOK_SECONDS)
    except _Interrupted:
        return


def _has_gpu() -> bool:
    import pynvml

    try:
        pynvml.nvmlInit()
        return bool(pynvml.nvmlDeviceGetCount() > 0)
    except pynvml.NVMLError:
        return False


def _interrupt(*_: object) -> None:
    _let_nothing_interrupt()
    raise _Interrupted


def _let_nothing_interrupt() -> None:
    # the way down is not to be cut short: it is what leaves nothing behind
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _refuse_other_servers(settings: Settings) -> None:
    given = [
        name
        for name, value in (
            ("kafka.bootstrap", settings.kafka.bootstrap),
            ("clickhouse.host", settings.clickhouse.host),
        )
        if value
    ]
    if given:
        raise MisuseError(
            f"the demo brings servers of its own and fills them with a simulated fleet, but {' and '.join(given)} "
            "names yours; unset it, or run `fleetpulse up --simulate` to use yours"
        )


def _empty(data_dir: Path) -> None:
    """Begin with nothing: what a demo left is removed, anything else is refused."""
    if data_dir.exists() and any(data_dir.iterdir()):
        if not (data_dir / _MARK).exists():
            raise MisuseError(f"{data_dir} holds something that is no demo's; choose another directory with --data-dir")
        with sole(data_dir):
            for path in data_dir.iterdir():
                if path.name in {_MARK, LOCK_FILE}:
                    continue
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        (data_dir / _MARK).touch()
    except OSError as error:
        raise OperatorError(f"the demo cannot keep its data in {data_dir}: {error.strerror}") from error
