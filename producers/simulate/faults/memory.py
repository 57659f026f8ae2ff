"""GPU memory: rows that go bad by and by, and rows that go bad at once."""

from __future__ import annotations

from producers.simulate.faults.scene import HOUR_S, MINUTE_S, Draw, Spot, lasts, reboot, recovery, xid
from producers.simulate.plan import Effect, Part, Plan, Said

_VISIBLE_ERRORS = 10.0
"""So many corrected errors in hours are no cosmic rays."""
_TOTALS = ("ecc_volatile_{}", "ecc_aggregate_{}", "ecc_volatile_dram_{}", "ecc_aggregate_dram_{}")


def memory_degrades(spot: Spot, at_s: float, draw: Draw) -> Plan:
    """Corrected errors, slowly then fast, until one cannot be corrected; the row is fenced off until a reset."""
    fails_s = at_s + lasts(draw, 3 * HOUR_S, least_s=15 * MINUTE_S, most_s=10 * HOUR_S)
    errors = float(draw.integers(80, 4000))
    rising = _count(spot, "correctable", errors, at_s, fails_s, visible=_VISIBLE_ERRORS)
    remaps = float(draw.integers(1, 4))
    # an error that is corrected again and again is worth a spare row too: remapped for correctable errors
    spared = Effect("count", fails_s - (fails_s - at_s) / 4, fails_s, (spot.one.number,), remaps,
                    ramp_s=(fails_s - at_s) / 4, name="row_remap_correctable", parts=(0,), visible=1.0)  # fmt: skip
    return _uncorrectable(spot, at_s, fails_s, draw, (*rising, spared))


def memory_fails(spot: Spot, at_s: float, draw: Draw) -> Plan:
    """An error that cannot be corrected, out of the blue."""
    return _uncorrectable(spot, at_s, at_s, draw, ())


def _uncorrectable(spot: Spot, at_s: float, fails_s: float, draw: Draw, before: tuple[Effect, ...]) -> Plan:
    node, gpu = spot.node, spot.one
    address, pid = int(draw.integers(1 << 28, 1 << 36)) & ~31, int(draw.integers(10_000, 4_000_000))
    partition, subpartition = int(draw.integers(0, 10)), int(draw.integers(0, 2))
    uncontained = draw.random() < 0.25
    no_row_left = draw.random() < 0.08
    row = f"(0x{address:016x})"
    remap = (
        f"64, pid='<unknown>', name=<unknown>, Row Remapper: Error recording row {row} - No spare row left."
        if no_row_left
        else f"63, pid='<unknown>', name=<unknown>, Row Remapper: New row {row} marked for remapping, "
        "reset gpu to activate."
    )
    contained = "Uncontained: LTC TAG (0x2,0x0). RST: Yes, D-RST: No" if uncontained else (
        "Contained: CE User Channel (0x9). RST: No, D-RST: No"
    )  # fmt: skip
    place = f"the framebuffer at physAddr 0x{address:x} partition {partition}, subpartition {subpartition}."
    words = [
        f"48, pid={pid}, name=python3, An uncorrectable double bit error (DBE) has been detected on GPU in {place}",
        remap,
        f"{95 if uncontained else 94}, pid={pid}, name=python3, {contained}",
    ]
    said: list[Said] = [xid(node, gpu, fails_s + 0.002 * place_in, text) for place_in, text in enumerate(words)]
    repaired_s = fails_s + lasts(draw, 4 * HOUR_S if no_row_left else 40 * MINUTE_S, least_s=8 * MINUTE_S)
    held: tuple[Effect, ...]
    if no_row_left or draw.random() < 0.5:
        more, dark = reboot(node, repaired_s - 6 * MINUTE_S, repaired_s)
        said += more
        held = (*dark, Effect("stops", repaired_s - 6 * MINUTE_S, repaired_s, spot.gpu_numbers))
    else:
        said += [
            recovery(node, gpu, fails_s + 0.3, "None", "GPU Reset Required"),
            recovery(node, gpu, repaired_s, "GPU Reset Required", "None", part=-1),
        ]
        held = ()
    counter = "row_remap_failure" if no_row_left else "row_remap_pending"
    effects = (
        *before,
        Effect("stops", fails_s, repaired_s, (gpu.number,), parts=(0,)),
        Effect("held", fails_s, repaired_s, (node.number,)),
        *_count(spot, "uncorrectable", 1.0, fails_s, fails_s, visible=1.0),
        Effect("count", fails_s, fails_s, (gpu.number,), 1.0, name="row_remap_uncorrectable", parts=(0,), visible=1.0),
        Effect("stands", fails_s, repaired_s, (gpu.number,), 1.0, name=counter, parts=(0,)),
        *held,
    )
    root = Part.of_gpu(node, gpu, at_s)
    return Plan(at_s, repaired_s, (root,), tuple(said), effects, hard_s=fails_s)


def _count(spot: Spot, what: str, total: float, begin_s: float, end_s: float, *, visible: float) -> tuple[Effect, ...]:
    """Errors of device memory, in every counter that has them."""
    return tuple(
        Effect("count", begin_s, end_s, (spot.one.number,), total, ramp_s=end_s - begin_s, name=name.format(what),
               parts=(0,), visible=visible)
        for name in _TOTALS
    )  # fmt: skip
