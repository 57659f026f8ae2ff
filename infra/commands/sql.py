"""`fleetpulse sql`: questions to the history, with the login that can only read."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from infra import addresses
from infra.errors import MisuseError, OperatorError
from infra.settings import Settings

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

LAYOUTS = ("table", "vertical", "json", "csv")
_MOST_ROWS = 1000
"""Rows that the table layouts print; a terminal is no place for more. json and csv print all."""


def run(settings: Settings, query: str | None, layout: str) -> None:
    """Answer one query, or open a prompt. Raises `MisuseError`, `OperatorError`."""
    if layout not in LAYOUTS:
        raise MisuseError(f"--format is {layout!r}; it may be {', '.join(LAYOUTS)}")
    with connected(settings) as client:
        if query is None and not sys.stdin.isatty():
            query = sys.stdin.read()
        if query is not None:
            answer(client, query, layout)
        else:
            _prompt(client, settings, layout)


def connected(settings: Settings) -> Client:
    """A client of the read-only login. Raises `OperatorError` where it cannot be had."""
    where = addresses.clickhouse(settings)
    try:
        return addresses.analyst(settings)()
    except Exception as error:  # clickhouse-connect raises its own and the network's
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise OperatorError(
            f"ClickHouse at {where.host}:{where.port} does not let {settings.clickhouse.analyst_username} in: "
            f"{said[0][:300]} (is `fleetpulse up` running? `fleetpulse doctor` looks)"
        ) from error


def answer(client: Client, query: str, layout: str = "table") -> None:
    """Print the answer to one query. Raises `OperatorError` with what ClickHouse says."""
    from clickhouse_connect.driver.exceptions import Error

    try:
        result = client.query(query.strip().rstrip(";"))
    except Error as error:
        raise OperatorError(plain_error(error)) from error
    names, rows = list(result.column_names), result.result_rows
    if layout == "json":
        for row in rows:
            sys.stdout.buffer.write(msgspec.json.encode(dict(zip(names, row, strict=True)), enc_hook=str) + b"\n")
        sys.stdout.buffer.flush()
    elif layout == "csv":
        out = csv.writer(sys.stdout, lineterminator="\n")
        out.writerow(names)
        out.writerows([[cell(value) for value in row] for row in rows])
    else:
        _show(names, rows, layout)


def plain_error(error: Exception) -> str:
    """ClickHouse's message without the client's wrapping."""
    text = str(error).strip()
    start = text.find("DB::Exception:")
    return text[start + len("DB::Exception:") :].strip() if start >= 0 else text


def cell(value: Any) -> str:
    """A value as a reader wants it: no trailing digits that mean nothing, times to the millisecond."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if hasattr(value, "isoformat"):
        return str(value.isoformat(sep=" ", timespec="milliseconds") if hasattr(value, "hour") else value.isoformat())
    if isinstance(value, (list, tuple)):
        return ", ".join(cell(one) for one in value)
    return str(value)


def table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """Rows as a table; columns of numbers stand to the right."""
    shown = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(names):
        number = any(isinstance(row[place], (int, float)) for row in rows)
        shown.add_column(escape(name), justify="right" if number else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell(value)) for value in row))  # as it is: 0000:ab:00 is no emoji
    return shown


def _show(names: Sequence[str], rows: Sequence[Sequence[Any]], layout: str) -> None:
    console = Console()
    if layout == "vertical":
        for number, row in enumerate(rows[:_MOST_ROWS], start=1):
            console.print(f"[dim]row {number}[/]")
            for name, value in zip(names, row, strict=True):
                console.print(Text.assemble("  ", (name, "bold"), f": {cell(value)}"), soft_wrap=True)
    else:
        # a pipe has no width to fit into
        width = console.width if console.is_terminal else 10_000
        console.print(table(names, rows[:_MOST_ROWS]), width=width, soft_wrap=not console.is_terminal)
    left = len(rows) - _MOST_ROWS
    more = f", the first {_MOST_ROWS} shown (--format csv prints all)" if left > 0 else ""
    Console(stderr=True).print(f"[dim]{len(rows)} row{'' if len(rows) == 1 else 's'}{more}[/]")


def _prompt(client: Client, settings: Settings, layout: str) -> None:
    """Read statements that end with a semicolon until end of input."""
    import readline  # noqa: F401 - gives input() its editing and history

    where = addresses.clickhouse(settings)
    console = Console()
    console.print(
        f"ClickHouse at {where.host}:{where.port}, database {settings.clickhouse.database}, "
        f"as {settings.clickhouse.analyst_username} (reads only). End a query with ; and the prompt with Ctrl-D.\n"
        "[dim]views: gpu_history, fault_history, incidents, fleet_now; DESCRIBE incidents; shows what one has[/]",
        highlight=False,
    )
    held = ""
    while True:
        try:
            line = input("   … " if held else "sql> ")
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:
            console.print()
            held = ""
            continue
        if not held and line.strip().lower() in {"exit", "quit", "\\q"}:
            return
        held = f"{held}\n{line}" if held else line
        if not held.strip().endswith(";"):
            held = held if held.strip() else ""
            continue
        try:
            answer(client, held, layout)
        except OperatorError as error:
            console.print(f"[red]{escape(str(error))}[/]", highlight=False)
        held = ""
