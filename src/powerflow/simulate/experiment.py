"""Carry out the tasks of a comparison: simulate one setting, or compute the lower bound, in any process."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from powerflow.policy import registry
from powerflow.scheduler.rules.fair_share import FairShare
from powerflow.simulate.belief import Belief, belief_named
from powerflow.simulate.bound.bound import Bound, bound_for
from powerflow.simulate.comparison import FrontierPoint, Metrics
from powerflow.simulate.frontier import Setting
from powerflow.simulate.metrics import metrics
from powerflow.simulate.result import SimulationResult
from powerflow.simulate.run import Simulation
from powerflow.simulate.workload.workload import Workload
from powerflow.simulate.world import World


@dataclass(frozen=True, slots=True)
class Believed:
    """What all schedulers of a comparison know, and how the simulated cluster behaves.

    Attributes:
        costs: What schedulers know of costs: ``oracle``, ``fitted`` or ``online`` (`powerflow.simulate.belief`).
        sizes: What schedulers know of the jobs' iterations: ``known``, ``unknown`` or ``mispredicted:SIGMA``, where
            SIGMA is the standard deviation of the logarithm of a random error.
        world: Pauses, node failures and other behaviour of the simulated cluster.
        shares: Shares of projects, by which fair share then divides GPUs under every policy; without any, there is no
            fair share.
    """

    costs: str = "oracle"
    sizes: str = "known"
    world: World = field(default_factory=World)
    shares: Mapping[str, float] = field(default_factory=dict)

    def facts(self) -> dict[str, str]:
        """Return in words what schedulers know and how the simulated cluster behaves: label → sentence."""
        costs = {
            "oracle": "the true costs",
            "fitted": "a fit to noisy points of each class (1 to 8 GPUs, three clocks)",
            "online": "the catalogue's priors at first, then noisy points that are learned while jobs run",
        }
        world = self.world
        fails = "no node fails"
        if math.isfinite(world.node_mtbf_h):
            fails = (
                f"each node fails every {world.node_mtbf_h:g} h on average, for {world.node_repair_h:g} h; its jobs go "
                f"back to checkpoints {world.checkpoint_s:g} s apart"
            )
        said = ", ".join(f"{project} {share:g}" for project, share in self.shares.items())
        shares = {"Fair share": f"shares {said}; each other project 1"} if said else {}
        return shares | {
            "Schedulers believe": f"{costs.get(self.costs, self.costs)}; sizes {self.sizes}",
            "World": (
                f"simulated, not measured: a job stands still {world.pause_s:g} s whenever its GPUs change; decisions "
                f"are {world.interval_s:g} s apart; {fails}"
            ),
        }


@dataclass(frozen=True, slots=True)
class RunOf:
    """A task: simulate a policy with one setting on the workload of one seed.

    With ``whole`` the answer is the whole result of the simulation, otherwise only a summary.
    """

    seed: int
    setting: Setting
    whole: bool = False


@dataclass(frozen=True, slots=True)
class BoundOf:
    """A task: compute the lower bound on mean completion time at one energy price, on the workload of one seed."""

    seed: int
    energy_price: float


@dataclass(frozen=True, slots=True)
class ExperimentRun:
    """Summary of one simulation.

    Attributes:
        setting: The policy and the value of its energy knob.
        seed: The seed of the workload.
        own: The result figures, with energy counted until the last job ended.
        end_s: Time at which the last job ended, seconds.
        tail_w: Watts of the empty cluster after the last job.
    """

    setting: Setting
    seed: int
    own: Metrics
    end_s: float
    tail_w: float

    def over(self, horizon_s: float) -> Metrics:
        """Return the result figures with idle draw counted until ``horizon_s`` (`SimulationResult.energy_over`)."""
        return replace(self.own, energy_j=self.own.energy_j + self.tail_w * (horizon_s - self.end_s))

    def point(self, horizon_s: float) -> FrontierPoint:
        """Return this simulation as a point of the frontier, with idle draw counted until ``horizon_s``."""
        return FrontierPoint(self.setting.policy, self.setting.knob, self.seed, self.over(horizon_s))


class Experiment:
    """Carries out tasks (`RunOf`, `BoundOf`) on the workloads of several seeds.

    Between two tasks it keeps only the workloads and the beliefs, so that they are not made again.

    Args:
        workload_of: Function that returns the workload of a seed.
        believed: What schedulers know, and how the simulated cluster behaves.
    """

    def __init__(self, workload_of: Callable[[int], Workload], believed: Believed) -> None:
        self.workload_of = workload_of
        self.believed = believed
        self._workloads: dict[int, Workload] = {}
        self._beliefs: dict[int, Belief] = {}

    def __reduce__(self) -> tuple[type[Experiment], tuple[Callable[[int], Workload], Believed]]:
        """Pickle the experiment without workloads and beliefs; to build these again is faster than to load them."""
        return Experiment, (self.workload_of, self.believed)

    def workload(self, seed: int) -> Workload:
        """Return the workload of a seed; it is built once."""
        if seed not in self._workloads:
            self._workloads[seed] = self.workload_of(seed)
        return self._workloads[seed]

    def workloads(self) -> list[Workload]:
        """Return all workloads that have been built so far."""
        return list(self._workloads.values())

    def belief(self, seed: int) -> Belief:
        """Return what the scheduler knows in one simulation.

        A belief that learns is made anew for each simulation. Any other belief is made once for each seed.
        """
        if seed in self._beliefs:
            return self._beliefs[seed]
        belief = belief_named(self.believed.costs, self.workload(seed), sizes=self.believed.sizes, seed=seed)
        if self.believed.costs != "online":
            self._beliefs[seed] = belief
        return belief

    def simulation(self, seed: int, setting: Setting) -> Simulation:
        """Return a simulation of one setting on the workload of a seed; it has not run yet."""
        policy = registry.load(setting.policy)
        return Simulation(
            self.workload(seed),
            FairShare(policy, self.believed.shares) if self.believed.shares else policy,
            energy_price=setting.energy_price,
            belief=self.belief(seed),
            world=self.believed.world,
            seed=seed,
        )

    def __call__(self, question: RunOf | BoundOf) -> ExperimentRun | SimulationResult | Bound:
        """Carry out one task, and return its result: a summary or whole result of a simulation, or a lower bound."""
        if isinstance(question, BoundOf):
            return bound_for(self.workload(question.seed), [question.energy_price])
        simulation = self.simulation(question.seed, question.setting)
        simulation.run()
        result = simulation.result()
        if question.whole:
            return result
        own = metrics(result, result.end_s)
        return ExperimentRun(question.setting, question.seed, own, result.end_s, result.tail_w)
