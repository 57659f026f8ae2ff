"""`dcgmi diag -j` documents of every DCGM version, one result per GPU and test.

They come with banner text around the JSON, wrapped in another tool's JSON, per GPU (`gpu_ids`, `gpu_id`), per entity
(DCGM 4) or for the node as a whole, with results that are null. Pure; never raises.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from producers.dcgm.interpretation import RESULTS, Finding, Result, Warned, interpret
from producers.discovery import normal_serial
from producers.unreadable import Unreadable
from schemas.catalog import Catalog, Severity
from schemas.ids import gpu_id, node_id

ROOTS = ("DCGM GPU Diagnostic", "DCGM Diagnostic", "DCGM Multi-Node Diagnostic")
_ATTEMPTS = 1000
"""Braces at which a document is looked for before a text is given up; a banner has a few."""
_DEPTH = 8
_GPU_GROUP = 1
"""DCGM's number of the entity group GPU."""
_WORST: tuple[Result, ...] = ("pass", "not_run", "warn", "fail")
_DIAGNOSTIC = re.compile("|".join(f'"{name}"' for name in (*ROOTS, "test_categories")))
_CATEGORY = re.compile(r'"category"\s*:\s*"([^"\n]{0,80})"')
_json = json.JSONDecoder()


class DiagnosticResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one test came to on one GPU (or on the node, where it is not about one)."""

    source: str = "dcgm_diag"
    component: str
    gpu: int | None
    """DCGM's index of the GPU; None for a result of the node."""
    serial: str | None
    """Of the GPU, where the document tells it."""
    entity: str | None
    """`gpu 0`, `cpu 0`, `switch 2`: as DCGM 4 names it."""
    test: str
    group: str | None
    """Deployment, Hardware, Integration, Stress: the category of the test in the document."""
    result: Result
    severity: Severity
    category: str | None
    """The kind of the error (`hardware_memory`); None where there is none."""
    action: str
    meaning: str
    explains: tuple[str, ...]
    """Fault classes whose open faults it can explain."""
    error_id: int | None
    error_name: str | None
    rule: str
    reason: str
    warnings: tuple[str, ...]
    info: tuple[str, ...]
    findings: tuple[Finding, ...]
    dcgm_version: str | None
    driver_version: str | None


class _Document(msgspec.Struct):
    """What holds for a whole document."""

    node: str
    catalog: Catalog | None
    version: str | None = None
    driver: str | None = None
    serials: dict[int, str] = {}
    hosts: dict[int, str] = {}


Decoded = DiagnosticResult | Unreadable


def decode(text: str, node: str = "", catalog: Catalog | None = None) -> Iterator[Decoded]:
    """The results of every document in a text, in its order."""
    at, attempts, told, broken = 0, 0, False, False
    while (at := text.find("{", at)) >= 0 and attempts < _ATTEMPTS:
        try:
            value, end = _json.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            until = getattr(error, "pos", len(text))
            if not broken and _DIAGNOSTIC.search(text, at, until):
                told = broken = True
                reason = f"it breaks off: {getattr(error, 'msg', 'nested too deeply')}"
                yield Unreadable(place=_line(text, until), what="a diagnostic's JSON", reason=reason)
            at, attempts = at + 1, attempts + 1
            continue
        for document, diagnostic in (roots := list(_roots(value, node, catalog))):
            yield from _diagnostic(document, diagnostic)
        if roots:
            told, broken = True, False
        elif broken:
            # a part of a document that is broken: what is whole in it counts
            yield from _part(_Document(node, catalog), value, _group_before(text, at))
        at = end
    if not told:
        reason = f"no JSON with {' or '.join(map(repr, ROOTS[:2]))} in it"
        yield Unreadable(place=_line(text, len(text.rstrip())), what="the output of `dcgmi diag -j`", reason=reason)


def _line(text: str, at: int) -> str:
    return f"line {text.count(chr(10), 0, at) + 1}"


def _group_before(text: str, at: int) -> str | None:
    match = _CATEGORY.match(text, text.rfind('"category"', 0, at))
    return match[1] if match else None


def _part(document: _Document, value: Any, group: str | None) -> Iterator[Decoded]:
    if isinstance(value, dict) and "tests" in value:
        yield from _category(document, value, "a category")
    elif isinstance(value, dict) and "name" in value and ("results" in value or "test_summary" in value):
        yield from _test(document, group, value, "a test")


def _roots(value: Any, node: str, catalog: Catalog | None, depth: int = 0) -> Iterator[tuple[_Document, Any]]:
    """Diagnostics in a document and in what another tool has wrapped it in; a JSON schema of them is none."""
    if depth > _DEPTH:
        return
    if isinstance(value, str) and "{" in value and any(root in value for root in ROOTS):
        try:
            value = _json.raw_decode(value, value.index("{"))[0]
        except (ValueError, RecursionError):
            return
    if isinstance(value, list):
        for item in value:
            yield from _roots(item, node, catalog, depth + 1)
    if not isinstance(value, dict) or "$schema" in value:
        return
    for root in ROOTS:
        if root in value:
            inner = value[root] if isinstance(value[root], dict) else value
            yield _document(value, inner, node, catalog), inner
            return
    for item in value.values():
        yield from _roots(item, node, catalog, depth + 1)


def _document(outer: dict[str, Any], inner: dict[str, Any], node: str, catalog: Catalog | None) -> _Document:
    metadata = _dict(outer.get("metadata"))
    serials: dict[int, str] = {}
    for group in _list(outer.get("entity_groups")):
        if _is_gpu(_dict(group)):
            for entity in map(_dict, _list(_dict(group).get("entities"))):
                serials |= _serial(entity.get("entity_id"), entity.get("serial_num"))
    for key, serial in _dict(inner.get("GPU Device Serials")).items():
        serials |= _serial(key, serial)
    hosts = {
        index: str(host["hostname"])
        for host in map(_dict, _list(outer.get("hosts")))
        if (index := _int(host.get("host_id"))) is not None and host.get("hostname")
    }
    version = metadata.get("version") or inner.get("version")
    driver = metadata.get("Driver Version Detected") or inner.get("Driver Version Detected")
    return _Document(node, catalog, _text(version), _text(driver), serials, hosts)


def _serial(index: Any, serial: Any) -> dict[int, str]:
    number, text = _int(index), normal_serial(_text(serial))
    return {} if number is None or text is None else {number: text}


def _diagnostic(document: _Document, diagnostic: dict[str, Any]) -> Iterator[Decoded]:
    trouble = diagnostic.get("runtime_error") or diagnostic.get("Warning")
    if trouble:
        warned = [Warned(str(trouble))]
        yield _result(document, {}, "the diagnostic", None, "not_run", warned, (), None, None)
    categories = diagnostic.get("test_categories")
    if not isinstance(categories, list):
        if not trouble:
            yield _wrong("test_categories", "the list of test categories", categories)
        return
    for number, category in enumerate(categories):
        yield from _category(document, category, f"test_categories[{number}]")


def _category(document: _Document, category: Any, place: str) -> Iterator[Decoded]:
    if not isinstance(category, dict):
        yield _wrong(place, "a test category", category)
        return
    entries = category.get("tests")
    if entries is not None and not isinstance(entries, list):
        yield _wrong(f"{place}.tests", "the tests of a category", entries)
    for index, test in enumerate(_list(entries)):
        yield from _test(document, _text(category.get("category")), test, f"{place}.tests[{index}]")


def _test(document: _Document, group: str | None, test: Any, place: str) -> Iterator[Decoded]:
    """Results per GPU; where a test has none, what its summary says, and where that says nothing it was not run."""
    name = _text(test.get("name")) if isinstance(test, dict) else None
    if name is None:
        yield _wrong(place, "a test with its name", test)
        return
    results = test.get("results")
    if isinstance(results, dict):
        results = [results]
    elif results is not None and not isinstance(results, list):
        yield _wrong(f"{place}.results", f"the results of {name}", results)
    worst: Result | None = None
    for index, entry in enumerate(_list(results)):
        where = f"{place}.results[{index}]"
        if not isinstance(entry, dict):
            yield _wrong(where, f"a result of {name}", entry)
            continue
        for decoded in _entry(document, group, name, entry, where):
            if isinstance(decoded, DiagnosticResult):
                worst = max(worst or "pass", decoded.result, key=_WORST.index)
            yield decoded
    summary = test.get("test_summary")
    summary = summary if isinstance(summary, dict) else {"status": summary if isinstance(summary, str) else None}
    status = summary.get("status") or test.get("status")
    graver = RESULTS.get(str(status).strip().lower()) in {"warn", "fail"}
    if worst is None or (graver and _WORST.index(RESULTS[str(status).strip().lower()]) > _WORST.index(worst)):
        yield from _entry(document, group, name, {**summary, "status": status}, place)


def _entry(document: _Document, group: str | None, name: str, entry: dict[str, Any], place: str) -> Iterator[Decoded]:
    said = entry.get("status")
    status = "" if said is None else str(said).strip()
    result = RESULTS.get(status.lower())
    if result is None:
        yield _wrong(f"{place}.status", f"the status of {name} (taken as not run)", said)
        result = "not_run"
    warnings = [warned for item in _list_of(entry.get("warnings")) if (warned := _warned(item))]
    if result == "pass" and any(warned.error_id for warned in warnings):
        result = "warn"  # a test that names an error did not simply pass
    info = tuple(str(item) for item in _list_of(entry.get("info")) if item)
    told = _gpus(entry)
    if told is None:
        yield _wrong(place, f"the GPU of a result of {name}", entry.get("gpu_ids", entry.get("gpu_id")))
    gpus: list[int | None] = [*told] if told else [None]
    for gpu in gpus:
        yield _result(document, entry, name, group, result, warnings, info, gpu, _entity(entry, gpu))


def _warned(item: Any) -> Warned | None:
    if not isinstance(item, dict):
        return Warned(str(item)) if item else None
    text = item.get("warning") or item.get("error") or ""
    ids = [_int(item.get(name)) for name in ("error_id", "error_severity", "error_category")]
    return Warned(str(text), *ids) if text or ids[0] is not None else None


def _gpus(entry: dict[str, Any]) -> list[int] | None:
    """DCGM's indices; empty where the result names no GPU, None where what it names is none."""
    told = next((entry[name] for name in ("gpu_ids", "gpu_id") if entry.get(name) not in (None, "")), None)
    if told is None:
        index = _int(entry.get("entity_id")) if _is_gpu(entry) else None
        return [] if index is None else [index]
    parts = told if isinstance(told, list) else str(told).split(",")
    indices = [_int(part) for part in parts if str(part).strip()]
    return None if not indices or None in indices else [index for index in indices if index is not None]


def _is_gpu(entry: dict[str, Any]) -> bool:
    return entry.get("entity_group") == "GPU" or (
        entry.get("entity_group") is None and _int(entry.get("entity_group_id")) == _GPU_GROUP
    )


def _entity(entry: dict[str, Any], gpu: int | None) -> str | None:
    if gpu is not None:
        return f"gpu {gpu}"
    group, index = _text(entry.get("entity_group")), _int(entry.get("entity_id"))
    return None if group is None or index is None else f"{group.lower()} {index}"


def _result(
    document: _Document,
    entry: dict[str, Any],
    test: str,
    group: str | None,
    result: Result,
    warnings: list[Warned],
    info: tuple[str, ...],
    gpu: int | None,
    entity: str | None,
) -> DiagnosticResult:
    meaning = interpret(test, result, warnings, info, document.catalog)
    host = _int(entry.get("host_id"))
    node = document.node if host is None else document.hosts.get(host, document.node)
    serial = document.serials.get(gpu) if gpu is not None and not document.hosts else None
    if gpu is None:
        component = node_id(node or "unknown")
    else:
        component = gpu_id(serial, node, str(gpu)) if serial or node else f"gpu:{gpu}"
    deciding = (found for found in meaning.findings if found.rule == meaning.rule)
    worst = next(deciding, next(iter(meaning.findings), None))
    return DiagnosticResult(
        component=component,
        gpu=gpu,
        serial=serial,
        entity=entity,
        test=test,
        group=group,
        result=result,
        severity=meaning.severity,
        category=meaning.category,
        action=meaning.action,
        meaning=meaning.meaning,
        explains=meaning.explains,
        error_id=worst.error_id if worst else None,
        error_name=worst.error_name if worst else None,
        rule=meaning.rule,
        reason=meaning.reason,
        warnings=tuple(warned.text for warned in warnings),
        info=info,
        findings=meaning.findings,
        dcgm_version=document.version,
        driver_version=document.driver,
    )


def _wrong(place: str, what: str, found: Any) -> Unreadable:
    shown = json.dumps(found, default=str)
    return Unreadable(place=place, what=what, reason=f"found {shown[:100]}{'…' if len(shown) > 100 else ''}")


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _list_of(value: Any) -> list[Any]:
    """A list, or one thing as a list of one: older versions print a single warning as text."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _int(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    try:
        return int(value)
    except ValueError:
        return None
