"""Define the record that compares what jobs took with what the scheduler had predicted for them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PredictionsRecord:
    """Predictions for jobs that completed in a time window, and what these jobs really took.

    The prediction of a job is that of the first decision that gave it GPUs. Decisions on jobs that ended long ago are
    deleted, and with them their predictions.

    Attributes:
        since_s, until_s: The window, in Unix seconds.
        completed: Number of jobs that completed in the window.
        predicted: Number of those whose energy was predicted.
        predicted_j, used_j: Joules of these, as predicted and as charged.
        judged: Number of jobs with 80 % intervals around both predictions.
        within_time, within_energy: Share of these whose completion time and energy were inside the interval; it should
            be 0.8. None if ``judged`` is 0.
        compared: Number of jobs that ran as their owners asked, and for which the decision of PowerFlow was logged.
        asked_j, would_j: Joules predicted for these: as they ran, and if PowerFlow had decided.
        asked_jct_s, would_jct_s: The same for the sum of their completion times, in seconds.
    """

    since_s: float
    until_s: float
    completed: int
    predicted: int
    predicted_j: float
    used_j: float
    judged: int
    within_time: float | None
    within_energy: float | None
    compared: int
    asked_j: float
    would_j: float
    asked_jct_s: float
    would_jct_s: float
