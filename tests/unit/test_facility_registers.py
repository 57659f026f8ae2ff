"""Registers into values: every type in every order, what is not a value, and which registers are read together."""

from __future__ import annotations

import math
import struct
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.facility.maps import MOST_WORDS, Register
from producers.facility.points import Measured
from producers.facility.registers import decode, decode_block, plan
from tests.facility_devices import FORMATS, encode

ORDERS = ("big", "little")


def register(**fields: Any) -> Register:
    return Register.model_validate({"name": "x", "address": 0, **fields})


def one(found: Register, words: list[int] | None, kind: str = "pdu") -> Measured:
    (measured,) = decode(found, words, kind)
    return measured


def raw_values(kind: str) -> st.SearchStrategy[Any]:
    if kind in {"f32", "f64"}:
        return st.floats(width=32 if kind == "f32" else 64, allow_nan=False, allow_infinity=False)
    bits = 8 * struct.calcsize(FORMATS[kind])
    low, high = (0, 2**bits - 1) if kind.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return st.integers(low, high)


@pytest.mark.parametrize(("kind", "word_order", "byte_order"), list(product(FORMATS, ORDERS, ORDERS)))
def test_a_number_comes_back_as_it_was_written_whatever_the_order(kind: str, word_order: str, byte_order: str) -> None:
    found = register(type=kind, word_order=word_order, byte_order=byte_order)

    @given(raw_values(kind))
    def check(raw: float) -> None:
        assert one(found, encode(found, raw)).value == float(raw)

    check()


@pytest.mark.parametrize(
    ("fields", "words", "value"),
    [
        # written by hand: 12345678 is 0x00BC614E, 230.5 is 0x43668000
        ({"type": "u32"}, [0x00BC, 0x614E], 12345678),
        ({"type": "u32", "word_order": "little"}, [0x614E, 0x00BC], 12345678),
        ({"type": "u32", "byte_order": "little"}, [0xBC00, 0x4E61], 12345678),
        ({"type": "u32", "word_order": "little", "byte_order": "little"}, [0x4E61, 0xBC00], 12345678),
        ({"type": "f32"}, [0x4366, 0x8000], 230.5),
        ({"type": "s16"}, [0xFFFE], -2),
        ({"type": "bcd", "words": 2}, [0x1234, 0x5678], 12345678),
        ({"type": "bool"}, [0x0100], 1),
    ],
)
def test_registers_of_a_manual_read_as_the_manual_says(fields: dict[str, Any], words: list[int], value: float) -> None:
    assert one(register(**fields), words).value == value


@given(st.integers(1, 4).flatmap(lambda words: st.tuples(st.just(words), st.integers(0, 10 ** (4 * words) - 1))))
def test_decimal_digits_come_back(case: tuple[int, int]) -> None:
    words, number = case
    found = register(type="bcd", words=words, word_order="little")

    assert one(found, encode(found, number)).value == float(number)  # 16 digits are more than a double holds


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=16))
def test_text_comes_back(text: str) -> None:
    for byte_order in ORDERS:
        found = register(type="string", words=8, byte_order=byte_order, word_order="little")
        assert one(found, encode(found, text)).state == (text or None)


@given(st.data())
def test_garbage_is_a_value_or_none_and_never_an_error(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([*FORMATS, "bool", "string", "bcd", "bitfield"]))
    words = data.draw(st.integers(1, 2 if kind == "bitfield" else 4)) if kind in {"string", "bcd", "bitfield"} else None
    bits = [{"bit": 3, "name": "b"}] if kind == "bitfield" else []
    found = register(type=kind, words=words, bits=bits, scale=data.draw(st.sampled_from([1.0, 1e300, -0.1])))
    answer = data.draw(st.one_of(st.none(), st.lists(st.integers(-5, 70000), max_size=9)))

    measured = one(found, answer)

    assert measured.value is None or math.isfinite(measured.value)
    if answer is None or len(answer) != found.size:
        assert (measured.value, measured.state) == (None, None)


def test_scale_and_offset_leave_no_dust_behind() -> None:
    assert one(register(scale=0.1), [2305]).value == 230.5
    assert one(register(scale=0.1, offset=-40.0), [3]).value == -39.7


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"type": "u16", "nan": [0xFFFF]}, [0xFFFF]),
        ({"type": "s16", "nan": [-32768]}, [0x8000]),
        ({"type": "f32"}, [0x7FC0, 0x0000]),  # NaN
        ({"type": "f32"}, [0x7F80, 0x0000]),  # infinity
        ({"type": "u16", "scale": 0.1, "valid_max": 100.0}, [1001]),
        ({"type": "s16", "valid_min": 0.0}, [0xFFFF]),
        ({"type": "bcd"}, [0x12A4]),
    ],
)
def test_what_was_not_measured_is_none_and_never_zero(fields: dict[str, Any], words: list[int]) -> None:
    measured = one(register(**fields, low_critical=-1e9) if "states" not in fields else register(**fields), words)

    assert (measured.value, measured.state) == (None, None)


def test_limits_say_how_a_value_is() -> None:
    found = register(low_critical=1.0, low_warning=10.0, high_warning=20.0, high_critical=30.0)

    states = [one(found, [value], "cooling").state for value in (0, 1, 10, 11, 19, 20, 30, 99)]

    assert states == ["critical", "critical", "warning", "ok", "ok", "warning", "critical", "critical"]
    assert one(found, [15], "cooling").event == "cooling_alarm"
    assert one(found, [15], "meter").event == "power_alarm"
    assert one(register(low_critical=1.0, event="phase_lost"), [15]).event == "phase_lost"


def test_a_value_without_limits_has_no_state_and_raises_nothing() -> None:
    assert one(register(unit="watts"), [7]) == Measured("x", "watts", 7.0)


def test_a_state_keeps_its_number_and_one_that_the_map_does_not_know_is_shown_as_it_is() -> None:
    found = register(states={"0": "ok", "1": "critical"})

    assert [one(found, [raw]).state for raw in (0, 1, 7)] == ["ok", "critical", "7"]
    assert one(found, [7]).value == 7.0


def test_bits_are_points_of_their_own() -> None:
    bits = [
        {"bit": 0, "name": "leak", "event": "leak_detected"},
        {"bit": 17, "name": "filter", "set": "warning", "clear": "ok"},
    ]
    found = register(type="bitfield", words=2, bits=bits)

    leak, dirt = decode(found, [0x0002, 0x0001], "cooling")

    assert (leak.name, leak.state, leak.event) == ("leak", "critical", "leak_detected")
    assert (dirt.name, dirt.state, dirt.event) == ("filter", "warning", "cooling_alarm")
    assert [point.state for point in decode(found, None, "cooling")] == [None, None]


def test_neighbours_are_asked_for_together_across_a_small_gap_and_one_table_at_a_time() -> None:
    wanted = [
        register(name="a", address=0, type="u32"),
        register(name="b", address=6),
        register(name="c", address=20),
        register(name="d", address=3, function="input"),
    ]

    blocks = plan(wanted, MOST_WORDS, 4)

    asked = [(block.function, block.address, block.count) for block in blocks]
    assert asked == [("holding", 0, 7), ("holding", 20, 1), ("input", 3, 1)]


@given(
    st.lists(st.tuples(st.integers(0, 400), st.sampled_from(["u16", "u32", "f64"])), max_size=40),
    st.integers(4, MOST_WORDS),
    st.integers(0, 30),
)
def test_a_plan_asks_for_everything_once_and_never_for_too_much(
    wanted: list[tuple[int, str]], most_words: int, gap_words: int
) -> None:
    found = [register(name=f"r{i}", address=address, type=kind) for i, (address, kind) in enumerate(wanted)]

    blocks = plan(found, most_words, gap_words)

    assert sorted(one.name for block in blocks for one in block.registers) == sorted(one.name for one in found)
    assert all(block.count <= most_words for block in blocks)
    halves = [half for block in blocks if len(block.registers) > 1 for half in block.halves()]
    assert all(half.count <= most_words for half in halves)


def test_a_block_gives_each_register_its_own_words() -> None:
    (block,) = plan([register(name="a", address=10, type="u32"), register(name="b", address=14)], MOST_WORDS, 8)

    measured = list(decode_block(block, [0, 5, 99, 99, 7], "pdu"))

    assert [(point.name, point.value) for point in measured] == [("a", 5.0), ("b", 7.0)]
