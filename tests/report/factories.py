"""Simulations and comparisons to draw: made by a small queue of their own, not by the simulator, and never results.

A job of n GPUs holds them from its start to its end; power follows clock cubed; the accounting identity holds.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from powerflow.simulate.comparison import Comparison, EqualEnergyRow, Estimate, Frontier, FrontierPoint, Metrics
from powerflow.simulate.result import JobResults, Segments, SimulationResult, Timeline

IDLE_W, MAX_CLOCK_MHZ = 60.0, 1410.0


def simulation(
    policy: str = "fifo",
    *,
    jobs: int = 150,
    gpus: int = 32,
    seed: int = 0,
    shortest_first: bool = False,
    clock: float = 1.0,
    ids: Sequence[str] | None = None,
) -> SimulationResult:
    """``jobs`` jobs through a queue on ``gpus`` GPUs, at the share ``clock`` of the maximum clock."""
    rng = np.random.default_rng(seed)
    submit_s = np.sort(rng.uniform(0, 86_400, jobs))
    submit_s -= submit_s[0] if jobs else 0.0
    wanted = np.minimum(2 ** rng.choice(6, jobs, p=[0.45, 0.2, 0.15, 0.1, 0.06, 0.04]), gpus)
    alone_s = rng.lognormal(8.2, 1.3, jobs)
    run_s = alone_s * (0.3 + 0.7 / clock)
    start_s = _starts(submit_s, run_s, wanted, gpus, shortest_first)
    finish_s = start_s + run_s
    watts = wanted * (IDLE_W + 240.0 * clock**3)
    energy_j = watts * run_s
    end_s = float(finish_s.max(initial=0.0))
    moments = np.unique(np.concatenate([[0.0], start_s, finish_s, submit_s]))
    moments = moments[moments < end_s] if jobs else moments
    on = (start_s[None, :] <= moments[:, None]) & (moments[:, None] < finish_s[None, :])
    waits = (submit_s[None, :] <= moments[:, None]) & (moments[:, None] < start_s[None, :])
    busy = (on * wanted).sum(1)
    power_w = (on * watts).sum(1) + (gpus - busy) * IDLE_W
    metered_j = float((power_w * np.diff(np.append(moments, end_s))).sum())
    return SimulationResult(
        policy=policy,
        seed=seed,
        energy_price=0.0,
        jobs=JobResults(
            ids=tuple(ids) if ids is not None else tuple(f"job-{i}" for i in range(jobs)),
            cost_class=tuple(("resnet50/512", "bert/256", "deepspeech2/128")[i % 3] for i in range(jobs)),
            submit_s=submit_s,
            start_s=start_s,
            finish_s=finish_s,
            requested=wanted,
            gpu_s=wanted * run_s,
            energy_j=energy_j,
            rescales=np.zeros(jobs, np.int64),
            weight=np.ones(jobs),
            alone_s=alone_s,
            failed=np.zeros(jobs, np.bool_),
        ),
        timeline=Timeline(
            time_s=moments,
            power_w=power_w,
            busy_gpus=busy,
            running=on.sum(1),
            waiting=waits.sum(1),
            clock_mhz=np.where(busy > 0, clock * MAX_CLOCK_MHZ, np.nan),
            gpu_price=np.zeros(len(moments)),
        ),
        segments=Segments(
            job=np.arange(jobs),
            start_s=start_s,
            end_s=finish_s,
            gpus=wanted,
            clock_mhz=np.full(jobs, clock * MAX_CLOCK_MHZ),
            power_w=watts.astype(np.float64),
        ),
        end_s=end_s,
        metered_j=metered_j,
        idle_j=metered_j - float(energy_j.sum()),
        tail_w=gpus * IDLE_W,
        decisions=2 * jobs,
        cpu_s=float(rng.uniform()),
    )


def _starts(submit_s: np.ndarray, run_s: np.ndarray, wanted: np.ndarray, gpus: int, shortest_first: bool) -> np.ndarray:
    """When each job starts: the head of the queue starts as soon as enough GPUs are free."""
    start_s = np.zeros(len(submit_s))
    free, now, arrived = gpus, 0.0, 0
    queue: list[tuple[float, int]] = []
    running: list[tuple[float, int]] = []
    while arrived < len(submit_s) or queue:
        while arrived < len(submit_s) and submit_s[arrived] <= now:
            heapq.heappush(queue, (float(run_s[arrived]) if shortest_first else 0.0, arrived))
            arrived += 1
        while queue and wanted[queue[0][1]] <= free:
            job = heapq.heappop(queue)[1]
            start_s[job] = now
            free -= int(wanted[job])
            heapq.heappush(running, (now + float(run_s[job]), job))
        coming = [running[0][0]] if running else []
        coming += [float(submit_s[arrived])] if arrived < len(submit_s) else []
        now = min(coming, default=now)
        while running and running[0][0] <= now:
            free += int(wanted[heapq.heappop(running)[1]])
    return start_s


def estimate(mean: float, half: float = float("nan")) -> Estimate:
    return Estimate(mean, mean - half, mean + half)


def metrics(jct_s: float, energy_j: float) -> Metrics:
    return Metrics(jct_s, jct_s, jct_s * 0.4, jct_s * 6.5, jct_s * 0.3, 1.2, 2.4 * 86_400, 1_830.0, 1.7, energy_j)


#: Mean completion time at full energy, hours; how steeply it grows with less; the least share of energy it can reach.
POLICIES: Mapping[str, tuple[float, float, float]] = {
    "fifo": (5.41, 1.1, 0.78),
    "srtf": (2.62, 0.9, 0.76),
    "tiresias": (3.1, 1.0, 0.77),
    "gandiva": (4.6, 1.2, 0.84),
    "afs": (2.25, 1.0, 0.72),
    "optimus": (2.44, 1.2, 0.74),
    "pollux": (2.9, 1.6, 0.88),
    "greedy": (2.05, 1.0, 0.58),
    "prices": (1.71, 0.62, 0.55),
}


def comparison(
    policies: Sequence[str] = tuple(POLICIES),
    *,
    seeds: int = 3,
    levels: Sequence[float] = (1.0, 0.9, 0.8, 0.7),
    jobs: int = 150,
) -> Comparison:
    """A comparison with the shape of a real one: frontiers that fall, some that end early, noise over seeds."""
    reference_j = 412.0 * 3.6e6
    rng = np.random.default_rng(7)

    def jct_s(policy: str, share: float) -> float:
        full, steep, _ = POLICIES[policy]
        return 3600 * full * (1 + steep * float(max(1.06 - share, 0.0) ** 1.7))

    frontiers = []
    for policy in policies:
        least = POLICIES[policy][2]
        hulls = {}
        for seed in range(seeds):
            noise = float(rng.normal(1, 0.03))
            shares = np.linspace(least, 1.12, 9)
            knobs = [f"λ={2e-5 * (9 - i):.1e}" for i in range(9)]
            hulls[seed] = [
                FrontierPoint(policy, knob, seed, metrics(noise * jct_s(policy, share), share * reference_j))
                for knob, share in zip(knobs, shares, strict=True)
            ]
        full = [
            FrontierPoint(policy, "maximum clock", s, metrics(jct_s(policy, 1.0), reference_j)) for s in range(seeds)
        ]
        points = [*full, *(point for hull in hulls.values() for point in hull)]
        frontiers.append(Frontier(policy, points, hulls))

    def bound_s(share: float) -> float:
        return 0.955 * jct_s("prices", share)

    rows = []
    for level in levels:
        for policy in policies:
            if level < POLICIES[policy][2]:
                rows.append(EqualEnergyRow(policy, level, level * reference_j, None, None, None))
                continue
            mean_s = jct_s(policy, level)
            half = 0.04 if seeds > 1 else float("nan")
            numbers = metrics(mean_s, level * reference_j)
            rows.append(
                EqualEnergyRow(
                    policy,
                    level,
                    level * reference_j,
                    {
                        name: estimate(getattr(numbers, name), half * getattr(numbers, name))
                        for name in Metrics.__dataclass_fields__
                    },
                    estimate(mean_s / jct_s("prices", level), half) if "prices" in policies else None,
                    estimate(mean_s / bound_s(level), half),
                )
            )
    shares = np.linspace(0.5, 1.2, 12)
    showcase = {f"{policies[0]} at maximum clock": simulation(policies[0], jobs=jobs)}
    if "prices" in policies:
        showcase["prices at 80 %"] = simulation("prices", jobs=jobs, shortest_first=True, clock=0.8)
    return Comparison(
        title="a day of 150 jobs on 16x8:A100",
        facts={
            "Jobs": "150 jobs, made up for a test",
            "Costs": "modelled: throughput and power by formula, no GPU measured",
            "Cluster": "16x8:A100",
        },
        levels=levels,
        horizon_s=3.1 * 86_400,
        reference_j=reference_j,
        frontiers=frontiers,
        bound=[(float(share * reference_j), bound_s(float(share))) for share in shares],
        rows=rows,
        showcase=showcase,
    )


def without(whole: Comparison, **changed: object) -> Comparison:
    """The comparison with some fields replaced."""
    return replace(whole, **changed)  # type: ignore[arg-type]
