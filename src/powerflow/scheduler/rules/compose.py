"""What an administrator is promised, around any policy: one object that the simulator and the live controller share.

From the outside in, since who comes later may not break what who came before promises: jobs that may not be acted on
run as asked; of the others, those that would have to begin anew keep their GPUs; all use no more watts than budgets
pay for; protected jobs get theirs first, then jobs whose turn it is after a long wait, then what pauses allow to
change; there the policy decides, with weights by what projects have had, and clocks no lower than owners allow.
"""

from __future__ import annotations

from powerflow.policy.protocol import Policy
from powerflow.scheduler.rules.ageing import PATIENCE_S, Ageing
from powerflow.scheduler.rules.fair_share import FairShare
from powerflow.scheduler.rules.hysteresis import Hysteresis
from powerflow.scheduler.rules.max_slowdown import MaxSlowdown
from powerflow.scheduler.rules.no_preempt import NoPreempt
from powerflow.scheduler.rules.power_limit import PowerLimit
from powerflow.scheduler.rules.protection import Protection
from powerflow.scheduler.rules.rollout import Rollout


def with_rules(policy: Policy, *, interval_s: float = 60.0, patience_s: float = PATIENCE_S) -> Policy:
    """A policy under all rules.

    Args:
        policy: Who decides within them.
        interval_s: Decisions are so far apart: what a slowed protected job may lose until the next (`Protection`), and
            how long a job runs at least (`Hysteresis`).
        patience_s: Of `Ageing`.

    Raises:
        InputError: As of these.
    """
    steady = Hysteresis(MaxSlowdown(FairShare(policy)), least_run_s=interval_s)
    ruled = Rollout(NoPreempt(PowerLimit(Protection(Ageing(steady, patience_s=patience_s), check_s=interval_s))))
    ruled.name = policy.name  # the rules hold under every policy: it is the policy that people choose
    return ruled
