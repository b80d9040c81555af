"""`powerflow watch --controller`: the GPUs and jobs of a controller, seen with a viewer's token."""

from __future__ import annotations

import pytest

from powerflow.api.records import JobState
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.site.controller_gpus import ControllerGpus, ControllerJobs
from powerflow.watch.owners import GpuAddress, OwnersLook
from powerflow.watch.watcher import Watcher, restored, state_of
from tests.cli.shell import Shell

#: Watts of a GPU that a job holds, and of one that nobody holds.
BUSY_W, IDLE_W = 200.0, 50.0


@pytest.fixture
def viewer(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """One job that may run; those who look on may only read."""
    shell("submit", "--run", "python t.py", "--name", "bert", "--project", "vision")
    monkeypatch.setenv("POWERFLOW_TOKEN", "pf_viewer")
    return shell


class Looks:
    """A watch of the fake cluster, by the cluster's clock."""

    def __init__(self, shell: Shell, watcher: Watcher | None = None) -> None:
        self.cluster = shell.cluster
        self.gpus = ControllerGpus(ControllerClient(shell.url, "pf_viewer"))
        self.jobs = ControllerJobs(self.gpus)
        self.watcher = watcher or Watcher()

    def __call__(self, lasts_s: float = 30.0, busy: int = 0) -> OwnersLook:
        """Let time go by, in which some GPUs of n1 compute; then look."""
        self.cluster.now_s += lasts_s
        for node in ("n1", "n2"):
            for i in range(4):
                watts = BUSY_W if node == "n1" and i < busy else IDLE_W
                self.cluster.counters_j[node, i] = self.cluster.counters_j.get((node, i), 1e6) + lasts_s * watts
        now_s = self.cluster.now_s
        readings = self.gpus.read(now_s - 60.0, now_s)
        assert not readings.notes
        owners = self.jobs.look(now_s)
        self.watcher.take(readings, owners)
        return owners


def test_one_look_shows_jobs_and_power_to_a_viewer(viewer: Shell) -> None:
    viewer.cluster.run("1", gpus=2)
    found = viewer.json("watch", "--once", "--owners", "controller", "--controller", viewer.url)
    (job,) = found["jobs"]
    assert (job["id"], job["name"], job["user"], job["account"]) == ("1", "bert", "ada", "vision")
    assert (job["gpus"], job["power_w"], job["utilisation"]) == (["n1:0", "n1:1"], 402.0, 0.97)
    assert (found["gpus"], found["free_gpus"], found["free_power_w"], found["emulated"]) == (8, 6, 300.0, True)
    assert found["sources"] == f"readings: the controller at {viewer.url}; who holds them: the controller's own jobs"


def test_a_job_has_the_joules_of_the_counters_and_the_end_that_the_controller_tells(viewer: Shell) -> None:
    viewer.cluster.now_s -= 3600.0  # it will go ahead
    look = Looks(viewer)
    look()
    viewer.cluster.run("1", gpus=2)
    for _ in range(10):
        look(busy=2)
    viewer.cluster.end("1")
    ended_s = viewer.cluster.now_s
    (job,) = look().jobs.values()
    assert (job.end_s, job.state) == (ended_s, "completed")
    look()
    settled = look.watcher.settle(viewer.cluster.now_s, all_of_it=True)
    _, use = settled.jobs["powerflow:1"]
    # readings are half a second old: a change of the owner half a second before one is a small part of 300 s
    assert use.energy_j == pytest.approx(10 * 30.0 * 2 * BUSY_W, rel=0.01)
    assert use.gpu_s == pytest.approx(600.0, abs=2.0)


def test_a_job_that_moves_waits_and_goes_on_stays_one_job(viewer: Shell) -> None:
    viewer.cluster.now_s -= 3600.0  # it will go ahead
    look = Looks(viewer)
    look()
    viewer.cluster.run("1", gpus=1)
    first_s = viewer.cluster.now_s
    assert {each.gpu for each in look(busy=1).holdings} == {GpuAddress("n1", 0)}
    viewer.cluster.change("1", gpus=2)
    moved_s = viewer.cluster.now_s
    grown = {each.gpu: each for each in look(busy=2).holdings}
    assert grown[GpuAddress("n1", 0)].start_s == first_s
    more = grown[GpuAddress("n1", 1)]
    assert more.start_s - more.slack_s <= moved_s <= more.start_s + more.slack_s
    viewer.cluster.change("1", gpus=0, nodes=(), state=JobState.QUEUED)
    waiting = look()
    assert ([*waiting.jobs], waiting.holdings) == (["powerflow:1"], [])
    look.watcher.settle(viewer.cluster.now_s, all_of_it=True)
    again = Looks(viewer, restored(state_of(look.watcher), look.watcher.uses))  # the watch was started again
    again()
    viewer.cluster.change("1", gpus=2, nodes=("n1",), state=JobState.RUNNING)
    for _ in range(3):
        again(busy=2)
    again.watcher.settle(viewer.cluster.now_s, all_of_it=True)
    (use,) = again.watcher.uses.values()
    # 30 s on one GPU, then 30 s and 90 s on two; when it moved, and waited, is known to half a look
    assert use.energy_j == pytest.approx(BUSY_W * (30.0 + 2 * 30.0 + 2 * 90.0), rel=0.1)
    assert use.low_j <= BUSY_W * (30.0 + 2 * 30.0 + 2 * 90.0) <= use.high_j


def test_it_is_refused_in_one_line(viewer: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    once = ["watch", "--once", "--controller", viewer.url]
    assert "two sources" in viewer(*once, "--prometheus", "http://127.0.0.1:9", code=2)
    assert "a controller tells no labels" in viewer(*once, "--owners", "labels", code=2)
    assert "name one: --controller URL" in viewer("watch", "--once", "--owners", "controller", code=2)
    assert "no controller at" in viewer("watch", "--once", "--controller", "http://127.0.0.1:9", code=5)
    monkeypatch.setenv("POWERFLOW_TOKEN", "pf_stranger")
    refused = viewer(*once, code=5)
    assert refused.count("powerflow: ") == 1
    assert "--token-file" in refused


def test_clocks_that_differ_are_said(viewer: Shell) -> None:
    gpus = ControllerGpus(ControllerClient(viewer.url, "pf_viewer"))
    ahead = gpus.read(0.0, viewer.cluster.now_s - 300.0).notes
    assert ["ahead of this machine's" in note for note in ahead] == [True]
    behind = gpus.read(0.0, viewer.cluster.now_s + 300.0).notes
    assert ["its newest reading is" in note for note in behind] == [True]
