"""`powerflow poc --prometheus`: a made-up site whose Prometheus has kept the counters of its GPUs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from powerflow.cli.main import main
from powerflow.cli.site.poc_runs import past_runs
from powerflow.cli.site.sources import PrometheusAccess
from powerflow.report.poc_words import MeasuredBy
from powerflow.watch.sources import prometheus_api
from tests.poc.made_up_site import CLUSTER, Truth, site_trace, truth_of, write_log
from tests.poc.stored_site import StoredSite, served

QUICK = ("--belief", "oracle", "--sizes", "known", "--processes", "1", "--tz", "UTC", "--cluster", CLUSTER)
TRACE = site_trace()


@pytest.fixture(scope="module")
def truth() -> Truth:
    return truth_of(TRACE, 1)


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus_api, "LEAST_PAUSE_S", 0.0)


def test_joules_come_afterwards_by_labels(truth: Truth) -> None:
    runs = truth.measured()
    site = StoredSite(TRACE, runs, labels=True)
    shares: list[float] = []
    with served(site) as url:
        found = past_runs(PrometheusAccess(url), site.trace, CLUSTER, lambda share, _: shares.append(share))
    assert (found.by, found.emulated, len(found.runs)) == (MeasuredBy.LABELS, False, len(runs))
    true_j = {run.id: run.energy_j for run in runs}
    assert max(abs(run.energy_j / true_j[run.id] - 1) for run in found.runs) < 0.01
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert max(end_s - begin_s for begin_s, end_s in site.asked) <= 6 * 3600 + 300, "in pieces"


def test_where_labels_tell_nothing_jobs_of_whole_nodes_count(
    truth: Truth, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = truth.measured()
    site = StoredSite(TRACE, runs, labels=False)
    write_log(site.trace, tmp_path / "log.txt")
    page = tmp_path / "p.html"
    with served(site) as url:
        words = ["poc", str(tmp_path / "log.txt"), *QUICK, "--prometheus", url, "--report", str(page), "--json"]
        assert main(words) == 0
    measured = json.loads(capsys.readouterr().out)["measured"]
    whole = {job.id for job in site.trace.jobs if job.gpus == 8 and "," not in job.nodes}
    truly = [run for run in runs if run.id in whole]
    assert (measured["by"], measured["jobs"]) == ("whole nodes", len(truly))
    assert measured["energy_j"] == pytest.approx(sum(run.energy_j for run in truly), rel=2e-3)
    assert "only jobs that held all GPUs of their nodes" in page.read_text("utf-8")


def test_where_nothing_tells_who_held_a_gpu_it_is_refused_in_one_line(
    truth: Truth, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = replace(TRACE, jobs=tuple([job for job in TRACE.jobs if job.gpus <= 2][:3]))
    ids = {job.id for job in some.jobs}
    site = StoredSite(some, [run for run in truth.measured() if run.id in ids], labels=False)
    log = tmp_path / "log.txt"
    with served(site) as url:
        for trace, why in ((some, "the log has no NodeList"), (site.trace, "no job of the log held all GPUs of its")):
            write_log(trace, log)
            assert main(["poc", str(log), *QUICK, "--prometheus", url]) == 4
            said = capsys.readouterr().err
            assert f"labels do not tell which job held a GPU, and {why}" in said
            assert said.count("\n") == 1
        assert main(["poc", str(log), *QUICK, "--prometheus", url, "--file", "w.db"]) == 2
    assert "two sources of joules" in capsys.readouterr().err
    assert main(["poc", str(log), *QUICK, "--prometheus", "http://127.0.0.1:9"]) == 5
