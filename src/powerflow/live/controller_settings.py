"""Define the times and defaults of the controller's loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from powerflow.live.jobs.step_timing import STEPS


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """Times and defaults of the controller's loop.

    Attributes:
        idle_s, busy_s: Most seconds between two turns of the loop while no job runs, and while a job runs.
        save_s: Running jobs are stored whenever this many seconds have passed.
        lease_s: Another controller may take over the store if this one has not renewed its lease for this long.
        explore_steps: Steps at each clock when a class (jobs of equal cost) first runs on a GPU count; 0: try no
            clocks.
        pause_s: Assumed pause of a rescale until one was measured, seconds, for each ``rescale`` mode.
    """

    idle_s: float = 1.0
    busy_s: float = 0.25
    save_s: float = 2.0
    lease_s: float = 30.0
    explore_steps: int = STEPS
    pause_s: Mapping[str, float] = field(
        default_factory=lambda: {"in-place": 1.0, "restart": 60.0, "none": 60.0, "external": 60.0}
    )


#: For who sets nothing.
DEFAULTS = ControllerSettings()
