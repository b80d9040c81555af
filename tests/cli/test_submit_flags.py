"""``powerflow submit``: an option for each key, the shell's environment, and commands after ``--``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from powerflow.api.job_change import JobChange
from powerflow.api.job_spec import JobSpec
from powerflow.api.merge import merged
from powerflow.cli.cluster.job_flags import CHANGEABLE, FLAGS
from powerflow.cli.cluster.script_hints import hints, unwritable
from powerflow.cli.cluster.shell_environment import of_shell
from tests.cli.shell import Shell


def keys(model: type[BaseModel], path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Paths of all keys of a job that have no parts."""
    found = set()
    for name, field in model.model_fields.items():
        own = (*path, field.alias or name)
        parts = [kind for kind in (field.annotation, *getattr(field.annotation, "__args__", ())) if _is_part(kind)]
        found |= keys(parts[0], own) if parts and name != "gpus" else {own}
    return found


def _is_part(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def test_there_is_an_option_for_each_key_of_a_job() -> None:
    assert {flag.key for flag in FLAGS} | {("directory",), ("env",), ("shell_env",)} == keys(JobSpec)


def test_update_has_options_for_the_keys_that_can_be_changed() -> None:
    assert set(JobChange.model_fields) == CHANGEABLE


def test_all_options_together_make_the_job_that_they_say(shell: Shell) -> None:
    shell(
        *("submit", "-J", "x", "-G", "1..4", "--rescale", "in-place", "--batch", "64", "--local-max", "16"),
        *("--priority", "high", "--max-slowdown", "10%", "-A", "vision", "--model", "resnet50", "--iterations", "2e4"),
        *("--progress", r"step (?P<step>\d+)", "-t", "1-00:00:00", "--memory", "2GiB", "--cpus", "1.5"),
        *("--between-steps", "1h", "--checkpoint-dir", "ck", "--checkpoint-every", "5m", "--grace", "9s", "-o", "o.%j"),
        *(
            "--retries",
            "0",
            "-a",
            "0-3%2",
            "-d",
            "afterany:1",
            "--no-env",
            "--",
            "python",
            "t.py",
            "--lr",
            "1e-3",
            "a b",
        ),
    )
    spec = shell.cluster.job("1").spec
    assert spec.run == "python t.py --lr 1e-3 'a b'"
    assert (spec.name, str(spec.gpus), spec.rescale, spec.priority, spec.project) == (
        "x",
        "1..4",
        "in-place",
        "high",
        "vision",
    )
    assert spec.batch is not None
    assert (spec.batch.global_batch, spec.batch.local_max, spec.energy.max_slowdown) == (64, 16, 0.1)
    assert spec.work is not None
    assert (spec.model, spec.work.iterations, spec.progress) == ("resnet50", 20_000.0, r"step (?P<step>\d+)")
    assert (spec.limits.memory, spec.limits.cpus, spec.limits.between_steps) == (2 << 30, 1.5, 3600.0)
    assert (spec.checkpoint.dir, spec.checkpoint.every, spec.checkpoint.grace) == ("ck", 300.0, 9.0)
    assert (spec.time_limit, spec.output, spec.retries, spec.array, spec.dependency) == (
        86_400.0,
        "o.%j",
        0,
        "0-3%2",
        "afterany:1",
    )


def test_an_option_replaces_one_value_of_a_part(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("run: x\nbatch: {global: 64, local_max: 8}\n")
    shell("submit", str(file), "--local-max", "16", "--", "python", "t.py")
    spec = shell.cluster.job("1").spec
    assert spec.batch is not None
    assert (spec.batch.global_batch, spec.batch.local_max, spec.run) == (64, 16, "python t.py")
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"c": 4}, "d": {"e": 5}}) == {
        "a": {"b": 1, "c": 4},
        "d": {"e": 5},
    }


def test_the_job_gets_this_shells_variables_but_no_secrets(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[JobSpec] = []
    submitted = shell.cluster.submit

    def submit(spec: JobSpec, *rest: Any) -> Any:
        sent.append(spec)
        return submitted(spec, *rest)

    monkeypatch.setattr(shell.cluster, "submit", submit)
    for name, value in {"MODEL_DIR": "/m", "HF_TOKEN": "s3cret", "AWS_KEY": "s3cret", "RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("POWERFLOW_SECRET_ENV", "*_TOKEN, AWS_*")
    shell("submit", "--", "true")
    shell("submit", "--no-env", "--env", "A=1", "--", "true")
    assert sent[0].shell_env["MODEL_DIR"] == "/m"
    assert sent[0].shell_env["PATH"] == os.environ["PATH"]
    assert not {"HF_TOKEN", "AWS_KEY", "RANK", "HOME", "PWD", "POWERFLOW_URL"} & set(sent[0].shell_env)
    assert (sent[1].shell_env, sent[1].env) == ({}, {"A": "1"})


def test_a_variable_that_no_job_can_have_is_named(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODD", "caf\udce9")
    shell("submit", "--", "true", notes=["ODD is not passed to the job: it is too long, or not UTF-8"])
    kept, impossible = of_shell({"ODD": "caf\udce9", "LONG": "x" * 40_000, "BASH_FUNC_f%%": "()", "GOOD": "ü\n"})
    assert (kept, impossible) == ({"GOOD": "ü\n"}, ["ODD", "LONG"])


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["--run", "x", "--", "y"], 2, "the command is given twice; give --run or --, not both"),
        (["--"], 2, "nothing to run"),
        (["train.py"], 2, "train.py: is a command, not the description of a job; write powerflow submit -- python"),
        (["python train.py"], 2, "write powerflow submit -- python train.py"),
        (["--time", "60", "--", "x"], 2, "cannot read '60' as a time limit; write 90m, 12h or 1-12:00:00"),
        (["--array", "3-1", "--", "x"], 2, "array: 3-1 has no task"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_line(shell: Shell, argv: list[str], code: int, said: str) -> None:
    assert said in shell("submit", *argv, code=code)


def test_a_script_that_never_joins_and_a_python_without_torch_are_noted(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text("import torch\n")
    (tmp_path / "elastic.py").write_text("from powerflow import elastic\n")
    bare = tmp_path / "bin" / "python"
    bare.parent.mkdir()
    bare.write_text("#!/bin/sh\necho torch powerflow\n")
    bare.chmod(0o755)

    def said(run: str, rescale: str = "in-place", path: str = "") -> list[str]:
        return hints(JobSpec(run=run, rescale=rescale, directory=str(tmp_path)), {"PATH": path})  # type: ignore[arg-type]

    (never,) = said("python plain.py")
    assert never.startswith("plain.py never calls powerflow.elastic, which rescale: in-place needs")
    assert said("python elastic.py --lr 1") == []
    assert said("python plain.py", rescale="none") == []
    assert said("python missing.py") == said("cat plain.py | python") == []
    (missing,) = said("python elastic.py", path=str(bare.parent))
    assert missing == f"{bare} has no torch and no powerflow: activate the environment that has, or give --no-env"


@pytest.mark.parametrize(
    ("run", "why"),
    [("nosuchprogram --x", "there is no such program"), ("./data.csv", "it is not executable"), ("sh -c true", "")],
)
def test_a_program_that_cannot_be_started_is_noted(tmp_path: Path, run: str, why: str) -> None:
    (tmp_path / "data.csv").touch()
    said = hints(JobSpec(run=run, directory=str(tmp_path)), {"PATH": os.defpath})
    assert [line.partition(": ")[2].partition(";")[0] for line in said] == ([why] if why else [])


def test_a_python_that_has_all_is_not_noted(tmp_path: Path) -> None:
    (tmp_path / "elastic.py").write_text("from powerflow import elastic\n")
    spec = JobSpec(run="python elastic.py", rescale="in-place", directory=str(tmp_path))
    assert hints(spec, {"PATH": os.path.dirname(sys.executable)}) == []


def test_homes_and_plain_shares_are_read_on_the_command_line_too(shell: Shell) -> None:
    shell("submit", "--checkpoint-dir=~/ck", "--output=~/x.out", "--max-slowdown", "0.1", "--", "true")
    spec = shell.cluster.job("1").spec
    home = os.path.expanduser("~")
    assert (spec.checkpoint.dir, spec.output, spec.energy.max_slowdown) == (f"{home}/ck", f"{home}/x.out", 0.1)


def test_an_output_file_that_cannot_be_made_is_noted(tmp_path: Path) -> None:
    spec = JobSpec(run="true", directory=str(tmp_path), output="logs/x.out")
    assert unwritable(spec) == [
        f"output: nothing will be written to {tmp_path}/logs: there is no such folder; powerflow logs has the output"
    ]
    (tmp_path / "logs").mkdir()
    assert unwritable(spec) == []
    folder = spec.model_copy(update={"output": "logs"})
    assert "it is a folder, not a file" in unwritable(folder)[0]


def test_what_is_not_written_is_not_announced(shell: Shell) -> None:
    note = "output: nothing will be written to /no/such: there is no such folder; powerflow logs has the output"
    assert shell("submit", "-o", "/no/such/x.out", "--", "true", notes=[note]) == "job 1 is queued\n"
