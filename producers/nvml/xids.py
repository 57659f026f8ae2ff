"""XIDs as NVML's event set tells them, for nodes whose kernel log cannot be read.

The kernel log says more of an XID: its text, from which link, sub-code and consequence are decoded. So the log is the
source of XIDs wherever it can be read, and this one speaks only while it is told that nobody else does: the same XID
from both would count twice. It lacks the text, it sees only XIDs that NVML calls critical, and only from the moment on
that it watches.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from producers.discovery import GpuIdentity
from producers.nvml.interface import Nvml, NvmlError, Watch
from producers.nvml.metric_table import DRIVER_GONE, LOST
from producers.source import Origin
from schemas.catalog import Catalog
from schemas.records import HardwareEvent, Record

AT_ONCE = 10_000
"""XIDs that one read takes at most; the rest waits in the driver for the next."""

Told = tuple[GpuIdentity | None, int, int | None]
"""GPU, XID, MIG instance."""


class XidWatchError(Exception):
    """XIDs can be seen nowhere; says what would help."""


class NvmlXidSource:
    """XIDs of this node's GPUs, one event per GPU and XID in a read, with how many they were.

    `gpus` gives the GPUs and their handles (`NvmlSource.handles`), `wanted` says whether no kernel log can be read. A
    read waits `wait_ms` at most.
    """

    name = "nvml_xids"

    def __init__(
        self,
        origin: Origin,
        catalog: Catalog,
        nvml: Nvml,
        gpus: Callable[[], Sequence[tuple[GpuIdentity, Any]] | None],
        wanted: Callable[[], bool],
        *,
        wait_ms: int = 100,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.doing = "nothing yet"
        self._origin = origin
        self._catalog = catalog
        self._nvml = nvml
        self._gpus = gpus
        self._wanted = wanted
        self._wait_ms = wait_ms
        self._wall_ms = wall_ms
        self._watch: Watch | None = None
        self._watched: dict[int, GpuIdentity] = {}
        """Identity of a handle to whose it is."""

    @property
    def is_needed(self) -> bool:
        """Whether a read has something to do: XIDs are wanted, or no longer, and the driver still keeps them."""
        return self._watch is not None or self._wanted()

    def read(self, now_ms: int) -> Iterable[Record]:
        """What came since the last read. Raises `XidWatchError` where the driver offers no events."""
        self.doing = "asking whether XIDs are wanted, and of which GPUs"
        try:
            if not self._wanted():
                self._leave()
                return []
            told = self._take()
        except NvmlError as error:
            self._leave()
            if error.code in DRIVER_GONE or error.code in LOST:  # the NVML source says so
                return []
            raise XidWatchError(
                f"XIDs of this node are not seen: NVML gives no events ({error}), and no kernel log can be read; "
                "let the agent read /dev/kmsg (root or CAP_SYSLOG), or set agent.kernel_logs to a file that it may read"
            ) from error
        finally:
            self.doing = "nothing"
        return [self._event(*found, count, now_ms) for found, count in told.items()]

    def _take(self) -> Counter[Told]:
        present = [(identity, handle) for identity, handle in self._gpus() or () if handle is not None]
        if [id(handle) for _, handle in present] != list(self._watched):
            self._leave()
        told: Counter[Told] = Counter()
        if not present:
            return told
        if self._watch is None:
            self.doing = "registering for XIDs"
            self._watch = self._nvml.watch([handle for _, handle in present])
        self._watched = watched = {id(handle): identity for identity, handle in present}
        self.doing = "waiting for XIDs"
        wait_ms = self._wait_ms
        for _ in range(AT_ONCE):
            try:
                xid = self._watch.wait(wait_ms)
            except NvmlError:
                if not told:
                    raise
                self._leave()  # what came before the trouble counts
                break
            if xid is None:
                break
            told[watched.get(id(xid.handle)), xid.code, xid.gpu_instance] += 1
            wait_ms = 0
        return told

    def _leave(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        self._watched = {}

    def _event(
        self, gpu: GpuIdentity | None, code: int, instance: int | None, count: int, now_ms: int
    ) -> HardwareEvent:
        entry = self._catalog.entry("xid", code)
        node = self._origin.node
        whose = f"GPU {gpu.index} ({gpu.key(node)})" if gpu else "a GPU that NVML does not name"
        mig = "" if instance is None else f", GPU instance {instance}"
        times = "" if count == 1 else f", {count} times"
        record = self._origin.event(
            self._catalog,
            "xid",
            source="nvml",
            event_ms=now_ms,
            observed_ms=self._wall_ms(),
            gpu=gpu.key(node) if gpu else None,
            pci=gpu.pci if gpu else None,
            details={"via": "nvml_event"} | ({} if instance is None else {"gpu_instance": str(instance)}),
            raw=f"NVML event: XID {code} of {whose}{mig}{times}",
            count=count,
        )
        return msgspec.structs.replace(record, code=code, severity=entry.severity, action=entry.action)
