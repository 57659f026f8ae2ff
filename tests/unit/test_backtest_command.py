"""`fleetpulse backtest`: files in and out, and errors that name file, column and row."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from infra.cli import app
from infra.commands.backtest import run
from infra.errors import MisuseError, OperatorError

_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def _frame(rows: int = 200) -> pl.DataFrame:
    draw = np.random.default_rng(1)
    load, heat = draw.normal(100, 2, rows), draw.normal(60, 1, rows)
    heat[150:155] += 30
    times = [(_BEGIN + timedelta(minutes=row)).isoformat() for row in range(rows)]
    return pl.DataFrame({"timestamp": times, "load": load, "heat": heat})


def _run(path: Path, output: Path, ignore: frozenset[str] = frozenset(), alarms: Path | None = None) -> list[str]:
    return run(path, output, "auto", None, 1, ignore, alarms)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_rows_come_back_with_scores_and_alarms(tmp_path: Path, suffix: str) -> None:
    given, output = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    frame = _frame()
    frame.write_csv(given) if suffix == ".csv" else frame.write_parquet(given)
    said = _run(given, output, alarms=tmp_path / "alarms.jsonl")
    scored = pl.read_csv(output) if suffix == ".csv" else pl.read_parquet(output)
    assert scored.columns == ["timestamp", "load", "heat", "anomaly_score", "anomaly_score_load",
                              "anomaly_score_heat", "alarm"]  # fmt: skip
    assert scored["timestamp"].to_list() == frame["timestamp"].to_list()
    assert np.flatnonzero(scored["alarm"].to_numpy()).tolist() == [150, 151, 152, 153, 154]
    assert scored["anomaly_score_heat"][150] > 0.5 > scored["anomaly_score_load"][150]
    (alarm,) = map(json.loads, (tmp_path / "alarms.jsonl").read_text().splitlines())
    assert (alarm["begin"], alarm["end"], alarm["columns"]) == (
        "2026-01-01T02:30:00Z",
        "2026-01-01T02:34:00Z",
        ["heat"],
    )
    assert "1 alarms" in said[-1]


def test_rows_out_of_order_are_scored_in_time_and_given_back_in_place(tmp_path: Path) -> None:
    _frame().write_csv(tmp_path / "in.csv")
    _frame().sample(fraction=1, shuffle=True, seed=3).write_csv(tmp_path / "mixed.csv")
    _run(tmp_path / "in.csv", tmp_path / "out.csv")
    _run(tmp_path / "mixed.csv", tmp_path / "mixed_out.csv")
    straight, mixed = pl.read_csv(tmp_path / "out.csv"), pl.read_csv(tmp_path / "mixed_out.csv")
    assert mixed["timestamp"].to_list() == pl.read_csv(tmp_path / "mixed.csv")["timestamp"].to_list()
    assert mixed.sort("timestamp").equals(straight.sort("timestamp"))


@pytest.mark.parametrize(
    "form",
    ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y/%m/%d %H:%M", "seconds", "milliseconds", "microseconds",
     "nanoseconds"],
)  # fmt: skip
def test_times_are_iso_or_numbers(tmp_path: Path, form: str) -> None:
    times = [_BEGIN + timedelta(minutes=row) for row in range(200)]
    scale = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}.get(form)
    cells = [str(int(time.timestamp() * scale)) if scale else time.strftime(form) for time in times]
    _frame().with_columns(pl.Series("timestamp", cells)).write_csv(tmp_path / "in.csv")
    said = _run(tmp_path / "in.csv", tmp_path / "out.csv")
    assert said[0].startswith("2026-01-01T02:30:00Z to 2026-01-01T02:34:00Z")


def test_an_empty_cell_was_not_read(tmp_path: Path) -> None:
    lines = _frame().write_csv().splitlines()
    cells = lines[20].split(",")
    lines[20] = f"{cells[0]},,{cells[2]}"
    (tmp_path / "in.csv").write_text("\n".join(lines))
    _run(tmp_path / "in.csv", tmp_path / "out.csv")
    scored = pl.read_csv(tmp_path / "out.csv")
    assert scored["anomaly_score_load"].is_null().arg_true().to_list() == [19]
    assert scored["anomaly_score"].null_count() == 0


def test_what_is_no_number_was_not_read_what_is_infinite_is_odd_and_repeated_times_are_kept(tmp_path: Path) -> None:
    lines = _frame().write_csv().splitlines()
    time, _, heat = lines[61].split(",")
    lines[61], lines[62] = f"{time},NaN,{heat}", f"{time},inf,{heat}"
    (tmp_path / "in.csv").write_text("\n".join([*lines, lines[-1]]))
    _run(tmp_path / "in.csv", tmp_path / "out.csv")
    scored = pl.read_csv(tmp_path / "out.csv")
    assert len(scored) == 201
    assert scored["anomaly_score_load"].to_list()[60] is None
    assert scored["anomaly_score_load"][61] > 0.9
    assert scored["anomaly_score"].drop_nulls().is_between(0, 1).all()


def test_a_single_column_that_never_changes_or_was_never_read_has_no_alarm(tmp_path: Path) -> None:
    for value in (1.0, None):
        frame = _frame().select("timestamp", steady=pl.lit(value, pl.Float64))
        frame.write_parquet(tmp_path / "in.parquet")
        assert "0 alarms" in _run(tmp_path / "in.parquet", tmp_path / "out.parquet")[-1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("timestamp,a\n2026-01-01,1\n2026-01-02,oops\n", "row 2, column a: 'oops' is no number"),
        ("timestamp,a\n2026-01-01,1\nnever,2\n", "row 2, column timestamp: 'never' is no time"),
        ("timestamp,a\ninf,2\n", "row 1, column timestamp: 'inf' is no time"),
        ("timestamp,a\n9e25,2\n", "row 1, column timestamp: '9e25' is no time"),
        ("timestamp,a\n02/03/2026,2\n", "row 1, column timestamp: '02/03/2026' is no time"),
        ("timestamp,a\n,2\n", "row 1, column timestamp: is empty"),
        ("when,a\n1,2\n", "no column timestamp; it has when, a"),
        ("timestamp\n1\n", "no column of values"),
        ("timestamp,a\n", "has no rows"),
        ("", "cannot be read as csv"),
        ("timestamp,anomaly_score\n1,2\n", "already has a column anomaly_score"),
        ("timestamp,a\n1,2\n2,3\n", "too few"),
    ],
)
def test_an_error_names_file_row_and_column(tmp_path: Path, text: str, said: str) -> None:
    given = tmp_path / "given.csv"
    given.write_text(text)
    with pytest.raises(OperatorError, match=r"given\.csv") as caught:
        _run(given, tmp_path / "out.csv")
    assert said in str(caught.value)
    assert not (tmp_path / "out.csv").exists()


def test_a_label_is_left_out_where_it_is_told_and_kept_in_the_output(tmp_path: Path) -> None:
    _frame().with_columns(label=pl.lit("good")).write_csv(tmp_path / "in.csv")
    with pytest.raises(OperatorError, match="--ignore label"):
        _run(tmp_path / "in.csv", tmp_path / "out.csv")
    _run(tmp_path / "in.csv", tmp_path / "out.csv", ignore=frozenset({"label"}))
    scored = pl.read_csv(tmp_path / "out.csv")
    assert "label" in scored.columns
    assert "anomaly_score_label" not in scored.columns
    with pytest.raises(MisuseError, match="no such column"):
        _run(tmp_path / "in.csv", tmp_path / "out.csv", ignore=frozenset({"lable"}))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--input", "a.csv", "--output", "b.csv", "--detector", "crystal"],
        ["--input", "a.txt", "--output", "b.csv"],
        ["--input", "a.csv", "--output", "b.txt"],
        ["--input", "a.csv", "--output", "./a.csv"],
    ],
)
def test_misuse_is_told_before_anything_is_read(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, ["backtest", *arguments])
    assert isinstance(done.exception, MisuseError)


def test_the_command_prints_the_alarms(tmp_path: Path) -> None:
    _frame().write_csv(tmp_path / "in.csv")
    out = str(tmp_path / "out.csv")
    done = CliRunner().invoke(app, ["backtest", "--input", str(tmp_path / "in.csv"), "--output", out])
    assert done.exit_code == 0, done.output
    assert "2026-01-01T02:30:00Z to 2026-01-01T02:34:00Z" in done.output
    assert "heat" in done.output
