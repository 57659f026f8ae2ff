"""Cutting a partition into batches, and doing a batch again exactly."""

from __future__ import annotations

import msgspec
import pytest

from schemas import registry
from schemas.codec import MARKER, SingleObjectCodec
from schemas.records import Anomaly, DeadLetter
from sinks.batches import Batch, Cutter, Entry, Intent, Limits, LogRewoundError

CODEC = SingleObjectCodec()
GENEROUS = Limits(records=1000, bytes=1_000_000, age_ms=1000)


def letter(offset: int) -> bytes:
    return CODEC.encode(
        DeadLetter(
            topic="t", partition=0, offset=offset, reason="r", detail="", reader="x", value=b"\xff", observed_ms=1
        )
    )


def other_record() -> bytes:
    return CODEC.encode(
        Anomaly(
            anomaly_id="a",
            site="s",
            rack="r",
            component="gpu:1",
            detector="d",
            rule="r",
            fault_class="thermal",
            state="raised",
            severity="info",
            begin_ms=1,
            tick_ms=1,
            reason="",
        )
    )


def cutter(limits: Limits = GENEROUS, start: int = 0, intent: Intent | None = None) -> Cutter:
    return Cutter(CODEC, "DeadLetter", limits, start, intent)


def ranges(batches: list[Batch]) -> list[tuple[int, int]]:
    return [(batch.first, batch.last) for batch in batches]


def test_a_batch_is_cut_at_its_number_of_records() -> None:
    cut = cutter(Limits(records=3, bytes=1_000_000, age_ms=1000))
    done = [batch for offset in range(7) for batch in cut.add(offset, None, letter(offset), 0)]
    assert ranges(done) == [(0, 2), (3, 5)]
    assert ranges(cut.take()) == [(6, 6)]


def test_a_batch_is_cut_at_its_number_of_bytes() -> None:
    cut = cutter(Limits(records=1000, bytes=2 * len(letter(0)), age_ms=1000))
    done = [batch for offset in range(4) for batch in cut.add(offset, None, letter(offset), 0)]
    assert ranges(done) == [(0, 1), (2, 3)]


def test_a_quiet_partition_waits_for_its_age_and_no_longer() -> None:
    cut = cutter()
    assert not cut.due(5_000), "there is nothing to wait for"
    cut.add(0, None, letter(0), 5_000)
    cut.add(1, None, letter(1), 5_900)
    assert not cut.due(5_999)
    assert cut.due(6_000), "the first record decides"
    assert ranges(cut.take()) == [(0, 1)]
    assert not cut.due(99_999)


def test_a_batch_holds_one_writer_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    document = msgspec.json.decode((registry.FOLDER / "dead.letters.avsc").read_bytes())
    document["fields"] = [field for field in document["fields"] if field["name"] != "key"]
    earlier = registry.parse(msgspec.json.encode(document), current=False)
    known = {**registry.known(), earlier.fingerprint: earlier}
    monkeypatch.setattr(registry, "known", lambda: known)
    cut = Cutter(SingleObjectCodec(), "DeadLetter", GENEROUS, 0)
    old = MARKER + earlier.fingerprint + b"body"
    done = [b for at, value in enumerate([letter(0), old, old, letter(3)]) for b in cut.add(at, None, value, 0)]
    done += cut.take()
    assert ranges(done) == [(0, 0), (1, 2), (3, 3)]
    assert [batch.schema is earlier for batch in done] == [False, True, False]


def test_bytes_that_are_no_record_stay_in_their_batch_and_are_refused_with_the_reason() -> None:
    cut = cutter()
    for offset, value in enumerate([letter(0), b"garbage", None, MARKER + b"12345678", other_record(), letter(5)]):
        cut.add(offset, b"key", value, 0)
    (batch,) = cut.take()
    assert (batch.first, batch.last) == (0, 5)
    assert [entry.offset for entry in batch.accepted] == [0, 5]
    assert [(entry.offset, entry.reason) for entry in batch.refused] == [
        (1, "not_avro"),
        (2, "not_avro"),
        (3, "unknown_schema"),
        (4, "wrong_record"),
    ]
    assert batch.refused[0].value == b"garbage"
    assert batch.refused[0].key == b"key"


def test_a_record_that_is_a_header_and_nothing_else_is_told_from_others_by_clickhouse_not_here() -> None:
    cut = cutter()
    cut.add(0, b"k", letter(0)[:10], 0)
    (batch,) = cut.take()
    (entry,) = batch.accepted
    assert (entry.body, entry.value) == (b"", letter(0)[:10])
    assert batch.sifted(CODEC, DeadLetter).refused[0].reason == "truncated"


def test_a_batch_of_nothing_but_garbage_has_no_schema_and_still_covers_its_range() -> None:
    cut = cutter()
    cut.add(3, None, b"x", 0)
    cut.add(4, None, b"y", 0)
    (batch,) = cut.take()
    assert (batch.first, batch.last, batch.schema) == (3, 4, None)


def test_an_intent_comes_back_as_it_was_and_foreign_metadata_is_none() -> None:
    intent = Intent(last=9_000_000_000, schema="c0ffee0123456789", topic_id="F9y-S_x0Q8")
    assert Intent.parse(intent.encode()) == intent
    assert Intent.parse(Intent(5, "", "").encode()) == Intent(5, "", "")
    for foreign in ("", None, "someone else's", "batch/2 last=5 schema= topic=", intent.encode() + " more"):
        assert Intent.parse(foreign) is None


def test_the_batch_of_an_intent_is_done_again_whatever_the_limits() -> None:
    first = cutter(Limits(records=5, bytes=1_000_000, age_ms=1000), start=10)
    (begun,) = [batch for offset in range(10, 15) for batch in first.add(offset, None, letter(offset), 0)]
    again = cutter(Limits(records=2, bytes=10, age_ms=1), start=10, intent=begun.intent("topic-id"))
    done = [batch for offset in range(10, 18) for batch in again.add(offset, None, letter(offset), 0)]
    assert ranges(done)[0] == (10, 14)
    assert done[0].redo
    assert done[0].token("t", "topic-id", 3) == begun.token("t", "topic-id", 3)
    assert done[0].entries == begun.entries
    assert not done[1].redo


def test_a_batch_done_again_waits_for_its_last_record() -> None:
    again = cutter(start=0, intent=Intent(3, registry.current("DeadLetter").fingerprint.hex(), "id"))
    again.add(0, None, letter(0), 0)
    assert not again.due(10**9)
    assert again.take() == []


def test_records_that_compaction_took_meanwhile_do_not_hold_up_the_batch_done_again() -> None:
    intent = Intent(13, registry.current("DeadLetter").fingerprint.hex(), "id")
    again = cutter(start=10, intent=intent)
    assert again.add(11, None, letter(11), 0) == []
    (done,) = again.add(20, None, letter(20), 0)
    assert (done.first, done.last, [entry.offset for entry in done.entries]) == (10, 13, [11])
    gone = cutter(start=10, intent=intent)
    assert gone.add(20, None, letter(20), 0) == [], "nothing is left of the batch"
    assert ranges(gone.take()) == [(20, 20)]


def test_what_the_loader_before_could_not_read_stays_out_of_the_batch_done_again() -> None:
    intent = Intent(1, "00" * 8, "id")
    again = cutter(start=0, intent=intent)
    again.add(0, None, b"garbage", 0)
    (batch,) = again.add(1, None, letter(1), 0)
    assert [entry.reason for entry in batch.entries] == ["not_avro", "unknown_schema"]


def test_an_offset_before_the_expected_one_is_another_log() -> None:
    cut = cutter(start=100)
    with pytest.raises(LogRewoundError, match="expected offset 100 or later, found 0"):
        cut.add(0, None, letter(0), 0)


def entries(refused: set[int], count: int) -> tuple[Entry, ...]:
    return tuple(
        Entry(place, None, b"v", None, "not_avro", "") if place in refused else Entry(place, None, b"v", b"b")
        for place in range(count)
    )


def test_a_suspect_is_set_apart_from_its_neighbours() -> None:
    batch = Batch(0, 9, registry.current("DeadLetter"), entries({2}, 10))
    # place 4 among the accepted ones is offset 5, since offset 2 was refused
    assert ranges(batch.split(suspect=4)) == [(0, 4), (5, 5), (6, 9)]
    assert ranges(batch.split(suspect=0)) == [(0, 0), (1, 9)]
    assert ranges(batch.split(suspect=8)) == [(0, 8), (9, 9)]


def test_without_a_suspect_a_batch_is_halved_and_its_range_kept_whole() -> None:
    batch = Batch(0, 12, registry.current("DeadLetter"), entries(set(), 10))
    assert ranges(batch.split()) == [(0, 4), (5, 12)]
    assert ranges(batch.split(suspect=99)) == [(0, 4), (5, 12)]


def test_a_single_record_cannot_be_split() -> None:
    batch = Batch(0, 3, registry.current("DeadLetter"), entries({0, 1, 3}, 4))
    assert batch.split() == [batch]


def test_sifting_refuses_what_does_not_decode_and_says_why() -> None:
    good = letter(0)
    batch = Batch(
        0,
        2,
        registry.current("DeadLetter"),
        tuple(
            Entry(place, None, value[:10], value[10:]) for place, value in enumerate([good, good[:-3], good + b"xx"])
        ),
    )
    sifted = batch.sifted(CODEC, DeadLetter)
    assert [entry.reason for entry in sifted.entries] == ["", "truncated", "trailing_bytes"]
    assert sifted.token("t", "i", 0) == batch.token("t", "i", 0)
