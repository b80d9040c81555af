"""Emulated GPUs: joules add up, whoever reads and writes, and a loader that dies draws no more."""

from __future__ import annotations

import fcntl
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.cluster.spec import Node
from powerflow.device.emulated import shared_record
from powerflow.device.emulated.gpu import EmulatedGpu, create, own_identity, settled
from powerflow.device.emulated.shared_record import EmulatedState, SharedRecord, create_cell
from powerflow.device.protocol import Activity, DeviceError, DeviceLost, NotPermitted
from powerflow.errors import InputError
from tests.device.cards import emulated_gpus, wait_for

IDLE_W = 60.0


def test_the_catalogue_says_what_a_gpu_can_do(tmp_path: Path) -> None:
    gpu = emulated_gpus(tmp_path)[0]
    assert (gpu.gpu_type, gpu.node, gpu.index, gpu.emulated) == ("A100", "a100-0", 0, True)
    clocks = gpu.clocks_mhz()
    assert (clocks[0], clocks[-1], len(clocks)) == (210, 1410, 81)
    reading = gpu.read()
    assert (reading.power_w, reading.clock_mhz, reading.locked_mhz, reading.utilisation) == (60, 210, None, 0)


def test_made_twice_they_are_the_same(tmp_path: Path) -> None:
    first = emulated_gpus(tmp_path, "2x2:A100")
    first[1].lock_clock(1005)
    again = emulated_gpus(tmp_path, "2x2:A100")
    assert [gpu.uuid for gpu in again] == [gpu.uuid for gpu in first]
    assert len({gpu.uuid for gpu in first}) == 4
    assert again[1].read().locked_mhz == 1005


def test_another_type_in_its_place_is_refused(tmp_path: Path) -> None:
    emulated_gpus(tmp_path, "1x1:A100")
    with pytest.raises(InputError, match="exists already, with GPU type A100"):
        create(tmp_path, [Node(0, "a100-0", "T4", 1, "r")])


@pytest.mark.parametrize("name", ["../up", ".hidden", "a/b", ""])
def test_a_node_name_never_leaves_the_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        create(tmp_path / "in", [Node(0, name, "A100", 1, "r")])
    assert not list(tmp_path.glob("**/0"))


def test_clocks_are_snapped_to_those_there_are_and_given_back(tmp_path: Path) -> None:
    gpu = emulated_gpus(tmp_path)[0]
    for asked, got in ((1000, 1005), (997, 990), (5000, 1410), (1, 210)):
        gpu.lock_clock(asked)
        assert gpu.read().locked_mhz == gpu.read().clock_mhz == got
    gpu.unlock_clock()
    assert gpu.read().locked_mhz is None
    for wrong in (0.0, -5.0, math.nan):
        with pytest.raises(DeviceError):
            gpu.lock_clock(wrong)


def test_without_permission_all_but_clocks_works(tmp_path: Path) -> None:
    gpu = emulated_gpus(tmp_path)[0]
    SharedRecord(gpu.path).change(lambda state: state._replace(permitted=False))
    with pytest.raises(NotPermitted):
        gpu.lock_clock(1005)
    with pytest.raises(NotPermitted):
        gpu.unlock_clock()
    before, after = gpu.read(), gpu.read()
    assert after.locked_mhz is None
    assert after.energy_j >= before.energy_j


def test_the_load_is_drawn_while_its_process_lives(tmp_path: Path) -> None:
    gpu = emulated_gpus(tmp_path)[0]
    pid, birth = own_identity()
    gpu.draw(250.0, pid=pid, birth=birth)
    loaded = gpu.read()
    assert (loaded.power_w, loaded.utilisation, loaded.clock_mhz) == (250, 1, 1410)
    gpu.rest(pid=pid + 1, birth=birth)
    assert gpu.read().power_w == 250, "only who loads it may end the load"
    gpu.rest(pid=pid, birth=birth)
    assert gpu.read().power_w == IDLE_W


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_loader_draws_no_more_even_as_a_zombie(tmp_path: Path, number: int) -> None:
    gpu = emulated_gpus(tmp_path)[0]
    code = (
        "import sys, time\nfrom powerflow.device.emulated.gpu import EmulatedGpu, own_identity\n"
        "pid, birth = own_identity()\nEmulatedGpu(sys.argv[1]).draw(300.0, pid=pid, birth=birth)\n"
        "print('loaded', flush=True)\ntime.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(gpu.path)], stdout=subprocess.PIPE) as loader:
        assert loader.stdout is not None
        assert loader.stdout.readline() == b"loaded\n"
        assert gpu.read().power_w == 300
        os.kill(loader.pid, number)
        wait_for(lambda: gpu.read().power_w == IDLE_W, "idle power")  # nobody has waited for it yet
        assert gpu.state().load_pid == 0


def test_a_gpu_whose_file_is_gone_is_lost(tmp_path: Path) -> None:
    gpu = emulated_gpus(tmp_path)[0]
    gpu.path.unlink()
    with pytest.raises(DeviceLost):
        gpu.read()
    with pytest.raises(DeviceLost):
        EmulatedGpu(gpu.path)


def test_a_foreign_file_is_no_gpu(tmp_path: Path) -> None:
    (tmp_path / "0").write_bytes(b"x" * 4096)
    with pytest.raises(ValueError, match="not an emulated GPU"):
        SharedRecord(tmp_path / "0")


def test_by_hand() -> None:
    loaded = EmulatedState(at_s=10.0, energy_j=1000.0, load_w=200.0, load_pid=7, load_born=1, seen_s=10.0)
    assert settled(loaded, IDLE_W, 15.0, True).energy_j == 2000
    # it died at some time after 12 s, when it was last seen: 2 s loaded, 3 s idle
    died = settled(loaded._replace(seen_s=12.0), IDLE_W, 15.0, False)
    assert (died.energy_j, died.load_pid, died.load_w) == (1000 + 400 + 180, 0, 0)
    # the machine was started anew: its clock began at 0 again
    assert settled(loaded, IDLE_W, 3.0, False).energy_j == 1000


def test_a_reading_has_the_mean_activity_since_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now_s=1000.0)
    clock.monotonic = lambda: clock.now_s
    monkeypatch.setattr("powerflow.device.emulated.gpu.time", clock)
    gpu = emulated_gpus(tmp_path)[0]
    pid, birth = own_identity()

    def after(seconds: float) -> tuple[float, float] | None:
        clock.now_s += seconds
        activity = gpu.read().activity
        return None if activity is None else (activity.tensor, activity.dram)

    assert after(1.0) is None, "there was no reading before"
    assert after(1.0) == (0.0, 0.0), "idle"
    gpu.draw(300.0, pid=pid, birth=birth, activity=Activity(math.nan, 0.5, 0.25))
    assert after(2.0) == pytest.approx((0.5, 0.25))
    clock.now_s += 1.0
    gpu.draw(250.0, pid=pid, birth=birth, activity=Activity(math.nan, 0.1, 0.05))
    assert after(3.0) == pytest.approx((0.2, 0.1)), "(1 s of 0.5 + 3 s of 0.1) / 4 s"
    assert EmulatedGpu(gpu.path).read().activity is None, "each reader has its own last reading"
    gpu.draw(300.0, pid=pid, birth=birth)
    assert after(1.0) is None, "the process does not tell what it does"
    gpu.rest(pid=pid, birth=birth)
    assert after(1.0) == (0.0, 0.0)


_moments = st.lists(st.floats(0, 1e5), min_size=1, max_size=8).map(sorted)


@settings(max_examples=100, deadline=None)
@given(_moments, st.floats(0, 700), st.booleans())
def test_reading_more_often_changes_no_joule_and_the_counter_never_falls(
    moments: list[float], load_w: float, loaded: bool
) -> None:
    start = EmulatedState(load_w=load_w, load_pid=5 if loaded else 0)
    state = start
    for moment in moments:
        after = settled(state, IDLE_W, moment, True)
        assert after.energy_j >= state.energy_j
        state = after
    assert state.energy_j == pytest.approx(settled(start, IDLE_W, moments[-1], True).energy_j, rel=1e-9, abs=1e-9)
    assert state.energy_j == pytest.approx((load_w if loaded else IDLE_W) * moments[-1], rel=1e-9, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(0, 100), st.integers(0, 3))
def test_a_writer_that_dies_in_mid_write_leaves_what_was_before(
    tmp_path_factory: pytest.TempPathFactory, writes: int, cut: int, garbage: int
) -> None:
    path = tmp_path_factory.mktemp("cell") / "0"
    create_cell(path, {}, EmulatedState(energy_j=0.5))
    cell = SharedRecord(path)
    for _ in range(1, writes):
        cell.change(lambda state: state._replace(energy_j=state.energy_j + 1.0))
    before = cell.read()
    with path.open("r+b") as file:  # the next write would go to the slot that is older
        file.seek((2048, 3072)[writes % 2])
        file.write((writes + 1).to_bytes(8, "little") + bytes([garbage]) * cut)
    assert cell.read() == before
    assert cell.change(lambda state: state._replace(energy_j=99.0)).energy_j == 99
    assert cell.read().energy_j == 99


_HAMMER = """
import sys
from powerflow.device.emulated.shared_record import SharedRecord
cell = SharedRecord(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[2])):
    # two fields that always agree, unless a read or a write was torn
    cell.change(lambda state: state._replace(energy_j=state.energy_j + 1.0, seen_s=state.energy_j + 1.0))
"""


def test_no_read_is_torn_and_no_write_lost_among_processes(tmp_path: Path) -> None:
    path = tmp_path / "0"
    create_cell(path, {}, EmulatedState())
    cell = SharedRecord(path)
    command = [sys.executable, "-c", _HAMMER, str(path), "3000"]
    writers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write(b"go\n")
            writer.stdin.flush()
        last = -1.0
        while last < 9000:
            state = cell.read()
            assert state.energy_j == state.seen_s >= last
            last = state.energy_j
            assert all(writer.poll() in {None, 0} for writer in writers)
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    assert cell.read().energy_j == 9000


def test_the_watchdog_can_open_one_without_numpy(tmp_path: Path) -> None:
    gpu = emulated_gpus(tmp_path)[0]
    code = (
        "import sys; from powerflow.device.emulated.gpu import EmulatedGpu\n"
        "EmulatedGpu(sys.argv[1]).read(); print('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(gpu.path)], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_file_that_somebody_cut_short_or_scribbled_over_is_a_lost_gpu(tmp_path: Path) -> None:
    gpu = emulated_gpus(tmp_path)[0]
    whole = gpu.path.read_bytes()
    os.truncate(gpu.path, 0)  # everybody may write it; a map of it would kill us here
    with pytest.raises(DeviceLost, match="damaged"):
        gpu.read()
    with pytest.raises(DeviceLost, match="damaged"):
        gpu.state()
    with pytest.raises(DeviceLost, match="not an emulated GPU"):
        EmulatedGpu(gpu.path)
    gpu.path.write_bytes(whole[:2048] + b"\xff" * 2048)
    with pytest.raises(DeviceLost, match="damaged"):
        gpu.read()
    gpu.path.write_bytes(whole)
    assert gpu.read().locked_mhz is None


def test_a_lock_that_is_never_let_go_stops_nobody_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = emulated_gpus(tmp_path)[0]
    monkeypatch.setattr(shared_record, "LOCK_S", 0.05)
    with gpu.path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DeviceLost, match="is locked"):
            gpu.read()
    assert gpu.read().locked_mhz is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"energy_j": math.nan},
        {"energy_j": math.inf},
        {"energy_j": -1.0},
        {"load_w": 1e300},
        {"load_w": -5.0},
        {"load_tensor": 1.5},
        {"dram_s": math.nan},
        {"at_s": math.nan},
        {"locked_mhz": -math.inf},
        {"number": (1 << 64) - 1},
    ],
)
def test_numbers_of_no_gpu_with_a_right_checksum_are_damage(tmp_path: Path, wrong: dict[str, float]) -> None:
    """Every login may write the file; a controller that reads it must not end of that."""
    gpu = emulated_gpus(tmp_path)[0]
    number = int(wrong.pop("number", 1 << 40))
    slot = shared_record._packed(number, gpu.state()._replace(**wrong))  # type: ignore[arg-type]
    with gpu.path.open("r+b") as file:
        for at in shared_record.SLOTS_AT:
            file.seek(at)
            file.write(slot)
    with pytest.raises(DeviceLost, match="damaged"):
        gpu.read()
