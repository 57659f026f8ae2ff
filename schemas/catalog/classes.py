"""The words of the catalogue, and what a fault class is: how its faults end, come back, and are explained by work."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

Severity = Literal["info", "warning", "critical"]
Action = Literal[
    "none",
    "restart_app",
    "reset_gpu",
    "reboot_node",
    "drain_and_diagnose",
    "check_hardware",
    "replace",
    "contact_support",
]
ComponentKind = Literal["gpu", "node", "nvswitch", "port", "pdu", "cooling", "meter", "bmc", "rack", "switch", "site"]
ClearsOn = Literal[
    "anomaly_cleared",  # the detector that raised it says that it is over
    "gpu_reports",  # a sample with values from this GPU
    "new_boot",  # the node's boot id changes
    "recovery_action_none",  # XID 154 with the action None
    "driver_recovered",  # the event of that kind
    "source_recovered",  # the event of that kind
    "maintenance_ended",  # the event of that kind, or its announced end
    "operator",  # nobody but a human
]

SEVERITIES: tuple[str, ...] = get_args(Severity)
"""From least to most severe."""
ACTIONS: tuple[str, ...] = get_args(Action)
"""The ladder, from the least to the most intrusive; `contact_support` stands beside it."""
COMPONENT_KINDS: tuple[str, ...] = get_args(ComponentKind)


class Flapping(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a fault that comes and goes is held for one that stands."""

    times: int
    """So many faults of the class on one component, the newest counted, …"""
    within_s: int
    """… within so long: the newest stands on although it is told to be over …"""
    quiet_s: int
    """… until nothing was heard of it for so long."""
    reason: str

    def __post_init__(self) -> None:
        """Hold the numbers to what can be meant."""
        if self.times < 2 or self.within_s <= 0 or self.quiet_s <= 0:
            raise ValueError("flapping needs times from 2 on, within_s and quiet_s above 0")


class Margin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """By how much announced work is wider than its announcement, in seconds."""

    lead_s: int
    """What begins so much earlier belongs to it: somebody was quick, or a clock is off."""
    grace_s: int
    """So long after its end machines may still be on their way up."""
    reason: str

    def __post_init__(self) -> None:
        """Hold the numbers to what can be meant."""
        if self.lead_s < 0 or self.grace_s < 0:
            raise ValueError("lead_s and grace_s must not be below 0")


class FaultClass(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kind of trouble, whatever reported it, and how it ends: the first of `clears_on`, or after quiet time."""

    title: str
    component_kind: ComponentKind
    pages: bool
    """May wake somebody, where its severity is critical."""
    clears_on: tuple[ClearsOn, ...] = ()
    clears_after_quiet_s: int | None = None
    flapping: Flapping
    look_back_days: int
    """Earlier faults of this class on the same component are counted for so long."""
    explained_by_work: str | None = None
    """Why announced work on the machine explains it; None where it is a fault whatever is being done."""
    margin: Margin = Margin(lead_s=0, grace_s=0, reason="")
    """Of the class that announced work itself is."""
    reason: str

    def __post_init__(self) -> None:
        """A fault must have an end."""
        if not self.clears_on and self.clears_after_quiet_s is None:
            raise ValueError("never ends: give clears_on or clears_after_quiet_s")
        if self.look_back_days < 1:
            raise ValueError("look_back_days must be at least 1")
