"""Policies that give each job the GPUs it asked for, or none."""

from __future__ import annotations

import numpy as np

from powerflow.policy.fifo import Fifo
from powerflow.policy.gandiva import Gandiva
from powerflow.policy.qssf import Qssf
from powerflow.policy.srtf import Srtf
from powerflow.policy.tiresias import Tiresias
from tests.policy.views import given_gpus, make_view

# Perfect scaling: 8, 4, 2, 1 seconds per iteration on 1, 2, 4, 8 GPUs.
LINEAR = [[8.0, 4.0, 2.0, 1.0]]


def test_fifo_blocks_behind_the_first_that_does_not_fit() -> None:
    # 8 GPUs, job 0 holds 4. Job 1 asks for 8 and there are 4: it waits, and job 2 (one GPU) waits behind it.
    jobs = [{"requested": 4, "gpus": 4}, {"requested": 8, "arrival_s": 1}, {"requested": 1, "arrival_s": 2}]
    assert given_gpus(Fifo(), make_view(jobs, step_time_s=LINEAR, capacity=8)) == [4, 0, 0]
    # with 12 GPUs the big one starts (4 + 8 = 12) and the small one finds none left; with 13 all run
    assert given_gpus(Fifo(), make_view(jobs, step_time_s=LINEAR, capacity=12)) == [4, 8, 0]
    assert given_gpus(Fifo(), make_view(jobs, step_time_s=LINEAR, capacity=13)) == [4, 8, 1]


def test_fifo_goes_by_submission_not_by_size_and_does_not_preempt() -> None:
    # Two GPUs; the late job holds both. The earlier ones wait although they came first.
    jobs = [{"requested": 1}, {"requested": 1}, {"requested": 2, "gpus": 2, "arrival_s": 5}]
    assert given_gpus(Fifo(), make_view(jobs, step_time_s=LINEAR, capacity=2)) == [0, 0, 2]


def test_fifo_does_not_wait_for_nodes_that_may_never_come_back() -> None:
    # 4 GPUs are up: the first asks for 8 and stands aside, the second runs.
    jobs = [{"requested": 8}, {"requested": 4, "arrival_s": 1}]
    assert given_gpus(Fifo(), make_view(jobs, step_time_s=LINEAR, capacity=4)) == [0, 4]


def test_when_nodes_fail_the_first_submitted_keep_their_gpus() -> None:
    # 4 + 2 + 1 held, 5 up: 4 for job 0, 2 do not fit, 1 for job 2.
    jobs = [{"requested": 4, "gpus": 4}, {"requested": 2, "gpus": 2}, {"requested": 1, "gpus": 1}]
    assert given_gpus(Fifo(), make_view(jobs, step_time_s=LINEAR, capacity=5)) == [4, 0, 1]


def test_srtf_runs_the_shortest_and_passes_over_what_does_not_fit() -> None:
    # On what they asked for: job 0 100·1 = 100 s (8 GPUs), job 1 10·4 = 40 s (2), job 2 30·8 = 240 s (1),
    # job 3 5·8 = 40 s (1): 1 before 3 by id. 8 GPUs: 1 takes 2, 3 takes 1, 0 does not fit in 5, 2 takes 1.
    jobs = [
        {"requested": 8, "gpus": 8},
        {"requested": 2, "remaining": 10},
        {"requested": 1, "remaining": 30},
        {"requested": 1, "remaining": 5},
    ]
    assert given_gpus(Srtf(), make_view(jobs, step_time_s=LINEAR, capacity=8)) == [0, 2, 1, 1]


def test_a_request_off_the_table_or_out_of_reach_gets_the_nearest_smaller_count() -> None:
    # Class 0 runs on 1, 2, 4, 8; class 1 on 1 and 2 only; class 2 needs at least 4 (memory).
    times = [[8.0, 4.0, 2.0, 1.0], [8.0, 4.0, np.inf, np.inf], [np.inf, np.inf, 2.0, 1.0]]
    jobs = [
        {"requested": 7, "cost": 0},  # 7 is not in the table: 4
        {"requested": 8, "cost": 1},  # 8 and 4 are infeasible: 2
        {"requested": 1, "cost": 2},  # nothing smaller is feasible: the smallest that is, 4
        {"requested": 8, "cost": 0, "gpus_max": 2},  # its own bound: 2
        {"requested": 1, "cost": 1, "gpus_min": 4},  # no count at all: waits
    ]
    for policy in (Fifo(), Srtf()):
        assert given_gpus(policy, make_view(jobs, step_time_s=times, capacity=100)) == [4, 2, 4, 2, 0]


def test_qssf_orders_by_gpu_time_and_the_head_blocks() -> None:
    # GPU time on what they asked for: job 0 100·8·1 = 800 GPU-s, job 1 30·2·4 = 240, job 2 70·1·8 = 560.
    # 8 GPUs: 1 starts (4 left), 2 needs 8 and blocks 0 although a GPU is free for it. SRTF by time would rank 2 (70 s)
    # and 1 (60 s) before 0 (800 s) too, but pass over 2.
    jobs = [
        {"requested": 1, "remaining": 100},
        {"requested": 4, "remaining": 30},
        {"requested": 8, "remaining": 70},
    ]
    view = make_view(jobs, step_time_s=LINEAR, capacity=8)
    assert given_gpus(Qssf(), view) == [0, 4, 0]
    assert given_gpus(Srtf(), view) == [1, 4, 0]


def test_qssf_lets_run_what_runs() -> None:
    # The long job holds both GPUs; a shorter one waits for it.
    jobs = [{"requested": 2, "remaining": 1000, "gpus": 2}, {"requested": 1, "remaining": 1}]
    assert given_gpus(Qssf(), make_view(jobs, step_time_s=LINEAR, capacity=2)) == [2, 0]


def test_tiresias_serves_higher_queues_first_and_inside_them_who_came_first() -> None:
    # Queues that end at 3,600 and 36,000 GPU-s. Job 0 has had 40,000 (queue 2), job 1 5,000 (queue 1), job 2 3,599 and
    # job 3 nothing (queue 0): 2, 3, 1, 0. On 3 GPUs: 2 takes 1, 3 takes 1, 1 needs 2 and there is 1, 0 takes it.
    jobs = [
        {"attained_gpu_s": 40000, "gpus": 1},
        {"attained_gpu_s": 5000, "requested": 2, "gpus": 2, "arrival_s": 1},
        {"attained_gpu_s": 3599, "arrival_s": 2},
        {"arrival_s": 3},
    ]
    three = Tiresias(queues=(3600.0, 36000.0))
    assert given_gpus(three, make_view(jobs, step_time_s=LINEAR, capacity=3)) == [1, 0, 1, 1]
    assert given_gpus(three, make_view(jobs, step_time_s=LINEAR, capacity=2)) == [0, 0, 1, 1]
    # two queues, 16 h: all are in the first
    assert given_gpus(Tiresias(), make_view(jobs, step_time_s=LINEAR, capacity=2)) == [1, 0, 1, 0]


def test_tiresias_does_not_preempt_jobs_of_the_same_queue() -> None:
    # One queue for all. Job 0 was submitted first, asks for 4 and waits; jobs 1 and 2 run on 2 GPUs each.
    jobs = [{"requested": 4}, {"requested": 2, "gpus": 2, "arrival_s": 1}, {"requested": 2, "gpus": 2, "arrival_s": 2}]
    assert given_gpus(Tiresias(), make_view(jobs, step_time_s=LINEAR, capacity=4)) == [0, 2, 2]
    assert given_gpus(Tiresias(), make_view(jobs[:2], step_time_s=LINEAR, capacity=4)) == [0, 2]
    assert given_gpus(Tiresias(), make_view(jobs[:1], step_time_s=LINEAR, capacity=4)) == [4]
    # Jobs of a lower queue are preempted for it: 16 GPU-hours are 57,600 GPU-s.
    for job in jobs[1:]:
        job["attained_gpu_s"] = 57600
    assert given_gpus(Tiresias(), make_view(jobs, step_time_s=LINEAR, capacity=4)) == [4, 0, 0]


def test_tiresias_promotes_the_starving() -> None:
    # One GPU, queue 0 ends at 100 GPU-s. Job 0 ran 200 s and waits since 1,000 s; job 1 runs since then, for 399 s and
    # more. Both are in queue 1.
    jobs = [{"attained_gpu_s": 200, "since_s": 1000}, {"attained_gpu_s": 399, "since_s": 1000, "gpus": 1}]
    for now_s, promote, expected in (
        (1399.0, 2.0, [0, 1]),  # waited 399 s < 2·200 s
        (1400.0, 2.0, [1, 0]),  # waited 400 s: back in queue 0
        (1400.0, float("inf"), [0, 1]),  # nobody is promoted
    ):
        view = make_view(jobs, step_time_s=LINEAR, capacity=1, now_s=now_s)
        assert given_gpus(Tiresias(queues=100.0, promote=promote), view) == expected
    # It keeps that rank for 100 GPU-s of the run that began at 1,400 s, then sinks back to queue 1.
    jobs = [{"attained_gpu_s": 290, "since_s": 1400, "gpus": 1}, {"arrival_s": 1390, "since_s": 1400}]
    for now_s, expected in ((1499.0, [1, 0]), (1500.0, [0, 1])):
        view = make_view(jobs, step_time_s=LINEAR, capacity=1, now_s=now_s)
        assert given_gpus(Tiresias(queues=100.0, promote=2.0), view) == expected


def test_gandiva_takes_turns() -> None:
    # Two GPUs, slices of 60 s that end at 60, 120, …
    # Job 0 (2 GPUs) runs since 61 s, jobs 1 and 2 wait since 61 and 0 s.
    jobs = [{"requested": 2, "gpus": 2, "since_s": 61}, {"since_s": 61}, {"since_s": 0}]
    inside = make_view(jobs, step_time_s=LINEAR, capacity=2, now_s=119)
    assert given_gpus(Gandiva(), inside) == [2, 0, 0]
    over = make_view(jobs, step_time_s=LINEAR, capacity=2, now_s=120)
    assert given_gpus(Gandiva(), over) == [0, 1, 1]
    # With three GPUs, job 2 (waits longest) and job 1 choose first; one is left, too few for job 0.
    assert given_gpus(Gandiva(), make_view(jobs, step_time_s=LINEAR, capacity=3, now_s=120)) == [0, 1, 1]
    # At 4 s of pause a slice lasts 30·4 = 120 s, [0, 120): 61 s and 119 s lie in one, 61 s and 120 s do not.
    slow = [{**job, "pause_s": 4} for job in jobs]
    assert given_gpus(Gandiva(), make_view(slow, step_time_s=LINEAR, capacity=2, now_s=119)) == [2, 0, 0]
    assert given_gpus(Gandiva(), make_view(slow, step_time_s=LINEAR, capacity=2, now_s=120)) == [0, 1, 1]


def test_gandiva_lets_the_longest_waiting_gang_in() -> None:
    # Job 0 needs all four and waits since 5 s; the small ones, which hold them, have had their slice.
    jobs = [{"requested": 4, "since_s": 5}] + [{"gpus": 1, "since_s": 10} for _ in range(4)]
    assert given_gpus(Gandiva(), make_view(jobs, step_time_s=LINEAR, capacity=4, now_s=61)) == [4, 0, 0, 0, 0]


def test_gandiva_grows_into_idle_gpus_and_shrinks_back() -> None:
    # 8 GPUs, requests 1 and 2. The smallest grows first: 1→2 (5 left), then job 0 again (same size, lower row) 2→4
    # (3 left), job 1 2→4 (1 left); nobody can grow by one.
    jobs = [{"requested": 1}, {"requested": 2}]
    assert given_gpus(Gandiva(), make_view(jobs, step_time_s=LINEAR, capacity=8)) == [4, 4]
    # not beyond its own limit, nor beyond one node, nor where it would be slower
    bounded = [{"requested": 1, "gpus_max": 2}, {"requested": 2}]
    assert given_gpus(Gandiva(), make_view(bounded, step_time_s=LINEAR, capacity=16, gpus_per_node=4)) == [2, 4]
    peaked = make_view([{"requested": 1}], step_time_s=[[8.0, 5.0, 6.0, 1.0]], capacity=8)
    assert given_gpus(Gandiva(), peaked) == [2]
    # a third job with a request of 4: 4 + 2 + 1 ≤ 8, and everybody else is back at what they asked for
    jobs = [{"requested": 1, "gpus": 4}, {"requested": 2, "gpus": 4}, {"requested": 4}]
    assert given_gpus(Gandiva(), make_view(jobs, step_time_s=LINEAR, capacity=7)) == [1, 2, 4]
