"""Jobs of the simulated fleet: who computes with whom, from when to when, and how hard.

A job holds GPUs of one or many nodes. Sizes and lengths are drawn from distributions of the shape that published
clusters have: most jobs are small, most GPU time goes to large ones (Hu et al., NSDI '24; Kokolis et al., HPCA '25).
Training loads its GPUs together and stops together for a checkpoint; inference follows the day; interactive work comes
in bursts. Each start and end is decided by the seed alone, whatever the size of a step.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from producers.simulate.topology import Node

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

IDLE = 0
"""The row of the job table that stands for no job."""
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_SIZE_SHARES = (0.16, 0.06, 0.08, 0.30, 0.12, 0.10, 0.09, 0.05, 0.03, 0.01)
_KINDS = ("training", "inference", "interactive")
_DAY_S = 86_400.0
_BUSIEST_HOUR = 15.0
"""UTC hour at which people ask for most; twelve hours later they ask for least."""
_RESTART_S = 240.0
"""A job that lost a GPU is started again elsewhere after so long, on average."""
_TRY_S = 60.0
"""The scheduler looks for free GPUs so often, on average."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job."""

    number: int
    kind: str
    gpus: tuple[int, ...]
    begin_s: float
    end_s: float
    intensity: float
    """Share of a GPU's busy power that it draws at full load."""
    dip: float
    """How deep the load falls while a collective waits."""
    period_s: float
    """Of these dips."""
    checkpoint_every_s: float
    checkpoint_s: float
    startup_s: float
    """Loading of program and data: memory fills, nothing is computed."""
    phase: float
    memory: float
    """Share of the GPU's memory."""
    tensor: float
    dram: float
    nvlink: float
    """Shares of what the GPU can do, at full load."""

    @property
    def name(self) -> str:
        """As the scheduler calls it."""
        return f"{self.kind}-{self.number}"


_NO_JOB = Job(0, "idle", (), 0.0, np.inf, 0.0, 0.0, 60.0, 1e9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def daytime(at_ms: int) -> float:
    """0 in the quietest moment of the day, 1 in the busiest."""
    hour = (at_ms / 3_600_000) % 24
    return float(0.5 + 0.5 * np.cos(2 * np.pi * (hour - _BUSIEST_HOUR) / 24))


class Jobs:
    """The scheduler and what it has placed. Some 200 bytes a job, and one row number a GPU."""

    def __init__(self, nodes: Sequence[Node], seed: int, start_ms: int) -> None:
        self._rng = np.random.default_rng((seed, 0x10B5))
        self._start_ms = start_ms
        self._nodes = [tuple(gpu.number for gpu in node.gpus) for node in nodes]
        self._kinds = [node.kind for node in nodes]
        self._node_of = {number: place for place, numbers in enumerate(self._nodes) for number in numbers}
        self._free = [set(numbers) for numbers in self._nodes]
        self._held: dict[int, float] = {}
        """Nodes that take no job, and until when."""
        self._count = 0
        self._size = sum(map(len, self._nodes))
        self._table: list[Job | None] = [_NO_JOB]
        self._rows: list[int] = []
        """Free rows of the table."""
        self.row_of: Ints = np.zeros(self._size, np.int64)
        """(G,) the row of each GPU's job; `IDLE` where there is none."""
        self._ends: list[tuple[float, int, int]] = []
        self._next_try_s = 0.0
        self.moved: list[int] = []
        """GPUs whose job changed in the last `advance`."""
        self._fill(0.0, first=True)
        self._refresh()
        self.moved = []

    def job_of(self, gpu: int) -> Job | None:
        """What runs on a GPU."""
        row = int(self.row_of[gpu])
        return None if row == IDLE else self._table[row]

    def advance(self, now_s: float) -> None:
        """Let end what ends by `now_s`, and start what starts, in the order of their times."""
        self.moved = []
        while True:
            end_s = self._ends[0][0] if self._ends else np.inf
            at_s = min(end_s, self._next_try_s)
            if at_s > now_s:
                break
            if end_s <= self._next_try_s:
                _, row, number = heapq.heappop(self._ends)
                job = self._table[row]
                if job is not None and job.number == number:
                    self._end(row, job)
            else:
                self._fill(at_s)
                self._next_try_s = at_s + float(self._rng.exponential(_TRY_S))
        if self.moved:
            self._refresh()

    def stop(self, gpus: Iterable[int]) -> tuple[int, ...]:
        """End the jobs on these GPUs now, as when one of them breaks; gives all GPUs that they had."""
        ended: list[int] = []
        for row in sorted({int(self.row_of[gpu]) for gpu in gpus} - {IDLE}):
            job = self._table[row]
            if job is not None:
                ended += job.gpus
                self._end(row, job)
        if ended:
            self._refresh()
        return tuple(ended)

    def hold(self, nodes: Iterable[int], until_s: float) -> None:
        """Give these nodes no job until then: they are broken, or being repaired."""
        for node in nodes:
            self._held[node] = max(self._held.get(node, 0.0), until_s)

    def load(self, now_s: float) -> tuple[Floats, Floats]:
        """(J,) the load that each job asks of its GPUs now, 0 to 1, and whether it is up (1) or still starting (0)."""
        c = self._columns
        since = now_s - c["begin_s"]
        wave = 1 - c["dip"] * (0.5 + 0.5 * np.sin(2 * np.pi * now_s / c["period_s"] + c["phase"]))
        saving = (since + 60 * c["phase"]) % c["checkpoint_every_s"] < c["checkpoint_s"]
        training = np.where(saving, 0.07, wave)
        day = daytime(self._start_ms + int(now_s * 1000))
        serving = 0.15 + 0.7 * day + 0.05 * np.sin(now_s / 90 + c["phase"])
        burst = np.sin(now_s / 97 + c["phase"]) + np.sin(now_s / 41 + 3 * c["phase"]) > 0.4
        load = np.where(self._is[0], training, np.where(self._is[1], serving, np.where(burst, 0.45, 0.0)))
        up = since >= c["startup_s"]
        load[IDLE], up[IDLE] = 0.0, False
        return np.where(up, load, 0.0).astype(np.float32), up.astype(np.float32)

    def column(self, name: str) -> Floats:
        """(J,) one property of all jobs, by the row of the table."""
        return self._columns_f4[name]

    @property
    def together(self) -> NDArray[np.bool_]:
        """(J,) whether the GPUs of the job wait for one another."""
        return self._is[0]

    def _end(self, row: int, job: Job) -> None:
        self._table[row] = None
        self._rows.append(row)
        numbers = np.array(job.gpus)
        self.row_of[numbers] = IDLE
        for gpu in job.gpus:
            self._free[self._node_of[gpu]].add(gpu)
        self.moved += job.gpus

    def _fill(self, at_s: float, *, first: bool = False) -> None:
        """Start jobs until no more GPUs are free than the time of day leaves free."""
        day = daytime(self._start_ms + int(at_s * 1000))
        wanted_free = 0.03 + 0.15 * (1 - day)
        self._held = {node: until for node, until in self._held.items() if until > at_s}
        tries = 0
        while tries < 20:
            usable = [place for place, free in enumerate(self._free) if free and place not in self._held]
            free = sum(len(self._free[place]) for place in usable)
            if free <= wanted_free * self._size or not free:
                return
            size = int(self._rng.choice(_SIZES, p=_SIZE_SHARES))
            most = max(1, min(free, self._size // 2))
            gpus = self._place(min(size, 1 << (most.bit_length() - 1)), usable)
            tries += not gpus
            if gpus:
                self._start(gpus, at_s, first=first)

    def _place(self, size: int, usable: Sequence[int]) -> tuple[int, ...]:
        """GPUs for a job: some of one node, or whole nodes side by side as far as there are."""
        whole = [place for place in usable if len(self._free[place]) == len(self._nodes[place])]
        part = [place for place in usable if len(self._free[place]) != len(self._nodes[place])] if size < 8 else []
        for place in (*part, *whole):
            own = sorted(self._free[place])
            if size < len(self._nodes[place]):
                if len(own) >= size:
                    return tuple(own[:size])
                continue
            break
        begin = int(self._rng.integers(len(whole))) if whole else 0
        # one kind of machine to a job
        whole = [place for place in whole if self._kinds[place] == self._kinds[whole[begin]]]
        begin = begin % len(whole) if whole else 0
        taken: list[int] = []
        for place in (*whole[begin:], *whole[:begin]):
            if len(taken) + len(self._nodes[place]) > size and taken:
                break
            taken += self._nodes[place]
            if len(taken) >= size:
                break
        return tuple(taken)

    def _start(self, gpus: tuple[int, ...], at_s: float, *, first: bool) -> None:
        rng = self._rng
        kind = _KINDS[int(rng.choice(3, p=(0.52, 0.40, 0.08) if len(gpus) <= 8 else (0.88, 0.12, 0.0)))]
        median_s = {"training": 5400.0, "inference": 43_200.0, "interactive": 2700.0}[kind]
        lasts_s = float(np.clip(rng.lognormal(np.log(median_s * (1 + len(gpus) / 64)), 1.0), 300, 14 * _DAY_S))
        begin_s = at_s - float(rng.uniform(0, 0.9)) * lasts_s - 130 if first else at_s
        self._count += 1
        job = Job(
            number=self._count,
            kind=kind,
            gpus=gpus,
            begin_s=begin_s,
            end_s=begin_s + lasts_s + (150 if first else 0),
            intensity=float(rng.uniform(0.72, 1.08)) if kind == "training" else float(rng.uniform(0.45, 0.9)),
            dip=float(rng.uniform(0.03, 0.16)),
            period_s=float(rng.uniform(20, 90)),
            checkpoint_every_s=float(rng.uniform(900, 3600)),
            checkpoint_s=float(rng.uniform(12, 50)),
            startup_s=float(rng.uniform(30, 120)),
            phase=float(rng.uniform(0, 2 * np.pi)),
            memory=float(rng.uniform(0.55, 0.96)),
            tensor=float(rng.uniform(0.25, 0.55)),
            dram=float(rng.uniform(0.2, 0.5)),
            nvlink=float(rng.uniform(0.3, 0.9)) if len(gpus) > 1 else 0.0,
        )
        row = self._rows.pop() if self._rows else len(self._table)
        if row == len(self._table):
            self._table.append(job)
        else:
            self._table[row] = job
        heapq.heappush(self._ends, (job.end_s, row, job.number))
        self.row_of[np.array(gpus)] = row
        for gpu in gpus:
            self._free[self._node_of[gpu]].discard(gpu)
        self.moved += gpus

    def _refresh(self) -> None:
        rows = [job or _NO_JOB for job in self._table]
        names = ("begin_s", "dip", "period_s", "checkpoint_every_s", "checkpoint_s", "startup_s", "phase")
        self._columns = {name: np.array([getattr(job, name) for job in rows]) for name in names}
        self._columns_f4 = {
            name: np.array([getattr(job, name) for job in rows], np.float32)
            for name in ("intensity", "memory", "tensor", "dram", "nvlink")
        }
        self._is = [np.array([job.kind == kind for job in rows]) for kind in _KINDS]
