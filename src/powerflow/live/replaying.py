"""Replays past days in a process of its own: seconds of work that must not hold up the controller's loop.

The function that replays comes from outside (`powerflow.cli.serve` hands in the simulator's): this body knows nothing
of the other one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from powerflow.cluster.spec import ClusterSpec
from powerflow.cost.table import Axes, CostTable
from powerflow.energy.response import Response
from powerflow.errors import InputError
from powerflow.job import Job

#: Cluster, axes, believed costs, jobs of each day, prices, projects → for each day, by scope, what it would cost.
Replay = Callable[
    [
        ClusterSpec,
        Mapping[str, Axes],
        Mapping[tuple[str, str], CostTable],
        Sequence[Sequence[Job]],
        Sequence[float],
        Sequence[str],
    ],
    Sequence[Mapping[str, Response]],
]


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be replayed: the arguments of a `Replay`."""

    cluster: ClusterSpec
    axes: Mapping[str, Axes]
    costs: Mapping[tuple[str, str], CostTable]
    days: Sequence[Sequence[Job]]
    prices: Sequence[float]
    projects: Sequence[str]


class Replaying:
    """A replay under way."""

    def __init__(self, replay: Replay, order: Order) -> None:
        context = get_context("spawn")  # the controller has threads: a fork would copy their locks
        self._answer, theirs = context.Pipe(duplex=False)
        # a daemon: it ends with the controller
        self._process: BaseProcess = context.Process(target=_work, args=(theirs, replay, order), daemon=True)
        self._process.start()
        theirs.close()

    def done(self) -> bool:
        """Whether `result` has one."""
        return self._answer.poll()

    def result(self) -> Sequence[Mapping[str, Response]]:
        """What came of it.

        Raises:
            InputError: It could not be done.
        """
        try:
            answer = self._answer.recv()
        except EOFError:
            answer = "the process that replays was killed"
        self.close()
        if isinstance(answer, str):
            raise InputError(f"past days could not be replayed: {answer}", where="budget")
        days: Sequence[Mapping[str, Response]] = answer
        return days

    def close(self) -> None:
        """Forget it, done or not."""
        self._process.kill()
        self._process.join()
        self._answer.close()


def _work(answer: Connection, replay: Replay, order: Order) -> None:
    os.nice(10)  # jobs come first
    try:
        found = replay(order.cluster, order.axes, order.costs, order.days, order.prices, order.projects)
    except Exception as error:  # whatever it is, the controller is told
        answer.send(f"{type(error).__name__}: {error}" if not isinstance(error, InputError) else str(error))
    else:
        answer.send(list(found))
