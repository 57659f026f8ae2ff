"""The page of a dcgm-exporter, fetched from a real HTTP server, as the records that the agent sends."""

from __future__ import annotations

import gzip
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from producers.dcgm.exporter import targets
from producers.dcgm.exporter_source import DcgmExporterSource, ExporterError
from producers.dcgm.settings import ExporterSettings
from producers.source import Origin
from schemas.catalog import load
from schemas.records import GpuCounters, GpuSample, HardwareEvent, Record

ORIGIN = Origin("site", "rack-7", "node-1", "boot")
CATALOG = load()
A, B = "GPU-aaaa", "GPU-bbbb"


class Exporter:
    """An HTTP server on this machine that serves what a test puts into it."""

    def __init__(self) -> None:
        self.page: bytes | Callable[[BaseHTTPRequestHandler], object] = b""
        self.status = 200
        self.headers: dict[str, str] = {}
        self.asked: list[dict[str, str]] = []
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                exporter.asked.append(dict(self.headers))
                if not isinstance(exporter.page, bytes):
                    exporter.page(self)
                    return
                self.send_response(exporter.status)
                for name, value in exporter.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(exporter.page)))
                self.end_headers()
                self.wfile.write(exporter.page)

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/metrics"

    def says(self, *lines: str) -> None:
        self.page = "\n".join(lines).encode() + b"\n"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    made = Exporter()
    yield made
    made.close()


@pytest.fixture
def source_of(exporter: Exporter) -> Iterator[Callable[..., DcgmExporterSource]]:
    made: list[DcgmExporterSource] = []

    def make(serial_of: Callable[[str], str | None] = lambda _: None, **more: Any) -> DcgmExporterSource:
        clock = {"clock": more.pop("clock")} if "clock" in more else {}
        settings = ExporterSettings(**{"url": exporter.url, "samples": True, **more})
        made.append(DcgmExporterSource(ORIGIN, CATALOG, settings, serial_of=serial_of, wall_ms=lambda: 2_000, **clock))
        return made[-1]

    yield make
    for source in made:
        source.close()


def read(source: DcgmExporterSource, now_ms: int = 1_000) -> tuple[GpuSample, GpuCounters, list[HardwareEvent]]:
    records: list[Record] = list(source.read(now_ms))
    (sample,) = [record for record in records if isinstance(record, GpuSample)]
    (counters,) = [record for record in records if isinstance(record, GpuCounters)]
    return sample, counters, [record for record in records if isinstance(record, HardwareEvent)]


def line(field: str, value: object, uuid: str = A, index: int = 0, **labels: str) -> str:
    named = {"gpu": str(index), "UUID": uuid, **labels}
    inside = ",".join(f'{name}="{said}"' for name, said in named.items())
    return f"{field}{{{inside}}} {value}"


# --- what becomes of a page -------------------------------------------------------------------------------------------


def test_the_exporters_own_example_becomes_one_gpu(exporter: Exporter, source_of: Any, shared_data: Path) -> None:
    exporter.page = (shared_data / "dcgm_exporter" / "dcgm_exporter_readme.prom").read_bytes()

    sample, counters, events = read(source_of())

    # read by hand from the file: SM 139 MHz, memory 405 MHz, memory temperature 9223372036854775794 (not supported)
    assert sample.gpus == ["GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e52"]
    assert sample.gpu_index == [0]
    assert sample.sm_clock_mhz == [139.0]
    assert sample.memory_clock_mhz == [405.0]
    assert sample.memory_temperature_celsius == []
    assert sample.power_watts == []
    assert sample.throttle_reasons == [-1]
    assert (sample.site, sample.rack, sample.node, sample.boot_id) == ("site", "rack-7", "node-1", "boot")
    assert (sample.tick_ms, sample.observed_ms, sample.interval_ms) == (1_000, 2_000, 15_000)
    assert counters.gpus == sample.gpus
    # the file ends with two lines of a list of fields, which are no values and no fault either
    assert events == []


def test_counters_and_metrics_have_our_names_and_units(exporter: Exporter, source_of: Any) -> None:
    exporter.says(
        line("DCGM_FI_DEV_GPU_TEMP", 41),
        line("DCGM_FI_DEV_FB_USED", 512),
        line("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", 0.25),
        line("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", 4),
        line("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 5_000),
        line("DCGM_FI_DEV_ROW_REMAP_FAILURE", 1),
        line("DCGM_FI_DEV_ROW_REMAP_PENDING", 0),
        line("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", 2),
        line("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", 700),
        line("DCGM_FI_DEV_XID_ERRORS", 79),
        line("DCGM_FI_DEV_FB_FREE", 100),
    )

    sample, counters, events = read(source_of())

    assert sample.temperature_celsius == [41.0]
    assert sample.memory_used_bytes == [512 * 1024 * 1024]
    assert sample.tensor_active_percent == [25.0]
    assert sample.throttle_reasons == [4]
    assert counters.source == "dcgm"
    assert counters.energy_joules == [5.0]
    assert counters.row_remap_failure == [1.0]
    assert counters.row_remap_pending == [0.0]
    assert counters.ecc_volatile_uncorrectable == [2.0]
    assert counters.power_limit_watts == [700.0]
    assert counters.last_xid == [79.0]
    assert events == []


def test_every_field_goes_into_a_record() -> None:
    columns = {"metrics": set(GpuSample.__struct_fields__), "counters": set(GpuCounters.__struct_fields__)}
    lost = {target.name for target in targets().values() if target.name not in columns[target.group]}
    assert lost == {"memory_free_bytes"}  # what is used and what there is say it


def test_where_nvml_gives_the_samples_only_counters_are_sent(exporter: Exporter, source_of: Any) -> None:
    exporter.says(line("DCGM_FI_DEV_GPU_TEMP", 41), line("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", 3))

    (record,) = source_of(samples=False).read(1_000)

    assert isinstance(record, GpuCounters)
    assert record.pcie_replays == [3.0]


def test_a_value_that_one_gpu_does_not_offer_is_nan_beside_the_others(exporter: Exporter, source_of: Any) -> None:
    exporter.says(
        line("DCGM_FI_DEV_POWER_USAGE", 71.5, A, 0),
        line("DCGM_FI_DEV_POWER_USAGE", 0x7FFFFFFFFFFFFFF2, B, 1),
        line("DCGM_FI_DEV_ROW_REMAP_FAILURE", 0, B, 1),
    )

    sample, counters, _ = read(source_of())

    assert sample.gpus == [A, B]
    assert sample.power_watts[0] == 71.5
    assert math.isnan(sample.power_watts[1])
    assert math.isnan(counters.row_remap_failure[0])
    assert counters.row_remap_failure[1] == 0.0


def test_a_value_that_goes_blank_stays_as_nan(exporter: Exporter, source_of: Any) -> None:
    source = source_of()
    exporter.says(line("DCGM_FI_DEV_POWER_USAGE", 71.5), line("DCGM_FI_DEV_GPU_TEMP", 40))
    read(source)
    exporter.says(line("DCGM_FI_DEV_POWER_USAGE", 0x7FFFFFFFFFFFFFF0), line("DCGM_FI_DEV_GPU_TEMP", 40))

    sample, _, _ = read(source)

    assert len(sample.power_watts) == 1
    assert math.isnan(sample.power_watts[0])


# --- who the GPUs are -------------------------------------------------------------------------------------------------


def test_a_gpu_is_named_by_its_serial_where_the_page_or_the_node_knows_it(exporter: Exporter, source_of: Any) -> None:
    exporter.says(
        line("DCGM_FI_DEV_GPU_TEMP", 40, A, 0, DCGM_FI_DEV_SERIAL="1650522003820"),
        line("DCGM_FI_DEV_GPU_TEMP", 41, B, 1),
        line("DCGM_FI_DEV_GPU_TEMP", 42, "GPU-cccc", 2),
    )

    sample, _, _ = read(source_of(serial_of={B: "1650522003821", "GPU-cccc": "0"}.get))

    assert sample.gpus == ["1650522003820", "1650522003821", "GPU-cccc"]


def test_two_gpus_that_both_have_their_boards_serial_are_told_apart(exporter: Exporter, source_of: Any) -> None:
    exporter.says(line("DCGM_FI_DEV_GPU_TEMP", 40, A, 0), line("DCGM_FI_DEV_GPU_TEMP", 41, B, 1))

    sample, _, _ = read(source_of(serial_of=lambda _: "1650522003820"))

    assert sample.gpus == [A, B]


def test_instances_of_a_gpu_are_no_gpus_and_tell_what_is_the_boards(exporter: Exporter, source_of: Any) -> None:
    exporter.says(
        *(
            line(field, value, A, 0, GPU_I_ID=instance, GPU_I_PROFILE="1g.10gb")
            for instance, used in (("7", 100), ("8", 200))
            for field, value in (
                ("DCGM_FI_DEV_GPU_TEMP", 40),
                ("DCGM_FI_DEV_FB_USED", used),
                ("DCGM_FI_PROF_SM_ACTIVE", 0.5),
                ("DCGM_FI_DEV_ROW_REMAP_FAILURE", 0),
            )
        ),
        line("DCGM_FI_DEV_POWER_USAGE", 300, A, 0),
    )

    sample, counters, _ = read(source_of())

    assert sample.gpus == [A]
    assert sample.temperature_celsius == [40.0]
    assert sample.power_watts == [300.0]
    assert counters.row_remap_failure == [0.0]
    # the share of one instance is not that of the GPU
    assert sample.memory_used_bytes == []
    assert sample.sm_active_percent == []


def test_pods_that_share_a_gpu_and_lines_that_repeat_it_make_no_second_gpu(exporter: Exporter, source_of: Any) -> None:
    exporter.says(
        line("DCGM_FI_DEV_GPU_TEMP", 40, pod="a"),
        line("DCGM_FI_DEV_GPU_TEMP", 40, pod="b"),
        line("DCGM_FI_DEV_SM_CLOCK", 1_000),
        line("DCGM_FI_DEV_SM_CLOCK", 1_100),
        line("DCGM_FI_DEV_SM_CLOCK", 0x7FFFFFFFFFFFFFF0),
    )

    sample, _, _ = read(source_of())

    assert sample.gpus == [A]
    assert sample.temperature_celsius == [40.0]
    assert sample.sm_clock_mhz == [1_100.0]


def test_links_switches_and_processors_are_no_gpus(exporter: Exporter, source_of: Any) -> None:
    exporter.says(
        line("DCGM_FI_DEV_GPU_TEMP", 40),
        line("DCGM_FI_DEV_NVLINK_BANDWIDTH_L0", 12, nvlink="0"),
        'DCGM_FI_DEV_NVSWITCH_TEMPERATURE_CURRENT{nvswitch="2",hostname="node-1"} 50',
        'DCGM_FI_DEV_CPU_UTIL_TOTAL{cpu="0",Hostname="node-1"} 0.5',
    )

    sample, _, _ = read(source_of())

    assert sample.gpus == [A]


def test_a_gpu_that_leaves_the_page_keeps_its_place_and_is_told_once(exporter: Exporter, source_of: Any) -> None:
    source = source_of()
    both = (
        line("DCGM_FI_DEV_GPU_TEMP", 40, A, 0),
        line("DCGM_FI_DEV_GPU_TEMP", 41, B, 1, pci_bus_id="00000000:3B:00.0"),
    )
    exporter.says(*both)
    assert read(source)[2] == []
    exporter.says(both[0])
    sample, _, events = read(source, 2_000)
    assert read(source, 3_000)[2] == []
    exporter.says(*both)
    _, _, back = read(source, 4_000)

    assert sample.gpus == [A, B]
    assert math.isnan(sample.temperature_celsius[1])
    assert [(event.kind, event.gpu, event.pci) for event in events] == [("gpu_unreadable", B, "0000:3b:00")]
    assert [(event.kind, event.gpu) for event in back] == [("gpu_found", B)]


# --- XIDs -------------------------------------------------------------------------------------------------------------


def test_an_xid_is_told_only_where_that_is_asked_for_and_when_it_changes(exporter: Exporter, source_of: Any) -> None:
    quiet, asked = source_of(), source_of(xid_events=True)
    told = []
    for tick, xid in enumerate((31, 31, 0x7FFFFFFFFFFFFFF0, 79, 79, 0, 79), 1):
        exporter.says(line("DCGM_FI_DEV_XID_ERRORS", xid))
        assert read(quiet, tick * 1000)[2] == []
        told += [(tick, event) for event in read(asked, tick * 1000)[2]]

    # when the first one happened nobody knows
    assert [(tick, event.kind, event.code, event.gpu) for tick, event in told] == [(4, "xid", 79, A), (7, "xid", 79, A)]
    entry = CATALOG.entry("xid", 79)
    assert (told[0][1].severity, told[0][1].action) == (entry.severity, entry.action)


# --- trouble with the exporter ----------------------------------------------------------------------------------------


def test_an_exporter_that_is_away_is_an_error_that_says_what_to_do(source_of: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/metrics"
        with pytest.raises(ExporterError, match="Connection refused; is dcgm-exporter running") as caught:
            source_of(url=url).read(1_000)

    assert url in str(caught.value)
    assert "object at 0x" not in str(caught.value)


@pytest.mark.parametrize(
    "page",
    [b"", b"# HELP nothing\n", b"go_goroutines 12\n", b"<html>login</html>", b"\x00\xff\xfe" * 99],
)
def test_an_exporter_that_answers_without_gpus_has_lost_dcgm(exporter: Exporter, source_of: Any, page: bytes) -> None:
    exporter.page = page
    with pytest.raises(ExporterError, match="names no GPU.*check that nvidia-dcgm runs"):
        source_of().read(1_000)


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(401, "authorization_file"), (404, "/metrics"), (302, "elsewhere"), (500, "see the exporter's log")],
)
def test_a_refusal_says_what_to_do(exporter: Exporter, source_of: Any, status: int, remedy: str) -> None:
    exporter.status = status
    with pytest.raises(ExporterError, match=f"answers {status}: .*{remedy}"):
        source_of().read(1_000)


def test_credentials_come_from_a_file(exporter: Exporter, source_of: Any, tmp_path: Path) -> None:
    exporter.says(line("DCGM_FI_DEV_GPU_TEMP", 40))
    source = source_of(authorization_file=tmp_path / "token")
    with pytest.raises(ExporterError, match="token cannot be read: No such file"):
        source.read(1_000)
    (tmp_path / "token").write_text("Bearer abc\n")
    read(source)
    assert exporter.asked[-1]["Authorization"] == "Bearer abc"


def test_a_page_without_end_is_not_read_to_its_end(exporter: Exporter, source_of: Any) -> None:
    exporter.headers = {"Content-Encoding": "gzip"}
    exporter.page = gzip.compress(b"#" * (40 << 20))
    with pytest.raises(ExporterError, match="longer than 1 MiB"):
        source_of(page_mib=1).read(1_000)


def test_an_exporter_that_trickles_is_given_up(exporter: Exporter, source_of: Any) -> None:
    over = threading.Event()

    def trickle(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        while not over.wait(0.02):
            try:
                handler.wfile.write(b"#")
            except OSError:
                return

    exporter.page = trickle
    before = time.monotonic()
    with pytest.raises(ExporterError, match="was not complete after 0.3 s"):
        source_of(timeout_s=0.3).read(1_000)
    took_s = time.monotonic() - before
    over.set()

    assert took_s < 3


def test_an_exporter_that_says_nothing_is_given_up(exporter: Exporter, source_of: Any) -> None:
    over = threading.Event()
    exporter.page = lambda _: over.wait(5)
    with pytest.raises(ExporterError, match="timed out"):
        source_of(timeout_s=0.2).read(1_000)
    over.set()


def test_a_page_that_stands_still_is_an_error_and_no_sample(exporter: Exporter, source_of: Any) -> None:
    now_s = [0.0]
    source = source_of(frozen_s=300, clock=lambda: now_s[0])
    exporter.says(line("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 5_000), line("DCGM_FI_DEV_GPU_TEMP", 40))
    for now_s[0] in (0.0, 15.0, 299.0):
        read(source)

    now_s[0] = 300.0
    with pytest.raises(ExporterError, match="the same for 300 s .* serves old values; restart"):
        source.read(1_000)
    exporter.says(line("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 5_001), line("DCGM_FI_DEV_GPU_TEMP", 40))
    read(source)
    now_s[0] = 500.0
    read(source)


def test_values_that_may_well_stay_the_same_are_not_taken_for_old(exporter: Exporter, source_of: Any) -> None:
    now_s = [0.0]
    source = source_of(clock=lambda: now_s[0])
    exporter.says(line("DCGM_FI_DEV_GPU_TEMP", 40))
    for now_s[0] in (0.0, 10_000.0):
        read(source)


def test_lines_that_cannot_be_read_are_told_once_and_cost_only_themselves(exporter: Exporter, source_of: Any) -> None:
    source = source_of()
    exporter.says(line("DCGM_FI_DEV_GPU_TEMP", 40), "DCGM_FI_DEV_SM_CLOCK{gpu= 5")
    sample, _, events = read(source)
    _, _, again = read(source, 2_000)

    assert sample.temperature_celsius == [40.0]
    (event,) = events
    assert (event.kind, event.gpu, event.details) == ("metric_unreadable", None, {"lines": "1"})
    assert "line 2" in event.raw
    assert again == []


def test_after_trouble_the_page_is_read_again(exporter: Exporter, source_of: Any) -> None:
    source = source_of()
    exporter.status = 500
    for _ in range(3):
        with pytest.raises(ExporterError):
            source.read(1_000)
    exporter.status = 200
    exporter.says(line("DCGM_FI_DEV_GPU_TEMP", 40))
    assert read(source)[0].temperature_celsius == [40.0]


@pytest.mark.parametrize("wrong", ["ftp://host/metrics", "localhost:9400", ""])
def test_an_address_that_cannot_be_asked_is_refused_at_once(wrong: str) -> None:
    with pytest.raises(ValidationError):
        ExporterSettings(url=wrong)
