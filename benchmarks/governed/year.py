"""A year of jobs made of a log's own days, with loads that change: what a budget has to stand.

Whole days of a real log are drawn with replacement, so that bursts, night and day and the mix of jobs stay as they
were; each job is kept, or repeated, as the load of the fortnight asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from powerflow.errors import InputError
from powerflow.trace.record import Trace, TraceJob
from powerflow.units import DAY_S

#: The load changes this often.
LEVEL_DAYS = 14

#: Longer jobs are cut to this: a job of weeks says nothing about the days it is drawn for.
LONGEST_S = 2 * DAY_S


@dataclass(frozen=True, slots=True, eq=False)
class Year:
    """Jobs over many days.

    Attributes:
        trace: The jobs; the first day begins at 0 s.
        drawn: Which day of the log each day is, counted from its first.
        levels: Load of each day, 1 on average.
    """

    trace: Trace
    drawn: Sequence[int]
    levels: Sequence[float]


def resample(
    log: Trace, days: int, *, gpus: int, load: float, swing: float = 0.5, most_gpus: int = 8, seed: int = 0
) -> Year:
    """Draw days of a log until there are so many.

    Args:
        log: A log with durations.
        days: How many days to make.
        gpus: GPUs of the cluster to load.
        load: GPU-seconds asked for over GPU-seconds there are, on average.
        swing: The load of each fortnight is drawn evenly from 1 ± this.
        most_gpus: Requests above this are cut to it.
        seed: Of everything drawn.

    Raises:
        InputError: The log spans less than a week.
    """
    first_s = log.jobs[0].submit_s // DAY_S * DAY_S
    by_day: dict[int, list[TraceJob]] = {}
    for job in log.jobs:
        cut = replace(job, duration_s=min(job.duration_s, LONGEST_S), gpus=min(job.gpus, most_gpus))
        by_day.setdefault(int((job.submit_s - first_s) // DAY_S), []).append(cut)
    span = max(by_day)  # the last day is cut off somewhere: leave it out
    if span < 7:
        raise InputError(f"spans {span} whole days", where=log.source, fix="give a log of a week or more")
    asked = sum(job.gpus * job.duration_s for day in range(span) for job in by_day.get(day, ())) / span
    keep = load * gpus * DAY_S / asked
    rng = np.random.default_rng([seed, 0xB0D6E7])
    drawn = rng.integers(span, size=days)
    levels = np.repeat(rng.uniform(1 - swing, 1 + swing, -(-days // LEVEL_DAYS)), LEVEL_DAYS)[:days]
    jobs = []
    for day, (source, level) in enumerate(zip(drawn.tolist(), levels.tolist(), strict=True)):
        for job in by_day.get(source, ()):
            copies, part = divmod(keep * level, 1.0)
            for copy in range(int(copies) + int(rng.random() < part)):
                submit_s = day * DAY_S + (job.submit_s - first_s - source * DAY_S)
                jobs.append(replace(job, id=f"{day}.{copy}.{job.id}", submit_s=submit_s))
    jobs.sort(key=lambda job: job.submit_s)
    return Year(Trace(f"{days} days of {log.source}", log.format, jobs), drawn.tolist(), levels.tolist())
