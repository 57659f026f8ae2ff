"""The parts of the scoreboard that need public data say so where there is none, and score what is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.quality import msft_cloud, smd
from tests.quality.baselines import BASELINES
from tests.quality.context import Context


def _context(data: Path) -> Context:
    return Context(seeds=(1,), gpus=8, hours=1.0, processes=1, say=lambda _: None, data=data)


@pytest.mark.parametrize("part", [smd, msft_cloud])
def test_without_the_data_a_part_is_one_row_that_says_so(part: object, tmp_path: Path) -> None:
    (row,) = part.run(_context(tmp_path))  # type: ignore[attr-defined]
    assert row.verdict == "skipped"
    assert "no data" in row.beside


def test_servers_are_scored_beside_every_baseline(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    train, test, labels = draw.normal(0, 1, (800, 3)), draw.normal(0, 1, (800, 3)), np.zeros(800)
    test[300:420] += 12.0
    labels[300:420] = 1
    (tmp_path / "smd").mkdir()
    for name, array in (("train", train), ("test", test), ("test_label", labels)):
        np.save(tmp_path / "smd" / f"m_{name}.npy", array.astype(np.float32))
    head, f1, area = smd.run(_context(tmp_path))
    assert all(name in head.beside for name in BASELINES)
    assert float(f1.measured) > 0.7
    assert float(area.measured) > 0.7


def test_series_are_scored_event_by_event(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    values = draw.normal(100, 1, 400)
    values[300:305] += 50
    folder = tmp_path / "msft_cloud" / "data" / "some"
    folder.mkdir(parents=True)
    lines = [
        f"2026-01-{1 + row // 24:02d} {row % 24:02d}:00:00,{value},{int(300 <= row < 305)}"
        for row, value in enumerate(values)
    ]
    (folder / "a.csv").write_text("TimeStamp,Value,Label\n" + "\n".join(lines))
    _, ours, *baselines = msft_cloud.run(_context(tmp_path))
    assert "1 of 1 events; 0 false alarms" in ours.beside
    assert [row.what for row in baselines] == list(BASELINES)
