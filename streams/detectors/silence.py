"""Absence as a signal: a node or a GPU that has stopped reporting."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from schemas.ids import gpu_id, node_id, stable_id
from schemas.records import Anomaly
from streams.readings.roster import NEVER_MS, Place, Roster
from streams.readings.ticks import Tick

_INTERVALS = 3
"""A node that samples rarely is given so many of its own intervals."""
NODE_RULE, GPU_RULE = "node_silent", "gpu_silent"
_ACTIONS = {
    NODE_RULE: "check_hardware",  # power, network and the host by its BMC; nothing on the node can be asked
    GPU_RULE: "drain_and_diagnose",  # the node is there to be asked
}


class SilenceDetector:
    """Nodes that send nothing, and GPUs of which a reporting node reads nothing. State: 16 bytes a GPU or node.

    A silent node stands for its GPUs: they are not reported one by one.
    """

    def __init__(self, *, silence_ms: int, tick_ms: int) -> None:
        self._silence_ms = silence_ms
        self._tick_ms = tick_ms
        self._nodes = _Heard()
        self._gpus = _Heard()

    def update(self, tick: Tick) -> Iterator[Anomaly]:
        """Take the next tick in; gives who has fallen silent and who is back."""
        roster = tick.roster
        self._nodes.grow([place.node for place in roster.nodes[self._nodes.size :]], tick.tick_ms)
        self._gpus.grow(roster.gpus[self._gpus.size :], tick.tick_ms)
        patience_ms = np.maximum(self._silence_ms, _INTERVALS * roster.node_interval_ms)
        node_of_gpu = roster.gpu_node
        # While its node says nothing, nothing is known of a GPU: that time does not count towards its own silence.
        asked = tick.node_present[node_of_gpu]
        if not tick.gpu_read.all():
            expected_ms = np.maximum(roster.node_interval_ms, self._tick_ms)
            missed_ms = np.maximum(0, tick.tick_ms - self._nodes.last_ms - expected_ms)
            self._gpus.excuse(asked & ~tick.gpu_read, missed_ms[node_of_gpu])
        for node, since_ms in self._nodes.hear(tick.node_present, tick.tick_ms, patience_ms):
            place = roster.nodes[node]
            silent = bool(self._nodes.silent[node])
            yield self._anomaly(tick, NODE_RULE, node_id(place.node), place, None, silent=silent, since_ms=since_ms)
        for gpu, since_ms in self._gpus.hear(tick.gpu_read, tick.tick_ms, patience_ms[node_of_gpu], asked):
            serial, place = roster.gpus[gpu], roster.place(gpu)
            silent = bool(self._gpus.silent[gpu])
            yield self._anomaly(tick, GPU_RULE, gpu_id(serial), place, serial, silent=silent, since_ms=since_ms)

    def restore(self, standing: Iterable[Anomaly], roster: Roster) -> None:
        """Go on with just these silent."""
        silent = [anomaly for anomaly in standing if anomaly.detector == "silence"]
        nodes = {a.node: a.begin_ms for a in silent if a.rule == NODE_RULE and a.node}
        gpus = {a.gpu: a.begin_ms for a in silent if a.rule == GPU_RULE and a.gpu}
        self._nodes.restore(nodes, [place.node for place in roster.nodes])
        self._gpus.restore(gpus, roster.gpus)

    def _anomaly(
        self, tick: Tick, rule: str, component: str, place: Place, gpu: str | None, *, silent: bool, since_ms: int
    ) -> Anomaly:
        quiet_s = (tick.tick_ms - since_ms) / 1000
        what = "the node has sent nothing" if gpu is None else "nothing could be read from the GPU"
        return Anomaly(
            anomaly_id=stable_id("silence", rule, component, since_ms),
            site=place.site,
            rack=place.rack,
            node=place.node,
            gpu=gpu,
            component=component,
            detector="silence",
            rule=rule,
            metric=None,
            fault_class=rule,
            state="raised" if silent else "cleared",
            severity="critical",
            action=_ACTIONS[rule],
            value=quiet_s,
            limit=self._silence_ms / 1000,
            begin_ms=since_ms,
            tick_ms=tick.tick_ms,
            reason=f"{what} for {quiet_s:g} s" if silent else f"reports again after {quiet_s:g} s",
        )


class _Heard:
    """When each of many was last heard, and who counts as silent."""

    def __init__(self) -> None:
        self.last_ms: NDArray[np.int64] = np.empty(0, np.int64)
        self.silent: NDArray[np.bool_] = np.empty(0, np.bool_)
        self.standing: dict[str, int] = {}
        """Restored silences of those not met yet: name to since when."""

    @property
    def size(self) -> int:
        """How many are known."""
        return len(self.last_ms)

    def grow(self, names: list[str], now_ms: int) -> None:
        """Enter newcomers; one whose silence was restored goes on being silent."""
        if not names:
            return
        since = [self.standing.get(name, NEVER_MS) for name in names]
        for name in names:
            self.standing.pop(name, None)
        self.last_ms = np.append(self.last_ms, [now_ms if at == NEVER_MS else at for at in since]).astype(np.int64)
        self.silent = np.append(self.silent, [at != NEVER_MS for at in since]).astype(np.bool_)

    def restore(self, standing: dict[str, int], names: list[str]) -> None:
        """Let just those in `standing` be silent, each since its time; `names` are all that may be known."""
        self.standing = standing
        for at, name in enumerate(names[: self.size]):
            since_ms = standing.pop(name, None)
            self.silent[at] = since_ms is not None
            if since_ms is not None:
                self.last_ms[at] = since_ms

    def excuse(self, who: NDArray[np.bool_], missed_ms: NDArray[np.int64]) -> None:
        """Forgive so much of a silence that is not reported yet."""
        who = who & ~self.silent
        self.last_ms[who] += missed_ms[who]

    def hear(
        self,
        present: NDArray[np.bool_],
        now_ms: int,
        patience_ms: NDArray[np.int64],
        asked: NDArray[np.bool_] | None = None,
    ) -> Iterator[tuple[int, int]]:
        """Note who is present; gives those whose state flips, each with the time it was last heard.

        Only who is `asked` can be found silent; None asks all.
        """
        if present.all() and not self.silent.any():
            self.last_ms[:] = now_ms
            return iter(())
        back = np.flatnonzero(present & self.silent)
        due = ~present & ~self.silent & (now_ms - self.last_ms >= patience_ms)
        gone = np.flatnonzero(due if asked is None else due & asked)
        flips = [(int(at), int(self.last_ms[at])) for at in np.sort(np.concatenate((back, gone)))]
        self.silent[back] = False
        self.silent[gone] = True
        self.last_ms[present] = now_ms
        return iter(flips)
