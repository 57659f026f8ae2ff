"""Settings: one file, the environment over it, and every mistake told in one line that names the key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from infra.errors import MisuseError
from infra.settings import Settings, load


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("FLEETPULSE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def _file(text: str) -> Path:
    path = Path("fleetpulse.toml")
    path.write_text(text)
    return path


def _mistakes(config: Path | None = None) -> list[str]:
    with pytest.raises(MisuseError) as told:
        load(config)
    first, *lines = str(told.value).splitlines()
    assert first == "the settings cannot be used:"
    return [line.strip() for line in lines]


def test_without_a_file_everything_has_a_default() -> None:
    settings = load()
    assert settings.kafka.bootstrap is None
    assert settings.data_dir == Path("var")


def test_the_file_in_the_current_directory_is_read() -> None:
    _file('data_dir = "/srv/fp"\n[kafka]\nbootstrap = "k1:9092,k2:9092"\n[streams]\ntick_ms = 500\n')
    settings = load()
    assert settings.kafka.bootstrap == "k1:9092,k2:9092"
    assert settings.streams.tick_ms == 500
    assert settings.data_dir == Path("/srv/fp")


def test_the_environment_wins_key_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    _file('[kafka]\nbootstrap = "k1:9092"\nheap_mib = 777\n')
    monkeypatch.setenv("FLEETPULSE_KAFKA__BOOTSTRAP", "k9:9092")
    settings = load()
    assert (settings.kafka.bootstrap, settings.kafka.heap_mib) == ("k9:9092", 777)


def test_the_data_directory_of_the_command_line_wins_over_both(monkeypatch: pytest.MonkeyPatch) -> None:
    _file('data_dir = "a"')
    monkeypatch.setenv("FLEETPULSE_DATA_DIR", "b")
    assert load(data_dir=Path("c")).data_dir == Path("c")


def test_lists_and_tables_can_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETPULSE_SIMULATE__RACKS", '[{"kind": "hgx", "racks": 3}]')
    assert [rack.racks for rack in load().simulate.racks] == [3]


def test_a_wrong_value_is_told_with_key_source_and_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETPULSE_KAFKA__PORT", "123456")
    path = _file('[observe]\nlevel = "loud"\n')
    assert _mistakes(path) == [
        "kafka.port (environment, FLEETPULSE_KAFKA__PORT): found '123456', input should be less than or equal to 65535",
        "observe.level (fleetpulse.toml): found 'loud', input should be 'debug', 'info', 'warning' or 'error'",
    ]


def test_a_misspelt_key_is_told_with_the_likely_one() -> None:
    [line] = _mistakes(_file('[kafka]\nbootstrp = "k:1"\n'))
    assert line == "kafka.bootstrp (fleetpulse.toml): there is no such setting; did you mean bootstrap?"


def test_a_misspelt_variable_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETPULSE_KAFAK__BOOTSTRAP", "k:1")
    [line] = _mistakes()
    assert line == (
        "FLEETPULSE_KAFAK__BOOTSTRAP (environment): there is no such setting; did you mean FLEETPULSE_KAFKA?"
    )


def test_what_the_tests_read_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETPULSE_TEST_KAFKA", "k:1")
    assert isinstance(load(), Settings)


def test_a_password_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETPULSE_CLICKHOUSE__PASSWORD", "hunter2")
    assert "hunter2" not in repr(load())
    monkeypatch.setenv("FLEETPULSE_CLICKHOUSE__PASSWORD_FILE", "/etc/secret")
    [line] = _mistakes()
    assert "both set" in line
    assert "hunter2" not in line


def test_a_file_that_is_not_there_or_not_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="none.toml cannot be read: No such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(MisuseError, match="fleetpulse.toml is not TOML"):
        load(_file("[kafka\n"))


def test_a_bootstrap_without_a_port_is_refused() -> None:
    [line] = _mistakes(_file('[kafka]\nbootstrap = "kafka-1"\n'))
    assert line.startswith("kafka.bootstrap (fleetpulse.toml): found 'kafka-1'")
