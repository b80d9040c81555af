"""Detect GPUs whose power limit somebody else has changed, so that no costs are learned from these GPUs.

PowerFlow sets no power limits. The limit that a GPU has while no job is on it counts as its own limit; costs are
learned at this limit. A job may change the limit to search for a better one (Zeus' ``GlobalPowerLimitOptimizer``); so
may an operator with ``nvidia-smi -pl``. While the limit is changed, every step costs something else.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from powerflow.device.protocol import Reading

#: A limit has changed if it is off by more than this, watts.
NEAR_W = 2.0


class LimitWatch:
    """Follow the power limits of all GPUs, by UUID. ``kept`` is the `state` of an earlier controller."""

    def __init__(self, kept: Mapping[str, Any]) -> None:
        self._own_w = {str(uuid): float(watts) for uuid, watts in kept.items()}
        self._changed: dict[str, tuple[float, float]] = {}  # own and present limit, watts

    def begin(self, readings: Mapping[str, Reading], held: Collection[str]) -> None:
        """Take the present power limit of each GPU without a job as its own limit. Call it when a controller starts."""
        for uuid in readings.keys() - set(held):
            self._own_w.pop(uuid, None)
        self.look(readings)

    def look(self, readings: Mapping[str, Reading]) -> None:
        """Read the power limits from new readings."""
        for uuid, reading in readings.items():
            now_w = reading.power_limit_w
            if not math.isfinite(now_w):
                continue
            own_w = self._own_w.setdefault(uuid, now_w)
            if abs(own_w - now_w) > NEAR_W:
                self._changed[uuid] = own_w, now_w
            elif uuid in self._changed:
                del self._changed[uuid]

    def changed(self) -> dict[str, tuple[float, float]]:
        """Return the GPUs whose present power limit is not their own limit: (own, present) in watts, by UUID."""
        return self._changed.copy()

    def state(self) -> dict[str, float]:
        """Return the power limit that each GPU has without a job, in watts by UUID, to be stored."""
        return dict(self._own_w)
