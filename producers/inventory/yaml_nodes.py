"""YAML as nodes that know their lines, from the parser's events.

PyYAML's own composer calls itself for every level, in C: a file of a hundred thousand brackets ends the process.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

QUOTE = 'a word that begins with { or stands in a [list] and holds brackets must be quoted: "{rack}-n[1-4]"'
DEEPEST = 32
"""Levels; an inventory has five."""
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = frozenset(
    shape(word) for word in ("yes", "no", "on", "off", "true", "false") for shape in (str.lower, str.title, str.upper)
)


class YamlError(ValueError):
    """Text that is no YAML, or none of ours; `line` counts from 1."""

    def __init__(self, line: int, text: str) -> None:
        self.line = line
        super().__init__(text)


class YamlNode(NamedTuple):
    """A word, a list of nodes, or a mapping of pairs of nodes."""

    kind: Literal["word", "list", "mapping"]
    line: int
    word: str = ""
    """As it is written: a serial number keeps its leading zeros."""
    plain: bool = False
    """Not quoted: then it may mean nothing, or true or false."""
    items: list[YamlNode] = []  # noqa: RUF012 - never changed where it is the default
    """Of a mapping: key, value, key, value."""

    @property
    def is_null(self) -> bool:
        """Nothing is given."""
        return self.plain and self.word in _NULLS

    @property
    def is_boolean(self) -> bool:
        """YAML takes it for true or false."""
        return self.plain and self.word in _BOOLEANS


def compose(text: str) -> YamlNode | None:
    """The one document of `text`; None where there is none. Raises `YamlError` and nothing else."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where libyaml is there
    try:
        return _composed(yaml.parse(text, Loader=loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = mark.line if mark else text.count("\n", 0, getattr(error, "position", None) or 0)
        said = [str(part) for part in (getattr(error, "problem", None), getattr(error, "context", None)) if part]
        why = " ".join(said) or str(error).splitlines()[0]
        raise YamlError(line + 1, f"this is no YAML: {why}; {QUOTE}") from None


def _composed(events: Any) -> YamlNode | None:
    root: YamlNode | None = None
    open_nodes: list[YamlNode] = []
    anchors: dict[str, YamlNode] = {}
    names: list[str | None] = []
    for event in events:
        kind, line = type(event).__name__, event.start_mark.line + 1
        if kind == "DocumentStartEvent" and root is not None:
            raise YamlError(line, "a second document begins here; an inventory is one")
        if kind in {"SequenceStartEvent", "MappingStartEvent"}:
            if len(open_nodes) >= DEEPEST:
                raise YamlError(line, f"more than {DEEPEST} levels of lists and mappings in each other")
            open_nodes.append(YamlNode("list" if kind.startswith("S") else "mapping", line, items=[]))
            names.append(event.anchor)
            continue
        if kind == "ScalarEvent":
            node, name = YamlNode("word", line, event.value, event.implicit[0]), event.anchor
        elif kind in {"SequenceEndEvent", "MappingEndEvent"}:
            node, name = open_nodes.pop(), names.pop()
        elif kind == "AliasEvent":
            if event.anchor not in anchors:
                raise YamlError(line, f"*{event.anchor} stands for nothing that was given before")
            node, name = anchors[event.anchor], None
        else:
            continue
        if name is not None:
            anchors[name] = node
        if open_nodes:
            open_nodes[-1].items.append(node)
        else:
            root = node
    return root
