"""How the demo is told while it plays, in a terminal (a live picture) or as lines, and what is printed at its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.syntax import Syntax
from rich.text import Text

from infra import addresses
from infra.commands.sql import connected, plain_error, table
from infra.demo.questions import questions
from infra.demo.scorecard import Scorecard
from infra.demo.seen import Seen
from infra.demo.view import WORDS, card, clock, is_early_warning, screen
from infra.settings import Settings

_LINE_SECONDS = 5.0
_STARTING = "The first start on a machine fetches Apache Kafka's jars (once), later ones take about ten seconds."


class Show(Protocol):
    """Tells of the run. Every call returns at once."""

    def starting(self, what: str) -> None:
        """`what` is being waited for."""

    def update(self, seen: Seen, elapsed_seconds: float, phase: str) -> None:
        """The newest look at everything."""

    def close(self) -> None:
        """Let the terminal go; what follows is printed. May be called twice."""


@contextmanager
def show_for(console: Console, *, plain: bool, total_seconds: float) -> Iterator[Show]:
    """A live picture where there is a terminal, lines where there is none."""
    live = console.is_terminal and not console.is_dumb_terminal and not plain
    show: Show = _Picture(console, total_seconds) if live else _Lines(console)
    try:
        yield show
    finally:
        show.close()


class _Picture:
    """The live view, on the terminal's second screen; the last picture stays on the first."""

    def __init__(self, console: Console, total_seconds: float) -> None:
        self._console = console
        self._total_seconds = total_seconds
        self._began = time.monotonic()
        self._done: list[str] = []
        self._now = ""
        self._last: tuple[Seen, float, str] | None = None
        self._live: Live | None = Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop")
        self._live.start()

    def starting(self, what: str) -> None:
        if self._live is None:
            return
        if what != self._now:
            self._done += [self._now] if self._now else []
            self._now = what
        lines = [Text.from_markup("[bold]fleetpulse[/] [dim]demo[/]\n")]
        lines += [Text(f"  ✓ {done}", style="green") for done in self._done]
        lines.append(Text(f"  … {what}   {time.monotonic() - self._began:.0f} s"))
        lines.append(Text(f"\n{_STARTING}", style="dim"))
        self._live.update(Padding(Group(*lines), (1, 2)), refresh=True)

    def update(self, seen: Seen, elapsed_seconds: float, phase: str) -> None:
        self._last = (seen, elapsed_seconds, phase)
        if self._live is not None:
            self._live.update(self._picture(*self._last, size=self._console.size), refresh=True)

    def close(self) -> None:
        if self._live is None:
            return
        self._live.stop()
        self._live = None
        if self._last is not None:
            self._console.print(self._picture(*self._last))

    def _picture(
        self, seen: Seen, elapsed_seconds: float, phase: str, size: tuple[int, int] | None = None
    ) -> RenderableType:
        total = self._total_seconds
        return screen(seen, elapsed_seconds=elapsed_seconds, total_seconds=total, phase=phase, size=size)


class _Lines:
    """One line per thing that happens, and one every few seconds on the flow."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: set[str] = set()
        self._next_line = 0.0

    def starting(self, what: str) -> None:
        if not self._said:
            self._once(_STARTING, _STARTING)
        self._once(f"starting {what}", f"starting {what}")

    def update(self, seen: Seen, elapsed_seconds: float, phase: str) -> None:
        at = f"{elapsed_seconds:5.1f} s  "
        for row in seen.card.rows if seen.card else ():
            one = row.injected
            where = f"{WORDS.get(one.fault, one.fault)}: {one.component} on {one.node}, rack {one.rack}"
            self._once(f"injected {one.fault} {one.component}", f"{at}broken    {where}")
        for told in (seen.told or {}).values():
            if is_early_warning(told):
                warning = told.newest
                action = warning.action.replace("_", " ")
                text = f"{at}warning   {warning.title}; {action}; nobody is woken"
                self._once(f"warning {warning.incident_id}", text)
            if told.page is not None:
                incident = told.page
                action = incident.action.replace("_", " ")
                text = f"{at}incident  {incident.title}; root {incident.root}; {action}"
                self._once(f"incident {incident.incident_id}", text)
        for alert in seen.delivered:
            delay = f"{alert.delay_seconds:.1f} s after it was seen" if alert.delay_seconds is not None else ""
            text = f"{at}page      {clock(alert.at_ms)} to {alert.channel}, {delay}: {alert.title}"
            self._once(f"alert {alert.channel} {alert.at_ms} {alert.title}", text)
        for problem in seen.problems:
            self._once(problem, f"{at}problem   {problem}")
        if elapsed_seconds >= self._next_line:
            self._next_line = elapsed_seconds + _LINE_SECONDS
            flow = "; ".join(
                f"{hop.name} {hop.per_second or 0:,.0f}/s" + (f", {hop.lag:,.0f} waiting" if hop.lag else "")
                for hop in seen.hops
            )
            self._print(f"{at}{phase}: {len(seen.gpus)} GPUs; {flow}")

    def close(self) -> None:
        """Nothing is held."""

    def _once(self, key: str, line: str) -> None:
        if key not in self._said:
            self._said.add(key)
            self._print(line)

    def _print(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


def ending(console: Console, settings: Settings, scorecard: Scorecard, data_dir: Path, *, keep: bool) -> None:
    """Print the scorecard, the questions with their answers, and how to go on."""
    console.print()
    console.print(card(scorecard))
    console.print()
    with connected(settings) as client:
        for number, question in enumerate(questions(scorecard.rows), start=1):
            console.print(f"[bold]{number}. {escape(question.text)}[/]")
            console.print(Padding(Syntax(question.sql, "sql", background_color="default"), (0, 3)))
            try:
                result = client.query(question.sql)
                console.print(Padding(table(result.column_names, result.result_rows), (0, 3)))
            except Exception as error:  # noqa: BLE001 - an answer that fails is shown; the scorecard decides
                console.print(Text(f"   {plain_error(error)}", style="red"))
            console.print()
    console.print(_how_to_go_on(settings, data_dir, keep=keep))


def _how_to_go_on(settings: Settings, data_dir: Path, *, keep: bool) -> Text:
    here = addresses.clickhouse(settings)
    folder = _short(data_dir)
    steps = [
        (f"fleetpulse --data-dir {folder} sql", "a prompt on this history"),
        ("fleetpulse replay kernel-log --node NAME FILE", "what a kernel log of yours comes to"),
        ("fleetpulse up", "the pipeline, with this machine's own GPUs"),
        ("fleetpulse doctor", "what this machine has and lacks"),
    ]
    if not keep:
        steps.insert(0, (f"fleetpulse --data-dir {folder} clickhouse", "serve what was recorded again"))
        steps.insert(0, ("fleetpulse demo --keep", "stay after the scorecard, everything running"))
    lines = ["[bold]How to go on[/]", *(f"  [cyan]{command:<48}[/] {what}" for command, what in steps)]
    lines.append(
        f"  Your own client: ClickHouse over HTTP at [cyan]{here.host}:{here.port}[/], user "
        f"[cyan]{settings.clickhouse.analyst_username}[/], no password, reads only, database "
        f"[cyan]{settings.clickhouse.database}[/];\n  Kafka at [cyan]{addresses.bootstrap(settings)}[/], "
        "records in Avro (schemas/*.avsc)." + ("" if keep else " Both are there while something runs.")
    )
    return Text.from_markup("\n".join(lines))


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
