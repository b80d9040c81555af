"""Programs that want the numbers of GPUs (Zeus reads CUDA_VISIBLE_DEVICES with ``int()``) get the right ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from powerflow.device.cuda_order import visible
from tests.device.fake_nvml import Machine


@pytest.fixture(scope="module")
def machine(nvml_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(nvml_library, tmp_path_factory.mktemp("gpus"))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _afresh(machine: Machine) -> None:
    machine.reset()


_NUMBERS = (
    "from powerflow.device.cuda_order import cuda_numbers\n"
    "numbers = cuda_numbers(gpus)\nprint([numbers.get(g.uuid) for g in gpus])"
)


def test_numbers_are_those_of_the_pci_bus(machine: Machine) -> None:
    machine.all.count = 3
    machine.gpu[2].uuid, machine.gpu[2].name = b"GPU-00000002-fake", b"NVIDIA A100-SXM4-80GB"
    assert machine.run(_NUMBERS) == "[0, 1, 2]"


def test_where_the_order_is_another_there_are_none(machine: Machine) -> None:
    machine.more[0].pci_bus, machine.more[1].pci_bus = 0x40, 0x10
    assert machine.run(_NUMBERS) == "[None, None]"


def test_where_a_gpu_of_the_machine_is_not_ours_there_are_none(machine: Machine) -> None:
    machine.gpu[0].mig = 1  # CUDA may count it or not
    assert machine.run(_NUMBERS) == "[None]"


def test_what_a_program_sees() -> None:
    numbers = {"GPU-a": 0, "GPU-b": 1, "GPU-c": 2}
    seen = visible(["GPU-c", "GPU-a"], numbers, silent=())
    assert [int(number) for number in seen["CUDA_VISIBLE_DEVICES"].split(",")] == [2, 0]
    assert seen["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert seen["NVIDIA_VISIBLE_DEVICES"] == "GPU-c,GPU-a"
    for unsure in (visible(["GPU-c"], {}, silent=()), visible(["GPU-c"], numbers, silent=[("n0", 1)])):
        assert unsure["CUDA_VISIBLE_DEVICES"] == "GPU-c"
