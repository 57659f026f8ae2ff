"""The cage, tried on a process of its own: what it cannot do once it is confined, wall by wall."""

import json
import platform
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from infra.clickhouse.confine import Confinement, landlock_abi

ROOT = Path(__file__).parents[2]

# Each attempt says "done", or the name of the error it ended in.
ATTEMPTS = """
import json, os, pathlib, resource, socket, subprocess, sys, threading
sys.path.insert(0, {root!r})
from infra.clickhouse import confine
from infra.clickhouse.server import libraries

here = pathlib.Path({here!r})
server = socket.create_server(("127.0.0.1", 0))
attempts = {{
    "read_outside": lambda: (here / "outside").read_text(),
    "list_outside": lambda: os.listdir("/"),
    "write_outside": lambda: (here / "new").write_text("x"),
    "remove_outside": lambda: (here / "outside").unlink(),
    "read_environment": lambda: pathlib.Path("/proc/self/environ").read_bytes(),
    "read_memory_map": lambda: pathlib.Path("/proc/self/maps").read_bytes(),
    "read_parent": lambda: pathlib.Path(f"/proc/{{os.getppid()}}/cmdline").read_bytes(),
    "write_inside": lambda: (here / "inside" / "new").write_text("x"),
    "remove_inside": lambda: (here / "inside" / "new").unlink(),
    "execute_inside": lambda: os.execv(here / "inside" / "program", ["program"]),
    "tcp": lambda: socket.create_connection(server.getsockname(), 1).close(),
    "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)),
    "local_socket": lambda: socket.socket(socket.AF_UNIX).close(),
    "listen": lambda: socket.create_server(("127.0.0.1", 0)).close(),
    "resolve": lambda: socket.getaddrinfo("name.invalid", 80),
    "start_program": lambda: subprocess.run(["/bin/true"], check=True),
    "signal_parent": lambda: os.kill(os.getppid(), 0),
    "socketpair": lambda: [end.close() for end in socket.socketpair()],
    "import_module": lambda: __import__("fractions"),
}}

def attempt(action):
    try:
        action()
        return "done"
    except BaseException as error:
        return type(error).__name__

found = {{}}

def confined():
    {setup}
    found["confined"] = {{name: attempt(action) for name, action in attempts.items()}}
    inner = threading.Thread(target=lambda: found.update(child=attempt(attempts["read_outside"])))
    inner.start()
    inner.join()

thread = threading.Thread(target=confined)
thread.start()
thread.join()
found["free"] = {{name: attempt(attempts[name]) for name in ("read_outside", "udp", "start_program")}}
found["core"] = resource.getrlimit(resource.RLIMIT_CORE)
print(json.dumps(found))
"""


def _attempts(here: Path, setup: str) -> dict[str, Any]:
    (here / "inside").mkdir(parents=True)
    (here / "outside").write_text("secret")
    program = here / "inside" / "program"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    script = textwrap.dedent(ATTEMPTS).format(root=str(ROOT), here=str(here), setup=setup)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if not landlock_abi():
        pytest.skip("this kernel has no Landlock")
    return _attempts(tmp_path_factory.mktemp("cage"), 'confine.confine(keep=[here / "inside"], read=libraries())')


@pytest.mark.parametrize(
    "attempt",
    [
        "read_outside",
        "list_outside",
        "write_outside",
        "remove_outside",
        "read_environment",
        "read_memory_map",
        "read_parent",
        "execute_inside",
        "tcp",
        "udp",
        "local_socket",
        "listen",
        "start_program",
    ],
)
def test_a_confined_thread_cannot(whole: dict[str, Any], attempt: str) -> None:
    assert whole["confined"][attempt] == "PermissionError"


def test_a_confined_thread_cannot_look_up_names(whole: dict[str, Any]) -> None:
    assert whole["confined"]["resolve"] == "gaierror"


def test_a_confined_thread_cannot_signal_its_parent(whole: dict[str, Any]) -> None:
    if landlock_abi() < 6:
        pytest.skip("this kernel's Landlock does not know signals (Linux 6.12)")
    assert whole["confined"]["signal_parent"] == "PermissionError"


@pytest.mark.parametrize("attempt", ["write_inside", "remove_inside", "socketpair", "import_module"])
def test_a_confined_thread_still_can(whole: dict[str, Any], attempt: str) -> None:
    assert whole["confined"][attempt] == "done"


def test_threads_that_it_starts_are_confined_too(whole: dict[str, Any]) -> None:
    assert whole["child"] == "PermissionError"


def test_threads_that_ran_before_stay_free(whole: dict[str, Any]) -> None:
    assert set(whole["free"].values()) == {"done"}


def test_a_crash_leaves_no_copy_of_the_memory(whole: dict[str, Any]) -> None:
    assert whole["core"] == [0, 0]


def test_landlock_alone_holds_files_and_connections(tmp_path: Path) -> None:
    if landlock_abi() < 4:
        pytest.skip("this kernel's Landlock does not know connections (Linux 6.7)")
    found = _attempts(
        tmp_path,
        "confine._libc.prctl(confine.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); "
        'confine._landlock(confine.landlock_abi(), [(here / "inside", confine.KEEP)])',
    )["confined"]
    assert {found[name] for name in ("read_outside", "write_outside", "tcp", "listen")} == {"PermissionError"}
    assert found["udp"] == "done"


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in {"x86_64", "aarch64"}, reason="no filter for this machine"
)
def test_the_filter_alone_holds_sockets_and_programs(tmp_path: Path) -> None:
    found = _attempts(tmp_path, "confine._libc.prctl(confine.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); confine._seccomp()")[
        "confined"
    ]
    assert {found[name] for name in ("tcp", "udp", "local_socket", "listen", "start_program")} == {"PermissionError"}
    assert found["read_outside"] == "done"


def test_what_a_kernel_cannot_do_is_said() -> None:
    assert Confinement(landlock_abi=7, filtered=True).gaps() == []
    assert Confinement(landlock_abi=7, filtered=True).whole
    assert "files outside" in Confinement(landlock_abi=0, filtered=True).gaps()[0]
    assert Confinement(landlock_abi=0, filtered=True).hosts
    assert "other hosts" in " ".join(Confinement(landlock_abi=3, filtered=False).gaps())
    assert not Confinement(landlock_abi=3, filtered=False).whole
