"""TCP ports of this machine: which are free, and which stay so while a server is started again."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

from infra.errors import OperatorError


def free_port(host: str = "127.0.0.1", *, but: int = 0) -> int:
    """A free TCP port below the range from which the kernel takes the ports of outgoing connections.

    A port of that range may be taken by any client while the server is restarted, even by a client that tries to reach
    that very server.
    """
    try:
        low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        low = 32768
    chance = random.SystemRandom()
    for _ in range(200):
        port = chance.randrange(max(1024, low - 12000), max(low, 1026))
        if port != but and is_free(host, port):
            return port
    raise OperatorError(f"no free TCP port was found on {host} below {low}")


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free for a listener
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def accepts(address: str, timeout_seconds: float) -> bool:
    """Whether something listens at `host:port`."""
    host, _, port = address.strip().rpartition(":")
    with contextlib.suppress(OSError, ValueError), socket.create_connection((host, int(port)), timeout_seconds):
        return True
    return False
