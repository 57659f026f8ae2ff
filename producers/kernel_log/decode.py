"""Kernel lines to hardware events. Pure: no files, no clock; never raises, whatever the bytes.

A line that says XID or SXid with a code is never dropped because another part of it is unusual.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from producers.kernel_log.events import GpuMap, KernelEvent, normal_pci
from producers.kernel_log.host import HOST_NEEDLES, HOST_TEXTS, variant_of
from producers.kernel_log.lines import Line, is_journal_bytes, unwrap
from producers.kernel_log.texts import (
    ADAPTER_DRIVERS,
    GPU_DRIVERS,
    NEEDLES,
    NVRM_NEEDLES,
    NVRM_TEXTS,
    TEXTS,
    VIRTUAL_INTERFACE,
    Text,
)
from producers.kernel_log.xid import Coded, find_coded

RAW_CHARS, CUT_CHARS = 8192, 2048
"""A line longer than the first is cut to the second around what was found in it: Kafka takes no megabytes."""
_HEAD = re.compile(r"The NVIDIA GPU ([^\s()]*)")
_TAIL = "fallen off the bus"
_SINGLE = re.compile(r"GPU ([0-9a-fA-F:.]{4,20}): GPU has fallen off the bus")
_PATIENCE_LINES = 8
"""The driver prints its three lines in one go; other processors' lines may come between."""
_SWITCH_MEMORY = 256
_NOTHING: tuple[KernelEvent, ...] = ()
_NEEDLES = (*NEEDLES, *HOST_NEEDLES)
_TEXTS = (*TEXTS, *HOST_TEXTS)
_PORT_KINDS = frozenset({"cable", "adapter_health"})
"""Kinds about a port whose lines name its adapter by address only."""


def _is_ours(raw: str) -> bool:
    """Whether a line may hold an event; a loop over substrings, because it is all that most lines ever meet."""
    for needle in NVRM_NEEDLES if "NVRM" in raw else _NEEDLES:
        if needle in raw:
            return True
    return raw.startswith("{") and is_journal_bytes(raw)


class _Head:
    """A "The NVIDIA GPU …" whose "… fallen off the bus" has not come yet."""

    __slots__ = ("event_ms", "left", "line", "pci", "raw", "text")

    def __init__(self, line: int, raw: str, text: str, address: str, event_ms: int | None) -> None:
        self.line, self.raw, self.text, self.event_ms = line, raw, text, event_ms
        self.pci = normal_pci(address)
        self.left = _PATIENCE_LINES


class Decoder:
    """Feeds on lines in order and gives events. Its memory is small and bounded: open joins, GPUs, recent SXids."""

    def __init__(self, *, now_ms: int | None = None, boot_ms: int | None = None, gpus: GpuMap | None = None) -> None:
        self.now_ms = now_ms
        """Gives syslog stamps their year; may be moved on."""
        self.boot_ms = boot_ms
        """UTC milliseconds of the boot; gives monotonic stamps their time."""
        self.gpus = GpuMap() if gpus is None else gpus
        self._head: _Head | None = None
        self._mapped: tuple[int, str | None] = (-1, None)
        """Line and address of the last "GPU at PCI:…": the next line may name its serial."""
        self._work_request: tuple[int, str] = (-_PATIENCE_LINES, "")
        """Line and adapter of the last failed work request."""
        self._switch: dict[tuple[str | None, int | None], Coded] = {}
        """What the first line of an SXid said, for the lines with its data that follow."""

    def feed(self, number: int, raw: str) -> Sequence[KernelEvent]:
        """The events that the physical line `number` (from 1) completes; mostly none."""
        if self._head is None and not _is_ours(raw):
            return _NOTHING
        raw = raw.rstrip("\r\n")
        line = unwrap(raw, now_ms=self.now_ms, boot_ms=self.boot_ms)
        return [event for message in line.messages for event in self._message(number, raw, line, message)]

    def _message(self, number: int, raw: str, line: Line, message: str) -> Iterator[KernelEvent]:
        coded = find_coded(message, self.gpus.branch)
        if coded:
            for found in coded:
                yield self._coded(number, raw, line, found)
            return
        if self._head is not None or _TAIL in message or "The NVIDIA GPU" in message:
            yield from self._fallen(number, raw, line, message)
        for text in NVRM_TEXTS if "NVRM" in message else _TEXTS:
            if text.needle in message and (match := text.pattern.search(message)):
                yield from self._text(number, raw, line, text, match)
                return

    def _coded(self, number: int, raw: str, line: Line, found: Coded) -> KernelEvent:
        if found.kind == "sxid":
            found = self._with_switch_memory(found)
        return self._event(number, raw, line, found.kind, found.at, found.pci, found.details, found.code, found.link)

    def _with_switch_memory(self, found: Coded) -> Coded:
        """A switch reports one error in three lines, and only the first says what the others detail."""
        key = (found.pci, found.code)
        if "part" not in found.details:
            self._switch.pop(key, None)
            self._switch[key] = found
            if len(self._switch) > _SWITCH_MEMORY:
                del self._switch[next(iter(self._switch))]
            return found
        first = self._switch.get(key)
        if first is None:
            return found
        if "variant" in first.details:
            found.details.setdefault("variant", first.details["variant"])
        return found._replace(link=first.link if found.link is None else found.link)

    def _fallen(self, number: int, raw: str, line: Line, message: str) -> Iterator[KernelEvent]:
        """`The NVIDIA GPU … fallen off the bus …` in one message or over several lines."""
        if single := _SINGLE.search(message):
            yield self._event(number, raw, line, "fallen_off_bus", single.start(), normal_pci(single[1]))
            return
        head = self._head
        if start := _HEAD.search(message):
            head = self._head = _Head(number, raw, message[start.start() :], start[1], line.event_ms)
        elif head is not None:
            head.left -= 1
            if "NVRM" in message or _TAIL in message:
                head.text += " " + message.partition("NVRM:")[2].strip() if "NVRM:" in message else " " + message
                head.raw = head.raw if head.raw.endswith(raw) else f"{head.raw}\n{raw}"
            if head.left <= 0:
                self._head = None
        elif _TAIL in message and "NVRM" in message:
            # The lines before it are gone; a lost GPU without its address is still a lost GPU.
            yield self._event(number, raw, line, "fallen_off_bus", message.index(_TAIL), None)
        if head is not None and _TAIL in head.text:
            self._head = None
            if head.pci is not None:
                whole = Line((), head.event_ms, line.boot_id)
                yield self._event(head.line, head.raw, whole, "fallen_off_bus", 0, head.pci)

    def _text(self, number: int, raw: str, line: Line, text: Text, match: re.Match[str]) -> Iterator[KernelEvent]:
        details = {name: value for name, value in match.groupdict().items() if value}
        pci = normal_pci(details.pop("pci", ""))
        kind = text.kind
        if kind in {"link_flap", "link_up"} and VIRTUAL_INTERFACE.match(details["interface"]):
            return
        if kind == "cqe_error" and self._is_dump_of_last(number, details):
            return
        if kind in {"gpu_map", "gpu_serial"}:
            if kind == "gpu_serial" and pci is None and self._mapped[0] in {number - 1, number}:
                pci = self._mapped[1]
            if kind == "gpu_map":
                self._mapped = (number, pci)
            self.gpus.learn(pci, uuid=details.get("uuid"), serial=details.get("serial"))
        if kind == "pcie_limited" and (details.get("driver") in ADAPTER_DRIVERS or self.gpus.gpu_at(pci) is not None):
            details["variant"] = "adapter"
        if kind == "pcie_aer" and details.get("driver", "nvidia") not in GPU_DRIVERS and not self.gpus.gpu_at(pci):
            kind = "pcie_aer_host"
        if kind in _PORT_KINDS and pci is not None:
            details["interface"] = pci
        if variant := variant_of(kind, details):
            details["variant"] = variant
        yield self._event(number, raw, line, kind, match.start(), pci, details)

    def _is_dump_of_last(self, number: int, details: dict[str, str]) -> bool:
        """A driver that says what went wrong with a work request dumps it too: one error in two lines."""
        last, self._work_request = self._work_request, (number, details["interface"])
        return "status" not in details and last[1] == details["interface"] and number - last[0] <= _PATIENCE_LINES

    def _event(
        self,
        number: int,
        raw: str,
        line: Line,
        kind: str,
        at: int,
        pci: str | None,
        details: dict[str, str] | None = None,
        code: int | None = None,
        link: int | None = None,
    ) -> KernelEvent:
        return KernelEvent(
            line=number,
            kind=kind,
            code=code,
            pci=pci,
            link=link,
            gpu=self.gpus.gpu_at(pci) if kind != "sxid" else None,
            event_ms=line.event_ms,
            details=details or {},
            raw=raw if len(raw) <= RAW_CHARS else _cut(raw, at),
            boot_id=line.boot_id,
        )


def _cut(raw: str, at: int) -> str:
    begin = max(0, min(at - 200, len(raw) - CUT_CHARS))
    return raw[begin : begin + CUT_CHARS]


def decode(lines: Iterable[tuple[int, str]], decoder: Decoder | None = None) -> Iterator[KernelEvent]:
    """The events of numbered physical lines, in order; reads no further ahead than a join needs."""
    decoder = Decoder() if decoder is None else decoder
    for number, raw in lines:
        yield from decoder.feed(number, raw)
