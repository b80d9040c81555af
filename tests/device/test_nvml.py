"""The NVIDIA path, through the real nvidia-ml-py, down to a library of our own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from powerflow.device.identity import catalogue_name
from powerflow.device.nvml import ERRORS
from powerflow.device.protocol import DeviceError
from tests.device.fake_nvml import Machine

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")


@pytest.fixture(scope="module")
def one_machine(nvml_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(nvml_library, tmp_path_factory.mktemp("machine"))
    yield machine
    machine.close()


@pytest.fixture
def machine(one_machine: Machine) -> Machine:
    one_machine.reset()
    return one_machine


def test_it_is_found_and_named(machine: Machine) -> None:
    machine.gpu[1].name = b"NVIDIA Something New 9000"
    out = machine.run("print(json.dumps([[g.uuid, g.node, g.index, g.gpu_type, g.emulated] for g in gpus]))")
    assert json.loads(out) == [
        ["GPU-00000000-fake", "n0", 0, "A100", False],
        ["GPU-00000001-fake", "n0", 1, "NVIDIA Something New 9000", False],
    ]


def test_a_reading(machine: Machine) -> None:
    gpu = machine.gpu[0]
    gpu.power_w, gpu.utilisation, gpu.clock_mhz = 312.5, 87, 1395.0
    out = machine.run("r = gpus[0].read(); print(json.dumps([r.power_w, r.clock_mhz, r.locked_mhz, r.utilisation]))")
    assert json.loads(out) == [312.5, 1395.0, None, 0.87]


def test_joules_are_those_of_the_counter(machine: Machine) -> None:
    machine.gpu[0].power_w = 400.0
    out = machine.run(
        "a = gpus[0].read(); time.sleep(0.4); b = gpus[0].read()\n"
        "print((b.energy_j - a.energy_j) / (400 * (b.time_s - a.time_s)))"
    )
    assert float(out) == pytest.approx(1.0, abs=0.1)


def test_clocks_are_listed_locked_and_given_back(machine: Machine) -> None:
    out = machine.run(
        "g = gpus[0]; c = g.clocks_mhz(); print(c[0], c[-1], len(c))\n"
        "g.lock_clock(1005); r = g.read(); print(r.clock_mhz, r.locked_mhz)"
    )
    assert out.splitlines() == ["210.0 1410.0 81", "1005.0 1005.0"]
    assert (machine.gpu[0].locked_mhz, machine.gpu[1].locked_mhz) == (1005, 0)
    assert machine.run("gpus[0].unlock_clock(); print(gpus[0].read().locked_mhz)") == "None"
    assert machine.gpu[0].locked_mhz == 0


def test_what_it_runs_at_is_read_back_and_not_what_was_asked(machine: Machine) -> None:
    machine.gpu[0].clock_cap_mhz = 900.0  # too hot for more
    assert (
        machine.run("gpus[0].lock_clock(1305); r = gpus[0].read(); print(r.clock_mhz, r.locked_mhz)") == "900.0 1305.0"
    )


def test_what_the_gpu_does_not_tell_is_nan(machine: Machine) -> None:
    machine.gpu[0].energy_error = machine.gpu[0].power_error = 3
    out = machine.run("r = gpus[0].read(); print(r.energy_j, r.power_w, r.clock_mhz)")
    assert out == "nan nan 1410.0"


_MACHINE = (
    "import mmap, os\n"
    "from tests.device.fake_nvml import FakeMachine\n"
    "memory = mmap.mmap(os.open(os.environ['FAKE_NVML_STATE'], os.O_RDWR), 0)\n"
    "fake = FakeMachine.from_buffer(memory).gpu[0]\n"
)


@pytest.mark.parametrize(
    ("before_mj", "wraps_mj", "meanwhile"),
    [(5e6, 0.0, "pass"), (2**32 - 20e3, 2**32, "pass"), (5e6, 0.0, "fake.energy_mj = 0.0")],
    ids=["steady", "wraps", "is reset"],
)
def test_metered_whatever_the_counter_does(machine: Machine, before_mj: float, wraps_mj: float, meanwhile: str) -> None:
    gpu = machine.gpu[0]
    gpu.power_w, gpu.energy_mj, gpu.energy_at_s, gpu.counter_mod_mj = 400.0, before_mj, time.monotonic(), wraps_mj
    out = machine.run(
        _MACHINE + "from powerflow.device.meter import Meter\n"
        "meter = Meter(gpus[:1]); meter.settle(0.0, {gpus[0].uuid: 'job'}); a = meter.state()['accounts']\n"
        f"time.sleep(0.4); {meanwhile}\n"
        "settled = meter.settle(1.0, {}); b = meter.state()['accounts']\n"
        "seconds = b[gpus[0].uuid]['time_s'] - a[gpus[0].uuid]['time_s']\n"
        "print(settled.jobs_mj['job'] / 1e3 / (400 * seconds), settled.idle_mj)"
    )
    share, idle_mj = out.split()
    assert float(share) == pytest.approx(1.0, abs=0.1)
    assert idle_mj == "0"


_NAME_OF_ERROR = "\ntry:\n    {}\nexcept Exception as error:\n    print(type(error).__name__, '|', error)"


@pytest.mark.parametrize(
    ("code", "kind"),
    [(4, "NotPermitted"), (3, "Unsupported"), (15, "DeviceLost"), (999, "DeviceError"), (2, "DeviceError")],
)
def test_errors_have_our_names(machine: Machine, code: int, kind: str) -> None:
    machine.gpu[0].set_error = code
    for call in ("gpus[0].lock_clock(1005)", "gpus[0].unlock_clock()"):
        name, said = machine.run(_NAME_OF_ERROR.format(call)).split(" | ")
        assert name == kind
        assert said.startswith("GPU 0 of n0: ")
    assert machine.run("print(gpus[0].read().locked_mhz)") == "None", "what failed is not remembered as done"


def test_every_name_in_the_table_is_nvmls() -> None:
    import pynvml  # type: ignore[import-untyped]

    codes = [getattr(pynvml, name) for name in ERRORS]
    assert len(set(codes)) == len(ERRORS)
    assert all(issubclass(kind, DeviceError) for kind in ERRORS.values())


def test_a_gpu_that_falls_off_the_bus_is_lost(machine: Machine) -> None:
    assert machine.run(_MACHINE + "fake.every_error = 15\n" + _NAME_OF_ERROR.format("gpus[0].read()")).startswith(
        "DeviceLost"
    )
    # and it is left out when looked for anew, the other is not
    out = machine.run("print([g.index for g in gpus], said)")
    assert out.startswith("[1] ['GPU 0 of n0: GPU is lost")


def test_a_gpu_split_by_mig_is_refused_with_a_reason(machine: Machine) -> None:
    machine.gpu[0].mig, machine.gpu[1].mig = 1, 2  # the other one does not know MIG at all
    out = machine.run("print([g.index for g in gpus]); print(said[0])")
    assert out.splitlines()[0] == "[1]"
    assert "split by MIG" in out
    assert "A100" in out
    refused = machine.run(_NAME_OF_ERROR.format("find('GPU-00000000-fake', 'n0')"))
    assert refused.startswith("Unsupported")


def test_it_is_found_by_uuid(machine: Machine) -> None:
    assert machine.run("print(find('GPU-00000001-fake', 'n0').index)") == "1"
    assert machine.run(_NAME_OF_ERROR.format("find('GPU-gone', 'n0')")).startswith("DeviceLost")


@pytest.mark.parametrize("clock", ["0", "-1", "math.nan", "math.inf"])
def test_no_clock_is_refused_before_the_vendor_sees_it(machine: Machine, clock: str) -> None:
    assert machine.run(_NAME_OF_ERROR.format(f"gpus[0].lock_clock({clock})")).startswith("DeviceError")
    assert machine.gpu[0].sets == 0


def test_a_driver_that_does_not_start_means_no_gpus_and_says_so(machine: Machine) -> None:
    machine.all.init_error = 9
    assert machine.run("print(gpus, said)").startswith("[] ['NVML: Driver Not Loaded (nvmlInit")


def test_no_library_means_no_gpus_and_says_so() -> None:
    code = (
        "import ctypes, pynvml\n"
        "def none(name): raise OSError(name + ' is not there')\n"
        "pynvml.CDLL = none\n"
        "from powerflow.device.nvml import discover\nsaid = []\n"
        "print(discover('n0', said.append), discover('n0'), said)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[] [] ['NVML: ")
    assert "not found" in done.stdout.lower()


def test_no_binding_means_no_gpus_and_says_what_to_install() -> None:
    code = (
        "import sys\nsys.modules['pynvml'] = None\n"
        "from powerflow.device.nvml import discover\nsaid = []\nprint(discover('n0', said.append), said)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[]")
    assert "pip install" in done.stdout


@pytest.mark.parametrize(
    ("vendor", "ours"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-40GB"),
        ("NVIDIA A100-PCIE-40GB", "NVIDIA A100-PCIE-40GB"),
        ("NVIDIA A100 80GB PCIe", "NVIDIA A100 80GB PCIe"),
        ("GRID A100-40C", "GRID A100-40C"),
        ("GRID T4-16Q", "GRID T4-16Q"),
        ("NVIDIA H100 PCIe", "NVIDIA H100 PCIe"),
        ("NVIDIA H100 NVL", "NVIDIA H100 NVL"),
        ("NVIDIA GH200 480GB", "NVIDIA GH200 480GB"),
        ("Tesla V100-PCIE-32GB", "Tesla V100-PCIE-32GB"),
        ("Tesla V100-SXM2-32GB", "Tesla V100-SXM2-32GB"),
        ("NVIDIA GeForce RTX 3080 Ti Laptop GPU", "NVIDIA GeForce RTX 3080 Ti Laptop GPU"),
        ("Quadro RTX 6000 with Max-Q Design", "Quadro RTX 6000 with Max-Q Design"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H200 NVL", "NVIDIA H200 NVL"),
        ("Tesla T4", "T4"),
        ("Quadro RTX 6000", "RTX6000"),
        ("NVIDIA RTX 6000 Ada Generation", "NVIDIA RTX 6000 Ada Generation"),
        ("NVIDIA GeForce RTX 3080 Ti", "RTX3080Ti"),
        ("NVIDIA TITAN Xp", "TITAN Xp"),
        ("NVIDIA A10", "NVIDIA A10"),
        ("", ""),
    ],
)
def test_names_of_the_catalogue(vendor: str, ours: str) -> None:
    assert catalogue_name(vendor) == ours


def test_an_unknown_card_has_the_limits_that_its_driver_tells(machine: Machine) -> None:
    machine.gpu[0].name = b"NVIDIA B300"
    more = machine.more[0]
    more.default_limit_mw, more.memory_mib, more.clock_max_mhz = 700_000, 143_771, 1980
    out = machine.run(
        "from powerflow.cost.catalogue import gpu_type\n"
        "c = gpu_type(gpus[0].gpu_type)\n"
        "print(json.dumps([c.name, c.clock_min_mhz, c.clock_max_mhz, c.clock_step_mhz, c.limit_w, c.memory_gib]))\n"
        "print(c.sources['speed'], c.sources['limits'])"
    )
    first, second = out.splitlines()
    assert json.loads(first) == ["NVIDIA B300", 780.0, 1980.0, 15.0, 700.0, pytest.approx(143_771 / 1024)]
    assert "a guess: as H100" in second
    assert "the driver" in second


def test_a_card_of_the_catalogues_name_but_other_limits_keeps_its_own(machine: Machine) -> None:
    machine.more[0].default_limit_mw = 300_000  # an A100 that comes with less than the catalogue's 400 W
    machine.more[1].memory_mib = 40_960
    out = machine.run("print([g.gpu_type for g in gpus])")
    assert out == "['NVIDIA A100-SXM4-80GB', 'NVIDIA A100-SXM4-80GB']"


def test_a_lowered_limit_does_not_make_another_type_of_it(machine: Machine) -> None:
    machine.more[0].power_limit_mw = 250_000
    assert machine.run("print(gpus[0].gpu_type)") == "A100"


def test_a_gpu_that_no_program_may_use_is_left_out_with_a_reason(machine: Machine) -> None:
    machine.more[0].compute_mode = 2
    out = machine.run("print([g.index for g in gpus]); print(said[0])")
    assert out.splitlines()[0] == "[1]"
    assert "GPU 0 of n0 (NVIDIA A100-SXM4-80GB)" in out
    assert "prohibited" in out


def test_the_drivers_own_words_and_its_function_are_shown(machine: Machine) -> None:
    machine.gpu[0].every_error = 4
    assert "Insufficient Permissions (nvmlDeviceGetHandleByIndex)" in machine.run("print(said[0])")
