"""What a run of diagnostics came to, as events: each finding with its meaning, and what was not looked at.

The kind says how grave it is (`diag_fault` is critical, `diag_warning` is not), the variant which fault class it
explains best, so that a stream can lay it to an open fault of the same GPU; `details["explains"]` has all of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec

from producers.dcgm.diagnostics import DiagnosticResult, decode
from producers.dcgm.run import Run
from producers.source import Origin
from producers.unreadable import Unreadable
from schemas.catalog import Catalog
from schemas.records import HardwareEvent

SOURCE = "dcgm_diag"
_RAW_CHARS = 2_000
_TOLD_CHARS = 500
_REMEDIES = (
    (("host engine", "hostengine", "connection"), "start DCGM's service (systemctl start nvidia-dcgm)"),
    (("permission", "root", "privilege"), "run the agent as a user who may use DCGM (root)"),
    (("library", "libdcgm", "cannot open shared"), "mend the installation of datacenter-gpu-manager"),
)
"""What dcgmi says where it gives no document, and what helps."""
_GPU_FIRST = re.compile(r"\bGPU [0-9]+: ")
_GPU = re.compile(r"\bGPU [0-9]+\b")


class Outcome(msgspec.Struct, frozen=True):
    """What can be made of the output of a run that is over."""

    run: Run
    results: tuple[DiagnosticResult, ...]
    unreadable: tuple[Unreadable, ...]
    said: str
    """What dcgmi printed beside a document, the end of it."""

    @property
    def trouble(self) -> tuple[str, str] | None:
        """Why not all is known, as a word and as a sentence; None where the run was completed."""
        run = self.run
        whole = bool(self.results) and not self.unreadable
        if run.stopped_s is not None and not (whole and run.exit_code == 0):
            return "timed_out", "was stopped because its time was over: dcgmi, DCGM's service or a GPU may hang"
        if whole:
            return None
        if not self.results and ((run.exit_code is None and not self.said) or (run.exit_code or 0) < 0):
            signal = f"by signal {-run.exit_code}" if run.exit_code else "(the node or the agent was stopped during it)"
            return "cut", f"was cut off {signal}"
        code = "" if run.exit_code is None else f" and exit code {run.exit_code}"
        if not self.results:
            said = self.said.lower()
            remedy = next((text for words, text in _REMEDIES if any(word in said for word in words)), "run it by hand")
            return "no_document", f"ended with no result{code}: {self.said or 'it said nothing'}; {remedy}"
        return "broken_document", f"gave a document that is not whole{code}: {self.unreadable[0]}"

    @property
    def complete(self) -> bool:
        """All that was asked for was tried (and may have been skipped)."""
        return self.trouble is None


def outcome(run: Run, output: str, errors: str, node: str, catalog: Catalog) -> Outcome:
    """What a run that is over came to."""
    decoded = list(decode(output, node, catalog))
    results = tuple(item for item in decoded if isinstance(item, DiagnosticResult))
    said = " ".join((errors.strip() or ("" if results else output.strip())).split())[-_TOLD_CHARS:]
    return Outcome(run, results, tuple(item for item in decoded if isinstance(item, Unreadable)), said)


def counts(results: Iterable[DiagnosticResult]) -> dict[str, int]:
    """Results by what they are: pass, warn, fail, not_run."""
    found = Counter(result.result for result in results)
    return {name: found[name] for name in ("pass", "warn", "fail", "not_run")}


def of_any_gpu(text: str) -> str:
    """A sentence of DCGM's without the number of the GPU in it, so that the same of two GPUs is the same."""
    return _GPU.sub("the GPU", _GPU_FIRST.sub("", text))


def started(run: Run, origin: Origin, catalog: Catalog, observed_ms: int) -> HardwareEvent:
    """That the GPUs of this node are under test from here on."""
    text = f"diagnostics of level {run.level} started, asked for by {run.by}"
    if run.forced:
        text += ", although jobs may hold GPUs"
    details = {"run": run.id, "level": str(run.level), "by": run.by, "forced": str(run.forced).lower()}
    return origin.event(
        catalog,
        "diag_started",
        source=SOURCE,
        event_ms=run.started_ms,
        observed_ms=max(observed_ms, run.started_ms),
        details=details,
        raw=text,
    )


def events(
    found: Outcome, origin: Origin, catalog: Catalog, gpu_of: Callable[[int], str | None], observed_ms: int
) -> list[HardwareEvent]:
    """All that a run came to: its findings, what it left out, and how it ended."""
    run = found.run
    at_ms = run.started_ms if run.ended_ms is None else run.ended_ms
    seen_ms = max(observed_ms, at_ms)
    told = [
        _finding(result, run, origin, catalog, gpu_of, at_ms, seen_ms)
        for result in found.results
        if result.severity != "info"
    ]
    told += _not_run(found.results, run, origin, catalog, at_ms, seen_ms)
    told.append(_end(found, origin, catalog, at_ms, seen_ms))
    return told


def _finding(
    result: DiagnosticResult,
    run: Run,
    origin: Origin,
    catalog: Catalog,
    gpu_of: Callable[[int], str | None],
    at_ms: int,
    seen_ms: int,
) -> HardwareEvent:
    kind = "diag_fault" if result.severity == "critical" else "diag_warning"
    variant = result.explains[0] if result.explains else ""
    gpu, named_by = _gpu(result, gpu_of)
    where = f"GPU {result.gpu}" if result.gpu is not None else result.entity or "this node"
    said = "; ".join((*result.warnings, *result.info))
    details = {
        "run": run.id,
        "level": str(run.level),
        "test": result.test,
        "group": result.group,
        "result": result.result,
        "entity": result.entity,
        "gpu_index": None if result.gpu is None else str(result.gpu),
        "gpu_named_by": named_by,
        "variant": variant,
        "explains": ",".join(result.explains),
        "error_id": None if result.error_id is None else str(result.error_id),
        "error": result.error_name,
        "category": result.category,
        "meaning": result.meaning,
        "reason": result.reason,
        "rule": result.rule,
        "dcgm_version": result.dcgm_version,
    }
    event = origin.event(
        catalog,
        kind,
        source=SOURCE,
        event_ms=at_ms,
        observed_ms=seen_ms,
        gpu=gpu,
        details={name: value for name, value in details.items() if value},
        # with the test in it, so that two tests that say the same are two events
        raw=f"{result.test} on {where}: {result.result}: {said or result.meaning}"[:_RAW_CHARS],
    )
    entry = catalog.entry(kind, None, variant)
    # the interpretation knows better what to do than the class does, unless the operator has decided
    action = entry.action if entry.overridden else result.action
    return msgspec.structs.replace(event, severity=entry.severity, action=action)


def _gpu(result: DiagnosticResult, gpu_of: Callable[[int], str | None]) -> tuple[str | None, str | None]:
    """The GPU's name, and whose word that is: DCGM counts as the driver does, but for GPUs that are lost."""
    if result.serial:
        return result.serial, "document"
    name = None if result.gpu is None else gpu_of(result.gpu)
    return name, "index" if name else None


def _not_run(
    results: Sequence[DiagnosticResult], run: Run, origin: Origin, catalog: Catalog, at_ms: int, seen_ms: int
) -> list[HardwareEvent]:
    """What was not looked at, once for each test and reason, not for each GPU."""
    left_out: dict[tuple[str, str], list[str]] = {}
    for result in results:
        if result.result == "not_run" and result.severity == "info":
            where = "" if result.gpu is None else str(result.gpu)
            why = of_any_gpu("; ".join((*result.warnings, *result.info)))
            left_out.setdefault((result.test, why), []).append(where)
    told = []
    for (test, why), gpus in left_out.items():
        named = ",".join(filter(None, gpus))
        text = f"{test} was not run{f' on GPU {named}' if named else ''}{f': {why}' if why else ''}"
        details = {"run": run.id, "level": str(run.level), "test": test, "result": "not_run", "gpus": named, "why": why}
        told.append(
            origin.event(
                catalog,
                "diag_not_run",
                source=SOURCE,
                event_ms=at_ms,
                observed_ms=seen_ms,
                details={name: value for name, value in details.items() if value},
                raw=text[:_RAW_CHARS],
            )
        )
    return told


def _end(found: Outcome, origin: Origin, catalog: Catalog, at_ms: int, seen_ms: int) -> HardwareEvent:
    run, trouble = found.run, found.trouble
    number = counts(found.results)
    took_s = (at_ms - run.started_ms) / 1000
    details = {"run": run.id, "level": str(run.level), "by": run.by, "took_s": f"{took_s:.0f}"}
    details |= {name: str(count) for name, count in number.items()}
    if run.exit_code is not None:
        details["exit_code"] = str(run.exit_code)
    summary = (
        f"{number['pass']} passed, {number['warn']} warned, {number['fail']} failed, {number['not_run']} were not run"
    )
    kind, text = "diag_finished", f"diagnostics of level {run.level} took {took_s:.0f} s: {summary}"
    if trouble:
        kind, details["variant"] = "diag_incomplete", trouble[0]
        if run.boot_id != origin.boot_id:
            details["boot"] = run.boot_id
        text = f"diagnostics of level {run.level} {trouble[1]}; of its tests {summary}"
    return origin.event(
        catalog,
        kind,
        source=SOURCE,
        event_ms=at_ms,
        observed_ms=seen_ms,
        details=details,
        raw=text[:_RAW_CHARS],
    )
