"""What the read-only login may run, judged on the engine's own reading of the statement.

Two questions, both to the engine's parser, never to a pattern: what class is this (exactly one statement, one that only
reads), and what does its tree name (functions, table functions, tables; see `analyst.toml`)?
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Self

import msgspec

from infra.clickhouse.engine import Handle
from infra.clickhouse.protocol import QueryError, query_error

ANALYST = "analyst"


def rules() -> dict[str, Any]:
    """The table in `analyst.toml`; read it before the process is confined."""
    return tomllib.loads(resources.files(__package__).joinpath("analyst.toml").read_text())


@dataclass(frozen=True, slots=True)
class Policy:
    """What may be named; all names in small letters, as many of the engine's functions heed no case."""

    whole: frozenset[str]
    plain: frozenset[str]
    table_functions: frozenset[str]
    refused: Mapping[str, str]  # functions, and table functions of the engine that are not allowed: why
    tables: Mapping[str, str]

    @classmethod
    def of(cls, table: Mapping[str, Any], handle: Handle) -> Self:
        """The policy of a table such as `rules()`, with the names of all table functions that this engine has."""
        allowed = frozenset(_reasons(table["table_function"]))
        # `x IN url(…)` reads as a function call but runs a table function, hence one list for both
        known = _names(handle, "table_functions") - _names(handle, "functions") - allowed
        return cls(
            whole=frozenset(table["statements"]["whole"]),
            plain=frozenset(table["statements"]["plain"]),
            table_functions=allowed,
            refused=dict.fromkeys(known, "reaches out of the database") | _reasons(table["function"]),
            tables=_reasons(table["table"]),
        )

    def check(self, handle: Handle, statement: bytes, params: Mapping[str, str]) -> None:
        """Let the statement pass or not.

        Raises:
            QueryError: it is not one statement, does not parse, does more than read, or names what is not allowed.
        """
        kind, count = handle.classify(statement)
        if count > 1:
            raise query_error(62, "SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed)")
        if kind == "UNKNOWN":
            handle.query("SELECT formatQuery({q:String})", params={"q": _text(statement)})  # says where it went wrong
        if kind != "READ_ONLY":
            raise _refused("Cannot execute query in readonly mode.")
        try:
            tree = handle.query("SELECT parseQueryToJSON({q:String})", "RawBLOB", {"q": _text(statement)}).body
        except QueryError as error:
            if error.code != 36:  # BAD_ARGUMENTS: the parser cannot write this kind of statement out
                raise
            self._check_plain(handle, statement)
        else:
            self._check_tree(tree, params)

    def _check_tree(self, tree: bytes, params: Mapping[str, str]) -> None:
        try:
            root = msgspec.json.decode(tree)
        except (msgspec.DecodeError, RecursionError):
            raise _refused("The statement is nested too deeply to be judged.") from None
        if root.get("type") not in self.whole:
            raise _refused(f"Statements of the kind {root.get('type')} are not allowed.")
        for key, node in _nodes(root):
            self._check_node(key, node, params)

    def _check_node(self, key: str, node: dict[str, Any], params: Mapping[str, str]) -> None:
        kind = node.get("type")
        # A function may be named without being called: `* APPLY file`, arrayMap(file, …)
        name = str(node.get("func_name") or node.get("name") or "").lower()
        if kind == "QueryParameter":
            name = params.get(str(node.get("name")), "").lower() if node.get("param_type") == "Identifier" else ""
        if kind == "SetQuery":
            raise _refused("Cannot modify settings in readonly mode.")
        if kind == "Function" and key == "table_function" and name not in self.table_functions:
            raise _refused(f"The table function {node.get('name')} is not allowed.")
        if why := self.refused.get(name):
            raise _refused(
                f"The function {name} is not allowed: it {why}."
                + (f" (A column of this name can be reached with its table's: t.{name}.)" if kind != "Function" else "")
            )
        if why := self.tables.get(name.rpartition(".")[2]):
            raise _refused(f"The table {name} is not allowed: it {why}.")

    def _check_plain(self, handle: Handle, statement: bytes) -> None:
        lines = handle.query(b"EXPLAIN AST " + statement, "TSVRaw").body.decode("utf-8", "replace").splitlines()
        kinds = [line.split(maxsplit=1)[0] for line in lines if line.strip()]
        kinds = [kind.split("__")[0] for kind in kinds]
        if not kinds or kinds[0] not in self.plain:
            raise _refused(f"Statements of the kind {kinds[:1]} are not allowed.")
        if odd := set(kinds[1:]) - {"TableExpression", "TableIdentifier", "Identifier"}:
            raise _refused(f"Only tables and databases may be named here, found: {', '.join(sorted(odd))}.")
        if any("/" in line for line in lines):  # EXISTS TABLE `/etc/passwd` says whether there is such a file
            raise _refused("A path is not a table's name.")


def _names(handle: Handle, table: str) -> frozenset[str]:
    listed = handle.query(f"SELECT lower(name) FROM system.{table}").body.decode()  # noqa: S608 - two words of ours
    return frozenset(listed.split())


def _reasons(entries: list[dict[str, Any]]) -> dict[str, str]:
    return {name.lower(): entry["reason"] for entry in entries for name in entry["names"]}


def _nodes(root: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object in the tree with the key it stands under; without recursion, trees can be deep."""
    waiting: list[tuple[str, Any]] = [("", root)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            yield key, value
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(key, item) for item in value]


def _text(statement: bytes) -> str:
    """A statement as the value of a parameter, which is written as in a tab-separated file."""
    text = statement.decode("utf-8", "surrogateescape")
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _refused(message: str) -> QueryError:
    return query_error(164, "READONLY", f"{ANALYST}: {message}")
