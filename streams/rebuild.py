"""What was held of a partition, read back from Kafka: where a worker gets one that it had not, or starts.

Everything here blocks. A worker calls it from a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from schemas.catalog import Catalog
from schemas.catalog.causes import Causes
from schemas.catalog.metrics import WatchList
from schemas.codec import SingleObjectCodec
from schemas.topics import ANOMALIES, COUNTERS, EVENTS, FAULTS, SAMPLES
from streams import metrics
from streams.partitions import CounterPartition, FaultPartition, IncidentPartition, SamplePartition
from streams.readback import Reader, partition_of
from streams.readings.decode import Message
from streams.settings import StreamsSettings
from streams.topology import Topology


@dataclass(frozen=True, slots=True)
class Rebuilder:
    """Makes the parts of a worker that hold partitions. Every method raises `KafkaException` where Kafka is away."""

    settings: StreamsSettings
    reader: Callable[[], Reader]
    """Opens one; it is closed again."""
    codec: SingleObjectCodec
    catalog: Catalog
    causes: Causes
    watched: WatchList
    topology: Topology
    now_ms: Callable[[], int]

    def samples(self, partition: int, offset: int, at_ms: int, newest: Message | None = None) -> SamplePartition:
        """Windows follow from the last minutes of the log; read them back up to `offset`, which was there at `at_ms`.

        `newest` is the message before `offset` where nothing comes behind it.
        """
        with metrics.REBUILD_SECONDS.time(), self._reader() as reader:
            memory, end = reader.state(partition), reader.end(SAMPLES, partition)
            held = SamplePartition(self.settings, self.codec, memory, end, self.watched, self.topology)
            for messages in reader.before(SAMPLES, partition, offset, held.rebuild_from_ms(at_ms)):
                held.rebuild(messages)
        held.resume(offset, self.now_ms(), newest)
        return held

    def counters(self, partition: int, offset: int, at_ms: int) -> CounterPartition:
        """The same for counters, whose spans go on from what was kept of them."""
        with metrics.REBUILD_SECONDS.time(), self._reader() as reader:
            memory, end = reader.state(partition), reader.end(COUNTERS, partition)
            held = CounterPartition(self.settings, self.codec, memory, offset, end, self.watched, self.topology)
            for messages in reader.before(COUNTERS, partition, offset, held.rebuild_from_ms(at_ms)):
                held.rebuild(messages)
        held.resume(offset, self.now_ms())
        return held

    def faults(self, partition: int) -> FaultPartition:
        """The faults and verdicts that were kept, of a partition of evidence."""
        with self._reader() as reader:
            memory = reader.state(partition)
            ends = {topic: reader.end(topic, partition) for topic in (EVENTS, ANOMALIES)}
            spread = reader.partitions(EVENTS)
        return FaultPartition(
            self.settings, self.catalog, self.causes, self.topology, self.codec, memory, ends, self.now_ms(),
            owns=lambda rack: partition_of(rack, spread) == partition,
        )  # fmt: skip

    def incidents(self, partition: int) -> IncidentPartition:
        """The incidents that were kept, of a partition of faults."""
        with self._reader() as reader:
            memory, ends = reader.state(partition), {FAULTS: reader.end(FAULTS, partition)}
        return IncidentPartition(self.settings, self.catalog, self.causes, self.topology, self.codec, memory, ends)

    def memory(self, partition: int) -> dict[str, bytes]:
        """All that was kept of a partition."""
        with self._reader() as reader:
            return reader.state(partition)

    @contextmanager
    def _reader(self) -> Iterator[Reader]:
        reader = self.reader()
        try:
            yield reader
        finally:
            reader.close()
