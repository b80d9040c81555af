"""What a joule costs those who plan with it, and how many a second there are to be had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: Share by which a price of energy has to move for jobs to be looked at again.
PRICE_STEP = 0.02


@dataclass(frozen=True, slots=True)
class EnergyTerms:
    """The terms on which jobs get energy until others are set. An event of the scheduler.

    Attributes:
        price: λ_E, seconds per joule, for everybody.
        by_project: What is added to it for the jobs of a project that has a budget of its own.
        limit_w: By scope of a budget ("" is the cluster, else a project): watts that its jobs may add to idle draw, as
            believed; of a project, with the idle draw of the GPUs that its jobs hold.
    """

    price: float = 0.0
    by_project: Mapping[str, float] = field(default_factory=dict)
    limit_w: Mapping[str, float] = field(default_factory=dict)

    def moved(self, before: EnergyTerms) -> bool:
        """Whether a price is another than it was, so that jobs have to be looked at again."""
        names = before.by_project.keys() | self.by_project.keys()
        pairs = [(before.price, self.price)]
        pairs += [(before.by_project.get(name, 0.0), self.by_project.get(name, 0.0)) for name in names]
        return any(abs(now - old) > PRICE_STEP * old for old, now in pairs)

    def share(self, part: float) -> EnergyTerms:
        """The terms of a part of the cluster: the same prices, so much of each limit."""
        if not self.limit_w:
            return self
        return EnergyTerms(self.price, self.by_project, {scope: part * watts for scope, watts in self.limit_w.items()})
