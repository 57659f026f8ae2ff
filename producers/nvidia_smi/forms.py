"""The three forms of nvidia-smi's output, each taken apart into one `Block` per GPU: paths to values, still text.

They come line by line and may follow each other: `nvidia-smi -l` repeats its document, a capture file holds several.
XML is read piece by piece, each `<gpu>` by itself: a broken one does not take its neighbours along, and a DTD, with
what entities it may declare, never reaches the parser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar
from xml.parsers import expat

import msgspec

from producers.unreadable import Unreadable

_GPU_TAG = re.compile(r"<gpu\s+id=\s*[\"']?([^\"'>\s]*)")
BLOCK_BYTES = 4 << 20
"""One GPU's XML is 20 to 100 kB; what grows beyond this is no such thing."""


class Block(msgspec.Struct, kw_only=True):
    """One GPU as one document shows it."""

    form: str
    """text, xml or csv."""
    line: int
    """Where it begins, from 1."""
    header: dict[str, str]
    """timestamp, driver_version, cuda_version, attached_gpus: as far as the document told them before."""
    bus_id: str | None = None
    fields: dict[str, list[str]] = {}
    """Path to every value that stands there, in order."""
    cut: str | None = None
    """What the block ends after, where it does not end as it should."""
    last_line: int = 0

    def add(self, path: str, value: str) -> None:
        """One more value at a path."""
        self.fields.setdefault(path, []).append(value)


Piece = Block | Unreadable | str
"""What a form gives: a GPU, a complaint, or (str) the end of a document."""
END = "end"


class TextForm:
    """`nvidia-smi -q`: labels, indented under each other."""

    _GPU = re.compile(r"GPU ([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f])\s*$")
    _HEADER: ClassVar = {
        "Timestamp": "timestamp",
        "Driver Version": "driver_version",
        "CUDA Version": "cuda_version",
        "Attached GPUs": "attached_gpus",
    }

    def __init__(self) -> None:
        self._header: dict[str, str] | None = None
        self._block: Block | None = None
        self._labels: list[tuple[int, str]] = []

    @property
    def inside(self) -> bool:
        """Whether a GPU has begun and not ended."""
        return self._block is not None

    def feed(self, number: int, line: str) -> Iterator[Piece]:
        """What the line completes."""
        line = line.rstrip()
        if "NVSMI LOG" in line:
            yield from self.end()
            self._header = {}
        elif gpu := self._GPU.match(line):
            yield from self._close()
            self._header = {} if self._header is None else self._header
            self._block = Block(form="text", line=number, header=self._header, bus_id=gpu[1], last_line=number)
            self._labels = []
        elif not line or self._header is None:
            return
        elif line[0] == " " and self._block is not None:
            self._entry(self._block, number, line)
        elif self._block is None and (name := self._HEADER.get(line.partition(" :")[0].strip())):
            self._header[name] = line.partition(" :")[2].strip()
        else:
            yield from self.end()

    def _entry(self, block: Block, number: int, line: str) -> None:
        label, has_value, value = line.partition(" :")
        indent = len(label) - len(label.lstrip())
        while self._labels and self._labels[-1][0] >= indent:
            self._labels.pop()
        self._labels.append((indent, label.strip()))
        path = "/".join(label for _, label in self._labels)
        block.last_line = number
        if has_value or path == "Processes":
            block.add(path, value.strip())

    def _close(self) -> Iterator[Piece]:
        """A whole report begins with the product's name and does not end before the processes."""
        block, self._block = self._block, None
        if block is None:
            return
        if "Product Name" in block.fields and not any(path.startswith("Processes") for path in block.fields):
            block.cut = "/".join(label for _, label in self._labels)
        yield block

    def end(self) -> Iterator[Piece]:
        """What the end of the document completes."""
        yield from self._close()
        if self._header is not None:
            self._header = None
            yield END


class XmlForm:
    """`nvidia-smi -q -x`."""

    _BEGIN = re.compile(r"<nvidia_smi_log|<gpu\s+id=")
    _HEADER = re.compile(r"<(timestamp|driver_version|cuda_version|attached_gpus)>([^<]*)<")

    def __init__(self) -> None:
        self._header: dict[str, str] | None = None
        self._held: list[str] = []
        self._bytes = 0
        self._first = 0

    @property
    def inside(self) -> bool:
        """Whether a document has begun and not ended."""
        return self._header is not None

    def feed(self, number: int, line: str) -> Iterator[Piece]:
        """What the line completes."""
        if "<nvidia_smi_log" in line and self.inside:
            yield from self.end()
        if not self.inside:
            if not self._BEGIN.search(line):
                return
            self._header = {}
        if not self._held:
            self._first = number
        self._held.append(line if line.endswith("\n") else line + "\n")
        self._bytes += len(line)
        if "</gpu>" in line:
            yield from self._cut(self._take())
        elif self._bytes > BLOCK_BYTES:
            yield Unreadable(
                place=f"line {self._first}",
                what="an XML document of nvidia-smi",
                reason=f"no </gpu> within {BLOCK_BYTES >> 20} MiB; left out",
            )
            self._take()
        if "</nvidia_smi_log>" in line:
            yield from self.end()

    def _take(self) -> str:
        text = "".join(self._held)
        self._held, self._bytes = [], 0
        return text

    def _cut(self, text: str) -> Iterator[Piece]:
        """Each `<gpu>` of a text; what stands before the first is the document's header."""
        starts = [match.start() for match in _GPU_TAG.finditer(text)]
        header = self._header if self._header is not None else {}
        header.update(self._HEADER.findall(text[: starts[0]] if starts else text))
        line, before = self._first, 0
        for start, end in pairwise([*starts, len(text)]):
            line += text.count("\n", before, start)
            before = start
            piece, closed, rest = text[start:end].partition("</gpu>")
            yield from _parse_gpu(piece + closed, line, header)
            header.update(self._HEADER.findall(rest))

    def end(self) -> Iterator[Piece]:
        """What the end of the document completes: a GPU that was begun, broken as it is."""
        if self.inside:
            yield from self._cut(self._take())
            self._header = None
            yield END


def _parse_gpu(text: str, line: int, header: dict[str, str]) -> Iterator[Piece]:
    found = _GPU_TAG.match(text)
    block = Block(form="xml", line=line, header=header, bus_id=found[1] if found else None)
    path: list[str] = []
    words: list[str] = []
    leaf = False

    def start(name: str, _: dict[str, str]) -> None:
        nonlocal leaf
        path.append(name)
        words.clear()
        leaf = True

    def end(_: str) -> None:
        nonlocal leaf
        if leaf and len(path) > 1:
            block.add("/".join(path[1:]), " ".join("".join(words).split()))
        path.pop()
        leaf = False  # what holds elements is no value

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, words.append
    try:
        parser.Parse(text, True)
    except (expat.ExpatError, ValueError, UnicodeError) as error:
        at = min(parser.CurrentLineNumber - 1, text.rstrip("\n").count("\n"))
        block.cut = "/".join(path[1:]) or "the beginning"
        block.last_line = line + at
        reason = str(error).partition(": line")[0]
        yield block
        yield Unreadable(place=f"line {block.last_line}", what=f"the XML of GPU {block.bus_id}", reason=reason)
        return
    yield block


class CsvForm:
    """`nvidia-smi --query-gpu=… --format=csv`: a line of names, then a line per GPU."""

    _NAME = re.compile(r"([a-z][A-Za-z0-9_.]*)(?: \[([^\]]{1,12})\])?")

    def __init__(self, known: frozenset[str]) -> None:
        self._known = known
        self._names: list[tuple[str, str]] | None = None

    def feed(self, number: int, line: str) -> Iterator[Piece]:
        """What the line completes."""
        cells = [cell.strip() for cell in line.strip().split(",")]
        if self._begins(cells):
            return
        if self._names is None:
            return
        if len(cells) < 2:
            yield from self.end()
            return
        if len(cells) != len(self._names):
            yield Unreadable(
                place=f"line {number}",
                what="a GPU of nvidia-smi --query-gpu",
                reason=f"it has {len(cells)} of {len(self._names)} columns",
            )
            return
        block = Block(form="csv", line=number, header={})
        for (name, unit), cell in zip(self._names, cells, strict=True):
            bare = unit and cell.replace(".", "", 1).lstrip("-").isdigit()
            block.add(name, f"{cell} {unit}" if bare else cell)
        block.header["timestamp"] = block.fields.get("timestamp", [""])[0]
        yield block

    def _begins(self, cells: list[str]) -> bool:
        """A line of names; `--query-compute-apps` and its like name processes and pages, not GPUs."""
        if len(cells) < 2 or cells[0][:1].isdigit():
            return False
        matches = [self._NAME.fullmatch(cell) for cell in cells]
        names = [(match[1].lower(), match[2] or "") for match in matches if match]
        if len(names) != len(cells) or not {name for name, _ in names} & self._known:
            return False
        other = {"pid", "retired_pages.address", "remapped_rows.address"} & {name for name, _ in names}
        self._names = None if other else names
        return True

    def end(self) -> Iterator[Piece]:
        """What the end of the document completes."""
        if self._names is not None:
            self._names = None
            yield END
