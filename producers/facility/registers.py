"""Registers into values, and which of them are read together. Pure: nothing is asked here."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from producers.facility.maps import MOST_BITS, Function, Order, Register, RegisterMap, alarm_of
from producers.facility.points import CRITICAL, OK, WARNING, Measured, finite

_FORMATS = {"u16": ">H", "s16": ">h", "u32": ">I", "s32": ">i", "u64": ">Q", "s64": ">q", "f32": ">f", "f64": ">d"}
_LARGEST_DIGIT = 9


@dataclass(frozen=True, slots=True)
class Block:
    """Registers that one question asks for, in the order of their addresses."""

    function: Function
    registers: tuple[Register, ...]

    @property
    def address(self) -> int:
        """The first one's, as on the wire."""
        return self.registers[0].address

    @property
    def count(self) -> int:
        """How many registers (or bits) are asked for, those in between included."""
        return max(register.address + register.size for register in self.registers) - self.address

    def halves(self) -> tuple[Block, Block]:
        """Two questions for the same: what cannot be read at once may be readable apart."""
        middle = len(self.registers) // 2
        return (
            Block(self.function, self.registers[:middle]),
            Block(self.function, self.registers[middle:]),
        )


def plan(registers: Iterable[Register], most_words: int, gap_words: int) -> tuple[Block, ...]:
    """As few questions as can be: neighbours together, across at most `gap_words` that nobody asked for."""
    blocks: list[Block] = []
    for register in sorted(registers, key=lambda one: (one.function, one.address, one.size)):
        most = MOST_BITS if register.function in {"coil", "discrete"} else most_words
        if blocks and blocks[-1].function == register.function:
            last = blocks[-1]
            joined = Block(last.function, (*last.registers, register))
            if register.address - (last.address + last.count) <= gap_words and joined.count <= most:
                blocks[-1] = joined
                continue
        blocks.append(Block(register.function, (register,)))
    return tuple(blocks)


def plan_of(register_map: RegisterMap) -> tuple[Block, ...]:
    """The questions for a whole map."""
    return plan(register_map.registers, register_map.most_words, register_map.gap_words)


def decode_block(block: Block, words: Sequence[int], kind: str) -> Iterator[Measured]:
    """What a block's answer says; `words` are registers, or bits as 0 and 1."""
    for register in block.registers:
        first = register.address - block.address
        yield from decode(register, words[first : first + register.size], kind)


def decode(register: Register, words: Sequence[int] | None, kind: str) -> Iterator[Measured]:
    """What one register says; never raises. None, or too few words: it was not read."""
    event: str = register.event or alarm_of(kind)
    if words is None or len(words) != register.size:
        words = None
    if register.type == "bitfield":
        flags = None if words is None else _whole(register, words)
        flags = None if flags in register.nan else flags
        for bit in register.bits:
            state = None if flags is None else bit.set if flags >> bit.bit & 1 else bit.clear
            value = None if flags is None else float(flags >> bit.bit & 1)
            yield Measured(bit.name, "", value, state, bit.event or event)
        return
    if register.type == "string":
        text = None if words is None else _text(register, words)
        yield Measured(register.name, "", None, text or None)
        return
    raw = None if words is None else _raw(register, words)
    if raw is None or raw in register.nan:
        yield Measured(register.name, register.unit, None, None, event if _has_state(register) else "")
        return
    value = _scaled(register, raw)
    state = None
    if register.states:
        state = register.states.get(int(raw), str(int(raw)))
    elif value is not None:
        state = _judged(register, value)
    yield Measured(register.name, register.unit, value, state, event if _has_state(register) else "")


def _has_state(register: Register) -> bool:
    return bool(register.states) or any(limit is not None for limit in _limits(register))


def _limits(register: Register) -> tuple[float | None, float | None, float | None, float | None]:
    return register.low_critical, register.low_warning, register.high_warning, register.high_critical


def _judged(register: Register, value: float) -> str | None:
    low_critical, low_warning, high_warning, high_critical = _limits(register)
    if not _has_state(register):
        return None
    if (low_critical is not None and value <= low_critical) or (high_critical is not None and value >= high_critical):
        return CRITICAL
    if (low_warning is not None and value <= low_warning) or (high_warning is not None and value >= high_warning):
        return WARNING
    return OK


def _bytes(register: Register, words: Sequence[int]) -> bytes:
    """The value's bytes, the most significant first."""
    order: Order = register.byte_order or "big"
    # letters follow each other in the order of their registers, whatever the order of words in a number
    backwards = register.word_order == "little" and register.type != "string"
    return b"".join((word & 0xFFFF).to_bytes(2, order) for word in (reversed(words) if backwards else words))


def _whole(register: Register, words: Sequence[int]) -> int:
    return int.from_bytes(_bytes(register, words), "big")


def _raw(register: Register, words: Sequence[int]) -> float | int | None:
    """The number as it stands there; None where the digits are none."""
    if register.type == "bool":
        return int(words[0] != 0)
    if register.type == "bcd":
        number = 0
        for byte in _bytes(register, words):
            high, low = byte >> 4, byte & 15
            if high > _LARGEST_DIGIT or low > _LARGEST_DIGIT:
                return None
            number = number * 100 + high * 10 + low
        return number
    found: float | int = struct.unpack(_FORMATS[register.type], _bytes(register, words))[0]
    return found


def _scaled(register: Register, raw: float) -> float | None:
    value = finite(raw)
    if value is None:
        return None
    if register.scale != 1.0 or register.offset:
        value = finite(f"{value * register.scale + register.offset:.12g}")  # 2305 * 0.1 is 230.5
    if value is None:
        return None
    if register.valid_min is not None and value < register.valid_min:
        return None
    if register.valid_max is not None and value > register.valid_max:
        return None
    return value


def _text(register: Register, words: Sequence[int]) -> str:
    text = _bytes(register, words).split(b"\0")[0].decode("latin-1")
    return "".join(letter for letter in text if letter.isprintable()).strip()
