"""A GPU whose driver does not come back holds up nobody: no reading of others, no clock of theirs, no watchdog."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.device.fake_nvml import HANG_READING, HANG_SETTING, Machine


@pytest.fixture
def machine(nvml_machine: Machine) -> Iterator[Machine]:
    yield nvml_machine
    for gpu in nvml_machine.more:
        gpu.hangs = 0


_FAKE = (
    "import mmap, os\n"
    "from tests.device.fake_nvml import FakeMachine\n"
    "fake = FakeMachine.from_buffer(mmap.mmap(os.open(os.environ['FAKE_NVML_STATE'], os.O_RDWR), 0))\n"
)


def test_others_are_read_while_one_hangs_and_it_is_read_again_when_it_answers(machine: Machine) -> None:
    out = machine.run(
        _FAKE + "from powerflow.device.meter import Meter\n"
        f"meter = Meter(gpus); meter.sample(); fake.more[0].hangs = {HANG_READING}\n"
        "meter.sample(); print(sorted(meter.readings), meter.errors)\n"
        "began = time.monotonic(); meter.sample(); meter.sample(); print(time.monotonic() - began < 1.5)\n"
        "fake.more[0].hangs = 0\n"
        "while len(meter.readings) < 2: meter.sample(); time.sleep(0.05)\n"
        "print(sorted(meter.readings), meter.errors)"
    )
    first, quick, last = out.splitlines()
    assert first.startswith(
        "['GPU-00000001-fake'] {'GPU-00000000-fake': NotAnswering('GPU 0 of n0: its driver does not"
    )
    assert quick == "True"
    assert last == "['GPU-00000000-fake', 'GPU-00000001-fake'] {}"


def test_a_clock_that_cannot_be_set_for_now_holds_up_no_other(machine: Machine, tmp_path: object) -> None:
    out = machine.run(
        _FAKE + "from powerflow.device.lease import Clocks\nfrom powerflow.device.deadline import NotAnswering\n"
        f"clocks = Clocks({str(tmp_path)!r}, gpus, print); fake.more[0].hangs = {HANG_SETTING}\n"
        "try:\n    clocks.set(gpus[0].uuid, 945)\nexcept NotAnswering as error: print(error)\n"
        "began = time.monotonic()\n"
        "print(clocks.set(gpus[1].uuid, 945).clock_mhz, time.monotonic() - began < 4.0)\n"
        "fake.more[0].hangs = 0\n"
        "while True:\n"
        "    try: clocks.release_all(); gpus[0].read(); break\n"
        "    except NotAnswering: time.sleep(0.05)\n"
        "clocks.release_all(); print(clocks.borrowed())"
    )
    said, other, borrowed = out.splitlines()
    assert said == "GPU 0 of n0: its driver does not answer"
    assert other == "945.0 True"
    assert borrowed == "frozenset()"
    assert [machine.gpu[k].locked_mhz for k in range(2)] == [0, 0]


def test_other_clocks_are_given_back_while_one_gpu_hangs(machine: Machine, tmp_path: object) -> None:
    machine.run(
        "from powerflow.device.lease import Clocks\n"
        f"clocks = Clocks({str(tmp_path)!r}, gpus, print, lease_s=600.0)\n"
        "[clocks.set(gpu.uuid, 945) for gpu in gpus]"
    )
    machine.more[0].hangs = HANG_SETTING
    out = machine.run(
        "from powerflow.device.lease import restore_leftovers\n"  # what the watchdog calls
        f"print(restore_leftovers({str(tmp_path)!r}, []))"
    )
    assert out == "['GPU-00000001-fake']"
    assert [machine.gpu[k].locked_mhz for k in range(2)] == [945, 0]


def test_what_a_gpu_says_of_its_health(machine: Machine) -> None:
    more = machine.more[0]
    more.pids[0], more.pids[2], more.throttled_by, more.power_limit_mw = 41, 7, 0x4 | 0x20, 250_000
    more.ecc_errors = 3
    out = machine.run(
        _FAKE + "g = gpus[0]; r = g.read(); print(r.pids, sorted(r.held_back), r.power_limit_w, r.ecc_errors, r.xids)\n"
        "fake.more[0].xid, fake.more[0].xids = 79, 1\nprint(g.read().xids, g.read().xids)"
    )
    assert out.splitlines() == ["(7, 41) ['heat', 'power'] 250.0 3.0 ()", "(79,) (79,)"]


def test_a_lost_gpu_that_comes_back_is_read_by_its_new_handle(machine: Machine) -> None:
    out = machine.run(
        _FAKE + "from powerflow.device.protocol import DeviceLost\nfake.gpu[0].every_error = 15\n"
        "try: gpus[0].read()\nexcept DeviceLost: print('lost')\n"
        "fake.gpu[0].every_error = 0; print(gpus[0].read().clock_mhz)"
    )
    assert out.splitlines() == ["lost", "1410.0"]
