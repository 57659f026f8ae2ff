"""Who asks: the writer's password, and the two logins."""

import base64
import binascii
import hmac
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.clickhouse.analyst import ANALYST
from infra.clickhouse.protocol import query_error

WRITER: Final = "fleetpulse"


@dataclass(frozen=True, slots=True)
class Login:
    """A user who has proved who he is."""

    name: str
    writes: bool


@dataclass(frozen=True, slots=True)
class Keys:
    """What opens each login; the analyst's is None where no password is asked."""

    writer: str
    analyst: str | None


def writer_password(path: Path) -> str:
    """The writer's password, from the file at `path` (see `password_in`)."""
    return password_in(path)


def password_in(path: Path) -> str:
    """The password in the file at `path`, which is made with a fresh one where it does not exist.

    The file is created whole (another process sees no file or all of it) with mode 0600. A file that others may read
    or write is refused: a password that others could have read is none.

    Raises:
        PermissionError: the file is open to others, is not a plain file, or belongs to somebody else.
        OSError: it cannot be read or made.
    """
    if not path.exists():
        _create(path)
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(handle) as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise PermissionError(
                f"the password file {path} has mode {stat.S_IMODE(found.st_mode):04o} and owner {found.st_uid}: "
                f"only its owner may have rights on it; if nobody else has read it, run: chmod 600 {path}, "
                "otherwise delete it and start again for a new password"
            )
        password = file.read().strip()
    if not password:
        raise PermissionError(f"the password file {path} is empty: delete it and start again for a new password")
    return password


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(24) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # unlike rename, never replaces a file that another start made meanwhile
        except FileExistsError:
            return
    finally:
        draft.unlink()


def login(keys: Keys, url: Mapping[str, str], headers: Mapping[str, str]) -> Login:
    """Who asks, from basic authentication, ClickHouse's own headers, or the keys of the URL.

    A request without a user, or with ClickHouse's `default`, is the analyst's: it can only read.
    """
    user, password = _claimed(url, headers)
    if user in {"", "default"}:
        user = ANALYST
    if user == WRITER:
        expected: str | None = keys.writer
    elif user == ANALYST:
        expected = keys.analyst
    else:
        expected = secrets.token_urlsafe()  # compared all the same: a wrong name takes as long as a wrong password
    if expected is not None and not hmac.compare_digest(password.encode(), expected.encode()):
        raise query_error(
            516,
            "AUTHENTICATION_FAILED",
            f"{user}: Authentication failed: password is incorrect, or there is no user with such name.",
        )
    return Login(user, writes=user == WRITER)


def _claimed(url: Mapping[str, str], headers: Mapping[str, str]) -> tuple[str, str]:
    basic = headers.get("Authorization", "")
    if basic:
        scheme, _, credentials = basic.partition(" ")
        try:
            user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            scheme = ""
        if scheme.lower() != "basic":
            raise query_error(516, "AUTHENTICATION_FAILED", "Authentication failed: only the Basic scheme is offered.")
        return user, password
    if "X-ClickHouse-User" in headers or "X-ClickHouse-Key" in headers:
        return headers.get("X-ClickHouse-User", ""), headers.get("X-ClickHouse-Key", "")
    return url.get("user", ""), url.get("password", "")
