"""How many bytes an object holds: all that can be reached from it, each thing once."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

import msgspec
import numpy as np

_SHARED = (type, ModuleType, FunctionType, MethodType, msgspec.Struct)
"""Code and rules: held once in a process, however many GPUs there are."""


def state_bytes(*roots: object) -> int:
    """Arrays by what they own, everything else as Python counts it; code and rules are left out."""
    seen: set[int] = set()
    waiting: list[Any] = list(roots)
    total = 0
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen or isinstance(one, _SHARED):
            continue
        seen.add(id(one))
        if isinstance(one, np.ndarray):
            total += one.nbytes if one.base is None else 0
            waiting.append(one.base)
            continue
        total += sys.getsizeof(one)
        waiting += _inside(one)
    return total


def _inside(one: Any) -> Iterable[Any]:
    if isinstance(one, Mapping):
        return [*one.keys(), *one.values()]
    if isinstance(one, list | tuple | set | frozenset):
        return list(one)
    slots = [name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())]
    return [*getattr(one, "__dict__", {}).values(), *(getattr(one, name, None) for name in slots)]
