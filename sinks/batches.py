"""Cutting a Kafka partition into batches, so that a batch that was begun can be redone exactly as it was.

Pure: no Kafka, no ClickHouse, the clock passed in. A batch is a range of offsets. Before it is written, the range is
committed to Kafka as an `Intent`; whoever comes after a crash cuts that very range again, whatever its own limits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from itertools import pairwise

import msgspec

from schemas.codec import Codec, CodecError
from schemas.records import Record
from schemas.registry import Schema

_INTENT = re.compile(r"batch/1 last=(?P<last>\d+) schema=(?P<schema>[0-9a-f]*) topic=(?P<topic>[A-Za-z0-9_-]*)")


class LogRewoundError(Exception):
    """An offset came that lies before what was read already: this is not the same log any more."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One Kafka record in a batch, taken apart."""

    offset: int
    key: bytes | None
    head: bytes | None
    """What came before the body; where the record is refused, all that came."""
    body: bytes | None
    """The undecoded Avro body; None where the record is refused."""
    reason: str = ""
    """Why it is refused, the word for the dead letter."""
    detail: str = ""
    """Why it is refused, for a human."""

    @property
    def value(self) -> bytes | None:
        """The record as it came."""
        return self.head if self.body is None else (self.head or b"") + self.body

    @property
    def size(self) -> int:
        """Its bytes."""
        return len(self.head or b"") + len(self.body or b"")

    def refused(self, reason: str, detail: str) -> Entry:
        """The same record, refused."""
        return Entry(self.offset, self.key, self.value, None, reason, detail)


@dataclass(frozen=True, slots=True)
class Limits:
    """When a batch is cut."""

    records: int
    bytes: int
    age_ms: int
    """A batch waits no longer than this for more records."""


@dataclass(frozen=True, slots=True)
class Intent:
    """What a loader is about to write: the range that begins with the committed offset."""

    last: int
    """Offset with which it ends, inclusive."""
    schema: str
    """Fingerprint of the writer's schema in hexadecimal; empty where no record is accepted."""
    topic_id: str
    """Of the topic that the offsets count in."""

    def encode(self) -> str:
        """As metadata of a committed offset."""
        return f"batch/1 last={self.last} schema={self.schema} topic={self.topic_id}"

    @staticmethod
    def parse(metadata: str | None) -> Intent | None:
        """From metadata of a committed offset; None where it is empty or not ours."""
        match = _INTENT.fullmatch(metadata or "")
        return Intent(int(match["last"]), match["schema"], match["topic"]) if match else None


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive records of one partition, those with a body all written with one schema."""

    first: int
    """Offset at which it begins."""
    last: int
    """Offset with which it ends, inclusive. Compaction may have left holes between the two."""
    schema: Schema | None
    """The writer's schema; None where every record is refused."""
    entries: tuple[Entry, ...]
    """By offset."""
    redo: bool = False
    """A loader before this one may have written it already."""

    @property
    def accepted(self) -> list[Entry]:
        """The records to write."""
        return [entry for entry in self.entries if entry.body is not None]

    @property
    def refused(self) -> list[Entry]:
        """The records for the dead letters."""
        return [entry for entry in self.entries if entry.body is None]

    def intent(self, topic_id: str) -> Intent:
        """What to commit before it is written."""
        return Intent(self.last, self.schema.fingerprint.hex() if self.schema else "", topic_id)

    def token(self, topic: str, topic_id: str, partition: int) -> str:
        """What ClickHouse remembers it by. With the topic's id, because a topic made anew counts from 0 again."""
        return f"{topic}:{topic_id}:{partition}:{self.first}-{self.last}"

    def sifted(self, codec: Codec, kind: type[Record]) -> Batch:
        """The same range with every record refused that does not decode as a `kind`. Slow: decodes each."""
        return replace(self, entries=tuple(_sift(entry, codec, kind) for entry in self.entries))

    def all_refused(self, reason: str, detail: str) -> Batch:
        """The same range with every record refused."""
        return replace(self, entries=tuple(e if e.body is None else e.refused(reason, detail) for e in self.entries))

    def split(self, suspect: int | None = None) -> list[Batch]:
        """Smaller batches which together are this one, in order: the way to a bad record.

        `suspect` is the place of the record under suspicion among the accepted ones, from 0: it is set apart. Without
        it the batch is halved. A batch with fewer than two accepted records is returned as it is.
        """
        places = [place for place, entry in enumerate(self.entries) if entry.body is not None]
        if len(places) < 2:
            return [self]
        if suspect is not None and 0 <= suspect < len(places):
            cuts = [places[suspect], places[suspect] + 1]
        else:
            cuts = [places[len(places) // 2]]
        edges = [0, *(cut for cut in cuts if 0 < cut < len(self.entries)), len(self.entries)]
        return [self._part(begin, end) for begin, end in pairwise(edges)]

    def _part(self, begin: int, end: int) -> Batch:
        entries = self.entries[begin:end]
        return replace(
            self,
            first=self.first if begin == 0 else entries[0].offset,
            last=self.last if end == len(self.entries) else self.entries[end].offset - 1,
            entries=entries,
            # nobody has begun the parts: the whole was refused
            redo=False,
        )


def _sift(entry: Entry, codec: Codec, kind: type[Record]) -> Entry:
    if entry.body is None:
        return entry
    try:
        codec.decode(entry.value, kind)
    except CodecError as error:
        return entry.refused(error.reason, str(error))
    return entry


@dataclass(slots=True)
class Cutter:
    """Cuts one partition's records into batches: state is one open batch, at most `limits` plus one record.

    With an `intent`, the first batch is exactly the range from `start` to the intent's last offset; limits do not
    apply to it, since a loader with the same or other limits made it.
    """

    codec: Codec
    name: str
    """The record that the topic holds; anything else is refused as `wrong_record`."""
    limits: Limits
    start: int
    """Offset from which on records are expected."""
    intent: Intent | None = None
    _entries: list[Entry] = field(default_factory=list)
    _schema: Schema | None = None
    _bytes: int = 0
    _since_ms: int = 0

    def add(self, offset: int, key: bytes | None, value: bytes | None, now_ms: int) -> list[Batch]:
        """Take one record; returns the batches that it completed. Raises `LogRewoundError`."""
        expected = self._entries[-1].offset + 1 if self._entries else self.start
        if offset < expected:
            raise LogRewoundError(f"expected offset {expected} or later, found {offset}")
        done = []
        entry, schema = self._entry(offset, key, value)
        if self.intent is not None:
            if offset > self.intent.last:
                # the last records of the range are gone (compaction, retention): what is left is all there will be
                done += self._finish(self.intent.last)
        elif schema is not None and self._schema is not None and schema is not self._schema:
            done += self._finish(offset - 1)
        if not self._entries:
            self._since_ms = now_ms
        self._entries.append(entry)
        self._schema = self._schema or schema
        self._bytes += len(value or b"")
        if self.intent is not None:
            if offset == self.intent.last:
                done += self._finish(offset)
        elif len(self._entries) >= self.limits.records or self._bytes >= self.limits.bytes:
            done += self._finish(offset)
        return done

    def due(self, now_ms: int) -> bool:
        """Whether the open batch has waited long enough. A batch that is redone waits for its last record."""
        return bool(self._entries) and self.intent is None and now_ms - self._since_ms >= self.limits.age_ms

    def take(self) -> list[Batch]:
        """The open batch as it is, if there is one that may be cut now."""
        return self._finish(self._entries[-1].offset) if self._entries and self.intent is None else []

    def _entry(self, offset: int, key: bytes | None, value: bytes | None) -> tuple[Entry, Schema | None]:
        try:
            framed = self.codec.split(value)
        except CodecError as error:
            return Entry(offset, key, value, None, error.reason, str(error)), None
        if framed.schema.name != self.name:
            detail = f"expected a {self.name}, found a {framed.schema.name}"
            return Entry(offset, key, value, None, "wrong_record", detail), None
        if (
            self.intent is not None
            and offset <= self.intent.last
            and framed.schema.fingerprint.hex() != self.intent.schema
        ):
            # an older build began the batch; it could not read this record, and the batch has to stay what it was
            detail = "its schema was unknown to the loader that began the batch: publish the record again"
            return Entry(offset, key, value, None, "unknown_schema", detail), None
        # the body is most of the record: it is held once
        return Entry(
            offset, key, value[: len(value) - len(framed.body)] if value else value, framed.body
        ), framed.schema

    def _finish(self, last: int) -> list[Batch]:
        entries, schema, redo = tuple(self._entries), self._schema, self.intent is not None
        first, self.start = self.start, last + 1
        self._entries, self._schema, self._bytes, self.intent = [], None, 0, None
        if not entries:
            return []
        # where a batch is not redone nothing depends on holes before its first record
        return [Batch(first if redo else entries[0].offset, last, schema, entries, redo)]
