"""A management controller's fans, supplies, temperatures and leaks over Redfish: which documents, in what order.

Controllers are slow (a tenth of a second per document and more), so as few documents are read as tell everything: the
two old ones where they are, the many new ones where not, and those in one piece where the service can.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from producers.facility import redfish_documents as documents
from producers.facility.points import Answer, DeviceError, Measured, distinct, slug, unread
from producers.facility.redfish_documents import Document, link, listed, mapping
from producers.facility.redfish_session import DocumentError, Session
from producers.facility.settings import BmcSettings

ROOT = "/redfish/v1/"
_MOST_PAGES = 20
_MOST_CHASSIS = 64
_LOOK_AROUND_S = 600.0
"""What chassis there are and what they link to is asked for so often; in between only what changes is read."""

_Reader = Callable[[Document], Iterator[Measured]]


class Redfish:
    """One service. Used by one thread at a time."""

    def __init__(self, settings: BmcSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._session = Session(settings, clock)
        self._clock = clock
        self._expand = False
        self._chassis: list[Document] = []
        self._looked: float | None = None
        self._known: dict[str, tuple[Measured, ...]] = {}
        self._unread: list[str] = []

    def read(self) -> Answer:
        """All that its chassis show. Raises `DeviceError` where the service as a whole gives nothing."""
        self._session.begin()
        self._unread = []
        try:
            self._look_around()
        except DocumentError as error:
            raise DeviceError(f"reading {self._session.url}: {error}; is it a Redfish service?") from error
        measured = [one for chassis in self._chassis for one in self._of_chassis(chassis)]
        if all(one.value is None and one.state is None for one in measured):
            self._looked = None
            why = self._unread[0] if self._unread else "its chassis show neither fans nor supplies nor sensors"
            raise DeviceError(f"reading {self._session.url}: nothing could be read; {why}")
        return Answer(tuple(distinct(measured)), tuple(self._unread))

    def close(self) -> None:
        """Log out."""
        self._session.close()
        self._looked = None

    def _look_around(self) -> None:
        now = self._clock()
        if self._looked is not None and now - self._looked < _LOOK_AROUND_S:
            return
        root = self._session.get(ROOT)
        expand = mapping(mapping(root.get("ProtocolFeaturesSupported")).get("ExpandQuery"))
        self._expand = expand.get("NoLinks") is True
        self._session.sessions_path = link(mapping(root.get("Links")).get("Sessions")) or self._session.sessions_path
        path = link(root.get("Chassis")) or "/redfish/v1/Chassis"
        found = [chassis for _, chassis in self._members(path, expand=False) if chassis is not None]
        self._chassis, self._looked = found[:_MOST_CHASSIS], now

    def _of_chassis(self, chassis: Document) -> Iterator[Measured]:
        """One chassis, by the old documents where it has them."""
        found: list[Measured] = []
        if path := link(chassis.get("Thermal")):
            found += self._one(path, documents.thermal)
        else:
            found += self._thermal_subsystem(link(chassis.get("ThermalSubsystem")))
        if path := link(chassis.get("Power")):
            found += self._one(path, documents.power)
        else:
            found += self._power_subsystem(link(chassis.get("PowerSubsystem")))
            if path := link(chassis.get("EnvironmentMetrics")):
                found += self._one(path, documents.environment)
        if not any(one.unit == "celsius" for one in found) and (path := link(chassis.get("Sensors"))):
            found += self._collection(path, documents.sensor)
        if len(self._chassis) == 1:
            yield from found
            return
        place = slug(documents.text(chassis, "Id", "Name"))
        for one in found:  # each chassis has its own Fan 1
            what, _, part = one.name.partition("/")
            yield replace(one, name="/".join(filter(None, (what, place, part))))

    def _thermal_subsystem(self, path: str) -> Iterator[Measured]:
        subsystem = self._optional(path)
        if fans := link(subsystem.get("Fans")):
            yield from self._collection(fans, documents.fan)
        if metrics := link(subsystem.get("ThermalMetrics")):
            yield from self._one(metrics, documents.thermal_metrics)
        if detectors := link(self._optional(link(subsystem.get("LeakDetection"))).get("LeakDetectors")):
            yield from self._collection(detectors, documents.leak_detector)

    def _power_subsystem(self, path: str) -> Iterator[Measured]:
        if supplies := link(self._optional(path).get("PowerSupplies")):
            yield from self._collection(supplies, self._power_supply)

    def _power_supply(self, document: Document) -> Iterator[Measured]:
        metrics = link(document.get("Metrics"))
        return documents.power_supply(document, self._optional(metrics) if metrics else None)

    def _one(self, path: str, read: _Reader) -> Iterator[Measured]:
        """The points of one document."""
        return self._points(path, self._optional(path) or None, read)

    def _collection(self, path: str, read: _Reader) -> Iterator[Measured]:
        """The points of every member."""
        try:
            for where, document in self._members(path, expand=self._expand):
                yield from self._points(where, document, read)
        except DocumentError as error:
            self._unread.append(f"{path}: {error}")
            for where, known in self._known.items():
                if where.startswith(f"{path.rstrip('/')}/"):
                    yield from unread(known)

    def _points(self, path: str, document: Document | None, read: _Reader) -> Iterator[Measured]:
        """What a document says; where it did not come, the points that it gave before, without values."""
        if document is None:
            return unread(self._known.get(path, ()))
        self._known[path] = tuple(read(document))
        return iter(self._known[path])

    def _optional(self, path: str) -> Document:
        """A document, or an empty one where it does not come, which is noted."""
        if not path:
            return {}
        try:
            return self._session.get(path)
        except DocumentError as error:
            self._unread.append(f"{path}: {error}")
            return {}

    def _members(self, path: str, *, expand: bool) -> Iterator[tuple[str, Document | None]]:
        """The members of a collection, in one piece where the service can; None for one that does not come."""
        pages = self._pages(path)
        if expand:
            try:
                pages = iter([*self._pages(f"{path}?$expand=.($levels=1)")])
            except DocumentError:
                self._expand = False  # it says that it can, and cannot
        for page in pages:
            for member in listed(page.get("Members")):
                where = link(member)
                if len(member) > 1:
                    yield where, member
                elif where:
                    yield where, self._optional(where) or None

    def _pages(self, path: str) -> Iterator[Document]:
        for _ in range(_MOST_PAGES):
            page = self._session.get(path)
            yield page
            path = link({"@odata.id": page.get("Members@odata.nextLink")})
            if not path:
                return
