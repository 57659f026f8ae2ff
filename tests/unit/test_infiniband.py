"""InfiniBand ports: a real host's tree against what stands in its files, and what ibstat and perfquery print."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from infra.commands.decode_sources import register
from producers.infiniband import Decoded, PortReading, decode, read_tree, table
from producers.unreadable import Unreadable

HOST = Path("infiniband") / "sysfs_h100" / "sys-class-infiniband-h100.0"

IBSTAT = """CA 'mlx5_0'
	CA type: MT4129
	Number of ports: 1
	Firmware version: 28.39.1002
	Hardware version: 0
	Node GUID: 0x946dae03008bb02a
	System image GUID: 0x946dae03008bb02a
	Port 1:
		State: Active
		Physical state: LinkUp
		Rate: 400
		Base lid: 1543
		LMC: 0
		SM lid: 1
		Capability mask: 0xa751e848
		Port GUID: 0x946dae03008bb02a
		Link layer: InfiniBand
CA 'mlx5_1'
	CA type: MT4129
	Number of ports: 1
	Firmware version: 28.39.1002
	Port 1:
		State: Down
		Physical state: Polling
		Rate: 10
		Base lid: 65535
		Link layer: InfiniBand
CA 'mlx5_2'
	CA type: MT4129
	Port 1:
		State: Active
		Physical state: LinkUp
		Rate: 200
		Link layer: InfiniBand
CA 'mlx5_3'
	CA type: MT4129
	Port 1:
		State: Active
		Physical state: LinkUp
		Rate: 400
		Link layer: InfiniBand
"""

IBSTATUS = """Infiniband device 'mlx5_0' port 1 status:
	default gid:	 fe80:0000:0000:0000:946d:ae03:008b:b02a
	base lid:	 0x6
	sm lid:		 0x1
	state:		 4: ACTIVE
	phys state:	 5: LinkUp
	rate:		 200 Gb/sec (2X NDR)
	link_layer:	 InfiniBand
"""

PERFQUERY = """# Port counters: Lid 6 port 1 (CapMask: 0x5A00)
PortSelect:......................1
CounterSelect:...................0x0000
SymbolErrorCounter:..............65535
LinkErrorRecoveryCounter:........3
LinkDownedCounter:...............1
PortRcvErrors:...................0
PortRcvRemotePhysicalErrors:.....0
PortRcvSwitchRelayErrors:........0
PortXmitDiscards:................0
PortXmitConstraintErrors:........0
PortRcvConstraintErrors:.........0
CounterSelect2:..................0x00
LocalLinkIntegrityErrors:........0
ExcessiveBufferOverrunErrors:....0
QP1Dropped:......................0
VL15Dropped:.....................0
PortXmitData:....................4294967295
PortRcvData:.....................250
PortXmitPkts:....................10
PortRcvPkts:.....................11
PortXmitWait:....................77
# Port extended counters: Lid 6 port 1 (CapMask: 0x5A00)
PortSelect:......................1
PortXmitData:....................46000000000
PortRcvData:.....................8
"""


def ports(decoded: list[Decoded]) -> dict[str, PortReading]:
    return {item.device: item for item in decoded if isinstance(item, PortReading)}


def read(text: str, node: str = "gpu-17") -> list[Decoded]:
    return list(decode(enumerate(text.splitlines(keepends=True), 1), node))


@pytest.fixture
def copy(shared_data: Path, tmp_path: Path) -> Path:
    """A copy of the real tree that a test may break."""
    target = tmp_path / "infiniband"
    shutil.copytree(shared_data / HOST, target)
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    target.chmod(0o755)
    return target


# --- a real host ------------------------------------------------------------------------------------------------------


def test_every_port_of_a_real_host_is_read(shared_data: Path) -> None:
    decoded = list(read_tree(shared_data / HOST, "gpu-17"))
    found = ports(decoded)
    assert len(decoded) == 9  # and nothing to complain about
    names = ["mlx5_0", "mlx5_1", *(f"mlx5_{number}" for number in range(4, 10)), "mlx5_bond_0"]
    assert list(found) == names
    for name in names[:-1]:
        port = found[name]
        assert port.component == f"port:gpu-17/{name}/1"
        assert (port.state, port.physical_state, port.link_layer) == ("active", "linkup", "InfiniBand")
        assert (port.rate_gbps, port.width, port.speed, port.rate_name) == (400, 4, "NDR", "NDR")
        assert (port.card_gbps, port.peer_gbps, port.peers, port.degraded) == (400, 400, 7, False)
        assert (port.board_id, port.hca_type, port.firmware) == ("MT_0000000838", "MT4129", "28.41.1000")
    bond = found["mlx5_bond_0"]
    assert (bond.link_layer, bond.rate_gbps, bond.width, bond.rate_name) == ("Ethernet", 200, 2, "NDR200")
    assert (bond.peers, bond.card_gbps, bond.degraded) == (0, 200, False)


def test_every_counter_of_a_real_host_is_as_its_file_says(shared_data: Path) -> None:
    for port in ports(list(read_tree(shared_data / HOST))).values():
        found = port.errors | port.signals | port.traffic
        files = [file for group in ("counters", "hw_counters") for file in (Path(port.place) / group).iterdir()]
        assert len(files) == 47
        for file in files:
            value = int(file.read_text())
            if file.name in ("port_rcv_data", "port_xmit_data"):  # counted in words of four bytes
                assert found[f"{file.name}_bytes"] == value * 4
            elif file.name != "lifespan":  # how often the adapter renews them: no counter
                assert found[file.name] == value


def test_counters_that_are_not_nought_say_what_they_mean(shared_data: Path) -> None:
    found = ports(list(read_tree(shared_data / HOST)))
    assert set(found["mlx5_0"].meanings) == {
        "excessive_buffer_overrun_errors", "port_rcv_errors", "port_rcv_switch_relay_errors", "port_xmit_wait",
        "roce_adp_retrans",
    }  # fmt: skip
    assert found["mlx5_0"].saturated == ("excessive_buffer_overrun_errors",)  # four bits: 15 is its end
    flapping = found["mlx5_1"]
    assert flapping.errors["link_downed"] == 255
    assert set(flapping.saturated) == {"excessive_buffer_overrun_errors", "link_downed"}
    assert "255 or more" in flapping.meanings["link_downed"]
    assert flapping.errors["port_rcv_switch_relay_errors"] == 2


def test_every_counter_of_a_real_host_is_in_the_table(shared_data: Path) -> None:
    names = {file.name for file in (shared_data / HOST).glob("*/ports/*/*counters/*")}
    assert names
    assert names <= set(table().counter)


def test_errors_and_signals_have_a_meaning() -> None:
    for name, row in table().counter.items():
        assert bool(row.meaning) == (row.kind in ("error", "signal")), name


@pytest.mark.parametrize("inside", [".", "..", "../..", "mlx5_4"])
def test_a_tree_is_found_wherever_one_points(shared_data: Path, inside: str) -> None:
    found = ports(list(read_tree(shared_data / HOST / inside)))
    assert found["mlx5_4"].rate_gbps == 400
    assert len(found) == (1 if inside == "mlx5_4" else 9)


# --- beside its peers -------------------------------------------------------------------------------------------------


def test_a_port_that_trained_slower_than_its_peers_is_degraded(copy: Path) -> None:
    (copy / "mlx5_4/ports/1/rate").write_text("200 Gb/sec (4X HDR)\n")
    found = ports(list(read_tree(copy)))
    slow = found["mlx5_4"]
    assert (slow.rate_gbps, slow.rate_name, slow.expected_gbps, slow.expected_by) == (200, "HDR", 400, "card")
    assert slow.degraded
    assert slow.reason == "It runs at 200 Gb/s where its peers have 400."
    assert [name for name, port in found.items() if port.degraded] == ["mlx5_4"]


def test_a_port_that_is_down_while_its_peers_are_up_is_degraded(copy: Path) -> None:
    (copy / "mlx5_4/ports/1/state").write_text("1: DOWN\n")
    (copy / "mlx5_4/ports/1/phys_state").write_text("2: Polling\n")
    (copy / "mlx5_4/ports/1/rate").write_text("10 Gb/sec (4X SDR)\n")
    down = ports(list(read_tree(copy)))["mlx5_4"]
    assert (down.state, down.physical_state, down.degraded) == ("down", "polling", True)


def test_a_whole_fabric_that_is_slower_than_its_cards_is_no_fault_of_a_port(copy: Path) -> None:
    for rate in copy.glob("mlx5_[0-9]/ports/1/rate"):
        rate.write_text("200 Gb/sec (4X HDR)\n")
    port = ports(list(read_tree(copy)))["mlx5_0"]
    assert port.degraded is False
    assert (port.peer_gbps, port.card_gbps) == (200, 400)
    assert "though its card is made for 400" in port.reason


def test_a_card_alone_is_held_to_its_own_rate(copy: Path) -> None:
    (copy / "mlx5_bond_0/ports/1/rate").write_text("100 Gb/sec (1X NDR)\n")
    bond = ports(list(read_tree(copy)))["mlx5_bond_0"]
    assert (bond.degraded, bond.rate_name) == (True, "NDR100")


def test_ports_that_nobody_uses_are_no_fault(copy: Path) -> None:
    for state in copy.glob("*/ports/1/state"):
        state.write_text("1: DOWN\n")
    assert {port.degraded for port in ports(list(read_tree(copy))).values()} == {None}


# --- what cannot be read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "garbage", "-1", "9" * 40, "1.5", "0x10"])
def test_a_counter_that_cannot_be_read_is_null_and_said(copy: Path, text: str) -> None:
    file = copy / "mlx5_4/ports/1/counters/symbol_error"
    file.write_text(text)
    decoded = list(read_tree(copy))
    assert ports(decoded)["mlx5_4"].errors["symbol_error"] is None
    assert "symbol_error" not in ports(decoded)["mlx5_4"].meanings
    (complaint,) = [item for item in decoded if isinstance(item, Unreadable)]
    assert complaint.place == str(file)
    assert len(ports(decoded)) == 9


def test_the_kernels_word_for_no_counter_is_null_and_no_trouble(copy: Path) -> None:
    (copy / "mlx5_4/ports/1/counters/symbol_error").write_text("N/A (no PMA)\n")
    decoded = list(read_tree(copy))
    assert ports(decoded)["mlx5_4"].errors["symbol_error"] is None
    assert len(decoded) == 9


def test_a_port_without_its_state_is_shown_without_it(copy: Path) -> None:
    (copy / "mlx5_4/ports/1/state").unlink()
    (copy / "mlx5_4/ports/1/rate").write_text("fast\n")
    decoded = list(read_tree(copy))
    port = ports(decoded)["mlx5_4"]
    assert (port.state, port.rate_gbps, port.degraded) == (None, None, None)
    (complaint,) = [item for item in decoded if isinstance(item, Unreadable)]
    assert complaint.reason == "no such file or directory"


def test_ports_are_in_the_order_of_their_numbers(copy: Path) -> None:
    (copy / "mlx5_9").rename(copy / "mlx5_10")
    assert list(ports(list(read_tree(copy))))[-2:] == ["mlx5_10", "mlx5_bond_0"]


def test_a_tree_without_devices_is_said(tmp_path: Path) -> None:
    (complaint,) = read_tree(tmp_path)
    assert isinstance(complaint, Unreadable)


# --- ibstat, ibstatus, perfquery --------------------------------------------------------------------------------------


def test_ibstat_is_read_and_its_ports_are_compared() -> None:
    found = ports(read(IBSTAT))
    assert list(found) == ["mlx5_0", "mlx5_1", "mlx5_2", "mlx5_3"]
    first = found["mlx5_0"]
    assert (first.component, first.state, first.rate_gbps) == ("port:gpu-17/mlx5_0/1", "active", 400)
    assert (first.hca_type, first.firmware, first.lid) == ("MT4129", "28.39.1002", 1543)
    assert (first.card, first.guid, first.speed) == ("ConnectX-7", "0x946dae03008bb02a", None)
    assert {name: port.degraded for name, port in found.items()} == {
        "mlx5_0": False, "mlx5_1": True, "mlx5_2": True, "mlx5_3": False,
    }  # fmt: skip
    assert found["mlx5_1"].physical_state == "polling"
    assert found["mlx5_1"].firmware == "28.39.1002"
    assert found["mlx5_2"].firmware is None


def test_ibstatus_is_read() -> None:
    (port,) = ports(read(IBSTATUS)).values()
    assert (port.device, port.port, port.state, port.rate_name, port.lid) == ("mlx5_0", 1, "active", "NDR200", 6)


def test_perfquery_is_read_with_its_own_names() -> None:
    first, second = read(PERFQUERY)
    assert isinstance(first, PortReading)
    assert isinstance(second, PortReading)
    assert (first.component, first.lid) == ("port:gpu-17/lid6/1", 6)
    assert first.errors["link_error_recovery"] == 3
    assert first.errors["link_downed"] == 1
    assert first.signals["port_xmit_wait"] == 77
    assert first.traffic["port_rcv_data_bytes"] == 1000
    assert set(first.saturated) == {"symbol_error", "port_xmit_data"}  # 32 bits without -x
    assert (first.state, first.degraded) == (None, None)
    assert second.traffic == {"port_xmit_data_bytes": 184_000_000_000, "port_rcv_data_bytes": 32}


def test_a_broken_counter_of_perfquery_costs_only_itself() -> None:
    decoded = read(PERFQUERY.replace("........3\n", "........three\n"))
    (complaint,) = [item for item in decoded if isinstance(item, Unreadable)]
    assert (complaint.place, complaint.what) == ("line 5", "the counter LinkErrorRecoveryCounter")
    port = next(item for item in decoded if isinstance(item, PortReading))
    assert port.errors["link_error_recovery"] is None
    assert port.errors["link_downed"] == 1


# --- the command ------------------------------------------------------------------------------------------------------


def run(*arguments: str, text: str = "") -> tuple[int, list[dict[str, Any]], str]:
    app = typer.Typer()
    register(app)
    done = CliRunner().invoke(app, ["infiniband", *arguments], input=text)
    return done.exit_code, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_the_command_reads_a_tree_and_text(shared_data: Path) -> None:
    code, found, counts = run(str(shared_data / HOST), "--node", "gpu-17")
    assert (code, counts) == (0, "9 objects; reading 9\n")
    assert found[0]["component"] == "port:gpu-17/mlx5_0/1"
    code, found, counts = run("-", text=IBSTAT)
    assert (code, counts) == (0, "4 objects; reading 4\n")
    assert found[0]["component"] == "port:unknown/mlx5_0/1"
    code, found, counts = run("-", "--node", "gpu-17", text=PERFQUERY)
    assert (code, counts) == (0, "2 objects; reading 2\n")
    assert (found[0]["component"], found[0]["errors"]["link_error_recovery"]) == ("port:gpu-17/lid6/1", 3)


def test_a_machine_without_devices_is_told_so() -> None:
    if Path("/sys/class/infiniband").exists():
        pytest.skip("this machine has InfiniBand devices")
    code, found, said = run()
    assert (code, found) == (1, [])
    assert "no InfiniBand devices" in said
