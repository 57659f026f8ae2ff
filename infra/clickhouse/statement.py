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
    """An INSERT that carries its data: the statement up to FORMAT or VALUES, the format's name, the data's offset."""

    head: bytes
    format: str
    data_at: int


def _tokens(statement: bytes) -> Iterator[tuple[str, bytes, int]]:
    """Kind, text and end of every token that is neither space nor comment."""
    for found in _TOKEN.finditer(statement):
        kind = found.lastgroup or "other"
        if kind != "space":
            yield "text" if kind == "tag" else kind, found.group(), found.end()


def insert_of(statement: bytes) -> Insert | None:
    """The INSERT whose data follow in FORMAT or VALUES; None for everything else, also for INSERT … SELECT.

    The engine takes statement and data apart, so the statement is cut: after the table's name (which may be any word),
    at the first FORMAT or VALUES outside brackets. What follows is read no further, it may be any bytes.
    """
    tokens = _tokens(statement)
    first = next(tokens, None)
    if first is None or first[1].upper() != b"INSERT":
        return None
    depth = 0
    named = False  # the table's name has been read …
    joined = False  # … but a dot was read last: the next word belongs to it
    place = 1
    cut = first[2]
    for kind, text, end in tokens:
        word = text.upper() if kind == "word" else b""
        place += 1
        if text in {b"(", b"[", b"{"}:
            depth += 1
            named = True
        elif text in {b")", b"]", b"}"}:
            depth -= 1
        elif depth:
            pass
        elif text == b".":
            joined = True
        elif not named or joined:
            joined = False
            # INTO, and TABLE or FUNCTION, come before the name
            named = not ((word == b"INTO" and place == 2) or (word in {b"TABLE", b"FUNCTION"} and place <= 3))
        elif word == b"FORMAT":
            what, name, name_end = next(tokens, ("", b"", 0))
            return Insert(statement[:cut], name.decode(), _data_at(statement, name_end)) if what == "word" else None
        elif word == b"VALUES":
            return Insert(statement[:cut], "Values", end)
        elif word in {b"SELECT", b"WITH", b"FROM"}:
            return None
        cut = end
    return None


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
