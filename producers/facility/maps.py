"""Register maps: which register of a device holds what. TOML files, checked as a whole, every error with its place.

`README.md` beside this file explains every key; `maps/` has those that ship.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, field_validator, model_validator

SHIPPED = Path(__file__).parent / "maps"

Function = Literal["holding", "input", "coil", "discrete"]
Type = Literal["u16", "s16", "u32", "s32", "u64", "s64", "f32", "f64", "bool", "string", "bcd", "bitfield"]
Order = Literal["big", "little"]
Kind = Literal["pdu", "cooling", "meter"]
Event = Literal["psu_failed", "fan_failed", "phase_lost", "leak_detected", "power_alarm", "cooling_alarm"]

WORDS: dict[str, int] = {"u16": 1, "s16": 1, "u32": 2, "s32": 2, "u64": 4, "s64": 4, "f32": 2, "f64": 4, "bool": 1}
"""16-bit registers of the types whose size is fixed."""
MOST_WORDS, MOST_BITS = 125, 2000
"""What one answer can hold (Modbus Application Protocol 1.1b3, sections 6.1 to 6.4)."""
_ADDRESSES = 65536
_BIT_FUNCTIONS = {"coil", "discrete"}
_NO_NUMBER = {"string", "bitfield"}
_NAME = re.compile(r"[a-z0-9_]+(/[a-z0-9_]+)*")
_UNIT = re.compile(r"([a-z]+(_[a-z]+)*)?")
_SPELLED: dict[str, str] = {
    "w": "watts",
    "kw": "watts, with scale = 1000",
    "va": "volt_amperes",
    "var": "vars",
    "wh": "watt_hours",
    "kwh": "kilowatt_hours",
    "v": "volts",
    "a": "amperes",
    "hz": "hertz",
    "c": "celsius",
    "°c": "celsius",
    "%": "percent",
    "%rh": "percent",
    "l/min": "litres_per_minute",
    "lpm": "litres_per_minute",
    "kpa": "kilopascals",
    "s": "seconds",
}
_TOML_LINE = re.compile(r"\(at line (\d+)")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Bit(_Part):
    """One bit of a bitfield, as a state of its own."""

    bit: int = Field(ge=0, le=31, description="0 is the least significant one.")
    name: str = Field(description="The point's name.")
    set: str = Field(default="critical", min_length=1, description="The state while the bit is 1.")
    clear: str = Field(default="ok", min_length=1, description="The state while it is 0.")
    event: Event | None = Field(default=None, description="What it raises while the state is warning or critical.")

    @field_validator("name")
    @classmethod
    def _named(cls, name: str) -> str:
        return _checked_name(name)


class Register(_Part):
    """One value, in one or several registers that follow each other."""

    name: str = Field(description="The point's name, such as power_watts/phase_1.")
    address: int = Field(ge=0, lt=_ADDRESSES * 10, description="Its number, counted from the map's base.")
    function: Function = Field(default="holding", description="The table it is in.")
    type: Type = Field(default="u16", description="How the value is written.")
    words: int | None = Field(default=None, ge=1, le=MOST_WORDS, description="Registers of a string, bcd or bitfield.")
    word_order: Order | None = Field(default=None, description="big: the most significant register first.")
    byte_order: Order | None = Field(default=None, description="big: the most significant byte of a register first.")
    scale: float = Field(default=1.0, allow_inf_nan=False, description="The value is raw * scale + offset.")
    offset: float = Field(default=0.0, allow_inf_nan=False, description="The value is raw * scale + offset.")
    unit: str = Field(default="", description="In words: watts, volts, celsius; empty for a state or a ratio.")
    nan: tuple[int, ...] = Field(default=(), strict=False, description="Raw values that mean: not measured.")
    valid_min: float | None = Field(default=None, description="What is below was not measured.")
    valid_max: float | None = Field(default=None, description="What is above was not measured.")
    low_critical: float | None = Field(default=None, description="At or below: state critical.")
    low_warning: float | None = Field(default=None, description="At or below: state warning.")
    high_warning: float | None = Field(default=None, description="At or above: state warning.")
    high_critical: float | None = Field(default=None, description="At or above: state critical.")
    states: dict[Annotated[int, Strict(strict=False)], str] = Field(
        default={}, description="The raw value's word: ok, warning, critical, or the device's own."
    )
    bits: tuple[Bit, ...] = Field(default=(), strict=False, description="What the bits of a bitfield mean.")
    event: Event | None = Field(default=None, description="What it raises while the state is warning or critical.")

    @field_validator("name")
    @classmethod
    def _named(cls, name: str) -> str:
        return _checked_name(name)

    @field_validator("unit")
    @classmethod
    def _spelled(cls, unit: str) -> str:
        if meant := _SPELLED.get(unit.lower()):
            raise ValueError(f"units are words: {meant}")
        if not _UNIT.fullmatch(unit):
            raise ValueError("units are lower-case words: watts, volts, litres_per_minute")
        return unit

    @field_validator("scale")
    @classmethod
    def _scales(cls, scale: float) -> float:
        if scale == 0:
            raise ValueError("it would make every value the same; leave it out for 1")
        return scale

    @model_validator(mode="after")
    def _fits(self) -> Register:
        if self.function in _BIT_FUNCTIONS and self.type != "bool":
            raise ValueError(f"a {self.function} is one bit: its type is bool")
        if self.type in WORDS and self.words is not None:
            raise ValueError(f"words is given, but a {self.type} has {WORDS[self.type]}; leave it out")
        if self.type == "string" and self.words is None:
            raise ValueError("a string needs words, the number of its registers")
        if (self.type == "bitfield") != bool(self.bits):
            raise ValueError("bits belong to type bitfield, and a bitfield needs them")
        if self.type in {"bcd", "bitfield"} and self.size > (4 if self.type == "bcd" else 2):
            raise ValueError(f"words is {self.size}; a {self.type} has at most {4 if self.type == 'bcd' else 2}")
        if over := [bit.bit for bit in self.bits if bit.bit >= 16 * self.size]:
            raise ValueError(f"bit {over[0]} lies outside; words = 2 makes 32")
        if self.states and self.type in {*_NO_NUMBER, "f32", "f64"}:
            raise ValueError(f"states need a whole number, not a {self.type}")
        limits = [self.low_critical, self.low_warning, self.high_warning, self.high_critical]
        given = [limit for limit in limits if limit is not None]
        if given and (self.type in _NO_NUMBER or self.states):
            raise ValueError("limits need a number, and states say already how it is")
        if given != sorted(given):
            raise ValueError("limits must rise: low_critical, low_warning, high_warning, high_critical")
        if self.valid_min is not None and self.valid_max is not None and self.valid_min > self.valid_max:
            raise ValueError("valid_min is above valid_max")
        return self

    @property
    def size(self) -> int:
        """Registers that it takes (bits, in a table of bits)."""
        return WORDS.get(self.type) or self.words or 1

    @property
    def points(self) -> tuple[str, ...]:
        """The names of the points that it gives."""
        return tuple(bit.name for bit in self.bits) or (self.name,)


class _Head(_Part):
    title: str = Field(min_length=1, description="What device it is for.")
    kind: Kind
    source: str = Field(min_length=1, description="The document it was written from.")
    base: int = Field(default=0, ge=0, description="The number that the document gives to the first register.")
    word_order: Order = "big"
    byte_order: Order = "big"
    most_words: int = Field(default=MOST_WORDS, ge=1, le=MOST_WORDS, description="What the device gives at once.")
    gap_words: int = Field(default=8, ge=0, le=MOST_WORDS, description="Registers in between that are read along.")


class _File(_Part):
    map: _Head
    registers: tuple[Register, ...] = Field(alias="register", strict=False)


class RegisterMap(NamedTuple):
    """A map that was checked; the addresses are those on the wire."""

    title: str
    kind: Kind
    source: str
    most_words: int
    gap_words: int
    registers: tuple[Register, ...]


class MapProblem(NamedTuple):
    """One thing that is wrong with a map."""

    path: Path
    line: int | None
    field: str
    text: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else str(self.path)
        return f"{place}: {self.field}: {self.text}" if self.field else f"{place}: {self.text}"


class MapError(ValueError):
    """A map that cannot be used; one line for each thing that is wrong."""

    def __init__(self, problems: list[MapProblem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def alarm_of(kind: str) -> Event:
    """What a state raises where its register names no event."""
    return "cooling_alarm" if kind == "cooling" else "power_alarm"


def names() -> list[str]:
    """The maps that ship."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def find(name: str) -> Path:
    """The file of a map that ships, or the path itself. Raises `MapError` where there is none."""
    path = Path(name)
    if path.suffix != ".toml" and len(path.parts) == 1:
        path = SHIPPED / f"{name}.toml"
        if not path.exists():
            text = f"no map of that name ships; there are {', '.join(names())}, or give the path of a .toml file"
            raise MapError([MapProblem(Path(name), None, "", text)])
    return path


def load(name: str) -> RegisterMap:
    """A map by its name or path. Raises `MapError` with everything that is wrong with it."""
    path = find(name)
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except OSError as error:
        raise MapError(
            [MapProblem(path, None, "", f"cannot be read: {(error.strerror or str(error)).lower()}")]
        ) from error
    except UnicodeDecodeError as error:
        raise MapError([MapProblem(path, None, "", f"is not UTF-8 text: {error.reason}")]) from error
    except tomllib.TOMLDecodeError as error:
        line = _TOML_LINE.search(str(error))
        raise MapError([MapProblem(path, int(line[1]) if line else None, "", f"is not TOML: {error}")]) from error
    try:
        file = _File.model_validate(document)
    except ValidationError as error:
        raise MapError([_problem(path, text, document, one) for one in error.errors()]) from error
    if problems := list(_contradictions(path, text, file)):
        raise MapError(problems)
    head = file.map
    registers = tuple(
        register.model_copy(
            update={
                "address": register.address - head.base,
                "word_order": register.word_order or head.word_order,
                "byte_order": register.byte_order or head.byte_order,
            }
        )
        for register in file.registers
    )
    return RegisterMap(head.title, head.kind, head.source, head.most_words, head.gap_words, registers)


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("names are lower-case words, as in power_watts/phase_1")
    return name


def _contradictions(path: Path, text: str, file: _File) -> list[MapProblem]:
    """What is wrong between registers that are each right by themselves."""
    problems = [] if file.registers else [MapProblem(path, None, "register", "there is none; give [[register]] tables")]
    seen: dict[str, int] = {}
    for index, register in enumerate(file.registers):
        where = f"register {index + 1} ({register.name})"
        for name in register.points:
            if name in seen:
                said = f"the name {name!r} is that of register {seen[name] + 1} too"
                problems.append(MapProblem(path, _line(text, index, "name"), where, said))
            seen.setdefault(name, index)
        first = register.address - file.map.base
        line = _line(text, index, "address")
        if first < 0:
            said = f"address {register.address} lies below base {file.map.base}"
            problems.append(MapProblem(path, line, where, said))
        elif first + register.size > _ADDRESSES:
            said = f"address {register.address} with {register.size} words lies beyond the last register, 65535"
            problems.append(MapProblem(path, line, where, said))
        if register.size > file.map.most_words and register.function not in _BIT_FUNCTIONS:
            said = f"has {register.size} words, but map.most_words is {file.map.most_words}"
            problems.append(MapProblem(path, line, where, said))
    return problems


def _problem(path: Path, text: str, document: dict[str, Any], error: Any) -> MapProblem:
    """One complaint of the validator, with the line it is about."""
    where = list(error["loc"])
    said = error["msg"].removeprefix("Value error, ").replace("valid tuple", "list")
    found = error["input"]
    if error["type"] == "extra_forbidden":
        said = "there is no such key"
    elif error["type"] == "missing":
        said = "is missing"
    elif not isinstance(found, dict | list | tuple):
        said = f"found {found!r}: {said[0].lower()}{said[1:]}"
    index = where[1] if where[0] == "register" and len(where) > 1 and isinstance(where[1], int) else None
    keys = where[1:] if index is None else where[2:]
    line = _line(text, index, str(keys[0]) if keys else "", head=where[0] == "map")
    field = ".".join(map(str, where))
    if index is not None:
        name = document["register"][index].get("name") if isinstance(document["register"][index], dict) else None
        tail = ".".join(map(str, keys))
        field = f"register {index + 1}{f' ({name})' if isinstance(name, str) else ''}{f', {tail}' if tail else ''}"
    return MapProblem(path, line, field, said)


def _line(text: str, index: int | None, key: str, *, head: bool = False) -> int | None:
    """The line of a key, else that of the table it should be in; tables are counted, so it is found in any layout."""
    header = re.compile(r"\s*\[map\]" if head else r"\s*\[\[\s*register\s*\]\]")
    count, table = -1, None
    for number, line in enumerate(text.splitlines(), 1):
        if header.match(line):
            count += 1
            if head or count == index:
                table = number
                continue
            if table is not None:
                break
        elif table is not None and line.lstrip().startswith("[") and not line.lstrip().startswith("[register."):
            break
        if table is not None and key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return number
    return table
