"""Joules per job from a real Prometheus that scrapes emulated GPUs, against what these truly drew."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from powerflow.watch.owners import GpuAddress
from powerflow.watch.readings import Readings
from powerflow.watch.sources.prometheus import MetricsSource
from powerflow.watch.sources.prometheus_api import PrometheusApi
from powerflow.watch.watcher import Watcher
from tests.watch.exporter import (
    PROMETHEUS,
    EmulatedGpu,
    Exporter,
    Work,
    newest_sample_s,
    running_prometheus,
)
from tests.watch.site import TrueDraw

pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="there is no prometheus (Debian: prometheus)")

IDLE_W = 40.0
#: How long the GPUs are watched, seconds; a scrape is made twice a second.
LASTS_S = 14.0


def gpu(*works: tuple[Work, float]) -> EmulatedGpu:
    """A GPU with these jobs and their power in watts; each loads data at 90 W for its first 0.8 s."""
    power = np.full(600, IDLE_W)
    for work, watts in works:
        begin, end = int(10 * work.start_s), int(10 * work.end_s)
        power[begin:end] = watts
        power[begin : begin + 8] = 90.0
    return EmulatedGpu(TrueDraw(power, [(work.start_s, work.end_s) for work, _ in works]), [work for work, _ in works])


GPUS = {
    GpuAddress("n1", 0): gpu((Work(11, 1.2, 6.2), 400.0), (Work(12, 7.0, 12.1), 300.0)),
    GpuAddress("n1", 1): gpu((Work(13, 2.1, 11.8), 350.0)),
    GpuAddress("n2", 0): gpu((Work(14, 1.6, 10.6), 250.0)),
    GpuAddress("n2", 1): gpu(),
}


@dataclass(frozen=True)
class Site:
    """A site that was watched: where its Prometheus is, and from when until when its GPUs ran, Unix seconds."""

    url: str
    start_s: float
    end_s: float


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two nodes with two GPUs each. Both are scraped by two jobs; n2 reads its GPUs every 1.5 s, as an old exporter."""
    exporters = [
        Exporter([each for address, each in GPUS.items() if address.node == node], node, every_s)
        for node, every_s in (("n1", 0.0), ("n2", 1.5))
    ]
    folder: Path = tmp_path_factory.mktemp("prometheus")
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(each).port for each in exporters]
        url = stack.enter_context(running_prometheus(folder, {"dcgm": ports, "again": ports}, every_ms=500))
        while not (newest_s := newest_sample_s(url, "DCGM_FI_DEV_POWER_USAGE")):
            time.sleep(0.1)
        start_s = time.time()
        for each in exporters:
            each.start_s = start_s
        while newest_s < start_s + LASTS_S:
            time.sleep(0.25)
            newest_s = newest_sample_s(url, "DCGM_FI_DEV_POWER_USAGE")
        yield Site(url, start_s, newest_s)


def watched(site: Site, step_s: float) -> tuple[Watcher, list[Readings]]:
    """Watch the site in looks of this length, as if each were made in time."""
    source = MetricsSource(PrometheusApi(site.url), clock=iter(np.arange(0.0, 1e6, 60.0)).__next__)
    watcher, looks = Watcher(), []
    for until_s in [*np.arange(site.start_s + step_s, site.end_s, step_s), site.end_s]:
        looks.append(source.read(max(until_s - step_s, site.start_s), until_s))
        watcher.take(looks[-1], looks[-1].owners)
        watcher.settle(until_s)
    watcher.settle(site.end_s, all_of_it=True)
    return watcher, looks


@pytest.mark.parametrize("step_s", [60.0, 2.2])
def test_joules_per_job_are_within_two_percent_and_the_truth_is_in_its_bounds(site: Site, step_s: float) -> None:
    watcher, _ = watched(site, step_s)
    works = [(address, each, work) for address, each in GPUS.items() for work in each.works]
    assert {*watcher.uses} == {f"job:{work.number}" for _, _, work in works}
    for _, each, work in works:
        truth = each.draw.energy_j(work.start_s, work.end_s)
        use = watcher.uses[f"job:{work.number}"]
        assert use.energy_j == pytest.approx(truth, rel=0.02)
        assert use.low_j <= truth <= use.high_j


def test_what_is_said_of_the_site(site: Site) -> None:
    _, looks = watched(site, 60.0)
    (found,) = looks
    assert {*found.series} == {*GPUS}
    assert {card.vendor_name for card in found.cards.values()} == {"NVIDIA A100-SXM4-80GB"}
    assert {card.limit_w for card in found.cards.values()} == {400.0}
    assert any("4 GPUs are scraped more than once" in note for note in found.notes)
    assert found.lag_s == pytest.approx(0.5, rel=0.05)
    usual = {address: float(np.median(np.diff(each.time_s))) for address, each in found.series.items()}
    assert usual[GpuAddress("n1", 0)] == pytest.approx(0.5, rel=0.05)
    assert usual[GpuAddress("n2", 0)] == pytest.approx(1.5, rel=0.05)  # repeated values are dropped
    assert found.owners is not None
    held = {each.job: each for each in found.owners.holdings}
    assert held["job:11"].start_s - site.start_s == pytest.approx(1.2, abs=held["job:11"].slack_s + 0.3)


def test_looks_bring_the_same_readings_as_history(site: Site) -> None:
    (whole,) = watched(site, 60.0)[1]
    looks = watched(site, 1.7)[1]
    for address, series in whole.series.items():
        parts = [each.series[address] for each in looks if address in each.series]
        assert np.concatenate([each.time_s for each in parts]).tolist() == series.time_s.tolist()
        assert np.concatenate([each.energy_j for each in parts]).tolist() == series.energy_j.tolist()
    assert whole.owners is not None
    assert looks[-1].owners is not None
    held = {(each.job, each.gpu): each for each in whole.owners.holdings}
    assert len(held) == len(looks[-1].owners.holdings)
    for each in looks[-1].owners.holdings:  # either scraper may have been the first to see a label
        same = held[each.job, each.gpu]
        assert each.start_s == pytest.approx(same.start_s, abs=each.slack_s + same.slack_s)
        assert each.end_s == pytest.approx(same.end_s, abs=each.end_slack_s + same.end_slack_s)
