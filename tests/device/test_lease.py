"""Clocks are borrowed: set only if different, noted before the first change, and given back whoever died."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from powerflow.device import watchdog
from powerflow.device.emulated.gpu import EmulatedGpu
from powerflow.device.lease import Clocks, ensure_watchdog, lease_left_s, restore_if_ended, restore_leftovers
from powerflow.device.protocol import DeviceError, DeviceLost, NotPermitted, Reading, Unsupported
from tests.device.cards import emulated_gpus, end_watchdog, the_watchdog, wait_for, watchdog_pid
from tests.device.fake_nvml import Machine


class Card:
    """A GPU in memory, which counts how often it is set and fails as told."""

    emulated = True
    node, index, gpu_type = "n0", 0, "A100"

    def __init__(self, uuid: str = "CARD-0", locked_mhz: float | None = None) -> None:
        self.uuid = uuid
        self.locked_mhz = locked_mhz
        self.sets = 0
        self.fails: BaseException | None = None
        self.before_set: Callable[[], None] = lambda: None

    def read(self) -> Reading:
        return Reading(time.monotonic(), 60.0, 0.0, self.locked_mhz or 1410.0, self.locked_mhz, 0.0)

    def clocks_mhz(self) -> list[float]:
        return [705.0, 1410.0]

    def lock_clock(self, clock_mhz: float) -> None:
        self._set(round(clock_mhz / 15) * 15.0)

    def unlock_clock(self) -> None:
        self._set(None)

    def _set(self, clock_mhz: float | None) -> None:
        self.before_set()
        if self.fails is not None:
            raise self.fails
        self.sets += 1
        self.locked_mhz = clock_mhz


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "devices"
    yield directory
    end_watchdog(directory)


def never(notice: str) -> None:
    raise AssertionError(notice)


def test_a_clock_is_set_only_if_different_and_read_back(directory: Path) -> None:
    card = Card()
    clocks = Clocks(directory, [card], never)
    assert clocks.set("CARD-0", 1000).locked_mhz == 1005  # as it is, not as it was asked
    assert clocks.set("CARD-0", 1000).locked_mhz == 1005
    assert card.sets == 1
    assert clocks.set("CARD-0", 705).locked_mhz == 705
    assert card.sets == 2
    assert clocks.borrowed() == {"CARD-0"}
    clocks.release("CARD-0")
    clocks.release("CARD-0")
    assert (card.locked_mhz, card.sets, clocks.borrowed()) == (None, 3, frozenset())


def test_a_clock_that_somebody_else_changed_is_set_again(directory: Path) -> None:
    card = Card()
    clocks = Clocks(directory, [card], never)
    clocks.set("CARD-0", 705)
    card.locked_mhz = None
    assert clocks.set("CARD-0", 705).locked_mhz == 705
    assert card.sets == 2


def test_a_gpu_that_is_at_the_clock_anyhow_is_not_borrowed(directory: Path) -> None:
    card = Card(locked_mhz=705.0)
    clocks = Clocks(directory, [card], never)
    clocks.set("CARD-0", 705)
    assert (card.sets, clocks.borrowed()) == (0, frozenset())


@pytest.mark.parametrize("prior", [None, 1200.0])
def test_the_prior_setting_is_on_disk_before_the_first_change_and_comes_back(
    directory: Path, prior: float | None
) -> None:
    card = Card(locked_mhz=prior)
    seen = []

    def look() -> None:
        seen.append(json.loads((directory / "prior" / "CARD-0.json").read_text())["prior_mhz"])

    card.before_set = look
    clocks = Clocks(directory, [card], never)
    clocks.set("CARD-0", 705)
    clocks.set("CARD-0", 1005)
    assert seen == [prior, prior]
    clocks.release_all()
    assert card.locked_mhz == prior


def test_a_crash_between_note_and_change_gives_back_what_was(directory: Path) -> None:
    card = Card(locked_mhz=1200.0)
    card.fails = SystemExit()
    with pytest.raises(SystemExit):
        Clocks(directory, [card], never).set("CARD-0", 705)
    card.fails = None
    assert restore_leftovers(directory, [card]) == ["CARD-0"]
    assert card.locked_mhz == 1200


def test_a_successor_keeps_what_it_adopts_and_gives_back_the_rest(directory: Path) -> None:
    cards = [Card(f"CARD-{i}") for i in range(3)]
    dead = Clocks(directory, cards, never)
    for card in cards:
        dead.set(card.uuid, 705)
    assert sorted(restore_leftovers(directory, cards, keep={"CARD-1"})) == ["CARD-0", "CARD-2"]
    assert [card.locked_mhz for card in cards] == [None, 705, None]
    successor = Clocks(directory, cards, never)
    assert successor.borrowed() == {"CARD-1"}
    successor.set("CARD-1", 1005)  # borrowed already: the prior setting stays what it was
    successor.release("CARD-1")
    assert cards[1].locked_mhz is None


def test_without_the_right_it_says_so_once_and_all_else_works(directory: Path) -> None:
    cards = [Card("CARD-0"), Card("CARD-1")]
    for card in cards:
        card.fails = NotPermitted("only root may")
    said: list[str] = []
    clocks = Clocks(directory, cards, said.append)
    for _ in range(3):
        for card in cards:
            assert clocks.set(card.uuid, 705).clock_mhz == 1410
    clocks.renew()
    assert len(said) == 1
    assert "only root may" in said[0]
    assert clocks.borrowed() == frozenset()
    assert not list((directory / "prior").iterdir())


def test_a_gpu_that_cannot_be_locked_is_named_once(directory: Path) -> None:
    card, other = Card("CARD-0"), Card("CARD-1")
    card.fails = Unsupported("no clocks to lock")
    said: list[str] = []
    clocks = Clocks(directory, [card, other], said.append)
    clocks.set("CARD-0", 705)
    clocks.set("CARD-0", 1005)
    assert len(said) == 1
    assert "CARD-0" in said[0]
    assert clocks.set("CARD-1", 705).locked_mhz == 705


def test_a_gpu_that_fails_stays_borrowed_until_it_takes_its_clock_back(directory: Path) -> None:
    card = Card()
    clocks = Clocks(directory, [card], never)
    clocks.set("CARD-0", 705)
    card.fails = DeviceLost("off the bus")
    with pytest.raises(DeviceError):
        clocks.release("CARD-0")
    assert restore_leftovers(directory, [card]) == []
    assert clocks.borrowed() == {"CARD-0"}
    card.fails = None
    assert restore_leftovers(directory, [card]) == ["CARD-0"]


def test_the_lease_lasts_as_long_as_it_is_renewed_and_not_beyond_the_boot(directory: Path) -> None:
    card = Card()
    clocks = Clocks(directory, [card], never, lease_s=1000.0)
    assert lease_left_s(directory) < 0
    clocks.renew()
    assert lease_left_s(directory) < 0, "nothing is borrowed, so nothing is leased"
    clocks.set("CARD-0", 705)
    assert 900 < lease_left_s(directory) <= 1000
    assert restore_if_ended(directory) == []
    lease = json.loads((directory / "lease.json").read_text())
    (directory / "lease.json").write_text(json.dumps(lease | {"boot": "an earlier one"}))
    assert lease_left_s(directory) < 0


def test_restoring_where_nothing_is_does_nothing(tmp_path: Path) -> None:
    assert restore_leftovers(tmp_path / "none", []) == []
    assert not (tmp_path / "none").exists()


def test_a_clock_given_back_meanwhile_is_borrowed_anew(directory: Path) -> None:
    card = Card(locked_mhz=1200.0)
    clocks = Clocks(directory, [card], never)
    clocks.set("CARD-0", 1000)
    assert clocks.renew() == {"CARD-0"}
    restore_leftovers(directory, [card])  # the watchdog, while the controller was held up
    assert clocks.renew() == set()
    assert clocks.set("CARD-0", 1000).locked_mhz == 1005
    clocks.release("CARD-0")
    assert card.locked_mhz == 1200


_CONTROLLER = """
import sys, time
from powerflow.device.emulated.gpu import EmulatedGpu
from powerflow.device.lease import Clocks
gpus = [EmulatedGpu(path) for path in sys.argv[3:]]
clocks = Clocks(sys.argv[1], gpus, print, lease_s=float(sys.argv[2]))
for gpu in gpus:
    clocks.set(gpu.uuid, 705)
print("set", flush=True)
while True:
    time.sleep(0.1)
    clocks.renew()
"""


@contextlib.contextmanager
def controller(directory: Path, gpus: list[EmulatedGpu], lease_s: float) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", _CONTROLLER, str(directory), str(lease_s), *(str(gpu.path) for gpu in gpus)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"set\n"
            yield process
        finally:
            process.kill()


def test_killed_controller_the_watchdog_gives_back(tmp_path: Path, directory: Path) -> None:
    gpus = emulated_gpus(tmp_path / "gpus")
    gpus[1].lock_clock(1200)  # somebody's own setting
    with controller(directory, gpus, 2.0) as process:
        assert [gpu.read().locked_mhz for gpu in gpus] == [705, 705]
        pid = the_watchdog(directory)
        os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: [gpu.read().locked_mhz for gpu in gpus] == [None, 1200], "the prior clocks")
    assert watchdog_pid(directory) == pid
    assert not list((directory / "prior").iterdir())


def test_the_watchdog_leaves_clocks_alone_while_the_lease_is_renewed(tmp_path: Path, directory: Path) -> None:
    gpus = emulated_gpus(tmp_path / "gpus")
    with controller(directory, gpus, 30.0) as process:
        first = lease_left_s(directory)
        wait_for(lambda: lease_left_s(directory) > first, "a renewal")
        assert gpus[0].read().locked_mhz == 705
        assert process.poll() is None


def test_killed_watchdog_the_next_renewal_starts_another(tmp_path: Path, directory: Path) -> None:
    gpus = emulated_gpus(tmp_path / "gpus")
    with controller(directory, gpus, 2.0) as process:
        first = the_watchdog(directory)
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: watchdog_pid(directory) not in {None, first}, "another watchdog")
        os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: gpus[0].read().locked_mhz is None, "the prior clock")


def test_both_killed_the_next_start_gives_back(tmp_path: Path, directory: Path) -> None:
    gpus = emulated_gpus(tmp_path / "gpus")
    with controller(directory, gpus, 30.0) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        pid = the_watchdog(directory)
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: watchdog_pid(directory) is None, "no watchdog")
    assert gpus[0].read().locked_mhz == 705
    assert len(restore_leftovers(directory, gpus)) == 2
    assert gpus[0].read().locked_mhz is None


_BUSY = """
import itertools, sys
from powerflow.device.emulated.gpu import EmulatedGpu
from powerflow.device.lease import Clocks
gpu = EmulatedGpu(sys.argv[2])
clocks = Clocks(sys.argv[1], [gpu], print)
for clock in itertools.cycle([705.0, 1005.0, 1305.0]):
    clocks.set(gpu.uuid, clock)
    if clock == 1305.0:
        clocks.release(gpu.uuid)
        print(flush=True)
"""


def test_killed_at_any_moment_the_prior_clock_comes_back(tmp_path: Path, directory: Path) -> None:
    gpu = emulated_gpus(tmp_path / "gpus")[0]
    gpu.lock_clock(1200)
    rng = random.Random(5)
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", _BUSY, str(directory), str(gpu.path)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            for _ in range(rng.randrange(1, 6)):
                assert process.stdout.readline() == b"\n"
            time.sleep(rng.uniform(0, 0.01))  # anywhere between two lines
            process.kill()
        restore_leftovers(directory, [gpu])
        assert gpu.read().locked_mhz == 1200
        assert not list((directory / "prior").glob("*.json"))


def test_however_many_ask_at_once_one_watchdog_is_started(directory: Path) -> None:
    directory.mkdir()
    code = "import sys; from powerflow.device.lease import ensure_watchdog; ensure_watchdog(sys.argv[1])"
    askers = [subprocess.Popen([sys.executable, "-c", code, str(directory)]) for _ in range(6)]
    assert [asker.wait(60) for asker in askers] == [0] * 6
    ensure_watchdog(directory)
    watching = the_watchdog(directory)
    found = [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if str(directory) in (process.info["cmdline"] or []) and "powerflow.device.watchdog" in process.info["cmdline"]
    ]
    assert found == [watching]
    by_hand = [sys.executable, "-m", "powerflow.device.watchdog", str(directory)]
    done = subprocess.run(by_hand, capture_output=True, text=True, check=False)
    assert (done.returncode, "runs already" in done.stderr) == (1, True)


def test_the_watchdog_is_small(directory: Path) -> None:
    directory.mkdir()
    ensure_watchdog(directory)
    process = psutil.Process(the_watchdog(directory))
    assert process.memory_info().rss < 25 * 2**20
    assert process.num_threads() == 1


def test_it_goes_when_there_is_nothing_to_watch_over(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LINGER_S", 0.0)
    monkeypatch.setattr(watchdog, "POLL_S", 0.01)
    card = Card()
    clocks = Clocks(directory, [card], never, lease_s=1000.0)
    clocks.set("CARD-0", 705)
    looks = []

    def release_after_a_while(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 5:
            clocks.release_all()

    monkeypatch.setattr(time, "sleep", release_after_a_while)
    lock = os.open(directory / "watchdog.lock", os.O_RDWR | os.O_CREAT, 0o600)
    watchdog.watch(directory, lock)
    assert len(looks) >= 5, "it went while a clock was borrowed"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(lock)  # let go of, under the lock


def test_nvidia_clocks_come_back_too(tmp_path: Path, nvml_machine: Machine) -> None:
    machine = nvml_machine
    directory = tmp_path / "devices"
    said = machine.run_and_end(
        "from powerflow.device.lease import Clocks\n"
        "clocks = Clocks(sys.argv[1], gpus, print, lease_s=0.5)\n"
        "print(clocks.set(gpus[1].uuid, 1005).locked_mhz)",
        str(directory),
    )
    try:
        assert said == "1005.0"  # and that process has ended
        wait_for(lambda: (machine.gpu[1].locked_mhz, machine.gpu[1].sets) == (0, 2), "the GPU's own clock")
        wait_for(lambda: not list((directory / "prior").iterdir()), "no note")
    finally:
        end_watchdog(directory)


def test_nvidia_without_the_right(tmp_path: Path, nvml_machine: Machine) -> None:
    machine = nvml_machine
    machine.gpu[0].set_error = machine.gpu[1].set_error = 4
    out = machine.run_and_end(
        "from powerflow.device.lease import Clocks\n"
        "notices = []\nclocks = Clocks(sys.argv[1], gpus, notices.append)\n"
        "for g in gpus:\n    print(clocks.set(g.uuid, 1005).power_w)\n"
        "print(len(notices), notices[0])",
        str(tmp_path / "devices"),
    )
    end_watchdog(tmp_path / "devices")
    assert out.splitlines()[:2] == ["60.0", "60.0"]
    assert out.splitlines()[2].startswith("1 GPU clocks cannot be set: GPU 0 of n0: Insufficient Permissions")
    assert (machine.gpu[0].sets, machine.gpu[1].sets) == (0, 0)
