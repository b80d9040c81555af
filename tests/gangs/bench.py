"""A controller's side of the bench: gangs over a fake engine, and time that passes by turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from powerflow.api.job_spec import JobSpec
from powerflow.engine.protocol import RankName, RankSpec
from powerflow.gangs.manager import Gangs
from powerflow.gangs.types import DesiredState, GangEvent, Limits
from tests.gangs.fake_engine import FakeEngine
from tests.gangs.fake_rank import Habits

LIMITS = Limits(hang_s=10.0, hang_steps=3.0, start_s=30.0, kill_s=2.0, settle_s=1.0, losses=3)
PYTHON = "/opt/python"
Kind = TypeVar("Kind")


def environment(job_id: str, spec: JobSpec, node: str, gpus: tuple[int, ...], name: RankName) -> Mapping[str, str]:
    return {"SEES": ",".join(map(str, gpus)), "HOME": "/", **spec.env}


def spec_of(**keys: Any) -> JobSpec:
    return JobSpec.model_validate({"run": "python train.py", "rescale": "in-place", "checkpoint": {"grace": 4}, **keys})


class Bench:
    """Gangs, engine, and all events so far."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.engine = FakeEngine({"a": 4, "b": 4})
        self.steps_total = 100_000
        self.habits: Callable[[RankSpec], Habits] = lambda spec: Habits()
        self.engine.play = lambda spec: self.engine.fake_rank(spec, self.steps_total, self.habits(spec))
        self.events: list[GangEvent] = []
        self.gangs = self.controller()

    def controller(self, **more: Any) -> Gangs:
        return Gangs(
            self.engine,
            self.directory,
            environment,
            limits=LIMITS,
            interpreter=PYTHON,
            **{
                "clock": lambda: self.engine.now_s,
                "wall_clock": lambda: 1.7e9 + self.engine.now_s,
                **more,
            },
        )

    def restart(self, *orders: DesiredState) -> None:
        """The controller was killed; another one takes over."""
        self.gangs.close()
        self.gangs = self.controller()
        self.gangs.adopt(orders)

    def turn(self) -> list[GangEvent]:
        self.engine.tick()
        events = self.gangs.poll()
        self.events += events
        return events

    def until(self, done: Callable[[], bool], turns: int = 400) -> None:
        for _ in range(turns):
            self.turn()
            if done():
                return
        raise AssertionError(f"nothing came of it; events: {self.events[-10:]}, troubles: {self.gangs.troubles()}")

    def hear(self, kind: type[Kind], job_id: str = "j", turns: int = 400) -> Kind:
        """Turn until a new event of this kind is told of this job."""
        for _ in range(turns):
            for event in self.turn():
                if isinstance(event, kind) and event.job_id == job_id:
                    return event
        raise AssertionError(f"no {kind.__name__}; events: {self.events[-10:]}, troubles: {self.gangs.troubles()}")

    def told(self, kind: type[Kind]) -> list[Kind]:
        return [event for event in self.events if isinstance(event, kind)]


def order(epoch: int, *slots: str, job_id: str = "j", spec: JobSpec | None = None) -> DesiredState:
    """Give a desired state of GPUs written as ``a0``, ``b3``."""
    nodes = sorted({slot[0] for slot in slots})
    placement = tuple((node, tuple(int(slot[1:]) for slot in slots if slot[0] == node)) for node in nodes)
    return DesiredState(job_id, epoch, spec or spec_of(), placement)
