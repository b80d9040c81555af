"""A GPU that is lost, stuck or somebody else's: its job goes on elsewhere, nobody else notices, everybody is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from powerflow.device.deadline import NotAnswering
from powerflow.device.emulated.gpu import EmulatedGpu
from powerflow.device.protocol import DeviceError, DeviceLost, Reading
from tests.live.controller_bench import ROOT, Bench

LOST, STUCK = DeviceLost("GPU is lost"), NotAnswering("its driver does not answer")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path, "1x4:A100")
    yield bench
    bench.close()


def breaks(bench: Bench, number: int, error: DeviceError) -> Callable[[], None]:
    """A GPU answers nothing but this from now on, until the returned function is called."""
    gpu = bench.gpus[number]

    def fails() -> Reading:
        raise error

    gpu.read = fails  # type: ignore[method-assign]
    return lambda: gpu.__dict__.pop("read")


def test_the_job_on_a_lost_gpu_goes_on_elsewhere_and_it_is_no_failure(bench: Bench) -> None:
    bench.steps_total = 1_000_000
    job = bench.submit(gpus=2, model="resnet50", retries=0)
    other = bench.submit(gpus=1, model="resnet50")
    bench.until_trains(job)
    bench.until_trains(other)
    (where,) = bench.controller.jobs[job].placement
    mend = breaks(bench, where[1][0], LOST)
    bench.until(lambda: (where[0], where[1][0]) in bench.controller.power.health.out())
    bench.until(lambda: bench.controller.jobs[job].training and bench.controller.jobs[job].placement != (where,))
    entry = bench.controller.jobs[job]
    assert where[1][0] not in {number for _, numbers in entry.placement for number in numbers}
    assert entry.failures == 0
    assert bench.controller.jobs[other].failures == 0
    name = f"GPU {where[1][0]} of {where[0]}"
    assert f"{name} is out of service: GPU is lost" in bench.controller.power.notices()
    bench.until(lambda: any(event.kind == "gpu out" for event in bench.store.events(limit=1000).items))
    mend()
    bench.service.resume(where[0], ROOT)  # no need to wait until it has been well for a while
    bench.until(lambda: not bench.controller.power.health.out())
    bench.until(lambda: any(event.kind == "gpu back" for event in bench.store.events(limit=1000).items))
    assert bench.controller.scheduler.pools["A100"].occupancy.up == 4


def test_what_ran_on_a_gpu_that_was_lost_meanwhile_is_not_taken_over_there(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.steps_total = 1_000_000
    job = bench.submit(gpus="1..4", model="resnet50")
    bench.until_trains(job)
    read = EmulatedGpu.read

    def reads(gpu: EmulatedGpu) -> Reading:
        if gpu.index == 2:
            raise LOST
        return read(gpu)

    monkeypatch.setattr(EmulatedGpu, "read", reads)
    bench.restart()
    assert bench.controller.power.health.out() == {("a100-0", 2): "GPU is lost"}
    bench.until(lambda: bench.controller.jobs[job].epoch > 1 and bench.controller.jobs[job].training)
    assert 2 not in {number for _, numbers in bench.controller.jobs[job].placement for number in numbers}
    assert bench.controller.jobs[job].failures == 0


def test_a_job_that_fails_on_a_gpu_that_does_not_answer_has_not_failed(bench: Bench) -> None:
    bench.steps_total = 1_000_000
    job = bench.submit(gpus=1, model="resnet50", retries=0)
    bench.until_trains(job)
    ((node, (number,)),) = bench.controller.jobs[job].placement
    breaks(bench, number, STUCK)
    for name in bench.engine.running():
        bench.engine.end(name, 1)
    bench.until(lambda: bench.controller.jobs[job].training and bench.controller.jobs[job].epoch > 1)
    assert bench.controller.jobs[job].placement != ((node, (number,)),)
    assert bench.controller.jobs[job].failures == 0


def xid(bench: Bench, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver reports an error of the hardware, from now on."""
    read = EmulatedGpu.read

    def reads(gpu: EmulatedGpu) -> Reading:
        return replace(read(gpu), xids=(79,) if gpu.index == number else ())

    monkeypatch.setattr(EmulatedGpu, "read", reads)


def test_a_fault_outlives_the_controller_but_not_the_boot_of_its_own_machine(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        xid(bench, 2, patch)
        bench.until(lambda: ("a100-0", 2) in bench.controller.power.health.out())
        bench.turn(10)
    assert bench.store.get("gpu faults")["gpus"][bench.gpus[2].uuid]["why"] == "its driver reported Xid 79"
    bench.restart()
    assert bench.controller.power.health.out() == {("a100-0", 2): "its driver reported Xid 79"}
    bench.boot = "another boot of the machine"
    bench.restart()
    bench.turn(20)
    assert bench.controller.power.health.out() == {}
    assert bench.store.get("gpu faults") == {"gpus": {}}


def test_a_machine_that_boots_while_the_controller_runs_is_well_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        xid(bench, 2, patch)
        bench.until(lambda: ("a100-0", 2) in bench.controller.power.health.out())
    bench.devices._boot = "another boot of the machine"
    bench.until(lambda: not bench.controller.power.health.out())
