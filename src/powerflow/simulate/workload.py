"""The jobs of a simulation, the cluster they run on, and the truth about what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from powerflow.cluster.spec import ClusterSpec
from powerflow.cost.table import Axes, CostTable
from powerflow.job import Job


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """What happens, whatever the scheduler believes.

    Attributes:
        title: Where the jobs come from, in one line.
        jobs: Jobs in order of submission; the first is submitted at 0 s or later.
        cluster: The cluster, with GPU types named as in the catalogue.
        axes: Per GPU type of the cluster, the counts and clocks that can be chosen.
        truth: Cost tables by (cost class, GPU type). The scheduler never sees these; its belief may differ.
        facts: How it was made, label → plain words (model assignment, seed, load scaling, …).
    """

    title: str
    jobs: Sequence[Job]
    cluster: ClusterSpec
    axes: Mapping[str, Axes]
    truth: Mapping[tuple[str, str], CostTable]
    facts: Mapping[str, str]
