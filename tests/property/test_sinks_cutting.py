"""However a log is cut: no record twice, none left out, and a batch that was begun is the same batch again."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from schemas import registry
from schemas.codec import SingleObjectCodec
from schemas.records import DeadLetter
from sinks.batches import Batch, Cutter, Entry, Intent, Limits

CODEC = SingleObjectCodec()
HEX = st.text("0123456789abcdef", max_size=16)


@cache
def letter(size: int) -> bytes:
    return CODEC.encode(
        DeadLetter(topic="t", partition=0, offset=0, reason="", detail="", reader="", value=b"x" * size, observed_ms=0)
    )


@st.composite
def logs(draw: st.DrawFn) -> list[tuple[int, bytes]]:
    """Offsets with holes (compaction, aborted transactions), good records of many sizes, garbage among them."""
    steps = draw(st.lists(st.sampled_from([1, 1, 1, 1, 2, 7]), min_size=1, max_size=60))
    offsets = [sum(steps[: place + 1]) - 1 for place in range(len(steps))]
    kinds = draw(st.lists(st.sampled_from([b"", b"junk", 0, 10, 300]), min_size=len(steps), max_size=len(steps)))
    return [(at, kind if isinstance(kind, bytes) else letter(kind)) for at, kind in zip(offsets, kinds, strict=True)]


LIMITS = st.builds(
    Limits, records=st.integers(1, 20), bytes=st.integers(1, 2000), age_ms=st.sampled_from([1, 10, 1000])
)


def cut(
    log: list[tuple[int, bytes]], limits: Limits, steps_ms: list[int], start: int = 0, intent: Intent | None = None
) -> list[Batch]:
    """The batches of a log, its records coming in `steps_ms` apart and the age looked at after each."""
    cutter = Cutter(CODEC, "DeadLetter", limits, start, intent)
    now_ms, done = 0, []
    for place, (offset, value) in enumerate(log):
        done += cutter.add(offset, None, value, now_ms)
        now_ms += steps_ms[place % len(steps_ms)]
        if cutter.due(now_ms):
            done += cutter.take()
    return done + cutter.take()


STEPS = st.lists(st.integers(0, 50), min_size=1, max_size=8)


@given(logs(), LIMITS, STEPS)
def test_batches_cover_the_log_without_gap_or_overlap(
    log: list[tuple[int, bytes]], limits: Limits, steps: list[int]
) -> None:
    batches = cut(log, limits, steps)
    assert [(e.offset, e.value) for batch in batches for e in batch.entries] == log
    for before, after in pairwise(batches):
        assert before.first <= before.last < after.first
    for batch in batches:
        assert len(batch.entries) <= limits.records
        assert all(batch.first <= entry.offset <= batch.last for entry in batch.entries)


@given(logs(), LIMITS, STEPS, LIMITS, STEPS, st.data())
def test_whoever_comes_after_a_crash_does_the_same_batch_again_and_then_goes_on(
    log: list[tuple[int, bytes]],
    limits: Limits,
    steps: list[int],
    other_limits: Limits,
    other_steps: list[int],
    data: st.DataObject,
) -> None:
    batches = cut(log, limits, steps)
    begun = data.draw(st.sampled_from(batches))
    committed = Intent.parse(begun.intent("topic-id").encode())
    rest = [record for record in log if record[0] >= begun.first]
    again, *others = cut(rest, other_limits, other_steps, start=begun.first, intent=committed)
    assert again.token("t", "topic-id", 0) == begun.token("t", "topic-id", 0)
    assert (again.entries, again.schema, again.redo) == (begun.entries, begun.schema, True)
    assert [e.offset for batch in others for e in batch.entries] == [at for at, _ in log if at > begun.last]


@given(
    st.builds(
        Intent,
        last=st.integers(0, 2**63 - 1),
        schema=HEX,
        topic_id=st.from_regex(r"[\w-]{0,24}", fullmatch=True).filter(str.isascii),
    )
)
def test_an_intent_survives_the_way_through_kafka(intent: Intent) -> None:
    assert Intent.parse(intent.encode()) == intent


@given(st.integers(1, 200), st.sets(st.integers(0, 199)), st.sets(st.integers(0, 199)), st.booleans())
def test_bisecting_finds_exactly_the_bad_records(
    count: int, bad: set[int], refused: set[int], pointed_at: bool
) -> None:
    def rejects(batch: Batch) -> int | None:
        places = [place for place, entry in enumerate(batch.accepted) if entry.offset in bad]
        return places[0] if places else None

    whole = Batch(
        0,
        count - 1,
        registry.current("DeadLetter"),
        tuple(Entry(at, None, b"", None if at in refused else b"") for at in range(count)),
    )
    parts, written, found, tries = [whole], [], [], 0
    while parts:
        part = parts.pop()
        tries += 1
        suspect = rejects(part)
        if suspect is None:
            written.append(part)
        elif len(part.accepted) == 1:
            found.append(part.accepted[0].offset)
            written.append(part.all_refused("bad", ""))
        else:
            parts.extend(reversed(part.split(suspect if pointed_at else None)))
    assert found == sorted(bad & set(range(count)) - refused), "found in order, so that offsets are committed in order"
    assert [entry.offset for part in written for entry in part.entries] == list(range(count))
    edges = [edge for part in written for edge in (part.first, part.last + 1)]
    assert edges == sorted(edges)
    assert (edges[0], edges[-1]) == (0, count)
    assert edges[1:-1:2] == edges[2::2], "each part begins where the one before ended"
    if not pointed_at:
        assert tries <= 1 + 2 * len(found) * count.bit_length()
