"""Define the record of what the whole cluster drew, and what GPUs and joules were worth, at one moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClusterSample:
    """The cluster at one moment of the last hours.

    Attributes:
        time_s: The moment, in Unix seconds.
        power_w: Watts of all GPUs.
        cap_w: Watts that power caps allowed the whole cluster; None if there was no such cap.
        gpu_price: GPU price at the latest decision, the highest of all GPU types; 0 if the policy has no prices.
        energy_price: λ_E, in seconds per joule.
    """

    time_s: float
    power_w: float
    cap_w: float | None
    gpu_price: float
    energy_price: float
