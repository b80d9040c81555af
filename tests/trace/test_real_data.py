"""The real traces: every row is read, and the generator's profiles are like them."""

from pathlib import Path

import numpy as np
import pytest
from benchmarks.calibrate import fit_profile

from powerflow.trace.profile import Profile
from powerflow.trace.profiles import ITP, PHILLY
from powerflow.trace.read import read_trace
from powerflow.trace.statistics import describe
from powerflow.trace.synthetic import generate
from tests.slow import slow

TRACES = Path(__file__).parents[3] / "shared" / "data" / "traces"

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not TRACES.is_dir(), reason="the real traces are not beside the checkout"),
]

# file → (format, jobs). The ITP files end without a newline: counting newlines gives one job too few.
FILES = {
    "philly.csv.gz": ("philly", 82_247),
    "philly_waits.csv.gz": ("philly-waits", 151_816),
    "itp/cluster01.csv": ("itp", 1_595),
    "itp/cluster02.csv": ("itp", 5_778),
    "itp/cluster05.csv": ("itp", 3_629),
    "itp/cluster08.csv": ("itp", 13_047),
    "itp/195job.csv": ("itp-models", 195),
    "tiresias_60_job.csv": ("tiresias", 60),
    **{f"pollux/workload-{k}.csv": ("pollux", 160) for k in range(1, 9)},
    **{f"sia/{name}-{k}.csv": ("pollux", 160) for name in ("philly", "saturn") for k in (1, 2, 3)},
}


def test_no_file_is_forgotten() -> None:
    assert {str(path.relative_to(TRACES)) for path in TRACES.rglob("*.csv*")} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_every_row_is_a_job(name: str) -> None:
    trace = read_trace(TRACES / name)
    assert (trace.format, len(trace.jobs)) == FILES[name]
    assert not trace.skipped


def test_philly_is_as_described() -> None:
    found = describe(read_trace(TRACES / "philly.csv.gz"))
    assert found.duration_s is not None
    assert found.duration_s[0.5] == 1144.0
    assert found.duration_s[0.9] == pytest.approx(11_265, abs=1)
    assert found.one_gpu_jobs == pytest.approx(0.93, abs=0.005)


@pytest.mark.parametrize(
    ("name", "zone", "profile", "days"),
    [pytest.param("philly.csv.gz", "UTC", PHILLY, 109, marks=slow), ("itp/cluster02.csv", None, ITP, 60)],
)
def test_profiles_are_fitted_to_the_traces_and_give_traces_like_them(
    name: str, zone: str | None, profile: Profile, days: float
) -> None:
    real = read_trace(TRACES / name, tz=zone)
    fitted = fit_profile(real, profile.name, profile.source)
    assert fitted == profile  # the committed numbers are these very ones

    truth = describe(real)
    drawn = [
        describe(generate(jobs=len(real.jobs), days=days, gpus=2048, seed=seed, profile=profile.name))
        for seed in range(3)
    ]

    def median(of: str, at: float | None = None) -> float:
        return float(np.median([getattr(s, of) if at is None else getattr(s, of)[at] for s in drawn]))

    assert truth.duration_s is not None
    assert median("duration_s", 0.5) == pytest.approx(truth.duration_s[0.5], rel=0.15)
    assert median("duration_s", 0.9) == pytest.approx(truth.duration_s[0.9], rel=0.15)
    assert median("one_gpu_jobs") == pytest.approx(truth.one_gpu_jobs, abs=0.02)
    assert median("big_job_gpu_hours") == pytest.approx(truth.big_job_gpu_hours, abs=0.1)
    assert median("gpus_mean") == pytest.approx(truth.gpus_mean, rel=0.15)
    assert 3 < median("interarrival_cv") < 15  # where the real ones lie: 4.8 (ITP 02) to 15.1 (Philly)
