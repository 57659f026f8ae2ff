"""Diagnostics of the GPUs: when one is due or asked for, and nobody works on the GPUs, dcgmi is run and interpreted.

`read` starts a run, looks after it and tells what it came to; it never waits for it. What a run came to counts as told
when the next read comes, so that an agent that is killed in between tells it again, under the same `event_id`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from producers.dcgm.run import AlreadyRunningError, DcgmiMissingError, DiagnosticsError, Request, Run, Runs
from producers.source import Origin
from schemas.catalog import Catalog
from schemas.ids import stable_id
from schemas.records import HardwareEvent, Record

if TYPE_CHECKING:
    from producers.dcgm.settings import DiagnosticsSettings

log = structlog.get_logger()

SCHEDULE = "the schedule"
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
_EARLY = 0.1
"""A run is due a tenth of the period early, else each would start a little later, until it misses its hours."""
_REQUEST_MS = _HOUR_MS
"""A request that no agent has seen for so long is not carried out: GPUs would come under load out of the blue."""
_SHOWN_PROGRAMS = 5


class DiagnosticsSource:
    """Runs of `dcgmi diag`, kept in `folder`, which takes requests too (see `run.py`).

    `busy` names the programs on GPUs, and may raise where it cannot; `gpu_of` names the GPU behind DCGM's number.
    """

    name = "dcgm_diag"

    def __init__(
        self,
        origin: Origin,
        catalog: Catalog,
        settings: DiagnosticsSettings,
        folder: Path,
        *,
        busy: Callable[[], Sequence[str]],
        gpu_of: Callable[[int], str | None] = lambda _: None,
        runs: Runs | None = None,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.doing = "nothing"
        self._origin = origin
        self._catalog = catalog
        self._settings = settings
        self._folder = folder
        self._busy = busy
        self._gpu_of = gpu_of
        self._wall_ms = wall_ms
        self._runs = runs or Runs(
            folder,
            boot_id=origin.boot_id,
            command=settings.command,
            arguments=settings.arguments,
            wall_ms=wall_ms,
        )
        self._given: list[str] = []
        """Runs that the last read told of."""
        self._announced: set[str] = set()
        self._last_ms = self._load_last()
        """When a scheduled run was last started; None: never."""
        self._born_ms: int | None = None
        self._not_before_ms = 0
        self._noticed: Request | None = None
        """A request that came in time, and waits for the end of a run."""
        self._refused_ms: int | None = None
        """When it was told that the run that is due cannot start."""
        # never the same for two nodes side by side, always the same for one
        spread_ms = settings.spread_minutes * 60_000
        self._offset_ms = round(int(stable_id("dcgm_diag", origin.node)[:8], 16) / 0xFFFFFFFF * spread_ms)

    def read(self, now_ms: int) -> Iterable[Record]:
        """What is new. Raises `DiagnosticsError` where runs cannot be kept, or are due and there is no dcgmi."""
        while self._given:
            self._runs.report(self._given.pop())
        self.doing = f"looking after the runs in {self._folder}"
        told: list[Record] = []
        running: Run | None = None
        for run in self._runs.poll():
            if run.ended_ms is None:
                running = run
                told += self._announce(run)
            else:
                self.doing = f"reading what run {run.id} came to"
                told += self._outcome(run)
        missing: DcgmiMissingError | None = None
        if running is None:
            try:
                told += self._begin(now_ms)
            except DcgmiMissingError as error:
                missing = error
        else:
            self._notice()
        if running is not None and (over_s := self._runs.overrun_s(running)) and not told:
            raise DiagnosticsError(
                f"the diagnostic {running.id} (pid {running.pid}) goes on {over_s:.0f} s after it was to be killed: "
                "a process that cannot be killed waits for the driver; reboot the node"
            )
        self.doing = "nothing"
        if missing is not None and not told:
            raise missing
        return told

    def _announce(self, run: Run) -> list[HardwareEvent]:
        from producers.dcgm.findings import started

        if run.id in self._announced:
            return []
        self._announced.add(run.id)
        return [started(run, self._origin, self._catalog, self._wall_ms())]

    def _outcome(self, run: Run) -> list[HardwareEvent]:
        from producers.dcgm.findings import events, outcome  # with their tables: an agent that runs none has no need

        found = outcome(run, self._runs.output(run), self._runs.errors(run), self._origin.node, self._catalog)
        told = events(found, self._origin, self._catalog, self._gpu_of, self._wall_ms())
        self._given.append(run.id)
        self._announced.discard(run.id)
        return told

    def _notice(self) -> None:
        """A run may take hours; a request that came in time is not too old for that."""
        request = self._runs.waiting_request()
        if request is not None and self._expired(request) is None:
            self._noticed = request

    def _expired(self, request: Request) -> str | None:
        """Why a request holds no more; None where it does."""
        age_ms = 0 if request.asked_ms is None else self._wall_ms() - request.asked_ms
        if abs(age_ms) <= _REQUEST_MS:
            return None
        hours = f"{abs(age_ms) / _HOUR_MS:.1f} h"
        when = f"was asked for {hours} ago" if age_ms > 0 else f"bears a time {hours} ahead of this node's clock"
        return f"it {when}, and a request that no agent sees holds for {_REQUEST_MS // _HOUR_MS} h; ask again"

    def _begin(self, now_ms: int) -> list[HardwareEvent]:
        """Start what is asked for, else what is due."""
        try:
            request = self._runs.take_request()
        except DiagnosticsError as error:
            return [self._refusal(None, "request", str(error), now_ms)]
        if request is not None:
            noticed, self._noticed = self._noticed, None
            if request != noticed and (why := self._expired(request)):
                return [self._refusal(request, request.by, why, now_ms)]
            return self._try(request, now_ms)
        every_hours = self._settings.every_hours
        if every_hours is None:
            return []
        self._runs.check()  # said at once, not in the night when it is due
        if not self._is_due(now_ms, every_hours):
            return []
        self._not_before_ms = now_ms + round(self._settings.retry_minutes * 60_000)
        scheduled = Request(level=self._settings.level, force=self._settings.force, by=SCHEDULE)
        told = self._try(scheduled, now_ms)
        if any(event.kind == "diag_refused" for event in told):
            if self._refused_ms is not None and 0 <= now_ms - self._refused_ms < every_hours * _HOUR_MS:
                return []
            self._refused_ms = now_ms
        else:
            self._refused_ms, self._not_before_ms = None, 0
            self._last_ms = now_ms
            self._keep_last()
        return told

    def _try(self, request: Request, now_ms: int) -> list[HardwareEvent]:
        """Start a run, unless jobs hold GPUs. Raises `DcgmiMissingError` for one of the schedule."""
        again = (
            f"it is tried again in {self._settings.retry_minutes:g} minutes"
            if request.by == SCHEDULE
            else "ask again when they are gone, or force it"
        )
        if not request.force and (programs := self._programs()):
            shown = "; ".join(programs[:_SHOWN_PROGRAMS])
            more = len(programs) - _SHOWN_PROGRAMS
            why = f"{shown}{f' and {more} more' if more > 0 else ''}; {again}"
            return [self._refusal(request, request.by, why, now_ms)]
        self.doing = f"starting {self._settings.command} diag -r {request.level}"
        timeout_s = self._settings.timeout_s[request.level - 1]
        try:
            run = self._runs.start(request.level, timeout_s, by=request.by, forced=request.force)
        except AlreadyRunningError as error:
            return [self._refusal(request, request.by, f"{error}; {again}", now_ms)]
        except DcgmiMissingError as error:
            if request.by == SCHEDULE:
                raise
            return [self._refusal(request, request.by, str(error), now_ms)]
        log.info("a diagnostic was started", level=run.level, by=run.by, pid=run.pid, forced=run.forced)
        return self._announce(run)

    def _programs(self) -> list[str]:
        """What keeps a run from starting."""
        self.doing = "asking which programs hold GPUs"
        try:
            return [f"a job holds a GPU: {program}" for program in self._busy()]
        except Exception as error:  # noqa: BLE001 - whatever it is: nobody says that the GPUs are free
            return [f"{error}"]

    def _refusal(self, request: Request | None, by: str, why: str, now_ms: int) -> HardwareEvent:
        level = "" if request is None else f" of level {request.level}"
        details = {"by": by, "why": why}
        if request is not None:
            details["level"] = str(request.level)
        return self._origin.event(
            self._catalog,
            "diag_refused",
            source=self.name,
            event_ms=now_ms,
            observed_ms=max(now_ms, self._wall_ms()),
            details=details,
            raw=f"diagnostics{level}, asked for by {by}, were not started: {why}",
        )

    def _is_due(self, now_ms: int, every_hours: float) -> bool:
        self._born_ms = now_ms if self._born_ms is None else self._born_ms
        if self._not_before_ms - now_ms > self._settings.retry_minutes * 60_000:  # the wall clock was set back
            self._not_before_ms = 0
        last_ms = self._last_ms
        if last_ms is not None and last_ms > now_ms:
            last_ms = None
        due_ms = self._born_ms + self._offset_ms if last_ms is None else last_ms + every_hours * _HOUR_MS * (1 - _EARLY)
        return now_ms >= max(due_ms, self._not_before_ms) and self._in_hours(now_ms)

    def _in_hours(self, now_ms: int) -> bool:
        start_ms, end_ms = self._settings.from_hour * _HOUR_MS, self._settings.until_hour * _HOUR_MS
        length_ms = (end_ms - start_ms) % _DAY_MS or _DAY_MS
        # a node starts some time into the hours, but all of them before their end
        offset_ms = 0 if length_ms == _DAY_MS else min(self._offset_ms, length_ms // 2)
        return offset_ms <= (now_ms - start_ms) % _DAY_MS < length_ms

    def _load_last(self) -> int | None:
        try:
            return int((self._folder / "last_scheduled").read_text())
        except (OSError, ValueError):
            return None

    def _keep_last(self) -> None:
        try:
            (self._folder / "last_scheduled").write_text(f"{self._last_ms}\n")
        except OSError as error:
            log.warning("when diagnostics were last run cannot be kept", folder=str(self._folder), error=str(error))
