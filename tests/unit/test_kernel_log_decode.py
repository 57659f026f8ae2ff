"""What kernel lines decode to: labelled lines of many hosts, one whole real log, and the forms between."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from producers.kernel_log import Decoder, GpuMap, KernelEvent, decode, normal_pci

DATA = Path(__file__).parents[2] / ".." / "shared" / "data" / "kernel_log"


def events(text: str, **options: int) -> list[KernelEvent]:
    return list(decode(enumerate(text.split("\n"), start=1), Decoder(**options)))


def only(text: str, **options: int) -> KernelEvent:
    (event,) = events(text, **options)
    return event


def capture(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"the capture {name} is not here")
    return path


def test_every_labelled_line_decodes_as_labelled_and_negatives_are_silent() -> None:
    labels = [json.loads(line) for line in capture("lines.jsonl").read_text().splitlines()]
    assert len(labels) == 125
    physical: list[str] = []
    spans = []
    for label in labels:
        lines = label["line"].split("\n")
        spans.append((len(physical) + 1, len(physical) + len(lines)))
        physical += lines
    found = list(decode(enumerate(physical, start=1)))
    wrong = []
    for label, (first, last) in zip(labels, spans, strict=True):
        mine = [event for event in found if first <= event.line <= last]
        if label["kind"] == "none":
            wrong += [(label["line"], event) for event in mine]
            continue
        wanted = (
            label["kind"],
            label["xid"] if label["kind"] in {"xid", "sxid"} else None,
            normal_pci(label["pci"]) if label["pci"] else None,
        )
        if wanted not in [(event.kind, event.code, event.pci) for event in mine]:
            wrong.append((label["line"], mine))
        for key in ("uuid", "serial"):
            if key in label and not any(event.details.get(key) == label[key] for event in mine):
                wrong.append((key, mine))
        if "link" in label:
            assert [event.link for event in mine] == [label["link"]]
            assert mine[0].details["nvswitch"] == str(label["nvswitch"])
    assert wrong == []


def test_a_real_log_gives_just_the_events_that_a_reader_finds_in_it() -> None:
    text = capture("gpud_dmesg-with-xid-119.log").read_text()
    found = events(text)
    assert [(event.line, event.kind, event.code) for event in found] == [
        (1, "gpu_map", None),
        (2, "gpu_serial", None),
        (3, "xid", 119),
        (38, "xid", 119),
        (40, "xid", 119),
        (41, "gsp_text", None),
        (42, "xid", 119),
        (43, "xid", 119),
    ]
    assert {event.pci for event in found} == {"0000:9b:00"}
    assert {event.gpu for event in found[1:]} == {"1650124014249"}
    assert found[2].event_ms == 1740327858000  # Sun Feb 23 16:24:18 2025 UTC
    assert found[2].details == {"pid": "2024380", "name": "nvidia-smi", "function": "103 (GSP_RM_ALLOC)"}


@pytest.mark.parametrize(("written", "normal"), [
    ("0000:91:00", "0000:91:00"),
    ("PCI:0000:91:00", "0000:91:00"),
    ("0000:B3:00.0", "0000:b3:00"),
    ("00000000:04:00.0", "0000:04:00"),
    ("18:00.0", "0000:18:00"),
    ("000d:00:00", "000d:00:00"),
    ("10000:e1:00.0", "10000:e1:00"),
    ("invalid-bdf.0", None),
    ("", None),
    ("0000:00:000000000", None),
    ("1:2:3:4", None),
])  # fmt: skip
def test_an_address_has_one_form(written: str, normal: str | None) -> None:
    assert normal_pci(written) == normal


def test_what_an_xid_line_tells_is_kept() -> None:
    event = only("NVRM: Xid (PCI:0000:DC:00.0): 45, pid=1818990, name=python3, Ch 00000001 caused by previous Xid 149")
    assert (event.kind, event.code, event.pci) == ("xid", 45, "0000:dc:00")
    assert event.details == {"pid": "1818990", "name": "python3", "channel": "00000001", "caused_by_xid": "149"}


def test_what_is_unknown_in_an_xid_line_is_null() -> None:
    event = only("NVRM: Xid (PCI:0000:2a:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus")
    assert (event.code, event.gpu, event.link, event.event_ms) == (79, None, None, None)
    assert event.details == {}


@pytest.mark.parametrize(("line", "code", "pci"), [
    ("NVRM: Xid (PCI:0000:3f:00): 46", 46, "0000:3f:00"),
    ("NVRM: Xid (0000:03:00): 14, Channel 00000001", 14, "0000:03:00"),
    ("NVRM: Xid (PCI:garbage): 79, pid=1", 79, None),
    ("NVRM: Xid (): 79", 79, None),
    ("NVRM: Xid (PCI:0000:01:00: 79, bracket lost", 79, "0000:01:00"),
    ("NVRM: Xid(PCI:0000:01:00):79,nothing spaced", 79, "0000:01:00"),
    ("NVRM: XID (PCI:0000:01:00): 79", 79, "0000:01:00"),
    ("NVRM: Xid (PCI:0000:01:00): 0x4f, in hexadecimal", 79, "0000:01:00"),
    ("NVRM: Xid (PCI:0000:01:00 GPU-I:05): 94, pid=7194", 94, "0000:01:00"),
    ("NVRM: Xid (PCI:0000:01:00\ufffd): 79, broken bytes", 79, None),
    ("NVRM: Xid (PCI:0000:01:00): 154 (", 154, "0000:01:00"),
    ("NVRM: Xid (PCI:0000:01:00): 99999999999999999999, no code is so long", None, "0000:01:00"),
    ("NVRM: Xid critical error: 79, details follow", 79, None),
    ("\x1b[32m[ 1.0] \x1b[0m\x1b[33mNVRM: \x1b[0mXid (PCI:0000:01:00): 79", 79, "0000:01:00"),
    ("x" * 100_000 + "NVRM: Xid (PCI:0000:01:00): 79, at the end of a long line", 79, "0000:01:00"),
])  # fmt: skip
def test_a_recognisable_xid_is_never_dropped(line: str, code: int | None, pci: str | None) -> None:
    event = only(line)
    assert (event.kind, event.code, event.pci) == ("xid", code, pci)
    assert "id" in event.raw.lower()
    assert len(event.raw) <= 8192


@pytest.mark.parametrize("line", [
    "NVRM: Xid (PCI:0000:01:00): some error",
    "NVRM: Xid error: xyz, invalid data",
    "NVRM: SXid (PCI:0000:00:00.0): xyz, Fatal error",
    "NVRM: GPU at 0000:01:00.0 has software scheduler DISABLED with policy BEST_EFFORT.",
    "NVRM: NVLink link training completed",
    "NVRM: loading NVIDIA UNIX x86_64 Kernel Module 550.54.15",
    "app[12]: TaxId (1): 79",
    "veth12ab: Lost carrier",
    "systemd-networkd[1]: docker0: Lost carrier",
    "ata1: SATA link down (SStatus 0 SControl 300)",
    "pci 0000:05:00.0: 63.008 Gb/s available PCIe bandwidth (8.0 GT/s PCIe x8 link)",
])  # fmt: skip
def test_other_lines_are_silent(line: str) -> None:
    assert events(line) == []


def test_two_xids_glued_into_one_line_are_two_events() -> None:
    found = events("NVRM: Xid (PCI:0000:01:00): 31, pid=1, name=aNVRM: Xid (PCI:0000:02:00): 43, pid=2, name=b")
    assert [(event.code, event.pci, event.details["pid"]) for event in found] == [
        (31, "0000:01:00", "1"),
        (43, "0000:02:00", "2"),
    ]


def test_an_nvlink_error_that_belongs_to_no_link_has_none() -> None:
    event = only("NVRM: Xid (PCI:0008:01:00): 145, pid=1, name=a, RLW_SRC_TRACK Nonfatal XC1 i0 Link -1 (0x04084507")
    assert (event.link, event.details["variant"], event.details["subcode"]) == (None, "nonfatal", "RLW_SRC_TRACK")


def test_a_process_that_calls_itself_fatal_makes_no_nvlink_error_fatal() -> None:
    event = only("NVRM: Xid (PCI:0008:01:00): 145, pid=1, name=Fatal, RLW_REMAP Nonfatal XC1 i0 Link 03 (0x1 0x2)")
    assert event.details["variant"] == "nonfatal"


@pytest.mark.parametrize(("text", "variant"), [
    ("changed from 0x0 (None) to 0x2 (Node Reboot Required)", "node_reboot_required"),
    ("changed from 0x4 (Drain and Reset) to 0x1 (GPU Reset Required)", "gpu_reset_required"),
    ("changed from 0x1 (GPU Reset Required) to 0x0 (None)", "none"),
    ("changed from 0x0 to 0x3", "drain_p2p"),
])  # fmt: skip
def test_a_recovery_action_is_understood(text: str, variant: str) -> None:
    assert only(f"NVRM: Xid (PCI:0009:01:00): 154, GPU recovery action {text}").details["variant"] == variant


def test_the_lines_with_an_sxids_data_say_what_its_first_line_said() -> None:
    found = events(
        "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 11001, Non-fatal, Link 46 ingress invalid command\n"
        "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 11001, Severity 0 Engine instance 46 Sub-engine instance 00\n"
        "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 11001, Data {0x00140004, 0x00100000}\n"
        "nvidia-nvswitch2: SXid (PCI:0000:c2:00.0): 11001, Data {0x00140004, 0x00100000}"
    )
    assert [(event.link, event.details.get("variant"), event.details.get("part")) for event in found] == [
        (46, "nonfatal", None),
        (46, "nonfatal", "severity"),
        (46, "nonfatal", "data"),
        (None, None, "data"),
    ]
    assert {event.gpu for event in found} == {None}


FALLEN = (
    "[ 1843.308145] NVRM: The NVIDIA GPU 0000:b3:00.0\n"
    "               NVRM: (PCI ID: 10de:26b5) installed in this system has\n"
    "               NVRM: fallen off the bus and is not responding to commands."
)


@pytest.mark.parametrize("text", [
    FALLEN,
    FALLEN.replace("\n", "\\x0a").replace("[ 1843.308145] ", "3,4471,1843308145,-;"),
    FALLEN.replace("\n", "#012"),
    json.dumps({"MESSAGE": FALLEN}),
    json.dumps({"MESSAGE": list(FALLEN.encode())}),
    FALLEN.replace("\n", "\nusb 1-1: new high-speed USB device\n"),
    FALLEN.replace("\n", "\r\n"),
    "NVRM: The NVIDIA GPU 0000:b3:00.0 (PCI ID: 10de:26b5) installed in this\n"
    "NVRM: system has fallen off the bus and is not responding to commands.",
    "NVRM: The NVIDIA GPU 0000:b3:00.0\nNVRM: (PCI ID: 10de:26b5) installed in this system has fallen off\n"
    "NVRM: the bus",
    "NVRM: GPU 0000:b3:00.0: GPU has fallen off the bus.",
])  # fmt: skip
def test_a_gpu_off_the_bus_is_one_event_however_its_lines_are_broken(text: str) -> None:
    event = only(text)
    assert (event.line, event.kind, event.pci) == (1, "fallen_off_bus", "0000:b3:00")


def test_a_joined_event_carries_all_its_lines() -> None:
    assert only(FALLEN).raw == FALLEN
    assert only(FALLEN, boot_ms=1_700_000_000_000).event_ms == 1_700_001_843_308


def test_an_xid_within_the_lines_of_a_join_comes_out_too() -> None:
    found = events(FALLEN.replace("\n", "\nNVRM: Xid (PCI:0000:01:00): 31, pid=1\n", 1))
    assert sorted((event.line, event.kind) for event in found) == [(1, "fallen_off_bus"), (2, "xid")]


def test_a_tail_long_after_a_head_is_not_its_tail() -> None:
    head, tail = "NVRM: The NVIDIA GPU 0000:01:00.0\n", "NVRM: fallen off the bus and is not responding to commands."
    assert only(head + "NVRM: something else\n" * 3 + tail).pci == "0000:01:00"
    assert only(head + "NVRM: something else\n" * 20 + tail).pci is None


def test_a_head_gives_way_to_the_next() -> None:
    found = events("NVRM: The NVIDIA GPU 0000:01:00.0\n" + FALLEN)
    assert [(event.line, event.pci) for event in found] == [(2, "0000:b3:00")]


def test_a_lost_gpu_whose_first_line_is_gone_is_still_reported() -> None:
    event = only("NVRM: fallen off the bus and is not responding to commands.")
    assert (event.kind, event.pci) == ("fallen_off_bus", None)


def test_a_serial_right_after_an_address_belongs_to_it() -> None:
    found = events(
        "NVRM: GPU at PCI:0000:9b:00: GPU-509665ad-b600-ac93-3616-d754b23d636d\n"
        "NVRM: GPU Board Serial Number: 1650124014249\n"
        "unrelated\n"
        "NVRM: GPU Board Serial Number: 99\n"
        "NVRM: Xid (PCI:0000:9b:00): 31\n"
        "NVRM: Xid (PCI:0000:9c:00): 31"
    )
    assert [event.pci for event in found[:3]] == ["0000:9b:00", "0000:9b:00", None]
    assert [event.gpu for event in found[3:]] == ["1650124014249", None]


def test_the_map_knows_the_newest_gpu_at_an_address() -> None:
    gpus = GpuMap()
    gpus.learn("0000:9b:00", uuid="GPU-1")
    assert gpus.gpu_at("0000:9b:00") == "GPU-1"
    gpus.learn("0000:9b:00", serial="0")
    assert gpus.gpu_at("0000:9b:00") == "GPU-1"
    gpus.learn("0000:9b:00", serial="42")
    assert gpus.gpu_at("0000:9b:00") == "42"
    gpus.tell("PCI:0000:9B:00.0", "43")
    assert gpus.gpu_at("0000:9b:00") == "43"
    gpus.learn("0000:9b:00", uuid="GPU-2")
    assert gpus.gpu_at("0000:9b:00") == "GPU-2"
    assert gpus.gpu_at(None) is None


@pytest.mark.parametrize(("line", "kind", "pci", "details"), [
    ("Dec  6 19:25:33 host systemd-networkd[2385]: ib1: Lost carrier", "link_flap", None, {"interface": "ib1"}),
    ("mlx5_core 0000:9a:00.0 ens1f0np0: Link down", "link_flap", "0000:9a:00", {"interface": "ens1f0np0"}),
    ("bnxt_en 0000:3b:00.0 eth2: NIC Link is Down", "link_flap", "0000:3b:00", {"interface": "eth2"}),
    ("NVRM: knvlinkUpdatePostRxDetectLinkMask_IMPL: Failed to update Rx Detect Link mask!", "nvlink_text", None,
     {"function": "knvlinkUpdatePostRxDetectLinkMask_IMPL"}),
    ("NVRM: GPU 0000:4f:00.0: RmInitAdapter failed! (0x62:0xffff:2351)", "gpu_init_text", "0000:4f:00",
     {"status": "0x62:0xffff:2351"}),
    ("mlx5_core 0000:5c:00.0: mlx5_pcie_event:299:(pid 268269): Detected insufficient power on the PCIe slot (27W).",
     "pcie_power", "0000:5c:00", {"watts": "27"}),
    ("nvidia 0000:01:00.0: AER: PCIe Bus Error: severity=Corrected, type=Data Link Layer, (Transmitter ID)", "pcie_aer",
     "0000:01:00", {"driver": "nvidia", "layer": "Data Link Layer"}),
    ("nvidia 0000:01:00.0: PCIe Bus Error: severity=Uncorrected (Non-Fatal), type=Transaction Layer, (Requester ID)",
     "pcie_aer", "0000:01:00", {"driver": "nvidia", "layer": "Transaction Layer", "variant": "nonfatal"}),
    ("pcieport 0000:00:01.0: AER: Uncorrected (Fatal) error received: 0000:01:00.0", "pcie_aer", "0000:01:00",
     {"variant": "fatal"}),
])  # fmt: skip
def test_other_hardware_lines(line: str, kind: str, pci: str | None, details: dict[str, str]) -> None:
    event = only(line)
    assert (event.kind, event.pci, event.details) == (kind, pci, details)


LIMITED = (
    "0000:01:00.0: 63.008 Gb/s available PCIe bandwidth, limited by 8.0 GT/s PCIe x8 link at 0000:00:01.0 "
    "(capable of 126.016 Gb/s with 8.0 GT/s PCIe x16 link)"
)


def test_a_narrow_pcie_link_counts_where_it_is_an_adapters() -> None:
    of_the_bus_scan = only(f"[    0.276602] pci {LIMITED}")
    assert (of_the_bus_scan.kind, of_the_bus_scan.pci) == ("pcie_limited", "0000:01:00")
    assert of_the_bus_scan.details["limiting_device"] == "0000:00:01.0"
    assert of_the_bus_scan.details["capable_gbps"] == "126.016"
    assert "variant" not in of_the_bus_scan.details
    assert only(f"mlx5_core {LIMITED}").details["variant"] == "adapter"
    gpus = GpuMap()
    gpus.tell("0000:01:00", "1650124014249")
    (known,) = Decoder(gpus=gpus).feed(1, f"pci {LIMITED}")
    assert (known.gpu, known.details["variant"]) == ("1650124014249", "adapter")


@pytest.mark.timeout(60)  # a second is enough; a search that goes back for each character takes hours
@pytest.mark.parametrize("trick", [
    "Xid (", "NVRM: Xid (PCI:0:1:0): 1 ", "NVRM knvlink:", "NVRM: The NVIDIA GPU ", "a" * 30, "GPU 00", "Link ",
    "available PCIe bandwidth, limited by ", "AER: ", "SXid (PCI:0:1:0): 1, Data {",
])  # fmt: skip
def test_a_line_made_to_waste_time_does_not(trick: str) -> None:
    needles = " PCIe bandwidth, limited by knvlink NVRM fallen off the bus"
    decoder = Decoder()
    decoder.feed(1, trick * (1_000_000 // len(trick)) + needles)
    (event,) = decoder.feed(2, "NVRM: Xid (PCI:0000:01:00): 79")
    assert event.code == 79
