"""Ranks of jobs whose sizes are uncertain."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.policy.expected_ranks import expected_ranks


def ranks(sizes: list[float], log_sds: list[float], weights: list[float] | None = None) -> list[float]:
    found: list[float] = expected_ranks(
        np.array(sizes), np.array(log_sds), np.array(weights or [1.0] * len(sizes))
    ).tolist()
    return found


def test_certain_sizes_have_the_ranks_of_known_sizes() -> None:
    # 10 < 20 < 30 with weights 1, 2, 3: 30 is larger than none but itself, 20 than 30: 2 + 3; 10: all 6.
    assert ranks([10.0, 30.0, 20.0], [0.0] * 3, [1.0, 3.0, 2.0]) == pytest.approx([6.0, 3.0, 5.0])


def test_each_of_two_unknown_sizes_is_the_larger_one_every_other_time() -> None:
    assert ranks([5.0, 5.0], [1.0, 1.0]) == pytest.approx([1.5, 1.5])


def test_probability_of_being_larger() -> None:
    # e^1 apart with standard deviations of 0.67 (steps of 0.4 in its logarithm): z = 1/(0.67·√2) = 1.055, Φ = 0.854.
    assert ranks([1.0, math.e], [0.67, 0.67]) == pytest.approx([1.854, 1.146], abs=0.01)


def test_a_job_that_can_run_nowhere_is_the_largest() -> None:
    assert ranks([math.inf, 10.0], [1.0, 0.1]) == pytest.approx([1.0, 2.0])


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), jobs=st.integers(0, 40))
def test_ranks_add_up_to_those_of_any_order(seed: int, jobs: int) -> None:
    """Of each pair exactly one is the larger: with weight 1 the ranks add up to J + J·(J − 1)/2."""
    rng = np.random.default_rng(seed)
    found = ranks(rng.lognormal(5, 3, jobs).tolist(), rng.uniform(0, 3, jobs).tolist())
    assert sum(found) == pytest.approx(jobs + jobs * (jobs - 1) / 2)
