"""`powerflow watch` and `poc` on a site with accounts: real Slurm with slurmdbd, real Prometheus, fake NVML.

Jobs of two users: plain, array, heterogeneous, on two nodes, held, suspended, requeued, cancelled, over their time
limit, and lost with their node. Each run has the owner and the times that `sacct` names, and the joules that the GPUs
truly drew. It takes six minutes, mostly of waiting.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from powerflow.testing.hosts import Hosts
from tests.device import fake_nvml
from tests.live.slurm_on_hosts import GPUS, TREE, USER, folder
from tests.slow import slow
from tests.watch.accounted_slurm import ACCOUNTS, AccountedSlurm, why_not
from tests.watch.device_host import IDLE_W
from tests.watch.exporter import PROMETHEUS

pytestmark = [
    slow,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or ""),
    pytest.mark.skipif(PROMETHEUS is None, reason="there is no prometheus (Debian: prometheus)"),
]

POWERFLOW = str(Path(sys.executable).with_name("powerflow"))
OTHER = next(user for user in ACCOUNTS if user != USER)
#: usage: work.sh WATTS LOAD_S LASTS_S: hold the job's GPUs of this node; load data, then draw WATTS on each.
WORK = """#!/bin/sh
job=$SLURM_JOB_ID
[ -n "$SLURM_ARRAY_JOB_ID" ] && job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
here=/run/home/gpus/$(hostname).$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}.$$
from=$(($(date +%s) + $2))
echo "$$ $job ${SLURM_RESTART_COUNT:-0} $CUDA_VISIBLE_DEVICES $1 $from" > $here.new && mv $here.new $here
exec sleep $3
"""
STEPS = '#!/bin/sh\nsrun "$@"\n'
LOG = "JobID,JobName,User,Account,Partition,QOS,Submit,Start,End,ElapsedRaw,Timelimit,State,AllocTRES,ReqTRES"


class Site:
    """The site: Slurm, and on each host its GPUs with an exporter; a Prometheus on host 1."""

    def __init__(self, hosts: Hosts, home: Path) -> None:
        self.hosts, self.slurm, self.home = hosts, AccountedSlurm(hosts, home), home / "user"
        fake_nvml.build(self.home)
        for name, text in (("work.sh", WORK), ("steps.sh", STEPS)):
            (self.home / name).write_text(text)
            (self.home / name).chmod(0o755)
        for i in hosts.numbers():
            state = hosts.disk(i) / "gpus.d"
            program = [sys.executable, "-m", "tests.watch.device_host", "/run/home", str(state), str(GPUS), "9400"]
            env = {"LD_LIBRARY_PATH": "/run/home", "FAKE_NVML_STATE": str(state / "gpus"), "PYTHONPATH": str(TREE)}
            hosts.run(i, program, env, cwd=str(TREE), stdin=subprocess.DEVNULL)
        targets = [f"{hosts.address(i)}:9400" for i in hosts.numbers()]
        scraped = {"job_name": "dcgm", "static_configs": [{"targets": targets}]}
        config = {"global": {"scrape_interval": "5s", "scrape_timeout": "4s"}, "scrape_configs": [scraped]}
        (self.home / "prometheus.yml").write_text(json.dumps(config))
        prometheus = ["prometheus", "--config.file=/run/home/prometheus.yml", "--storage.tsdb.path=/run/prom"]
        hosts.run(1, [*prometheus, "--web.listen-address=127.0.0.1:9090", "--log.level=error"])
        self.slurm.until(self._scraped)
        self.jobs: dict[str, str] = {}
        self.began_s = time.time()

    def _scraped(self) -> bool:
        with contextlib.suppress(subprocess.CalledProcessError):
            return bool(self.once("root")["gpus"] == len(self.hosts.numbers()) * GPUS)
        return False

    def submit(self, name: str, user: str, *words: str) -> None:
        usual = ["--output=/dev/null", "--mem=100", f"--job-name={name}"]
        self.jobs[name] = self.slurm.submit(user, *usual, *words)

    def at(self, when_s: float) -> None:
        """Wait until so many seconds after the first job."""
        time.sleep(max(self.began_s + when_s - time.time(), 0.0))

    def watch(self, *words: str) -> subprocess.Popen[Any]:
        command = [POWERFLOW, "watch", "--json", "--prometheus", "http://127.0.0.1:9090", *words]
        env = {"SLURM_CONF": "/run/conf/slurm.conf", "PYTHONPATH": str(TREE)}
        return self.hosts.run(1, command, env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def once(self, user: str) -> Any:
        """What a user sees now."""
        words = [POWERFLOW, "watch", "--once", "--json", "--prometheus", "http://127.0.0.1:9090"]
        return json.loads(self.slurm.user(1, *words, name=user))

    def hide(self, kinds: str) -> None:
        """Hide this from users."""
        conf = self.home.parent / "slurm" / "slurm.conf"
        lines = [line for line in conf.read_text().splitlines() if not line.startswith("PrivateData")]
        conf.write_text("\n".join([*lines, f"PrivateData={kinds}", ""]))
        self.slurm.root("scontrol", "reconfigure")
        time.sleep(2.0)

    def truth(self) -> dict[tuple[str, int], tuple[float, float]]:
        """Return joules and GPU-seconds by job and restart, as the devices counted them."""
        found: dict[tuple[str, int], tuple[float, float]] = {}
        for i in self.hosts.numbers():
            for key, (joules, gpu_s) in json.loads(
                (self.home / f"truth.{self.hosts.name(i)}.json").read_text()
            ).items():
                job, restart, _ = key.split()
                before = found.get((job, int(restart)), (0.0, 0.0))
                found[job, int(restart)] = (before[0] + joules, before[1] + gpu_s)
        return found


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with folder() as home:
        (Path(home) / "bed").mkdir()
        with Hosts(2, Path(home) / "bed") as hosts:
            site = Site(hosts, Path(home))
            yield site
        site.slurm.close()


def seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def test_each_run_has_the_owner_and_times_of_sacct_and_the_joules_it_drew(site: Site, tmp_path: Path) -> None:
    slurm, work = site.slurm, "/run/home/work.sh"
    watching = site.watch("--file", "/run/home/w.db")
    time.sleep(5.0)
    site.began_s = time.time()
    site.submit("plain", USER, "--gres=gpu:1", work, "300", "5", "70")
    site.submit("tasks", OTHER, "--array=1-2", "--gres=gpu:1", work, "200", "3", "45")
    site.submit("held", USER, "--hold", "--gres=gpu:1", work, "220", "2", "50")
    site.submit("wide", OTHER, "-N2", "--gres=gpu:1", "/run/home/steps.sh", work, "350", "5", "60")
    site.submit("again", USER, "--gres=gpu:1", work, "250", "5", "300")
    site.submit("paused", OTHER, "--gres=gpu:1", work, "310", "5", "100")
    site.submit("limit", OTHER, "--gres=gpu:1", "--time=1", work, "290", "5", "300")
    het = ["--gres=gpu:1", ":", "--gres=gpu:2", "/run/home/steps.sh", "--het-group=0,1", work, "330", "5", "60"]
    site.submit("het", USER, *het)
    site.at(35.0)
    slurm.root("scontrol", "suspend", site.jobs["paused"])
    site.at(70.0)
    slurm.root("scontrol", "requeue", site.jobs["again"])
    slurm.root("scontrol", "resume", site.jobs["paused"])
    slurm.root("scontrol", "release", site.jobs["held"])
    site.submit("stopped", USER, "--gres=gpu:1", work, "270", "5", "300")
    site.at(105.0)
    slurm.root("scancel", site.jobs["stopped"], site.jobs["again"])
    slurm.until(lambda: not slurm.root("squeue", "--noheader", "--format=%i").split(), 180.0)
    second = site.hosts.name(2)
    site.submit("lost", OTHER, "--gres=gpu:2", "--requeue", "-w", second, work, "280", "5", "300")
    time.sleep(40.0)
    site.hosts.cut(2)
    slurm.until(lambda: "down" in slurm.root("sinfo", "--noheader", "--nodes", second, "--format=%t"))
    slurm.root("scancel", site.jobs["lost"])
    site.hosts.mend(2)
    time.sleep(35.0)
    watching.send_signal(2)
    _, said = watching.communicate(timeout=60)
    assert (watching.returncode, "Traceback" in said) == (0, False), said
    text = slurm.root("sacct", "-a", "-X", "-P", "-D", "-S", "2020-01-01", "-o", LOG)
    (tmp_path / "log.txt").write_text(text)
    head, *rows = (line.split("|") for line in text.splitlines())
    logged = [dict(zip(head, row, strict=True)) for row in rows]
    ran = {
        (row["JobID"], seconds(row["Start"])): row
        for row in logged
        if row["Start"][0] == "2" and row["ElapsedRaw"] != "0"
    }
    summed = slurm.root(POWERFLOW, "watched", "--file", "/run/home/w.db", "--since", "1h", "--by", "job", "--json")
    lines = {(line["name"], line["start_s"]): line for line in json.loads(summed)["lines"]}
    pairs = [(row, line) for key, row in ran.items() for other, line in lines.items() if _same(key, other)]
    assert len(pairs) == len(ran) == len(lines) == 12
    truth, shown = site.truth(), {row["JobName"]: (row, line) for row, line in pairs}
    for row, line in pairs:
        assert (line["user"], line["account"], line["label"]) == (row["User"], row["Account"], row["JobName"])
        assert line["end_s"] == pytest.approx(seconds(row["End"]) + 0.5, abs=1.0)
        if row["JobName"] not in ("lost", "het"):
            joules, _ = truth[row["JobID"], 0]
            assert line["energy_j"] == pytest.approx(joules, rel=0.03), row["JobName"]
            assert line["low_j"] <= joules <= line["high_j"], row["JobName"]
    whole = [line["energy_j"] for row, line in pairs if row["JobName"] == "het"]
    assert len(whole) == 2
    assert sum(whole) == pytest.approx(truth[site.jobs["het"], 0][0], rel=0.03)
    row, line = shown["lost"]
    lasts_s = seconds(row["End"]) - seconds(row["Start"])
    drew_j = 2 * (IDLE_W * 5.0 + 280.0 * (lasts_s - 5.0))  # after that Slurm no longer gave it the GPUs
    assert line["low_j"] - 1000.0 <= drew_j <= line["high_j"] + 1000.0
    assert row["State"] == "NODE_FAIL"
    file = str(site.home / "w.db")
    done = subprocess.run(
        [POWERFLOW, "poc", str(tmp_path / "log.txt"), "--cluster", "2x4:A100", "--file", file, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert "fewer than 7" in done.stderr or "less than 7 days" in done.stderr
    measured = json.loads(done.stdout)["measured"]
    assert (measured["runs"], measured["unmatched_runs"]) == (12, 0)


def _same(logged: tuple[str, float], watched: tuple[str, float]) -> bool:
    return logged[0] == watched[0] and abs(logged[1] - watched[1]) < 3.0


def test_gpus_of_hidden_jobs_are_not_free(site: Site) -> None:
    slurm = site.slurm
    slurm.until(lambda: slurm.root("sinfo", "--noheader", "--format=%t").split() == ["idle"])
    first = site.hosts.name(1)
    site.submit("mine", USER, "-w", first, "--gres=gpu:1", "/run/home/work.sh", "250", "2", "100")
    site.submit("secret", OTHER, "-w", first, "--gres=gpu:2", "/run/home/work.sh", "300", "2", "100")
    slurm.until(lambda: len(slurm.root("squeue", "--noheader", "--states=running").splitlines()) == 2)
    time.sleep(15.0)
    site.hide("jobs")
    found = site.once(USER)
    assert [job["name"] for job in found["jobs"]] == ["mine"]
    # GPUs without a type: Slurm tells how many are given out, and not which
    assert (found["free_gpus"], found["hidden_gpus"], found["gpus"]) == (4, 3, 8)
    assert found["hidden_power_w"] >= 600.0
    seen = site.once(OTHER)
    assert [job["name"] for job in seen["jobs"]] == ["secret"]
    assert (seen["free_gpus"], seen["hidden_gpus"]) == (4, 2)
    site.hide("jobs,nodes")
    found = site.once(USER)
    assert ([job["name"] for job in found["jobs"]], found["free_gpus"]) == (["mine"], None)
    assert any("run this as a user who may see them" in note for note in found["notes"])
