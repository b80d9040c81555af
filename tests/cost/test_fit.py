"""Fits find what is there, say what they could not tell, and stay optimistic about what nobody saw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.cost.catalogue import families, family_model
from powerflow.cost.fit import fit
from powerflow.cost.model import JobModel, gpu_power, step_time
from powerflow.cost.observation import Observation
from powerflow.errors import InputError
from tests.cost.jobs import TRUTH, observed
from tests.slow import examples

CLOCKS = (765.0, 1147.5, 1530.0)
WIDE = [(n, nodes, b, 1530.0) for n, nodes in ((1, 1), (2, 1), (4, 1), (8, 2), (16, 4)) for b in (4, 16, 64)]
WIDE += [(1, 1, b, clock) for b in (16, 64) for clock in CLOCKS]


def off(fitted: JobModel, truth: JobModel, where: tuple[object, ...]) -> float:
    """Largest relative error of a fitted step time over some configurations."""
    return float(np.max(np.abs(step_time(fitted.throughput, *where) / step_time(truth.throughput, *where) - 1)))  # type: ignore[arg-type]


def test_exact_points_give_the_model_back_where_nobody_looked() -> None:
    found = fit(observed(TRUTH, WIDE))
    unseen = (np.array([2, 4, 8]), np.array([32, 8, 24]), np.array([1, 2, 1]), 1300.0, np.array([False, False, True]))
    assert off(found.model, TRUTH, unseen) < 0.02
    assert found.frozen == ()
    watts = gpu_power(found.model.throughput, found.model.power, *unseen)
    np.testing.assert_allclose(watts, gpu_power(TRUTH.throughput, TRUTH.power, *unseen), rtol=0.03)
    assert found.time.mean < 0.01
    assert found.held_out_time is not None
    assert found.held_out_time.points == len(WIDE)
    assert found.held_out_time.mean < 0.05


def test_noise_shows_in_the_spread() -> None:
    quiet = fit(observed(TRUTH, WIDE * 3, noise=0.02))
    loud = fit(observed(TRUTH, WIDE * 3, noise=0.15))
    assert 0.015 < quiet.time_sd < 0.06 < 0.1 < loud.time_sd < 0.25
    assert quiet.power_sd < loud.power_sd


def test_one_gpu_alone_leaves_scaling_perfect_and_says_so() -> None:
    found = fit(observed(TRUTH, [(1, 1, 16, 1530.0), (1, 1, 32, 1530.0), (1, 1, 64, 1530.0)]))
    alone = step_time(found.model.throughput, 1, 32, 1, 1530.0, False)
    for n, crosses in ((2, False), (8, False), (64, True)):
        assert step_time(found.model.throughput, n, 32, 1, 1530.0, crosses) == pytest.approx(alone, rel=1e-6)
    for name in ("kappa", "node_alpha_s", "cross_alpha_s", "gamma", "sync_share", "h_cubic"):
        assert name in found.frozen
    assert "beta_s" not in found.frozen


def test_across_nodes_is_taken_to_cost_no_more_than_inside_until_seen() -> None:
    found = fit(observed(TRUTH, [(n, 1, b, 1530.0) for n in (1, 2, 4) for b in (8, 64)])).model.throughput
    assert (found.cross_alpha_s, found.cross_beta_s) == (found.node_alpha_s, found.node_beta_s)


def test_a_prior_fills_in_what_points_do_not_tell() -> None:
    prior = family_model("imagenet", "V100")
    slower = replace(
        prior,
        throughput=replace(prior.throughput, alpha_s=2 * prior.throughput.alpha_s, beta_s=2 * prior.throughput.beta_s),
    )
    found = fit(observed(slower, [(1, 1, 100, 1530.0)] * 3), prior)
    for batch in (25, 100, 200):  # one batch size was seen; the prior's shape carries it to others
        where = (1, batch, 1, 1530.0, False)
        assert step_time(found.model.throughput, *where) == pytest.approx(step_time(slower.throughput, *where), rel=0.1)
    assert found.model.throughput.cross_alpha_s == prior.throughput.cross_alpha_s
    assert found.model.throughput.kappa == prior.throughput.kappa
    assert found.model.local_batch_max == prior.local_batch_max


def test_exact_points_of_the_prior_leave_it_where_it_is() -> None:
    prior = family_model("bert", "V100")
    found = fit(observed(prior, WIDE), prior)
    everywhere = (np.array([1, 4, 16]), 16, 1, 1000.0, np.array([False, False, True]))
    assert off(found.model, prior, everywhere) < 1e-3


def test_a_warm_start_ends_where_a_cold_one_does() -> None:
    points = observed(TRUTH, WIDE, noise=0.03)
    cold = fit(points, folds=0).model
    warm = fit(points, start=cold, folds=0).model
    everywhere = (np.array([1, 4, 16]), 16, 1, 1000.0, np.array([False, False, True]))
    assert off(warm, cold, everywhere) < 0.01


def test_one_outlier_does_not_bend_the_rest() -> None:
    points = observed(TRUTH, WIDE)
    points[4] = replace(points[4], step_time_s=10 * points[4].step_time_s)
    found = fit(points, folds=0).model
    unseen = (np.array([1, 2, 8]), np.array([32, 32, 24]), 1, 1530.0, np.array([False, False, True]))
    assert off(found, TRUTH, unseen) < 0.15


def test_no_power_measured_keeps_the_prior_power() -> None:
    prior = family_model("bert", "V100")
    blind = [replace(point, power_w=None) for point in observed(prior, WIDE)]
    found = fit(blind, prior)
    assert found.model.power == prior.power
    assert found.power is None
    assert found.held_out_power is None
    assert "active_w" in found.frozen


def test_few_points_are_not_judged_on_points_left_out() -> None:
    found = fit(observed(TRUTH, [(1, 1, 16, 1530.0), (2, 1, 8, 1530.0)]))
    assert found.held_out_time is None
    assert found.time_sd >= 0.04


@pytest.mark.parametrize(
    ("points", "what"),
    [
        ([], "no observations"),
        ([Observation("a", "V100", 1, 8, 0.5), Observation("b", "V100", 1, 8, 0.5)], "a on V100 and b on V100"),
        ([Observation("a", "V100", 1, 8, 0.5), Observation("a", "T4", 1, 8, 0.5)], "a on V100 and a on T4"),
    ],
)
def test_points_that_do_not_belong_together_are_refused(points: list[Observation], what: str) -> None:
    with pytest.raises(InputError, match=what):
        fit(points)


@settings(max_examples=examples(25), deadline=None)
@given(
    st.lists(
        st.builds(
            Observation,
            model=st.just("any"),
            gpu_type=st.just("A100"),
            gpus=st.sampled_from([1, 2, 3, 8]),
            local_batch=st.integers(1, 2048),
            step_time_s=st.floats(1e-5, 1e4),
            accumulation=st.integers(1, 8),
            clock_mhz=st.none() | st.floats(210, 1410),
            power_w=st.none() | st.floats(1, 5000),
        ),
        min_size=1,
        max_size=6,
    ),
    st.none() | st.sampled_from(families()),
)
def test_whatever_was_measured_the_model_is_one(points: list[Observation], prior: str | None) -> None:
    found = fit(points, None if prior is None else family_model(prior, "A100"), folds=2)
    everywhere = (np.array([1, 2, 8, 64]), 64, 2, 900.0, np.array([False, False, False, True]))
    times = step_time(found.model.throughput, *everywhere)
    watts = gpu_power(found.model.throughput, found.model.power, *everywhere)
    assert np.all(np.isfinite(times))
    assert np.all(times > 0)
    assert np.all(np.isfinite(watts))
    assert np.all(watts >= 0)
    assert found.time_sd > 0
    assert found.power_sd > 0


def test_three_clocks_show_a_knee() -> None:
    """Memory limits the job down to 1,100 MHz, below that the clock does."""
    clocks = (765.0, 900.0, 1140.0, 1335.0, 1530.0)
    times_s = [max(0.9, 0.9 * 1100.0 / clock) for clock in clocks]
    points = [
        Observation("job", "V100", 1, 1, time_s, clock_mhz=clock, power_w=100.0 + clock / 10)
        for clock, time_s in zip(clocks, times_s, strict=True)
    ]
    found = fit([points[0], points[2], points[4]], folds=0)
    assert found.model.throughput.knee > 3.0
    assert "knee" not in found.frozen
    predicted = step_time(found.model.throughput, 1, 1, 1, np.array(clocks), 0)
    assert predicted == pytest.approx(times_s, rel=0.03)
    two = fit([points[0], points[4]], folds=0)
    assert two.model.throughput.knee == 1.0
    assert "knee" in two.frozen
