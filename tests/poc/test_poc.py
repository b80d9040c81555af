"""The answer for made-up sites whose true energy is known, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from powerflow.api.job_spec import WEIGHTS
from powerflow.errors import InputError
from powerflow.simulate.poc.groups import Times, change_of, important, share_later
from powerflow.simulate.poc.matching import MeasuredRun
from powerflow.simulate.poc.poc import Poc, poc
from powerflow.simulate.replay.draws import ProtectedJobs, Way
from powerflow.trace.record import Trace
from tests.poc.made_up_site import BELIEVED, CLUSTER, claims, site_trace, truth_of

TRACE = site_trace()


def answer(trace: Trace, measured: list[MeasuredRun], **settings: Any) -> Poc:
    settings = {"believed": BELIEVED, "draws": 4, "processes": 1, **settings}
    return poc(trace, CLUSTER, measured, **settings)


def test_the_intervals_hold_the_truth() -> None:
    """Four claims at each of four sites, 95 % each: two of them may miss; wrong models would miss most."""
    held = []
    for seed, measured in ((0, 1.0), (1, 1.0), (2, 0.65), (3, 0.65)):
        found = claims(TRACE, seed, measured)
        assert not found.answer.refusals
        assert all(scenario.energy_j.low > 0 for scenario in found.answer.scenarios), "narrow enough to say something"
        added_j = found.answer.site_j - found.answer.site.idle_j
        assert added_j == pytest.approx(found.added_j, rel=1e-6 if measured == 1 else 0.2)
        held += found.held
    assert len(held) == 16
    assert sum(held) >= 14


def test_the_modelled_energy_is_corrected_by_the_measured_one() -> None:
    """A site that truly draws 20 % more than another one with the same jobs saves 20 % more above idle."""
    truth = truth_of(TRACE, 1)
    named = replace(TRACE, jobs=truth.draws.windows[0].jobs.jobs)
    base, more = (answer(named, truth.measured(factor=factor)) for factor in (1.0, 1.2))
    assert base.energy is not None
    assert more.energy is not None
    assert more.energy.miss < base.energy.miss
    ratio = more.energy.factors / base.energy.factors
    assert float(np.ptp(ratio)) < 1e-9
    saved = more.scenarios[0].energy_j.mean / base.scenarios[0].energy_j.mean
    assert saved == pytest.approx(float(ratio[0]), rel=0.05)


def test_same_input_same_answer() -> None:
    truth = truth_of(TRACE, 2)
    one, two = (answer(TRACE, truth.measured(), draws=2, seed=7) for _ in range(2))
    assert one.scenarios == two.scenarios


def test_who_waits_longer() -> None:
    found = answer(TRACE, truth_of(TRACE, 0).measured())
    for scenario in found.scenarios:
        assert {change.name for change in scenario.changes} == {"ada", "bob", "eve", "kim"}
        later = [change.later_s.mean for change in scenario.changes]
        assert later == sorted(later, reverse=True)


def test_important_jobs_are_protected_as_on_a_live_cluster() -> None:
    """Two jobs that fit together are never late, however dear energy is; unprotected, dear energy slows them down."""
    truth = truth_of(TRACE, 0)
    mine = [i for i, job in enumerate(TRACE.jobs) if job.id in ("122", "135")]
    alone_s = np.array([TRACE.jobs[i].duration_s for i in mine])
    dear = [Way(4.0, rigid) for rigid in (True, False)]
    protected = ProtectedJobs(frozenset(mine), WEIGHTS["protected"])
    for bare, kept in zip(
        replace(truth.draws, ways=dear)(0).ours,
        replace(truth.draws, ways=dear, protected=protected)(0).ours,
        strict=True,
    ):
        assert (kept.jct_s[mine] - alone_s).max() <= 60.0
        assert (bare.jct_s[mine] - alone_s).min() > 600.0
        assert kept.added_j > bare.added_j, "protection costs energy"


def test_named_jobs_are_those_that_the_simulation_protects() -> None:
    found = answer(TRACE, truth_of(TRACE, 0).measured(), high=["qos=high"])
    bare = answer(TRACE, truth_of(TRACE, 0).measured(), draws=2)
    for scenario in found.scenarios:
        assert scenario.important is not None
        assert scenario.important_delay is not None
        assert scenario.important.jobs == scenario.important_delay.jobs == 7
        waited_s = scenario.important.was_s - scenario.important_delay.was_s
        assert scenario.important_delay.later_s.mean == pytest.approx(
            scenario.important.later_s.mean + waited_s, abs=1e-6
        )
        assert 0 <= scenario.important_delayed <= 0.2
        assert 0 <= scenario.important_later <= 0.2
    assert bare.scenarios[0].important is bare.scenarios[0].important_delay is None
    assert math.isnan(bare.scenarios[0].important_delayed)


def test_changes_by_hand() -> None:
    times = [Times(np.arange(3), np.array([100.0, 200.0, 300.0]), np.array([200.0, 200.0, 290.0]))] * 5
    found = change_of("a", [0, 2], times) or pytest.fail("too few")
    assert (found.was_s, found.later_s.mean, found.jobs) == (200.0, 45.0, 2)
    assert found.later_s.low == pytest.approx(45.0)
    assert share_later([0, 2], times) == 0.5
    assert change_of("b", [1], times) is None, "five times one job: too few"
    assert math.isnan(share_later([9], times))


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("high", "write qos=high"),
        ("colour=red", "columns: partition, qos, account, user"),
        ("qos=urgent", "no job of the log has qos=urgent; it has normal, high"),
        ("partition=a", "the log has no partition: add it to sacct -o"),
    ],
)
def test_a_wrong_condition_says_what_would_be_right(named: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        important(TRACE, [named])


def test_refuses_what_the_data_do_not_carry() -> None:
    truth = truth_of(TRACE, 0)
    measured = truth.measured()

    def reasons(trace: Trace, runs: list[MeasuredRun], **settings: Any) -> list[tuple[str, float]]:
        found = answer(trace, runs, **settings)
        assert not found.scenarios
        return [(refusal.reason, refusal.value) for refusal in found.refusals]

    short = replace(TRACE, jobs=TRACE.jobs[:30])
    days = (short.jobs[-1].submit_s - short.jobs[0].submit_s) / 86400
    reason, value = reasons(short, measured)[0]
    assert (reason, round(value, 6)) == ("days", round(days, 6))
    ((few, share),) = reasons(TRACE, measured[:5])
    assert few == "measured"
    assert 0 < share < 0.5
    assert reasons(TRACE, []) == [("measured", 0.0)]
    assert reasons(TRACE, [], unvalidated=True) == [("measured", 0.0)], "nothing measured carries nothing"
    late = replace(TRACE, jobs=tuple(replace(job, wait_s=(job.wait_s or 0) + 7200) for job in TRACE.jobs))
    shifted = [replace(run, start_s=run.start_s + 7200) for run in measured]
    ((other, error),) = reasons(late, shifted)
    assert (other, error > 0.1) == ("reproduced", True)
    ((factor, value),) = reasons(TRACE, truth.measured(factor=4.0))
    assert (factor, value > 2) == ("factor", True)
    starts = replace(TRACE, jobs=tuple(replace(job, wait_s=None) for job in TRACE.jobs))
    assert [reason for reason, _ in reasons(starts, measured)] == ["starts"]


def test_unvalidated_answers_nevertheless_and_keeps_the_reasons() -> None:
    found = answer(TRACE, truth_of(TRACE, 0).measured(0.3), draws=2, unvalidated=True)
    assert [refusal.reason for refusal in found.refusals] == ["measured"]
    assert len(found.scenarios) == 2


def test_several_gpu_types_are_refused() -> None:
    with pytest.raises(InputError, match=r"2 types .A100, V100.*one partition at a time.*7 days") as caught:
        poc(TRACE, "1x8:A100+1x8:V100", [], believed=BELIEVED)
    assert caught.value.exit_code == 4
