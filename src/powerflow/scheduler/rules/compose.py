"""Put all rules around a policy. The simulator and the live controller use the same result.

From the outside in; an inner rule cannot break the promise of an outer one:

1. `Rollout`: jobs of unmanaged projects run as requested.
2. `NoPreempt`: running jobs that cannot resume keep their GPUs.
3. `PowerLimit`: all jobs together stay within the watts that energy budgets pay for.
4. `Protection`: protected jobs are served before all others.
5. `Ageing`: jobs that have waited too long get a turn.
6. `Hysteresis`: GPU counts change only where that is worth the pause.
7. `MaxSlowdown`: clocks are no lower than owners allow.
8. `FairShare`: job weights depend on what each project has used; then the policy decides.
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
    """Return the policy with all rules around it, under the policy's own name.

    Args:
        policy: The policy that decides within the rules.
        interval_s: Seconds between decisions. A slowed protected job may lose that much until the next one
            (`Protection`), and each job runs at least that long between changes (`Hysteresis`).
        patience_s: For `Ageing`.

    Raises:
        InputError: One of the rules does not accept its arguments.
    """
    changes = Hysteresis(MaxSlowdown(FairShare(policy)), least_run_s=interval_s)
    ruled = Rollout(NoPreempt(PowerLimit(Protection(Ageing(changes, patience_s=patience_s), check_s=interval_s))))
    ruled.name = policy.name
    return ruled
