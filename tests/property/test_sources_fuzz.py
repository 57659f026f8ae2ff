"""Whatever the bytes: the decoders of nvidia-smi, DCGM and InfiniBand never raise, and never lose a neighbour."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producers import infiniband, nvidia_smi
from producers.dcgm import diagnostics, exporter
from producers.kernel_log import numbered
from producers.unreadable import Unreadable
from schemas.catalog import load

CATALOG = load()
Decode = Callable[[bytes], Iterator[object]]

DECODERS: dict[str, Decode] = {
    "nvidia_smi": lambda raw: nvidia_smi.decode(numbered(io.BytesIO(raw))),
    "dcgm_exporter": lambda raw: exporter.decode(numbered(io.BytesIO(raw))),
    "dcgm_diag": lambda raw: diagnostics.decode(raw.decode(errors="replace"), "", CATALOG),
    "infiniband": lambda raw: infiniband.decode(numbered(io.BytesIO(raw))),
}
SEEDS = {
    "nvidia_smi": [
        b'<nvidia_smi_log>\n<gpu id="00000000:01:00.0">\n<serial>1</serial><temperature><gpu_temp>40 C</gpu_temp>'
        b"</temperature>\n<processes/>\n</gpu>\n</nvidia_smi_log>\n",
        b"====NVSMI LOG====\nAttached GPUs : 2\nGPU 00000000:01:00.0\n    Product Name : x\n    Serial Number : 1\n"
        b"    Clocks Event Reasons\n        HW Slowdown : Active\n            HW Thermal Slowdown : ERR!\n"
        b"    Processes : None\n",
        b"uuid, memory.used [MiB], temperature.gpu\nGPU-1, 5 MiB, 44\n",
        b"Unable to determine the device handle for GPU0000:01:00.0: GPU is lost\n",
    ],
    "dcgm_exporter": [b'# TYPE DCGM_FI_DEV_FB_USED gauge\nDCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-1",pod=""} 5 17\n'],
    "dcgm_diag": [
        b'banner {\n{"DCGM GPU Diagnostic": {"test_categories": [{"category": "Hardware", "tests": [{"name": "memory", '
        b'"results": [{"gpu_ids": "0,1", "status": "FAIL", "warnings": [{"warning": "x", "error_id": 50}]}], '
        b'"test_summary": {"status": "Fail"}}]}], "version": "3"}}',
    ],
    "infiniband": [
        b"CA 'mlx5_0'\n\tCA type: MT4129\n\tPort 1:\n\t\tState: Active\n\t\tRate: 400\n",
        b"# Port counters: Lid 6 port 1 (CapMask: 0x5A00)\nSymbolErrorCounter:....65535\nPortXmitData:.....5\n",
        b"Infiniband device 'mlx5_0' port 1 status:\n\tstate:\t 4: ACTIVE\n\trate:\t 400 Gb/sec (4X NDR)\n",
    ],
}
BITS = [
    b"\x00", b"\xff", b"\n", b"<", b">", b"&", b"{", b"}", b'"', b":", b" : ", b",", b"[", b"=", b"-", b"\\", b"9" * 30,
    b"0x", b"1e999", b"NaN", b"N/A", b"null", b"\xe2\x82", b"GPU", b"</gpu>", b"Processes", b"<!ENTITY",
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A document with pieces cut out, doubled and put in."""
    raw = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 6))):
        at, to = sorted(draw(st.tuples(st.integers(0, len(raw)), st.integers(0, len(raw)))))
        bit = draw(st.sampled_from(BITS) | st.binary(max_size=6))
        raw = draw(
            st.sampled_from(
                [raw[:at] + raw[to:], raw[:to] + raw[at:], raw[:at] + bit + raw[at:], raw[:at] + bit + raw[to:]]
            )
        )[:4000]
    return raw


@pytest.mark.parametrize("name", DECODERS)
@given(data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_input_raises_and_all_that_comes_out_is_json(name: str, data: st.DataObject) -> None:
    raw = data.draw(mutated(SEEDS[name]) | st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
    found = list(DECODERS[name](raw))
    assert found  # nothing is silence: what holds no reading is said
    for item in found:
        json.loads(msgspec.json.encode(item))


@given(seed=st.sampled_from(sorted(SEEDS)), pieces=st.lists(st.integers(0, 200), max_size=4))
@settings(max_examples=60, deadline=None)
def test_a_document_cut_short_anywhere_is_read_as_far_as_it_goes(seed: str, pieces: list[int]) -> None:
    for raw in SEEDS[seed]:
        for cut in pieces:
            list(DECODERS[seed](raw[:cut]))


# --- neighbours -------------------------------------------------------------------------------------------------------

garbage = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\n\r"), max_size=80)


def readings(found: list[object]) -> list[Any]:
    return [item for item in found if not isinstance(item, Unreadable)]


@given(inside=garbage, closed=st.booleans())
@settings(max_examples=100, deadline=None)
def test_garbage_inside_one_gpus_xml_loses_no_other_gpu(inside: str, closed: bool) -> None:
    def gpu(serial: int, body: str, end: str = "</gpu>\n") -> str:
        told = f"<serial>{serial}</serial><fan_speed>3{serial} %</fan_speed>"
        return f'<gpu id="00000000:0{serial}:00.0">\n{told}\n{body}\n{end}'

    inside = inside.replace("</gpu>", "").replace("<gpu", "").replace("nvidia_smi_log", "")
    text = (
        f"<nvidia_smi_log>\n{gpu(1, '')}{gpu(2, inside, '</gpu>' if closed else '')}\n{gpu(3, '')}</nvidia_smi_log>\n"
    )
    found = [item for item in DECODERS["nvidia_smi"](text.encode()) if isinstance(item, nvidia_smi.GpuReading)]
    assert [(reading.gpu, reading.metrics["fan_speed_percent"]) for reading in found] == [
        ("1", 31), ("2", 32), ("3", 33),
    ]  # fmt: skip


@given(lines=st.lists(garbage, max_size=4), depth=st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_garbage_inside_one_gpus_text_loses_no_other_gpu(lines: list[str], depth: int) -> None:
    def gpu(serial: int, body: list[str]) -> str:
        inner = [
            f"    Serial Number : {serial}",
            f"    Fan Speed : 3{serial} %",
            *(" " * depth + line for line in body),
        ]
        return "\n".join([f"GPU 00000000:0{serial}:00.0", *inner, "    Processes : None", ""])

    body = [line.replace("NVSMI LOG", "").replace("NVML", "").replace("NVIDIA-SMI", "") for line in lines]
    body = [line for line in body if not line.startswith(("Serial Number", "Fan Speed"))]
    text = f"==NVSMI LOG==\nAttached GPUs : 3\n{gpu(1, [])}{gpu(2, body)}{gpu(3, [])}"
    found = [item for item in DECODERS["nvidia_smi"](text.encode()) if isinstance(item, nvidia_smi.GpuReading)]
    assert {(reading.gpu, reading.metrics["fan_speed_percent"]) for reading in found} >= {("1", 31), ("3", 33)}


@given(line=garbage)
@settings(max_examples=100, deadline=None)
def test_a_garbled_line_on_the_exporters_page_loses_no_other_value(line: str) -> None:
    line = line.replace("DCGM", "").replace("dcgm", "").lstrip("#")
    page = f'DCGM_FI_DEV_GPU_TEMP{{UUID="GPU-1"}} 41\n{line}\nDCGM_FI_DEV_FAN_SPEED{{UUID="GPU-1"}} 30\n'
    (reading,) = readings(list(DECODERS["dcgm_exporter"](page.encode())))
    assert reading.metrics == {"temperature_celsius": 41, "fan_speed_percent": 30}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["name", "results", "status", "gpu_ids", "gpu_id", "entity_id", "warnings", "error_id", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(broken=anything)
@settings(max_examples=100, deadline=None)
def test_a_test_of_any_shape_loses_no_other_test(broken: Any) -> None:
    good = {"name": "pcie", "results": [{"gpu_id": "0", "status": "Fail"}]}
    document = {"DCGM Diagnostic": {"test_categories": [{"category": "Hardware", "tests": [broken, good]}]}}
    found = readings(list(DECODERS["dcgm_diag"](json.dumps(document).encode())))
    assert [(result.gpu, result.result) for result in found if result.test == "pcie"][-1:] == [(0, "fail")]


@given(broken=anything)
@settings(max_examples=100, deadline=None)
def test_nothing_but_a_pass_is_ever_a_pass(broken: Any) -> None:
    document = {"DCGM Diagnostic": {"test_categories": [{"tests": [{"name": "x", "results": [{"status": broken}]}]}]}}
    (result,) = readings(list(DECODERS["dcgm_diag"](json.dumps(document).encode())))
    said_so = isinstance(broken, str) and broken.strip().lower() in {"pass", "passed", "ok", "success"}
    assert (result.result == "pass") == said_so


@given(line=garbage)
@settings(max_examples=100, deadline=None)
def test_a_garbled_line_of_perfquery_loses_no_other_port(line: str) -> None:
    def port(lid: int) -> str:
        return f"# Port counters: Lid {lid} port 1 (CapMask: 0x5A00)\nSymbolErrorCounter:....{lid}\n"

    page = f"{port(5)}{line.replace('SymbolErrorCounter', '')}\n{port(6)}"
    found = readings(list(DECODERS["infiniband"](page.encode())))
    symbols = {reading.device: reading.errors["symbol_error"] for reading in found if "symbol_error" in reading.errors}
    assert symbols == {"lid5": 5, "lid6": 6}
