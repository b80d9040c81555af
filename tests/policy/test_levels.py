"""The level nearest to a request, against its definition worked out job by job."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.policy.levels import requested_gpus, requested_levels, requested_run_s
from powerflow.policy.protocol import JOB, View


@st.composite
def views(draw: st.DrawFn) -> View:
    """A few jobs of a few classes, with counts that some classes cannot run on and bounds that may leave nothing."""
    counts = np.array(sorted(draw(st.sets(st.integers(1, 24), min_size=1, max_size=6))), np.int64)
    classes, jobs = draw(st.integers(1, 3)), draw(st.integers(0, 6))
    cells = classes * len(counts)
    runs = np.array(draw(st.lists(st.booleans(), min_size=cells, max_size=cells))).reshape(classes, len(counts), 1)
    step_s = np.where(runs, 2.0 / counts[None, :, None], np.inf)
    rows = np.zeros(jobs, JOB)
    for row in rows:
        row["cost"] = draw(st.integers(0, classes - 1))
        row["requested"], row["gpus_min"], row["gpus_max"] = (draw(st.integers(1, 26)) for _ in range(3))
        row["remaining"] = 10.0
    rows.flags.writeable = False
    index = np.full(int(counts[-1]) + 1, -1)
    index[counts] = np.arange(len(counts))
    return View(0.0, 100, 8, counts, index, np.array([1000.0]), step_s, step_s, 0.0, rows)


@settings(deadline=None)
@given(view=views())
def test_the_largest_count_not_above_the_request_else_the_smallest_above(view: View) -> None:
    for row, level, gpus, run_s in zip(
        view.jobs, requested_levels(view), requested_gpus(view), requested_run_s(view), strict=True
    ):
        can = [
            int(count)
            for position, count in enumerate(view.gpu_counts)
            if np.isfinite(view.step_time_s[row["cost"], position, 0]) and row["gpus_min"] <= count <= row["gpus_max"]
        ]
        below = [count for count in can if count <= row["requested"]]
        wanted = max(below) if below else min(can, default=0)
        assert gpus == wanted
        assert (level >= 0) == bool(can)
        assert run_s == (10.0 * view.step_time_s[row["cost"], level, 0] if can else np.inf)
