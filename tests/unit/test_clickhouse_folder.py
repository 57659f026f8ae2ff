"""The database folder: held by one process, and one clear line where it cannot be used."""

import errno
import os
import stat
from pathlib import Path

import pytest

from infra.clickhouse.folder import StartError, held, told


def test_a_new_folder_is_its_owners_alone(tmp_path: Path) -> None:
    with held(tmp_path / "data", memory_bytes=2**30, keep_free_bytes=2**20) as folder:
        for path in (folder.root, folder.engine, folder.config):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert f"<max_server_memory_usage>{2**30}<" in folder.engine_config.read_text()
        assert f"<users_config>{folder.config / 'users.xml'}<" in folder.engine_config.read_text()
        assert "<analyst>" in (folder.config / "users.xml").read_text()


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    told_so = rf"pid {os.getpid()}.*already serves.*choose another data_dir"
    with held(tmp_path, memory_bytes=2**30, keep_free_bytes=2**20), pytest.raises(StartError, match=told_so):
        held(tmp_path, memory_bytes=2**30, keep_free_bytes=2**20).__enter__()
    with held(tmp_path, memory_bytes=2**30, keep_free_bytes=2**20):
        pass


def test_what_a_killed_start_left_is_cleared(tmp_path: Path) -> None:
    left = tmp_path / "engine" / "tmp" / "clickhouse-embedded-1234"
    left.mkdir(parents=True)
    with held(tmp_path, memory_bytes=2**30, keep_free_bytes=2**20):
        assert not left.exists()


def test_a_file_in_the_folders_place(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(StartError, match=r"cannot prepare the database folder .*data.*choose another data_dir"):
        held(tmp_path / "data", memory_bytes=2**30, keep_free_bytes=2**20).__enter__()


def test_a_folder_that_the_engine_cannot_be_told(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="without"):
        held(tmp_path / "a?b", memory_bytes=2**30, keep_free_bytes=2**20).__enter__()


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EACCES, "give this user the right"),
        (errno.EROFS, "file system is read-only"),
        (errno.EDQUOT, "quota"),
    ],
)
def test_an_error_of_the_system_becomes_one_line_with_a_remedy(number: int, remedy: str) -> None:
    with pytest.raises(StartError, match=remedy) as error, told("prepare the database folder /d"):
        raise OSError(number, os.strerror(number), "/d/engine")
    assert "\n" not in str(error.value)
    assert "/d/engine" in str(error.value)
