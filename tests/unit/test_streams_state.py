"""What a worker holds for a GPU, measured, with all detectors on and windows full."""

from __future__ import annotations

import numpy as np

from producers.settings import RackSpec, SimulateSettings
from producers.simulate.fleet import SimulatedFleet
from schemas.topics import COUNTERS, SAMPLES
from streams.readings.processor import CounterProcessor, SampleProcessor
from streams.settings import StreamsSettings
from tests.state_bytes import state_bytes
from tests.streams_scenes import CODEC, START_MS, Message

GPUS, LIMIT_BYTES = 1024, 4096


def test_what_is_counted_is_what_arrays_and_names_take() -> None:
    assert state_bytes(np.zeros(1000)) == 8000
    whole = np.zeros(1000)
    assert state_bytes([whole[:10], whole[10:]]) - state_bytes([]) < 8200, "two views of one array are one array"
    assert state_bytes({"a": "b" * 1000}) > 1000


def test_a_gpu_costs_less_than_four_kilobytes() -> None:
    racks = (RackSpec(kind="hgx", racks=GPUS // 64, nodes=8),)
    fleet = SimulatedFleet(SimulateSettings(racks=racks, faults=()), START_MS)
    settings = StreamsSettings()
    samples, counters = SampleProcessor(settings, CODEC), CounterProcessor(settings, CODEC)
    for _ in range(70):
        step = fleet.step()
        for topic, processor, encoded in (
            (SAMPLES, samples, fleet.encoded(step, step.tick_ms)),
            (COUNTERS, counters, fleet.encoded_counters(step, step.tick_ms)),
        ):
            processor.run([Message(topic, 0, 0, step.tick_ms, None, body) for _, body in encoded])
    a_gpu = state_bytes(samples, counters) / GPUS
    assert a_gpu < LIMIT_BYTES, f"{a_gpu:.0f} bytes"
    assert a_gpu > 1000, "arrays were found"
