"""`fleetpulse backtest`: how odd the rows of a file of time series are, without Kafka or anything else running."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from infra.errors import MisuseError, OperatorError

if TYPE_CHECKING:
    import polars as pl

    from streams.score import Detector, Scores

SCORE, ALARM = "anomaly_score", "alarm"
_TIME = "timestamp"
_PER_SECOND = ((1e11, 1), (1e14, 1e3), (1e17, 1e6), (math.inf, 1e9))
"""A number below 10^11 is seconds since 1970 (until the year 5138), below 10^14 milliseconds (from 1973 on), below
10^17 microseconds, else nanoseconds."""
_LATEST_MS = 253_402_300_800_000
"""The year 10000: further on there are no dates."""
_SHOWN = 20


def backtest(
    given: Annotated[
        Path, typer.Option("--input", help="CSV or Parquet: a column timestamp, and one or more columns of values.")
    ],
    output: Annotated[Path, typer.Option(help="CSV or Parquet: the same rows with their scores.")],
    detector: Annotated[
        str,
        typer.Option(
            help="fixed: the training part, for good; level: a level that follows slowly; season: the same time of "
            "the days before; auto: season where there are days enough, else level."
        ),
    ] = "auto",
    train_rows: Annotated[
        int | None, typer.Option(min=1, help="So many first rows are taken to be sound; a quarter of them by default.")
    ] = None,
    average_rows: Annotated[
        int, typer.Option(min=1, help="A row's score is averaged over so many last rows: for trouble that lasts.")
    ] = 1,
    ignore: Annotated[
        list[str] | None, typer.Option(help="A column that is no value, such as a label; may be repeated.")
    ] = None,
    alarms: Annotated[Path | None, typer.Option(help="Also write the alarms here, a JSON line each.")] = None,
) -> None:
    """Try the scoring of plain time series on history.

    Timestamps are ISO 8601 (UTC where no zone is told), or seconds, milli-, micro- or nanoseconds since 1970, in any
    order; an empty cell was not read, and NaN is the same. Out come all columns, anomaly_score for the row,
    anomaly_score_COLUMN for each value, 0 to 1, and alarm. A score does not depend on later rows, but for those of the
    training part. From 0.5 on it is an alarm; the alarms are printed as well.

    [dim]fleetpulse backtest --input history.csv --output scores.csv[/]
    [dim]fleetpulse backtest --input labelled.csv --ignore Label --detector level --output scores.parquet[/]
    """
    from streams.score import Detector

    if detector not in get_args(Detector):
        raise MisuseError(f"--detector {detector!r} is not known; there are {', '.join(get_args(Detector))}")
    for path, option in ((given, "--input"), (output, "--output")):
        if path.suffix.lower() not in {".csv", ".parquet"}:
            raise MisuseError(f"{option} {path}: the name must end in .csv or .parquet")
    if given.resolve() == output.resolve():
        raise MisuseError(f"--output {output} is the input: the scores need a file of their own")
    told = run(given, output, cast("Detector", detector), train_rows, average_rows, frozenset(ignore or ()), alarms)
    for line in told:
        typer.echo(line)


def run(
    path: Path,
    output: Path,
    detector: Detector,
    train_rows: int | None,
    average_rows: int,
    ignore: frozenset[str],
    alarms: Path | None,
) -> list[str]:
    """Score a file; gives what to tell of it. Raises `OperatorError` naming file, column and row."""
    import numpy as np
    import polars as pl

    from streams.score import score

    frame = _read(path)
    time, columns = _columns(path, frame, ignore)
    times_ms = np.array(_times_ms(path, frame[time]), np.int64)
    values = np.column_stack([_values(path, frame[name]) for name in columns])
    order = np.argsort(times_ms, kind="stable")
    try:
        scores = score(
            values[order],
            times_ms=times_ms[order],
            train_rows=train_rows,
            detector=detector,
            average_rows=average_rows,
        )
    except ValueError as error:
        raise OperatorError(f"{path} cannot be scored: {error}") from None
    place = np.argsort(order)
    beyond = np.zeros(len(order), bool)
    for alarm in scores.alarms:
        beyond[alarm.first_row : alarm.last_row + 1] = True
    scored = frame.with_columns(
        pl.Series(SCORE, scores.rows[place]).round(4).fill_nan(None),
        *(
            pl.Series(f"{SCORE}_{name}", scores.columns[place, at]).round(4).fill_nan(None)
            for at, name in enumerate(columns)
        ),
        pl.Series(ALARM, beyond[place]),
    )
    found = _alarms(scores, times_ms[order], columns)
    _write(scored, output, found, alarms)
    lines = [
        f"{one['begin']} to {one['end']}  {one['score']:.2f}  {', '.join(one['columns'][:5])}" for one in found[:_SHOWN]
    ]
    if len(found) > _SHOWN:
        lines.append(f"… and {len(found) - _SHOWN} more")
    return [
        *lines,
        f"{len(frame)} rows of {len(columns)} columns by {scores.detector}: {len(found)} alarms; scores in {output}",
    ]


def _read(path: Path) -> pl.DataFrame:
    import polars as pl

    if not path.is_file():
        raise OperatorError(f"{path} is not there (or no file)")
    try:
        # as text, so that a bad cell can be named; rows that are cut short are no numbers either
        frame = pl.read_csv(path, infer_schema=False) if path.suffix.lower() == ".csv" else pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        kind = path.suffix.lower().removeprefix(".")
        raise OperatorError(f"{path} cannot be read as {kind}: {str(error).splitlines()[0]}") from None
    if not len(frame):
        raise OperatorError(f"{path} has no rows")
    return frame


def _columns(path: Path, frame: pl.DataFrame, ignore: frozenset[str]) -> tuple[str, list[str]]:
    """The names of the column of times and of those of values."""
    names = frame.columns
    if strange := sorted(ignore - set(names)):
        raise MisuseError(f"--ignore {strange[0]}: {path} has no such column, it has {', '.join(names)}")
    time = next((name for name in names if name == _TIME), None)
    time = time or next((name for name in names if name.lower() == _TIME), None)
    if time is None:
        raise OperatorError(f"{path} has no column {_TIME}; it has {', '.join(names)}")
    values = [name for name in names if name != time and name not in ignore]
    if not values:
        raise OperatorError(f"{path} has no column of values beside {time}")
    made = {SCORE, ALARM, *(f"{SCORE}_{name}" for name in values)}
    if taken := sorted(made & set(names)):
        raise OperatorError(f"{path} already has a column {taken[0]}: is it the output of a backtest?")
    return time, values


def _times_ms(path: Path, column: pl.Series) -> list[int]:
    """UTC milliseconds. Raises `OperatorError` for the first that is no time."""
    import polars as pl

    if column.dtype.is_temporal():
        cells: list[Any] = column.cast(pl.Datetime("ms")).cast(pl.Int64).to_list()
        return [cell if cell is not None else _no_time(path, column.name, row, None) for row, cell in enumerate(cells)]
    return [_time_ms(path, column.name, row, cell) for row, cell in enumerate(column.to_list())]


def _time_ms(path: Path, name: str, row: int, cell: object) -> int:
    try:
        number = float(cast("float", cell))
    except (TypeError, ValueError):
        pass
    else:
        per_second = next((scale for below, scale in _PER_SECOND if abs(number) < below), math.nan)
        at_ms = number / per_second * 1000
        return round(at_ms) if abs(at_ms) < _LATEST_MS else _no_time(path, name, row, cell)
    try:
        moment = datetime.fromisoformat(str(cell).strip().replace("/", "-"))
    except ValueError:
        return _no_time(path, name, row, cell)
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _no_time(path: Path, name: str, row: int, cell: object) -> int:
    what = "is empty" if cell is None else f"{cell!r} is no time"
    raise OperatorError(
        f"{path}, row {row + 1}, column {name}: {what}; wanted ISO 8601, or seconds (milli-, micro-, nanoseconds) "
        "since 1970"
    )


def _values(path: Path, column: pl.Series) -> Any:
    """(T,) floats; NaN where a cell is empty. Raises `OperatorError` for the first that is no number."""
    import polars as pl

    given = column.str.strip_chars().replace("", None) if column.dtype == pl.String else column
    try:
        found = given.cast(pl.Float64, strict=False)
    except pl.exceptions.PolarsError:
        raise OperatorError(
            f"{path}, column {column.name}: {column.dtype} is no number; leave it out with --ignore {column.name}"
        ) from None
    bad = (found.is_null() & given.is_not_null()).arg_true()
    if len(bad):
        row = int(bad[0])
        raise OperatorError(
            f"{path}, row {row + 1}, column {column.name}: {column[row]!r} is no number; mend it, or leave the column "
            f"out with --ignore {column.name}"
        )
    return found.fill_null(float("nan")).to_numpy()


def _alarms(scores: Scores, times_ms: Any, columns: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "begin": _moment(int(times_ms[alarm.first_row])),
            "end": _moment(int(times_ms[alarm.last_row])),
            "score": round(alarm.score, 4),
            "columns": [columns[column] for column in alarm.columns],
        }
        for alarm in scores.alarms
    ]


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _write(scored: pl.DataFrame, output: Path, found: list[dict[str, Any]], alarms: Path | None) -> None:
    import msgspec

    path = output
    try:
        if output.suffix.lower() == ".csv":
            scored.write_csv(output)
        else:
            scored.write_parquet(output)
        if alarms is not None:
            path = alarms
            alarms.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in found))
    except OSError as error:
        raise OperatorError(f"{path} cannot be written: {error.strerror or error}") from None
