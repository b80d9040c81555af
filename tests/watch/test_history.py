"""Jobs measured after the fact: readings that a Prometheus has kept, owners from labels or from a log."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from powerflow.errors import InputError
from powerflow.trace.record import Trace, TraceJob
from powerflow.watch.history import PART_S, by_labels, past_uses
from powerflow.watch.owners import GpuAddress
from powerflow.watch.readings import Card, Readings
from powerflow.watch.sources.prometheus import MetricsSource, NoMetrics
from powerflow.watch.sources.prometheus_api import Answer, PacedStore
from powerflow.watch.sources.whole_nodes import WholeNodes
from tests.watch.samples import StoredSamples

#: Some moment: the time of all tests begins here.
T = 1_700_000_000.0
HOUR = 3600.0
_GPU = 'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{Hostname="{node}",gpu="{gpu}",UUID="GPU-{node}-{gpu}"{job}}}'


def stored(node: str, gpu: int, *, job: str = "", since_s: float = 0.0, hours: float = 14.0) -> StoredSamples:
    """Two minutes between scrapes; 100 W, and 300 W from 2 h to 12 h, in which a label may name a job."""
    store = StoredSamples()
    times = [T + at for at in range(int(since_s), int(hours * HOUR), 120)]
    samples = [(at, 1000 * (100 * (at - T) + 200 * min(max(at - T - 2 * HOUR, 0.0), 10 * HOUR))) for at in times]
    inside = [2 * HOUR <= at - T < 12 * HOUR for at in times]
    for held in (False, True):
        mine = [sample for sample, within in zip(samples, inside, strict=True) if (within and job != "") is held]
        store.add(_GPU.format(node=node, gpu=gpu, job=f',hpc_job="{job}"' * held), mine)
    return store


def joined(*stores: StoredSamples) -> StoredSamples:
    return StoredSamples([each for store in stores for each in store.series])


def logged(*jobs: tuple[str, int, str]) -> Trace:
    """Jobs that ran from 2 h to 12 h: number, GPUs and nodes."""
    return Trace(
        "log",
        "sacct",
        tuple(TraceJob(id, T, 10 * HOUR, gpus, wait_s=2 * HOUR, nodes=nodes) for id, gpus, nodes in jobs),
    )


def test_labels_tell_the_joules_of_a_job_over_several_parts() -> None:
    store = joined(stored("n1", 0, job="7"), stored("n1", 1))
    (uses,) = past_uses(MetricsSource(store), T, T + 13.5 * HOUR, [by_labels])
    ((job, use),) = uses.values()
    assert job.id == "7"
    assert abs(job.start_s - T - 2 * HOUR) <= 60.0
    assert use.energy_j == pytest.approx(300 * 10 * HOUR, rel=0.005)
    assert use.low_j <= 300 * 10 * HOUR <= use.high_j
    assert 13.5 * HOUR > 2 * PART_S, "three parts"


def test_a_log_tells_those_that_held_whole_nodes_and_no_others() -> None:
    store = joined(*(stored(node, gpu) for node in ("n1", "n2", "n3") for gpu in (0, 1)))
    log = logged(("1", 4, "n[1-2]"), ("2", 1, "n3"), ("3", 2, "n9"))
    (uses,) = past_uses(MetricsSource(store), T, T + 13.5 * HOUR, [WholeNodes(log, {2})])
    ((job, use),) = uses.values()
    assert (job.id, job.start_s, job.end_s) == ("1", T + 2 * HOUR, T + 12 * HOUR)
    assert use.energy_j == pytest.approx(4 * 300 * 10 * HOUR, rel=1e-3)
    assert use.gpu_s == pytest.approx(4 * 10 * HOUR, rel=1e-3)


def test_a_node_of_which_a_gpu_is_not_seen_is_not_whole() -> None:
    """The job had 2 of the 3 GPUs of n1; another one may have had the third, which is not scraped."""
    seen = Readings({}, dict.fromkeys((GpuAddress("n1", 0), GpuAddress("n1", 1)), Card()))
    assert WholeNodes(logged(("1", 2, "n1")), {3})(seen, T, T + 13 * HOUR).holdings == []
    assert len(WholeNodes(logged(("1", 2, "n1")), {2})(seen, T, T + 13 * HOUR).holdings) == 2
    assert not WholeNodes(logged(("1", 2, "")), {2}).possible
    requeued = replace(logged(("1", 2, "n1")).jobs[0], earlier_gpu_s=5.0)
    assert not WholeNodes(Trace("log", "sacct", (requeued,)), {2}).possible


def test_a_time_from_which_nothing_is_kept_is_passed_over_but_not_all_of_it() -> None:
    store = stored("n1", 0, job="7", since_s=8 * HOUR)
    (uses,) = past_uses(MetricsSource(store), T, T + 13.5 * HOUR, [by_labels])
    ((_, use),) = uses.values()
    assert use.energy_j == pytest.approx(300 * 4 * HOUR, rel=0.01)
    with pytest.raises(NoMetrics, match="has no metrics of GPUs"):
        past_uses(MetricsSource(StoredSamples()), T, T + 13.5 * HOUR, [by_labels])


def test_only_what_is_needed_is_asked_for() -> None:
    store = stored("n1", 0)
    queries: list[str] = []

    class Seen:
        name = store.name

        def ask(self, query: str, at_s: float) -> Answer:
            queries.append(query)
            return store.ask(query, at_s)

    MetricsSource(Seen(), columns={"energy_j", "power_w"}).read(T, T + HOUR)
    assert all("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION" in query for query in queries)
    assert not any("DCGM_FI_PROF" in query or "UTIL" in query or "CLOCK" in query for query in queries)


def test_a_paced_store_is_asked_one_thing_at_a_time_with_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock jumps by 2 s for each answer; the pause after it is as long."""
    now = iter(range(0, 1000, 2))
    monkeypatch.setattr("powerflow.watch.sources.prometheus_api.time.monotonic", lambda: float(next(now)))
    slept: list[float] = []
    busy = threading.Lock()

    class Slow:
        name = "slow"

        def ask(self, query: str, at_s: float) -> Answer:
            assert busy.acquire(blocking=False)
            busy.release()
            if query == "bad":
                raise InputError("no answer")
            return Answer((), (), 0.0)

    paced = PacedStore(Slow(), slept.append)
    paced.ask("one", 0.0)
    assert slept == []
    with pytest.raises(InputError):
        paced.ask("bad", 0.0)
    paced.ask("three", 0.0)
    assert slept == [2.0, 2.0]
