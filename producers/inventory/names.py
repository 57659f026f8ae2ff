"""Many names in few characters: `gpu-[001-032]`, `pdu-{rack}-[a-b]`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sized
from itertools import product

MOST_NAMES = 200_000
"""That one pattern may stand for: more is a slip of the finger."""
_GROUP = re.compile(r"\[([^\[\]]*)\]")
_NUMBERS = re.compile(r"([0-9]+)-([0-9]+)")
_LETTERS = re.compile(r"([a-z])-([a-z])|([A-Z])-([A-Z])")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_NO_NAME = re.compile(r"[\s|\x00-\x1f\x7f]")
_LONGEST_NAME = 200
_MOST_DIGITS = 9


class BadNameError(ValueError):
    """A pattern that cannot be a name or a range of names; the message says what to write."""


def expand(pattern: str) -> list[str]:
    """All names of a pattern, in order; the last bracket counts fastest. Raises `BadNameError`.

    `[001-032]` counts with as many digits as it is written with, `[a-d]` goes through letters, `[1-4,7]` is a list.
    """
    pieces = _GROUP.split(pattern)  # text, group, text, group, … text
    if any("[" in text or "]" in text for text in pieces[::2]):
        raise BadNameError(f'"{pattern}" has a bracket without its other half; write for example gpu-[001-032]')
    groups = [_group(pattern, group) for group in pieces[1::2]]
    size = 1
    for group in groups:
        size *= len(group)
    if size > MOST_NAMES:
        raise BadNameError(f'"{pattern}" stands for {size:,} names; at most {MOST_NAMES:,} may be written as one range')
    names = [
        "".join(text + middle for text, middle in zip(pieces[::2], (*chosen, ""), strict=True))
        for chosen in product(*groups)
    ]
    for name in names:
        check(name)
    return names


def check(name: str) -> None:
    """Raises `BadNameError` where it cannot be a component's name."""
    if not name:
        raise BadNameError("a name is empty")
    if len(name) > _LONGEST_NAME:
        raise BadNameError(f'"{name[:30]}…" has {len(name)} characters; a name may have {_LONGEST_NAME}')
    if found := _NO_NAME.search(name):
        raise BadNameError(f"{name!r} contains {found.group()!r}; a name has no blanks, no control characters and no |")


def fill(pattern: str, values: Mapping[str, str]) -> str:
    """The pattern with `{rack}` and the like replaced. Raises `BadNameError` for one that is not in `values`."""

    def value(found: re.Match[str]) -> str:
        if found[1] not in values:
            known = ", ".join(f"{{{name}}}" for name in values) or "none"
            raise BadNameError(f'"{pattern}" contains {found[0]}; what can be filled in here: {known}')
        return values[found[1]]

    return _PLACEHOLDER.sub(value, pattern)


def has_placeholder(pattern: str, name: str) -> bool:
    """Whether `{name}` occurs in it."""
    return f"{{{name}}}" in pattern


def numbers(text: str) -> list[int]:
    """`10-27` or `7` as whole numbers, also in brackets. Raises `BadNameError`."""
    text = text.strip().removeprefix("[").removesuffix("]")
    found: list[int] = []
    for part in text.split(","):
        if span := _NUMBERS.fullmatch(part.strip()):
            found += map(int, _span(part, span[1], span[2]))
        elif part.strip().isascii() and part.strip().isdigit() and len(part.strip()) <= _MOST_DIGITS:
            found.append(int(part))
        else:
            raise BadNameError(f'"{text}" is no whole number and no range of them such as 10-27')
        _not_too_many(text, found)
    return found


def _group(pattern: str, group: str) -> list[str]:
    found: list[str] = []
    for part in group.split(","):
        word = part.strip()
        if not word:
            raise BadNameError(f'"{pattern}" has an empty place in its brackets; write for example [001-032] or [a,b]')
        if span := _NUMBERS.fullmatch(word):
            found += _span(pattern, span[1], span[2])
        elif letters := _LETTERS.fullmatch(word):
            first, last = letters[1] or letters[3], letters[2] or letters[4]
            if first > last:
                raise BadNameError(f'the range [{word}] in "{pattern}" runs backwards; write [{last}-{first}]')
            found += map(chr, range(ord(first), ord(last) + 1))
        elif "-" in word and word[:1].isdigit():
            raise BadNameError(f'[{word}] in "{pattern}" is no range; write two whole numbers, for example [001-032]')
        else:
            found.append(word)
        _not_too_many(pattern, found)
    return found


def _not_too_many(pattern: str, found: Sized) -> None:
    if len(found) > MOST_NAMES:
        raise BadNameError(f'"{pattern[:40]}" stands for more than {MOST_NAMES:,}')


def _span(pattern: str, first: str, last: str) -> list[str]:
    if max(len(first), len(last)) > _MOST_DIGITS:
        raise BadNameError(f'the range [{first}-{last}] in "{pattern}" has too many digits')
    low, high = int(first), int(last)
    if low > high:
        raise BadNameError(f'the range [{first}-{last}] in "{pattern}" runs backwards; write [{last}-{first}]')
    if len(first) > 1 and first[0] == "0" and len(last) != len(first):
        width = max(len(first), len(last))
        raise BadNameError(
            f'the range [{first}-{last}] in "{pattern}" has numbers of different width; '
            f"write [{low:0{width}}-{high:0{width}}]"
        )
    if high - low >= MOST_NAMES:
        raise BadNameError(f'the range [{first}-{last}] in "{pattern}" is longer than {MOST_NAMES:,}')
    width = len(first) if len(first) == len(last) else 0
    return [f"{number:0{width}}" for number in range(low, high + 1)]
