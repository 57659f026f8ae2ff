"""What `ipmitool` prints, as points; and running it. For controllers that have no Redfish, or where it does not answer.

`sdr elist` and `sensor` are both read. The first is what is run: it names the states of supplies in words.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator

from producers.facility.points import (
    ABSENT,
    CRITICAL,
    OK,
    WARNING,
    Answer,
    DeviceError,
    Measured,
    distinct,
    finite,
    slug,
    temperature_name,
    unread,
)
from producers.facility.settings import BmcSettings

_UNITS: dict[str, tuple[str, str, str]] = {
    # ipmitool's unit: the point's name, its unit, the event it raises
    "degrees c": ("temperature_celsius", "celsius", "cooling_alarm"),
    "rpm": ("fan_speed_rpm", "rpm", "fan_failed"),
    "watts": ("power_watts", "watts", "power_alarm"),
    "volts": ("voltage_volts", "volts", "power_alarm"),
    "amps": ("current_amperes", "amperes", "power_alarm"),
    "percent": ("level_percent", "percent", ""),
    "unspecified": ("level_percent", "percent", ""),
    "cfm": ("air_flow_cubic_feet_per_minute", "cubic_feet_per_minute", ""),
}
_STATUS: dict[str, str | None] = {
    # thresholds as ipmitool abbreviates them (ipmi_sdr.c, ipmi_sdr_get_thresh_status)
    "ok": OK,
    "nc": WARNING,
    "lnc": WARNING,
    "unc": WARNING,
    "cr": CRITICAL,
    "lcr": CRITICAL,
    "ucr": CRITICAL,
    "nr": CRITICAL,
    "lnr": CRITICAL,
    "unr": CRITICAL,
    "ns": None,
    "na": None,
}
_WORDS: tuple[tuple[str, str], ...] = (
    # the worst first: a supply says "Presence detected, Failure detected"
    (r"(?<!predictive )failure|\bfailed|ac lost|input lost|out-of-range|(?<!non-)critical|non-recoverable", CRITICAL),
    (r"predictive|redundancy lost|redundancy degraded|non-redundant|mismatch|config error|non-critical", WARNING),
    (r"\babsent|not present|not installed", ABSENT),
    (r"presence detected|fully redundant|\bpresent\b|\bok\b|state deasserted", OK),
)
"""What `sdr elist` says of states (IPMI 2.0, tables 42-2 and 42-3), looked for in small letters."""
_SUPPLY = re.compile(r"\bps\s?\d|\bpsu|power supply", re.IGNORECASE)
_FAN = re.compile(r"\bfan", re.IGNORECASE)
_LEAK = re.compile(r"leak", re.IGNORECASE)
_READING = re.compile(r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s+(\S.*)", re.IGNORECASE)
_NOTHING = {"", "na", "no reading", "disabled", "not available", "n/a", "not readable"}
_SUPPLY_BITS: tuple[tuple[int, str], ...] = ((0x02, CRITICAL), (0x08, CRITICAL), (0x10, CRITICAL), (0x04, WARNING))
"""Failure, input lost, input out of range, failure predicted (IPMI 2.0, table 42-3, sensor type 08h)."""
_PRESENT = 0x01
_SDR_COLUMNS, _SENSOR_COLUMNS = 5, 10
_LARGEST_TEXT = 4 << 20

Run = Callable[[list[str], float], "subprocess.CompletedProcess[bytes]"]


def parse(lines: Iterable[str]) -> Iterator[Measured]:
    """The points of `ipmitool sdr elist` or `ipmitool sensor`; other lines are gone past. Never raises."""
    return distinct(measured for _, measured in sensors(lines) if measured is not None)


def sensors(lines: Iterable[str]) -> Iterator[tuple[str, Measured | None]]:
    """Each sensor's own name and what it says; None where it says nothing, which leaves open what it would have."""
    for line in lines:
        columns = [part.strip() for part in line.split("|")]
        if len(columns) == _SDR_COLUMNS and columns[0]:  # name | number | status | entity | reading
            name, _, status, _, reading = columns
            found = _READING.fullmatch(reading)
            if status.lower() in _STATUS:
                yield name, _number(name, found[1], found[2], status) if found else _words(name, reading)
        elif len(columns) >= _SENSOR_COLUMNS and columns[0]:  # name | reading | unit | status | six thresholds
            name, value, unit, status = columns[:4]
            if unit == "discrete":
                yield name, _bits(name, status)
            elif status.lower() in _STATUS:
                yield name, _number(name, value, unit, status)


def _number(name: str, value: str, unit: str, status: str) -> Measured:
    known = _UNITS.get(unit.lower().removeprefix("% ").strip(), (slug(unit), slug(unit), ""))
    base, unit_word, event = known
    base = temperature_name(name) if base == "temperature_celsius" else f"{base}/{slug(name)}"
    number = finite(value)
    # a sensor that gives no number says nothing by its status either
    return Measured(base, unit_word, number, _STATUS[status.lower()] if number is not None else None, event)


def _words(name: str, said: str) -> Measured | None:
    """A state in the words of `sdr elist`."""
    small = said.lower()
    if small in _NOTHING:
        return None
    state = next((state for pattern, state in _WORDS if re.search(pattern, small)), slug(said))
    if small == "state asserted" and _LEAK.search(name):
        state = CRITICAL
    return Measured(*_state_point(name), value=None, state=state, event=_state_event(name))


def _bits(name: str, status: str) -> Measured | None:
    """A state in the bits of `sensor`; they mean something else for each type, which only a supply's name tells."""
    try:
        flags = int(status, 16) >> 8
    except ValueError:
        return None
    if not _SUPPLY.search(name):
        return None
    state = next((state for bit, state in _SUPPLY_BITS if flags & bit), OK if flags & _PRESENT else ABSENT)
    return Measured(*_state_point(name), value=None, state=state, event=_state_event(name))


def _state_point(name: str) -> tuple[str, str]:
    base = "power_supply" if _SUPPLY.search(name) else "leak" if _LEAK.search(name) else "state"
    return f"{base}/{slug(name)}", ""


def _state_event(name: str) -> str:
    """What a state raises, by the name of its sensor; empty where the name does not say."""
    for pattern, event in ((_SUPPLY, "psu_failed"), (_LEAK, "leak_detected"), (_FAN, "fan_failed")):
        if pattern.search(name):
            return event
    return ""


class Ipmitool:
    """One controller, by the program."""

    def __init__(self, settings: BmcSettings, *, run: Run | None = None) -> None:
        self._settings = settings
        self._run = run or _run
        self._known: dict[str, Measured] = {}

    def read(self) -> Answer:
        """All sensors. Raises `DeviceError` where the program is not there or gives none."""
        command = [*self._command(), "sdr", "elist"]
        where = self._settings.host or "this machine's own controller"
        asked = f"asking {where} with {self._settings.ipmitool_path} sdr elist"
        try:
            done = self._run(command, self._settings.budget_s)
        except FileNotFoundError as error:
            raise DeviceError(f"{asked}: there is no such program; install ipmitool or set ipmitool_path") from error
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"{asked}: not done after {self._settings.budget_s:g} s (budget_s)") from error
        except OSError as error:
            raise DeviceError(f"{asked}: {(error.strerror or str(error)).lower()}") from error
        lines = done.stdout[:_LARGEST_TEXT].decode(errors="replace").splitlines()
        measured = tuple(distinct(self._remembered(lines)))
        if not measured:
            said = " ".join(done.stderr.decode(errors="replace").split())[:300] or "it printed no sensors"
            raise DeviceError(f"{asked}: exit {done.returncode}: {said}; {_remedy(said)}")
        return Answer(measured)

    def _remembered(self, lines: Iterable[str]) -> Iterator[Measured]:
        """A sensor that says nothing now is known by what it said before."""
        for name, measured in sensors(lines):
            if measured is not None:
                self._known[name] = measured
                yield measured
            elif name in self._known:
                yield from unread((self._known[name],))

    def close(self) -> None:
        """Nothing is kept open."""

    def _command(self) -> list[str]:
        settings = self._settings
        command = [settings.ipmitool_path]
        if settings.host is not None:
            command += ["-I", "lanplus", "-H", settings.host, "-L", settings.privilege]
            if settings.user is not None:  # the password goes by its file: arguments are seen by everybody
                command += ["-U", settings.user, "-f", str(settings.password_file)]
        return command


def _run(command: list[str], timeout_s: float) -> subprocess.CompletedProcess[bytes]:
    english = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False, env=english
    )


def _remedy(said: str) -> str:
    if "/dev/ipmi" in said:
        return "load ipmi_si and ipmi_devintf, and let the agent's user use /dev/ipmi0"
    if "password" in said.lower() or "session" in said.lower() or "RAKP" in said:
        return "check host, user, password_file and privilege, and that IPMI over LAN is enabled"
    return "run it by hand to see more"
