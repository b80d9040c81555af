"""The global batch that trains fastest, where the owner allows another one than the job's own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.cost.batch_range import BatchRange, progress
from powerflow.cost.catalogue import families, family_model
from powerflow.cost.goodput import tabulate_best
from powerflow.cost.learn import Learner
from powerflow.cost.table import Axes
from powerflow.cost.tabulate import tabulate
from powerflow.errors import InputError
from tests.cost.jobs import JOB

AXES = Axes("V100", 4, np.array([1, 2, 4, 8, 16]), np.array([765.0, 1147.5, 1530.0]))


def test_progress_by_hand() -> None:
    # φ = 300: at 100 a sample is worth 400/400, at 200 it is worth 400/500, at 500 400/800
    assert progress(300.0, 100, 100) == 1.0
    assert progress(300.0, 100, 200) == pytest.approx(2 * 0.8)
    assert progress(300.0, 100, 500) == pytest.approx(5 * 0.5)
    assert progress(300.0, 100, 50) == pytest.approx(0.5 * 400 / 350)
    assert progress(0.0, 100, 800) == pytest.approx(1.0)  # no noise: eight times the samples train no more


def test_the_best_batch_by_hand() -> None:
    # batches 64 and 128 only; a pass of b samples takes 0.1 + 0.01·b s, γ = 1 adds the synchronising
    table = tabulate_best(JOB, AXES, 64, BatchRange(64, 128, 320.0))
    worth = progress(320.0, 64, 128)  # 2 · 384/448 = 1.714
    # one GPU: 64 takes 0.74 s; 128 takes two passes, 1.48 s, for 1.714: slower
    assert (table.local_batch[0], table.accumulation[0]) == (64, 1)
    assert table.step_time_s[0, -1] == pytest.approx(0.74)
    # sixteen GPUs, four nodes: 64 is 4 each, 0.14 + 0.3 + 14·0.05 = 1.14; 128 is 8 each, 1.18, for 1.714
    assert (table.local_batch[4], table.accumulation[4]) == (8, 1)
    assert table.step_time_s[4, -1] == pytest.approx(1.18 / worth)
    assert np.asarray(table.progress)[[0, 4]] == pytest.approx([1.0, worth])
    # watts are those at the batch in use, and joules those of the same progress
    real = tabulate(JOB, AXES, 128)
    np.testing.assert_array_equal(table.power_w[4], real.power_w[4])
    assert table.energy_j()[4] == pytest.approx(real.energy_j()[4] / worth)
    assert table.spread_step_time_s[4] == pytest.approx(real.spread_step_time_s[4] / worth)


def test_more_gpus_than_own_samples_run_at_a_larger_batch() -> None:
    own, best = tabulate(JOB, AXES, 4), tabulate_best(JOB, AXES, 4, BatchRange(4, 64, 1000.0))
    np.testing.assert_array_equal(np.isfinite(own.step_time_s[:, 0]), [True, True, True, False, False])
    assert np.isfinite(best.step_time_s).all()


def test_nothing_changes_where_the_owner_allows_nothing() -> None:
    plain = tabulate(JOB, AXES, 200)
    for allowed in (None, BatchRange(200, 200, 1e4)):
        same = tabulate_best(JOB, AXES, 200, allowed)
        for field in ("step_time_s", "spread_step_time_s", "power_w", "local_batch", "accumulation"):
            np.testing.assert_array_equal(getattr(same, field), getattr(plain, field))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(families()),
    st.integers(1, 4096),
    st.integers(1, 16),
    st.integers(1, 16),
    st.floats(0.0, 1e6),
)
def test_a_free_choice_is_never_slower_and_never_better_than_its_noise_allows(
    name: str, own: int, less: int, more: int, noise: float
) -> None:
    model = family_model(name, "V100")
    allowed = BatchRange(max(1, own // less), own * more, noise)
    plain, best = tabulate(model, AXES, own), tabulate_best(model, AXES, own, allowed)
    assert np.all(best.step_time_s[:, -1] <= plain.step_time_s[:, -1])
    assert np.all(best.spread_step_time_s >= best.step_time_s)
    worth = np.asarray(best.progress)
    assert np.all(worth <= (noise + own) / own + 1e-9)
    assert np.all((worth >= allowed.least / own - 1e-9) & (worth <= more + 1e-9))
    wider = tabulate_best(model, AXES, own, BatchRange(allowed.least, allowed.most, noise + 1e6))
    larger = best.local_batch * best.accumulation > plain.local_batch * plain.accumulation
    # where a larger batch was best, more noise makes it worth still more
    assert np.all(wider.step_time_s[larger, -1] <= best.step_time_s[larger, -1] * (1 + 1e-9))


def test_a_learner_keeps_the_allowed_batches() -> None:
    allowed = BatchRange(64, 512, 1000.0)
    learner = Learner({"V100": AXES})
    learner.expect("a class", "V100", JOB, 64, allowed)
    learned = learner.table("a class", "V100")
    np.testing.assert_array_equal(learned.step_time_s, tabulate_best(JOB, AXES, 64, allowed).step_time_s)


@pytest.mark.parametrize(
    ("least", "most", "noise", "what"),
    [
        (0, 8, 1.0, "global batches from 0 to 8"),
        (9, 8, 1.0, "from 9 to 8"),
        (1, 8, -1.0, "noise scale -1"),
        (1, 8, float("nan"), "noise scale nan"),
    ],
)
def test_impossible_ranges_are_refused(least: int, most: int, noise: float, what: str) -> None:
    with pytest.raises(InputError, match=what):
        BatchRange(least, most, noise)


def test_an_own_batch_outside_the_range_is_refused() -> None:
    with pytest.raises(InputError, match="global batch 32 is not from 64 to 128"):
        tabulate_best(JOB, AXES, 32, BatchRange(64, 128, 1.0))
