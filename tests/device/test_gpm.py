"""What a GPU did between two readings: through the real nvidia-ml-py, down to a library of our own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from powerflow.device.gpm import APART_S
from tests.device.fake_nvml import Machine

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")

#: Code before that of each test: ``look`` prints the activity of a new reading of GPU 0, apart from the last one.
START = (
    "import gc, mmap, os\n"
    "from tests.device.fake_nvml import FakeMachine\n"
    "machine = FakeMachine.from_buffer(mmap.mmap(os.open(os.environ['FAKE_NVML_STATE'], os.O_RDWR), 0))\n"
    "fake, card = machine.gpu[0], machine.more[0]\n"
    "def look(apart_s=%r):\n"
    "    time.sleep(apart_s)\n"
    "    a = gpus[0].read().activity\n"
    "    told = a and [None if math.isnan(v) else round(v, 9) for v in (a.sm, a.tensor, a.dram)]\n"
    "    print(json.dumps(told))\n"
) % (APART_S + 0.01)


@pytest.fixture(scope="module")
def one_machine(nvml_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(nvml_library, tmp_path_factory.mktemp("machine"))
    yield machine
    machine.close()


@pytest.fixture
def machine(one_machine: Machine) -> Machine:
    """A machine whose first GPU has performance counters, and is at work."""
    one_machine.reset()
    one_machine.more[0].gpm = 1
    one_machine.more[0].percent[:] = 92.0, 61.5, 38.25
    return one_machine


def looked(machine: Machine, code: str) -> list[list[float | None] | None]:
    """What each ``look`` of the code printed."""
    return [json.loads(line) for line in machine.run(START + code).splitlines()]


def test_percent_are_read_as_shares_from_the_second_reading_on(machine: Machine) -> None:
    assert looked(machine, "look(0); look()") == [None, [0.92, 0.615, 0.3825]]


def test_each_reading_says_what_was_since_the_last_one(machine: Machine) -> None:
    code = "look(0); look(); card.percent[1] = 20.0; look(); card.percent[1] = 0.0; look()"
    assert [found and found[1] for found in looked(machine, code)] == [None, 0.615, 0.2, 0.0]


def test_a_reading_too_soon_says_what_the_last_one_said(machine: Machine) -> None:
    # the counters would say 0: they are renewed only every 0.1 s
    assert looked(machine, "look(0); look(); look(0); look(0)")[1:] == [[0.92, 0.615, 0.3825]] * 3
    # two readings later, the time of those that came too soon is contained
    assert looked(machine, "look(0); look(0); look()") == [None, None, [0.92, 0.615, 0.3825]]


def test_a_metric_that_the_gpu_does_not_report_is_nan(machine: Machine) -> None:
    machine.more[0].metric_error[2] = 3
    assert looked(machine, "look(0); look()") == [None, [0.92, 0.615, None]]


@pytest.mark.parametrize(("percent", "share"), [(100.8, 1.0), (250.0, None), (-3.0, None), (float("nan"), None)])
def test_a_metric_that_cannot_be_true_is_nan(machine: Machine, percent: float, share: float | None) -> None:
    machine.more[0].percent[1] = percent
    assert looked(machine, "look(0); look()")[1] == [0.92, share, 0.3825]


@pytest.mark.parametrize("error", [3, 4, 13])
@pytest.mark.parametrize("where", ["gpm_error", "metrics_error"])
def test_a_gpu_that_refuses_is_read_without_it_and_not_asked_again(machine: Machine, where: str, error: int) -> None:
    setattr(machine.more[0], where, error)  # not supported; no permission; the driver does not have the function
    machine.gpu[0].power_w = 312.5
    assert looked(machine, "look(0); look(); card.gpm_error = card.metrics_error = 0; look(); look()") == [None] * 4
    assert machine.more[0].gpm_asked == (2 if where == "gpm_error" else 3)  # for support, and for one sample or two
    assert machine.run("print(gpus[0].read().power_w)") == "312.5"


def test_an_older_gpu_is_asked_once(machine: Machine) -> None:
    machine.more[0].gpm = 0
    assert looked(machine, "look(0); look(0); look(0)") == [None, None, None]
    assert machine.more[0].gpm_asked == 1


def test_a_driver_without_these_functions_is_an_older_one(machine: Machine) -> None:
    code = (
        "import pynvml\n"
        "known = pynvml._nvmlGetFunctionPointer\n"
        "def older(name):\n"
        "    if 'Gpm' in name: raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)\n"
        "    return known(name)\n"
        "pynvml._nvmlGetFunctionPointer = older\n"
        "look(0); look(); print(json.dumps([gpus[0].read().clock_mhz]))\n"
        "pynvml._nvmlGetFunctionPointer = known\n"
    )
    assert looked(machine, code) == [None, None, [1410.0]]


def test_an_error_that_may_pass_costs_one_reading_and_then_the_samples_begin_anew(machine: Machine) -> None:
    # 999 is an unknown error. What was before it is left out: 0.615 and not a mean with 0.9
    code = (
        "look(0); look(); card.gpm_error = 999; card.percent[1] = 90.0; look(); card.gpm_error = 0; look()\n"
        "card.percent[1] = 61.5; look()"
    )
    assert [found and found[1] for found in looked(machine, code)] == [None, 0.615, None, None, 0.615]


def test_a_gpu_that_is_lost_and_comes_back_is_sampled_anew(machine: Machine) -> None:
    code = (
        "from powerflow.device.protocol import DeviceLost\n"
        "look(0); look(); fake.every_error = 15\n"
        "for _ in range(2):\n"
        "    try: gpus[0].read()\n"
        "    except DeviceLost: print('true')\n"
        "fake.every_error = 0; card.percent[1] = 7.5; look(); look()\n"
    )
    told = [0.92, 0.075, 0.3825]
    assert looked(machine, code) == [None, [0.92, 0.615, 0.3825], True, True, None, told]


def test_a_gpu_that_is_lost_while_it_is_sampled_is_lost(machine: Machine) -> None:
    machine.more[0].gpm_error = 15
    code = "try: gpus[0].read()\nexcept Exception as error: print(type(error).__name__, error)"
    assert machine.run(code).startswith("DeviceLost GPU 0 of n0: GPU is lost (nvmlGpmSampleGet)")


def test_samples_do_not_pile_up(nvml_machine: Machine) -> None:
    for card in nvml_machine.more[:2]:
        card.gpm = 1
    code = (
        "counts = []\n"
        "def count(): counts.append(card.gpm_samples)\n"
        "for _ in range(3): look(); count()\n"
        "for _ in range(3): gpus = discover('n0'); gpus[0].read(); gpus[1].read(); count()\n"
        "card.gpm_error = 4; look(); count()\n"
        "print(counts)"
    )
    counts = json.loads(nvml_machine.run_and_end(START + code).splitlines()[-1])
    # two for each GPU that is read; a GPU that nobody has any more is kept until its thread has the next call
    assert counts[:3] == [2, 2, 2]
    assert counts[3:] == [4, 4, 4, 2]
