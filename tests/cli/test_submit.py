"""``powerflow submit``: by file, by flags, waiting for the end, and over a connection that is lost."""

from __future__ import annotations

import io
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from powerflow.api.records import JobState
from powerflow.cli.main import main
from tests.cli.shell import Shell


def test_submit_by_flags(shell: Shell) -> None:
    args = ("--run", "python t.py", "--gpus", "A100:1..4", "--rescale", "restart", "--env", "A=b=c", "--name", "x")
    assert shell("submit", *args) == "job 1 is queued\n"
    spec = shell.cluster.job("1").spec
    assert (spec.run, str(spec.gpus), spec.env, spec.directory) == (
        "python t.py",
        "A100:1..4",
        {"A": "b=c"},
        os.getcwd(),
    )
    assert shell.json("submit", *args)["job"]["id"] == "2"


def test_submit_a_file_with_flags_over_it(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("run: python t.py\nname: slow\ngpus: 2\nenv: {A: '1', B: '2'}\ndirectory: sub\n")
    (tmp_path / "sub").mkdir()
    shell("submit", str(file), "--name", "fast", "--env", "B=3")
    spec = shell.cluster.job("1").spec
    assert (spec.name, spec.gpus.least, spec.env) == ("fast", 2, {"A": "1", "B": "3"})
    assert spec.directory == str(tmp_path / "sub")


def test_submit_standard_input(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"run: 'true'\n")))
    shell("submit", "-")
    assert shell.cluster.job("1").spec.run == "true"


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        ([], 2, "nothing to run"),
        (["--run", "x", "--gpus", "none"], 2, "cannot read 'none' as GPUs"),
        (["--run", "x", "--env", "A"], 2, "--env: 'A' is not NAME=VALUE"),
        (["--run", "x", "--gpus", "64"], 4, "no 8 GPUs can be 64"),
        (["none.yaml"], 3, "none.yaml: no such file"),
    ],
)
def test_what_cannot_be_submitted_is_said_in_a_line(shell: Shell, argv: list[str], code: int, said: str) -> None:
    assert said in shell("submit", *argv, code=code)
    assert shell.json("queue", "--all")["jobs"] == []


@pytest.mark.parametrize(("state", "code"), [(JobState.COMPLETED, 0), (JobState.FAILED, 1), (JobState.CANCELLED, 1)])
def test_submit_and_wait_ends_as_the_job_does(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, state: JobState, code: int
) -> None:
    submitted = shell.cluster.submit

    def and_end(*args: Any) -> Any:
        record, new = submitted(*args)
        threading.Timer(0.05, lambda: shell.cluster.end(record.id, state, f"it {state}")).start()
        return record, new

    monkeypatch.setattr(shell.cluster, "submit", and_end)
    assert main(["submit", "--run", "true", "--wait"]) == code
    assert shell.capsys.readouterr().out.splitlines() == ["job 1 is queued", f"job 1 it {state}"]


def test_submit_and_wait_waits_until_the_last_process_has_ended(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted, ends = shell.cluster.submit, threading.Event()

    def and_cancel(*args: Any) -> Any:
        record, new = submitted(*args)
        shell.cluster.complete(record.id)
        threading.Timer(0.1, end).start()
        return record, new

    def end() -> None:
        ends.set()
        shell.cluster.end("1", JobState.CANCELLED, "cancelled by ada")

    monkeypatch.setattr(shell.cluster, "submit", and_cancel)
    assert main(["submit", "--run", "true", "--wait"]) == 1
    assert ends.is_set()


def test_a_submission_whose_answer_is_lost_is_one_job(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that hangs up after the first answer was made: the client asks again, under the same key."""
    listener = socket.create_server(("127.0.0.1", 0))
    upstream = ("127.0.0.1", int(shell.url.rpartition(":")[2]))
    keys: list[bytes] = []

    def proxy() -> None:
        for attempt in range(2):
            client, _ = listener.accept()
            with client, socket.create_connection(upstream) as server:
                request = client.recv(1 << 16)
                while b'"run"' not in request:
                    request += client.recv(1 << 16)
                keys.extend(line for line in request.splitlines() if line.lower().startswith(b"idempotency-key"))
                server.sendall(request)
                answer = server.recv(1 << 16)
                while not answer.endswith(b"}"):
                    answer += server.recv(1 << 16)
                if attempt:
                    client.sendall(answer)

    thread = threading.Thread(target=proxy)
    thread.start()
    with listener:
        monkeypatch.setenv("POWERFLOW_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert shell("submit", "--run", "true") == "job 1 is queued\n"
        thread.join(30)
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert len(shell.cluster.jobs().items) == 1


# --- what is said of a submission ---------------------------------------------------------------------------------


def test_the_json_of_an_array_names_all_its_jobs(shell: Shell) -> None:
    document = shell.json("submit", "--array", "1,4-5", "-J", "sweep", "--run", "true")
    tasks = [{"id": "1", "array_task": 1}, {"id": "2", "array_task": 4}, {"id": "3", "array_task": 5}]
    assert document["array"] == {"id": "1", "tasks": tasks}
    assert [(job["id"], job["array_task"]) for job in shell.json("queue")["jobs"]] == [("3", 5), ("2", 4), ("1", 1)]
    assert document["job"]["name"] == "sweep[1]"
    assert shell.json("submit", "--run", "true")["array"] is None


SCRIPT = """#!/bin/bash
#SBATCH --job-name=resnet  # of the paper
#SBATCH -t 1-12:00:00 -A vision
#SBATCH --gres gpu:4
# the GPUs of the big nodes

#SBATCH --partition=long
module load cuda
#SBATCH --array=0-9
"""


def test_options_for_sbatch_in_a_script_are_not_read_and_this_is_said(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line 9 stands after the first command, where sbatch would not read it either."""
    (tmp_path / "train.sh").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    note = (
        "train.sh: lines with #SBATCH are not read: give --name for --job-name (line 2), --time for -t (line 3), "
        "--project for -A (line 3), --gpus for --gres (line 4); no option is like --partition (line 7)"
    )
    shell("submit", "--", "bash", "-e", "train.sh", notes=[note])
    note = "./train.sh: lines with #SBATCH are not read: give --time for -t (line 3); "
    note += "no option is like --partition (line 7)"
    (tmp_path / "train.sh").chmod(0o755)
    shell("submit", "-J", "x", "-G", "2", "-A", "vision", "--", "./train.sh", notes=[note])
    (tmp_path / "train.sh").write_text("#!/bin/bash\n#SBATCH -J x\n")
    shell("submit", "-J", "x", "--", "bash", "train.sh", notes=[])


def test_a_command_that_names_a_pipe_or_a_folder_is_submitted(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    assert shell("submit", "--", "cat", "pipe") == "job 1 is queued\n"
    assert shell("submit", "--", "ls", ".") == "job 2 is queued\n"


@pytest.mark.parametrize(
    ("run", "fix"),
    [
        ("[python, train.py, --lr=0.1]", "run: python train.py --lr=0.1"),
        ("[cd data, python train.py]", "run: cd data && python train.py"),
        ("[]", "run: cd data && python train.py"),
    ],
)
def test_a_command_as_a_list_is_refused_with_the_text_to_write(
    shell: Shell, tmp_path: Path, run: str, fix: str
) -> None:
    (tmp_path / "job.yaml").write_text(f"run: {run}\n")
    said = shell("submit", str(tmp_path / "job.yaml"), code=2)
    assert "job.yaml:1: run is [" in said
    assert said.endswith(f"which is a list; write the command as one text: {fix}\n")
