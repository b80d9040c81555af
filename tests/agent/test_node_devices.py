"""The GPUs of one machine: read, metered and clocked by the machine itself, whoever is silent or dead."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nacl.public import PrivateKey

from powerflow.agent import devices as devices_module
from powerflow.agent.devices import READ_S, SEEN, NodeDevices
from powerflow.agent.process import AgentSettings, run_agent
from powerflow.device.claims import GpuClaims
from powerflow.device.lease import LEASE_S, borrowed
from powerflow.device.protocol import DeviceError
from powerflow.engine.cluster.sealed import JoinToken
from powerflow.engine.devices import LedgerRow, error_of, power_of, reading_of
from powerflow.engine.protocol import RankName, RankState, RankStatus
from powerflow.errors import InputError
from tests.agent.cards import Card

ONE, TWO = "1.1.0", "2.1.0"


class Machine:
    """A machine with two cards whose time is the test's."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.now_s, self.boot = directory, 1000.0, "first boot"
        self.cards = [Card("A"), Card("B", 1)]
        self.start()

    def start(self) -> None:
        self.devices = NodeDevices(
            self.directory,
            self.cards,
            machine="m",
            clock=lambda: self.now_s,
            reading_clock=lambda: self.cards[0].time_s,
            boot=self.boot,
            claim=False,
        )

    def turn(self, watts: float = 100.0, seconds: float = 1.0) -> None:
        self.now_s += seconds
        for card in self.cards:
            card.draw(watts, seconds)
        self.devices.turn()

    def report(self, since: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(json.dumps(self.devices.report(since), allow_nan=False))
        return found

    def rows(self) -> dict[str, LedgerRow]:
        rows = [LedgerRow(*row) for row in self.report()["ledger"]["rows"]]
        return {f"{row.rank}@{row.uuid}": row for row in rows}

    def store_all(self) -> None:
        """What a controller does that stores everything."""
        report = self.report()
        audit = max((entry[0] for entry in report["audit"]), default=0)
        self.devices.acknowledge(report["ledger"]["id"], report["ledger"]["version"], audit)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def status(name: str, state: RankState = RankState.RUNNING, gpus: tuple[str, ...] = (), pid: int = 0) -> RankStatus:
    return RankStatus(RankName.parse(name), "n0", state, pid, None, 0.0, math.nan, gpus=gpus)


def test_a_report_is_plain_data_from_which_everything_can_be_read(machine: Machine) -> None:
    machine.devices.began(ONE, ["A"])
    machine.turn(200.0)
    machine.cards[1].lose()
    machine.now_s += 3.0
    machine.devices.turn()
    machine.now_s += 0.25
    report = machine.report()
    a, b = report["gpus"]["A"], report["gpus"]["B"]
    reading = reading_of(a)
    assert reading is not None
    assert (reading.power_w, reading.clock_mhz, reading.locked_mhz) == (200.0, 1410.0, None)
    assert math.isnan(reading.time_s), "the machine's clock means nothing elsewhere"
    assert math.isnan(reading.power_limit_w)
    assert tuple(power_of(a, report["age_s"])) == (200.0, 0.25), "the power of a quarter of a second ago"
    assert report["age_s"] == 0.25
    assert (a["rank"], a["clock"]) == (ONE, {"asked_mhz": None, "holds": False, "strays": False})
    assert reading_of(b) is None
    assert repr(error_of(b)) == "DeviceLost('GPU is lost')"
    assert error_of(a) is None
    assert (report["machine"], report["boot"], report["refused"], report["notices"]) == ("m", "first boot", [], [])


def test_the_energy_of_a_rank_is_in_the_report_when_it_has_ended(machine: Machine) -> None:
    machine.devices.began(ONE, ["A"])
    machine.turn(300.0, 0.5)  # no reading is due
    machine.devices.ended(ONE)
    row = machine.rows()[f"{ONE}@A"]
    assert (row.energy_mj, row.gpu_s, row.final) == (150_000, 0.5, True)


def test_rows_are_told_until_they_are_stored(machine: Machine) -> None:
    machine.devices.began(ONE, ["A"])
    machine.turn()
    machine.devices.ended(ONE)
    machine.store_all()
    assert machine.rows() == {}, "nothing has changed since"
    machine.turn()
    assert set(machine.rows()) == {"@A", "@B"}
    assert machine.report()["ledger"]["acknowledged"] > 0
    machine.devices.acknowledge("another ledger", 10**9, 0)
    machine.turn()
    assert set(machine.rows()) == {"@A", "@B"}


def test_a_controller_that_is_away_for_a_minute_misses_nothing(machine: Machine) -> None:
    machine.store_all()
    for number in range(10):
        machine.devices.began(f"{number}.1.0", ["B"])
        for _ in range(6):
            machine.turn(100.0, 1.0)
        machine.devices.ended(f"{number}.1.0")
    rows = machine.rows()
    assert {rank: (row.energy_mj, row.gpu_s) for rank, row in rows.items() if rank[0] != "@"} == {
        f"{number}.1.0@B": (600_000, 6.0) for number in range(10)
    }
    assert rows["@A"].energy_mj == 6_000_000


def test_ranks_that_ended_while_no_agent_ran_are_ended_when_it_starts(machine: Machine) -> None:
    machine.devices.began(ONE, ["A"])
    machine.devices.began(TWO, ["B"])
    machine.turn()
    machine.start()
    machine.devices.follow([status(TWO, gpus=("B",)), status(ONE, RankState.EXITED)])
    assert machine.devices.held() == {TWO: ("B",)}
    machine.devices.follow([])  # the engine has forgotten it
    assert machine.devices.held() == {}
    assert all(row.final for row in machine.rows().values() if row.rank)


def test_a_rank_that_is_being_launched_is_not_ended_because_the_engine_does_not_know_it_yet(machine: Machine) -> None:
    machine.devices.began(ONE, ["A"])
    machine.devices.follow([])
    assert machine.devices.held() == {ONE: ("A",)}
    machine.devices.follow([status(ONE, gpus=("A",))])
    machine.devices.follow([status(ONE, RankState.EXITED)])
    assert machine.devices.held() == {}


def test_a_running_rank_that_the_ledger_does_not_know_is_metered_from_now_on(machine: Machine) -> None:
    machine.turn()
    machine.devices.follow([status(ONE, gpus=("A",))])
    machine.turn()
    assert machine.rows()[f"{ONE}@A"].energy_mj == 100_000


def test_after_a_reboot_the_machine_says_so_and_no_rank_is_left(machine: Machine) -> None:
    machine.devices.began(ONE, ["A"])
    machine.turn()
    machine.boot, machine.now_s = "second boot", 5.0
    for card in machine.cards:
        card.time_s, card.energy_j = 5.0, 0.0
    machine.start()
    machine.turn(50.0)
    assert machine.report()["boot"] == "second boot"
    assert machine.devices.held() == {}
    assert machine.rows()[f"{ONE}@A"].energy_mj == 100_000
    assert machine.rows()["@A"].energy_mj == 50_000


# -- clocks


def locked(machine: Machine) -> list[float | None]:
    return [card.locked_mhz for card in machine.cards]


def actions(machine: Machine) -> list[tuple[str, str]]:
    return [(uuid, action) for _, _, uuid, action, _ in machine.report()["audit"]]


def test_a_wish_is_whole_and_may_be_repeated(machine: Machine) -> None:
    for _ in range(3):
        machine.devices.want({"A": 945.0, "nobody's": 705.0})
        machine.turn()
    assert locked(machine) == [945.0, None]
    assert machine.report()["gpus"]["A"]["clock"] == {"asked_mhz": 945.0, "holds": True, "strays": False}
    machine.devices.want({"B": 705.0})
    machine.turn()
    assert locked(machine) == [None, 705.0]
    assert actions(machine) == [("A", "clock set"), ("A", "clock back"), ("B", "clock set")]


def test_clocks_are_given_back_when_the_controller_is_silent(machine: Machine) -> None:
    machine.devices.want({"A": 945.0})
    machine.turn()
    machine.turn(seconds=LEASE_S - 2.0)
    assert locked(machine) == [945.0, None]
    machine.turn()
    machine.turn()
    assert locked(machine) == [None, None]
    assert borrowed(machine.directory) == 0
    assert actions(machine)[-1] == ("A", "clock back")
    machine.devices.want({"A": 945.0})  # it is back
    machine.turn()
    assert locked(machine) == [945.0, None]


def test_a_shorter_lease_ends_earlier(machine: Machine) -> None:
    machine.devices.want({"A": 945.0}, 3.0)
    machine.turn()
    assert locked(machine) == [945.0, None]
    machine.turn(seconds=3.0)
    assert locked(machine) == [None, None]


def test_a_new_agent_leaves_the_clocks_until_it_hears_of_the_controller_or_the_lease_has_ended(
    machine: Machine,
) -> None:
    machine.devices.want({"A": 945.0})
    machine.turn()
    machine.start()
    machine.turn()
    assert locked(machine) == [945.0, None]
    machine.devices.want({"A": 945.0})
    machine.turn()
    assert machine.report()["gpus"]["A"]["clock"]["asked_mhz"] == 945.0
    machine.start()
    machine.turn(seconds=LEASE_S + 1.0)
    assert locked(machine) == [None, None]


def test_the_audit_is_kept_until_it_is_stored(machine: Machine) -> None:
    machine.devices.want({"A": 945.0})
    machine.turn()
    machine.start()
    assert actions(machine) == [("A", "clock set")]
    number = machine.report()["audit"][0][0]
    machine.store_all()
    machine.turn()
    assert actions(machine) == []
    machine.devices.want({})
    machine.turn()
    assert [entry[0] for entry in machine.report()["audit"]] == [number + 1]


def test_a_gpu_that_does_not_answer_keeps_its_clock_and_nothing_is_asked(machine: Machine) -> None:
    machine.devices.want({"A": 945.0})
    machine.turn()
    machine.cards[0].lose()
    machine.devices.want({"A": 705.0})
    machine.turn()
    assert locked(machine) == [945.0, None]
    machine.cards[0].error = None
    machine.turn(seconds=READ_S)
    assert locked(machine) == [705.0, None]


def test_when_it_is_closed_without_a_wish_the_clocks_are_the_gpus_own(machine: Machine) -> None:
    machine.devices.want({"A": 945.0})
    machine.turn()
    machine.devices.close()
    assert locked(machine) == [945.0, None], "ranks may run on, and a controller may come back"
    machine.start()
    machine.devices.want({})
    machine.devices.close()
    assert locked(machine) == [None, None]


# -- the rest


def test_what_other_people_run_beside_a_rank_is_seen_here_and_charged_to_nobody(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.cards[0].pids = machine.cards[1].pids = (7, 8)
    asked: list[tuple[frozenset[int], bool]] = []

    def found(pids: tuple[int, ...], ours: frozenset[int], *, spare_containers: bool) -> tuple[str, ...]:
        asked.append((ours, spare_containers))
        return tuple(f"python (process {pid} of eve)" for pid in pids if pid not in ours)

    monkeypatch.setattr(devices_module, "strangers", found)
    machine.turn()
    assert asked == [], "nobody has said yet which ranks run"
    machine.devices.began(ONE, ["A"])
    machine.devices.follow([status(ONE, gpus=("A",), pid=7)])
    machine.turn()
    machine.turn()
    report = machine.report()
    assert report["gpus"]["A"]["strangers"] == ["python (process 8 of eve)"]
    assert [spare for _, spare in asked[:2]] == [True, False]
    row = machine.rows()[f"{ONE}@A"]
    assert (row.energy_mj, row.gpu_s) == (100_000, 2.0), "the second second belongs to nobody"


def test_a_disk_that_cannot_be_written_is_said_and_the_clocks_still_follow(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.turn()
    before = machine.report()["ledger"]

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "ledger.json")

    with monkeypatch.context() as patch:
        patch.setattr("powerflow.agent.ledger.replace_json", full)
        machine.devices.want({"A": 945.0})
        machine.turn()
        assert machine.report()["notices"] == ["m: ledger.json cannot be written (No space left on device)"]
        assert machine.report()["ledger"] == before
        assert locked(machine) == [945.0, None]
    machine.turn()
    assert machine.report()["notices"] == []
    assert machine.rows()["@A"].energy_mj == 300_000


def test_the_environment_names_the_gpus_that_a_rank_may_see(machine: Machine) -> None:
    env = {"X": "1", SEEN: "0,1"}
    found = machine.devices.environment(ONE, "n0", (1,), env)
    assert found == {
        "X": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "A,B",
        "NVIDIA_VISIBLE_DEVICES": "A,B",
    }
    assert machine.devices.environment(ONE, "n0", (1,), {})["CUDA_VISIBLE_DEVICES"] == "B"
    assert machine.devices.environment(ONE, "n0", (), {"A": "b"}) == {"A": "b"}  # exactly what was asked
    with pytest.raises(DeviceError, match="no GPU 4 on node n0"):
        machine.devices.environment(ONE, "n0", (4,), {})


def test_its_own_thread_reads_and_ends(machine: Machine, eventually: Callable[..., None]) -> None:
    machine.devices.start()
    reads = machine.cards[0].reads
    machine.now_s += 2.0
    eventually(lambda: machine.cards[0].reads > reads, "a reading")
    machine.devices.want({"A": 945.0})
    eventually(lambda: machine.cards[0].locked_mhz == 945.0, "a clock")
    machine.devices.close()


def test_an_agent_is_refused_gpus_that_another_process_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card("GPU-of-this-test")
    card.emulated = False
    claims = GpuClaims([card.uuid])
    try:
        monkeypatch.setattr("powerflow.agent.devices.GpuClaims", lambda uuids: GpuClaims(uuids, wait_s=0.0))
        token = JoinToken(bytes(PrivateKey.generate().public_key), bytes(32))
        with pytest.raises(InputError) as refused:
            run_agent(AgentSettings(tmp_path / "agent", token, (), [card]))
        assert str(refused.value).endswith(f"uses GPU {card.uuid}; stop that process first")
        assert str(os.getpid()) in str(refused.value)
    finally:
        claims.close()


@pytest.fixture
def eventually() -> Callable[..., None]:
    from tests.device.cards import wait_for

    return wait_for
