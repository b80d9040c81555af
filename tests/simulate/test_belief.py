"""What the scheduler is told: the truth, a fit to noisy points, or a prior that learns."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from powerflow.arrays import FloatArray
from powerflow.cost.batch_range import BatchRange
from powerflow.cost.catalogue import family_model
from powerflow.cost.clock_choice import three_clocks
from powerflow.cost.table import CostTable
from powerflow.cost.tabulate import tabulate
from powerflow.errors import InputError
from powerflow.job import Job
from powerflow.policy.registry import load
from powerflow.scheduler.plan import Change, Reason, Why
from powerflow.scheduler.rules.compose import with_rules
from powerflow.simulate.belief import TRIAL_S, Fitted, Laboratory, Online, Oracle, Sizes, belief_named
from powerflow.simulate.run import Simulation, simulate
from powerflow.simulate.workload.build import build_workload
from powerflow.simulate.workload.workload import Workload
from powerflow.simulate.world import World
from powerflow.trace.record import Trace, TraceJob
from tests.simulate.workloads import from_trace


@pytest.fixture(scope="module")
def workload() -> Workload:
    """Twenty jobs on eight GPUs."""
    return from_trace(3, 20, "2x4:A100")


@pytest.fixture(scope="module")
def few() -> Workload:
    """Five jobs on eight GPUs: a fit to the points of one class takes a fifth of a second."""
    return from_trace(3, 5, "2x4:A100")


def change(gpus: int, clock: int, *, packed: bool = True) -> Change:
    """An allocation."""
    return Change("x", 0, "A100", gpus, clock, 0.0, packed, True, 0.0, Reason(Why.STARTED, 0, gpus, 0.0, 0.0))


def off(table: CostTable, truth: CostTable) -> tuple[float, float]:
    """Mean absolute log error of step times and of powers where the job can run."""
    finite = np.isfinite(truth.step_time_s)
    times = np.abs(np.log(table.step_time_s[finite] / truth.step_time_s[finite]))
    watts = np.abs(np.log(table.power_w[finite] / truth.power_w[finite]))
    return float(times.mean()), float(watts.mean())


# -- sizes ------------------------------------------------------------------------------------------------------------


def test_sizes_known_unknown_and_mispredicted(workload: Workload) -> None:
    iterations = np.array([job.iterations for job in workload.jobs])
    assert [Sizes(workload)[j] for j in range(20)] == iterations.tolist()
    assert [Sizes(workload, "unknown")[j] for j in range(20)] == [None] * 20
    assert [Sizes(workload, "mispredicted:0")[j] for j in range(20)] == pytest.approx(iterations)


def test_mispredictions_are_lognormal_and_drawn_by_seed() -> None:
    many = from_trace(1, 1000)
    truth = np.array([job.iterations for job in many.jobs])

    def factors(text: str, seed: int) -> np.ndarray:
        believed = Sizes(many, text, seed).believed
        assert believed is not None
        return np.asarray(np.log(believed / truth))

    assert factors("mispredicted:0.5", 1).tolist() == factors("mispredicted:0.5", 1).tolist()
    assert factors("mispredicted:0.5", 1).tolist() != factors("mispredicted:0.5", 2).tolist()
    assert factors("mispredicted:0.5", 1).mean() == pytest.approx(0.0, abs=0.06)  # 4 sd of the mean
    assert factors("mispredicted:0.5", 1).std() == pytest.approx(0.5, rel=0.1)
    # the same draws, stretched: what σ does is not mixed up with luck
    assert factors("mispredicted:1.0", 1) == pytest.approx(2 * factors("mispredicted:0.5", 1))


@pytest.mark.parametrize(
    "text", ["", "guessed", "known:3", "unknown:1", "mispredicted:x", "mispredicted:-1", "mispredicted:nan"]
)
def test_sizes_that_are_no_words_of_ours(workload: Workload, text: str) -> None:
    with pytest.raises(InputError, match="--sizes"):
        Sizes(workload, text)


def test_a_belief_that_is_no_word_of_ours(workload: Workload) -> None:
    with pytest.raises(InputError, match="--belief: belief 'prophet' is unknown"):
        belief_named("prophet", workload)


def test_a_policy_that_needs_sizes_says_so(workload: Workload) -> None:
    blind = belief_named("oracle", workload, sizes="unknown")
    with pytest.raises(InputError, match="policy srtf needs the sizes of jobs"):
        Simulation(workload, load("srtf"), belief=blind)
    assert np.isfinite(simulate(workload, load("prices"), belief=blind).jobs.finish_s).all()


# -- costs ------------------------------------------------------------------------------------------------------------


def test_the_oracle_knows_the_truth(workload: Workload) -> None:
    belief = Oracle(workload)
    told = {(event.cost_class, event.gpu_type): event.table for event in belief.start()}
    assert told.keys() == workload.truth.keys()
    assert all(told[key] is workload.truth[key] for key in told)
    assert belief.exploration_s(workload.jobs[0], change(1, 0)) == 0.0
    assert belief.observe(workload.jobs[0], change(1, 0), 1e6) == ()


def test_fitted_is_near_the_truth_but_not_it_and_the_prior_is_far(workload: Workload) -> None:
    fitted = {event.cost_class: event.table for event in Fitted(workload, seed=1).start()}
    errors = np.array([off(fitted[name], truth) for (name, _), truth in workload.truth.items()])
    prior = {event.cost_class: event.table for event in Online(workload, seed=1).start()}
    wrong = np.array([off(prior[name], truth) for (name, _), truth in workload.truth.items()])
    assert (errors > 0).all()
    assert (errors.mean(axis=0) < 0.06).all()
    assert wrong.mean(axis=0)[0] > 2 * errors.mean(axis=0)[0]


def test_without_noise_fitted_is_the_truth_where_it_was_measured(few: Workload) -> None:
    clocks = three_clocks(7)
    for event in Fitted(few, noise=0.0).start():
        truth = few.truth[event.cost_class, "A100"]
        finite = np.isfinite(truth.step_time_s[:4, clocks])  # 1, 2, 4, 8 GPUs
        assert event.table.step_time_s[:4, clocks][finite] == pytest.approx(truth.step_time_s[:4, clocks][finite])
        assert event.table.power_w[:4, clocks][finite] == pytest.approx(truth.power_w[:4, clocks][finite])


def test_real_steps_are_measured_where_the_batch_changes() -> None:
    job = TraceJob("a", 0.0, 500.0, 2, model="cifar10", global_batch=256, batch_range=BatchRange(64, 4096, 8000.0))
    changing = build_workload(Trace("log.csv", "test", [job]), "2x4:A100", seed=5)
    ((name, _),) = changing.truth
    truth, axes = changing.truth[name, "A100"], changing.axes["A100"]
    row = list(axes.gpu_counts).index(8)
    progress = np.asarray(truth.progress)[row]
    assert progress > 1.5  # a larger batch than the own one
    seen = Laboratory(changing, 0.0, np.random.default_rng(0)).measure(name, "A100", row, 6, packed=True)
    assert seen.step_time_s == pytest.approx(truth.step_time_s[row, 6] * progress)
    assert seen.local_batch * seen.accumulation * 8 > 256
    for belief in (Fitted(changing, noise=0.0), Online(changing, noise=0.0)):
        (event,) = belief.start()
        assert event.table.step_time_s[:4] == pytest.approx(truth.step_time_s[:4], rel=0.5)
    (event,) = Fitted(changing, noise=0.0).start()  # it may take another batch that is as good
    assert event.table.step_time_s[:4, -1] == pytest.approx(truth.step_time_s[:4, -1], rel=0.05)


def test_another_seed_another_noise(few: Workload) -> None:
    def times(seed: int) -> bytes:
        return b"".join(event.table.step_time_s.tobytes() for event in Fitted(few, seed=seed).start())

    assert times(1) == times(1) != times(2)


def test_online_starts_from_the_priors(workload: Workload) -> None:
    for event in Online(workload).start():
        family, batch = event.cost_class.split("/")
        expected = tabulate(family_model(family, "A100"), workload.axes["A100"], int(batch))
        assert np.array_equal(event.table.step_time_s, expected.step_time_s)
        assert np.array_equal(event.table.power_w, expected.power_w)


def test_the_first_run_on_a_count_is_tried_out_at_three_clocks_and_paid_for(workload: Workload) -> None:
    belief, job = Online(workload, noise=0.0), workload.jobs[0]
    assert belief.exploration_s(job, change(1, 3)) == 3 * TRIAL_S
    (learned,) = belief.observe(job, change(1, 3), 0.0)
    assert belief.exploration_s(job, change(1, 3)) == 0.0
    assert belief.exploration_s(job, change(1, 0)) == 0.0  # its other clocks are known with it
    assert belief.exploration_s(job, change(2, 3)) == 3 * TRIAL_S
    assert belief.exploration_s(job, change(2, 3, packed=False)) == 3 * TRIAL_S
    # what was measured is believed, at all three clocks and at the one it runs at
    truth = workload.truth[job.cost_class, "A100"]
    tried = [0, 3, 6]
    assert learned.table.step_time_s[0, tried] == pytest.approx(truth.step_time_s[0, tried])
    assert learned.table.power_w[0, tried] == pytest.approx(truth.power_w[0, tried])


def test_a_short_stay_teaches_nothing(workload: Workload) -> None:
    belief, job = Online(workload), workload.jobs[0]
    belief.observe(job, change(1, 3), 0.0)
    assert belief.observe(job, change(1, 3), TRIAL_S / 2) == ()
    assert belief.observe(job, change(1, 3), TRIAL_S) != ()  # seen twice now: twice as often as at the last fit
    assert belief.observe(job, change(1, 3), TRIAL_S) == ()  # three times: not yet four


def test_online_comes_closer_to_the_truth_while_jobs_run(workload: Workload) -> None:
    belief = Online(workload, seed=2)
    simulation = Simulation(workload, load("prices"), belief=belief)
    (pool,) = simulation.scheduler.pools.values()

    def believed(job: Job) -> CostTable:
        step_time_s, power_w = pool.costs.arrays()
        row = pool.costs.row(job.cost_class)
        truth = workload.truth[job.cost_class, "A100"]
        return dataclasses.replace(truth, step_time_s=step_time_s[row], power_w=power_w[row])

    def errors() -> FloatArray:
        each = [off(believed(job), workload.truth[job.cost_class, "A100"]) for job in workload.jobs]
        return np.array(each).mean(axis=0)  # type: ignore[no-any-return]

    simulation.run(1)
    before = errors()
    simulation.run()
    after = errors()
    assert (after < before / 2).all(), f"{before} → {after}"


def test_exploring_costs_time(workload: Workload) -> None:
    one = from_trace(8, 1, "1x1:A100")
    plain = simulate(one, load("fifo"))
    paid = simulate(one, load("fifo"), belief=Online(one))
    assert paid.jobs.jct_s - plain.jobs.jct_s == pytest.approx([3 * TRIAL_S])


def test_beliefs_do_not_change_what_is_true(few: Workload) -> None:
    """FIFO asks for nothing that beliefs know: only exploring tells the runs apart."""
    world = World(pause_s=0.0)
    oracle = simulate(few, load("fifo"), world=world)
    fitted = simulate(few, load("fifo"), world=world, belief=Fitted(few))
    assert fitted.jobs.finish_s.tolist() == oracle.jobs.finish_s.tolist()
    assert fitted.metered_j == oracle.metered_j


def test_three_clocks_are_the_lowest_the_middle_and_the_highest() -> None:
    assert [three_clocks(n) for n in (1, 2, 3, 7)] == [[0], [0, 1], [0, 1, 2], [0, 3, 6]]


def test_a_fourth_clock_is_tried_and_paid_for_by_a_long_job_at_a_lower_clock(workload: Workload) -> None:
    job = dataclasses.replace(workload.jobs[0], iterations=1e6)
    long = dataclasses.replace(workload, jobs=(job,))
    belief = Online(long, noise=0.0)
    belief.observe(job, change(1, 3), 0.0)
    assert belief.exploration_s(job, change(1, 6)) == 0.0  # at the maximum clock it saves no energy
    assert belief.exploration_s(job, change(1, 3)) == TRIAL_S
    for _ in range(2):
        belief.observe(job, change(1, 3), 0.0)
    assert belief.exploration_s(job, change(1, 3)) == 0.0


@pytest.mark.parametrize("most", [0.07, 0.1, 0.2])  # at 5 % the reserve hardly leaves a lower clock
def test_while_it_learns_no_job_is_slowed_more_than_its_owner_allows(most: float) -> None:
    """Measurements are exact here; every second job has a limit, and the others try clocks freely."""
    every = from_trace(3, 16, "2x4:V100")
    limits = [most if position % 2 == 0 else math.inf for position in range(16)]
    jobs = [dataclasses.replace(job, max_slowdown=limit) for job, limit in zip(every.jobs, limits, strict=True)]
    workload = dataclasses.replace(every, jobs=tuple(jobs))
    policy, belief = with_rules(load("prices")), Online(workload, noise=0.0)
    ran = simulate(workload, policy, energy_price=1e-2, belief=belief).segments
    axes = workload.axes["V100"]
    slowed = []
    for job, gpus, clock_mhz in zip(ran.job.tolist(), ran.gpus.tolist(), ran.clock_mhz.tolist(), strict=True):
        if jobs[job].max_slowdown < math.inf:
            row, clock = np.searchsorted(axes.gpu_counts, gpus), np.searchsorted(axes.clocks_mhz, clock_mhz)
            step_s = workload.truth[jobs[job].cost_class, "V100"].step_time_s[row]
            slowed.append(step_s[clock] / step_s[-1] - 1.0)
    assert 0.0 < max(slowed) <= most + 1e-9
