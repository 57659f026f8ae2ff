"""Whatever a file holds, it is an inventory or an error with places; whatever the log holds, it is told once."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from producers.inventory import Inventory, InventoryError, parse
from producers.inventory.compare import changes, standing
from schemas.catalog import load
from schemas.codec import SingleObjectCodec
from schemas.records import HardwareEvent, InventoryRecord
from streams.inventory import InventoryWatch, Ledger

CATALOG = load()
CODEC = SingleObjectCodec()

KEYS = ["site", "sites", "racks", "templates", "nodes", "gpus", "pdus", "leaf_switches", "cooling"]
_WORDS = (
    "name template slot slots units serial node index rack pdu leaf_switch gpus_per_node nvlink_domain kind "
    "r1 r[1-3] {rack}-n[1-2] n1 [1-4] 10-27 [4 no ~ null 7 -1 S1 "
    "&a *a <<: !!python/none | > ? --- ... # ' \" {x} é \x00 \t ٣"
)
WORDS = st.sampled_from([*KEYS, *_WORDS.split(" ")])
YAML_SCRAPS = st.lists(
    st.one_of(
        WORDS, st.sampled_from([": ", "\n", "\n  ", "\n  - ", "- ", "{", "}", "[", "]", ", "]), st.text(max_size=3)
    ),
    max_size=60,
).map("".join)
CSV_SCRAPS = st.lists(
    st.one_of(WORDS, st.sampled_from([",", "\n", ";", '"', "\r\n", "name,rack,site\n", "serial,node\n"])), max_size=60
).map("".join)
VALUES = st.recursive(
    WORDS.map(lambda word: f'"{word}"' if '"' not in word and "\x00" not in word else "x"),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(WORDS.filter(str.isidentifier), inner, max_size=3).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs.items()) + "}"
        ),
    ),
    max_leaves=12,
)
LIKE_A_FILE = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5).map(
    lambda pairs: "".join(f"{key}: {value}\n" for key, value in pairs.items())
)


def sound_or_errors_with_places(data: bytes, name: str) -> None:
    try:
        sound(parse(data, name))
    except InventoryError as error:
        places(error, data, name)


def places(error: InventoryError, data: bytes, name: str) -> None:
    assert error.problems
    last = data.count(b"\n") + data.count(b"\r") + 2
    for problem, line in zip(error.problems, error.lines(), strict=True):
        assert 1 <= problem.line <= last
        assert re.match(rf"{re.escape(name)}:\d+: \S", line)


def sound(inventory: Inventory) -> None:
    racks, nodes = {rack.name for rack in inventory.racks}, {node.name: node for node in inventory.nodes}
    assert len(racks) == len(inventory.racks)
    assert len(nodes) == len(inventory.nodes)
    assert all(node.rack in racks for node in inventory.nodes)
    assert all(gpu.node in nodes for gpu in inventory.gpus)
    slots = [(node.rack, node.slot) for node in inventory.nodes if node.slot is not None]
    assert len(slots) == len(set(slots))
    records = inventory.records(0)
    assert len({record.component for record in records}) == len(records)
    assert all(CODEC.decode(CODEC.encode(record), InventoryRecord) == record for record in records)
    assert changes(standing(records), records, inventory.sites, 1) == [], "loaded twice, nothing changes"


@given(st.binary(max_size=200))
def test_any_bytes_are_an_inventory_or_errors_with_places(data: bytes) -> None:
    sound_or_errors_with_places(data, "f.yaml")
    sound_or_errors_with_places(data, "f.csv")


@given(YAML_SCRAPS)
def test_scraps_of_yaml_are_an_inventory_or_errors_with_places(text: str) -> None:
    sound_or_errors_with_places(text.encode("utf-8", "surrogatepass"), "f.yaml")


@given(LIKE_A_FILE)
def test_what_looks_like_an_inventory_is_one_or_errors_with_places(text: str) -> None:
    sound_or_errors_with_places(text.encode(), "f.yaml")


@given(st.integers(1, 12), st.integers(1, 9), st.integers(1, 8), st.booleans())
def test_a_few_lines_are_as_many_racks_and_nodes_as_they_say(racks: int, nodes: int, gpus: int, through: bool) -> None:
    names = f"gpu-[1-{racks * nodes}]" if through else f"'{{rack}}-n[1-{nodes}]'"
    text = f"site: a\nracks:\n- {{name: 'r[1-{racks}]', nodes: {names!s}, slots: 1-{nodes}, gpus_per_node: {gpus}}}\n"
    inventory = parse((text if not through else text.replace(names, f"'{names}'")).encode(), "f.yaml")
    sound(inventory)
    assert (len(inventory.racks), len(inventory.nodes)) == (racks, racks * nodes)
    assert inventory.expected_gpus == racks * nodes * gpus
    assert all(sum(node.rack == rack.name for node in inventory.nodes) == nodes for rack in inventory.racks)


@given(CSV_SCRAPS)
def test_scraps_of_csv_are_an_inventory_or_errors_with_places(text: str) -> None:
    sound_or_errors_with_places(text.encode(), "f.csv")


RECORDS = st.builds(
    lambda component, place, minute, source, removed, slot: InventoryRecord(
        component=component,
        kind=component.partition(":")[0],
        site="a",
        rack=f"r{place % 3}",
        node=f"n{place}" if component.startswith("gpu") else component.partition(":")[2],
        slot=slot,
        source=source,
        seen_ms=minute * 60_000,
        removed=removed,
    ),
    component=st.sampled_from(["gpu:S1", "gpu:S2", "node:n1", "rack:r1"]),
    place=st.integers(1, 4),
    minute=st.integers(0, 100),
    source=st.sampled_from(["declared", "discovered"]),
    removed=st.sampled_from([False, False, False, True]),
    slot=st.sampled_from([None, 1, 2]),
)
LOGS = st.lists(RECORDS, max_size=40)


def told(log: Sequence[InventoryRecord]) -> list[HardwareEvent]:
    ledger = Ledger(CATALOG, 900_000)
    return [event for record in log for event in ledger.learn(record)]


@given(LOGS, st.lists(st.integers(0, 40), max_size=4))
def test_wherever_workers_take_over_the_same_is_told_once(log: list[InventoryRecord], cuts: list[int]) -> None:
    memory: dict[str, bytes] = {}
    heard: list[HardwareEvent] = []
    for end in [*sorted(min(cut, len(log)) for cut in cuts), len(log)]:
        watch = InventoryWatch(CATALOG, 900_000)  # another process, which reads from the beginning
        for offset, record in enumerate(log[:end]):
            watch.take(0, offset, 2**60, record)
        watch.resume(memory, {0: end})
        outcome = watch.tell()
        heard += [record for record in outcome.records if isinstance(record, HardwareEvent)]
        memory |= {key: state for key, state in outcome.memory.items() if state is not None}
    assert heard == told(log)


@given(LOGS)
def test_a_record_that_comes_twice_tells_nothing_more(log: list[InventoryRecord]) -> None:
    assert told([record for record in log for _ in range(2)]) == told(log)


@given(LOGS)
def test_the_order_between_components_is_no_matter(log: list[InventoryRecord]) -> None:
    """A topic of several partitions keeps the order of each key, and no other."""
    sorted_log = sorted(log, key=lambda record: record.component)
    assert {event.event_id for event in told(sorted_log)} == {event.event_id for event in told(log)}
