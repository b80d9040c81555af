"""Define the objects that all parts of one controller's loop share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from powerflow.engine.protocol import Engine
from powerflow.gangs.manager import Gangs
from powerflow.live.gpus.gpus import ClusterGpus
from powerflow.live.jobs.cost_learning import CostLearning
from powerflow.live.jobs.job_table import JobTable
from powerflow.live.wall_clock import SchedulerTime
from powerflow.scheduler.scheduler import Scheduler
from powerflow.store.store import Store


@dataclass(frozen=True, slots=True)
class LoopContext:
    """The objects that all parts of one controller's loop share. Only the loop's thread uses them.

    Attributes:
        runs_as: Returns the login that a user's jobs run as; "" for the login of the engine.
        log: A structlog logger.
    """

    scheduler: Scheduler
    scheduler_time: SchedulerTime
    table: JobTable
    store: Store
    engine: Engine
    gangs: Gangs
    power: ClusterGpus
    learning: CostLearning
    runs_as: Callable[[str], str]
    log: Any
