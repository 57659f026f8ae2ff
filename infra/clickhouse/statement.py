"""Statements as far as the transport must understand them: where an INSERT's data begin, and the output format named.

Everything deeper (is it one statement? does it only read?) is asked of the engine, see `access.py`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

# The engine encodes each block as a document of its own. Only these formats have neither head nor foot, so that blocks
# one after another are again one document; all others are held until they are whole.
STREAMED_FORMATS: Final = frozenset(
    {"Native", "TabSeparated", "TSV", "TabSeparatedRaw", "TSVRaw", "CSV", "RowBinary", "JSONEachRow", "LineAsString"}
)

# What is not closed runs to the end. Tried again at each of its characters, a hostile statement would take hours.
_TOKEN = re.compile(
    rb"""
      (?P<space>\s+ | --[^\n]* | \#[\ !][^\n]* | /\*.*?(?:\*/|\Z))
    | (?P<text>'(?:[^'\\]|\\.|'')*(?:'|\\?\Z) | \$(?P<tag>\w*)\$.*?(?:\$(?P=tag)\$|\Z))
    | (?P<quoted>`(?:[^`\\]|\\.|``)*(?:`|\\?\Z) | "(?:[^"\\]|\\.|"")*(?:"|\\?\Z))
    | (?P<word>[A-Za-z0-9_]+)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Insert:
    """An INSERT that carries its data: its parts, and where in the statement the data begin."""

    head: bytes  # up to SETTINGS, FORMAT or VALUES
    settings: bytes  # SETTINGS …, or nothing
    format: str
    data_at: int

    def statement(self, source: bytes = b"") -> bytes:
        """The INSERT without its data, or with them from a `source` (FROM INFILE …)."""
        return b" ".join(part for part in (self.head, source, self.settings, b"FORMAT", self.format.encode()) if part)


def _tokens(statement: bytes) -> Iterator[tuple[str, bytes, int]]:
    """Kind, text and end of every token that is neither space nor comment."""
    for found in _TOKEN.finditer(statement):
        kind = found.lastgroup or "other"
        if kind != "space":
            yield "text" if kind == "tag" else kind, found.group(), found.end()


def _outside_brackets(statement: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Tokens outside brackets: the word in capitals (or nothing), the token, its end. A pair of brackets is one."""
    depth = 0
    for kind, text, end in _tokens(statement):
        if text in {b"(", b"[", b"{"}:
            depth += 1
        elif text in {b")", b"]", b"}"}:
            depth -= 1
            if depth == 0:
                yield b"", b"()", end
        elif depth == 0:
            yield text.upper() if kind == "word" else b"", text, end


def insert_of(statement: bytes) -> Insert | None:
    """The INSERT whose data follow in FORMAT or VALUES; None for everything else, also for INSERT … SELECT.

    Statement and data go to the engine apart, so the statement is cut: after the table's name (which may be any word),
    at the first FORMAT or VALUES outside brackets. What follows is read no further, it may be any bytes.
    """
    tokens = _outside_brackets(statement)
    cut = _end_of_name(tokens)
    if cut is None:
        return None
    head: bytes | None = None  # where SETTINGS have begun: what came before
    joined = False  # by a dot: the next word belongs to the name
    for word, token, end in tokens:
        if joined:
            word = b""  # noqa: PLW2901 - a name, whatever it says
        joined = token == b"."
        if word == b"FORMAT":
            name, text, name_end = next(tokens, (b"", b"", 0))
            return _insert(statement[:cut], head, text.decode(), _data_at(statement, name_end)) if name else None
        if word == b"VALUES":
            return _insert(statement[:cut], head, "Values", end)
        if word in {b"SELECT", b"WITH", b"FROM"}:
            return None
        if word == b"SETTINGS":
            head = statement[:cut]
        cut = end
    return None


def _end_of_name(tokens: Iterator[tuple[bytes, bytes, int]]) -> int | None:
    """Where the first part of the table's name ends (or the table function's); None if this is no INSERT."""
    if next(tokens, (b"", b"", 0))[0] != b"INSERT":
        return None
    expected = [b"INTO", b"TABLE", b"FUNCTION"]  # may come before the name, in this order
    for word, _, end in tokens:
        if word not in expected:
            return end
        del expected[: expected.index(word) + 1]
    return None


def _insert(before: bytes, head: bytes | None, data_format: str, data_at: int) -> Insert:
    if head is None:
        return Insert(before, b"", data_format, data_at)
    return Insert(head, before[len(head) :].strip(), data_format, data_at)


def _data_at(statement: bytes, end: int) -> int:
    """Data begin after the line break that follows the format's name, or after the spaces where there is none."""
    while statement[end : end + 1] in {b" ", b"\t", b"\f"}:
        end += 1
    if statement[end : end + 1] == b"\r":
        end += 1
    if statement[end : end + 1] == b"\n":
        end += 1
    return end


def format_of(statement: bytes) -> str | None:
    """The output format that the statement names at its end: FORMAT X, perhaps with SETTINGS behind it."""
    words: list[bytes] = []  # the last two tokens, in capitals
    named: str | None = None
    settled = False  # SETTINGS came after FORMAT X: what follows does not change it
    for kind, text, _ in _tokens(statement):
        if text == b";" or settled:
            continue
        word = text.upper()
        if kind == "word" and words[-1:] == [b"FORMAT"]:
            named = text.decode()
        elif named is not None:
            settled = word == b"SETTINGS"
            named = named if settled else None
        words = [*words[-1:], word]
    return named


def inserts(statement: bytes) -> bool:
    """Whether it is an INSERT of any kind."""
    return next((text.upper() == b"INSERT" for _, text, _ in _tokens(statement)), False)


def selects(statement: bytes) -> bool:
    """Whether it begins as a SELECT does; only such a statement can be handed out block by block."""
    for _, text, _ in _tokens(statement):
        if text != b"(":
            return text.upper() in {b"SELECT", b"WITH", b"FROM"}
    return False
