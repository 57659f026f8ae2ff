"""The kernel log as a source of the agent: `/dev/kmsg`, the journal and log files, each line once over restarts and
rotations.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
import structlog

from producers.kernel_log.decode import Decoder
from producers.kernel_log.events import GpuMap, KernelEvent
from producers.kernel_log.follow import FileFollower, Start
from producers.kernel_log.generation import FilePosition, KernelLogError, SourceLine
from producers.kernel_log.journal import COMMAND, JOURNAL, JournalReader
from producers.kernel_log.kmsg import KmsgReader
from producers.kernel_log.record import SOURCE, hardware_event
from producers.kernel_log.storm import Burst, Storms
from producers.source import Origin
from schemas.catalog import Catalog
from schemas.ids import stable_id
from schemas.records import HardwareEvent

log = structlog.get_logger()

_READ_BYTES = 1 << 20
"""One read takes at most so much of one input: a storm of so many lines is decoded in a third of a second, and a source
that takes more than a second is reported as hanging."""


_PATIENCE = 40
"""So many reads wait for `journalctl` to find a batch again; then what there is has to do."""
Reader = FileFollower | KmsgReader | JournalReader


class KmsgPosition(msgspec.Struct, frozen=True):
    """The last record that was read; the kernel's numbers begin anew with each boot."""

    boot_id: str
    sequence: int


class Batch(msgspec.Struct, frozen=True):
    """What one read takes of one input. Read again after a kill, it has to be the same lines at the same time: else a
    storm would be cut into other summaries, and counted twice.
    """

    observed_ms: int
    lines: int
    """How many lines, of a file."""
    sequence: int | None = None
    """Up to which record, of the kernel's buffer."""
    boot_ms: int | None = None
    """What its stamps count from."""


class Cursors(msgspec.Struct, frozen=True):
    """How far every input was handed over, and what is kept to go on from there, by path."""

    kmsg: dict[str, KmsgPosition] = {}
    files: dict[str, FilePosition] = {}
    journals: dict[str, str] = {}
    storms: dict[str, tuple[Burst, ...]] = {}
    """Lines that were read and wait for their summary are in here, so that none depends on being read again."""
    batches: dict[str, Batch] = {}
    """What was given and perhaps not handed over."""


class _Input:
    """One path with what reads it and what decodes it."""

    def __init__(self, path: Path, gpus: GpuMap, saved: Cursors) -> None:
        self.path = path
        self.decoder = Decoder(gpus=gpus)
        self.reader: Reader | None = None
        self.number = 0
        self.storms = Storms(saved.storms.get(str(path), ()))
        self.again = saved.batches.get(str(path))
        """The batch that has to be read once more before anything else."""
        self.patience = _PATIENCE
        self.batch: Batch | None = None
        """What the read under way takes."""


class KernelLogSource:
    """What the kernel logs about the GPUs, as `HardwareEvent` records.

    The cursors are kept in `state`. A batch counts as handed over when the next `read`, or `close`, comes: an agent
    that dies in between reads it again, with the same event ids. Storms come as counted summaries (`Storms`); what
    waits for its summary is kept with the cursors. `gpus` may be shared: tell it what NVML knows
    (`GpuMap.tell`), and events carry the same GPU names as samples.
    """

    name = SOURCE

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        origin: Origin,
        catalog: Catalog,
        state: Path | None = None,
        gpus: GpuMap | None = None,
        start: Start = "end",
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        uptime_s: Callable[[], float] = time.monotonic,
        read_kmsg: Callable[[int, int], bytes] = os.read,
        journalctl: Sequence[str] = COMMAND,
    ) -> None:
        self._origin = origin
        self._catalog = catalog
        self._state = state
        self._start: Start = start
        self._clock_ms = clock_ms
        self._uptime_s = uptime_s
        self._read_kmsg = read_kmsg
        self._journalctl = journalctl
        gpus = GpuMap() if gpus is None else gpus
        self._committed = self._load()
        """How far everything was handed over."""
        self._on_disk = self._committed
        self._inputs = [_Input(path, gpus, self._committed) for path in paths]
        self._unsaved = False
        self._path_now: Path | None = None
        self.blind = not paths
        """Whether the last read could read none of the inputs: then nobody hears the kernel."""

    @property
    def doing(self) -> str:
        """What it is at now, for the report that it hangs there."""
        return f"reading {self._path_now}" if self._path_now else "waiting for kernel messages"

    def read(self, now_ms: int) -> list[HardwareEvent]:
        """The events since the last read; `now_ms` gives syslog stamps their year. Does not block beyond the disk.

        Raises `KernelLogError`, with the remedy, where an input cannot be read and no other had anything to say.
        """
        self.commit()
        events: list[HardwareEvent] = []
        errors: list[KernelLogError] = []
        for each in self._inputs:
            self._path_now = each.path
            try:
                events += self._read_input(each, now_ms)
            except OSError as error:
                errors.append(KernelLogError(_remedy(each.path, error)))
            except KernelLogError as error:
                errors.append(error)
        self._path_now = None
        self.blind = len(errors) == len(self._inputs)
        if events:
            batches = {str(each.path): batch for each in self._inputs if (batch := each.again or each.batch)}
            self._write(msgspec.structs.replace(self._committed, batches=batches))
        if errors and not events:
            raise errors[0] if len(errors) == 1 else KernelLogError("; ".join(map(str, errors)))
        return events

    def ears(self) -> list[int]:
        """After a read that gave nothing: what can be read as soon as there is more. Empty where only looking tells."""
        found = [self._ear(each) for each in self._inputs]
        return [] if None in found else [ear for ear in found if ear is not None]

    def _ear(self, each: _Input) -> int | None:
        # what waits for its summary, or has to be read again, needs the clock
        if each.reader is None or each.again is not None or each.storms.snapshot():
            return None
        return each.reader.ear()

    def commit(self) -> None:
        """Note on disk that everything given so far has been handed over.

        A disk that takes no note stops nothing: the lines would come twice after a restart, with the same event ids.
        """
        self._committed = self._cursors()
        self._write(self._committed)

    def _write(self, cursors: Cursors) -> None:
        if self._state is None or cursors == self._on_disk:
            return
        temporary = self._state.with_name(f"{self._state.name}.new")
        try:
            self._state.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(msgspec.json.encode(cursors))
            temporary.replace(self._state)
        except OSError as error:
            if not self._unsaved:
                log.warning("the kernel log cursors cannot be kept", path=str(self._state), error=str(error))
            self._unsaved = True
            return
        self._on_disk, self._unsaved = cursors, False

    def close(self) -> None:
        """Commit, and let go of files."""
        self.commit()
        for each in self._inputs:
            if each.reader is not None:
                each.reader.close()

    def _read_input(self, each: _Input, now_ms: int) -> list[HardwareEvent]:
        if each.reader is None:
            each.reader = self._reader(each)
        each.decoder.now_ms = now_ms
        again = each.again
        if again is not None and isinstance(each.reader, JournalReader) and each.patience > 0:
            each.patience -= 1
            if not each.reader.has(again.lines):
                return []
        lines, observed_ms = self._lines(each, each.reader)
        if isinstance(each.reader, KmsgReader):
            # The kernel stamps its records with the monotonic clock; in files such stamps may be of an earlier boot.
            each.decoder.boot_ms = again.boot_ms if again else observed_ms - int(self._uptime_s() * 1000)
        events: list[HardwareEvent] = []
        for line in lines:
            each.number += 1
            found = list(each.decoder.feed(each.number, line.text))
            if line.lost:
                found.insert(0, _lost(each, line))
            if not line.old:
                for ordinal, event in enumerate(found):
                    at_ms = observed_ms if event.event_ms is None else min(event.event_ms, observed_ms)
                    record = partial(self._record, each, line, event, ordinal, observed_ms)
                    events += each.storms.take(event, at_ms, record)
        events += each.storms.close_windows(observed_ms)
        sequence = each.reader.sequence if isinstance(each.reader, KmsgReader) else None
        each.again, each.batch = None, Batch(observed_ms, len(lines), sequence, each.decoder.boot_ms)
        return events

    def _lines(self, each: _Input, reader: Reader) -> tuple[list[SourceLine], int]:
        """What this read takes, and when; after a kill just what the read took that may not have been handed over."""
        again = each.again
        if again is None:
            return reader.read(_READ_BYTES), self._clock_ms()
        lines: list[SourceLine] = []
        more = True
        while more:
            taken: list[SourceLine] = []
            if isinstance(reader, KmsgReader):
                if again.sequence is not None and (reader.sequence is None or reader.sequence < again.sequence):
                    taken = reader.read(_READ_BYTES, again.sequence)
            elif len(lines) < again.lines:
                taken = reader.read(_READ_BYTES, again.lines - len(lines))
            lines += taken
            more = bool(taken)
        return lines, again.observed_ms

    def _record(
        self, each: _Input, line: SourceLine, event: KernelEvent, ordinal: int, observed_ms: int
    ) -> HardwareEvent:
        """The id is of the line, wherever a rotation moved it and whenever it is read.

        The kernel's numbers begin anew with each boot, so there the boot counts; a file is told from the others by its
        first line, and a line in it by its place and text.
        """
        if isinstance(each.reader, KmsgReader):
            where = f"{self._origin.boot_id}:{line.cursor}"
        else:
            where = line.cursor if isinstance(each.reader, JournalReader) else f"{line.cursor}:{line.text}"
        return hardware_event(
            event,
            event_id=stable_id(self._origin.node, SOURCE, where, ordinal, event.kind),
            origin=self._origin,
            catalog=self._catalog,
            observed_ms=observed_ms,
        )

    def _reader(self, each: _Input) -> Reader:
        path = each.path
        if path == JOURNAL:
            cursor = self._committed.journals.get(str(path))
            beginning = self._start == "beginning"
            return JournalReader(cursor, from_beginning=beginning, command=self._journalctl)
        if not stat.S_ISCHR(path.stat().st_mode):
            return FileFollower(path, self._committed.files.get(str(path)), self._start)
        saved = self._committed.kmsg.get(str(path))
        if saved is None:
            return KmsgReader(path, None, self._start, self._read_kmsg)
        if saved.boot_id == self._origin.boot_id:
            return KmsgReader(path, saved.sequence, self._start, self._read_kmsg)
        each.again = None  # went with the boot
        return KmsgReader(path, None, "beginning", self._read_kmsg)  # all of a boot that began unwatched is news

    def _cursors(self) -> Cursors:
        kmsg, files = dict(self._committed.kmsg), dict(self._committed.files)
        journals = dict(self._committed.journals)
        storms, batches = dict(self._committed.storms), {}
        for each in self._inputs:
            reader, name = each.reader, str(each.path)
            if isinstance(reader, KmsgReader) and reader.sequence is not None:
                kmsg[name] = KmsgPosition(self._origin.boot_id, reader.sequence)
            elif isinstance(reader, FileFollower) and (position := reader.position()):
                files[name] = position
            elif isinstance(reader, JournalReader) and reader.cursor:
                journals[name] = reader.cursor
            storms[name] = each.storms.snapshot()
            if each.again is not None:
                batches[name] = each.again
        return Cursors(kmsg, files, journals, storms, batches)

    def _load(self) -> Cursors:
        """The cursors of the run before. A damaged file is as good as none, but then nothing may be skipped."""
        if self._state is None:
            return Cursors()
        try:
            return msgspec.json.decode(self._state.read_bytes(), type=Cursors)
        except FileNotFoundError:
            return Cursors()
        except (msgspec.DecodeError, OSError) as error:
            log.warning("the kernel log cursors cannot be read, starting over", path=str(self._state), error=str(error))
            self._start = "beginning"
            return Cursors()


def _lost(each: _Input, line: SourceLine) -> KernelEvent:
    text = f"{line.lost} kernel messages were overwritten before they were read"
    return KernelEvent(
        line=each.number,
        kind="kernel_log_lost",
        details={"lines": str(line.lost), "path": str(each.path)},
        raw=text,
    )


def _remedy(path: Path, error: OSError) -> str:
    what = f"reading the kernel log {path}: {(error.strerror or str(error)).lower()}"
    if isinstance(error, PermissionError):
        return (
            f"{what}; kernel messages need root or CAP_SYSLOG (systemd: AmbientCapabilities=CAP_SYSLOG), or name a log "
            "file that this user may read in agent.kernel_logs"
        )
    if isinstance(error, FileNotFoundError):
        return f"{what}; correct agent.kernel_logs, or create the file"
    return what
