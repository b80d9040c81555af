"""A real Slurm gives GPUs out, and PowerFlow sets their clocks, on two hosts with fake GPUs."""

from __future__ import annotations

import contextlib
import math
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from powerflow.beside.slurm_jobs import SlurmRules, external_look
from powerflow.testing.hosts import Hosts
from powerflow.watch.owners import GpuAddress
from powerflow.watch.sources.slurm import COMMAND, read_jobs
from tests.agent.slurm_hooks import EPILOG, PROLOG
from tests.cli.serving import BESIDE
from tests.device.fake_nvml import FakeMachine, Machine, build
from tests.live.slurm_on_hosts import GPUS, TREE, SlurmOnHosts, folder, why_not
from tests.slow import slow

pytestmark = [slow, pytest.mark.skipif(bool(why_not()), reason=why_not() or "")]
pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")

SETTINGS = """
Prolog=/run/conf/powerflow-prolog
Epilog=/run/conf/powerflow-epilog
PrologFlags=Alloc
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP
"""
#: A job computes from the moment that the test lets it until its end.
SCRIPT = """#!/bin/sh
trap 'rm -f /run/home/busy.$SLURM_JOB_ID.*' EXIT
trap 'exit 1' TERM
while [ ! -e /run/home/go ]; do sleep 0.2; done
touch /run/home/busy.$SLURM_JOB_ID.$(hostname).$SLURM_JOB_GPUS
while [ ! -e /run/home/end.$SLURM_JOB_ID ]; do sleep 0.2; done
"""
#: Power of a GPU that is idle, and of one that computes at its highest clock, watts; that clock, MHz.
IDLE_W, BUSY_W, TOP_MHZ = 60.0, 400.0, 1410.0
#: Seconds for which a clock outlives the last word of its controller.
LEASE_S = 30.0
#: Seconds after the Epilog of a job in which its clocks must have gone back; a look at squeue mostly comes later.
BACK_S = 3.0
#: Seconds by which a clock may go back later than its lease ends, on a machine that is busy with other things.
LATE_S = 10.0
#: Seconds between two looks at squeue.
EVERY_S = 10.0
AGENTS, API = 7734, 7733
PROGRAM = BESIDE.format(every_s=EVERY_S, more="")


class Devices:
    """The GPUs of all hosts: their power and utilisation follow what runs on them, and their locked clocks."""

    def __init__(self, slurm: SlurmOnHosts) -> None:
        self.home = slurm.home / "user"
        self.machines: dict[str, FakeMachine] = {}
        self.ahead_s: dict[str, float] = {}  # by how much a host's monotonic clock is ahead of ours
        for i in slurm.hosts.numbers():
            made = Machine(slurm.home, slurm.hosts.disk(i))
            self.machines[slurm.hosts.name(i)] = made.all
            made.all.count = GPUS
            for number in range(GPUS):
                gpu = made.all.gpu[number]
                gpu.uuid, gpu.name = f"GPU-{i:04d}{number:04d}-fake".encode(), b"NVIDIA A100-SXM4-80GB"
                gpu.power_w, gpu.clock_mhz = IDLE_W, TOP_MHZ
            offsets = Path(f"/proc/{slurm.hosts.init_pid(i)}/timens_offsets").read_text().splitlines()
            (words,) = (line.split() for line in offsets if line.startswith("monotonic"))
            self.ahead_s[slurm.hosts.name(i)] = float(words[1]) + 1e-9 * float(words[2])
        self.drawn_j = 0.0
        #: What GPUs drew above their idle power, by the job that computed, joules.
        self.above_idle_j: dict[str, float] = {}
        #: When the clock of each GPU was locked or went back, and which of the two, monotonic seconds.
        self.locks: dict[GpuAddress, list[tuple[float, bool]]] = {}
        #: When the Epilog of each job ran last on each host, monotonic seconds.
        self.epilog_s: dict[tuple[str, str], float] = {}
        self._notes = {
            slurm.hosts.name(i): Path(f"/proc/{slurm.hosts.init_pid(i)}/root/run/powerflow/slurm")
            for i in slurm.hosts.numbers()
        }
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def locked(self) -> set[GpuAddress]:
        """GPUs whose clock is locked."""
        return {
            GpuAddress(host, number)
            for host, machine in self.machines.items()
            for number in range(GPUS)
            if machine.gpu[number].locked_mhz
        }

    def unlocked_s(self, gpu: GpuAddress) -> float:
        """When the clock of a GPU went back last, monotonic seconds."""
        return max((at_s for at_s, locked in self.locks.get(gpu, ()) if not locked), default=math.nan)

    def _run(self) -> None:
        last_s, noted = time.monotonic(), set[tuple[str, str]]()
        while not self._stop.wait(0.02):
            busy = {}
            for path in self.home.glob("busy.*"):
                _, job, host, numbers = path.name.split(".")
                busy.update({GpuAddress(host, int(number)): job for number in numbers.split(",")})
            now_s = time.monotonic()
            before = noted
            noted = {(note.name, host) for host, notes in self._notes.items() for note in notes.glob("[0-9]*")}
            self.epilog_s.update(dict.fromkeys(before - noted, now_s))
            for host, machine in self.machines.items():
                for number in range(GPUS):
                    self._turn(GpuAddress(host, number), machine.gpu[number], busy, now_s, now_s - last_s)
            last_s = now_s

    def _turn(self, at: GpuAddress, gpu: Any, busy: Mapping[GpuAddress, str], now_s: float, passed_s: float) -> None:
        was = self.locks.setdefault(at, [(now_s, False)])
        if (locked := gpu.locked_mhz > 0) is not was[-1][1]:
            was.append((now_s, locked))
        power_w = IDLE_W
        if at in busy:
            power_w += (BUSY_W - IDLE_W) * ((gpu.locked_mhz or TOP_MHZ) / TOP_MHZ) ** 2.4
        self.drawn_j += gpu.power_w * passed_s
        if gpu.power_w > IDLE_W and at in busy:
            self.above_idle_j[busy[at]] = self.above_idle_j.get(busy[at], 0.0) + (gpu.power_w - IDLE_W) * passed_s
        if power_w != gpu.power_w:  # the counter goes on from here, as the library counts
            there_s = now_s + self.ahead_s[at.node]
            if gpu.energy_at_s:
                gpu.energy_mj += gpu.power_w * (there_s - gpu.energy_at_s) * 1e3
                gpu.energy_at_s = there_s
            gpu.power_w = power_w
        gpu.utilisation = 97 if at in busy else 0

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


class Site:
    """Slurm on two hosts, an agent on each, and the controller on the first."""

    def __init__(self, slurm: SlurmOnHosts) -> None:
        self.slurm, self.hosts = slurm, slurm.hosts
        self.devices = Devices(slurm)
        (slurm.home / "user" / "job.sh").write_text(SCRIPT)
        self.state = self.hosts.disk(1) / "state"
        self.agents: dict[int, subprocess.Popen[bytes]] = {}
        self.controller = self.serve()
        slurm.until((self.state / "agents" / "join-token").exists)
        for i in self.hosts.numbers():
            self.start_agent(i)
        slurm.until(self.is_up)
        self.http = httpx.Client(
            base_url=f"http://{self.hosts.address(1)}:{API}/api/v1",
            headers={"Authorization": f"Bearer {(self.state / 'token').read_text().strip()}"},
        )

    def serve(self) -> subprocess.Popen[bytes]:
        """Start the controller."""
        words = [sys.executable, "-c", PROGRAM, "serve", "--beside", "slurm"]
        words += ["--engine", "agents", "--agents", f"{self.hosts.address(1)}:{AGENTS}", "--state-dir", str(self.state)]
        words += ["--host", self.hosts.address(1), "--port", str(API), "--interval", "1", "--lambda", "0.05"]
        return self.start(1, "controller", [*words, "--protect", "partition=urgent"], {})

    def start_agent(self, i: int) -> None:
        """Start the agent of a host."""
        disk = self.hosts.disk(i)
        shutil.copy(self.state / "agents" / "join-token", disk / "join-token")
        words = [sys.executable, "-c", PROGRAM, "agent", "--controller", f"{self.hosts.address(1)}:{AGENTS}"]
        words += ["--token-file", str(disk / "join-token"), "--state-dir", str(disk / "agent")]
        more = {"LD_LIBRARY_PATH": str(self.slurm.home), "FAKE_NVML_STATE": str(disk / "gpus")}
        self.agents[i] = self.start(i, f"agent-{i}", words, more)

    def start(self, i: int, name: str, words: list[str], more: Mapping[str, str]) -> subprocess.Popen[bytes]:
        env = {"SLURM_CONF": "/run/conf/slurm.conf", "PYTHONPATH": f"{TREE / 'src'}:{TREE}", **more}
        with (self.slurm.home / f"{name}.log").open("ab") as log:
            return self.hosts.run(i, words, env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def is_up(self) -> bool:
        with contextlib.suppress(httpx.HTTPError, OSError):
            token = (self.state / "token").read_text().strip()
            url = f"http://{self.hosts.address(1)}:{API}/api/v1/nodes"
            nodes = httpx.get(url, headers={"Authorization": f"Bearer {token}"}).json()["items"]
            names = set(map(self.hosts.name, self.hosts.numbers()))
            return {node["name"] for node in nodes if node["state"] == "up"} == names
        return False

    def submit(self, *words: str) -> str:
        return self.slurm.user(1, "sbatch", "--parsable", "--output=/dev/null", "--mem=10", *words, "job.sh").strip()

    def end(self, job: str) -> None:
        """Let a job end by itself."""
        (self.slurm.home / "user" / f"end.{job}").touch()

    def wanted(self) -> dict[str, set[GpuAddress]]:
        """GPUs of Slurm's running jobs, by job, without those of jobs that are left alone."""
        look = external_look(read_jobs(self.slurm.root(*COMMAND), time.time()), SlurmRules())
        return {
            job.key.removeprefix("slurm:").partition("@")[0]: {
                GpuAddress(host, number) for host, numbers in job.gpus.items() for number in numbers
            }
            for job in look.jobs.values()
            if not job.untouched
        }

    def agree(self, jobs: int) -> None:
        """Wait until exactly the GPUs of so many running jobs have a locked clock."""

        def so() -> bool:
            wanted = self.wanted()
            return len(wanted) == jobs and set().union(*wanted.values()) == self.devices.locked()

        try:
            self.slurm.until(so, 200.0)
        except AssertionError:
            raise AssertionError(f"{self.wanted()} {self.devices.locked()} {self.jobs()}") from None

    def silence(self, gpus: set[GpuAddress]) -> float:
        """Wait until the clocks of these GPUs have gone back, which are all locked; return after how many seconds."""
        began_s = time.monotonic()
        self.slurm.until(lambda: not gpus & self.devices.locked())
        return max(self.devices.unlocked_s(gpu) for gpu in gpus) - began_s

    def back(self, job: str, gpus: set[GpuAddress]) -> float:
        """Wait until a job has ended and its clocks have gone back; return how long after its Epilog, seconds."""
        ran = self.devices.epilog_s
        self.slurm.until(lambda: not gpus & self.devices.locked() and all((job, gpu.node) in ran for gpu in gpus))
        late_s = {gpu: self.devices.unlocked_s(gpu) - ran[job, gpu.node] for gpu in gpus}
        print(job, *(f"{gpu}: {seconds:.2f} s" for gpu, seconds in late_s.items()))
        return max(late_s.values())

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs that the controller knows."""
        found: list[dict[str, Any]] = self.http.get("/jobs", params={"limit": 100}).json()["items"]
        return found

    def close(self) -> None:
        self.devices.close()
        self.http.close()


@pytest.fixture
def site() -> Iterator[Site]:
    with folder() as name:
        home = Path(name)
        (home / "slurm").mkdir()
        for hook in (PROLOG, EPILOG):
            shutil.copy(hook, home / "slurm")
        build(home)
        home.chmod(0o755)
        with Hosts(2, home / "bed") as hosts:
            slurm = SlurmOnHosts(hosts, home, SETTINGS)
            made = Site(slurm)
            try:
                yield made
            finally:
                made.close()
                for log in home.glob("*.log"):
                    lines = [line for line in log.read_text().splitlines() if '"decided"' not in line]
                    print(f"--- {log.name}", *lines[-30:], sep="\n")
        slurm.close()


def test_clocks_are_locked_on_the_gpus_of_slurms_jobs_and_nowhere_else(site: Site) -> None:
    slurm, devices = site.slurm, site.devices
    first, second = (site.hosts.name(i) for i in site.hosts.numbers())
    urgent = site.submit(f"--nodelist={first}", "--gres=gpu:1", "--partition=urgent", "--job-name=urgent")
    alone = site.submit(f"--nodelist={first}", "--gres=gpu:2", "--comment=powerflow:off", "--job-name=alone")
    array = site.submit(f"--nodelist={second}", "--array=1-2", "--gres=gpu:1", "--job-name=tasks")
    again = site.submit(f"--nodelist={second}", "--gres=gpu:1", "--requeue", "--job-name=again")
    site.agree(4)
    slurm.until(lambda: len(site.jobs()) == 5)
    assert [job["priority"] for job in site.jobs() if job["name"] == f"{urgent} urgent"] == ["protected"]
    began = site.wanted()
    (slurm.home / "user" / "go").touch()
    backs_s: list[float] = []

    gpus = site.wanted()[again]
    slurm.root("scontrol", "requeue", again)
    backs_s += [site.back(again, gpus)]
    site.agree(3)

    slurm.root("scontrol", "suspend", urgent)
    time.sleep(2.0 * EVERY_S)
    site.agree(3)  # it still has its GPU
    slurm.root("scontrol", "resume", urgent)

    # their controller is dead: jobs go on, and clocks go back by themselves
    site.controller.kill()
    site.controller.wait()
    silent_s = site.silence(devices.locked())
    assert silent_s < LEASE_S + LATE_S
    site.controller = site.serve()
    slurm.until(site.is_up)
    site.agree(3)

    # an agent is dead, and a host is cut off: its clocks go back, those of the other one stay
    on_first = {gpu for gpu in devices.locked() if gpu.node == first}
    site.agents[2].kill()
    site.agents[2].wait()
    dead_s = site.silence(devices.locked() - on_first)
    assert devices.locked() == on_first
    site.start_agent(2)
    site.agree(3)
    site.hosts.cut(2)
    cut_s = site.silence(devices.locked() - on_first)
    assert max(dead_s, cut_s) < LEASE_S + LATE_S
    assert devices.locked() == on_first
    site.hosts.mend(2)
    site.agree(3)

    # two hosts, beside those; and the requeued job runs once more, on another GPU perhaps
    wide = site.submit("--nodes=2", "--gpus-per-node=1", "--job-name=wide")
    slurm.root("scontrol", "update", f"JobId={again}", "StartTime=now")
    site.agree(5)
    gpus_of = site.wanted()
    assert {gpu.node for gpu in gpus_of[wide]} == {first, second}
    site.end(urgent)
    slurm.root("scancel", wide, array)
    site.end(alone)
    site.end(again)
    backs_s += [site.back(job, gpus) for job, gpus in gpus_of.items()]
    print("clocks were back after", *(f"{back_s:.2f} s" for back_s in backs_s), "after the Epilog of their job")
    print(f"controller dead: {silent_s:.1f} s; agent dead: {dead_s:.1f} s; host cut off: {cut_s:.1f} s")
    assert max(backs_s) < BACK_S
    slurm.until(lambda: not slurm.root("squeue", "--noheader"))
    slurm.until(lambda: all(job["state"] not in ("running", "queued") for job in site.jobs()))
    assert not devices.locked()
    assert sorted((job["name"], job["state"], job["exit"]) for job in site.jobs()) == sorted(
        [
            (f"{urgent} urgent", "completed", "completed"),
            (f"{alone} alone", "completed", "completed"),
            (f"{array}_1 tasks", "cancelled", "Slurm: CANCELLED"),
            (f"{array}_2 tasks", "cancelled", "Slurm: CANCELLED"),
            (f"{again} again", "cancelled", "Slurm: REQUEUED"),
            (f"{again} again", "completed", "completed"),
            (f"{wide} wide", "cancelled", "Slurm: CANCELLED"),
        ]
    )
    # nobody ever wrote a clock to the GPUs of the job that is left alone
    of_alone = {GpuAddress(first, number) for number in range(GPUS) if not devices.machines[first].gpu[number].sets}
    assert len(of_alone) >= 2
    # joules: what the job drew above idle, and idle power from the first lock of its clock to the last
    energy_j: dict[str, float] = {}
    for job in site.jobs():
        name = job["name"].partition(" ")[2]
        energy_j[name] = energy_j.get(name, 0.0) + job["energy_j"]
    held_s = {
        gpu: site.devices.locks[gpu][-1][0] - site.devices.locks[gpu][1][0] for gpus in began.values() for gpu in gpus
    }
    for name, numbers in (("urgent", [urgent]), ("tasks", [job for job in began if job not in (urgent, again)])):
        truth_j = sum(devices.above_idle_j[job] for job in numbers)
        truth_j += IDLE_W * sum(held_s[gpu] for job in numbers for gpu in began[job])
        print(f"{name}: {energy_j[name]:.0f} J counted, {truth_j:.0f} J drawn")
        assert energy_j[name] == pytest.approx(truth_j, rel=0.02)
    assert energy_j["alone"] > devices.above_idle_j[alone]
    assert sum(energy_j.values()) < devices.drawn_j
