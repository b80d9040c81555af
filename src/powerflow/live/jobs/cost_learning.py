"""Learn the costs and lengths of the jobs of a live cluster. Similar jobs form a class.

A new job starts from the believed costs of its **class** (same project, name, program and batch). A new class starts
from

1. a fitted model of the same program in the same project,
2. else the model that the job names: its costs stand in a costs file, or come from its family in the catalogue,
3. else a family that stands for any model; the first measurement corrects its scale.

All measurements go through the `Learner` that the simulator uses too.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from powerflow.api.job_spec import JobSpec
from powerflow.cost.catalogue import family_model
from powerflow.cost.costs_file import Costs
from powerflow.cost.learn import Learner
from powerflow.cost.model import JobModel
from powerflow.cost.observation import Observation
from powerflow.cost.table import Axes, CostTable
from powerflow.errors import InputError
from powerflow.gangs.report_bounds import is_plausible
from powerflow.scheduler.events import CostLearned
from powerflow.units import HOUR_S

#: Stands for an unnamed model: a middling network. Only its shape matters once one step has been timed.
ANY_FAMILY = "imagenet"
#: Length of a job of which nothing is known, on one GPU at full clock, seconds.
ANY_LENGTH_S = HOUR_S
#: Lengths of completed jobs that are kept for each class.
LENGTHS_KEPT = 50
#: Weight of the newest pause in the expected pause of its class.
NEWEST = 0.3


@dataclass(frozen=True, slots=True)
class JobClass:
    """A class: jobs that are assumed to cost the same per step.

    Attributes:
        name: Name of the class; equal jobs get the same name on any day.
        program: Which program of which project the jobs run; classes with the same program resemble each other.
        family: Family of the catalogue to start from.
        global_batch: Samples per step. If the job states no batch: one sample for each GPU that it may have.
        local_max: Most samples of one pass.
        model: Model that the job names; "" if it names none.
    """

    name: str
    program: str
    family: str
    global_batch: int
    local_max: int
    model: str = ""


def class_of(spec: JobSpec, user: str) -> JobClass:
    """Return the class of a job: the jobs that are assumed to cost the same per step.

    Jobs are in one class if they run the same file and their names differ only in a number at the end. Options of the
    program do not matter: all jobs of a sweep over learning rates are in one class.
    """
    owner = spec.project or user
    program = f"{owner}/{_program(spec.run)}"
    stem = re.sub(r"[-_. ]?\d+$", "", spec.name)
    batch = spec.batch.global_batch if spec.batch else spec.gpus.most
    local_max = (spec.batch.local_max if spec.batch else None) or batch
    key = "\0".join((program, stem, spec.model or "", str(local_max), spec.rescale))
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    return JobClass(
        f"{owner}.{stem or 'job'}.{digest}/{batch}", program, _family(spec.model), batch, local_max, spec.model or ""
    )


def _program(run: str) -> str:
    try:
        words = shlex.split(run)
    except ValueError:
        return run.strip()
    scripts = [word for word in words if word.endswith((".py", ".sh"))]
    return scripts[0] if scripts else words[0] if words else run


def _family(model: str | None) -> str:
    return _known_family(model or "") or ANY_FAMILY


def _known_family(model: str) -> str:
    """Return the family of the catalogue that a model belongs to; "" if its name tells nothing."""
    try:
        return family_model(model, "T4").name if model else ""
    except InputError:  # a user may give a model any name
        return ""


def external_class(number: int, gpus: int) -> JobClass:
    """Return the class of one job of another scheduler: nobody knows which other jobs cost the same.

    Args:
        number: No other job that has not ended has this number. Later jobs get it again, so that there are no more
            classes than jobs at one time.
        gpus: GPUs of the job.
    """
    return JobClass(f"external.{number}", f"external.{number}", ANY_FAMILY, gpus, gpus)


class CostLearning:
    """Keep the believed costs of all classes of jobs on all GPU types of one cluster.

    Args:
        axes: GPU counts and clocks by GPU type.
        costs: Measured costs of some models; jobs with these models start from them.

    Attributes:
        learner: Learns the costs of each class from its measurements, and chooses the clocks to measure.
        batches: The batch that ranks reported, for classes whose jobs state none.
        pauses_s: Expected pause of a rescale (seconds), for classes that have been rescaled.
    """

    def __init__(self, axes: Mapping[str, Axes], costs: Costs | None = None) -> None:
        self._costs = costs
        self._axes = axes
        self.learner = Learner(axes)
        self._classes: dict[str, JobClass] = {}
        self._tables: dict[tuple[str, str], CostTable] = {}
        self._measured: dict[tuple[str, str], set[tuple[int, float]]] = defaultdict(set)
        self._guessed: set[tuple[str, str]] = set()  # what stands for any model
        self._unexpected: dict[str, list[Observation]] = defaultdict(list)
        self._steps: dict[str, list[float]] = defaultdict(list)
        self._lengths_s: list[float] = []
        self.batches: dict[str, int] = {}
        self.pauses_s: dict[str, float] = {}

    def expect(self, kind: JobClass) -> Sequence[CostLearned]:
        """Add a class of jobs if it is new, and return its believed costs; for a known class return nothing."""
        if kind.name in self._classes:
            return ()
        if kind.name in self.batches:
            kind = replace(kind, global_batch=self.batches[kind.name], local_max=self.batches[kind.name])
        self._classes[kind.name] = kind
        news = {}
        for gpu_type in self._axes:
            self.learner.expect(kind.name, gpu_type, self._prior(kind, gpu_type), kind.global_batch)
            news[gpu_type] = self._table(kind.name, gpu_type)
        news |= {learned.gpu_type: learned for learned in self.observe(kind.name, self._unexpected.pop(kind.name, []))}
        return list(news.values())

    def anew(self, kind: JobClass) -> Sequence[CostLearned]:
        """Begin a class of jobs anew, as if it had never been measured; return its believed costs."""
        name = kind.name
        for known in (self._classes, self._unexpected, self._steps):
            known.pop(name, None)
        for gpu_type in self._axes:
            self._measured.pop((name, gpu_type), None)
        return self.expect(kind)

    def measured_time_s(self, cost_class: str, gpu_type: str, gpus: int, clock_mhz: float) -> float | None:
        """Return the mean measured step time of a class in one configuration, seconds; None if it was not measured."""
        return self.learner.measured_time_s(cost_class, gpu_type, gpus, clock_mhz)

    def paused(self, cost_class: str, pause_s: float) -> float:
        """Learn from one measured pause of a rescale.

        Return the pause in seconds that is now expected for the job's class.
        """
        before_s = self.pauses_s.get(cost_class, pause_s)
        self.pauses_s[cost_class] = before_s + NEWEST * (pause_s - before_s)
        return self.pauses_s[cost_class]

    def batch_is(self, cost_class: str, global_batch: int) -> Sequence[CostLearned]:
        """Learn the batch of a class of jobs from what its ranks report; return the believed costs that change.

        Call this only if the jobs of the class state no batch. Before the first report, a batch is assumed with one
        sample for each GPU that a job may have.
        """
        kind = self._classes[cost_class]
        if kind.global_batch == global_batch:
            return ()
        self.batches[cost_class] = global_batch
        self._classes[cost_class] = replace(kind, global_batch=global_batch, local_max=global_batch)
        for gpu_type in self._axes:
            self.learner.rebatch(cost_class, gpu_type, global_batch, global_batch)
        return [self._table(cost_class, gpu_type) for gpu_type in self._axes]

    def observe(self, cost_class: str, observations: Sequence[Observation]) -> Sequence[CostLearned]:
        """Learn from measurements of a class of jobs; return the believed costs that change."""
        if cost_class not in self._classes:  # of a class that no job has shown yet since the controller started
            self._unexpected[cost_class].extend(observations)
            return ()
        news = []
        for gpu_type in sorted({seen.gpu_type for seen in observations} & set(self._axes)):
            of_type = [seen for seen in observations if seen.gpu_type == gpu_type]
            top = float(self._axes[gpu_type].clocks_mhz[-1])
            self._measured[cost_class, gpu_type] |= {(o.gpus, o.clock_mhz or top) for o in of_type}
            if self.learner.observe(cost_class, gpu_type, of_type):
                news.append(self._table(cost_class, gpu_type))
        return news

    def table(self, cost_class: str, gpu_type: str) -> CostTable:
        """Return the present believed costs of a class of jobs on a GPU type.

        Raises:
            KeyError: The class was never added by `expect`.
        """
        return self._tables[cost_class, gpu_type]

    def knows_costs(self, cost_class: str, gpu_type: str) -> bool:
        """Return True if the believed costs of a class rest on more than a family that stands for any model.

        That is: on a measurement, on the model that its jobs name, or on the same program. A guessed step time may be
        wrong by any factor.
        """
        return bool(self._measured[cost_class, gpu_type]) or (cost_class, gpu_type) not in self._guessed

    def costs_said(self) -> Sequence[str]:
        """Return one line that says which classes of jobs start from the costs file; nothing without a costs file."""
        if self._costs is None:
            return ()
        classes = list(self._classes.values())
        without = sorted({kind.model or "no model named" for kind in classes if not self._costs_of(kind)})
        covered = sum(self._costs_of(kind) for kind in classes)
        told = f"{self._costs.source} ({self._costs.names()})"
        said = f"costs from {told}: {covered} of {len(classes)} classes of jobs start from it"
        return (f"{said}; from the catalogue: {', '.join(without)}" if without else said,)

    def _costs_of(self, kind: JobClass) -> bool:
        found = self._costs.of(kind.model) if self._costs and kind.model else {}
        return any(gpu_type in found for gpu_type in self._axes)

    def completed(self, cost_class: str, steps: float) -> None:
        """Learn the number of steps of a completed job, for similar jobs (of its class)."""
        if steps <= 0:
            return
        kept = self._steps[cost_class]
        kept.append(steps)
        del kept[:-LENGTHS_KEPT]
        if cost_class in self._classes:
            self._lengths_s.append(steps * self._step_s(cost_class))
            del self._lengths_s[:-LENGTHS_KEPT]

    def knows_length(self, spec: JobSpec, cost_class: str) -> bool:
        """Return True if a job states its steps, or if similar jobs (of its class) have completed."""
        return spec.work is not None or bool(self._steps[cost_class])

    def believed_steps(self, spec: JobSpec, cost_class: str) -> float:
        """Return the number of steps that a job is expected to have.

        This is the number that the job states, or else the median of its class, or else the steps of a job of median
        length.
        """
        if spec.work is not None:
            return spec.work.iterations
        if self._steps[cost_class]:
            return median(self._steps[cost_class])
        length_s = median(self._lengths_s) if self._lengths_s else ANY_LENGTH_S
        return max(1.0, length_s / self._step_s(cost_class))

    def _step_s(self, cost_class: str) -> float:
        """Return the seconds per step of a class on its fewest GPUs, at full clock, on the first GPU type."""
        step_s = self._tables[cost_class, next(iter(self._axes))].step_time_s[:, -1]
        return float(step_s[np.isfinite(step_s)][0]) if np.isfinite(step_s).any() else 1.0

    def _prior(self, kind: JobClass, gpu_type: str) -> JobModel:
        alike = [other for other in self._classes.values() if other.program == kind.program and other is not kind]
        known = next((other for other in reversed(alike) if self._measured[other.name, gpu_type]), None)
        told = self._costs.of(kind.model).get(gpu_type) if self._costs and kind.model else None
        if known is not None:
            model = self.learner.model(known.name, gpu_type)
        else:
            model = told.model if told is not None else family_model(kind.family, gpu_type)
            if told is None and not _known_family(kind.model):
                self._guessed.add((kind.name, gpu_type))
        return replace(model, local_batch_max=kind.local_max, origin="prior")

    def _table(self, cost_class: str, gpu_type: str) -> CostLearned:
        table = self.learner.table(cost_class, gpu_type)
        self._tables[cost_class, gpu_type] = table
        return CostLearned(cost_class, gpu_type, table)


def restore(
    learning: CostLearning, seen: Iterable[tuple[str, Observation]], completed: Iterable[tuple[JobClass, float]]
) -> Sequence[CostLearned]:
    """Learn again from the store's measurements and completed jobs.

    The classes of completed jobs are added first, so that new classes of the same program can start from them.

    Args:
        learning: Learns.
        seen: Stored measurements, each with the name of its class.
        completed: Classes and steps of completed jobs.

    Returns:
        The believed costs of the classes of completed jobs.
    """
    by_class: dict[str, list[Observation]] = defaultdict(list)
    for cost_class, observation in seen:
        if not is_plausible(observation):  # stored by a version that did not check what jobs report
            continue
        by_class[cost_class].append(observation)
    for cost_class, observations in by_class.items():
        learning.observe(cost_class, observations)
    lengths = list(completed)
    news = [learned for kind, _ in lengths[-LENGTHS_KEPT:] for learned in learning.expect(kind)]
    for kind, steps in lengths:
        learning.completed(kind.name, steps)
    return news
