"""Bodies of one writer schema that are laid out alike, decoded together with NumPy: no loop over readings.

Nothing in an Avro body says where a field begins: that follows from everything before it. But nodes send the same shape
again and again (so many GPUs, these metrics offered, those not), and of bodies of one shape each field is found in all
of them at once. Several times as fast as the general decoder, and strict: arrays in several blocks, an entry count that
is neither 0 nor that of the GPUs, a byte too many, and the body is left to the general decoder, which finds the reason.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.registry import Schema
from streams.readings.templates import KINDS, WORD_OR_NONE, template_of

_PAD = 16
"""Bytes behind the last body: a number that begins in the body may be read to its end without a check."""
_LONGEST_VARINT = 9
"""Bytes; the tenth would hold a single bit, which no time and no count needs."""
_MOST_SHAPES = 16
"""A run of more shapes than that is no fleet: what is left goes to the general decoder."""
_WHO = ("site", "rack", "node", "boot_id")
"""The strings that a body begins with."""
_MOST_GPUS = 63
"""As many as a count of one byte can tell."""

Place = tuple[str, str, str]
"""Site, rack and node."""


class Codes:
    """Small integers for names: the same name gets the same number for the life of the process."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    def of(self, names: Sequence[str]) -> NDArray[np.uint32]:
        """(len(names),) their numbers."""
        codes = self._codes
        return np.fromiter((codes.setdefault(name, len(codes)) for name in names), np.uint32, len(names))


NODES = Codes()
GPUS = Codes()
BOOTS = Codes()


@dataclass(frozen=True, slots=True)
class Alike:
    """Bodies of one shape: R of them with G GPUs each."""

    rows: NDArray[np.int64]
    """(R,) which of the given bodies these are."""
    longs: dict[str, NDArray[np.int64]]
    """(R,) whole numbers by field."""
    words: dict[str, list[str]]
    """(R,) words by field, beside who it is."""
    floats: dict[str, NDArray[np.floating[Any]]]
    """(R, G) arrays by field, as wide as the schema has them; a field that these nodes do not offer is missing."""
    masks: dict[str, NDArray[np.int64]]
    """(R, G) arrays of whole numbers by field; likewise."""
    places: list[Place]
    """(R,)"""
    node_code: NDArray[np.uint32]
    """(R,)"""
    boot_code: NDArray[np.uint32]
    """(R,)"""
    serials: list[tuple[str, ...]]
    """(R,) the GPUs of each."""
    gpu_code: NDArray[np.uint32]
    """(R, G)"""


def alike(
    schema: Schema, messages: Sequence[bytes], head: int = 0, wanted: Collection[str] = ()
) -> tuple[list[Alike], NDArray[np.int64]]:
    """The messages by the shape of their bodies, and the numbers of those that fit none.

    A body begins behind `head` bytes of each message. `wanted` are the arrays to read of records that have words and
    numbers by link among their arrays; of others all are read.
    """
    plan = _plan(schema)
    left = np.arange(len(messages), dtype=np.int64)
    if plan is None or not messages:
        return [], left
    blob = b"".join((*messages, bytes(_PAD)))
    sizes = np.fromiter(map(len, messages), np.int64, len(messages))
    ends = np.cumsum(sizes)
    cursor = _Cursor(np.frombuffer(blob, np.uint8), ends - sizes + head, ends)
    begin = cursor.at.copy()
    for _ in _WHO:
        cursor.skip(cursor.long())
    who_end = cursor.at.copy()
    longs = {name: cursor.long() for name in plan.longs}
    words_begin = cursor.at.copy()
    for _ in plan.words:
        cursor.skip(cursor.long())
    gpus_begin = cursor.at.copy()
    gpus = cursor.long()
    # its count is looked for in one byte below, so another way to write it is left to the general decoder, too
    cursor.sound &= (gpus > 0) & (gpus <= _MOST_GPUS) & (cursor.at == gpus_begin + 1)
    left, odd = left[cursor.sound], [left[~cursor.sound]]
    found: list[Alike] = []
    for _ in range(_MOST_SHAPES):
        if not len(left):
            break
        same = left[gpus[left] == gpus[left[0]]]
        shape = _Shape(blob, cursor.of(same), int(gpus[left[0]]), plan, wanted)
        fits = shape.read()
        rows = same[fits]
        if len(rows):
            names = _Names(blob, begin[rows], who_end[rows], gpus_begin[rows], shape.gpus_end[fits])
            names.read_words(plan.words, words_begin[rows], gpus_begin[rows])
            fits[fits] = names.readable
            rows = same[fits]
        if len(rows):
            found.append(shape.alike(rows, fits, {name: values[rows] for name, values in longs.items()}, names))
        if not len(rows) or rows[0] != left[0]:  # the one that gave the shape does not fit it itself
            odd.append(left[:1])
            left = left[1:]
        left = np.setdiff1d(left, rows, assume_unique=True)
    return found, np.sort(np.concatenate([*odd, left]))


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a schema's fields are, in their order: who, numbers, words, GPUs, then arrays."""

    longs: tuple[str, ...]
    words: tuple[str, ...]
    arrays: tuple[tuple[str, str], ...]
    """(name, type)."""

    @property
    def plain(self) -> bool:
        """Whether its arrays are of numbers of 4 bytes, and of whole numbers, only."""
        return all(kind in ("float[]", "int[]", "long[]") for _, kind in self.arrays)


@cache
def _plan(schema: Schema) -> _Plan | None:
    """None for an earlier schema, and where the fields are in another order than what this module knows."""
    if not schema.current:
        return None
    fields: list[tuple[str, Any]] = [(field["name"], field["type"]) for field in schema.canonical["fields"]]
    kinds = [kind if isinstance(kind, str) else _array_of(kind) for _, kind in fields]
    longs = [name for (name, _), kind in zip(fields, kinds, strict=True) if kind in ("long", "int")]
    words = [name for (name, _), kind in zip(fields, kinds, strict=True) if kind == "string"][len(_WHO) :]
    head = [*_WHO, *longs, *words, "gpus"]
    arrays = tuple(zip((name for name, _ in fields), kinds, strict=True))[len(head) :]
    if [name for name, _ in fields[: len(head)]] != head or kinds[len(head) - 1] != "string[]":
        return None
    if not all(kind in KINDS for _, kind in arrays):
        return None
    return _Plan(tuple(longs), tuple(words), arrays)


def _array_of(kind: Any) -> str:
    if not isinstance(kind, dict) or kind.get("type") != "array":
        return "other"
    entry = kind["items"]
    if entry == ["null", "string"]:
        return f"{WORD_OR_NONE}[]"
    return f"{entry if isinstance(entry, str) else _array_of(entry)}[]"


class _Cursor:
    """A place in each of R bodies. What would leave its body is not sound from there on."""

    def __init__(self, buffer: NDArray[np.uint8], at: NDArray[np.int64], end: NDArray[np.int64]) -> None:
        self.buffer = buffer
        self.at = at
        self.end = end
        self.sound = np.ones(len(at), np.bool_)

    def of(self, rows: NDArray[np.int64]) -> _Cursor:
        """A cursor of its own for some of the bodies."""
        return _Cursor(self.buffer, self.at[rows], self.end[rows])

    def long(self) -> NDArray[np.int64]:
        """(R,) the zig-zag number that begins here."""
        value = np.zeros(len(self.at), np.int64)
        going: NDArray[np.bool_] | None = None
        for byte in range(_LONGEST_VARINT):
            here = self.buffer[self.at]
            low = (here & 0x7F).astype(np.int64) << (7 * byte)
            value |= low if going is None else np.where(going, low, 0)
            self.at += 1 if going is None else going
            going = here >= 0x80 if going is None else going & (here >= 0x80)
            if not going.any():
                break
        else:
            self._give_up(np.asarray(going))
        self._give_up(self.at > self.end)
        return (value >> 1) ^ -(value & 1)

    def skip(self, count: NDArray[np.int64] | int) -> None:
        """Go on by so many bytes."""
        beyond = (count < 0) | (count > self.end - self.at)
        self.at += np.where(beyond, 0, count)
        self._give_up(beyond)

    def _give_up(self, which: NDArray[np.bool_]) -> None:
        if which.any():
            self.sound &= ~which
            self.at = np.where(which, self.end, self.at)

    def peek(self, blob: bytes, count: int) -> NDArray[np.uint8]:
        """(R, count) the bytes from here on; zeros where the run of bodies ends before."""
        steps = np.diff(self.at)
        if len(steps) and (steps == steps[0]).all() and int(self.at[-1]) + count <= len(blob):
            # bodies of one length, one behind the other, as a fleet with tidy names sends them, need no copy
            rows = self.buffer[int(self.at[0]) :]
            return np.lib.stride_tricks.as_strided(rows, (len(self.at), count), (int(steps[0]), 1), writeable=False)
        cut = b"".join([blob[at : at + count] for at in self.at.tolist()])
        if len(cut) < count * len(self.at):
            cut = b"".join([blob[at : at + count].ljust(count, b"\0") for at in self.at.tolist()])
        return np.frombuffer(cut, np.uint8).reshape(len(self.at), count)


class _Shape:
    """Bodies that hold the same number of GPUs, read by the shape of the first of them."""

    def __init__(self, blob: bytes, cursor: _Cursor, gpus: int, plan: _Plan, wanted: Collection[str]) -> None:
        """`cursor` stands behind the count of the GPUs' names."""
        self._blob = blob
        self._cursor = cursor
        self._gpus = gpus
        self._plan = plan
        self._wanted = wanted
        self._fits = np.ones(len(cursor.at), np.bool_)
        self.gpus_end = cursor.at
        self._floats: dict[str, NDArray[np.floating[Any]]] = {}
        self._masks: dict[str, NDArray[np.int64]] = {}

    def read(self) -> NDArray[np.bool_]:
        """(R,) which bodies have the shape of the first, and end where their bytes do."""
        cursor = self._cursor
        for _ in range(self._gpus):
            cursor.skip(cursor.long())
        self._fits &= cursor.buffer[cursor.at] == 0  # the end of the array
        cursor.skip(1)
        self.gpus_end = cursor.at.copy()
        if not self._plan.plain:
            self._read_by_template()
            return self._fits
        for floats, names in _stretches(self._plan.arrays):
            if floats:
                self._read_floats(names)
            else:
                for name in names:
                    self._read_longs(name)
        self._fits &= cursor.sound & (cursor.at == cursor.end)
        return self._fits

    def alike(
        self, rows: NDArray[np.int64], fits: NDArray[np.bool_], longs: dict[str, NDArray[np.int64]], names: _Names
    ) -> Alike:
        """What was read of those that fit."""
        everyone = bool(fits.all())
        places, node_code, boot_code = names.nodes()
        serials, gpu_code = names.gpus()
        return Alike(
            rows=rows,
            longs=longs,
            words=names.words,
            floats={name: values if everyone else values[fits] for name, values in self._floats.items()},
            masks={name: values if everyone else values[fits] for name, values in self._masks.items()},
            places=places,
            node_code=node_code,
            boot_code=boot_code,
            serials=serials,
            gpu_code=gpu_code,
        )

    def _read_floats(self, names: Sequence[str]) -> None:
        """A stretch of float arrays: its size is the same in all bodies of the shape, so it is cut out as rows."""
        cursor, gpus = self._cursor, self._gpus
        at, fields, offered = int(cursor.at[0]), [], []
        for name in names:
            if at < len(self._blob) and self._blob[at] != 0:
                fields += [(f"{name} count", "u1"), (name, "<f4", (gpus,))]
                offered.append(name)
                at += 1 + 4 * gpus
            fields.append((f"{name} end", "u1"))
            at += 1
        layout = np.dtype(fields)
        rows = cursor.peek(self._blob, layout.itemsize).view(layout)[:, 0]
        cursor.skip(layout.itemsize)
        for name in names:
            self._fits &= rows[f"{name} end"] == 0
        for name in offered:
            self._fits &= rows[f"{name} count"] == 2 * gpus
            self._floats[name] = rows[name]

    def _read_by_template(self) -> None:
        """All arrays of those that agree with the first body in all but their numbers."""
        cursor, gpus = self._cursor, self._gpus
        begin, end = int(cursor.at[0]), int(cursor.end[0])
        template = template_of(self._blob, begin, end, self._plan.arrays, gpus, self._wanted)
        if template is None:
            self._fits[:] = False
            return
        self._fits &= cursor.sound & (cursor.end - cursor.at == template.size)
        rows = cursor.peek(self._blob, template.size)
        fixed = rows.take(template.fixed, axis=1)
        self._fits &= (fixed == fixed[0]).all(axis=1)
        for name, at in template.numbers.items():
            self._floats[name] = rows[:, at : at + 8 * gpus].view("<f8")

    def _read_longs(self, name: str) -> None:
        """An array of whole numbers, as a rule of one byte each."""
        cursor, gpus = self._cursor, self._gpus
        if cursor.buffer[cursor.at[0]] == 0:
            self._fits &= cursor.buffer[cursor.at] == 0
            cursor.skip(1)
            return
        small = cursor.peek(self._blob, gpus + 2)
        if (small[:, 0] == 2 * gpus).all() and (small[:, 1:] < 0x80).all() and (small[:, -1] == 0).all():
            cursor.skip(gpus + 2)
            coded = small[:, 1:-1].astype(np.int64)
            self._masks[name] = (coded >> 1) ^ -(coded & 1)
            return
        self._fits &= cursor.long() == gpus
        self._masks[name] = np.stack([cursor.long() for _ in range(gpus)], axis=1)
        self._fits &= cursor.buffer[cursor.at] == 0
        cursor.skip(1)


def _stretches(arrays: Sequence[tuple[str, str]]) -> Iterator[tuple[bool, list[str]]]:
    """Neighbours that are all float arrays, or all not."""
    names: list[str] = []
    floats = False
    for name, kind in arrays:
        if names and (kind == "float[]") is not floats:
            yield floats, names
            names = []
        floats = kind == "float[]"
        names.append(name)
    if names:
        yield floats, names


# 300 bytes for each node and boot and 800 for each set of GPUs, for the life of the process: 16 MB at 100,000 GPUs.
_who: dict[bytes, tuple[Place, int, int]] = {}
_sets: dict[bytes, tuple[tuple[str, ...], NDArray[np.uint32]]] = {}


class _Names:
    """The names in bodies, looked up by their bytes: each spelling is decoded once in the life of the process."""

    def __init__(
        self,
        blob: bytes,
        who_begin: NDArray[np.int64],
        who_end: NDArray[np.int64],
        gpus_begin: NDArray[np.int64],
        gpus_end: NDArray[np.int64],
    ) -> None:
        self._blob = blob
        who = [blob[a:b] for a, b in zip(who_begin.tolist(), who_end.tolist(), strict=True)]
        gpus = [blob[a:b] for a, b in zip(gpus_begin.tolist(), gpus_end.tolist(), strict=True)]
        for spelt in set(who) - _who.keys():
            if names := _strings(spelt, len(_WHO)):
                site, rack, node, boot = names
                _who[spelt] = ((site, rack, node), int(NODES.of([node])[0]), int(BOOTS.of([boot])[0]))
        for spelt in set(gpus) - _sets.keys():
            if names := _strings(spelt[1:], spelt[0] // 2):
                _sets[spelt] = (tuple(names), GPUS.of(names))
        self._nodes = list(map(_who.get, who))
        self._sets = list(map(_sets.get, gpus))
        self.readable = np.fromiter(
            (a is not None and b is not None for a, b in zip(self._nodes, self._sets, strict=True)),
            np.bool_,
            len(who),
        )
        """(R,) whether all names of a body are text."""
        self.words: dict[str, list[str]] = {}

    def read_words(self, names: Sequence[str], begin: NDArray[np.int64], end: NDArray[np.int64]) -> None:
        """Read the words that stand from `begin` to `end`; they say the same in most bodies."""
        if not names:
            return
        spelt = [self._blob[a:b] for a, b in zip(begin.tolist(), end.tolist(), strict=True)]
        said = {one: _strings(one, len(names)) for one in set(spelt)}
        self.readable &= np.fromiter((said[one] is not None for one in spelt), np.bool_, len(spelt))
        found = [words for one, fine in zip(spelt, self.readable, strict=True) if fine and (words := said[one])]
        self.words = {name: [words[place] for words in found] for place, name in enumerate(names)}

    def nodes(self) -> tuple[list[Place], NDArray[np.uint32], NDArray[np.uint32]]:
        """Place, number and number of the boot of each readable body's node."""
        known = [node for node, readable in zip(self._nodes, self.readable, strict=True) if node and readable]
        codes = np.array([(node, boot) for _, node, boot in known], np.uint32).reshape(-1, 2)
        return [place for place, _, _ in known], codes[:, 0], codes[:, 1]

    def gpus(self) -> tuple[list[tuple[str, ...]], NDArray[np.uint32]]:
        """Serials and numbers of each readable body's GPUs."""
        known = [gpus for gpus, readable in zip(self._sets, self.readable, strict=True) if gpus and readable]
        return [serials for serials, _ in known], np.stack([codes for _, codes in known])


def _strings(spelt: bytes, count: int) -> list[str] | None:
    """`count` Avro strings, one behind the other; None where they are no text."""
    found, at = [], 0
    for _ in range(count):
        size, shift = 0, 0
        while spelt[at] >= 0x80:
            size |= (spelt[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
        size = (size | spelt[at] << shift) >> 1
        at += 1
        try:
            found.append(spelt[at : at + size].decode())
        except UnicodeDecodeError:
            return None
        at += size
    return found
