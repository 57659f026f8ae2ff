"""What can be said for every command, before its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infra.settings import Settings  # takes half a second to import, which `--help` does not need


@dataclass(frozen=True, slots=True)
class Options:
    """What was given for every command."""

    config: Path | None
    data_dir: Path | None
    json_lines: bool

    def settings(self) -> Settings:
        """The settings, with these options laid over them. Raises `MisuseError`."""
        from infra.settings import load

        loaded = load(self.config, data_dir=self.data_dir)
        if self.json_lines:
            loaded = loaded.model_copy(update={"observe": loaded.observe.model_copy(update={"json_lines": True})})
        return loaded

    def repeated(self, settings: Settings) -> list[str]:
        """The same options for a child process, whatever directory it starts in."""
        given = ["--data-dir", str(settings.data_dir.absolute())]
        if self.config:
            given += ["--config", str(self.config.absolute())]
        if self.json_lines:
            given.append("--json")
        return given
