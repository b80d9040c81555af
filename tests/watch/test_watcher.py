"""The watch of a site over time: look after look, through outages, restarts and late news."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from powerflow.watch.ledger import WatchLedger, uses_of
from powerflow.watch.owners import GpuAddress, Holding, OwnersLook, WatchedJob
from powerflow.watch.present import present
from powerflow.watch.readings import Card, Readings
from powerflow.watch.series import GpuSeries, series_of
from powerflow.watch.use import JobUse
from powerflow.watch.watcher import SettledUse, Watcher, restored, state_of
from tests.watch.site import GPU, IDLE_W, TrueDraw, random_draw, scraped

CARD = Card("GPU-1", "NVIDIA A100-SXM4-80GB", 700.0)
LOOK_S = 30.0


def slurm(draw: TrueDraw, now_s: float, forgets_s: float = 300.0) -> OwnersLook:
    """What Slurm says now: running jobs with their GPUs; jobs that ended in the last minutes with their end."""
    jobs, holdings = {}, []
    for i, (start, end) in enumerate(draw.jobs):
        key = f"slurm:{i}"
        if start <= now_s < end:
            holdings.append(Holding(key, GPU, float(int(start)), None))
            jobs[key] = WatchedJob(key, str(i), float(int(start)), user="ada", state="RUNNING")
        elif end <= now_s < end + forgets_s:
            jobs[key] = WatchedJob(key, str(i), float(int(start)), float(int(end)), user="ada", state="COMPLETED")
    return OwnersLook(now_s, jobs, holdings)


class Site:
    """A watch over one GPU of a made-up site."""

    def __init__(self, draw: TrueDraw, series: GpuSeries, *, lag_s: float = 0.0) -> None:
        self.draw, self.series, self.lag_s = draw, series, lag_s
        self.watcher = Watcher()
        self.jobs: dict[str, tuple[WatchedJob, JobUse]] = {}
        self.nobody_j = self.unknown_j = 0.0
        self.seen_s = -math.inf

    def look(self, now_s: float, *, slurm_answers: bool = True) -> SettledUse:
        new = self.series.take((self.series.time_s > self.seen_s) & (self.series.time_s <= now_s))
        self.seen_s = now_s
        self.watcher.take(
            Readings({GPU: new} if len(new) else {}, {GPU: CARD}, self.lag_s),
            slurm(self.draw, now_s) if slurm_answers else None,
        )
        return self.settle(now_s)

    def settle(self, now_s: float, *, all_of_it: bool = False) -> SettledUse:
        settled = self.watcher.settle(now_s, all_of_it=all_of_it)
        self.jobs.update(settled.jobs)
        self.nobody_j += sum(use.energy_j for key, use in settled.others.items() if key.known)
        self.unknown_j += sum(use.energy_j for key, use in settled.others.items() if not key.known)
        return settled

    def run(self, until_s: float | None = None, **how: Any) -> None:
        end_s = self.draw.lasts_s if until_s is None else until_s
        begin_s = max(self.seen_s, 0.0)
        for now_s in np.arange(begin_s + LOOK_S, end_s, LOOK_S):
            self.look(float(now_s), **how)

    def check(self, most: float = 0.02) -> None:
        """Each job has what it drew, and all together what the counter says."""
        total = sum(use.energy_j for _, use in self.jobs.values()) + self.nobody_j + self.unknown_j
        settled_s = self.watcher.tracks[GPU].settled_s
        assert total == pytest.approx(self.draw.energy_j(float(self.series.time_s[0]), settled_s), rel=1e-6)
        for i, (start, end) in enumerate(self.draw.jobs):
            if end < settled_s and start > self.series.time_s[0]:
                _, use = self.jobs[f"slurm:{i}"]
                truth = self.draw.energy_j(start, end)
                if end - start > 300.0:
                    assert use.energy_j == pytest.approx(truth, rel=most)
                assert use.low_j <= use.energy_j <= use.high_j


@pytest.fixture
def site() -> Site:
    rng = np.random.default_rng(3)
    draw = random_draw(rng, 10, 900.0)
    return Site(draw, scraped(draw, rng, 15.0))


def test_look_after_look_each_job_has_what_it_drew(site: Site) -> None:
    site.run()
    site.settle(site.draw.lasts_s, all_of_it=True)
    site.check()
    job, use = site.jobs["slurm:4"]
    assert (job.user, job.state, job.end_s) == ("ada", "COMPLETED", float(int(site.draw.jobs[4][1])))
    assert sum(use.hours.values()) == pytest.approx(use.energy_j)
    assert use.gpu_s == pytest.approx(np.subtract(*site.draw.jobs[4][::-1]), abs=2.0)


def test_slurm_away_for_minutes_changes_nothing(site: Site) -> None:
    away_s = site.draw.jobs[3][0] - 100.0
    site.run(away_s)
    site.run(away_s + 240.0, slurm_answers=False)
    site.run()
    site.settle(site.draw.lasts_s, all_of_it=True)
    site.check()


def test_the_end_of_a_job_that_slurm_forgot_lies_between_two_looks(site: Site) -> None:
    """Slurm is away for a quarter of an hour: another job may have followed unseen, so nobody's end is claimed."""
    start_s, end_s = site.draw.jobs[3]
    site.run(end_s - 60.0)
    last_s = site.watcher.memory.known_until_s
    site.run(end_s + 900.0, slurm_answers=False)
    site.run()
    job, use = site.jobs["slurm:3"]
    assert (job.end_s, job.state) == (last_s, "")  # the last time that it was seen; how it ended is not known
    assert use.low_j <= site.draw.energy_j(start_s, end_s) <= use.high_j
    assert site.unknown_j > 0
    site.settle(site.draw.lasts_s, all_of_it=True)


def test_what_ran_unseen_for_hours_is_nobody_elses() -> None:
    """Slurm is silent while job 0 ends and job 1 begins: 0 does not get the energy of 1, and none is nobody's."""
    power = np.repeat([IDLE_W, 400.0, 650.0, IDLE_W], [3000, 12_000, 120_000, 6000])
    draw = TrueDraw(power, [(300.0, 1500.0), (1500.0, 13_500.0)])
    site = Site(draw, scraped(draw, np.random.default_rng(0), 15.0))
    site.run(1200.0)
    site.run(1200.0 + 7 * 1200.0, slurm_answers=False)
    site.run()
    site.settle(draw.lasts_s, all_of_it=True)
    first, second = site.jobs["slurm:0"][1], site.jobs["slurm:1"][1]
    assert first.energy_j <= draw.energy_j(300.0, 1500.0) * 1.02
    assert first.low_j <= draw.energy_j(300.0, 1500.0) <= first.high_j
    assert second.energy_j == pytest.approx(draw.energy_j(1500.0, 13_500.0), rel=0.02)  # Slurm tells when it began
    site.check(most=0.3)


def test_owners_that_were_never_heard_are_not_nobody() -> None:
    draw = TrueDraw(np.repeat([400.0], 300_000), [])
    site = Site(draw, scraped(draw, np.random.default_rng(0), 60.0))
    site.run(slurm_answers=False)
    assert site.nobody_j == 0.0
    assert site.unknown_j == pytest.approx(400.0 * (draw.lasts_s - 6 * 3600.0), rel=0.05)


def test_readings_without_power_and_energy_claim_nothing() -> None:
    watcher = Watcher()
    nothing = series_of(np.arange(0.0, 3600.0, 15.0), clock_mhz=np.full(240, 1410.0))
    job = WatchedJob("slurm:1", "1", 0.0)
    watcher.take(
        Readings({GPU: nothing}, {GPU: CARD}), OwnersLook(3600.0, {job.key: job}, [Holding("slurm:1", GPU, 0.0, None)])
    )
    settled = watcher.settle(3600.0, all_of_it=True)
    assert (settled.jobs, settled.others) == ({}, {})
    assert present(watcher, 3600.0).silent == [GPU]


def test_a_job_whose_source_does_not_tell_its_start_keeps_the_first_one() -> None:
    memory = Watcher().memory
    for now_s in (100.0, 130.0, 160.0):
        job = WatchedJob("slurm:7", "7", now_s)
        memory.update(OwnersLook(now_s, {job.key: job}, [Holding(job.key, GPU, now_s, None)]))
    assert memory.jobs["slurm:7"].start_s == 100.0
    assert [each.start_s for each in memory.holdings(GPU)] == [100.0]


def test_a_watch_that_was_stopped_goes_on(site: Site, tmp_path: Path) -> None:
    """Stopped for ten minutes in the middle of a job: its joules are not lost, since the counter went on."""
    start_s, _ = site.draw.jobs[5]
    ledger = WatchLedger(tmp_path / "watch.db")
    for now_s in np.arange(LOOK_S, start_s + 200.0, LOOK_S):
        ledger.save(site.look(float(now_s)), {}, state_of(site.watcher))
    ledger.close()
    again = WatchLedger(tmp_path / "watch.db")
    state = json.loads(json.dumps(again.state()))
    site.watcher = restored(state, uses_of(again.jobs(0.0, 1e12)))
    site.seen_s = start_s + 200.0 + 600.0  # what was read meanwhile is lost
    site.run()
    site.settle(site.draw.lasts_s, all_of_it=True)
    again.close()
    site.check(most=0.05)


def test_idle_gpus_that_are_held_are_counted_after_ten_minutes() -> None:
    """A job trains for 10 minutes, and holds its GPU for 30 more without using it."""
    draw = TrueDraw(np.repeat([IDLE_W, 400.0, IDLE_W, IDLE_W], [3000, 6000, 18000, 3000]), [(300.0, 2700.0)])
    site = Site(draw, scraped(draw, np.random.default_rng(0), 15.0))
    site.run()
    site.settle(draw.lasts_s, all_of_it=True)
    _, use = site.jobs["slurm:0"]
    assert use.idle_s == pytest.approx(1800.0, abs=45.0)
    assert use.idle_j == pytest.approx(1800.0 * IDLE_W, rel=0.05)
    assert use.judged_s == pytest.approx(2400.0, abs=45.0)


def test_a_job_of_a_node_without_readings_has_no_joules_rather_than_none() -> None:
    watcher = Watcher()
    elsewhere = GpuAddress("n2", 0)
    job = WatchedJob("slurm:1", "1", 100.0, user="ada")
    watcher.take(Readings({}, {}), OwnersLook(130.0, {job.key: job}, [Holding(job.key, elsewhere, 100.0, None)]))
    ended = WatchedJob("slurm:1", "1", 100.0, 150.0, user="ada", state="COMPLETED")
    watcher.take(Readings({}, {}), OwnersLook(160.0, {job.key: ended}, []))
    found = {}
    for now_s in (160.0, 50_000.0):
        found.update(watcher.settle(now_s, all_of_it=True).jobs)
    assert found["slurm:1"][0].end_s == 150.0
    assert found["slurm:1"][1].gpu_s == 0.0


def test_a_late_exporter_is_found_out(site: Site) -> None:
    rng = np.random.default_rng(5)
    draw = random_draw(rng, 25, 900.0)
    late = Site(draw, scraped(draw, rng, 30.0, 30.0), lag_s=30.0)
    late.run()
    late.settle(draw.lasts_s, all_of_it=True)
    assert 0.0 < late.watcher.lag_of("n1") <= 30.0
    inside = [
        late.jobs[f"slurm:{i}"][1].low_j <= draw.energy_j(a, b) <= late.jobs[f"slurm:{i}"][1].high_j
        for i, (a, b) in enumerate(draw.jobs)
    ]
    assert np.mean(inside) >= 0.9


def test_a_job_that_comes_back_to_a_gpu_holds_it_again() -> None:
    memory = Watcher().memory
    job = WatchedJob("job:1", "1", 100.0)
    other = GpuAddress("n1", 1)
    rest = Holding(job.key, other, 100.0, None)
    memory.update(OwnersLook(130.0, {job.key: job}, [Holding(job.key, GPU, 100.0, None), rest]))
    memory.update(OwnersLook(160.0, {job.key: job}, [Holding(job.key, GPU, 100.0, 140.0, end_slack_s=7.0), rest]))
    memory.update(OwnersLook(190.0, {job.key: job}, [Holding(job.key, GPU, 175.0, None), rest]))
    assert [(each.start_s, each.end_s, each.end_slack_s) for each in memory.holdings(GPU)] == [
        (100.0, 140.0, 7.0),
        (175.0, None, 1.0),
    ]


def test_a_clock_that_is_set_back_loses_no_joule() -> None:
    draw = TrueDraw(np.repeat([IDLE_W, 400.0, IDLE_W], [3000, 60_000, 20_000]), [(300.0, 6300.0)])
    site = Site(draw, scraped(draw, np.random.default_rng(0), 15.0))
    site.run(3000.0)
    again = site.series.take((site.series.time_s > 2400.0) & (site.series.time_s <= 3000.0))
    wrong = GpuSeries(
        again.time_s, again.energy_j + 400.0 * 600.0, *(getattr(again, n) for n in GpuSeries.__slots__[2:])
    )
    site.watcher.take(Readings({GPU: wrong}, {GPU: CARD}), None)  # ten minutes later by the counter, not by the clock
    site.run()
    site.settle(draw.lasts_s, all_of_it=True)
    site.check()


def test_a_gpu_that_a_hidden_job_holds_is_nobodys_neither() -> None:
    """A job that Slurm hides from 600 to 1200 s; then one that can be seen, from 1200 to 1800 s."""
    draw = TrueDraw(np.repeat([IDLE_W, 400.0, 300.0, IDLE_W], [6000, 6000, 6000, 6000]), [(1200.0, 1800.0)])
    site = Site(draw, scraped(draw, np.random.default_rng(0), 15.0))

    def look(now_s: float) -> OwnersLook:
        seen = slurm(draw, now_s)
        return OwnersLook(now_s, seen.jobs, seen.holdings, hidden=[GPU] if 600.0 <= now_s < 1200.0 else [])

    shown = {}
    for now_s in np.arange(LOOK_S, draw.lasts_s, LOOK_S):
        new = site.series.take((site.series.time_s > now_s - LOOK_S) & (site.series.time_s <= now_s))
        site.watcher.take(Readings({GPU: new}, {GPU: CARD}), look(float(now_s)))
        found = present(site.watcher, float(now_s))
        shown[float(now_s)] = (found.free, found.hidden, len(found.jobs))
        site.settle(float(now_s))
    site.settle(draw.lasts_s, all_of_it=True)
    assert shown[300.0] == shown[2100.0] == (1, 0, 0)
    assert shown[900.0] == (0, 1, 0)
    assert shown[1500.0] == (0, 0, 1)
    assert site.unknown_j == pytest.approx(600.0 * 400.0, rel=0.03)
    assert site.jobs["slurm:0"][1].energy_j == pytest.approx(600.0 * 300.0, rel=0.02)
    assert {*site.jobs} == {"slurm:0"}


def test_where_slurm_hides_all_others_what_no_own_job_drew_is_not_known() -> None:
    draw = TrueDraw(np.repeat([400.0], 6000), [(120.0, 300.0)])
    site = Site(draw, scraped(draw, np.random.default_rng(0), 15.0))
    for now_s in np.arange(LOOK_S, draw.lasts_s, LOOK_S):
        new = site.series.take((site.series.time_s > now_s - LOOK_S) & (site.series.time_s <= now_s))
        seen = slurm(draw, float(now_s))
        site.watcher.take(
            Readings({GPU: new}, {GPU: CARD}), OwnersLook(seen.time_s, seen.jobs, seen.holdings, complete=False)
        )
        assert present(site.watcher, float(now_s)).free is None
    site.settle(draw.lasts_s, all_of_it=True)
    assert site.nobody_j == 0.0
    lasts_s = site.watcher.tracks[GPU].settled_s - float(site.series.time_s[0])
    assert site.unknown_j == pytest.approx(400.0 * (lasts_s - 180.0), rel=0.02)
    assert len(site.watcher.memory.gaps) == 1


def test_readings_from_before_the_first_look_belong_to_nobody_that_is_known() -> None:
    """Prometheus has the last hour; Slurm tells only who holds the GPU now, and since when."""
    draw = TrueDraw(np.repeat([400.0], 36_000), [(1800.0, 4000.0)])
    series = scraped(draw, np.random.default_rng(0), 15.0)
    watcher = Watcher()
    watcher.take(Readings({GPU: series}, {GPU: CARD}), slurm(draw, 3600.0))
    settled = watcher.settle(3600.0, all_of_it=True)
    assert {key.known for key in settled.others} == {False}
    assert sum(use.energy_j for use in settled.others.values()) == pytest.approx(1800.0 * 400.0, rel=0.02)
    assert settled.jobs["slurm:0"][1].energy_j == pytest.approx(1800.0 * 400.0, rel=0.02)


def test_a_gpu_that_computes_for_nobody_is_named() -> None:
    watcher = Watcher()
    job = WatchedJob("slurm:1", "1", 0.0, 500.0)
    for now_s, power_w in ((30.0, IDLE_W), (510.0, 400.0), (700.0, 400.0)):
        series = series_of(np.array([now_s]), power_w=np.array([power_w]))
        ran = now_s > 500.0
        holdings = [] if ran else [Holding(job.key, GPU, 0.0, None)]
        watcher.take(Readings({GPU: series}, {GPU: CARD}), OwnersLook(now_s, {job.key: job}, holdings))
        # just after the end of a job, the last reading is still of it
        assert present(watcher, now_s).unclaimed == ([GPU] if now_s == 700.0 else [])
