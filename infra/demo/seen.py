"""What the demo sees of the running pipeline, as values: what the view draws and the plain lines say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from infra.demo.scorecard import Injected, Scorecard, Told


@dataclass(frozen=True, slots=True)
class Hop:
    """One step of the way: what passes, how fast, and what still waits."""

    name: str
    total: float
    per_second: float | None
    lag: float | None
    """Records that wait in front of it; None where nothing can wait."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class GpuNow:
    """One GPU as the history knows it now."""

    rack: str
    node: str
    gpu_index: int
    gpu: str
    temperature_celsius: float
    age_seconds: float
    worst_severity: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """One alert that somebody received."""

    incident_id: str
    at_ms: int
    title: str
    channel: str
    delay_seconds: float | None
    """From the evidence being seen on the node to the delivery."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at everything."""

    hops: Sequence[Hop] = ()
    gpus: Sequence[GpuNow] = ()
    told: Mapping[str, Told] | None = None
    injected: Sequence[Injected] = ()
    delivered: Sequence[Delivered] = ()
    card: Scorecard | None = None
    problems: Sequence[str] = ()
    """What could not be looked at, and why."""


def hops(totals: Mapping[str, float], before: Mapping[str, float], seconds: float) -> list[Hop]:
    """The hops from metric totals now and `seconds` ago; a metric nobody serves yet counts as 0.

    Keys are metric names, or `name{topic}` where a metric is kept by topic.
    """

    def total(*keys: str) -> float:
        return sum(totals.get(key, 0.0) for key in keys)

    def rate(*keys: str) -> float | None:
        # a process that was started again counts from 0
        gained = total(*keys) - sum(before.get(key, 0.0) for key in keys)
        return gained / seconds if seconds > 0 and gained >= 0 else None

    sent = "fleetpulse_producer_delivered_records_total"
    handled = "fleetpulse_stream_messages_total"
    readings = "fleetpulse_stream_readings_total"
    written = "fleetpulse_stream_records_written_total"
    loaded = "fleetpulse_loader_records_total"
    pages = "fleetpulse_alerts_pages_total"
    per_reading = rate(readings)
    found = {name: int(total(f"{written}{{fleet.{name}}}")) for name in ("anomalies", "faults", "incidents")}
    return [
        Hop("nodes → Kafka", total(sent), rate(sent), total("fleetpulse_producer_queue_records")),
        Hop(
            "Kafka → streams",
            total(handled),
            rate(handled),
            total("fleetpulse_stream_lag_messages"),
            f"{per_reading:,.0f} GPU readings/s" if per_reading is not None else "",
        ),
        Hop(
            "streams → Kafka",
            total(written),
            rate(written),
            None,
            ", ".join(f"{count} {name}" for name, count in found.items()),
        ),
        Hop("Kafka → ClickHouse", total(loaded), rate(loaded), total("fleetpulse_loader_lag_records")),
        Hop(
            "incidents → alerts", total(pages), rate(pages), total("fleetpulse_alerts_waiting"), "one page per incident"
        ),
    ]
