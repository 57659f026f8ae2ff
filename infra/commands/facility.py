"""`fleetpulse facility`: commissioning PDUs, coolers and meters: read one once, check a register map."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from infra.errors import MisuseError, OperatorError
from infra.options import Options

if TYPE_CHECKING:
    from producers.facility.maps import RegisterMap
    from producers.facility.points import Answer
    from producers.facility.settings import ModbusDevice

app = typer.Typer(
    name="facility",
    help="PDUs, coolers and meters: read one, check a register map. Needs nothing running.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
)


@app.command("read")
def read(
    context: typer.Context,
    register_map: Annotated[
        str, typer.Option("--map", help="A register map: the name of one that ships, or the path of a .toml file.")
    ],
    host: Annotated[
        str | None, typer.Option(metavar="HOST[:PORT]", help="Modbus over TCP; an IPv6 address as [fd00::7]:502.")
    ] = None,
    serial: Annotated[str | None, typer.Option(metavar="PATH", help="Modbus RTU: the serial device.")] = None,
    unit: Annotated[int, typer.Option(min=0, max=255, help="The unit id (slave address).")] = 1,
    baud: Annotated[int, typer.Option(help="Bits per second of the serial line.")] = 9600,
    parity: Annotated[str, typer.Option(help="Parity of the serial line: N, E or O.")] = "N",
    stop_bits: Annotated[int, typer.Option(help="Stop bits of the serial line: 1 or 2.")] = 1,
    rtu_over_tcp: Annotated[
        bool, typer.Option("--rtu-over-tcp", help="The host is a serial server that passes RTU frames through.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds that one answer may take.")] = 1.0,
) -> None:
    """Read one device once and show what it says, for commissioning. Exit 1 where it gives no answer.

    With --json one object: title, kind, points (name, unit, value, state) and unread.

    [dim]fleetpulse facility read --map eastron_sdm630 --serial /dev/ttyUSB0 --unit 3[/]
    [dim]fleetpulse facility read --map my_pdu.toml --host 10.0.7.12 --json | jq '.points[] | select(.state)'[/]
    """
    from producers.facility import maps
    from producers.facility.modbus import Bus
    from producers.facility.points import DeviceError

    options = context.find_root().obj
    try:
        loaded = maps.load(register_map)
    except maps.MapError as error:
        raise OperatorError(str(error)) from error
    framing = "rtu" if rtu_over_tcp else "tcp"
    line = {"baud": baud, "parity": parity.upper(), "stop_bits": stop_bits, "framing": framing, "timeout_s": timeout}
    device = _device(loaded, register_map, host, {"serial": serial, "unit": unit, **line})
    bus = Bus([device])
    try:
        answer = bus.read(device, loaded)
    except DeviceError as error:
        raise OperatorError(str(error)) from error
    finally:
        bus.close()
    if isinstance(options, Options) and options.json_lines:
        _print_json(loaded, answer)
    else:
        _print_table(loaded, device, answer)
    if answer.unread:
        raise typer.Exit(1)


@app.command("check")
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A register map: a .toml file, or one that ships.")],
) -> None:
    """Check a register map: every error with its file, line and key. Exit 1 where there is one.

    [dim]fleetpulse facility check my_pdu.toml[/]
    """
    from producers.facility import maps
    from producers.facility.registers import plan_of

    try:
        loaded = maps.load(file)
    except maps.MapError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        raise typer.Exit(1) from error
    count = sum(len(register.points) for register in loaded.registers)
    blocks = plan_of(loaded)
    points = f"{count} point{'' if count == 1 else 's'}"
    questions = f"{len(blocks)} question{'' if len(blocks) == 1 else 's'}"
    print(f"{maps.find(file)}: good: {loaded.title}; {points} in {questions}")
    for block in blocks:
        print(f"  {block.function} {block.address} to {block.address + block.count - 1}")


def _device(loaded: RegisterMap, register_map: str, host: str | None, rest: dict[str, object]) -> ModbusDevice:
    from pydantic import ValidationError

    from producers.facility.settings import ModbusDevice, split_host

    if host is not None:
        try:
            split_host(host)
        except ValueError as error:
            raise MisuseError(f"--host: {error}") from error
    given_all = {"name": "commissioning", "kind": loaded.kind, "map": register_map, "host": host, **rest}
    try:
        return ModbusDevice.model_validate(given_all)
    except ValidationError as error:
        told = [one["msg"].removeprefix("Value error, device commissioning: ") for one in error.errors()]
        names = ["--" + "-".join(map(str, one["loc"])).replace("_s", "").replace("_", "-") for one in error.errors()]
        lines = [f"{name}: {text}" if name != "--" else text for name, text in zip(names, told, strict=True)]
        raise MisuseError("; ".join(lines).replace("give host or serial", "give --host or --serial")) from error


def _print_json(loaded: RegisterMap, answer: Answer) -> None:
    import msgspec

    points = [msgspec.to_builtins(measured.point()) for measured in answer.measured]
    shown = {"title": loaded.title, "kind": loaded.kind, "points": points, "unread": list(answer.unread)}
    sys.stdout.buffer.write(msgspec.json.encode(shown) + b"\n")
    sys.stdout.buffer.flush()


def _print_table(loaded: RegisterMap, device: ModbusDevice, answer: Answer) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    colours = {"ok": "green", "warning": "yellow", "critical": "red"}
    why = dict(one.split(": ", 1) for one in answer.unread)
    table = Table(title=f"{escape(loaded.title)}: unit {device.unit} at {escape(device.bus)}", title_justify="left")
    for name in ("point", "value", "unit", "state"):
        table.add_column(name, justify="right" if name == "value" else "left", overflow="fold")
    for one in answer.measured:
        colour = colours.get(one.state or "", "")
        state = escape(one.state or "")
        value = "" if one.value is None else f"{one.value:,.7g}"
        if one.value is None and one.state is None:
            value, state = "-", f"[dim]{escape(why.get(one.name, 'not measured'))}[/]"
        elif colour:
            state = f"[{colour}]{state}[/]"
        table.add_row(escape(one.name), value, one.unit.replace("_", " "), state)
    Console(soft_wrap=False).print(table)
    for one_unread in answer.unread:
        print(f"could not be read: {one_unread}", file=sys.stderr)
