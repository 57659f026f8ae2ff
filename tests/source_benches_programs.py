"""The benches of sources that ask programs and an exporter: see `source_benches.py`."""

from __future__ import annotations

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from producers.dcgm.diagnostics_source import DiagnosticsSource
from producers.dcgm.exporter_source import DcgmExporterSource
from producers.dcgm.run import Request, Runs
from producers.dcgm.settings import DiagnosticsSettings, ExporterSettings
from producers.discovery import Roster
from producers.nvidia_smi.run import NvidiaSmi
from producers.nvidia_smi.source import NvidiaSmiSource
from producers.source import Source
from schemas.catalog import Catalog
from tests.source_benches import ORIGIN, Bench, Trouble, in_turn, quiet, raises, told


def program(path: Path, *lines: str) -> None:
    """A program of a few shell lines, put in place of the one before at once."""
    new = path.with_suffix(".new")
    new.write_text("\n".join(("#!/bin/sh", *lines, "")))
    new.chmod(0o755)
    new.replace(path)


class DcgmExporterBench(Bench):
    """Metrics of a dcgm-exporter, over HTTP."""

    says_as = frozenset({"dcgm_exporter"})
    period_s = 15.0

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        super().__init__(folder, catalog)
        self.status, self.lines, self.gpus, self.serves = 200, "", 2, True
        self.made: list[DcgmExporterSource] = []
        bench = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                bench.block()
                page = bench.page().encode()
                self.send_response(bench.status)
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def page(self) -> str:
        if not self.serves:
            return ""
        fields = (("DCGM_FI_DEV_GPU_TEMP", 40), ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", int(self.now_s)))
        gpus = [f'gpu="{i}",UUID="GPU-{i}",pci_bus_id="00000000:{0x19 + i:02X}:00.0"' for i in range(self.gpus)]
        return self.lines + "".join(f"{field}{{{gpu}}} {value}\n" for gpu in gpus for field, value in fields)

    def source(self, name: str = "") -> Source:
        settings = ExporterSettings(
            url=f"http://127.0.0.1:{self._server.server_port}/metrics", samples=True, timeout_s=30
        )
        self.made.append(DcgmExporterSource(ORIGIN, self.catalog, settings, wall_ms=self.wall_ms, clock=self.clock))
        return self.made[-1]

    def troubles(self) -> dict[str, Trouble]:
        return {
            "raises": raises(lambda: self.set(status=500), "answers 500: see the exporter's log"),
            "vanishes": raises(lambda: self.set(serves=False), "names no GPU.*restart the exporter"),
            "says_garbage": told(lambda: self.set(lines="DCGM_FI_DEV_SM_CLOCK{gpu= 5\n"), "metric_unreadable"),
            "is_unplugged": told(lambda: self.set(gpus=1), "gpu_unreadable"),
            "is_forbidden": raises(lambda: self.set(status=403), "authorization_file"),
        }

    def set(self, **how: object) -> None:
        for name, value in how.items():
            setattr(self, name, value)

    def heal(self) -> None:
        self.set(status=200, lines="", gpus=2, serves=True)

    def hang(self) -> None:
        self.gate.clear()

    def close(self) -> None:
        for source in self.made:
            source.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class DcgmDiagBench(Bench):
    """Diagnostics: a dcgmi that passes, asked for once at the first tick and once in each trouble."""

    says_as = frozenset({"dcgm_diag"})
    period_s = 5.0

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        super().__init__(folder, catalog)
        self.dcgmi = folder / "dcgmi"
        self._folder = folder / "diagnostics"
        self._runs: list[Runs] = []
        self.heal()

    def source(self, name: str = "") -> Source:
        settings = DiagnosticsSettings(command=str(self.dcgmi))
        self._runs.append(
            Runs(self._folder, boot_id="boot", command=str(self.dcgmi), wall_ms=self.wall_ms, clock=self.clock)
        )
        return DiagnosticsSource(
            ORIGIN,
            self.catalog,
            settings,
            self._folder,
            busy=self._programs,
            runs=self._runs[-1],
            wall_ms=self.wall_ms,
        )

    def _programs(self) -> list[str]:
        self.block()
        return []

    def speak(self) -> None:
        self._runs[0].ask(Request(level=1))

    def settle(self) -> None:
        """Wait until no dcgmi runs: looking is what a source does, and it will not look again before the next tick."""
        deadline = time.monotonic() + 10
        while self._folder.exists() and not self._free() and time.monotonic() < deadline:
            time.sleep(0.005)

    def _free(self) -> bool:
        with self._runs[0]._locked() as lock:
            return lock is not None

    def troubles(self) -> dict[str, Trouble]:
        document = self.document("Fail")
        return {
            "raises": told(lambda: self.says("echo no such option >&2", "exit 2"), "diag_incomplete"),
            "vanishes": told(in_turn(self.dcgmi.unlink, self.speak), "diag_refused"),
            "says_garbage": told(lambda: self.says("echo '{]'"), "diag_incomplete"),
            "is_unplugged": told(lambda: self.says(f"echo '{document}'", "exit 1"), "diag_fault", "diag_not_run"),
            "is_forbidden": told(in_turn(lambda: self.dcgmi.chmod(0o644), self.speak), "diag_refused"),
        }

    def says(self, *lines: str) -> None:
        program(self.dcgmi, *lines)
        self.speak()

    @staticmethod
    def document(status: str) -> str:
        results = [
            {"entity_group": "GPU", "entity_id": 0, "status": status},
            {"entity_group": "GPU", "entity_id": 1, "status": status if status == "Pass" else "Skip"},
        ]
        tests = [{"name": "memory", "results": results}]
        return json.dumps({"DCGM Diagnostic": {"test_categories": [{"category": "Hardware", "tests": tests}]}})

    def heal(self) -> None:
        program(self.dcgmi, f"echo '{self.document('Pass')}'")

    def hang(self) -> None:
        self.speak()
        self.gate.clear()


class NvidiaSmiBench(Bench):
    """GPUs by nvidia-smi."""

    says_as = frozenset({"nvidia_smi"})
    period_s = 10.0

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        super().__init__(folder, catalog)
        self.smi = folder / "nvidia-smi"
        self.heal()

    def source(self, name: str = "") -> Source:
        return NvidiaSmiSource(
            ORIGIN,
            self.catalog,
            Roster(),
            lambda: True,
            smi=NvidiaSmi(str(self.smi), timeout_s=30),
            wall_ms=self.wall_ms,
            clock=self.clock,
        )

    def report(self, gpus: int = 2, temperature: str = "41 C") -> str:
        return "<nvidia_smi_log><driver_version>570.86.15</driver_version>" + "".join(
            f'<gpu id="00000000:{0x19 + i:02X}:00.0"><product_name>NVIDIA H100</product_name><serial>{165 + i}</serial>'
            f"<uuid>GPU-{i}</uuid><minor_number>{i}</minor_number><temperature><gpu_temp>{temperature}</gpu_temp>"
            f"</temperature><clocks><sm_clock>1980 MHz</sm_clock></clocks></gpu>"
            for i in range(gpus)
        ) + "</nvidia_smi_log>"  # fmt: skip

    def troubles(self) -> dict[str, Trouble]:
        return {
            "raises": raises(
                lambda: program(self.smi, "echo no such option", "exit 2"), "gave no report.*run it by hand"
            ),
            "vanishes": quiet(self.smi.unlink, "where there is no nvidia-smi it is not asked"),
            "says_garbage": told(lambda: self.prints(self.report(temperature="hot")), "metric_unreadable"),
            "is_unplugged": told(lambda: self.prints(self.report(gpus=1)), "gpu_lost"),
            "is_forbidden": quiet(lambda: self.smi.chmod(0o644), "what cannot be run is not there"),
        }

    def prints(self, report: str) -> None:
        program(self.smi, f"echo '{report}'")

    def heal(self) -> None:
        self.prints(self.report())

    def hang(self) -> None:
        self.gate.clear()
        shut = self.folder / "shut"
        shut.touch()
        program(self.smi, f"while [ -e '{shut}' ]; do sleep 0.02; done", f"echo '{self.report()}'")
        opener = Thread(target=in_turn(self.block, shut.unlink))
        opener.start()
