"""The agent of a node in a process of its own: `python -m infra.lean FD`.

A node's memory belongs to its jobs. The command line, the sources of settings and coloured text cost some 25 MB that an
agent needs once, so `fleetpulse agent` reads the settings, hands them over in memory, and becomes this process: same
process id, same environment, without them.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    sys.modules["rich"] = None  # type: ignore[assignment]  # structlog would bring it in, for coloured traces

import ctypes
import gc
import logging
import os
import pickle
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn, cast

import msgspec

from infra.errors import OperatorError
from infra.process import serve
from producers.agent import run

if TYPE_CHECKING:
    from producers.settings import AgentSettings


class Observe(msgspec.Struct, frozen=True):
    """The part `[observe]` of the settings."""

    level: str
    json_lines: bool
    host: str
    ports: dict[str, int]
    stale_seconds: float


@dataclass(frozen=True, slots=True)
class Handed:
    """All that the agent's process is told."""

    data_dir: Path
    observe: Observe
    agent: AgentSettings
    kafka: dict[str, Any]
    """The librdkafka client configuration."""


def become(handed: Handed) -> NoReturn:
    """Replace this process by the agent. What it is told may hold a password: it goes through memory, not a file.

    `-P`, because an agent runs as root and whoever may write where it is started must not tell it what to import.
    """
    told = pickle.dumps(replace(handed, agent=cast("AgentSettings", plain(handed.agent))))
    fd = os.memfd_create("fleetpulse-agent", 0)
    os.write(fd, told)
    os.lseek(fd, 0, os.SEEK_SET)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", "infra.lean", str(fd)])  # noqa: S606 - this program


def plain(settings: Any) -> Any:
    """Checked settings as plain values, which need no pydantic: it alone takes 15 MB.

    The devices of a facility keep their classes, which know more than their values; who has none does not load them.
    """
    if not hasattr(settings, "model_fields_set"):
        return settings
    if getattr(settings, "devices", ()) or getattr(settings, "bmcs", ()):
        return settings
    return SimpleNamespace(**{name: plain(getattr(settings, name)) for name in type(settings).model_fields})


def serve_agent(handed: Handed) -> None:
    """The agent until it is told to stop."""
    kafka = {**handed.kafka, "logger": logging.getLogger("librdkafka")}

    def body(*, stop: threading.Event, beat: Callable[[], None], ready: Callable[[], None]) -> None:
        ready()
        run(handed.agent, kafka=kafka, stop=stop, beat=beat)

    _give_back_memory()
    serve("agent", handed, body)


def _give_back_memory() -> None:
    """Importing leaves some megabytes behind that nobody needs again; without glibc they stay."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def main() -> None:
    """Take over from `become`. Exit 1 with one line where the agent cannot go on."""
    with os.fdopen(int(sys.argv[1]), "rb") as memory:
        handed: Handed = pickle.load(memory)  # noqa: S301 - written by this very process before it became the agent
    try:
        serve_agent(handed)
    except Exception as error:  # noqa: BLE001 - the last place that can say why
        if isinstance(error, OperatorError) or type(error).__module__.partition(".")[0] in {"producers", "schemas"}:
            sys.stderr.write(f"fleetpulse agent: {error}\n")  # made for the reader
        else:
            traceback.print_exc()
        sys.exit(1)


if __name__ == "__main__":
    main()
