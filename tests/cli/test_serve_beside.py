"""``powerflow serve --beside slurm`` on one machine, with fake GPUs and a ``squeue`` that a test has written."""

from __future__ import annotations

import json
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from powerflow.cli.main import main
from tests.agent.own import end_agent
from tests.cli.serving import BESIDE
from tests.device.fake_nvml import Machine, build

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")

#: On a machine that is busy with other things.
MOST_S = 120.0
#: A squeue that hangs counts as silent after a second, and a job that is not listed has ended soon.
IMPATIENT = """
from powerflow.live import external_door
from powerflow.watch.sources import slurm
slurm.ask_slurm = functools.partial(slurm.ask_slurm, timeout_s=1.0)
external_door.MISSING_S = 0.5
"""
#: Runs the file ``squeue.sh``, which a test replaces.
SQUEUE = '#!/bin/sh\nexec sh "$(dirname "$0")/squeue.sh"\n'
SCONTROL = "#!/bin/sh\necho 'PrivateData             = none'\n"
BEGAN_S = 1_795_889_932


def slurm_job(number: int, gpus: str = "", **values: Any) -> dict[str, Any]:
    """A running job, as Slurm 22.05 writes it."""
    return {
        "account": "vision",
        "array_job_id": 0,
        "array_task_id": None,
        "comment": "",
        "end_time": BEGAN_S + 10**7,
        "gres_detail": [f"gpu:1(IDX:{gpus})"] if gpus else [],
        "job_id": number,
        "job_state": "RUNNING",
        "name": "train",
        "nodes": platform.node().partition(".")[0],
        "partition": "all",
        "start_time": BEGAN_S,
        "submit_time": BEGAN_S - 2,
        "tres_alloc_str": "cpu=1,node=1,billing=1",
        "user_name": "ada",
        **values,
    }


def slurm_end(number: int, state: str, **values: Any) -> dict[str, Any]:
    """The same job when it has ended, just now."""
    return slurm_job(number, job_state=state, end_time=int(time.time()), **values)


class Site:
    """A machine of four GPUs whose jobs are Slurm's, and the controller beside it."""

    def __init__(self, directory: Path) -> None:
        library, self.bin, self.state = directory / "nvml", directory / "bin", directory / "state"
        self.log = directory / "log"
        library.mkdir()
        self.bin.mkdir()
        for name, text in (("squeue", SQUEUE), ("scontrol", SCONTROL)):
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)
        self.machine = Machine(build(library), directory)
        self.machine.all.count = 4
        for index in range(4):
            gpu = self.machine.gpu[index]
            gpu.uuid, gpu.name = f"GPU-{index:08d}-fake".encode(), b"NVIDIA A100-SXM4-80GB"
            gpu.power_w, gpu.clock_mhz = 60.0, 1410.0
        self.tells()
        self.process = self.start()

    def start(self) -> subprocess.Popen[str]:
        words = [
            sys.executable,
            "-c",
            BESIDE.format(every_s=0.3, more=IMPATIENT),
            "serve",
            "--state-dir",
            str(self.state),
            "--port",
            "0",
        ]
        env = {**self.machine.env, "POWERFLOW_STATE": str(self.state)}
        words += ["--interval", "0.5", "--lambda", "0.05", "--beside", "slurm", "--protect", "partition=urgent"]
        with self.log.open("a") as log:
            process = subprocess.Popen(
                words,
                env={**env, "PATH": f"{self.bin}:{env['PATH']}"},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("powerflow serves 4 GPUs"), line
        return process

    # -- Slurm --------------------------------------------------------------------------------------------------------

    def tells(self, *jobs: dict[str, Any]) -> None:
        """Let Slurm tell these jobs from now on."""
        (self.bin / "jobs.json").write_text(json.dumps({"jobs": jobs}))
        self.does('cat "$(dirname "$0")/jobs.json"')

    def does(self, script: str) -> None:
        """Let ``squeue`` do this from now on."""
        (self.bin / "new.sh").write_text(script + "\n")
        (self.bin / "new.sh").replace(self.bin / "squeue.sh")

    # -- PowerFlow ----------------------------------------------------------------------------------------------------

    def run(self, *argv: str) -> tuple[int, str, str]:
        """A command's exit code, output and complaint."""
        with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
            code = main([*argv, "--state-dir", str(self.state)])
        return code, out.getvalue(), err.getvalue()

    def ask(self, *argv: str) -> Any:
        code, out, err = self.run(*argv, "--json")
        assert code == 0, err
        return json.loads(out)

    def jobs(self) -> dict[str, dict[str, Any]]:
        """All jobs, by what they are called here: Slurm's number and name."""
        return {job["name"]: job for job in self.ask("queue", "--all")["jobs"]}

    def running(self) -> list[str]:
        """Names of the jobs that run."""
        return sorted(job["name"] for job in self.ask("queue")["jobs"] if job["state"] == "running")

    def locked(self) -> list[bool]:
        """Of each GPU, whether its clock is locked."""
        return [self.machine.gpu[index].locked_mhz > 0 for index in range(4)]

    def until(self, holds: Callable[[], bool]) -> None:
        until_s = time.monotonic() + MOST_S
        while not holds():
            assert time.monotonic() < until_s, f"{self.locked()} {self.jobs()} {self.notices()}"
            time.sleep(0.1)

    def notices(self) -> list[str]:
        """What operators are told of Slurm."""
        return [notice for notice in self.ask("top")["notices"] if "Slurm" in notice]

    def close(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=MOST_S)
        end_agent(self.state)
        self.machine.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("beside"))
    yield made
    made.close()


def test_jobs_of_slurm_have_their_clocks_from_begin_to_end(site: Site) -> None:
    left_alone = slurm_job(12, "3", comment="powerflow:off")
    urgent = slurm_job(13, "0", partition="urgent", array_job_id=70, array_task_id=4)
    site.tells(slurm_job(11, "1-2"), left_alone, urgent)
    site.until(lambda: site.locked() == [True, True, True, False])
    jobs = site.jobs()
    assert jobs.keys() == {"11 train", "12 train", "70_4 train"}
    assert {(job["state"], job["user"], job["project"]) for job in jobs.values()} == {("running", "ada", "vision")}
    assert [jobs[name]["priority"] for name in ("11 train", "70_4 train")] == ["normal", "protected"]
    site.until(lambda: all(job["energy_j"] > 0 for job in site.jobs().values()))  # also what is left alone is metered

    site.tells(slurm_end(11, "COMPLETED"), slurm_end(12, "FAILED"), urgent)
    site.until(lambda: site.locked() == [True, False, False, False])
    site.until(lambda: site.jobs()["12 train"]["state"] == "failed")
    assert site.machine.gpu[3].sets == 0
    jobs = site.jobs()
    assert [(jobs[name]["state"], jobs[name]["exit"]) for name in ("11 train", "12 train")] == [
        ("completed", "completed"),
        ("failed", "Slurm: FAILED"),
    ]
    site.tells(slurm_end(13, "CANCELLED", array_job_id=70, array_task_id=4))
    site.until(lambda: site.jobs()["70_4 train"]["state"] == "cancelled" and not any(site.locked()))


def test_a_gpu_that_changes_hands_between_two_looks_has_a_clock_again(site: Site) -> None:
    site.tells(slurm_job(21, "0-1"))
    site.until(lambda: site.locked() == [True, True, False, False])
    site.tells(slurm_end(21, "COMPLETED"), slurm_job(22, "0"), slurm_job(23, "1", start_time=BEGAN_S + 60))
    site.until(lambda: site.running() == ["22 train", "23 train"])
    site.until(lambda: site.locked() == [True, True, False, False])
    # requeued: its number is the same, and it starts again
    again = {"submit_time": BEGAN_S + 400, "start_time": BEGAN_S + 500, "restart_cnt": 1}
    site.tells(slurm_job(22, "0", **again), slurm_end(23, "TIMEOUT", start_time=BEGAN_S + 60))
    site.until(lambda: site.locked() == [True, False, False, False])
    site.until(lambda: site.running() == ["22 train"])
    ends = {job["exit"] for job in site.ask("queue", "--all")["jobs"] if job["name"] == "22 train"}
    assert ends == {"", "Slurm: REQUEUED"}
    site.tells(slurm_end(22, "COMPLETED", **again))
    site.until(lambda: not any(site.locked()))


def test_its_owner_is_sent_to_slurm(site: Site, tmp_path: Path) -> None:
    site.tells(slurm_job(31, "0"))
    site.until(lambda: site.locked()[0])
    job = site.jobs()["31 train"]["id"]
    (tmp_path / "job.yaml").write_text("run: sleep 1\ngpus: 1\n")
    for words, said in (
        (("cancel", job), f"job {job} is Slurm's job 31"),
        (("hold", job), f"job {job} is Slurm's job 31"),
        (("logs", job), f"job {job} is Slurm's job 31"),
        (("submit", str(tmp_path / "job.yaml"), "--output", "none"), "Slurm starts the jobs of this cluster"),
    ):
        code, out, err = site.run(*words)
        assert (code != 0, out, err.count("\n")) == (True, "", 1), (words, out, err)
        assert said in err, (words, err)
    assert site.jobs()["31 train"]["state"] == "running"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", "Unable to contact"),
        ("echo '<html>'", "its answer is no list of jobs"),
        ("""echo '{"jobs": [], "errors": [{"error": "slurmctld is down"}]}'""", "squeue says slurmctld is down"),
        ("exec sleep 100", "squeue did not answer in 1 s"),
    ],
)
def test_a_slurm_that_fails_shows_one_notice_and_changes_nothing(site: Site, script: str, said: str) -> None:
    site.tells(slurm_job(41, "2"))
    site.until(lambda: site.locked() == [False, False, True, False])
    site.until(lambda: site.notices() == [])
    site.does(script)
    site.until(lambda: bool(site.notices()))
    (notice,) = site.notices()
    assert said in notice
    assert "its jobs count as unchanged" in notice
    assert site.jobs()["41 train"]["state"] == "running"
    assert site.locked() == [False, False, True, False]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--beside", "slurm", "--protect", "nonsense"), "--protect: 'nonsense' does not say which jobs"),
        (("--beside", "slurm", "--protect", "qos=high"), "--protect: 'qos=high' does not say which jobs"),
        (("--beside", "slurm", "--max-slowdown", "x"), "--max-slowdown: 'x' is no share"),
        (("--protect", "partition=urgent"), "--protect: is for jobs of another scheduler"),
        (("--max-slowdown", "10%"), "--max-slowdown: is for jobs of another scheduler"),
        (("--beside", "pbs"), "pbs"),
    ],
)
def test_wrong_options_give_one_line(
    words: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--state-dir", str(tmp_path / "state"), *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "state").exists()


def test_the_next_controller_goes_on_where_the_last_one_was_ended(site: Site) -> None:
    site.tells(slurm_job(51, "1"))
    site.until(lambda: site.locked() == [False, True, False, False])
    site.until(lambda: site.jobs()["51 train"]["energy_j"] > 0)
    before = site.jobs()["51 train"]
    site.process.send_signal(signal.SIGINT)
    site.process.communicate(timeout=MOST_S)
    assert site.process.returncode == 0
    assert site.locked()[1]  # until the lease of the clocks ends, or the next controller is there
    site.process = site.start()
    site.until(lambda: site.running() == ["51 train"])
    site.until(lambda: site.jobs()["51 train"]["energy_j"] > before["energy_j"])
    assert site.jobs()["51 train"]["id"] == before["id"]
    site.until(lambda: site.locked() == [False, True, False, False])
