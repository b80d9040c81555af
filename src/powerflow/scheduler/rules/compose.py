"""Put all rules around a policy. The simulator and the live controller use the same rules.

The rules from the outside in; an inner rule cannot break the promise of an outer rule:

1. `Rollout`: jobs of unmanaged projects run as requested.
2. `NoPreempt`: running jobs that cannot resume keep their GPUs.
3. `PowerLimit`: all jobs together stay within the watts that energy budgets pay for.
4. `Protection`: protected jobs are served before all others.
5. `Ageing`: jobs that have waited too long get a turn.
6. `FairShare`: no job waits that would run on the GPUs that its project deserves.
7. `MaxSlowdown`: clocks are not lower than owners allow.
8. `Hysteresis`: GPU counts change only where the gain is worth the pause; then the policy decides.
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
        interval_s: Seconds between two decisions. A protected job that is slowed may lose this time until the next
            decision (`Protection`). Each job runs for at least this time between two changes (`Hysteresis`).
        patience_s: Seconds that a job waits before it runs whatever the policy decides (`Ageing`).

    Raises:
        InputError: ``interval_s`` is negative or infinite, or ``patience_s`` is not positive or infinite.
    """
    # `Hysteresis` chooses clocks itself for jobs whose GPUs it does not change
    shared = FairShare(MaxSlowdown(Hysteresis(policy, least_run_s=interval_s)))
    ruled = Rollout(NoPreempt(PowerLimit(Protection(Ageing(shared, patience_s=patience_s), check_s=interval_s))))
    ruled.name = policy.name
    return ruled
