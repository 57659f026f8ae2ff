"""The folder of one database: what lies where, who holds it, and what is said when it cannot be used.

data_dir/
  engine/           the engine's files, and its temporary ones in engine/tmp; all it may touch
  config/           the engine's configuration, written at each start; it may read it
  writer.password   mode 0600; out of the engine's reach
  server.lock       held while a process serves the folder
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

NEEDED_BYTES: Final = 32 * 2**20  # of free disk, to start at all


class StartError(Exception):
    """The server cannot start; the text is one line that names the thing and the remedy."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of one database, by its real path: the engine compares paths letter by letter."""

    root: Path

    @property
    def engine(self) -> Path:
        """The engine's files."""
        return self.root / "engine"

    @property
    def temporary(self) -> Path:
        """The engine's temporary files."""
        return self.engine / "tmp"

    @property
    def config(self) -> Path:
        """The engine's configuration."""
        return self.root / "config"

    @property
    def engine_config(self) -> Path:
        """The file that the engine is started with."""
        return self.config / "config.xml"

    def free_bytes(self) -> int:
        """Room left on the disk of the engine's files."""
        found = os.statvfs(self.engine)
        return found.f_bavail * found.f_frsize


@contextmanager
def held(data_dir: Path, *, memory_bytes: int, keep_free_bytes: int) -> Iterator[Folder]:
    """The folder, made ready and held against a second process.

    The engine is configured to take `memory_bytes` at most, and to leave a quarter of `keep_free_bytes` of the disk
    alone: less than an INSERT must leave (`job.py`), so that a nearly full table can still be merged or truncated.

    Raises:
        StartError: it is held by another process, cannot be written, or the disk is full.
    """
    with told(f"prepare the database folder {data_dir}"):
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = Folder(data_dir.resolve())
        if any(letter in str(folder.root) for letter in "?&#"):
            raise StartError(f"the engine cannot use the folder {folder.root}: choose one without '?', '&' and '#'")
        lock = _lock(folder.root)
        try:
            for part in (folder.engine, folder.temporary, folder.config):
                part.mkdir(mode=0o700, exist_ok=True)
            for left in folder.temporary.iterdir():  # by a process that was killed
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            _write_config(folder, memory_bytes, keep_free_bytes)
            _check_room(folder)
        except BaseException:
            os.close(lock)
            raise
    try:
        yield folder
    finally:
        os.close(lock)


def _lock(root: Path) -> int:
    lock = os.open(root / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise StartError(
            f"another process (pid {holder}) already serves the database folder {root}: "
            "connect to it, stop it, or choose another data_dir"
        ) from None
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock


def _check_room(folder: Folder) -> None:
    if folder.free_bytes() < NEEDED_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder.engine))


def _write_config(folder: Folder, memory_bytes: int, keep_free_bytes: int) -> None:
    users = resources.files(__package__).joinpath("users.xml").read_bytes()
    (folder.config / "users.xml").write_bytes(users)
    folder.engine_config.write_text(
        f"""<clickhouse>
    <!-- Written at each start of the embedded ClickHouse; changes here are lost. -->
    <users_config>{escape(str(folder.config / "users.xml"))}</users_config>
    <max_server_memory_usage>{memory_bytes}</max_server_memory_usage>
    <mark_cache_size>{memory_bytes // 16}</mark_cache_size>
    <!-- This engine takes a write that failed for one that succeeded, so the disk must never become full. -->
    <storage_configuration>
        <disks>
            <default>
                <keep_free_space_bytes>{keep_free_bytes // 4}</keep_free_space_bytes>
            </default>
        </disks>
    </storage_configuration>
</clickhouse>
"""
    )


_REMEDIES = {
    errno.EACCES: "give this user the right to write there, or choose another data_dir",
    errno.EPERM: "give this user the right to write there, or choose another data_dir",
    errno.EROFS: "the file system is read-only: choose another data_dir",
    errno.ENOSPC: "the disk is full: free some space, or choose another data_dir",
    errno.EDQUOT: "this user's disk quota is used up: free some space, or choose another data_dir",
    errno.ENOTDIR: "a part of that path is a file: choose another data_dir",
    errno.EEXIST: "that path is a file: choose another data_dir",
}


@contextmanager
def told(doing: str) -> Iterator[None]:
    """Turn an error of the operating system into one line for the reader."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "see the message of the operating system")
        where = f" ({error.filename})" if error.filename else ""
        raise StartError(f"cannot {doing}: {error.strerror or error}{where}; {remedy}") from error
