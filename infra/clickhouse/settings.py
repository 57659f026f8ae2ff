"""Settings of the embedded ClickHouse."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class EmbeddedClickHouseSettings(BaseModel):
    """Where the embedded ClickHouse listens, what it keeps, and how much it may take."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path = Field(description="Folder of this database; the engine's files lie in its subfolder `engine`.")
    host: str = Field(default="127.0.0.1", description="Address to listen on; loopback unless told otherwise.")
    port: int = Field(default=8123, ge=0, le=65535, description="Port to listen on; 0 takes any free one.")
    password_file: Path | None = Field(
        default=None, description="The writer's password; by default `writer.password` in data_dir."
    )
    analyst_password: SecretStr | None = Field(
        default=None, description="Password of the read-only login; none is needed on loopback where this is unset."
    )
    handles: int = Field(default=8, ge=3, le=64, description="Statements that run at one time.")
    memory_bytes: int | None = Field(
        default=None,
        ge=256 * 2**20,
        description="The most memory one statement may take; half of the machine's if unset.",
    )
    keep_free_bytes: int = Field(
        default=512 * 2**20,
        ge=0,
        description="Room that writing leaves free on the disk: chDB takes a write that failed for a good one.",
    )
    analyst_seconds: int = Field(
        default=60, ge=1, description="The longest a statement of the read-only login may run."
    )
    grace_seconds: float = Field(default=15, ge=0, description="How long running statements may finish at a stop.")
    nice: int = Field(
        default=10,
        ge=0,
        le=19,
        description="How far the engine stands back where processors are short: history may be late, pages may not.",
    )
    confine: Literal["auto", "require", "off"] = Field(
        default="auto",
        description="Confine the process as far as the kernel can (auto); require: or do not start.",
    )

    @property
    def engine_dir(self) -> Path:
        """The only folder that the engine may read and write."""
        return self.data_dir / "engine"

    @property
    def password_path(self) -> Path:
        """The file that holds the writer's password."""
        return self.password_file or self.data_dir / "writer.password"
