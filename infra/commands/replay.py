"""`fleetpulse replay kernel-log`: a real log through the pipeline, and what it made of it.

The log's events are published like an agent's. Then each hop is waited for by its committed offsets, and what the
history holds about the node is printed: the answer comes the whole way round, by no other path than live data takes.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from infra import addresses, observe, pipeline
from infra.commands.sql import cell, connected, table
from infra.errors import MisuseError, OperatorError
from infra.presence import present
from infra.settings import Settings
from infra.supervise import Supervisor
from schemas.records import HardwareEvent
from schemas.topics import EVENTS, FAULTS, INCIDENTS

if TYPE_CHECKING:
    from infra.options import Options

_LOOK_SECONDS = 0.3
_FAULTS = """
SELECT component, fault_class, code, severity, action, count, first_at, last_at, state, reason, fault_id
FROM fault_history
WHERE site = {site:String} AND node = {node:String}
ORDER BY severity = 'critical' DESC, first_at
"""
_INCIDENTS = """
SELECT title, severity, action, root, paged_at IS NOT NULL AS pages, symptom_count, reason, evidence
FROM incidents
WHERE hasAny(arrayMap(member -> member.fault_id, members), {faults:Array(String)})
ORDER BY first_at
"""


def run(options: Options, file: Path, *, node: str, rack: str, site: str, seconds: float) -> None:
    """Send the log and print what came of it. Raises `OperatorError`, `MisuseError`."""
    settings = options.settings()
    observe.configure_logging("replay", level="warning", json_lines=settings.observe.json_lines)
    events = _events(settings, file, node=node, rack=rack, site=site)
    told = Console(stderr=True, highlight=False)
    if not events:
        told.print(f"{escape(str(file))}: no line of it is a hardware event; there is nothing to replay")
        return
    with ExitStack() as stack:
        look_after: Callable[[], None] = _nobody
        if settings.kafka.bootstrap is None and "kafka" not in present(settings.data_dir.absolute()):
            look_after = _start(options, settings, told, stack).step
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(event.kind for event in events).most_common())
        told.print(f"{len(events)} hardware events ({kinds}) → {addresses.bootstrap(settings)}")
        _publish(settings, events)
        late = _wait_for_answer(settings, time.monotonic() + seconds, look_after)
        _print_answer(settings, node=node, site=site)
        if late:
            told.print(f"[yellow]not everything came through within {seconds:.0f} s: {escape(late)}[/]")


def _events(settings: Settings, file: Path, *, node: str, rack: str, site: str) -> list[HardwareEvent]:
    from producers.kernel_log import events_of_file
    from schemas.catalog import load

    now_ms = time.time_ns() // 1_000_000
    try:
        catalog = load(settings.agent.catalog)
        return list(events_of_file(file, site=site, rack=rack, node=node, now_ms=now_ms, catalog=catalog))
    except OSError as error:
        raise MisuseError(f"the kernel log {file} cannot be read: {error.strerror}") from error


def _start(options: Options, settings: Settings, told: Console, stack: ExitStack) -> Supervisor:
    said: set[str] = set()

    def waiting(what: str) -> None:
        if what not in said:
            said.add(what)
            told.print(f"[dim]no pipeline runs on {settings.data_dir}: starting {what} …[/]")

    log_dir = settings.data_dir.absolute() / "log"
    started = pipeline.running(settings, options.repeated(settings), log_dir=log_dir, waiting=waiting)
    return stack.enter_context(started)


def _nobody() -> None:
    """Who looks after a pipeline that somebody else started."""


def _publish(settings: Settings, events: Sequence[HardwareEvent]) -> None:
    from producers.publisher import Publisher

    publisher = Publisher(addresses.kafka_client(settings), settings.agent.publish)
    for event in events:
        while not publisher.publish(EVENTS, event.rack, event):
            publisher.poll(0.1)
    left = publisher.close(30.0)
    if left or publisher.failed:
        raise OperatorError(
            f"{left + publisher.failed} of {len(events)} events could not be sent to {addresses.bootstrap(settings)}; "
            "is the broker there? `fleetpulse doctor` looks"
        )


def _wait_for_answer(settings: Settings, deadline: float, look_after: Callable[[], None]) -> str:
    """Wait until what was sent has gone the whole way; says what is still on its way at the deadline."""
    streams, loader = settings.streams.app_id, settings.loader.group
    settle_seconds = settings.streams.settle_ms / 1000 + 1.5  # incidents speak by the wall clock
    steps: tuple[tuple[str, str, Sequence[str], float], ...] = (
        ("stream workers on events", streams, [EVENTS], 0.0),
        ("stream workers on faults", streams, [FAULTS], settle_seconds),
        ("loader", loader, [EVENTS, FAULTS, INCIDENTS], 0.5),
    )
    for what, group, topics, then_seconds in steps:
        behind = _until_caught_up(settings, group, topics, deadline, look_after)
        if behind:
            return f"{what}: {behind} records behind"
        time.sleep(then_seconds)
    return ""


def _until_caught_up(
    settings: Settings, group: str, topics: Sequence[str], deadline: float, look_after: Callable[[], None]
) -> int:
    """How many records a consumer group is behind of where the topics end now, 0 as soon as it is not."""
    client: dict[str, Any] = {**addresses.kafka_client(settings), "group.id": group, "log_level": 0}
    consumer = Consumer(client)
    try:
        listed = consumer.list_topics(timeout=10).topics
        places = [TopicPartition(topic, number) for topic in topics for number in listed[topic].partitions]
        ends = {(one.topic, one.partition): consumer.get_watermark_offsets(one, timeout=10)[1] for one in places}
        while True:
            committed = {
                (one.topic, one.partition): max(one.offset, 0) for one in consumer.committed(places, timeout=10)
            }
            behind = int(sum(max(0, end - committed.get(place, 0)) for place, end in ends.items()))
            if behind == 0 or time.monotonic() > deadline:
                return behind
            look_after()
            time.sleep(_LOOK_SECONDS)
    except (KafkaException, KeyError) as error:
        raise OperatorError(
            f"Kafka at {addresses.bootstrap(settings)} does not say how far {group} is: {error}"
        ) from error
    finally:
        consumer.close()


def _print_answer(settings: Settings, *, node: str, site: str) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    with connected(settings) as client:
        faults = client.query(_FAULTS, parameters={"site": site, "node": node})
        ids = [row[-1] for row in faults.result_rows]
        incidents = client.query(_INCIDENTS, parameters={"faults": ids}).result_rows
    console.print(f"[bold]{len(ids)} fault{'' if len(ids) == 1 else 's'} of node {escape(node)}[/]")
    if ids:
        names = list(faults.column_names)[:-1]
        console.print(table(names, [row[:-1] for row in faults.result_rows]))
    console.print(f"\n[bold]{len(incidents)} incident{'' if len(incidents) == 1 else 's'}[/]")
    for title, severity, action, root, pages, symptoms, reason, evidence in incidents:
        loud = "pages" if pages else "wakes nobody"
        console.print(Text(f"{severity}: {title} ({loud})", style="bold red" if pages else "bold"))
        console.print(Text(f"  root      {root}" + (f", {symptoms} symptoms" if symptoms else "")))
        console.print(Text(f"  do        {action.replace('_', ' ')}"))
        console.print(Text(f"  because   {reason}"), soft_wrap=True)
        for line in evidence[:4]:
            console.print(Text(f"  evidence  {cell(line)}"), soft_wrap=True)
