"""The real NVML behind `interface.Nvml`; `pynvml` is behind it.

One library serves several sources, each in a thread of its own. NVML itself may be asked by several threads at once,
but must not be shut down under a call: `close` leaves that to the call that returns last.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pynvml

from producers.discovery import GpuIdentity, normal_serial
from producers.kernel_log.events import normal_pci
from producers.nvml.counter_calls import fabric_info
from producers.nvml.device import Device
from producers.nvml.interface import Answer, NvmlError, Watch, Xid

NO_INSTANCE = 0xFFFFFFFF
"""nvml.h: the GPU instance of an event that is about the whole GPU."""


class Library:
    """The real one. Keeps, per GPU, the list of its fields and the last GPM sample (20 kB)."""

    def __init__(self) -> None:
        self._gate = _Gate(self._shut_down)
        self._devices: dict[int | None, Device] = {}
        """Address of the driver's handle to the device: the same GPU is the same device until `close`."""
        self._watches: list[_XidWatch] = []

    def open(self) -> None:
        """Load and initialise NVML."""
        with self._gate:
            _asked(pynvml.nvmlInit)

    def close(self) -> None:
        """Let the driver go, as soon as no call is under way."""
        self._gate.close()

    def count(self) -> int:
        """GPUs that the driver counts."""
        with self._gate:
            return int(_asked(pynvml.nvmlDeviceGetCount))

    def handle(self, index: int) -> Device:
        """A GPU by the driver's index."""
        with self._gate:
            found = _asked(pynvml.nvmlDeviceGetHandleByIndex, index)
            device = self._devices.setdefault(_address(found), Device(found))
            device.forget()
            return device

    def identify(self, handle: Device, index: int) -> GpuIdentity:
        """Who it is. Raises only where the GPU is lost."""
        with self._gate:
            device = _usable(handle)
            return GpuIdentity(
                index=index,
                serial=normal_serial(_told(pynvml.nvmlDeviceGetSerial, device)),
                uuid=_told(pynvml.nvmlDeviceGetUUID, device),
                pci=_told(lambda _: normal_pci(pynvml.nvmlDeviceGetPciInfo(device).busId), device),
                sku=_told(pynvml.nvmlDeviceGetName, device),
                driver_version=_told(lambda _: pynvml.nvmlSystemGetDriverVersion(), device),
                vbios_version=_told(pynvml.nvmlDeviceGetVbiosVersion, device),
                module=_told(pynvml.nvmlDeviceGetModuleId, device),
                nvlink_domain=_told(_domain, device),
                board_part_number=_told(pynvml.nvmlDeviceGetBoardPartNumber, device),
                inforom_version=_told(pynvml.nvmlDeviceGetInforomImageVersion, device),
            )

    def read(self, handle: Device, call: str) -> Answer:
        """The answer of a call."""
        with self._gate:
            _usable(handle)
            try:
                return handle.read(call)
            except pynvml.NVMLError as error:
                raise NvmlError(error.value, str(error)) from error

    def fields(self, handle: Device, asked: Sequence[tuple[int, int]]) -> Answer:
        """The values of fields."""
        with self._gate:
            _usable(handle)
            try:
                return handle.fields(asked)
            except pynvml.NVMLError as error:
                raise NvmlError(error.value, str(error)) from error

    def watch(self, handles: Sequence[Device]) -> Watch:
        """An event set for XIDs. Raises where none of the GPUs supports it."""
        with self._gate:
            watch = _XidWatch(self._gate, handles)
            self._watches = [*(held for held in self._watches if held.held), watch]
            return watch

    def _shut_down(self) -> None:
        for watch in self._watches:
            watch.free()
        for device in self._devices.values():
            device.close()
        self._watches.clear()
        self._devices.clear()
        try:
            _asked(pynvml.nvmlShutdown)
        except NvmlError:  # the driver went first
            return


class _Gate:
    """Counts the calls under way, so that NVML is not shut down under one of them."""

    def __init__(self, shut_down: Callable[[], None]) -> None:
        self._shut_down = shut_down
        self._lock = threading.Lock()
        self._under_way = 0
        self._closing = False

    def __enter__(self) -> None:
        with self._lock:
            if self._closing:
                text = "NVML is being closed, and a call that was under way has not come back"
                raise NvmlError(pynvml.NVML_ERROR_UNINITIALIZED, text)
            self._under_way += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._under_way -= 1
            last = self._closing and not self._under_way
        if last:
            self._end()

    def close(self) -> None:
        with self._lock:
            if self._closing:
                return
            self._closing = True
            busy = self._under_way > 0
        if not busy:
            self._end()

    def _end(self) -> None:
        self._shut_down()
        with self._lock:
            self._closing = False


class _XidWatch:
    """An event set of NVML. XIDs that come in between two waits are kept by the driver."""

    def __init__(self, gate: _Gate, handles: Sequence[Device]) -> None:
        self._gate = gate
        self._devices = {_address(device.device): device for device in handles}
        self._set: Any = _asked(pynvml.nvmlEventSetCreate)
        refused: NvmlError | None = None
        registered = 0
        for handle in handles:
            try:
                _asked(
                    pynvml.nvmlDeviceRegisterEvents, _usable(handle), pynvml.nvmlEventTypeXidCriticalError, self._set
                )
                registered += 1
            except NvmlError as error:
                refused = error
        if refused is not None and not registered:
            self.free()
            raise refused

    @property
    def held(self) -> bool:
        """Whether it is still to be let go."""
        return self._set is not None

    def wait(self, timeout_ms: int) -> Xid | None:
        """The next XID."""
        with self._gate:
            if self._set is None:
                raise NvmlError(pynvml.NVML_ERROR_UNINITIALIZED, "NVML was closed")
            try:
                data = pynvml.nvmlEventSetWait_v2(self._set, timeout_ms)
            except pynvml.NVMLError as error:
                if error.value == pynvml.NVML_ERROR_TIMEOUT:
                    return None
                raise NvmlError(error.value, str(error)) from error
        instance = int(data.gpuInstanceId)
        return Xid(
            self._devices.get(_address(data.device)),
            int(data.eventData),
            None if instance == NO_INSTANCE else instance,
        )

    def close(self) -> None:
        """Let it go, unless NVML was closed meanwhile, which did."""
        try:
            with self._gate:
                self.free()
        except NvmlError:
            return

    def free(self) -> None:
        """Let it go, inside the gate."""
        held, self._set = self._set, None
        if held is not None:
            try:
                pynvml.nvmlEventSetFree(held)
            except pynvml.NVMLError:
                return


def _address(device: Any) -> int | None:
    return ctypes.cast(device, ctypes.c_void_p).value


def _usable(handle: Device) -> Any:
    if handle.closed:
        raise NvmlError(pynvml.NVML_ERROR_UNINITIALIZED, "NVML was closed since this GPU was found")
    return handle.device


def _asked(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        raise NvmlError(error.value, str(error)) from error


def _told(function: Callable[[Any], Any], device: Any) -> Any:
    """An answer of `function`, None where NVML has none. A GPU that is lost says so by an exception."""
    try:
        return function(device)
    except pynvml.NVMLError as error:
        if error.value == pynvml.NVML_ERROR_GPU_IS_LOST:
            raise NvmlError(error.value, str(error)) from error
        return None


def _domain(device: Any) -> str | None:
    """The NVLink domain of a GPU in a rack-wide fabric, None where the node is a domain by itself."""
    info = fabric_info(device)
    cluster = bytes(info.clusterUuid)
    if info.state != pynvml.NVML_GPU_FABRIC_STATE_COMPLETED or not any(cluster):
        return None
    return f"{cluster.hex()}.{info.cliqueId}"
