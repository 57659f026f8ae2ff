"""An inventory from CSV, as an asset database exports it: one row for each node, each GPU, or of all kinds.

What a row mentions in passing (its rack; its switch and PDU where the file lists none) is declared by that.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from producers.inventory.declared import COOLING, DEVICES, LEAF_SWITCH, PDU
from producers.inventory.draft import Draft, Said
from producers.inventory.names import BadNameError, check, numbers

_OF_NODE = ("rack", "site", "chassis_serial", LEAF_SWITCH, PDU, "nvlink_domain", "gpus_per_node")
_COLUMNS = {
    "rack": ("name", "site", "units"),
    "node": ("name", *_OF_NODE, "slot", "sku", "gpus"),
    "gpu": ("serial", "node", *_OF_NODE, "index", "slot", "uuid", "sku"),
    LEAF_SWITCH: ("name", "rack", "site"),
    PDU: ("name", "rack", "site"),
    COOLING: ("name", "rack", "site"),
}
"""Kind of a row to the columns that mean something in it."""
_ALL = ("kind", *dict.fromkeys(column for columns in _COLUMNS.values() for column in columns))
_NUMBERS = frozenset({"units", "slot", "index", "gpus_per_node"})
_NAMES = frozenset({"name", "serial", "rack", "site", "node", LEAF_SWITCH, PDU, "nvlink_domain"})
_SEPARATORS = ",;\t"

Row = tuple[int, str, dict[str, str]]
"""Line, kind, and the cells that are not empty, by column."""


def read(text: str, draft: Draft) -> None:
    """Everything that the text declares, into the draft. Raises nothing: what is wrong goes to its findings."""
    rows = _rows(text, draft)
    listed = {kind for _, kind, _ in rows}
    for line, kind, cells in rows:
        _Row(draft, line, kind, cells).declare(listed)


def _rows(text: str, draft: Draft) -> list[Row]:
    first = next((line for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
    separator = max(_SEPARATORS, key=first.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[Row] = []
    header: list[str] | None = None
    begins = 1
    try:
        for cells in lines:
            line, begins = begins, lines.line_num + 1
            if not any(cell.strip() for cell in cells) or cells[0].startswith("#"):
                continue
            if header is None:
                header = _header(cells, line, draft)
            elif (row := _row(header, cells, line, draft)) is not None:
                rows.append(row)
    except csv.Error as error:
        draft.findings.add(
            max(1, lines.line_num), f"this is no CSV: {error}; quote cells that hold quotes or separators"
        )
    return rows


def _header(cells: Sequence[str], line: int, draft: Draft) -> list[str]:
    names = [cell.strip().lower().replace(" ", "_") for cell in cells]
    for place, name in enumerate(names):
        if name not in _ALL:
            draft.findings.add(line, f'there is no column "{name}"{draft.findings.meant(name, _ALL)}')
        elif name in names[:place]:
            draft.findings.add(line, f'there are two columns "{name}"; remove one')
    return names


def _row(header: Sequence[str], cells: Sequence[str], line: int, draft: Draft) -> Row | None:
    if len(cells) > len(header):
        draft.findings.add(line, f"{len(cells)} cells, but the header has {len(header)}; quote cells with separators")
    found = {name: cell.strip() for name, cell in zip(header, cells, strict=False) if cell.strip() and name in _ALL}
    kind = found.pop("kind", "").lower() or ("gpu" if "kind" not in header and "serial" in header else "node")
    if kind not in _COLUMNS:
        draft.findings.add(line, f'there is no kind "{kind}"{draft.findings.meant(kind, tuple(_COLUMNS))}')
        return None
    for name in [name for name in found if name not in _COLUMNS[kind]]:
        means = ", ".join(_COLUMNS[kind])
        draft.findings.add(line, f"column {name} means nothing for a {kind.replace('_', ' ')}; it takes {means}")
        del found[name]
    return line, kind, found


class _Row:
    def __init__(self, draft: Draft, line: int, kind: str, cells: Mapping[str, str]) -> None:
        self._draft, self._line, self._kind = draft, line, kind
        self._facts: dict[str, Said] = {}
        for column, cell in cells.items():
            try:
                self._facts[column] = Said(self._value(column, cell), line)
            except BadNameError as error:
                draft.findings.add(line, f"column {column}: {error}")

    def declare(self, listed: set[str]) -> None:
        """Into the draft, with what it mentions of kinds that the file does not list."""
        own = "serial" if self._kind == "gpu" else "name"
        if own not in self._facts:
            self._draft.findings.add(self._line, f"a {self._kind.replace('_', ' ')} has no {own}; fill that column")
            return
        name = str(self._facts[own].value)
        if self._kind == "rack":
            self._draft.rack(name, self._line, self._take("site", "units"))
            return
        if "rack" in self._facts and ("rack" not in listed or "site" in self._facts):
            rack = str(self._facts["rack"].value)
            if "rack" not in listed or self._draft.has_rack(rack):
                self._draft.rack(rack, self._line, self._take("site"), again=True)
        if self._kind in DEVICES:
            self._draft.device(self._kind, name, self._line, self._take("rack"))
            return
        for kind in (LEAF_SWITCH, PDU):
            if kind not in listed and kind in self._facts:
                self._draft.device(kind, str(self._facts[kind].value), self._line, self._take("rack"), implied=True)
        if self._kind == "node":
            self._node(name)
        else:
            self._gpu(name, listed)

    def _node(self, name: str) -> None:
        facts = self._take("rack", "slot", "sku", *_OF_NODE[2:])
        self._draft.node(name, self._line, facts)
        serials = str(self._facts["gpus"].value).replace(";", " ").split() if "gpus" in self._facts else []
        for index, serial in enumerate(serials):
            self._draft.gpu(serial, self._line, {"node": Said(name, self._line), "index": Said(index, self._line)})

    def _gpu(self, serial: str, listed: set[str]) -> None:
        if "node" in self._facts and ("node" not in listed or self._facts.keys() & set(_OF_NODE)):
            facts = self._take(*(column for column in _OF_NODE if column != "site"))
            self._draft.node(str(self._facts["node"].value), self._line, facts, again=True)
        self._draft.gpu(serial, self._line, self._take("node", "index", "slot", "uuid", "sku"))

    def _take(self, *columns: str) -> dict[str, Said]:
        return {column: self._facts[column] for column in columns if column in self._facts}

    def _value(self, column: str, cell: str) -> str | int:
        if column in _NUMBERS:
            found = numbers(cell)
            if len(found) != 1:
                raise BadNameError(f'"{cell}" is no single number')
            return found[0]
        if column in _NAMES:
            check(cell)
        return cell
