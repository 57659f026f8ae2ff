"""What a diagnostic's result means: how grave, of what kind, what to do, and which open faults it can explain.

The tables beside this module decide (errors.toml by DCGM's error, tests.toml for a failure that names none), each row
with its reason. A finding that is an XID or SXid is judged as the fault catalogue judges that code.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from schemas.catalog import ACTIONS, SEVERITIES, Action, Catalog, Severity

Result = Literal["pass", "warn", "fail", "not_run"]
RESULTS: dict[str, Result] = {
    "pass": "pass", "passed": "pass", "ok": "pass", "success": "pass",
    "warn": "warn", "warning": "warn",
    "fail": "fail", "failed": "fail", "error": "fail",
    "skip": "not_run", "skipped": "not_run", "not run": "not_run", "not_run": "not_run", "notrun": "not_run",
    "disabled": "not_run", "": "not_run",
}  # fmt: skip
"""DCGM's words, of any version, in lower case. What was skipped proves nothing: it is never a pass."""
DCGM_SEVERITY = {1: "monitor", 2: "isolate", 3: "unknown", 4: "triage", 5: "config", 6: "reset"}
DCGM_CATEGORY = dict(
    enumerate(
        ("none", "perf_threshold", "perf_violation", "software_config", "software_library", "software_xid",
         "software_cuda", "software_eud", "software_other", "hardware_thermal", "hardware_memory", "hardware_nvlink",
         "hardware_nvswitch", "hardware_pcie", "hardware_power", "hardware_other", "internal_other")
    )
)  # fmt: skip
"""The numbers in a document (dcgm_errors.h). Versions disagree on them: they count only for errors newer than ours."""
_BY_DCGM_SEVERITY: dict[str, tuple[Severity, Action]] = {
    "monitor": ("warning", "none"),
    "isolate": ("critical", "drain_and_diagnose"),
    "triage": ("warning", "drain_and_diagnose"),
    "config": ("warning", "none"),
    "reset": ("critical", "reset_gpu"),
    "unknown": ("warning", "contact_support"),
}
_CODES = (
    (re.compile(r"\bSXID ([0-9]{1,6})\b", re.IGNORECASE), "sxid"),
    (re.compile(r"\bXID ([0-9]{1,6})\b", re.IGNORECASE), "xid"),
)
_NO_FINDING = {"dcgm.pass": "DCGM found nothing.", "dcgm.not_run": "What was not tried proves nothing."}


class _Error(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row of errors.toml."""

    name: str
    dcgm_severity: str
    category: str
    severity: Severity
    action: Action
    explains: tuple[str, ...]
    meaning: str
    reason: str
    says: str = ""


class _Test(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row of tests.toml."""

    looks_at: str
    category: str
    severity: Severity
    action: Action
    explains: tuple[str, ...]
    reason: str
    names: tuple[str, ...] = ()


class Warned(msgspec.Struct, frozen=True):
    """One warning of a result, as the document has it."""

    text: str
    error_id: int | None = None
    error_severity: int | None = None
    error_category: int | None = None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One warning, interpreted."""

    error_id: int | None
    error_name: str | None
    severity: Severity
    category: str
    action: Action
    meaning: str
    explains: tuple[str, ...]
    dcgm_severity: str | None
    rule: str
    """`dcgm.50`, `dcgm.test.memory`, or the catalogue's `xid.79`."""
    reason: str
    text: str


class Interpretation(msgspec.Struct, frozen=True, kw_only=True):
    """What a result means; of several findings the gravest decides, and all may explain a fault."""

    severity: Severity
    category: str | None
    action: Action
    meaning: str
    explains: tuple[str, ...]
    rule: str
    reason: str
    findings: tuple[Finding, ...]


@cache
def rows_of_errors() -> dict[int, _Error]:
    """errors.toml by error id."""
    document = tomllib.loads(Path(__file__).with_name("errors.toml").read_text(encoding="utf-8"))
    rows = msgspec.convert(document["error"], dict[str, _Error])
    return {int(key): row for key, row in rows.items()}


@cache
def rows_of_tests() -> dict[str, _Test]:
    """tests.toml by every name that a test has or had."""
    document = tomllib.loads(Path(__file__).with_name("tests.toml").read_text(encoding="utf-8"))
    rows = msgspec.convert(document["test"], dict[str, _Test])
    return {name: row for key, row in rows.items() for name in (key, *row.names)}


@cache
def _sayings() -> tuple[tuple[re.Pattern[str], int], ...]:
    """The longest first: it is the most particular."""
    rows = [(row.says, key) for key, row in rows_of_errors().items() if row.says]
    return tuple((re.compile(says), key) for says, key in sorted(rows, key=lambda row: -len(row[0])))


def key_of_test(name: str) -> str:
    """`page_retirement_row_remap` of `Page Retirement/Row Remap`."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def interpret(
    test: str, result: Result, warnings: Sequence[Warned], info: Sequence[str] = (), catalog: Catalog | None = None
) -> Interpretation:
    """What the result of a test means. `catalog` judges XIDs and SXids that DCGM quotes."""
    row = rows_of_tests().get(key_of_test(test), rows_of_tests()["unknown"])
    findings = tuple(_finding(test, warned, catalog) for warned in warnings)
    said = "; ".join(text for text in (*(warned.text for warned in warnings), *info) if text)
    if result == "not_run":
        worst = max((found for found in findings if found.dcgm_severity != "unknown"), key=_rank, default=None)
        why = f" ({said})" if said else ""
        meaning = f"The test {test!r} was not run{why}: it tells nothing about {row.looks_at}."
        if worst is None or worst.severity == "info":
            return _interpretation("info", "none", worst, f"dcgm.{result}", meaning, findings)
        return _interpretation("warning", worst.action, worst, worst.rule, f"{meaning} {worst.meaning}", findings)
    if result == "pass" and not findings:
        return _interpretation("info", "none", None, "dcgm.pass", f"DCGM tested {row.looks_at}: nothing found.", ())
    if not findings:
        findings = (_of_test(test, row),)
    worst = max(findings, key=_rank)
    severity: Severity = worst.severity if worst.severity != "info" or result == "pass" else "warning"
    return _interpretation(severity, worst.action, worst, worst.rule, worst.meaning, findings)


def _interpretation(
    severity: Severity, action: Action, worst: Finding | None, rule: str, meaning: str, findings: tuple[Finding, ...]
) -> Interpretation:
    gravest_first = sorted(findings, key=_rank, reverse=True) if severity != "info" else ()
    explains = dict.fromkeys(name for found in gravest_first for name in found.explains)
    return Interpretation(
        severity=severity,
        category=worst.category if worst else None,
        action=action,
        meaning=meaning,
        explains=tuple(explains),
        rule=rule,
        reason=worst.reason if worst else _NO_FINDING[rule],
        findings=findings,
    )


def _rank(finding: Finding) -> tuple[int, int]:
    return SEVERITIES.index(finding.severity), ACTIONS.index(finding.action)


def _of_test(test: str, row: _Test) -> Finding:
    """A failure that names no error."""
    known = row is not rows_of_tests()["unknown"]
    return Finding(
        error_id=None,
        error_name=None,
        severity=row.severity,
        category=row.category,
        action=row.action,
        meaning=f"The test {test!r} did not pass and names no error; it looks at {row.looks_at}.",
        explains=row.explains,
        dcgm_severity=None,
        rule=f"dcgm.test.{key_of_test(test) if known else 'unknown'}",
        reason=row.reason,
        text="",
    )


def _finding(test: str, warned: Warned, catalog: Catalog | None) -> Finding:
    for pattern, kind in _CODES if catalog else ():
        if catalog and (match := pattern.search(warned.text)) and warned.error_id in {None, 81, 101, 109, 131}:
            return _of_code(kind, int(match[1]), warned, catalog)
    key = warned.error_id
    if key is None:
        key = next((key for pattern, key in _sayings() if pattern.search(warned.text)), None)
    row = rows_of_errors().get(key) if key is not None else None
    if row is not None:
        return Finding(
            error_id=key,
            error_name=row.name,
            severity=row.severity,
            category=row.category,
            action=row.action,
            meaning=row.meaning,
            explains=row.explains,
            dcgm_severity=row.dcgm_severity,
            rule=f"dcgm.{key}",
            reason=row.reason,
            text=warned.text,
        )
    if key is None:
        of_test = _of_test(test, rows_of_tests().get(key_of_test(test), rows_of_tests()["unknown"]))
        return msgspec.structs.replace(of_test, text=warned.text, meaning=f"{of_test.meaning} It says: {warned.text}")
    grade = DCGM_SEVERITY.get(warned.error_severity or 0, "unknown")
    severity, action = _BY_DCGM_SEVERITY[grade]
    return Finding(
        error_id=key,
        error_name=None,
        severity=severity,
        category=DCGM_CATEGORY.get(warned.error_category or 0, "none"),
        action=action,
        meaning=f"DCGM reports error {key}, which is newer than this table: {warned.text}",
        explains=("unknown",),
        dcgm_severity=grade,
        rule="dcgm.unknown",
        reason=f"Judged by DCGM's own severity, {grade}.",
        text=warned.text,
    )


def _of_code(kind: str, code: int, warned: Warned, catalog: Catalog) -> Finding:
    """The driver's code that DCGM quotes."""
    entry = catalog.entry(kind, code)
    row = rows_of_errors().get(warned.error_id or (109 if kind == "sxid" else 101))
    where = "an NVSwitch" if kind == "sxid" else "the GPU"
    return Finding(
        error_id=warned.error_id,
        error_name=row.name if row else None,
        severity=entry.severity,
        category=row.category if row else "software_xid",
        action=entry.action,
        meaning=f"The driver reported {'SXid' if kind == 'sxid' else 'XID'} {code} ({entry.name}) for {where}.",
        explains=(entry.fault_class,),
        dcgm_severity=row.dcgm_severity if row else None,
        rule=entry.rule,
        reason=entry.reason,
        text=warned.text,
    )
