"""Compare what completed jobs took with what was predicted, and with what the policy would have done."""

from __future__ import annotations

import math
from collections.abc import Sequence

from powerflow.api.predictions import PredictionsRecord
from powerflow.store.models import DecisionOutcome


def predictions(outcomes: Sequence[DecisionOutcome], since_s: float, until_s: float) -> PredictionsRecord:
    """Return how well the predictions for jobs of a time window came true.

    Args:
        outcomes: The jobs that completed in the window, with the predictions for them.
        since_s, until_s: The window, in Unix seconds.
    """
    told = [(o, o.predicted) for o in outcomes if o.predicted is not None]
    sized = [(o.energy_j, p.energy_j) for o, p in told if p.energy_j is not None]
    judged = [
        (
            p.jct_low_s <= o.jct_s <= (p.jct_high_s or 0.0),
            p.energy_low_j <= o.energy_j <= (p.energy_high_j or 0.0),
        )
        for o, p in told
        if p.jct_low_s is not None and p.energy_low_j is not None
    ]
    both = [(o.predicted, o.would) for o in outcomes if o.predicted is not None and o.would is not None]
    return PredictionsRecord(
        since_s=since_s,
        until_s=until_s,
        completed=len(outcomes),
        predicted=len(sized),
        predicted_j=math.fsum(predicted_j for _, predicted_j in sized),
        used_j=math.fsum(used_j for used_j, _ in sized),
        judged=len(judged),
        within_time=sum(time for time, _ in judged) / len(judged) if judged else None,
        within_energy=sum(energy for _, energy in judged) / len(judged) if judged else None,
        compared=len(both),
        asked_j=math.fsum(p.energy_j or 0.0 for p, _ in both),
        would_j=math.fsum(w.energy_j or 0.0 for _, w in both),
        asked_jct_s=math.fsum(p.jct_s or 0.0 for p, _ in both),
        would_jct_s=math.fsum(w.jct_s or 0.0 for _, w in both),
    )
