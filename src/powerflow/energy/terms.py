"""Define the prices and power limits of energy that the scheduler must respect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: Relative change of a price from which on jobs are planned again.
PRICE_STEP = 0.02


@dataclass(frozen=True, slots=True)
class EnergyTerms:
    """Prices and power limits of energy, valid until new ones are set. The scheduler gets them as an event.

    Attributes:
        price: λ_E for all jobs, seconds per joule.
        by_project: Price added for the jobs of each project that has its own budget.
        limit_w: By project, or "" for the cluster: watts that its jobs may add to the idle draw, by their cost models.
            For a project the number includes the idle draw of the GPUs that its jobs hold.
    """

    price: float = 0.0
    by_project: Mapping[str, float] = field(default_factory=dict)
    limit_w: Mapping[str, float] = field(default_factory=dict)

    def moved(self, before: EnergyTerms) -> bool:
        """Return True if a price differs so much from the earlier terms ``before`` that jobs must be planned again."""
        names = before.by_project.keys() | self.by_project.keys()
        pairs = [(before.price, self.price)]
        pairs += [(before.by_project.get(name, 0.0), self.by_project.get(name, 0.0)) for name in names]
        return any(abs(now - old) > PRICE_STEP * old for old, now in pairs)

    def share(self, part: float) -> EnergyTerms:
        """Return the terms for a part of the cluster: the same prices, and each limit multiplied by ``part``."""
        if not self.limit_w:
            return self
        return EnergyTerms(self.price, self.by_project, {scope: part * watts for scope, watts in self.limit_w.items()})
