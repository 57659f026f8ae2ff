"""The declared inventory: what stands where, from a file that people keep (YAML or CSV), checked as a whole.

`load(path)` gives an `Inventory` or raises `InventoryError` with every problem and its line. README.md documents both
forms.
"""

from __future__ import annotations

from pathlib import Path

from producers.inventory.declared import DECLARED, Device, Gpu, Inventory, Node, Rack
from producers.inventory.draft import Draft
from producers.inventory.problems import InventoryError, Problem

__all__ = ["DECLARED", "Device", "Gpu", "Inventory", "InventoryError", "Node", "Problem", "Rack", "load", "parse"]

_CSV = frozenset({".csv", ".tsv"})
_YAML = frozenset({".yaml", ".yml", ".json"})


def load(path: Path) -> Inventory:
    """The inventory in a file. Raises `InventoryError` with all that is wrong, `OSError` where it is not there."""
    return parse(path.read_bytes(), str(path))


def parse(data: bytes, name: str) -> Inventory:
    """The inventory in `data`, of the form that the ending of `name` says. Raises `InventoryError` and nothing else."""
    ending = Path(name).suffix.lower()
    if ending not in _CSV | _YAML:
        raise InventoryError(
            name, [Problem(1, f'an inventory is a .yaml, .yml or .csv file, and this ends in "{ending}"; rename it')]
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        said = f"byte 0x{data[error.start]:02x} is no UTF-8; save the file as UTF-8"
        raise InventoryError(name, [Problem(line, said)]) from None
    draft = Draft()
    if ending in _CSV:
        from producers.inventory.csv_file import read
    else:
        from producers.inventory.yaml_file import read
    read(text, draft)
    inventory = draft.finish()
    if draft.findings:
        raise InventoryError(name, draft.findings.problems())
    return inventory
