"""Replay past days in a separate process, because a replay takes seconds and must not delay the controller's loop.

`powerflow.live` must not import the simulator. So `powerflow.cli.serve` passes the functions that replay as arguments.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from powerflow.cluster.spec import ClusterSpec
from powerflow.cost.catalogue import GpuType, declare, declared
from powerflow.cost.table import Axes, CostTable
from powerflow.energy.response import Response
from powerflow.errors import InputError
from powerflow.job import Job

Costs = Mapping[tuple[str, str], CostTable]
Days = Sequence[Sequence[Job]]

#: Cluster, axes, believed costs, jobs of each day, prices, projects → for each day, by scope, what it would cost.
Respond = Callable[
    [ClusterSpec, Mapping[str, Axes], Costs, Days, Sequence[float], Sequence[str]], Sequence[Mapping[str, Response]]
]
#: Cluster, axes, believed costs, jobs of each day, price of a joule → mean JCT (s) and joules of all jobs, as their
#: owners asked and with the policy: (asked_s, asked_j, acted_s, acted_j).
Compare = Callable[[ClusterSpec, Mapping[str, Axes], Costs, Days, float], tuple[float, float, float, float]]


@dataclass(frozen=True, slots=True)
class Replays:
    """Functions that replay past days. With None, no replay of this kind is made."""

    respond: Respond | None = None
    compare: Compare | None = None


Found = TypeVar("Found")


class ReplayProcess(Generic[Found]):
    """Run one replay in a separate process.

    Args:
        replay: A function that a new process can import.
        arguments: Arguments for this function.
    """

    def __init__(self, replay: Callable[..., Found], *arguments: Any) -> None:
        context = get_context("spawn")  # the controller has threads: a fork would copy their locks
        self._answer, theirs = context.Pipe(duplex=False)
        # a daemon: it ends with the controller
        of_us = theirs, replay, arguments, declared()
        self._process: BaseProcess = context.Process(target=_work, args=of_us, daemon=True)
        self._process.start()
        theirs.close()

    def done(self) -> bool:
        """Return True if the replay has ended, so that `result` can be called."""
        return self._answer.poll()

    def result(self) -> Found:
        """Return the result of the replay. Call it only after `done` has returned True.

        Raises:
            InputError: The replay failed.
        """
        try:
            failed, found = self._answer.recv()
        except EOFError:
            failed, found = "the process of the replay was killed", None
        self.close()
        if failed:
            raise InputError(f"past days could not be replayed: {failed}", where="replay")
        result: Found = found
        return result

    def close(self) -> None:
        """End the process of the replay, whether the replay has ended or not."""
        self._process.kill()
        self._process.join()
        self._answer.close()


def _work(answer: Connection, replay: Callable[..., Any], arguments: Sequence[Any], cards: Sequence[GpuType]) -> None:
    os.nice(10)  # jobs come first
    declare(*cards)
    try:
        answer.send(("", replay(*arguments)))
    except Exception as error:  # the controller hears of any
        answer.send((str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}", None))
