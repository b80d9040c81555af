"""Views for tests: one made by hand from small tables, one made at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from powerflow.policy.protocol import JOB, Allocation, Policy, View


def make_view(
    jobs: Sequence[Mapping[str, float]],
    *,
    step_time_s: npt.ArrayLike,
    capacity: int,
    gpu_counts: Sequence[int] = (1, 2, 4, 8),
    clocks_mhz: Sequence[float] = (1000.0,),
    power_w: npt.ArrayLike | None = None,
    now_s: float = 0.0,
    idle_w: float = 50.0,
    gpus_per_node: int = 8,
    energy_price: float = 0.0,
    sizes_known: bool = True,
) -> View:
    """A view of the given jobs.

    Args:
        jobs: What differs from a waiting job of class 0 with 100 iterations to go that asked for one GPU, can use all,
            and was submitted at 0 s. Rows are numbered from 0 unless they say their id.
        step_time_s: ``[K, N, F]``, or ``[K, N]`` for one clock.
        capacity: GPUs that are up.
        gpu_counts: ``[N]``.
        clocks_mhz: ``[F]``.
        power_w: ``[K, N, F]`` or ``[K, N]``; 200 W a GPU if not given.
        now_s, idle_w, gpus_per_node, energy_price, sizes_known: As in `View`.
    """
    counts = np.array(gpu_counts, np.int64)
    times = np.asarray(step_time_s, float)
    times = times[:, :, None] if times.ndim == 2 else times
    watts = 200.0 * counts[None, :, None] * np.ones_like(times) if power_w is None else np.asarray(power_w, float)
    watts = watts[:, :, None] if watts.ndim == 2 else watts
    rows = np.zeros(len(jobs), JOB)
    rows["id"] = np.arange(len(jobs))
    rows["remaining"] = 100.0
    rows["weight"] = 1.0
    rows["requested"] = 1
    rows["gpus_min"] = 1
    rows["gpus_max"] = counts[-1]
    rows["clock"] = len(clocks_mhz) - 1
    for row, job in zip(rows, jobs, strict=True):
        for name, value in job.items():
            row[name] = value
    index = np.full(int(counts[-1]) + 1, -1, np.int64)
    index[counts] = np.arange(len(counts))
    view = View(
        now_s=now_s,
        capacity=capacity,
        gpus_per_node=gpus_per_node,
        gpu_counts=counts,
        count_index=index,
        clocks_mhz=np.array(clocks_mhz, float),
        step_time_s=times,
        power_w=watts,
        idle_w=idle_w,
        jobs=rows,
        energy_price=energy_price,
        sizes_known=sizes_known,
    )
    rows.flags.writeable = False  # as in the scheduler's views: kernels are compiled for each kind of arrays
    return view


def given_gpus(policy: Policy, view: View) -> list[int]:
    """The GPUs that ``policy`` hands out in ``view``, as a plain list."""
    gpus: list[int] = policy.decide(view).gpus.tolist()
    return gpus


@st.composite
def views(draw: st.DrawFn, max_jobs: int = 12, sizes_known: bool | None = None) -> View:
    """Views of up to ``max_jobs`` jobs in any state that a scheduler may show a policy, the odd ones included.

    Step times need not be monotone in the count; counts beyond a class's reach are inf, now and then all of them;
    requests may lie off the table or above the capacity; what is held may exceed what is up (nodes failed).
    """
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    counts = np.array(draw(st.sampled_from([(1,), (1, 2, 4), (1, 2, 4, 8, 16), (1, 2, 3, 4, 6, 8), (2, 4)])))
    clocks = np.sort(rng.choice(np.arange(500, 1500, 15), draw(st.integers(1, 5)), replace=False)).astype(float)
    classes, levels = draw(st.integers(1, 4)), len(counts)
    known = draw(st.booleans()) if sizes_known is None else sizes_known
    capacity = draw(st.integers(0, 40))
    number = draw(st.integers(0, max_jobs))

    scale = rng.lognormal(-1, 1, (classes, 1, 1))
    scaling = counts[None, :, None] ** -rng.uniform(-0.2, 1.0, (classes, levels, 1))
    clock_share = rng.uniform(0, 1, (classes, 1, 1))
    slowing = 1 - clock_share + clock_share * clocks[-1] / clocks[None, None, :]
    times = scale * scaling * slowing
    infeasible = rng.random((classes, levels)) < draw(st.sampled_from([0.0, 0.2, 1.0]))
    times[infeasible] = np.inf
    watts = counts[None, :, None] * (60 + rng.uniform(50, 250, (classes, 1, 1)) * (clocks / clocks[-1]) ** 2.5)
    watts[infeasible] = rng.choice([0.0, np.nan, np.inf, 100.0])  # nobody says what stands there

    now = float(rng.uniform(0, 1e5))
    jobs = np.zeros(number, JOB)
    jobs["id"] = np.sort(rng.choice(1000, number, replace=False))
    jobs["arrival_s"] = np.sort(rng.uniform(0, now, number))
    jobs["remaining"] = rng.choice([1e-6, 1.0, 1.0, 1e3], number) * rng.lognormal(3, 2, number) if known else np.nan
    jobs["done"] = rng.lognormal(3, 2, number)
    jobs["pause_s"] = rng.uniform(0, 60, number)
    jobs["weight"] = rng.choice([0.5, 1.0, 1.0, 4.0], number)
    jobs["cost"] = rng.integers(0, classes, number)
    jobs["requested"] = rng.integers(1, 18, number)
    jobs["gpus_min"] = rng.choice([1, 1, 1, 2, 4], number)
    jobs["gpus_max"] = np.maximum(jobs["gpus_min"], rng.choice([1, 2, 4, 8, 64], number))
    jobs["gpus"] = np.where(rng.random(number) < 0.5, counts[rng.integers(0, levels, number)], 0)
    jobs["since_s"] = jobs["arrival_s"] + rng.random(number) * (now - jobs["arrival_s"])
    jobs["attained_gpu_s"] = np.where(jobs["gpus"] > 0, rng.lognormal(8, 3, number), rng.choice([0.0, 3e3], number))
    jobs["clock"] = rng.integers(0, len(clocks), number)
    return make_view(
        [dict(zip(JOB.names or (), row.tolist(), strict=True)) for row in jobs],
        step_time_s=times,
        power_w=watts,
        capacity=capacity,
        gpu_counts=counts.tolist(),
        clocks_mhz=clocks.tolist(),
        now_s=now,
        idle_w=60.0,
        energy_price=float(rng.choice([0.0, 1e-5, 1e-3])),
        sizes_known=known,
    )


def assert_valid(view: View, allocation: Allocation) -> None:
    """What holds of every answer: gangs of feasible sizes within each job's bounds, no more GPUs than are up."""
    gpus, clock = allocation.gpus, allocation.clock
    assert gpus.shape == clock.shape == (len(view.jobs),)
    assert np.issubdtype(gpus.dtype, np.integer)
    assert np.issubdtype(clock.dtype, np.integer)
    assert gpus.sum() <= view.capacity
    for job, n, f in zip(view.jobs, gpus.tolist(), clock.tolist(), strict=True):
        assert 0 <= f < len(view.clocks_mhz)
        if n:
            assert n in view.gpu_counts
            assert job["gpus_min"] <= n <= job["gpus_max"]
            assert np.isfinite(view.step_time_s[job["cost"], view.count_index[n], f])
