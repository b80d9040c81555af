"""A real Slurm on several hosts runs the hooks: the notes are the jobs that hold GPUs, whatever happens to them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from powerflow.testing.hosts import Hosts
from powerflow.watch.sources.slurm import COMMAND, read_jobs
from tests.agent.slurm_hooks import EPILOG, PROLOG
from tests.live.slurm_on_hosts import TREE, SlurmOnHosts, folder, why_not
from tests.slow import slow

pytestmark = [slow, pytest.mark.skipif(bool(why_not()), reason=why_not() or "")]

SETTINGS = """
Prolog=/run/conf/powerflow-prolog
Epilog=/run/conf/powerflow-epilog
PrologFlags=Alloc
"""
#: A job says on its first host which GPUs it has and, five times a second, that it runs.
SCRIPT = """#!/bin/sh
said=/run/home/said.$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}
echo "$(hostname) $SLURM_JOB_GPUS" >$said
until=$(($(date +%s) + ${1:-3}))
while [ $(date +%s) -lt $until ]; do
    date +%s.%N >>$said
    sleep 0.2
done
"""
#: What the agent sees on a host: a line whenever the notes have changed.
RECORDER = """
import json, select, sys, time
from dataclasses import asdict
from powerflow.agent.slurm_notes import SlurmNotes
notes = SlurmNotes()
while True:
    if notes.changed():
        seen = {id: asdict(note) for id, note in notes.look().items()}
        print(json.dumps({"at_s": time.time(), "notes": seen, "notices": notes.notices()}), flush=True)
    select.select([notes.fileno()], [], [])
"""


class Stay(NamedTuple):
    """The time for which a job held GPUs of a host, by its notes."""

    job: str
    gpus: tuple[int, ...]
    since_s: float
    until_s: float


class Site:
    """Slurm on two hosts, and what the notes of each of them said at each moment."""

    def __init__(self, slurm: SlurmOnHosts) -> None:
        self.slurm = slurm
        self._files: dict[str, Path] = {}
        for i in slurm.hosts.numbers():
            file = self._files[slurm.hosts.name(i)] = slurm.home / f"notes-{i}.jsonl"
            words = [sys.executable, "-c", RECORDER]
            with file.open("w") as output:
                slurm.hosts.run(i, words, {"PYTHONPATH": str(TREE / "src")}, stdin=subprocess.DEVNULL, stdout=output)
        (slurm.home / "user" / "job.sh").write_text(SCRIPT)

    def submit(self, *words: str) -> str:
        return self.slurm.user(1, "sbatch", "--parsable", "--output=/dev/null", *words).strip()

    def looks(self, host: str) -> list[dict[str, Any]]:
        """What was seen on a host, in the order of time."""
        return [json.loads(line) for line in self._files[host].read_text().splitlines()]

    def noted(self) -> dict[tuple[str, str], tuple[int, ...]]:
        """GPUs by host and job, as of the notes now."""
        return {
            (host, job): tuple(note["gpus"])
            for host in self._files
            for job, note in (self.looks(host) or [{"notes": {}}])[-1]["notes"].items()
        }

    def held(self) -> dict[tuple[str, str], tuple[int, ...]]:
        """GPUs by host and job, as Slurm's controller tells now."""
        found: dict[tuple[str, str], tuple[int, ...]] = {}
        for holding in read_jobs(self.slurm.root(*COMMAND), time.time()).holdings:
            at = holding.gpu.node, holding.job.removeprefix("slurm:").partition("@")[0]
            found[at] = tuple(sorted((*found.get(at, ()), holding.gpu.number)))
        return found

    def agree(self, jobs: int) -> None:
        """Wait until the notes are what Slurm tells, with this many jobs."""

        def so() -> bool:
            held = self.held()
            return len({job for _, job in held}) == jobs and self.noted() == held

        self.slurm.until(so, 300.0)

    def stays(self) -> list[tuple[str, Stay]]:
        """By host: each time for which a job held GPUs."""
        found = []
        for host in self._files:
            begun: dict[str, Any] = {}
            for look in self.looks(host):
                for job in [job for job in begun if job not in look["notes"]]:
                    note = begun.pop(job)
                    found.append((host, Stay(job, tuple(note["gpus"]), note["since_s"], look["at_s"])))
                for job, note in look["notes"].items():
                    begun.setdefault(job, note)
            assert begun == {}, "a note was left"
        return found


@pytest.fixture
def site() -> Iterator[Site]:
    with folder() as name:
        home = Path(name)
        (home / "slurm").mkdir()
        for hook in (PROLOG, EPILOG):
            shutil.copy(hook, home / "slurm")
        with Hosts(2, home / "bed") as hosts:
            slurm = SlurmOnHosts(hosts, home, SETTINGS)
            yield Site(slurm)
        slurm.close()


def test_the_notes_are_the_jobs_that_hold_gpus(site: Site) -> None:
    slurm = site.slurm
    first, second = (slurm.hosts.name(i) for i in slurm.hosts.numbers())
    opted_out = site.submit(f"--nodelist={first}", "--gres=gpu:2", "--comment=powerflow:off", "job.sh", "8")
    beside = site.submit(f"--nodelist={first}", "--gres=gpu:1", "--comment=a\ngpus=7\nend=1", "job.sh", "600")
    array = site.submit(f"--nodelist={second}", "--array=1-2", "--gres=gpu:1", "job.sh", "600")
    site.submit(f"--nodelist={first}", "job.sh", "600")  # without GPUs
    site.agree(4)
    notes = site.looks(first)[-1]["notes"]
    assert {job: note["comment"] for job, note in notes.items()} == {
        opted_out: "powerflow:off",
        beside: "a gpus=7 end=1",
    }
    assert {(note["user"], note["partition"], note["array"]) for note in notes.values()} == {("nobody", "all", "")}

    site.agree(3)  # one has ended
    slurm.root("scancel", beside, f"{array}_1")
    site.agree(1)
    slurm.root("scancel", array)
    site.agree(0)

    wide = site.submit("--nodes=2", "--gpus-per-node=2", "job.sh", "600")  # no step runs on the second host
    parts = site.submit("--gres=gpu:1", ":", "--gres=gpu:2", "job.sh", "600")  # one job of two parts
    site.agree(3)
    assert {(first, wide), (second, wide)} <= site.noted().keys()
    assert {job for _, job in site.noted()} == {wide, parts, str(int(parts) + 1)}
    slurm.root("scancel", wide, parts)
    site.agree(0)

    again = site.submit("--gres=gpu:3", "--requeue", "job.sh", "600")
    limited = site.submit("--gres=gpu:1", "--time=1", "job.sh", "600")
    site.agree(2)
    slurm.root("scontrol", "requeue", again)
    site.agree(1)
    slurm.until((slurm.home / "user" / f"said.{again}.1").exists, 300.0)  # Slurm lets it wait for two minutes
    site.agree(1)
    slurm.root("scancel", again)
    site.agree(0)

    stays = site.stays()
    assert [stay.job for _, stay in stays].count(again) == 2
    assert limited in {stay.job for _, stay in stays}
    for host in (first, second):
        for look in site.looks(host):
            gpus = [gpu for note in look["notes"].values() for gpu in note["gpus"]]
            assert len(gpus) == len(set(gpus)), "two jobs hold one GPU"
            assert look["notices"] == []
    with_gpus = 0
    for path in (slurm.home / "user").glob("said.*"):
        (host, *numbers), *moments = (line.split() for line in path.read_text().splitlines())
        if numbers:
            with_gpus += 1
            held, (begun_s,), (last_s,) = tuple(map(int, numbers[0].split(","))), moments[0], moments[-1]
            assert any(
                (at, stay.job, stay.gpus) == (host, path.name.split(".")[1], held)
                and stay.since_s <= float(begun_s) <= float(last_s) <= stay.until_s
                for at, stay in stays
            ), path
    assert with_gpus == 9  # one was started twice; the second part of the heterogeneous job runs no script


def test_a_job_that_ended_while_slurmd_was_away_loses_its_note_when_it_is_back(site: Site) -> None:
    slurm = site.slurm
    second = slurm.hosts.name(2)
    job = site.submit(f"--nodelist={second}", "--gres=gpu:1", "job.sh", "600")
    site.agree(1)
    slurm.hosts.output(2, ["pkill", "-x", "slurmd"])
    slurm.root("scancel", job)
    time.sleep(2.0)
    assert site.noted() == {(second, job): (0,)}
    slurm.start_node(2)
    slurm.until(lambda: site.noted() == {})
    site.agree(0)
