from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from producers.spool import MAGIC, Spool, SpoolError

SAMPLES, EVENTS = "gpu.samples", "hardware.events"
LANES = (SAMPLES, EVENTS)
MIB = 1024 * 1024
Opened = Callable[..., Spool]


@pytest.fixture
def opened() -> Iterator[Callable[..., Spool]]:
    """Opens spools and closes them when the test is over."""
    with ExitStack() as spools:

        def make(folder: Path, limit_bytes: int = MIB) -> Spool:
            return spools.enter_context(closing(Spool(folder, limit_bytes, LANES)))

        yield make


def values(spool: Spool, topic: str, limit: int = 100_000) -> list[bytes]:
    return [entry.value for entry in spool.take(topic, limit)]


def test_records_come_back_in_the_order_in_which_they_went_in(opened: Opened, tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for number in range(500):
        spool.append(SAMPLES, b"rack", b"%d" % number)

    assert values(spool, SAMPLES) == [b"%d" % number for number in range(500)]


def test_what_is_not_acknowledged_is_there_after_a_restart(opened: Opened, tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append(EVENTS, b"rack", b"first")
    spool.append(EVENTS, b"rack", b"second")
    spool.settle(spool.take(EVENTS, 1)[0])
    spool.close()

    again = opened(tmp_path)

    assert values(again, EVENTS)[-1] == b"second"
    assert again.drops() == {}


def test_nothing_stays_on_disk_once_all_is_acknowledged(opened: Opened, tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for number in range(100):
        spool.append(SAMPLES, b"rack", b"%d" % number)

    for entry in spool.take(SAMPLES, 1000):
        spool.settle(entry)

    assert len(spool) == 0
    assert spool.size == 0
    assert not list(tmp_path.rglob("*.segment"))


def test_what_is_on_its_way_and_not_acknowledged_stays_on_disk(opened: Opened, tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append(SAMPLES, b"rack", b"sent, not acknowledged")
    spool.take(SAMPLES, 10)
    spool.close()

    assert values(opened(tmp_path), SAMPLES) == [b"sent, not acknowledged"]


def test_after_a_rewind_everything_is_taken_again(opened: Opened, tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append(SAMPLES, b"rack", b"1")
    spool.append(SAMPLES, b"rack", b"2")
    spool.take(SAMPLES, 10)

    spool.rewind(SAMPLES)

    assert values(spool, SAMPLES) == [b"1", b"2"]


def test_what_a_producer_hands_back_comes_before_what_was_spooled_later(opened: Opened, tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append(SAMPLES, b"rack", b"3")
    spool.prepend(SAMPLES, [(b"rack", b"1"), (b"rack", b"2")])
    spool.close()

    assert values(opened(tmp_path), SAMPLES) == [b"1", b"2", b"3"]


def test_the_disk_share_holds_and_the_oldest_samples_go_first(opened: Opened, tmp_path: Path) -> None:
    spool = opened(tmp_path, limit_bytes=200_000)
    for number in range(1000):
        spool.append(SAMPLES, b"rack", b"%04d" % number + bytes(1000))

    kept = [int(value[:4]) for value in values(spool, SAMPLES)]

    assert sum(path.stat().st_size for path in tmp_path.rglob("*.segment")) <= 200_000
    assert kept == list(range(kept[0], 1000))
    assert spool.drops() == {(SAMPLES, "spool_full"): kept[0]}


def test_events_push_out_samples_and_samples_never_push_out_events(opened: Opened, tmp_path: Path) -> None:
    spool = opened(tmp_path, limit_bytes=200_000)
    for _ in range(150):
        spool.append(SAMPLES, b"rack", bytes(1000))
    for number in range(100):
        spool.append(EVENTS, b"rack", b"%03d" % number + bytes(1000))
    for _ in range(400):
        spool.append(SAMPLES, b"rack", bytes(1000))

    events = [int(value[:3]) for value in values(spool, EVENTS)]

    assert events == list(range(100))
    assert {topic for topic, _ in spool.drops()} == {SAMPLES}


def test_when_only_events_are_left_the_oldest_events_go_and_new_samples_are_refused(
    opened: Opened, tmp_path: Path
) -> None:
    spool = opened(tmp_path, limit_bytes=100_000)
    for number in range(300):
        spool.append(EVENTS, b"rack", b"%03d" % number + bytes(1000))
    spool.append(SAMPLES, b"rack", bytes(90_000))

    kept = [int(value[:3]) for value in values(spool, EVENTS)]

    assert kept == list(range(kept[0], 300))
    assert spool.drops() == {(EVENTS, "spool_full"): kept[0], (SAMPLES, "spool_full"): 1}
    assert not spool.waits(SAMPLES)


def test_every_record_is_either_kept_or_counted_as_dropped(opened: Opened, tmp_path: Path) -> None:
    spool = opened(tmp_path, limit_bytes=120_000)
    for number in range(700):
        spool.append(EVENTS if number % 7 == 0 else SAMPLES, b"rack", bytes(900))

    dropped = sum(spool.drops().values())

    assert dropped > 0
    assert len(spool) + dropped == 700


def test_a_torn_last_record_is_cut_off_and_counted(opened: Opened, tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for number in range(10):
        spool.append(SAMPLES, b"rack", b"%d" % number)
    spool.close()
    (segment,) = tmp_path.rglob("*.segment")
    segment.write_bytes(segment.read_bytes()[:-1])

    again = opened(tmp_path)
    again.append(SAMPLES, b"rack", b"after the tear")

    assert values(again, SAMPLES) == [b"%d" % number for number in range(9)] + [b"after the tear"]
    assert again.drops() == {(SAMPLES, "torn"): 1}


@pytest.mark.parametrize(
    "content", [b"", b"FP", MAGIC, b"not a segment at all", MAGIC + bytes(7), MAGIC + b"\xff" * 40]
)
def test_a_file_without_one_whole_record_does_not_stop_the_agent(
    opened: Opened, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / SAMPLES).mkdir()
    (tmp_path / SAMPLES / "0000000000000001.segment").write_bytes(content)

    spool = opened(tmp_path)
    spool.append(SAMPLES, b"rack", b"new")

    assert values(spool, SAMPLES) == [b"new"]


def test_a_flipped_bit_is_noticed(opened: Opened, tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append(SAMPLES, b"rack", b"good")
    spool.append(SAMPLES, b"rack", b"flipped")
    spool.close()
    (segment,) = tmp_path.rglob("*.segment")
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)

    again = opened(tmp_path)

    assert values(again, SAMPLES) == [b"good"]
    assert again.drops() == {(SAMPLES, "torn"): 1}


def test_a_killed_process_leaves_at_most_one_torn_record(opened: Opened, tmp_path: Path) -> None:
    writer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(f"""
                from pathlib import Path
                from producers.spool import Spool
                spool = Spool(Path({str(tmp_path)!r}), 64 << 20, ("{SAMPLES}",))
                print("ready", flush=True)
                number = 0
                while True:
                    spool.append("{SAMPLES}", b"rack", b"%08d" % number + bytes(20_000))
                    number += 1
            """),
        ],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert writer.stdout is not None
    writer.stdout.readline()
    while sum(path.stat().st_size for path in tmp_path.rglob("*.segment")) < 2_000_000:
        pass
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()

    spool = opened(tmp_path, limit_bytes=64 * MIB)
    kept = [int(value[:8]) for value in values(spool, SAMPLES)]

    assert len(kept) >= 90
    assert kept == list(range(len(kept)))
    assert spool.drops().get((SAMPLES, "torn"), 0) <= 1


def test_two_processes_cannot_share_a_spool(opened: Opened, tmp_path: Path) -> None:
    spool = opened(tmp_path)

    with pytest.raises(SpoolError, match="another process uses the spool"):
        opened(tmp_path)

    spool.close()
    opened(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(SpoolError, match=r"cannot keep undelivered records in .*file/spool.*state_dir"):
        opened(tmp_path / "file" / "spool")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_costs_the_record_and_never_the_process(opened: Opened, tmp_path: Path) -> None:
    spool = opened(tmp_path)
    (tmp_path / SAMPLES / "1000000000000000.segment").symlink_to("/dev/full")

    spool.append(SAMPLES, b"rack", b"lost")

    assert spool.drops() == {(SAMPLES, "spool_full"): 1}
    spool.append(SAMPLES, b"rack", b"kept: the disk has room again")
    assert values(spool, SAMPLES) == [b"kept: the disk has room again"]
