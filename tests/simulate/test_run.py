"""The simulator on cases worked out by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from powerflow.cluster.spec import NodeGroup, build_cluster
from powerflow.cost.catalogue import gpu_type
from powerflow.errors import InputError
from powerflow.job import Job
from powerflow.policy.protocol import Allocation, View
from powerflow.policy.registry import BUILT_IN, load
from powerflow.simulate.run import simulate
from powerflow.simulate.workload.workload import alone_times
from powerflow.simulate.world import World
from tests.simulate.small import small_workload
from tests.simulate.workloads import CLOCKS_MHZ, FULL_W, HALF_W, IDLE_W, Script, by_hand, job

FULL, HALF = 1, 0


def test_one_job_alone_ends_at_iterations_times_step_time() -> None:
    result = simulate(by_hand([job("a", 100.0)]), load("fifo"))
    jobs = result.jobs
    assert jobs.finish_s.tolist() == [100 * 8.0]
    assert (jobs.start_s.tolist(), jobs.gpu_s.tolist(), jobs.rescales.tolist()) == ([0.0], [800.0], [0])
    assert jobs.energy_j.tolist() == [FULL_W * 800.0]
    assert result.idle_j == 7 * IDLE_W * 800.0
    assert result.metered_j == pytest.approx(FULL_W * 800 + 7 * IDLE_W * 800, rel=1e-12)
    assert (result.end_s, result.tail_w) == (800.0, 8 * IDLE_W)
    assert result.energy_over(1000.0) == pytest.approx(result.metered_j + 200 * 8 * IDLE_W)
    assert jobs.alone_s.tolist() == [800.0]


def test_time_begins_at_zero_also_before_the_first_job() -> None:
    result = simulate(by_hand([job("a", 100.0, submit_s=50.0)]), load("fifo"))
    assert result.jobs.jct_s.tolist() == [800.0]
    assert result.idle_j == pytest.approx(8 * IDLE_W * 50 + 7 * IDLE_W * 800)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_lone_job_that_can_use_one_gpu_ends_alike_under_every_policy(name: str) -> None:
    # greedy at its default threshold runs it at the clock of least energy: 10 s a step
    result = simulate(by_hand([job("a", 100.0, gpus_max=1)]), load(name))
    assert result.jobs.finish_s.tolist() == [1000.0 if name == "greedy" else 800.0]


def test_preempted_and_resumed_with_a_pause() -> None:
    # One GPU, shortest first. a needs 800 s; b comes at 100 s and needs 80 s: a steps back with 700 s to go.
    # b ends at 180 s; a stands still for 30 s, then runs 700 s: 910 s.
    workload = by_hand([job("a", 100.0), job("b", 10.0, submit_s=100.0)], "1x1:A100")
    result = simulate(workload, load("srtf"), world=World(pause_s=30.0))
    jobs = result.jobs
    assert jobs.finish_s.tolist() == [910.0, 180.0]
    assert jobs.start_s.tolist() == [0.0, 100.0]
    assert jobs.rescales.tolist() == [1, 0]
    assert jobs.gpu_s.tolist() == [100 + 730.0, 80.0]
    assert jobs.energy_j.tolist() == [FULL_W * 800 + IDLE_W * 30, FULL_W * 80]
    assert result.idle_j == 0.0
    segments = result.segments
    assert segments.job.tolist() == [0, 1, 0]
    assert segments.start_s.tolist() == [0.0, 100.0, 180.0]
    assert segments.end_s.tolist() == [100.0, 180.0, 910.0]
    assert segments.power_w.tolist() == [FULL_W, FULL_W, pytest.approx((FULL_W * 700 + IDLE_W * 30) / 730)]


def test_what_held_nothing_needs_time_to_start() -> None:
    # As above, and 5 s until a first step: b runs from 105 to 185 s; a stands still for 30 + 5 s.
    workload = by_hand([job("a", 100.0), job("b", 10.0, submit_s=100.0)], "1x1:A100")
    jobs = simulate(workload, load("srtf"), world=World(pause_s=30.0, start_s=5.0)).jobs
    assert jobs.start_s.tolist() == [0.0, 100.0]
    assert jobs.finish_s.tolist() == [185 + 35 + 705.0, 185.0]
    assert jobs.energy_j.tolist() == [FULL_W * 800 + IDLE_W * 40, FULL_W * 80 + IDLE_W * 5]


def test_a_gpu_stays_idle_until_the_next_decision_is_due() -> None:
    # As above, but b needs 40 s and ends at 140 s: the next decision is due at 160 s.
    workload = by_hand([job("a", 100.0), job("b", 5.0, submit_s=100.0)], "1x1:A100")
    result = simulate(workload, load("srtf"), world=World(pause_s=30.0))
    assert result.jobs.finish_s.tolist() == [160 + 30 + 700.0, 140.0]
    assert result.idle_j == IDLE_W * 20
    timeline = result.timeline
    columns = (timeline.time_s, timeline.busy_gpus, timeline.running, timeline.waiting, timeline.power_w)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    for row in (
        (0.0, 1, 1, 0, FULL_W),
        (100.0, 1, 1, 1, FULL_W),
        (140.0, 0, 0, 1, IDLE_W),
        (160.0, 1, 1, 0, IDLE_W),
        (190.0, 1, 1, 0, FULL_W),
        (890.0, 0, 0, 0, IDLE_W),
    ):
        assert row in rows
    assert np.isnan(timeline.clock_mhz).tolist() == (timeline.busy_gpus == 0).tolist()


def test_growing_costs_a_pause_and_idle_power() -> None:
    # 50 of 100 iterations in 400 s on one GPU; then eight GPUs: 30 s of pause at idle power, 50 s of work.
    script = Script(lambda now_s: {0: (1, FULL) if now_s < 400 else (8, FULL)}, period_s=100.0)
    result = simulate(by_hand([job("a", 100.0)]), script, world=World(pause_s=30.0))
    assert result.jobs.finish_s.tolist() == [480.0]
    assert result.jobs.energy_j.tolist() == [FULL_W * 400 + 8 * IDLE_W * 30 + 8 * FULL_W * 50]
    assert result.jobs.rescales.tolist() == [1]
    assert result.idle_j == 7 * IDLE_W * 400


def test_a_job_that_grows_trains_on_while_its_new_ranks_start() -> None:
    # It starts for 24 s, and does 47 iterations in 376 s on one GPU. Its new ranks start for 24 s, in which it does
    # 3 more; 30 s of pause; 50 s of work on eight.
    script = Script(lambda now_s: {0: (1, FULL) if now_s < 400 else (8, FULL)}, period_s=100.0)
    jobs = simulate(by_hand([job("a", 100.0)]), script, world=World(pause_s=30.0, start_s=24.0)).jobs
    assert jobs.finish_s.tolist() == pytest.approx([400.0 + 24.0 + 30.0 + 50.0])


def test_a_clock_changes_without_a_pause() -> None:
    # Half the work at full clock in 400 s, the other half at half clock, a quarter slower: 500 s.
    script = Script(lambda now_s: {0: (1, FULL if now_s < 400 else HALF)}, period_s=100.0)
    result = simulate(by_hand([job("a", 100.0)], "1x1:A100"), script)
    assert result.jobs.finish_s.tolist() == [900.0]
    assert result.jobs.energy_j.tolist() == [FULL_W * 400 + HALF_W * 500]
    assert result.jobs.rescales.tolist() == [0]
    assert set(result.timeline.clock_mhz[:-1]) == set(CLOCKS_MHZ)


def test_a_clock_that_changes_during_a_pause_does_not_lengthen_it() -> None:
    # Grown at 100 s, pausing until 250 s; reclocked at 200 s. 87.5 iterations are left, 1.25 s each at half clock.
    def script(now_s: float) -> dict[int, tuple[int, int]]:
        return {0: (1, FULL) if now_s < 100 else (8, FULL) if now_s < 200 else (8, HALF)}

    result = simulate(by_hand([job("a", 100.0)]), Script(script, period_s=100.0), world=World(pause_s=150.0))
    assert result.jobs.finish_s.tolist() == [pytest.approx(250 + 87.5 * 1.25)]
    assert result.jobs.energy_j.tolist() == [pytest.approx(FULL_W * 100 + 8 * IDLE_W * 150 + 8 * HALF_W * 87.5 * 1.25)]


def test_a_job_shrunk_in_the_middle_of_its_pause_pauses_anew() -> None:
    # Grown at 100 s, to stand still until 250 s; at 200 s shrunk to 4: until 350 s, then 87.5 iterations of 2 s.
    def script(now_s: float) -> dict[int, tuple[int, int]]:
        return {0: (1 if now_s < 100 else 8 if now_s < 200 else 4, FULL)}

    result = simulate(by_hand([job("a", 100.0)]), Script(script, period_s=100.0), world=World(pause_s=150.0))
    assert result.jobs.finish_s.tolist() == [350 + 87.5 * 2]
    assert result.jobs.gpu_s.tolist() == [100 + 8 * 100 + 4 * 325.0]
    assert result.jobs.rescales.tolist() == [2]


@pytest.mark.parametrize(("pause_s", "e_ends_s", "b_ends_s"), [(3000.0, 80 + 600, 800), (0.0, 80 + 400, 800)])
def test_a_job_on_more_nodes_than_it_needs_is_slower(pause_s: float, e_ends_s: float, b_ends_s: float) -> None:
    # Two nodes of 2: a and b take one, c and d the other. a and c end at 80 s, which leaves one GPU free on each. If b
    # would stand still for long, e gets both, and takes 6 s a step instead of 4; if b moves for nothing, it does.
    jobs = [job(name, work, gpus_max=1) for name, work in (("a", 10), ("b", 100), ("c", 10), ("d", 100))]
    jobs += [job("e", 100, gpus=2, gpus_min=2, gpus_max=2)]
    result = simulate(by_hand(jobs, "2x2:A100"), load("fifo"), world=World(pause_s=pause_s))
    assert result.jobs.start_s[4] == 80.0
    assert result.jobs.finish_s[[1, 4]].tolist() == [b_ends_s, e_ends_s]


def test_jobs_of_one_moment_and_jobs_without_work() -> None:
    jobs = [job("a", 10.0), job("nothing", 0.0), job("b", 10.0)]
    result = simulate(by_hand(jobs), load("fifo"))
    assert result.jobs.finish_s.tolist() == [80.0, 0.0, 80.0]
    assert result.jobs.gpu_s.tolist() == [80.0, 0.0, 80.0]


def test_every_node_of_a_cluster_and_pool_counts_as_idle() -> None:
    workload = by_hand([job("a", 100.0, gpu_type="A100")], "1x4:A100+2x2:T4")
    result = simulate(workload, load("fifo"))
    assert result.idle_j == pytest.approx((3 * IDLE_W + 4 * gpu_type("T4").idle_w) * 800)


# -- nodes that sleep -------------------------------------------------------------------------------------------------


def test_an_empty_node_sleeps_and_a_job_waits_until_it_is_awake() -> None:
    # Two nodes of one GPU, host 300 W, asleep 20 W, 100 s to wake. a runs on one for 800 s. The other stands empty
    # until idling has cost what waking costs, p = 100·(300 + I)/(280 + I) seconds, and sleeps. b comes at 500 s, holds
    # it from then, runs from 600 to 680 s; p later the node sleeps again.
    group = NodeGroup("A100", 2, 1, idle_w=300.0, can_sleep=True, sleep_w=20.0, wake_s=100.0)
    plain = by_hand([job("a", 100.0, gpus_max=1), job("b", 10.0, 500.0, gpus_max=1)], "2x1:A100")
    workload = dataclasses.replace(plain, cluster=build_cluster([group], source="test"))
    result = simulate(workload, load("fifo"))
    jobs, awake_w = result.jobs, 300 + IDLE_W
    p_s = 100 * awake_w / (awake_w - 20)
    assert jobs.start_s.tolist() == [0.0, 500.0]
    assert jobs.finish_s.tolist() == [800.0, 680.0]
    assert jobs.energy_j.tolist() == [FULL_W * 800, IDLE_W * 100 + FULL_W * 80]
    host_j = 300 * 800
    other_j = awake_w * p_s + 20 * (500 - p_s) + 300 * 180 + awake_w * p_s + 20 * (120 - p_s)
    assert result.idle_j == pytest.approx(host_j + other_j)
    assert result.metered_j == pytest.approx(result.idle_j + jobs.energy_j.sum(), rel=1e-9)
    assert result.tail_w == 40.0


# -- node failures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 8, 17])
def test_work_since_the_last_checkpoint_is_lost_with_a_node(seed: int) -> None:
    # One node. When it breaks is drawn; what follows from that moment is worked out here.
    world = World(pause_s=30.0, checkpoint_s=1000.0, node_mtbf_h=4.0, node_repair_h=2.0)
    result = simulate(by_hand([job("a", 2000.0, gpus_max=1)], "1x1:A100"), load("fifo"), world=world, seed=seed)
    segments = result.segments
    assert len(segments.job) >= 2, "seeds are chosen so that something breaks"
    start_s, done = 0.0, 0.0
    for i in range(len(segments.job) - 1):
        assert segments.start_s[i] == start_s
        paused_s = 30.0 if i else 0.0
        ran_s = max(0.0, segments.end_s[i] - start_s - paused_s)
        done += math.floor(ran_s / 1000) * 1000 / 8
        start_s = segments.end_s[i] + 2 * 3600
    assert segments.start_s[-1] == start_s
    assert result.jobs.finish_s[0] == pytest.approx(start_s + 30 + (2000 - done) * 8)
    assert result.jobs.rescales.tolist() == [len(segments.job) - 1]
    # a broken node draws nothing
    broken = result.timeline.power_w[np.isin(result.timeline.time_s, segments.end_s[:-1])]
    assert (broken == 0).all()


class WhenUp(Script):
    """A script that waits while nothing is up."""

    def decide(self, view: View) -> Allocation:
        """As the script says, or nothing."""
        return super().decide(view) if view.capacity else view.nothing()


def test_a_change_of_clock_is_no_checkpoint() -> None:
    # One node, a checkpoint an hour. It breaks (seed 12) at 1,094 s: all work is lost, at whatever clock it was done,
    # and takes 500 × 8 s again.
    world = World(pause_s=0.0, checkpoint_s=3600.0, node_mtbf_h=1.0, node_repair_h=1.0)
    workload = by_hand([job("a", 500.0, gpus_max=1)], "1x1:A100")
    steady = WhenUp(lambda _: {0: (1, FULL)}, period_s=100.0)
    wavering = WhenUp(lambda now_s: {0: (1, HALF if 500 <= now_s < 600 else FULL)}, period_s=100.0)
    for script, stretches in ((steady, 2), (wavering, 4)):
        result = simulate(workload, script, world=world, seed=12)
        assert len(result.segments.end_s) == stretches
        broke_s = result.segments.end_s[-2]
        assert 600 < broke_s < 3600
        assert result.jobs.finish_s[0] == pytest.approx(broke_s + 3600 + 4000)


def test_a_checkpoint_falls_due_across_a_change_of_clock() -> None:
    # The same with a checkpoint every 800 s of running: the one at 800 s is what is left. By then 62.5 iterations were
    # done at full clock, 10 at half clock (500 to 600 s), 25 at full clock again.
    world = World(pause_s=0.0, checkpoint_s=800.0, node_mtbf_h=1.0, node_repair_h=1.0)
    workload = by_hand([job("a", 500.0, gpus_max=1)], "1x1:A100")
    wavering = WhenUp(lambda now_s: {0: (1, HALF if 500 <= now_s < 600 else FULL)}, period_s=100.0)
    result = simulate(workload, wavering, world=world, seed=12)
    broke_s = result.segments.end_s[2]
    assert 800 < broke_s < 1600
    assert result.jobs.finish_s[0] == pytest.approx(broke_s + 3600 + (500 - 97.5) * 8)


def test_nodes_that_break_and_come_back_at_once() -> None:
    world = World(checkpoint_s=100.0, node_mtbf_h=0.5, node_repair_h=0.0)
    result = simulate(by_hand([job("a", 2000.0)], "2x4:A100"), load("prices"), world=world, seed=1)
    assert np.isfinite(result.jobs.finish_s).all()
    assert result.jobs.rescales[0] > 0


# -- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"pause_s": -1.0},
        {"pause_s": math.nan},
        {"pause_s": math.inf},
        {"checkpoint_s": 0.0},
        {"checkpoint_s": math.nan},
        {"node_mtbf_h": 0.0},
        {"node_mtbf_h": -3.0},
        {"node_mtbf_h": math.nan},
        {"node_repair_h": -1.0},
        {"node_repair_h": math.inf},
        {"interval_s": -60.0},
        {"interval_s": math.nan},
    ],
)
def test_an_impossible_world_is_refused_by_name(fields: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(fields))} is "):
        World(**fields)


def test_a_workload_without_jobs_is_refused() -> None:
    with pytest.raises(InputError, match="no jobs to simulate"):
        simulate(by_hand([]), load("fifo"))


def test_a_job_larger_than_the_cluster_is_refused() -> None:
    with pytest.raises(InputError, match="job b can run on no GPU count from 16 to 16"):
        simulate(by_hand([job("a", 1.0), job("b", 1.0, gpus_min=16, gpus_max=16)]), load("fifo"))
    with pytest.raises(InputError, match="job a can run on no GPU count"):
        simulate(by_hand([job("a", 1.0, gpu_type="T4")]), load("fifo"))
    with pytest.raises(InputError, match="job a can run on no GPU count"):
        simulate(by_hand([job("a", 1.0, cost_class="unheard of")]), load("fifo"))


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        ([job("a", math.nan)], "job a has nan iterations"),
        ([job("a", math.inf)], "job a has inf iterations"),
        ([job("a", -1.0)], "job a has -1 iterations"),
        ([job("a", 1.0, submit_s=-5.0)], "job a is submitted at -5 s"),
        ([job("a", 1.0, submit_s=math.nan)], "job a is submitted at nan s"),
        (
            [job("a", 1.0, submit_s=9.0), job("b", 1.0, submit_s=3.0)],
            "at 3 s, the one before at 9 s",
        ),
        ([job("a", 1.0), job("a", 2.0)], "two jobs are called 'a'"),
        ([job("a", 1.0, weight=0.0)], "job a has weight 0"),
        ([job("a", 1.0, weight=math.nan)], "job a has weight nan"),
    ],
)
def test_jobs_that_cannot_be_are_refused_by_name(jobs: list[Job], words: str) -> None:
    with pytest.raises(InputError, match=words):
        simulate(by_hand(jobs), load("optimus"))


@pytest.mark.parametrize("price", [-1.0, math.nan, math.inf])
def test_an_impossible_energy_price_is_refused(price: float) -> None:
    with pytest.raises(InputError, match="energy price is"):
        simulate(by_hand([job("a", 1.0)]), load("prices"), energy_price=price)


@pytest.mark.parametrize("period_s", [None, 60.0])
def test_a_policy_that_never_starts_a_job_is_an_error_not_an_endless_loop(period_s: float | None) -> None:
    idle = Script(lambda _: {0: (1, FULL)}, period_s)
    with pytest.raises(InputError, match=r"policy script leaves 1 jobs waiting for ever \(first: b\)") as error:
        simulate(by_hand([job("a", 10.0), job("b", 10.0)]), idle)
    assert error.value.exit_code == 1


def test_nor_is_it_endless_when_nodes_come_and_go() -> None:
    world = World(node_mtbf_h=10.0)
    with pytest.raises(InputError, match="waiting for ever"):
        simulate(by_hand([job("a", 10.0)]), Script(lambda _: {}), world=world)


def test_alone_is_on_the_gpus_asked_for() -> None:
    workload = by_hand([job("a", 100.0, gpus=4), job("b", 100.0, gpus=3)])
    assert alone_times(workload).tolist() == [200.0, 400.0]
    # it cannot run on one GPU: two are the fewest
    larger = by_hand([job("a", 100.0)], step_s=(math.inf, 4.0, 2.0, 1.0))
    assert alone_times(larger)[0] == 400.0


def test_a_policy_that_never_lets_anything_get_done_is_found_out() -> None:
    # One and two GPUs in turn every 60 s, with a pause of 100 s: the job holds GPUs for ever and saves nothing.
    class Restless:
        name: str = "restless"
        needs_sizes: bool = False
        period_s: float | None = 60.0

        def decide(self, view: View) -> Allocation:
            answer = view.nothing()
            answer.gpus[:] = np.where(view.jobs["gpus"] == 1, 2, 1)
            return answer

    with pytest.raises(InputError, match="restless leaves 1 jobs waiting for ever"):
        simulate(by_hand([job("a", 1e6, gpus_max=2)]), Restless(), world=World(pause_s=100.0))


def test_time_stops_only_where_something_happens() -> None:
    # Without a least time between decisions nothing but jobs makes time stop: they arrive, get or give GPUs, or end a
    # pause. When a job would have ended that was stopped before is no such moment.
    result = simulate(small_workload(0), load("prices"), world=World(pause_s=30.0, interval_s=0.0))
    assert result.jobs.rescales.sum() > 0
    starts, ends = result.segments.start_s, result.segments.end_s
    happens = set(np.concatenate([result.jobs.submit_s, starts, starts + 30.0, ends]).tolist())
    assert set(result.timeline.time_s.tolist()) <= happens
