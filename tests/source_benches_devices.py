"""The benches of the host, its ports and the devices around it: see `source_benches.py`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any, ClassVar

import psutil

from producers.facility.settings import BmcSettings, FacilitySettings
from producers.facility.source import FacilitySource
from producers.host.clock import KernelClock
from producers.host.settings import HostSettings
from producers.host.source import HostSource
from producers.infiniband.settings import InfiniBandSettings
from producers.infiniband.source import InfiniBandSource
from producers.source import Source
from schemas.catalog import Catalog
from tests.facility_devices import RedfishService, old_machine
from tests.source_benches import ORIGIN, Bench, Trouble, in_turn, quiet, raises, told


class HostBench(Bench):
    """The host: psutil with an interface and a disk that never change, and files that can be exchanged."""

    says_as = frozenset({"host"})
    period_s = 10.0

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        super().__init__(folder, catalog)
        self.proc, self.sys = folder / "proc", folder / "sys"
        for name, text in (("uptime", "100.0 1.0\n"), ("vmstat", "pswpin 1\noom_kill 0\n"), ("self/mounts", "")):
            (self.proc / name).parent.mkdir(parents=True, exist_ok=True)
            (self.proc / name).write_text(text)
        self.card = self.sys / "class/net/eth9"
        (self.card / "device").mkdir(parents=True)
        (self.card / "flags").write_text("0x1003\n")
        self.broken: dict[str, Exception] = {}
        self.heal()

    def source(self, name: str = "") -> Source:
        return HostSource(
            ORIGIN,
            self.catalog,
            HostSettings(proc=self.proc, sys=self.sys),
            self.folder,
            system=self,
            kernel_clock=lambda: KernelClock(disciplined=True, max_error_s=0.01, estimated_error_s=0.001),
            wall_ms=self.wall_ms,
            clock=self.clock,
        )

    def __getattr__(self, name: str) -> Any:
        """psutil, as far as it is not broken."""
        if "broken" not in self.__dict__ or name.startswith("_"):
            raise AttributeError(name)

        def call(*arguments: Any, **named: Any) -> Any:
            self.block()
            if error := self.broken.get(name) or self.broken.get("*"):
                raise error
            if name == "net_io_counters":
                counts = dict.fromkeys(("bytes_recv", "bytes_sent", "errin", "errout", "dropin", "dropout"), 0)
                return {"eth9": SimpleNamespace(**counts)}
            if name == "disk_usage":
                return SimpleNamespace(total=100, used=10, free=90)
            return getattr(psutil, name)(*arguments, **named)

        return call

    def troubles(self) -> dict[str, Trouble]:
        gone = FileNotFoundError(2, "No such file or directory")
        return {
            "raises": told(lambda: self.breaks("virtual_memory", RuntimeError("broken")), "metric_unreadable"),
            "vanishes": raises(
                in_turn(lambda: shutil.rmtree(self.proc), lambda: self.breaks("*", gone)), "mount them for the agent"
            ),
            "says_garbage": quiet(
                lambda: (self.proc / "uptime").write_bytes(b"\xff\x00 x\n"), "what is no number is not known"
            ),
            "is_unplugged": told(lambda: (self.card / "operstate").write_text("down\n"), "network_down"),
            "is_forbidden": told(
                lambda: self.breaks("pids", PermissionError(13, "Permission denied")), "metric_unreadable"
            ),
        }

    def breaks(self, name: str, error: Exception) -> None:
        self.broken[name] = error

    def heal(self) -> None:
        self.broken.clear()
        (self.proc / "self").mkdir(parents=True, exist_ok=True)
        (self.proc / "self/mounts").write_text("")
        (self.proc / "uptime").write_text("100.0 1.0\n")
        (self.card / "operstate").write_text("up\n")

    def hang(self) -> None:
        self.gate.clear()


class InfiniBandBench(Bench):
    """InfiniBand ports: a tree of files like sysfs's."""

    says_as = frozenset({"infiniband"})
    lacks: ClassVar[Mapping[str, str]] = {
        "is_forbidden": "root may read everything; tests/unit/test_infiniband_source.py has it for other users"
    }
    period_s = 10.0

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        super().__init__(folder, catalog)
        self.tree = folder / "infiniband"
        self._was_forbidden = False
        self.heal()

    def source(self, name: str = "") -> Source:
        return InfiniBandSource(
            ORIGIN, self.catalog, InfiniBandSettings(tree=self.tree), wall_ms=self.wall_ms, clock=self.clock
        )

    def troubles(self) -> dict[str, Trouble]:
        return {
            "raises": told(lambda: self.replace("rate", Path.mkdir), "metric_unreadable"),
            "vanishes": told(lambda: shutil.rmtree(self.tree / "mlx5_1"), "adapter_lost"),
            "says_garbage": told(lambda: self.port("counters/symbol_error").write_text("many\n"), "metric_unreadable"),
            "is_unplugged": told(self.unplug, "port_down"),
        }

    def port(self, name: str) -> Path:
        return self.tree / "mlx5_1" / "ports" / "1" / name

    def replace(self, name: str, make: Callable[[Path], object]) -> None:
        self.port(name).unlink()
        make(self.port(name))

    def unplug(self) -> None:
        self.port("state").write_text("1: DOWN\n")
        self.port("phys_state").write_text("2: Polling\n")
        self.port("rate").write_text("10 Gb/sec (4X SDR)\n")

    def heal(self) -> None:
        shutil.rmtree(self.tree, ignore_errors=True)
        for device in ("mlx5_0", "mlx5_1"):
            port = self.tree / device / "ports" / "1"
            (port / "counters").mkdir(parents=True)
            (self.tree / device / "board_id").write_text("MT_0000000838\n")
            (self.tree / device / "node_guid").write_text(f"b83f:d203:0000:000{device[-1]}\n")
            for name, text in (
                ("state", "4: ACTIVE"), ("phys_state", "5: LinkUp"), ("rate", "400 Gb/sec (4X NDR)"),
                ("link_layer", "InfiniBand"), ("counters/symbol_error", "0"),
            ):  # fmt: skip
                (port / name).write_text(f"{text}\n")

    def hang(self) -> None:
        self.gate.clear()
        self.replace("state", os.mkfifo)  # opening it waits for somebody who writes

        def write() -> None:
            self.block()
            self.port("state").write_text("4: ACTIVE\n")

        Thread(target=write).start()


class FacilityBench(Bench):
    """Devices around the nodes: a management controller's Redfish service."""

    says_as = frozenset({"facility"})
    period_s = 10.0

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        super().__init__(folder, catalog)
        self.service = RedfishService(old_machine())
        self.made: list[FacilitySource] = []

    def source(self, name: str = "") -> Source:
        settings = FacilitySettings(bmcs=(BmcSettings(url=self.service.url, timeout_s=20, budget_s=30),))
        self.made.append(FacilitySource(ORIGIN, self.catalog, settings, wall_ms=self.wall_ms))
        return self.made[-1]

    def troubles(self) -> dict[str, Trouble]:
        return {
            "raises": told(lambda: self.serves(500), "device_unreachable"),
            "vanishes": told(self.service.documents.clear, "device_unreachable"),
            "says_garbage": told(lambda: self.serves(b"<html>"), "device_unreachable"),
            "is_unplugged": told(self.unplug, "psu_failed"),
            "is_forbidden": told(lambda: self.serves(401), "device_unreachable"),
        }

    def serves(self, what: Any) -> None:
        """The same for whatever is asked."""
        self.service.documents |= dict.fromkeys(self.service.documents, what)

    def unplug(self) -> None:
        power = old_machine()["/redfish/v1/Chassis/1/Power"]
        power["PowerSupplies"][1]["Status"] = {"State": "Absent"}
        self.service.documents["/redfish/v1/Chassis/1/Power"] = power

    def heal(self) -> None:
        self.service.documents.clear()
        self.service.documents |= old_machine()

    def hang(self) -> None:
        self.gate.clear()
        whole = old_machine()["/redfish/v1/Chassis/1/Power"]

        def answer() -> Any:
            self.block()
            return whole

        self.service.documents["/redfish/v1/Chassis/1/Power"] = answer

    def close(self) -> None:
        for source in self.made:
            source.close()
        self.service.stop()
