from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from producers.spool import Entry, Spool

LANES = ("samples", "events")
LIMIT_BYTES = 64 * 1024
TOPICS = st.sampled_from(LANES)
SIZES = st.integers(0, 3000)


class SpoolOnDisk(RuleBasedStateMachine):
    """Whatever happens to a spool: nothing is lost without being counted, and what comes out is in order."""

    @initialize()
    def begin(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._spool = self._open()
        self._next = 0
        self._put: dict[str, list[int]] = {lane: [] for lane in LANES}
        self._settled: dict[str, set[int]] = {lane: set() for lane in LANES}
        self._under_way: dict[str, list[Entry]] = {lane: [] for lane in LANES}
        self._lost = 0

    def _open(self) -> Spool:
        return Spool(Path(self._folder.name), LIMIT_BYTES, LANES)

    @rule(topic=TOPICS, size=SIZES, count=st.integers(1, 30))
    def append(self, topic: str, size: int, count: int) -> None:
        for _ in range(count):
            self._put[topic].append(self._next)
            self._spool.append(topic, b"key", b"%012d" % self._next + bytes(size))
            self._next += 1

    @rule(topic=TOPICS, limit=st.integers(1, 40))
    def take(self, topic: str, limit: int) -> None:
        taken = self._spool.take(topic, limit)
        numbers = [int(entry.value[:12]) for entry in taken]
        assert numbers == sorted(numbers)
        assert all(entry.key == b"key" for entry in taken)
        if self._under_way[topic]:
            assert not numbers or numbers[0] > int(self._under_way[topic][-1].value[:12])
        self._under_way[topic] += taken

    @rule(topic=TOPICS, count=st.integers(1, 40))
    def settle(self, topic: str, count: int) -> None:
        for entry in self._under_way[topic][:count]:
            self._spool.settle(entry)
            self._settled[topic].add(int(entry.value[:12]))
        del self._under_way[topic][:count]

    @rule(topic=TOPICS)
    def rewind(self, topic: str) -> None:
        self._under_way[topic].clear()
        self._spool.rewind(topic)

    @rule()
    def restart(self) -> None:
        self._lost += sum(self._spool.drops().values())
        self._spool.close()
        self._spool = self._open()
        for entries in self._under_way.values():
            entries.clear()

    @invariant()
    def the_disk_share_holds(self) -> None:
        assert self._spool.size <= LIMIT_BYTES

    def teardown(self) -> None:
        self._lost += sum(self._spool.drops().values())
        lost = self._lost
        for topic in LANES:
            self._spool.rewind(topic)
            left = [int(entry.value[:12]) for entry in self._spool.take(topic, 1_000_000)]
            assert left == sorted(left)
            lost -= len(set(self._put[topic]) - set(left) - self._settled[topic])
        # what was dropped while it was under way may be counted although it arrives, never the other way round
        assert lost >= 0
        self._spool.close()
        self._folder.cleanup()


SpoolOnDisk.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestSpool = SpoolOnDisk.TestCase


@given(records=st.lists(st.binary(max_size=200), min_size=1, max_size=20), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_file_cut_anywhere_keeps_every_record_before_the_cut(records: list[bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ends = [4]
        with closing(Spool(Path(folder), 1 << 20, ("samples",))) as spool:
            for record in records:
                spool.append("samples", b"key", record)
                ends.append(spool.size)
        (segment,) = Path(folder).rglob("*.segment")
        cut = data.draw(st.integers(0, ends[-1]))
        segment.write_bytes(segment.read_bytes()[:cut])

        with closing(Spool(Path(folder), 1 << 20, ("samples",))) as spool:
            kept = [entry.value for entry in spool.take("samples", 1000)]
            torn = sum(spool.drops().values())

    whole = sum(end <= cut for end in ends[1:])
    assert kept == records[:whole]
    assert torn == (0 if cut in (0, *ends) else 1)
