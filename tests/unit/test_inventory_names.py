"""Many names in few characters, and what is no name."""

from __future__ import annotations

import pytest

from producers.inventory.names import BadNameError, expand, fill, numbers


@pytest.mark.parametrize(("pattern", "names"), [
    ("gpu-17", ["gpu-17"]),
    ("gpu-[1-3]", ["gpu-1", "gpu-2", "gpu-3"]),
    ("gpu-[098-101]", ["gpu-098", "gpu-099", "gpu-100", "gpu-101"]),
    ("gpu-[9-11]", ["gpu-9", "gpu-10", "gpu-11"]),
    ("pdu-[a-c]", ["pdu-a", "pdu-b", "pdu-c"]),
    ("r[1-2]-n[1-2]", ["r1-n1", "r1-n2", "r2-n1", "r2-n2"]),
    ("n[1-2,7,x]", ["n1", "n2", "n7", "nx"]),
    ("[1-1]", ["1"]),
])  # fmt: skip
def test_a_range_stands_for_its_names_in_order(pattern: str, names: list[str]) -> None:
    assert expand(pattern) == names


@pytest.mark.parametrize(("pattern", "said"), [
    ("gpu-[3-1]", r"runs backwards; write \[1-3\]"),
    ("pdu-[c-a]", r"runs backwards; write \[a-c\]"),
    ("gpu-[01-100]", r"different width; write \[001-100\]"),
    ("gpu-[1-4", "without its other half"),
    ("gpu-1-4]", "without its other half"),
    ("gpu-[]", "empty place"),
    ("gpu-[1-,2]", "no range"),
    ("gpu-[1-999999999]", "longer than 200,000"),
    ("[1-1000][1-1000]", "1,000,000 names"),
    ("[1-150000,1-150000]", "more than 200,000"),
    ("gpu-[1-99999999999999999999]", "too many digits"),
    ("", "empty"),
    ("gpu 1", "no blanks"),
    ("gpu|declared", "no |"),
    ("x" * 300, "300 characters"),
])  # fmt: skip
def test_what_is_no_range_says_what_to_write(pattern: str, said: str) -> None:
    with pytest.raises(BadNameError, match=said):
        expand(pattern)


def test_placeholders_are_filled_in_and_unknown_ones_named() -> None:
    assert fill("pdu-{rack}-a", {"rack": "r1"}) == "pdu-r1-a"
    with pytest.raises(BadNameError, match=r"contains \{rak\}; what can be filled in here: \{rack\}"):
        fill("pdu-{rak}-a", {"rack": "r1"})


@pytest.mark.parametrize(("text", "found"), [("7", [7]), ("10-12", [10, 11, 12]), ("[1,3-4]", [1, 3, 4])])
def test_slots_may_be_ranges(text: str, found: list[int]) -> None:
    assert numbers(text) == found


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "3-1", "٣", "1" * 20])
def test_what_is_no_slot_is_said(text: str) -> None:
    with pytest.raises(BadNameError):
        numbers(text)
