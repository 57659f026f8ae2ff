"""What bodies of one shape have in common, byte by byte: the way to read records of many arrays at once.

A node's counters are a hundred arrays of numbers, numbers by link, and words such as a mode. From one node to the next,
and from one reading to the next, only the numbers differ: all else stands in the same place with the same bytes. So one
body is walked through, and of all that agree with it in those bytes the numbers lie at known places.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIZES = {"float": 4, "double": 8}
"""Bytes of the numbers that may differ, by their Avro type."""
WORD_OR_NONE = "null|string"
KINDS = frozenset({"int[]", "long[]", f"{WORD_OR_NONE}[]", *(f"{kind}[]" for kind in SIZES), "double[][]"})
"""The types of fields that are understood."""
INDEX = "gpu_index"
_LONGEST_VARINT = 9


class Template(NamedTuple):
    """The arrays of one shape."""

    size: int
    """Bytes of all of them."""
    fixed: NDArray[np.intp]
    """Where the bytes stand that are the same in every body."""
    numbers: dict[str, int]
    """Where the numbers of the wanted arrays begin; an array that is not offered is missing."""


def template_of(
    body: bytes, at: int, end: int, fields: Iterable[tuple[str, str]], gpus: int, wanted: Collection[str]
) -> Template | None:
    """The template that the arrays in `body[at:end]` give; None where they are laid out in an unusual way, or broken.

    `fields` are names and types. A wanted array is of doubles, and where it is offered has one for each of `gpus`; so
    has the array of the GPUs' indexes.
    """
    walk = _Walk(body, at, end)
    numbers: dict[str, int] = {}
    try:
        for name, kind in fields:
            begin, count = walk.array(kind)
            if count and count != gpus and (name in wanted or name == INDEX):
                return None
            if count and name in wanted:
                if kind != "double[]":
                    return None
                numbers[name] = begin - at
    except _OddError:
        return None
    if walk.at != end:
        return None
    same = np.ones(end - at, np.bool_)
    for begin, until in walk.free:
        same[begin - at : until - at] = False
    return Template(end - at, np.flatnonzero(same), numbers)


class _OddError(Exception):
    """The bytes are not laid out as expected."""


class _Walk:
    """Goes through the fields of one body."""

    def __init__(self, body: bytes, at: int, end: int) -> None:
        self._body, self.at, self._end = body, at, end
        self.free: list[tuple[int, int]] = []
        """Stretches of numbers."""

    def array(self, kind: str) -> tuple[int, int]:
        """Go past an array of one block; gives where its entries begin, and how many there are."""
        entry = kind.removesuffix("[]")
        count = self._long()
        begin = self.at
        if not count:
            return begin, 0
        if count < 0:  # a block that says how long it is
            raise _OddError
        if size := SIZES.get(entry):
            self._skip(count * size)
            self.free.append((begin, self.at))
        else:
            for _ in range(count):
                self._entry(entry)
        if self._long():
            raise _OddError
        return begin, count

    def _entry(self, kind: str) -> None:
        if kind == WORD_OR_NONE:
            is_word = self._long()
            if is_word == 1:
                size = self._long()
                begin = self.at
                self._skip(size)
                self._check_text(self._body[begin : self.at])
            elif is_word:
                raise _OddError
        elif kind.endswith("[]"):
            self.array(kind)
        else:
            self._long()

    def _long(self) -> int:
        value = 0
        for number in range(_LONGEST_VARINT):
            if self.at >= self._end:
                raise _OddError
            byte = self._body[self.at]
            self.at += 1
            value |= (byte & 0x7F) << (7 * number)
            if byte < 0x80:
                return (value >> 1) ^ -(value & 1)
        raise _OddError

    def _skip(self, count: int) -> None:
        if not 0 <= count <= self._end - self.at:
            raise _OddError
        self.at += count

    @staticmethod
    def _check_text(spelt: bytes) -> None:
        try:
            spelt.decode()
        except UnicodeDecodeError:
            raise _OddError from None
