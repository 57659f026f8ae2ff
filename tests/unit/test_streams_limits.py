"""Whose limit applies: that of the GPU's SKU in the inventory, else the one for all; and the finding says which."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.catalog.metrics import watch_list
from schemas.records import Anomaly
from streams.readings.processor import CounterProcessor, SampleProcessor
from streams.settings import StreamsSettings
from streams.topology import Topology
from tests.streams_scenes import CODEC, counters, in_inventory, log, sample

MINE = """
[[temperature_celsius.rules]]
name = "gpu_hot"
raise_above = 80.0
clear_below = 75.0
sku."NVIDIA L4*" = { raise_above = 95.0, clear_below = 90.0 }
sku."NVIDIA Q*" = { raise_above = inf }
[[temperature_celsius.peers]]
name = "hotter_than_peers"
sku."NVIDIA Q*" = { raise_above = inf }
[[temperature_celsius.trends]]
name = "heating_up"
sku."NVIDIA L4*" = { limit = 100.0 }
[[pcie_replays.growths]]
name = "pcie_replays_rise"
sku."NVIDIA L4*" = { raise_above = 1000.0, clear_below = 20.0 }
"""


@pytest.fixture
def override(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    return path


def topology(**skus: str) -> Topology:
    known = Topology()
    for gpu, sku in skus.items():
        known.learn(in_inventory(f"gpu:{gpu}", node="n1", sku=sku))
    return known


def found(processor: SampleProcessor, celsius: float, seconds: range = range(30)) -> list[Anomaly]:
    gpus = ["big", "small", "odd", "stray"]
    run = log(sample("n1", second, gpus, temperature_celsius=celsius) for second in seconds)
    return [one for one in processor.run(run).anomalies if one.rule == "gpu_hot"]


def processor(override: Path, inventory: Topology | None) -> SampleProcessor:
    return SampleProcessor(StreamsSettings(), CODEC, watch_list(override), inventory)


def test_each_gpu_has_the_limit_of_its_sku_and_the_finding_says_which(override: Path) -> None:
    known = topology(big="NVIDIA H100 80GB HBM3", small="NVIDIA L40S", odd="NVIDIA Q1")
    one = processor(override, known)
    at_85 = {a.gpu: a for a in found(one, 85.0)}
    assert set(at_85) == {"big", "stray"}
    assert "is above 80 °C for" in at_85["big"].reason
    assert "is above 80 °C (limit for all: its SKU is not known) for" in at_85["stray"].reason
    told = "s [mine.toml: raise_above was 87.0, clear_below was 82.0, limits for NVIDIA L4*, limits for NVIDIA Q*]"
    assert at_85["big"].reason.endswith(told)
    at_97 = {a.gpu: a for a in found(one, 97.0, range(30, 60))}
    assert set(at_97) == {"small"}, "and inf turns it off"
    assert (at_97["small"].limit, at_97["small"].value) == (95.0, 97.0)
    assert "is above 95 °C (limit for NVIDIA L4*) for" in at_97["small"].reason


def test_without_an_inventory_all_have_the_limit_for_all(override: Path) -> None:
    assert {one.gpu for one in found(processor(override, None), 85.0)} == {"big", "small", "odd", "stray"}


def test_an_unknown_sku_has_the_limit_for_all(override: Path) -> None:
    known = topology(big="Frobnicator 9000", small="Frobnicator 9000")
    assert {one.gpu for one in found(processor(override, known), 85.0)} == {"big", "small", "odd", "stray"}


def test_what_the_inventory_learns_later_counts_from_then_on(override: Path) -> None:
    known = topology()
    one = processor(override, known)
    assert len(found(one, 70.0)) == 0
    known.learn(in_inventory("gpu:small", node="n1", sku="NVIDIA L4"))
    assert {a.gpu for a in found(one, 85.0, range(30, 60))} == {"big", "odd", "stray"}


def test_the_driver_that_found_a_gpu_knows_its_sku_before_a_file_does() -> None:
    from msgspec.structs import replace

    known = topology(g="NVIDIA L4")
    assert known.sku_of("g") == "NVIDIA L4"
    changes = known.sku_changes
    known.learn(replace(in_inventory("gpu:g", node="n1", sku="NVIDIA L40S"), source="nvml"))
    assert known.sku_of("g") == "NVIDIA L40S"
    assert known.sku_changes == changes + 1
    known.learn(replace(in_inventory("gpu:g", node="n1", sku="NVIDIA L40S", job="j"), source="nvml"))
    assert known.sku_changes == changes + 1, "a job that moves is no news of it"
    assert known.sku_of("stray") is None


def test_counters_have_limits_by_sku_too(override: Path) -> None:
    one = CounterProcessor(StreamsSettings(), CODEC, watch_list(override), topology(small="NVIDIA L4"))
    run = log(counters("n1", at_s, ["small", "big"], pcie_replays=at_s // 3) for at_s in range(0, 1800, 30))
    (first,) = one.run(run).anomalies
    assert first.gpu == "big"
    assert "more than 80 replays (limit for all: its SKU is not known)" in first.reason


def test_the_limits_that_we_ship_for_a_sku_hold_without_any_file() -> None:
    plain = SampleProcessor(StreamsSettings(), CODEC, inventory=topology(big="NVIDIA L4", odd="Tesla T4"))
    reasons = {one.gpu: one.reason for one in found(plain, 90.0)}
    assert reasons["big"] == "temperature_celsius 90 °C is above 87 °C for 5 s"
    assert "odd" not in reasons, "a T4 slows down at 93 °C"
