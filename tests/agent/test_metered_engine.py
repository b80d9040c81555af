"""Ranks are metered from their start to their end, by an engine that tells the machine's GPUs of both."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from powerflow.agent.devices import SEEN, NodeDevices
from powerflow.agent.emulation import TRUTH, truth_variable
from powerflow.agent.metered_engine import MeteredEngine
from powerflow.device.emulated.gpu import EmulatedGpu
from powerflow.device.emulated.pacer import ENVIRONMENT
from powerflow.device.emulated.throttle import NOTES
from powerflow.engine.devices import LedgerRow
from powerflow.engine.local import LocalEngine
from powerflow.engine.protocol import EngineError, RankName, RankSpec, RankState, RankStatus
from tests.device.cards import a_job, emulated_gpus, end_watchdog, wait_for

NAME = RankName("7", 1, 0)
NODE = "a100-0"

#: Draws 300 W on the emulated GPU for half a second, as a pacer would.
HALF_A_SECOND = """
import sys, time
from powerflow.device.emulated.gpu import EmulatedGpu, own_identity
pid, birth = own_identity()
gpu = EmulatedGpu(sys.argv[1])
gpu.draw(300.0, pid=pid, birth=birth)
time.sleep(0.5)
gpu.rest(pid=pid, birth=birth)
"""


class Silent:
    """An engine whose answers are the test's."""

    shares_mailboxes = True
    shells = None

    def __init__(self) -> None:
        self.statuses: list[RankStatus] = []
        self.refuses: EngineError | None = None
        self.specs: list[RankSpec] = []

    def launch(self, spec: RankSpec) -> RankStatus:
        self.specs.append(spec)
        if self.refuses is not None:
            raise self.refuses
        status = RankStatus(spec.name, spec.node, RankState.RUNNING, 0, None, 0.0, math.nan)
        self.statuses = [*self.statuses, status]
        return status

    def ranks(self) -> Sequence[RankStatus]:
        return self.statuses

    def forget(self, name: RankName) -> None:
        self.statuses = [status for status in self.statuses if status.name != name]


def spec(*gpus: int, **env: str) -> RankSpec:
    return RankSpec(NAME, NODE, ("true",), env=env, gpus=gpus)


def rows(devices: NodeDevices) -> dict[str, LedgerRow]:
    found = [LedgerRow(*row) for row in json.loads(json.dumps(devices.report()["ledger"]["rows"]))]
    return {f"{row.rank}@{row.uuid}": row for row in found}


@pytest.fixture
def gpus(tmp_path: Path) -> list[EmulatedGpu]:
    return emulated_gpus(tmp_path / "emulated")


@pytest.fixture
def devices(tmp_path: Path, gpus: list[EmulatedGpu]) -> Iterator[NodeDevices]:
    devices = NodeDevices(tmp_path / "device", gpus)
    yield devices
    devices.close()
    end_watchdog(tmp_path / "device")


def test_the_joules_of_a_job_of_half_a_second_are_exact(
    tmp_path: Path, devices: NodeDevices, gpus: list[EmulatedGpu]
) -> None:
    local = LocalEngine(tmp_path / "engine", nodes={NODE: 2})
    engine = MeteredEngine(local, devices)
    try:
        command = (sys.executable, "-c", HALF_A_SECOND, str(gpus[0].path))
        launched_s = time.monotonic()
        status = engine.launch(RankSpec(NAME, NODE, command, directory="/", gpus=(0,)))
        assert status.gpus == (gpus[0].uuid,)
        wait_for(lambda: bool(local.wait(1.0)) and engine.ranks()[0].state is RankState.EXITED, "the end")
        lived_s = time.monotonic() - launched_s
        row = rows(devices)[f"{NAME}@{gpus[0].uuid}"]
        assert row.final, "read before its end was told"
        assert 0.5 <= row.gpu_s <= lived_s
        # 300 W for half a second, or longer on a busy machine, and idle power while the interpreter starts and ends
        idle_s = row.gpu_s - 0.5
        assert row.energy_mj / 1e3 >= 300.0 * 0.5 + gpus[0].idle_w * idle_s - 1.0
        devices.turn()
        gone_j = sum(r.energy_mj for r in rows(devices).values() if r.uuid == gpus[0].uuid) / 1e3
        assert gone_j <= gpus[0].read().energy_j
        idle_row = rows(devices)[f"@{gpus[0].uuid}"]
        drawn_idle_j = idle_row.energy_mj / 1e3
        assert drawn_idle_j == pytest.approx(gpus[0].idle_w * idle_row.gpu_s, abs=1.0), "nothing of it is idle's"
        assert engine.ranks()[0].gpus == (gpus[0].uuid,)
    finally:
        local.shutdown(kill=True)


def test_a_rank_that_cannot_be_started_is_not_metered(devices: NodeDevices, gpus: list[EmulatedGpu]) -> None:
    silent = Silent()
    engine = MeteredEngine(silent, devices)  # type: ignore[arg-type]
    silent.refuses = EngineError("no such program")
    with pytest.raises(EngineError, match="no such program"):
        engine.launch(spec(0))
    assert devices.held() == {}
    (status,) = engine.launch_all([spec(0)])
    assert (status.state, status.why) == (RankState.NOT_STARTED, "no such program")
    with pytest.raises(EngineError, match="no GPU 9"):
        engine.launch(spec(9))


def test_a_rank_that_runs_although_its_launch_failed_is_metered(devices: NodeDevices, gpus: list[EmulatedGpu]) -> None:
    """The engine's agent was killed after the start and before the answer."""
    silent = Silent()
    engine = MeteredEngine(silent, devices)  # type: ignore[arg-type]
    silent.refuses = EngineError("the agent does not answer", retry=True)
    with pytest.raises(EngineError):
        engine.launch(spec(1))
    silent.statuses = [RankStatus(NAME, NODE, RankState.RUNNING, 0, None, 0.0, math.nan)]
    assert engine.ranks()[0].gpus == (gpus[1].uuid,)
    assert devices.held() == {str(NAME): (gpus[1].uuid,)}


def test_another_agent_finds_the_gpus_of_ranks_that_run(
    tmp_path: Path, devices: NodeDevices, gpus: list[EmulatedGpu]
) -> None:
    silent = Silent()
    MeteredEngine(silent, devices).launch(spec(0, 1))  # type: ignore[arg-type]
    later = NodeDevices(tmp_path / "device", gpus)
    engine = MeteredEngine(silent, later)  # type: ignore[arg-type]
    assert engine.ranks()[0].gpus == (gpus[0].uuid, gpus[1].uuid)
    silent.statuses = [RankStatus(NAME, NODE, RankState.EXITED, 0, 0, 0.0, 1.0)]
    assert engine.ranks()[0].gpus == (gpus[0].uuid, gpus[1].uuid)
    assert later.held() == {}
    engine.forget(NAME)
    assert engine.ranks() == ()


def test_an_emulated_rank_gets_its_true_costs_from_its_own_machine(
    devices: NodeDevices, gpus: list[EmulatedGpu]
) -> None:
    silent = Silent()
    engine = MeteredEngine(silent, devices)  # type: ignore[arg-type]
    told = truth_variable(a_job(), time_scale=0.5, throttle=False, whole=False, global_batch=64, local_max=32)
    engine.launch(spec(1, **told, **{SEEN: "0,1"}))
    env = silent.specs[0].env
    assert TRUTH not in env
    assert SEEN not in env
    content = json.loads(Path(env[ENVIRONMENT]).read_text())
    assert content["gpus"] == [str(gpu.path.resolve()) for gpu in gpus]
    assert content["time_scale"] == 0.5
    assert "throttle" not in content
    silent.statuses = []
    engine.forget(NAME)
    assert not Path(env[ENVIRONMENT]).exists()


@pytest.mark.parametrize(("whole", "world"), [(True, {}), (False, {"WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"})])
def test_a_script_is_slowed_by_its_machine_also_after_the_agent_was_killed(
    tmp_path: Path, devices: NodeDevices, gpus: list[EmulatedGpu], whole: bool, world: dict[str, str]
) -> None:
    silent = Silent()
    engine = MeteredEngine(silent, devices)  # type: ignore[arg-type]
    told = truth_variable(a_job(), time_scale=1.0, throttle=True, whole=whole, global_batch=64, local_max=8)
    engine.launch(spec(0, **told, **world))
    content = json.loads(Path(silent.specs[0].env[ENVIRONMENT]).read_text())
    share = 64 if whole else 16
    assert content["throttle"] == {
        "gpus": [gpus[0].uuid],
        "total_gpus": 1 if whole else 4,
        "nodes": 1 if whole else 2,
        "local_batch": 8,
        "accumulation": share // 8,
    }
    local = LocalEngine(tmp_path / "engine", nodes={NODE: 2})
    try:
        running = local.launch(RankSpec(NAME, NODE, ("sleep", "1000"), directory="/"))
        silent.statuses = [running]
        engine.ranks()
        notes = tmp_path / "device" / NOTES
        wait_for(lambda: bool(list(notes.glob("*.json"))), "a throttle")
        wait_for(lambda: gpus[0].read().power_w > gpus[0].idle_w, "its power")
        devices.close()
        assert list(notes.glob("*.json")) == []
        later = MeteredEngine(silent, again := NodeDevices(tmp_path / "device", gpus))  # type: ignore[arg-type]
        later.ranks()
        wait_for(lambda: bool(list(notes.glob("*.json"))), "another throttle")
        silent.statuses = []
        later.ranks()
        assert list(notes.glob("*.json")) == []
        assert gpus[0].read().power_w == gpus[0].idle_w
        again.close()
    finally:
        local.shutdown(kill=True)


def test_the_ranks_of_a_launcher_run_freely(devices: NodeDevices) -> None:
    silent = Silent()
    engine = MeteredEngine(silent, devices)  # type: ignore[arg-type]
    told = truth_variable(a_job(), time_scale=1.0, throttle=True, whole=False, global_batch=64, local_max=8)
    engine.launch(spec(0, 1, **told))
    assert "throttle" not in json.loads(Path(silent.specs[0].env[ENVIRONMENT]).read_text())
