"""What an operator says, on its way: at which times, to which racks, as events that Kafka has acknowledged."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from infra.errors import MisuseError, OperatorError
from infra.options import Options

if TYPE_CHECKING:
    from infra.settings import Settings
    from schemas.records import HardwareEvent, InventoryRecord

PATIENCE_S = 10.0
"""How long a command waits for the broker."""
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_LONGEST_S = 366 * 86_400


class Place(NamedTuple):
    """A rack: the stream that watches over it has to hear."""

    site: str
    rack: str


def settings_of(context: typer.Context) -> Settings:
    """The settings of this installation, with the log kept quiet: a command says one line. Raises `MisuseError`."""
    from infra import observe

    options: Any = context.find_root().obj
    assert isinstance(options, Options)  # noqa: S101 - the callback of the command line put it there
    settings = options.settings()
    observe.configure_logging(context.info_name or "", level="error", json_lines=settings.observe.json_lines)
    return settings


def now_ms() -> int:
    """The time by this machine's clock."""
    return time.time_ns() // 1_000_000


def user() -> str:
    """Who is logged in here."""
    from getpass import getuser

    return getuser()


def duration_s(text: str) -> int:
    """`90m`, `2h`, `1h30m`, `3d` in seconds. Raises `MisuseError`."""
    whole = re.fullmatch(r"((?:[0-9]{1,6}\s*(?:s|min|m|h|d)\s*)+)", text.strip().lower())
    seconds = sum(int(n) * _UNITS[unit] for n, unit in re.findall(r"([0-9]+)\s*(min|[smhd])", whole[1])) if whole else 0
    if not 0 < seconds <= _LONGEST_S:
        raise MisuseError(f"{text!r} is no time span; write 90m, 2h, 1h30m or 3d (a year at most)")
    return seconds


def moment_ms(text: str, now: int, *, after: int) -> int:
    """A time that somebody wrote, in UTC milliseconds. Raises `MisuseError`.

    `now`; `+2h`, counted from `after`; `22:00`, the next one; or a date with a time. Without a zone it is UTC.
    """
    words = text.strip()
    if words == "now":
        return now
    if words.startswith("+"):
        return after + duration_s(words[1:]) * 1000
    here = datetime.fromtimestamp(now / 1000, UTC)
    try:
        if re.fullmatch(r"[0-9]{1,2}:[0-9]{2}", words):
            hour, minute = map(int, words.split(":"))
            found = here.replace(hour=hour, minute=minute, second=0, microsecond=0)
            found += timedelta(days=found < here)
        else:
            found = datetime.fromisoformat(words)
            found = found if found.tzinfo else found.replace(tzinfo=UTC)
        return round(found.timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise MisuseError(
            f"{text!r} is no time; write now, +2h, 22:00, or 2026-05-04T22:00 (UTC unless it has a zone, as +02:00)"
        ) from error


def clock(at_ms: int) -> str:
    """A time as it is printed."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def places_of(settings: Settings, of: str, rack: str | None, site: str | None) -> list[Place]:
    """The racks that have to hear of a component or scope: as told, or as the inventory knows them.

    Raises `OperatorError` where that is not known, `ConnectionError` where Kafka cannot be read.
    """
    if rack is not None and site is not None:
        return [Place(site, rack)]
    from infra import addresses
    from producers.inventory import compare, topic

    known = compare.standing(topic.read(addresses.kafka_client(settings)))
    of = f"rack:{rack}" if rack is not None else of
    found = {
        Place(record.site, record.rack)
        for standing in known.values()
        for record in (standing.declared, standing.discovered)
        if record is not None and _belongs(record, of) and site in {None, record.site}
    }
    if not found:
        raise OperatorError(
            f"the inventory knows nothing of {of}{f' in site {site}' if site else ''}, so nobody could be told; check "
            "the name (`fleetpulse inventory show`), or say where it is: --rack and --site"
        )
    return sorted(found)


def _belongs(record: InventoryRecord, of: str) -> bool:
    kind, _, name = of.partition(":")
    if record.component == of or (kind == "switch" and record.component == f"leaf_switch:{name}"):
        return True
    return {
        "rack": record.rack,
        "site": record.site,
        "node": record.node,
        "pdu": record.pdu,
        "switch": record.leaf_switch,
        "port": None,
    }.get(kind) == name or (kind in {"port", "nvswitch", "bmc"} and record.node == name.partition("/")[0])


def word(
    kind: str, place: Place, said_ms: int, text: str, details: Mapping[str, str], *, node: str = "", gpu: str = ""
) -> HardwareEvent:
    """What an operator says, as an event. The same word to several racks is one event."""
    from schemas.ids import stable_id
    from schemas.records import HardwareEvent

    return HardwareEvent(
        event_id=stable_id("operator", kind, said_ms, sorted(details.items())),
        site=place.site,
        rack=place.rack,
        node=node,
        boot_id="",
        sequence=0,
        event_ms=said_ms,
        observed_ms=said_ms,
        source="operator",
        kind=kind,
        gpu=gpu or None,
        severity="info",
        details=dict(details),
        raw=text,
    )


def send(settings: Settings, words: Iterable[HardwareEvent]) -> None:
    """Send words and wait until Kafka has all of them. Raises `OperatorError` where it does not take them."""
    from infra import addresses
    from producers.publisher import Publisher, PublishError
    from schemas.topics import EVENTS

    kafka = addresses.kafka_client(settings)
    publisher = Publisher(kafka, settings.agent.publish)
    sent = 0
    try:
        for event in words:
            while not publisher.publish(EVENTS, event.rack, event):
                publisher.poll(0.1)
            sent += 1
        publisher.close(PATIENCE_S)
    except PublishError as error:
        raise OperatorError(f"{error}; nothing was said") from error
    if publisher.delivered < sent:
        raise OperatorError(
            f"Kafka at {kafka['bootstrap.servers']} has not taken {sent - publisher.delivered} of {sent} words within "
            f"{PATIENCE_S:.0f} s; say it again when it is there (`fleetpulse doctor` looks)"
        )


def racks_in_words(places: Sequence[Place]) -> str:
    """`rack r1`, `racks r1, r2`, `31 racks`."""
    names = [place.rack for place in places]
    if len(names) == 1:
        return f"rack {names[0]}"
    return f"racks {', '.join(names)}" if len(names) <= 4 else f"{len(names)} racks"
