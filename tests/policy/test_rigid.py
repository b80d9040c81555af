"""Policies that give each job the GPUs it asked for, or none."""

from __future__ import annotations

import numpy as np

from powerflow.policy.fifo import Fifo
from powerflow.policy.srtf import Srtf
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
