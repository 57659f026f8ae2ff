"""HTTP to one Redfish service: logging in, reading documents, how both fail. The only file that touches `urllib3`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from producers.facility.points import DeviceError
from producers.facility.redfish_documents import Document, mapping
from producers.facility.settings import BmcSettings

if TYPE_CHECKING:
    from urllib3 import PoolManager

_SESSIONS = "/redfish/v1/SessionService/Sessions"
_LARGEST_BYTES = 8 << 20
_PATIENCE = 2
"""Documents in a row that may stay without an answer before the rest of a reading is given up."""
_NO_SESSIONS = {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED}


class DocumentError(Exception):
    """One document that did not come; its neighbours may."""


class _Reply(NamedTuple):
    status: int
    token: str
    location: str
    data: bytes


class Session:
    """One service. Used by one thread at a time; keeps one connection and, where it logs in, one session."""

    def __init__(self, settings: BmcSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self.url = (settings.url or "").rstrip("/")
        self._clock = clock
        self._pool: PoolManager | None = None
        self._login: dict[str, str] | None = None
        self._session = ""
        self._until = 0.0
        self._answered = False
        self._silent = 0
        self.sessions_path = _SESSIONS

    def begin(self) -> None:
        """A new reading: its budget of time begins."""
        self._until = self._clock() + self._settings.budget_s
        self._answered, self._silent = False, 0

    def get(self, path: str) -> Document:
        """A document. Raises `DocumentError` where it does not come, `DeviceError` where nothing will."""
        reply = self._ask(path)
        if reply.status == HTTPStatus.UNAUTHORIZED and self._session:  # the session has ended: once more with a new one
            self._login, self._session = None, ""
            reply = self._ask(path)
        if reply.status == HTTPStatus.UNAUTHORIZED:
            mend = "check user and password_file" if self._settings.user else "set user and password_file"
            raise DeviceError(f"reading {self.url}{path}: the service refuses us (401); {mend}")
        if reply.status == HTTPStatus.FORBIDDEN:
            raise DocumentError("status 403: the login may not read it; give it the role ReadOnly")
        if reply.status != HTTPStatus.OK:
            raise DocumentError(f"status {reply.status}")
        try:
            return mapping(msgspec.json.decode(reply.data))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DocumentError(f"is not JSON: {error}") from error

    def close(self) -> None:
        """End the session (controllers allow only a few of them) and the connection."""
        if self._session:
            self.begin()
            with contextlib.suppress(DeviceError, DocumentError):  # it ends by itself after a while
                self._send("DELETE", self._session, self._login or {})
        if self._pool is not None:
            self._pool.clear()
        self._pool, self._login, self._session = None, None, ""

    def _ask(self, path: str) -> _Reply:
        if self._login is None:
            self._login = self._logged_in()
        return self._send("GET", path, self._login)

    def _logged_in(self) -> dict[str, str]:
        """The headers that say who we are."""
        settings = self._settings
        if settings.user is None or settings.password_file is None:
            return {}
        try:
            password = settings.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise DeviceError(
                f"reading the password of {settings.user} from {settings.password_file}: {why}; "
                "give a file that the agent's user can read"
            ) from error
        if settings.auth == "session":
            body = msgspec.json.encode({"UserName": settings.user, "Password": password})
            reply = self._send("POST", self.sessions_path, {"Content-Type": "application/json"}, body)
            if reply.status in {HTTPStatus.OK, HTTPStatus.CREATED} and reply.token:
                self._session = urlsplit(reply.location).path
                return {"X-Auth-Token": reply.token}
            if reply.status not in _NO_SESSIONS:
                raise DeviceError(
                    f"logging in to {self.url} as {settings.user}: status {reply.status}; check user and "
                    "password_file, and whether the controller's sessions are all in use (then set auth = basic)"
                )
        from urllib3 import make_headers

        return dict(make_headers(basic_auth=f"{settings.user}:{password}"))

    def _send(self, method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> _Reply:
        from urllib3.exceptions import HTTPError

        left_s = self._until - self._clock()
        if left_s <= 0:
            raise DocumentError(f"left out: the reading took more than {self._settings.budget_s:g} s (budget_s)")
        if self._silent >= _PATIENCE:
            raise DocumentError("left out: the service stopped answering")
        try:
            response = self._connections().request(
                method,
                self.url + path,
                body=body,
                headers={"Accept": "application/json", "OData-Version": "4.0", **headers},
                redirect=False,  # a redirect would carry the login to wherever it points
                retries=False,
                timeout=min(left_s, self._settings.timeout_s),
                preload_content=False,
            )
            data = response.read(_LARGEST_BYTES + 1)
            if len(data) > _LARGEST_BYTES:
                response.close()
            response.release_conn()
        except (HTTPError, OSError) as error:
            if not self._answered:
                raise DeviceError(f"asking {self.url}{path}: {_why(error)}") from error
            self._silent += 1
            raise DocumentError(_why(error)) from error
        self._answered, self._silent = True, 0
        if len(data) > _LARGEST_BYTES:
            raise DocumentError(f"has more than {_LARGEST_BYTES >> 20} MiB")
        found = response.headers
        return _Reply(response.status, found.get("X-Auth-Token", ""), found.get("Location", ""), data)

    def _connections(self) -> PoolManager:
        if self._pool is None:
            import urllib3

            settings = self._settings
            options: dict[str, Any] = {"cert_reqs": "CERT_REQUIRED" if settings.verify_tls else "CERT_NONE"}
            if not settings.verify_tls:
                urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # the operator said so
            elif settings.ca_file is not None:
                if not settings.ca_file.is_file():
                    raise DeviceError(f"verifying {self.url} with {settings.ca_file}: there is no such file")
                options["ca_certs"] = str(settings.ca_file)
            self._pool = urllib3.PoolManager(maxsize=1, **options)
        return self._pool


def _why(error: Exception) -> str:
    """The reason of a failed request, with what to do about it."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "its certificate cannot be verified; set ca_file, or verify_tls = false to accept any"
    if "timed out" in text:
        return "no answer in time; is the controller on, and its address right?"
    if "refused" in text:
        return "connection refused; is Redfish enabled on the controller?"
    if "resolve" in text or "Name or service" in text:
        return "its name cannot be resolved"
    return f"{type(error).__name__}: {text}"
