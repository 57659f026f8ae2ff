"""NVLink 5 errors, XID 144 to 150: what the registers of a line say, by the driver that wrote it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from producers.kernel_log import Decoder, GpuMap, KernelEvent, decode
from schemas.catalog import Entry, load
from schemas.catalog.nvlink5 import BRANCHES, branch_of, nvlink5

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
CATALOG = load()
TABLE = nvlink5()


def only(message: str, driver: str | None = None) -> KernelEvent:
    gpus = GpuMap()
    if driver:
        gpus.tell_driver(driver)
    (event,) = decode([(1, f"NVRM: Xid (PCI:0008:01:00): {message}")], Decoder(gpus=gpus))
    return event


def entry(event: KernelEvent) -> Entry:
    return CATALOG.entry(event.kind, event.code, event.details.get("variant"))


def table() -> list[dict[str, str]]:
    path = DATA / "facts" / "xid_144_150_decode.tsv"
    if not path.exists():
        pytest.skip("the public table xid_144_150_decode.tsv is not here")
    names = ("xid", "names", "v1", "v2", "status", "resolution", "raised_v1", "raised_v2", "raised", "investigate",
             "severity", "origin", "effects")  # fmt: skip
    with path.open(newline="") as rows:
        return [dict(zip(names, row, strict=True)) for row in list(csv.reader(rows, delimiter="\t"))[1:]]


def test_every_row_of_the_public_table_reads_as_it_says_whatever_its_free_bits_are() -> None:
    rows = table()
    assert len(rows) == 95
    for row in rows:
        xid, fatal = int(row["xid"]), row["severity"].startswith(("Fatal", "Link Fatal"))
        wanted = [(row["v1"], row["resolution"]), (row["v2"], row["resolution"])]
        if row["raised"]:
            wanted += [(row["raised_v1"], row["raised"]), (row["raised_v2"], row["raised"])]
        statuses = [int(status, 16) for status in row["status"].split("/")] if row["status"] else [0, 0xDEAD]
        for place, (pattern, resolution) in enumerate(wanted):
            assert len(pattern) == 32
            branch, (local, _, remote) = BRANCHES[place % 2], row["effects"].partition("; Remote:")
            for free in "01":
                info = int(pattern.replace("-", free), 2)
                for status in statuses:
                    found = [one for one in TABLE.readings(xid, info, status) if one.branch == branch]
                    assert found, row
                    assert {one.resolution for one in found} == {resolution}, row
                    assert {one.error.fatal for one in found} == {fatal}, row
                    names = row["names"].upper().replace(" ", "_").split("/")
                    assert any(one.name == names[min(place % 2, len(names) - 1)] for one in found), row
                    for one in found:
                        assert one.error.investigate == row["investigate"].partition(" (")[0].replace("SW/", "SW_")
                        assert one.error.origin == row["origin"].replace("NA", "")
                        if remote:
                            assert (one.error.here == "none") == (local.strip() == "Local: none"), row
                            assert (one.error.there == "none") == (remote.strip().lower() == "none"), row


def test_a_line_can_be_read_for_one_branch_only_where_that_matters() -> None:
    for row in table():
        for pattern in (row["v1"], row["v2"]):
            for free in "01":
                for status in {int(status or "0", 16) for status in row["status"].split("/")}:
                    found = TABLE.readings(int(row["xid"]), int(pattern.replace("-", free), 2), status)
                    assert len({(one.resolution, one.error.fatal) for one in found}) == 1, row


BY_HAND = {
    # XID, IntrInfo, error status: branch, rule, effects begin with, all worked out by hand from the bits
    (144, 0x00000004, 0x1): (None, "xid.144.nonfatal", None, None),  # 0000100 is RLW_REMAP, no unit of 144
    (144, 0x00000003, 0x80000000): (None, "xid.144.nonfatal", None, None),  # 0000011 is RLW_CTRL, no unit of 144
    (145, 0x040868E2, 0x8): ("before_r575", "xid.145.follow_154", "programs", "none"),  # 00111 00010
    (145, 0x04084507, 0x4): ("from_r575", "xid.145.follow_154", "programs", "none"),  # 0000111
    (145, 0x00000004, 0x40): ("from_r575", "xid.145.reset_nonfatal", "memory error", "packets may"),
    (145, 0x00000082, 0x40): ("before_r575", "xid.145.reset_nonfatal", "memory error", "packets may"),  # 00100 00010
    (145, 0x00000004, 0x100): ("from_r575", "xid.145.ignore", "none", "none"),
    (145, 0x00000005, 0x1): ("from_r575", "xid.145.ignore", "none", "none"),
    (145, 0x00000005, 0x2): ("from_r575", "xid.145.reset", "memory error", "packets may"),
    (145, 0x00000007, 0x1): ("from_r575", "xid.145.reset", "memory error", "packets may"),
    (145, 0x00000007, 0x2): ("from_r575", "xid.145.ignore", "none", "none"),
    (145, 0x0409A0C2, 0x8): ("before_r575", "xid.145.ignore", "none", "none"),  # 00110 00010
    (146, 0x00000009, 0x4): ("from_r575", "xid.146.reset", "memory error", "packets may"),
    (146, 0x0000000A, 0x1): ("from_r575", "xid.146.ignore", "none", "none"),
    (146, 0x0000000B, 0x1): ("from_r575", "xid.146.ignore", "none", "none"),
    (146, 0x0000000B, 0x4): ("from_r575", "xid.146.reset", "memory error", "packets may"),
    (146, 0x0000000D, 0x1): ("from_r575", "xid.146.ignore", "none", "none"),
    (148, 0x0000000F, 0x80000000): ("from_r575", "xid.148.ignore", "none", "none"),
    (149, 0x000FE406, 0x0): ("before_r575", "xid.149.reset", "packets may", "packets may"),  # 00000 00110
    (149, 0x0215C5C6, 0x0): ("before_r575", "xid.149.reset", "packets may", "packets may be lost, perhaps later; the"),
    (149, 0x021405C6, 0x0): ("before_r575", "xid.149.reset", "packets may", "packets may be lost, perhaps later; the"),
    (149, 0x004525C6, 0x0): ("before_r575", "xid.149.reset", "packets may", "packets may"),  # reason 000100
    (149, 0x02500011, 0x0): ("from_r575", "xid.149.reset", "packets may", "packets may be lost, perhaps later; the"),
    (149, 0x00000011, 0x0): ("from_r575", "xid.149.reset", "packets may", "packets may"),  # reason 000000
    (149, 0x00000018, 0x0): ("from_r575", "xid.149.reset", "packets may", "packets may"),
    (149, 0x00000013, 0x0): ("from_r575", "xid.149.ignore", "none", "none"),
    (149, 0x00082226, 0x1): ("before_r575", "xid.149.ignore", "none", "none"),  # 10001 00110
    (149, 0x00000014, 0x1): ("from_r575", "xid.149.reset", "fatal", "packets may"),
    (149, 0x00000014, 0x3): ("from_r575", "xid.149.ignore", "none", "none"),
}  # fmt: skip


def test_real_lines_read_as_worked_out_by_hand() -> None:
    path = DATA / "kernel_log" / "lines.jsonl"
    if not path.exists():
        pytest.skip("the labelled lines are not here")
    seen = set()
    for label in map(json.loads, path.read_text().splitlines()):
        if label["xid"] not in range(144, 151):
            continue
        (event,) = decode([(1, label["line"])])
        if "registers" not in event.details:
            assert entry(event).rule == "xid.145.nonfatal"
            continue
        info, status = (int(word, 16) for word in event.details["registers"].split()[:2])
        branch, rule, local, remote = BY_HAND[label["xid"], info, status]
        seen.add((label["xid"], info, status))
        assert (event.details.get("branch"), entry(event).rule) == (branch, rule), label["line"]
        assert event.details["subcode"] in label["line"]
        if branch is None:
            assert "no known error" in event.details["undecoded"]
            continue
        assert event.details["effect_local"].startswith(local), label["line"]
        assert event.details["effect_remote"].startswith(remote), label["line"]
    assert seen == set(BY_HAND)


@pytest.mark.parametrize(("rule", "severity", "action"), [
    ("reset", "critical", "reset_gpu"),
    ("reset_nonfatal", "critical", "reset_gpu"),
    ("ignore", "info", "none"),
    ("ignore_fatal", "warning", "none"),
    ("follow_154", "warning", "none"),
    ("fatal", "critical", "reset_gpu"),
    ("nonfatal", "warning", "none"),
])  # fmt: skip
def test_what_the_registers_ask_for_is_the_action(rule: str, severity: str, action: str) -> None:
    for code in range(144, 151):
        found = CATALOG.entry("xid", code, rule)
        assert (found.rule, found.severity, found.action) == (f"xid.{code}.{rule}", severity, action)
        assert found.fault_class == "nvlink"


def test_a_decoded_line_says_all_that_the_table_knows_of_it() -> None:
    event = only("149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 14 (0x0215c5c6 0x00000000 0x00000000)")
    assert event.link == 14
    assert event.details == {
        "subcode": "NETIR_LINK_EVT",
        "branch": "before_r575",
        "resolution": "RESET_GPU",
        "investigate": "INVESTIGATE_PEER_DEVICE",
        "effect_local": "packets may be lost, perhaps later",
        "effect_remote": "packets may be lost, perhaps later; the error began there",
        "origin": "HW/SW",
        "registers": "0x0215c5c6 0x00000000 0x00000000",
        "variant": "reset",
    }


OLD, NEW = "RLW_REMAP Nonfatal XC1 i0 Link 10 (0x82 0x1)", "RLW_REMAP Nonfatal XC1 i0 Link 10 (0x4 0x1)"


@pytest.mark.parametrize(("driver", "message", "branch"), [
    (None, OLD, "before_r575"),
    (None, NEW, "from_r575"),
    ("570.86", OLD, "before_r575"),
    ("574.99", OLD, "before_r575"),
    ("575.51.03", NEW, "from_r575"),
    ("580", NEW, "from_r575"),
    ("570.86", NEW, None),
    ("580.105.08", OLD, None),
])  # fmt: skip
def test_a_driver_that_is_known_decides_how_registers_are_read(
    driver: str | None, message: str, branch: str | None
) -> None:
    event = only(f"145, {message}", driver)
    assert event.details.get("branch") == branch
    assert event.details["variant"] == ("follow_154" if branch else "nonfatal")
    if branch is None:
        assert "no known error of XID 145" in event.details["undecoded"]
        assert "RLW_REMAP has" in event.details["undecoded"]


def test_what_all_branches_agree_on_needs_no_driver() -> None:
    event = only("150, MSE_WATCHDOG Fatal XC0 i0 Link 00 (0x00000000 0x00000000)")
    assert (event.details["branch"], event.details["resolution"]) == ("any", "RESET_GPU")


def test_two_errors_with_the_same_registers_and_the_same_remedy_need_no_name() -> None:
    event = only("150, something Fatal Link 00 (0x0 0x0)")
    assert (event.details["subcode"], event.details["variant"]) == ("MSE_DEGRADED/MSE_WATCHDOG", "reset")


def test_a_receive_pipe_that_raises_its_flag_needs_a_reset() -> None:
    quiet, raised = "RLW_RXPIPE Nonfatal Link 1 (0x6 0x1)", "RLW_RXPIPE Nonfatal Link 1 (0x86 0x1)"
    assert [only(f"145, {text}").details["resolution"] for text in (quiet, raised)] == ["IGNORE", "RESET_GPU"]
    assert entry(only(f"145, {raised}")).rule == "xid.145.reset_nonfatal"
    assert "contradiction" not in only(f"145, {raised}").details


@pytest.mark.parametrize(("message", "rule", "counts"), [
    ("145, RLW_REMAP Nonfatal Link 1 (0x4 0x40)", "xid.145.reset_nonfatal", "the registers count"),
    ("146, TLW_CTRL Fatal Link 1 (0x9 0x1)", "xid.146.fatal", "the word counts"),
    ("145, RLW_REMAP Fatal Link 1 (0x4 0x1)", "xid.145.fatal", "the word counts"),
    ("149, NETIR_LINK_DOWN Nonfatal Link 1 (0x02600011 0x0)", "xid.149.ignore", "the word counts"),
])  # fmt: skip
def test_a_word_that_its_registers_contradict_is_said_and_which_of_them_counts(
    message: str, rule: str, counts: str
) -> None:
    event = only(message)
    assert entry(event).rule == rule
    assert counts in event.details["contradiction"]


def test_a_link_that_somebody_took_down_needs_no_reset_though_it_is_fatal_for_the_link() -> None:
    event = only("149, NETIR_LINK_DOWN Fatal XC0 i0 Link 01 (0x02600011 0x00000000)")
    assert (entry(event).rule, entry(event).action) == ("xid.149.ignore_fatal", "none")
    assert event.details["investigate"] == "INVESTIGATE_SW_USER"
    assert "contradiction" not in event.details


def test_registers_without_a_word_decide_alone() -> None:
    assert entry(only("145, Link 03 (0x00000007, 0x00000001)")).rule == "xid.145.reset"
    assert only("145, Link 03 (0x00000007, 0x00000001)").details["subcode"] == "RLW_SRC_TRACK"


@pytest.mark.parametrize(("message", "why"), [
    ("145, RLW_REMAP Nonfatal Link 1 (0x7 0x1)", "the line says RLW_REMAP, its registers RLW_SRC_TRACK"),
    ("145, RLW_REMAP Nonfatal Link 1 (0x4", "no known error of XID 145 has IntrInfo 0x00000004"),
    ("145, RLW_REMAP Nonfatal Link 1 (0x4 0x3)", "no known error of XID 145 has IntrInfo 0x00000004 and error status"),
    ("145, RLW_REMAP Nonfatal Link 1 (0x100000004 0x1)", "no known error"),
    ("149, NETIR_LINK_DOWN Nonfatal Link 1 (0x03f00011 0x0)", "no known error"),
])  # fmt: skip
def test_registers_that_nobody_explains_leave_it_at_the_word_and_say_so(message: str, why: str) -> None:
    event = only(message)
    assert event.details["variant"] == "nonfatal"
    assert why in event.details["undecoded"]
    assert "resolution" not in event.details


def test_a_link_that_went_down_is_read_though_its_error_status_is_cut_off() -> None:
    assert only("149, NETIR_LINK_EVT Fatal Link 14 (0x0215c5c6").details["resolution"] == "RESET_GPU"


@pytest.mark.parametrize("version", ["", "R575", "new", "²", "-1.2"])
def test_what_is_no_driver_version_is_refused(version: str) -> None:
    with pytest.raises(ValueError, match="as in 570.86.15"):
        branch_of(version)


def test_an_older_nvlink_names_its_link_and_registers() -> None:
    event = only("74, pid='<unknown>', name=<unknown>, NVLink: fatal error detected on link 14(0x0, 0x0, 0x10000, 0x0)")
    assert (event.link, event.details) == (14, {"registers": "0x0 0x0 0x10000 0x0"})
