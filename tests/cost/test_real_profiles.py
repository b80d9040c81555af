"""Targets of `benchmarks.fit_profiles`, on the measured profiles beside the checkout."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks import fit_profiles, make_catalogue, profiles

from powerflow.cost.catalogue import family_model

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not profiles.PROFILES.is_dir(), reason=f"no profiles at {profiles.PROFILES}"),
]

#: The applications with the fewest points: the whole set takes the benchmark, not a test.
FEW = ("bert", "yolov3")


def test_v100_clocks_from_three() -> None:
    assert all(result.passes for result in fit_profiles.v100_clocks())


def test_pollux_placements_left_out() -> None:
    results = fit_profiles.pollux_placements(FEW)
    assert [r.what for r in results if r.passes] == list(FEW)


def test_t4_tables_left_out() -> None:
    results = fit_profiles.t4_tables(FEW)
    assert [r.what for r in results if r.passes] == list(FEW)


def test_yolov3_is_as_right_on_two_nodes_as_elsewhere() -> None:
    model = family_model("yolov3", "T4")
    errors = {
        gpus: fit_profiles.time_errors(model, [o for o in profiles.pollux("yolov3") if (o.gpus, o.nodes) == (gpus, 2)])
        for gpus in (4, 5, 6, 7, 8)
    }
    assert {gpus: bool(np.median(off) < 0.15) for gpus, off in errors.items()} == dict.fromkeys(errors, True)


@pytest.mark.parametrize("gpu", ["V100", "RTX6000"])
def test_zeus_batches_left_out(gpu: str) -> None:
    time, power, *_ = fit_profiles.zeus_batches(gpu)
    assert time.passes
    assert power.passes


def test_the_catalogue_is_what_the_script_makes() -> None:
    for name in FEW:
        made = make_catalogue.throughput(name).throughput
        kept = family_model(name, "T4").throughput
        assert kept.beta_s == pytest.approx(made.beta_s, rel=1e-3)
        assert kept.cross_alpha_s == pytest.approx(made.cross_alpha_s, rel=1e-3)
        assert kept.two_node_factor == pytest.approx(made.two_node_factor, rel=1e-3)
