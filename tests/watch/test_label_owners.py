"""Who holds a GPU, as labels of exporters tell it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.watch.owners import GpuAddress, OwnersLook, segments
from powerflow.watch.sources.label_owners import JobFacts, LabelOwners, Presence
from powerflow.watch.sources.prometheus import MetricsSource
from tests.watch.samples import StoredSamples
from tests.watch.test_prometheus import DCGM, N1, T, dcgm, every, timer

G0, G1 = GpuAddress("n1", 0), GpuAddress("n1", 1)


def presence(names: str, first_s: float = 0.0, step_s: float = 10.0) -> Presence:
    """Who held a GPU at each scrape, one letter per scrape; ``.`` for nobody."""
    at = first_s + step_s * np.arange(len(names), dtype=np.float64)
    return Presence(at, {f"job:{name}": at[[each == name for each in names]] for name in {*names} - {"."}})


def seen(owners: LabelOwners, found: Mapping[GpuAddress, Presence]) -> OwnersLook:
    keys = {key for each in found.values() for key in each.held_s}
    look = owners.update(found, {key: JobFacts("hpc_job", key[4:]) for key in keys}, 10.0)
    assert look is not None
    return look


def held(look: OwnersLook, gpu: GpuAddress = G0) -> list[tuple[str, float, float | None]]:
    return sorted((each.job, each.start_s, each.end_s) for each in look.holdings if each.gpu == gpu)


def test_a_job_begins_and_ends_half_way_between_two_scrapes() -> None:
    look = seen(LabelOwners(), {G0: presence("..aaa..")})
    (job,), (holding,) = look.jobs.values(), look.holdings
    assert (job.key, job.id, job.start_s, job.end_s) == ("job:a", "a", 15, 45)
    assert (holding.start_s, holding.end_s, holding.slack_s, holding.end_slack_s) == (15, 45, 5, 5)
    assert look.time_s == 60


def test_a_job_that_was_there_at_the_first_scrape_holds_the_gpu_from_then_on() -> None:
    look = seen(LabelOwners(), {G0: presence("aa")})
    assert held(look) == [("job:a", 0, None)]


def test_jobs_that_follow_each_other_directly_leave_no_gap() -> None:
    look = seen(LabelOwners(), {G0: presence("aaabbb")})
    assert held(look) == [("job:a", 0, 25), ("job:b", 25, None)]


def test_a_label_that_is_missing_once_is_taken_to_be_there() -> None:
    assert held(seen(LabelOwners(), {G0: presence("aa.aa..")})) == [("job:a", 0, 45)]
    assert held(seen(LabelOwners(), {G0: presence("aabaa")})) == [
        ("job:a", 0, 15),
        ("job:a@25", 25, None),
        ("job:b", 15, 25),
    ]


def test_a_job_has_ended_only_after_two_scrapes_without_it() -> None:
    """Meanwhile the look does not claim to know what comes after its last scrape."""
    owners = LabelOwners()
    assert held(seen(owners, {G0: presence("..aa")})) == [("job:a", 15, None)]
    look = seen(owners, {G0: presence("..aa.")})
    assert (held(look), look.time_s) == ([("job:a", 15, None)], 30)
    look = seen(owners, {G0: presence("..aa..")})
    assert (held(look), look.time_s) == ([("job:a", 15, 35)], 50)


def test_a_job_of_several_gpus_lasts_from_the_first_to_the_last() -> None:
    owners = LabelOwners()
    look = seen(owners, {G0: presence(".aaaa.."), G1: presence("..aa....", 3)})
    (job,) = look.jobs.values()
    assert (job.start_s, job.end_s) == (5, 45)
    assert held(look, G1) == [("job:a", 18, 38)]
    look = seen(LabelOwners(), {G0: presence(".aaaa.."), G1: presence("..aaaaaa")})
    assert [job.end_s for job in look.jobs.values()] == [None]


def test_a_name_that_comes_again_is_another_job_on_all_its_gpus() -> None:
    owners = LabelOwners()
    seen(owners, {G0: presence("aa.."), G1: presence("aa..")})
    look = seen(owners, {G0: presence("aa....aa"), G1: presence("aa....aa", 2)})
    assert {job.key: (job.start_s, job.end_s) for job in look.jobs.values()} == {
        "job:a": (0, 15),
        "job:a@55": (55, None),
    }
    assert held(look, G1) == [("job:a", 0, 15), ("job:a@55", 57, None)]


def test_several_jobs_may_share_a_gpu() -> None:
    at = 10.0 * np.arange(6, dtype=np.float64)
    look = seen(LabelOwners(), {G0: Presence(at, {"job:a": at[:4], "job:b": at[2:]})})
    assert [each.jobs for each in segments(look.holdings, 0, 50)] == [("job:a",), ("job:a", "job:b"), ("job:b",)]


def test_an_exporter_that_is_down_holds_up_no_other_and_its_jobs_stay() -> None:
    owners = LabelOwners()
    seen(owners, {G0: presence("aaaa"), G1: presence("bbbb")})
    look = seen(owners, {G0: presence("a" * 20), G1: presence("bbbb")})
    assert look.time_s == 190
    assert held(look, G1) == [("job:b", 0, None)]
    look = seen(owners, {G0: presence("a" * 40), G1: presence("bb", 380)})
    assert held(look, G1) == [("job:b", 0, None)]


def test_what_has_ended_is_named_for_ten_minutes() -> None:
    owners = LabelOwners()
    seen(owners, {G0: presence("aa..")})
    assert "job:a" in seen(owners, {G0: presence("." * 55, 40)}).jobs
    assert "job:a" not in seen(owners, {G0: presence("." * 20, 600)}).jobs


def test_without_labels_nothing_is_said_of_owners() -> None:
    owners = LabelOwners()
    assert owners.update({G0: presence("....")}, {}, 10.0) is None
    assert held(seen(owners, {G0: presence("....a")})) == [("job:a", 35, None)]
    assert owners.update({}, {}, 10.0) is None


@settings(max_examples=80, deadline=None)
@given(st.text("ab.", max_size=30), st.lists(st.integers(1, 6), min_size=40, max_size=40))
def test_look_after_look_tells_the_same_as_all_at_once(names: str, steps: list[int]) -> None:
    """Looks overlap, as they do when Prometheus is asked, and every scrape counts once."""
    names = f"a{names}."
    at_once = seen(LabelOwners(), {G0: presence(names)})
    owners = LabelOwners()
    known_s = -np.inf
    for end in np.cumsum(steps):
        first = max(end - 8, 0)
        if first >= len(names):
            break
        look = seen(owners, {G0: presence(names[first:end], 10.0 * first)})
        assert look.time_s >= known_s
        known_s = look.time_s
    assert (held(look), look.time_s) == (held(at_once), at_once.time_s)


def owners_of(store: StoredSamples, label: str = "") -> OwnersLook:
    """Who held GPUs; a note names the label that tells it, if one is given."""
    found = MetricsSource(store, clock=timer()).read(T, T + 120)
    assert found.owners is not None
    assert not label or f"Prometheus: the label {label} tells which job holds a GPU" in found.notes
    return found.owners


def jobs_of(look: OwnersLook) -> dict[str, tuple[str, str, str, str]]:
    return {key: (job.id, job.name, job.user, job.account) for key, job in look.jobs.items()}


def test_dcgm_exporters_hpc_job() -> None:
    store = dcgm(every(15, 60, lambda at: 100 * at), f'{DCGM},hpc_job="4711_3"')
    store.series += dcgm(every(15, 120, lambda at: 100 * at, 60)).series
    look = owners_of(store, "hpc_job")
    assert jobs_of(look) == {"job:4711_3": ("4711_3", "", "", "")}
    assert [(each.gpu, each.start_s - T, each.end_s and each.end_s - T) for each in look.holdings] == [(N1, 0, 52.5)]


JOBSTATS = 'instance="n1:9445",job="gpu",minor_number="0",uuid="GPU-a",name="A100"'


def test_jobstats_tells_jobs_and_users_by_values_or_by_labels() -> None:
    store = StoredSamples()
    store.add(f"nvidia_gpu_power_usage_milliwatts{{{JOBSTATS}}}", every(15, 120, lambda at: 3e5))
    store.add(f"nvidia_gpu_jobId{{{JOBSTATS}}}", every(15, 120, lambda at: 0 if at < 30 else 81 if at < 75 else 82))
    store.add(
        f"nvidia_gpu_jobUid{{{JOBSTATS}}}", every(15, 120, lambda at: 0 if at < 30 else 1001 if at < 75 else 1002)
    )
    look = owners_of(store, "nvidia_gpu_jobId")
    assert jobs_of(look) == {"job:81": ("81", "", "1001", ""), "job:82": ("82", "", "1002", "")}
    assert {each.job: (each.start_s - T, each.end_s and each.end_s - T) for each in look.holdings} == {
        "job:81": (22.5, 67.5),
        "job:82": (67.5, None),
    }
    store = StoredSamples()
    labelled = f'{JOBSTATS},jobid="81",userid="1001"'
    store.add(f"nvidia_gpu_power_usage_milliwatts{{{labelled}}}", every(15, 120, lambda at: 3e5))
    store.add(f"nvidia_gpu_jobId{{{labelled}}}", every(15, 120, lambda at: 81.0))
    assert jobs_of(owners_of(store)) == {"job:81": ("81", "", "1001", "")}


def test_two_exporters_that_name_the_same_job_name_one() -> None:
    store = dcgm(every(15, 120, lambda at: 100 * at), f'{DCGM},hpc_job="81"')
    labelled = f'{JOBSTATS},jobid="81",userid="1001"'
    store.add(f"nvidia_gpu_power_usage_milliwatts{{{labelled}}}", every(15, 120, lambda at: 3e5, 4))
    look = owners_of(store)
    assert jobs_of(look) == {"job:81": ("81", "", "1001", "")}
    assert len(look.holdings) == 1


POD = 'pod="train-0",namespace="vision",container="main"'
EXPORTER = 'pod="nvidia-dcgm-exporter-x7k2p",namespace="gpu-operator",container="exporter"'


def test_pods_are_told_by_labels_that_are_not_those_of_the_exporter() -> None:
    """With honor_labels the workload's pod is in ``pod``; where none is, Prometheus puts the exporter's own there."""
    store = dcgm(every(15, 60, lambda at: 100 * at), f"{DCGM},{EXPORTER}")
    store.series += dcgm(every(15, 120, lambda at: 100 * at, 60), f"{DCGM},{POD}").series
    look = owners_of(store)
    assert jobs_of(look) == {"pod:vision/train-0": ("vision/train-0", "train-0", "", "vision")}
    assert look.holdings[0].start_s == T + 52.5
    exported = ",".join(f"exported_{each}" for each in POD.split(","))
    look = owners_of(dcgm(every(15, 120, lambda at: 100 * at), f"{DCGM},{EXPORTER},{exported}"), "exported_pod")
    assert [*look.jobs] == ["pod:vision/train-0"]


def test_a_pod_that_is_a_node_of_a_scheduler_is_no_job() -> None:
    store = dcgm(every(15, 120, lambda at: 100 * at), f'{DCGM},{POD},hpc_job="5"')
    other = DCGM.replace("GPU-a", "GPU-b").replace('nvidia0"', 'nvidia1"')
    store.series += dcgm(every(15, 120, lambda at: 100 * at), f"{other},{POD}").series
    assert [*owners_of(store).jobs] == ["job:5"]


def test_a_pod_that_was_seen_to_be_a_node_of_a_scheduler_is_no_job_while_the_scheduler_has_none() -> None:
    store = dcgm(every(15, 90, lambda at: 100 * at), f'{DCGM},{POD},hpc_job="5"')
    store.series += dcgm(every(15, 900, lambda at: 100 * at, 90), f"{DCGM},{POD}").series
    source = MetricsSource(store, clock=timer())
    for end in range(60, 901, 30):
        look = source.read(T + end - 30, T + end).owners
        assert look is not None
        assert {*look.jobs} <= {"job:5"}


SLURM_JOB = 'user="ann",account="phys",gpu_type="H100",instance="n1:9798",job="slurm"'


def slurm_job(store: StoredSamples, number: int, gpus: Iterable[int], until_s: float) -> None:
    for gpu in gpus:
        labels = f'{SLURM_JOB},slurmjobid="{number}",gpu="{gpu}"'
        store.add(f"slurm_job_power_gpu{{{labels}}}", every(15, until_s, lambda at: 3e5, 4))


def two_gpus() -> StoredSamples:
    store = dcgm(every(15, 120, lambda at: 100 * at))
    other = DCGM.replace("GPU-a", "GPU-b").replace('nvidia0"', 'nvidia1"')
    store.series += dcgm(every(15, 120, lambda at: 100 * at), other).series
    return store


def test_slurm_job_exporter_tells_jobs_that_have_all_gpus_of_their_node() -> None:
    store = two_gpus()
    slurm_job(store, 5, [0, 1], 60.0)
    look = owners_of(store)
    assert jobs_of(look) == {"job:5": ("5", "", "ann", "phys")}
    assert {str(each.gpu) for each in look.holdings} == {"n1:0", "n1:1"}
    assert all(each.end_s is not None and 40 < each.end_s - T < 70 for each in look.holdings)


def test_slurm_job_exporter_does_not_tell_which_gpus_of_a_shared_node_a_job_has() -> None:
    """It numbers the GPUs of each job from 0, so both jobs seem to hold the first one."""
    store = two_gpus()
    slurm_job(store, 5, [0], 120.0)
    slurm_job(store, 6, [0], 120.0)
    found = MetricsSource(store).read(T, T + 120)
    assert found.owners is None or not found.owners.holdings
    assert any("does not tell which GPUs of their nodes 2 jobs hold" in note for note in found.notes)


def test_slurm_job_exporter_names_the_users_of_jobs_that_other_labels_tell() -> None:
    store = dcgm(every(15, 120, lambda at: 100 * at), f'{DCGM},hpc_job="5"')
    slurm_job(store, 5, [0], 120.0)
    assert jobs_of(owners_of(store)) == {"job:5": ("5", "", "ann", "phys")}


@pytest.mark.parametrize("pod", ["dcgm-exporter-6ldbb", "somename-gpu-dcgm-exporter-vfbhl", "nvidia-gpu-exporter-7x2"])
def test_an_idle_gpu_is_not_held_by_the_pod_of_its_exporter(pod: str) -> None:
    store = dcgm(every(15, 120, lambda at: 100 * at), f'{DCGM},pod="{pod}",namespace="monitoring"')
    assert MetricsSource(store).read(T, T + 120).owners is None
