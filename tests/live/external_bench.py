"""A controller beside another scheduler, and jobs whose speed and power are known; time passes when a test says so."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from powerflow.agent.work import GpuWork
from powerflow.api.external import ExternalEnd, ExternalJob, ExternalLook
from powerflow.api.records import JobState
from powerflow.device.meter import MeanPower
from powerflow.device.protocol import Place
from powerflow.live.external_door import ExternalDoor
from tests.live.controller_bench import Bench

#: Limit on the slowdown of jobs that say nothing.
LIMIT = 0.05


@dataclass(frozen=True)
class TrueSpeed:
    """How long a step takes at a clock, in truth: ``fixed`` seconds that no clock changes, and cycles.

    Attributes:
        fixed_s: Seconds of a step that do not depend on the clock.
        gigacycles: Cycles of a step, in 1e9.
        tensor: Part of the cycles in which the tensor cores are busy, if the GPU reports it.
    """

    fixed_s: float
    gigacycles: float
    tensor: float = float("nan")

    def step_s(self, mhz: float) -> float:
        return self.fixed_s + self.gigacycles / (mhz / 1e3)

    def slowdown(self, mhz: float, top_mhz: float) -> float:
        return self.step_s(mhz) / self.step_s(top_mhz) - 1.0


#: A job that waits for memory in most of a step, and one that only computes.
BOUND_BY_MEMORY = TrueSpeed(0.09, 0.0141, tensor=0.3)
BOUND_BY_CLOCK = TrueSpeed(0.0, 0.141, tensor=0.6)
#: Seconds a joule: energy is dear.
DEAR = 0.01


class ExternalBench(Bench):
    """Two nodes whose GPUs another scheduler gives out."""

    def __init__(self, directory: Path, cluster: str = "2x4:A100", **settings: Any) -> None:
        self.speeds: dict[Place, TrueSpeed] = {}
        self.works: dict[Place, GpuWork] = {}
        self.running: dict[str, ExternalJob] = {}
        self.ended: dict[str, ExternalEnd] = {}
        self.unplaced: set[str] = set()  # jobs that run, and of which no GPU is told
        self.requeued_s: dict[str, float] = {}
        super().__init__(directory, cluster, **settings)

    def start(self) -> None:
        super().start()
        controller = self.controller
        controller.power.work = self.works.get  # type: ignore[method-assign, assignment]
        controller.power.power_of = self.power_of  # type: ignore[method-assign]
        controller.power.power_w = self.power_w  # type: ignore[method-assign]
        self.door = ExternalDoor(self.store, controller.tell, controller.notices, "Slurm", LIMIT)

    def look(self, ending: Collection[str] = ()) -> None:
        """Let the controller hear what the other scheduler says."""
        unsure = {*ending, *self.unplaced}
        look = ExternalLook(dict(self.running), dict(self.ended), (), unsure, dict(self.requeued_s))
        self.door.take(look, self.now_s)

    @property
    def now_s(self) -> float:
        return self.controller.clock()

    def begin(
        self, number: int, gpus: Mapping[int, tuple[int, ...]], speed: TrueSpeed | None = None, **more: Any
    ) -> str:
        """Let the other scheduler start a job on GPUs of some nodes (0: the first); return its key."""
        key = f"slurm:{number}@{self.now_s:.0f}"
        nodes = [node.name for node in self.spec.nodes]
        # all nodes of the bench are one machine, whose GPUs have the numbers of their nodes
        job = {
            "name": "train",
            "user": "ada",
            "project": "vision",
            "submitted_s": self.now_s - 5.0,
            "started_s": self.now_s,
            **more,
        }
        at = {nodes[n]: numbers for n, numbers in gpus.items()}
        self.running[key] = ExternalJob(key=key, id=str(number), gpus=at, **job)
        for node, numbers in at.items():
            for gpu in numbers:
                if speed is not None:
                    self.speeds[node, gpu] = speed
        return key

    def end(self, key: str, state: JobState = JobState.COMPLETED) -> None:
        """Let the other scheduler end a job."""
        job = self.running.pop(key)
        text = "completed" if state is JobState.COMPLETED else f"Slurm: {state.value.upper()}"
        self.ended[key] = ExternalEnd(state, text, self.now_s)
        for node, numbers in job.gpus.items():
            for gpu in numbers:
                self.speeds.pop((node, gpu), None)

    def id(self, key: str) -> str:
        """Return the id of a job here."""
        return next(job.id for job in self.store.jobs(limit=500).items if job.spec.run == key)

    def mhz(self, place: Place) -> float:
        """Return the clock at which a GPU runs: the one that was set, or the highest."""
        gpu = next(gpu for gpu in self.gpus if (gpu.node, gpu.index) == place)
        return self.clocks.set_mhz.get(gpu.uuid, float(self.axes[gpu.gpu_type].clocks_mhz[-1]))

    def power_of(self, job: str) -> MeanPower:
        """Return what the GPUs of a job draw: more than in proportion to the clock, above an idle 60 W."""
        active = self.controller.jobs.get(job)
        at = [(node, gpu) for node, gpus in active.placement for gpu in gpus] if active else []
        return MeanPower(sum(map(self.draw_w, at)), 0.5)

    def power_w(self) -> float:
        """Return what all GPUs draw."""
        return sum(self.draw_w((gpu.node, gpu.index)) for gpu in self.gpus)

    def draw_w(self, place: Place) -> float:
        if place not in self.speeds:
            return 60.0
        gpu = next(gpu for gpu in self.gpus if (gpu.node, gpu.index) == place)
        return 60.0 + 300.0 * float((self.mhz(place) / float(self.axes[gpu.gpu_type].clocks_mhz[-1])) ** 2.4)

    def turn(self, turns: int = 1) -> None:
        for _ in range(turns):
            before_s = self.engine.now_s
            self.engine.tick()
            self.work(self.engine.now_s - before_s)
            self.controller.turn()

    def work(self, seconds: float) -> None:
        """Let the GPUs work for some seconds at their present clocks."""
        for place, speed in self.speeds.items():
            mhz, done = self.mhz(place), self.works.get(place, GpuWork(0.0, 0.0, float("nan"), 0.0))
            busy = seconds * mhz / 1e3
            tensor = speed.tensor * speed.gigacycles * seconds / speed.step_s(mhz)
            self.works[place] = GpuWork(done.busy + busy, done.tensor + tensor, float("nan"), done.counted_s + seconds)

    def long(self, seconds: float, each: Callable[[], None] = lambda: None, step_s: float = 20.0) -> None:
        """Let time pass in larger steps than turns."""
        end_s = self.engine.now_s + seconds
        while self.engine.now_s < end_s:
            self.engine.now_s += step_s
            self.work(step_s)
            self.turn()
            each()
