"""What is broken now: plans under way, what they change and say at this tick, and the truth about them so far."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from numpy.typing import NDArray

from producers.simulate.arrivals import Arrival, Arrivals
from producers.simulate.faults.scene import Scene, xid
from producers.simulate.jobs import Jobs
from producers.simulate.plan import NODE_CHANNELS, Effect, KernelLine, Part, Report, Said
from producers.simulate.signals import Drive, Floats
from producers.simulate.truth import Truth

_TORN_SHARE = 0.6
"""Of the other GPUs of a job that dies, so many say so in the kernel log (XID 45)."""
_BUSY_PERCENT = 30.0
"""From this utilisation on a clock that is low shows."""


@dataclass(slots=True, eq=False)
class Incident:
    """One fault under way, or over."""

    arrival: Arrival
    parts: list[Part]
    shown_s: list[float | None]
    """When each part was first to be seen."""

    def show(self, part: int, at_s: float) -> None:
        """A part is to be seen at a moment."""
        seen = self.shown_s[part]
        if seen is None or at_s < seen:
            self.shown_s[part] = at_s

    def add(self, part: Part) -> int:
        """One more component has a part in it; gives its number."""
        self.parts.append(part)
        self.shown_s.append(None)
        return len(self.parts) - 1

    def truth(self, now_s: float, start_ms: int) -> Iterator[Truth]:
        """What may be said of it by `now_s`: nothing before something of it was to be seen."""
        seen = [at_s for at_s in self.shown_s if at_s is not None]
        if not seen:
            return
        plan = self.arrival.plan
        for number, (part, shown_s) in enumerate(zip(self.parts, self.shown_s, strict=True)):
            # what has no voice of its own, a rack or a switch, shows in the first of its symptoms
            at_s = min(seen) if number == 0 else shown_s
            if at_s is None:
                continue
            hard = number == 0 and plan.hard_s is not None and plan.hard_s <= now_s
            yield Truth(
                fault=self.arrival.kind,
                component=part.component,
                node=part.node,
                rack=part.rack,
                gpu=part.gpu,
                role=part.role,
                # what it felt of its job may come before what it felt of its link
                start_ms=start_ms + round(min(part.begin_s, at_s) * 1000),
                first_observable_ms=start_ms + round(at_s * 1000),
                cleared_ms=start_ms + round(plan.clears_s * 1000) if plan.clears_s <= now_s else None,
                fault_id=self.arrival.fault_id,
                hard_ms=start_ms + round(plan.hard_s * 1000) if hard and plan.hard_s is not None else None,
                repeats=self.arrival.repeats,
            )


@dataclass(slots=True)
class Now:
    """What differs at one tick."""

    drive: Drive = field(default_factory=Drive)
    unreadable: list[int] = field(default_factory=list)
    """GPUs."""
    throttle: list[Effect] = field(default_factory=list)
    links: list[Effect] = field(default_factory=list)
    counts: list[Effect] = field(default_factory=list)
    """Counters that grow, or read something else, now."""
    grown: list[Effect] = field(default_factory=list)
    """Counters that have grown since the tick before, for good."""
    dark: set[int] = field(default_factory=set)
    """Nodes."""
    cut: set[int] = field(default_factory=set)
    hung: set[int] = field(default_factory=set)
    booted: list[int] = field(default_factory=list)
    """Nodes that were dark and are there again."""
    skew_ms: dict[int, int] = field(default_factory=dict)
    ports: dict[int, list[str]] = field(default_factory=dict)
    """Node to its fabric ports that are down."""
    lines: list[KernelLine] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)

    @property
    def silent(self) -> set[int]:
        """Nodes that send no GPU samples."""
        return self.dark | self.cut | self.hung

    @property
    def mute(self) -> set[int]:
        """Nodes that send nothing at all."""
        return self.dark | self.cut


class World:
    """All faults of the library in one fleet. Some 1 KB for each fault of the run."""

    def __init__(self, scene: Scene, arrivals: Arrivals, jobs: Jobs, seed: int) -> None:
        self._scene = scene
        self._arrivals = arrivals
        self._jobs = jobs
        self._rng = np.random.default_rng((seed, 0xFA))
        self._node_of = np.array([node.number for node, _ in scene.gpus])
        self._order = count()
        self._coming: list[tuple[float, int, Effect, Incident]] = []
        self._active: list[tuple[Effect, Incident]] = []
        self._to_say: list[tuple[float, int, Said, Incident]] = []
        self._off: dict[int, list[Effect]] = defaultdict(list)
        """Node to the times when it says nothing."""
        self.incidents: list[Incident] = []

    @property
    def homeless(self) -> int:
        """Faults that found no place."""
        return self._arrivals.homeless

    def begin(self, arrival: Arrival) -> None:
        """Let a fault begin."""
        plan = arrival.plan
        incident = Incident(arrival, list(plan.parts), [None] * len(plan.parts))
        self.incidents.append(incident)
        for effect in plan.effects:
            heapq.heappush(self._coming, (effect.begin_s, next(self._order), effect, incident))
            if effect.channel in {"dark", "cut"}:
                for node in effect.on:
                    self._off[node].append(effect)
        for said in plan.said:
            heapq.heappush(self._to_say, (said.at_s, next(self._order), said, incident))

    def step(self, now_s: float) -> Now:
        """Everything that differs at `now_s`."""
        for arrival in self._arrivals.due(now_s):
            self.begin(arrival)
        now = Now()
        while self._coming and self._coming[0][0] <= now_s:
            _, _, effect, incident = heapq.heappop(self._coming)
            self._activate(effect, incident)
        over = [pair for pair in self._active if pair[0].end_s <= now_s]
        if over:
            self._active = [pair for pair in self._active if pair[0].end_s > now_s]
            for effect, _ in over:
                if effect.channel == "count":
                    now.grown.append(effect)
                elif effect.channel == "dark":
                    now.booted += effect.on
        self._gather(now, now_s)
        self._say(now, now_s)
        return now

    def look(self, now: Now, now_s: float, readings: Mapping[str, Floats], excess: Floats, *, counters: bool) -> None:
        """Note what is to be seen for the first time in the readings of this tick, or in its `counters`."""
        unseen = now.silent
        for effect, incident in self._active:
            if not effect.parts or all(incident.shown_s[part] is not None for part in effect.parts):
                continue
            seen = self._seen(effect, now_s, readings, excess, counters=counters)
            each = len(effect.parts) == len(effect.on)
            for place, number in enumerate(effect.on):
                node = number if effect.channel in NODE_CHANNELS else int(self._node_of[number])
                if seen[place] and (effect.channel in {"dark", "cut", "hung"} or node not in unseen):
                    incident.show(effect.parts[place if each else 0], now_s)

    def truth(self, now_s: float, start_ms: int) -> list[Truth]:
        """What was broken so far, root and symptoms."""
        return [line for incident in self.incidents for line in incident.truth(now_s, start_ms)]

    def _activate(self, effect: Effect, incident: Incident) -> None:
        self._active.append((effect, incident))
        if effect.channel == "held":
            self._jobs.hold(effect.on, effect.end_s)
        elif effect.channel == "stops":
            self._tear(effect, incident)

    def _tear(self, effect: Effect, incident: Incident) -> None:
        """Programs on some GPUs die, and with them all of their jobs, wherever these run."""
        role = "harmless" if incident.arrival.harmless else "symptom"
        known = {part.component: number for number, part in enumerate(incident.parts)}
        for number in self._jobs.stop(effect.on):
            torn, delay_s = self._rng.random(), float(self._rng.uniform(0.2, 2.0))
            if number in effect.on or torn > _TORN_SHARE or not effect.parts:
                continue
            node, gpu = self._scene.gpus[number]
            at_s = effect.begin_s + delay_s
            part = Part.of_gpu(node, gpu, at_s, "harmless" if role == "harmless" else "symptom")
            place = known.get(part.component)
            place = incident.add(part) if place is None else place
            said = xid(node, gpu, at_s, f"45, pid={20_000 + number}, name=python3, Ch 00000008", place)
            heapq.heappush(self._to_say, (at_s, next(self._order), said, incident))

    def _gather(self, now: Now, now_s: float) -> None:
        size = len(self._scene.gpus)
        drive: dict[str, Floats] = {}
        for effect, _ in self._active:
            channel, share = effect.channel, effect.share(now_s)
            if channel in {"rise", "clock", "power"}:
                factors = drive.setdefault(channel, np.ones(size, np.float32))
                factors[list(effect.on)] *= 1 + (effect.value - 1) * share
            elif channel == "inlet_celsius":
                drive.setdefault(channel, np.zeros(size, np.float32))[list(effect.on)] += effect.value * share
            elif channel == "unreadable":
                now.unreadable += effect.on
            elif channel in {"dark", "cut", "hung"}:
                getattr(now, channel).update(effect.on)
            elif channel == "skew_ms":
                now.skew_ms |= dict.fromkeys(effect.on, int(effect.value))
            elif channel == "ports":
                now.ports.setdefault(effect.on[0], []).append(effect.name)
            elif channel == "throttle":
                now.throttle.append(effect)
            elif channel == "links":
                now.links.append(effect)
            elif channel in {"count", "stands"}:
                now.counts.append(effect)
        if drive:
            now.drive = Drive(**drive)

    def _say(self, now: Now, now_s: float) -> None:
        while self._to_say and self._to_say[0][0] < now_s:
            at_s, _, said, incident = heapq.heappop(self._to_say)
            what = said.what
            if any(off.begin_s <= at_s < off.end_s for off in self._off.get(what.node.number, ())):
                continue
            if said.part >= 0:
                incident.show(said.part, at_s)
            if isinstance(what, KernelLine):
                now.lines.append(what)
            else:
                now.reports.append(what)

    def _seen(
        self, effect: Effect, now_s: float, readings: Mapping[str, Floats], excess: Floats, *, counters: bool
    ) -> NDArray[np.bool_]:
        """Whether an effect shows, on each of what it is on."""
        on, channel = list(effect.on), effect.channel
        if channel in {"rise", "inlet_celsius"}:
            return np.asarray(excess[on] >= effect.visible)
        if channel == "clock":
            return np.asarray(readings["gpu_utilization_percent"][on] >= _BUSY_PERCENT)
        if channel == "count":
            return np.full(len(on), counters and grown(effect, now_s) >= effect.visible)
        if channel == "stands":
            return np.full(len(on), counters)
        return np.full(len(on), channel in {"unreadable", "throttle", "links", "dark", "cut", "hung", "skew_ms"})


def grown(effect: Effect, now_s: float) -> float:
    """By how much a counter has grown: slowly at first, then faster."""
    return float(np.floor(effect.value * effect.share(now_s) ** 2))
