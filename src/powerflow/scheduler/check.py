"""A policy's answer, held against what it may say."""

from __future__ import annotations

import numpy as np

from powerflow.policy.protocol import Allocation, View


class PolicyError(RuntimeError):
    """A policy gave an answer that no cluster can carry out."""


def check_answer(policy: str, view: View, answer: Allocation) -> None:
    """Raise unless the answer can be carried out.

    Raises:
        PolicyError: Naming the policy, the rule, and the first job that breaks it.
    """
    jobs = view.jobs
    gpus, clock = answer.gpus, answer.clock
    if gpus.shape != (len(jobs),) or clock.shape != (len(jobs),):
        raise PolicyError(
            f"policy {policy}: answer has {gpus.shape} GPUs and {clock.shape} clocks for {len(jobs)} jobs"
        )
    total = int(gpus.sum())
    if total > view.capacity:
        raise PolicyError(f"policy {policy}: gave out {total} GPUs of {view.capacity}")
    known = len(view.count_index)
    held = np.flatnonzero(gpus)
    n = gpus[held]
    if len(held) == 0:
        return
    if n.min() < 0 or n.max() >= known or (view.count_index[n] < 0).any():
        raise PolicyError(f"policy {policy}: gave a GPU count that is not in the cost tables")
    f = clock[held]
    if f.min() < 0 or f.max() > view.clock_max:
        raise PolicyError(f"policy {policy}: gave a clock that does not exist")
    rows = jobs[held]
    runs = np.isfinite(view.step_time_s[rows["cost"], view.count_index[n], f])
    legal = runs & (n >= rows["gpus_min"]) & (n <= rows["gpus_max"])
    if not legal.all():
        bad = int(np.argmin(legal))
        raise PolicyError(
            f"policy {policy}: job {rows['id'][bad]} cannot run on {n[bad]} GPUs "
            f"(its limits are {rows['gpus_min'][bad]} to {rows['gpus_max'][bad]})"
        )
