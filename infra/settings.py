"""What an installation may set: one TOML file and the environment, checked once, errors one line each.

Every component declares its own part beside itself; this file only puts the parts together and says where Kafka and
ClickHouse are. The environment wins over the file: `kafka.bootstrap` is `FLEETPULSE_KAFKA__BOOTSTRAP`.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from infra.errors import MisuseError
from producers.settings import AgentSettings, SimulateSettings
from sinks.settings import AlertSettings, LoaderSettings
from streams.settings import StreamsSettings

DEFAULT_FILE = Path("fleetpulse.toml")
PREFIX = "FLEETPULSE_"
_NOT_SETTINGS = ("FLEETPULSE_TEST_",)  # what the test suite reads
_SECTION = ConfigDict(extra="forbid", frozen=True)

Port = Annotated[int, Field(ge=1, le=65535)]


class KafkaSettings(BaseModel):
    """The part `[kafka]`: a broker of yours, or the embedded one."""

    model_config = _SECTION

    bootstrap: str | None = Field(
        None, pattern=r"^[^\s:,]+:\d+(,[^\s:,]+:\d+)*$", description="host:port,…; unset runs an embedded broker."
    )
    port: Port | None = Field(None, description="Port of the embedded broker; unset chooses a free one and keeps it.")
    heap_mib: int = Field(512, ge=128, description="Java heap of the embedded broker.")
    retention_mib_per_partition: int = Field(2048, ge=64, description="Disk limit of the embedded broker.")
    client: dict[str, str] = Field(
        default_factory=dict, description="More librdkafka settings for every process, e.g. security.protocol."
    )
    replication: int = Field(1, ge=1, description="Replicas of the topics that we create.")
    partitions: dict[str, int] = Field(default_factory=dict, description="Partitions by topic, where not the default.")
    retention_hours: dict[str, int] = Field(default_factory=dict, description="Retention by topic; -1 is for ever.")


class ClickHouseSettings(BaseModel):
    """The part `[clickhouse]`: a server of yours, or the embedded one."""

    model_config = _SECTION

    host: str | None = Field(None, description="Host of a ClickHouse server; unset runs an embedded one.")
    port: Port | None = Field(
        None,
        description="Its HTTP port (8123 where unset); of the embedded one: unset chooses a free one and keeps it.",
    )
    secure: bool = Field(False, description="HTTPS.")
    database: str = Field("fleetpulse", pattern=r"^\w+$", description="Where our tables and views are.")
    username: str = Field("fleetpulse", description="The login that writes.")
    password: SecretStr | None = Field(None, description="Its password; better kept in password_file.")
    password_file: Path | None = Field(None, description="A file that holds the password and only its owner reads.")
    nice: int = Field(
        10, ge=0, le=19, description="How far the embedded one stands back where processors are short; 0: not at all."
    )
    analyst_username: str = Field("analyst", description="The login that `fleetpulse sql` uses; it need only read.")
    analyst_password: SecretStr | None = Field(None, description="Its password, where it has one.")

    @model_validator(mode="after")
    def _one_password(self) -> ClickHouseSettings:
        if self.password is not None and self.password_file is not None:
            raise ValueError("password and password_file are both set; set one")
        return self


class ObserveSettings(BaseModel):
    """The part `[observe]`: logs, metrics and health of every process."""

    model_config = _SECTION

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is logged.")
    json_lines: bool = Field(False, description="Log one JSON object per line instead of text.")
    host: str = Field("127.0.0.1", description="Where /metrics and /healthz listen.")
    ports: dict[str, Port] = Field(
        default_factory=dict, description="Their port by process, e.g. streams-0; a free one where unset."
    )
    stale_seconds: float = Field(20, gt=0, description="A main loop silent for so long is unhealthy.")


class Settings(BaseSettings):
    """Everything that may be set."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

    data_dir: Path = Field(Path("var"), description="Embedded servers, spools, outbox and the supervisor's state.")
    kafka: KafkaSettings = KafkaSettings()
    clickhouse: ClickHouseSettings = ClickHouseSettings()
    observe: ObserveSettings = ObserveSettings()
    agent: AgentSettings = AgentSettings()
    simulate: SimulateSettings = SimulateSettings()
    streams: StreamsSettings = StreamsSettings()
    loader: LoaderSettings = LoaderSettings()
    alerts: AlertSettings = AlertSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment, then what the file says (it comes in as arguments)."""
        return env_settings, init_settings


def load(config: Path | None = None, *, data_dir: Path | None = None) -> Settings:
    """The settings of this installation. The environment wins over the file, `data_dir` over both.

    Without `config` the file is `fleetpulse.toml` of the current directory, where there is one. Raises `MisuseError`
    with one line per problem.
    """
    path = config or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    written = _read(path) if path else {}
    problems = _unknown_variables(os.environ)
    try:
        settings = Settings(**written)
    except ValidationError as error:
        problems += _explain(error, path, written)
    if problems:
        raise MisuseError("\n".join(["the settings cannot be used:", *(f"  {problem}" for problem in problems)]))
    return settings.model_copy(update={"data_dir": data_dir}) if data_dir else settings


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise MisuseError(f"the settings file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MisuseError(f"the settings file {path} is not TOML: {error}") from error


def _unknown_variables(environment: os._Environ[str]) -> list[str]:
    """Variables that look like ours and name nothing: a misspelt one would be passed over in silence."""
    parts = [PREFIX + name.upper() for name in Settings.model_fields]
    problems = []
    for variable in sorted(environment):
        if not variable.startswith(PREFIX) or variable.startswith(_NOT_SETTINGS):
            continue
        top = variable.split("__")[0]
        if top not in parts:
            problems.append(f"{variable} (environment): there is no such setting{_close(top, parts)}")
    return problems


def _explain(error: ValidationError, path: Path | None, written: dict[str, Any]) -> list[str]:
    lines = []
    for problem in error.errors():
        where = [str(part) for part in problem["loc"]]
        key = ".".join(where) or "settings"
        variable = PREFIX + "__".join(part.upper() for part in where)
        in_file = _contains(written, where) and variable not in os.environ
        source = str(path) if in_file else (f"environment, {variable}" if where else "all together")
        if problem["type"] == "extra_forbidden":
            lines.append(f"{key} ({source}): there is no such setting{_close(where[-1], _fields_of(where[:-1]))}")
            continue
        found = "" if problem["type"] == "value_error" or "password" in key else f"found {problem['input']!r}, "
        said = problem["msg"].removeprefix("Value error, ")
        lines.append(f"{key} ({source}): {found}{said[0].lower()}{said[1:]}")
    return lines


def _contains(written: Any, where: list[str]) -> bool:
    for part in where:
        if not isinstance(written, dict) or part not in written:
            return False
        written = written[part]
    return True


def _fields_of(where: list[str]) -> list[str]:
    model: Any = Settings
    for part in where:
        field = model.model_fields.get(part) if hasattr(model, "model_fields") else None
        model = field.annotation if field else None
    return list(getattr(model, "model_fields", {}))


def _close(word: str, words: list[str]) -> str:
    near = difflib.get_close_matches(word, words, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there are {', '.join(words)}" if words else ""
