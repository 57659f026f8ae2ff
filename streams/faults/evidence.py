"""What an event or an anomaly says, as a fault with one piece of evidence; and how evidence adds up."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from schemas.catalog import ACTIONS, COMPONENT_KINDS, SEVERITIES, Catalog, Entry
from schemas.ids import gpu_id, node_id, nvswitch_id, port_id
from schemas.records import Anomaly, Evidence, Fault, HardwareEvent
from streams.topology import Topology

_FIRST_EVIDENCE, _LAST_EVIDENCE = 3, 5
_LONGEST_TEXT = 2000
"""Characters of a raw line that go into evidence; kernel lines have some hundred."""


def of_event(event: HardwareEvent, entry: Entry, catalog: Catalog, topology: Topology) -> Fault:
    """The fault that an event is evidence of, at revision 0."""
    gpu = event.gpu or topology.gpu_at(event.node, event.pci)
    component_kind, component = component_of(catalog.faults[entry.fault_class].component_kind, event, gpu)
    return Fault(
        fault_id="",
        revision=0,
        state="open",
        site=event.site,
        rack=event.rack,
        node=event.node,
        gpu=gpu if component_kind == "gpu" else None,
        pci=event.pci or (topology.pci_of(gpu) if component_kind == "gpu" else None),
        component=component,
        component_kind=component_kind,
        fault_class=entry.fault_class,
        code=event.code,
        severity=entry.severity,
        action=entry.action,
        rule=entry.rule,
        reason=entry.reason,
        first_ms=event.event_ms,
        last_ms=event.event_ms,
        count=max(1, event.count),
        evidence=[piece_of(event, entry.name)],
        observed_ms=event.observed_ms,
        job=topology.job(gpu, event.event_ms) if component_kind == "gpu" else None,
    )


def of_anomaly(anomaly: Anomaly, catalog: Catalog, topology: Topology) -> Fault:
    """The fault that a detector's finding is evidence of, at revision 0."""
    fault_class = catalog.faults.get(anomaly.fault_class)
    evidence = Evidence(
        id=anomaly.anomaly_id,
        at_ms=anomaly.tick_ms,
        source=anomaly.detector,
        text=f"{anomaly.rule}: {anomaly.reason}",
    )
    return Fault(
        fault_id="",
        revision=0,
        state="open",
        site=anomaly.site,
        rack=anomaly.rack,
        node=anomaly.node,
        gpu=anomaly.gpu,
        pci=topology.pci_of(anomaly.gpu),
        component=anomaly.component,
        component_kind=fault_class.component_kind if fault_class else "gpu",
        fault_class=anomaly.fault_class,
        code=None,
        severity=anomaly.severity,
        action=anomaly.action,
        rule=f"{anomaly.detector}.{anomaly.rule}",
        reason=anomaly.reason,
        first_ms=anomaly.begin_ms,
        last_ms=anomaly.tick_ms,
        count=1,
        evidence=[evidence],
        observed_ms=anomaly.tick_ms,
        job=topology.job(anomaly.gpu, anomaly.begin_ms),
    )


def piece_of(event: HardwareEvent, otherwise: str) -> Evidence:
    """An event as a piece of evidence; `otherwise` stands for a text that it does not have."""
    return Evidence(
        id=event.event_id, at_ms=event.event_ms, source=event.source, text=event.raw[:_LONGEST_TEXT] or otherwise
    )


def added(fault: Fault, news: Fault, leading: frozenset[int]) -> Fault:
    """A fault with one more piece of evidence; the most severe evidence decides code, action and reason.

    Between equals one of the `leading` codes decides, whichever came first: it tells a cause from an echo.
    """
    decides = news if fault.count == 0 or _weight(news, leading) > _weight(fault, leading) else fault
    first_ms = min(fault.first_ms, news.first_ms)
    severe_ms, observed_ms = min(_severe(fault, news))
    return replace(
        fault,
        code=decides.code,
        severity=decides.severity,
        action=decides.action,
        rule=decides.rule,
        reason=decides.reason,
        gpu=fault.gpu or news.gpu,
        pci=fault.pci or news.pci,
        first_ms=first_ms,
        worsened_ms=severe_ms if severe_ms > first_ms else None,
        last_ms=max(fault.last_ms, news.last_ms),
        count=fault.count + news.count,
        evidence=with_piece(fault.evidence, *news.evidence),
        observed_ms=observed_ms,
    )


def with_piece(evidence: list[Evidence], *more: Evidence) -> list[Evidence]:
    """The first and the last few pieces of evidence, by time."""
    pieces = sorted([*evidence, *more], key=lambda one: one.at_ms)
    if len(pieces) > _FIRST_EVIDENCE + _LAST_EVIDENCE:
        return pieces[:_FIRST_EVIDENCE] + pieces[-_LAST_EVIDENCE:]
    return pieces


def _severe(fault: Fault, news: Fault) -> Iterator[tuple[int, int]]:
    """What is as severe as both are together: when it came to be, and when it was seen on the node."""
    known, new = SEVERITIES.index(fault.severity), SEVERITIES.index(news.severity)
    if fault.count and known >= new:
        yield fault.first_ms if fault.worsened_ms is None else fault.worsened_ms, fault.observed_ms
    if not fault.count or new >= known:
        yield news.first_ms, news.observed_ms


def _weight(fault: Fault, leading: frozenset[int]) -> tuple[int, int, bool]:
    return SEVERITIES.index(fault.severity), ACTIONS.index(fault.action), fault.code in leading


def point_of(event: HardwareEvent) -> str:
    """What an event reports of its component, in the words in which another event may say that it is over."""
    return f"{event.kind if event.code is None else event.code}|{place_of(event)}"


def place_of(event: HardwareEvent) -> str:
    """The place on its component where something is wrong: a fan, a phase, a counter, a file system, a source."""
    return next((event.details[name] for name in ("point", "counter", "path", "source") if name in event.details), "")


def component_of(kind: str, event: HardwareEvent, gpu: str | None) -> tuple[str, str]:
    """Kind and id of what an event is about: what the event names itself, else what its fault class is about."""
    named = event.details.get("component", "")
    prefix, _, rest = named.partition(":")
    if rest and prefix in COMPONENT_KINDS:
        return prefix, named
    interface, port = event.details.get("interface"), event.details.get("port")
    if kind == "nvswitch" or event.kind == "sxid":  # a switch's address names no GPU, whatever its trouble is called
        return "nvswitch", nvswitch_id(event.node, event.pci)
    if kind == "gpu":
        return kind, gpu_id(gpu, event.node, event.pci)
    if kind == "port" and interface and port and port.isdigit():
        return kind, port_id(event.node, interface, int(port))
    if kind == "port":
        return kind, f"port:{event.node}/{interface or event.link or 'unknown'}"
    return "node", node_id(event.node)
