"""What is run for a comparison, and what is kept of it: one setting on one seed, in whichever process."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from powerflow.policy import registry
from powerflow.simulate.belief import Belief, belief_named
from powerflow.simulate.bound.bound import Bound, bound_for
from powerflow.simulate.comparison import FrontierPoint, Metrics
from powerflow.simulate.frontier import Setting
from powerflow.simulate.metrics import metrics
from powerflow.simulate.result import SimulationResult
from powerflow.simulate.run import Simulation, World
from powerflow.simulate.workload.workload import Workload


@dataclass(frozen=True, slots=True)
class Believed:
    """What every scheduler of a comparison is told, and how the world around it behaves.

    Attributes:
        costs: ``oracle``, ``fitted`` or ``online`` (`powerflow.simulate.belief.belief_named`).
        sizes: ``known``, ``unknown`` or ``mispredicted:SIGMA``.
        world: Pauses, failures, ….
    """

    costs: str = "oracle"
    sizes: str = "known"
    world: World = field(default_factory=World)

    def facts(self) -> dict[str, str]:
        """The same in plain words."""
        costs = {
            "oracle": "the true costs",
            "fitted": "a fit to noisy points of each class (1 to 8 GPUs, three clocks)",
            "online": "the catalogue's priors at first, and what it learns from noisy points while jobs run",
        }
        world = self.world
        fails = "no node fails"
        if math.isfinite(world.node_mtbf_h):
            fails = (
                f"each node fails every {world.node_mtbf_h:g} h on average, for {world.node_repair_h:g} h; its jobs go "
                f"back to checkpoints {world.checkpoint_s:g} s apart"
            )
        return {
            "Schedulers believe": f"{costs.get(self.costs, self.costs)}; sizes {self.sizes}",
            "World": (
                f"simulated, not measured: a job stands still {world.pause_s:g} s whenever its GPUs change; decisions "
                f"are {world.interval_s:g} s apart; {fails}"
            ),
        }


@dataclass(frozen=True, slots=True)
class RunOf:
    """A question: this setting on the workload of this seed; ``whole`` asks for the whole result."""

    seed: int
    setting: Setting
    whole: bool = False


@dataclass(frozen=True, slots=True)
class BoundOf:
    """A question: the lower bound at one price of energy on the workload of this seed."""

    seed: int
    energy_price: float


@dataclass(frozen=True, slots=True)
class ExperimentRun:
    """What is kept of a simulation.

    Attributes:
        setting: What was run.
        seed: On which workload.
        own: Its numbers, energy metered until its own last job ended.
        end_s: When that was.
        tail_w: Watts of the empty cluster afterwards.
    """

    setting: Setting
    seed: int
    own: Metrics
    end_s: float
    tail_w: float

    def over(self, horizon_s: float) -> Metrics:
        """Its numbers, energy as of `SimulationResult.energy_over`."""
        return replace(self.own, energy_j=self.own.energy_j + self.tail_w * (horizon_s - self.end_s))

    def point(self, horizon_s: float) -> FrontierPoint:
        """As a point of a frontier."""
        return FrontierPoint(self.setting.policy, self.setting.knob, self.seed, self.over(horizon_s))


class Bench:
    """Answers questions about the workloads of some seeds; keeps them, and nothing else, between questions.

    Args:
        workload_of: The workload of a seed.
        believed: What schedulers are told.
    """

    def __init__(self, workload_of: Callable[[int], Workload], believed: Believed) -> None:
        self.workload_of = workload_of
        self.believed = believed
        self._workloads: dict[int, Workload] = {}
        self._beliefs: dict[int, Belief] = {}

    def __reduce__(self) -> tuple[type[Bench], tuple[Callable[[int], Workload], Believed]]:
        """Travels to another process without what it keeps: that is quicker made anew."""
        return Bench, (self.workload_of, self.believed)

    def workload(self, seed: int) -> Workload:
        """The workload of a seed."""
        if seed not in self._workloads:
            self._workloads[seed] = self.workload_of(seed)
        return self._workloads[seed]

    def workloads(self) -> list[Workload]:
        """Those that were asked for so far."""
        return list(self._workloads.values())

    def belief(self, seed: int) -> Belief:
        """A belief for one run. One that never changes is made once for each seed."""
        if seed in self._beliefs:
            return self._beliefs[seed]
        belief = belief_named(self.believed.costs, self.workload(seed), sizes=self.believed.sizes, seed=seed)
        if self.believed.costs != "online":
            self._beliefs[seed] = belief
        return belief

    def simulation(self, seed: int, setting: Setting) -> Simulation:
        """A simulation, not yet run."""
        return Simulation(
            self.workload(seed),
            registry.load(setting.policy),
            energy_price=setting.energy_price,
            belief=self.belief(seed),
            world=self.believed.world,
            seed=seed,
        )

    def __call__(self, question: RunOf | BoundOf) -> ExperimentRun | SimulationResult | Bound:
        """The answer to a question."""
        if isinstance(question, BoundOf):
            return bound_for(self.workload(question.seed), [question.energy_price])
        simulation = self.simulation(question.seed, question.setting)
        simulation.run()
        result = simulation.result()
        if question.whole:
            return result
        own = metrics(result, result.end_s)
        return ExperimentRun(question.setting, question.seed, own, result.end_s, result.tail_w)
