"""Names of jobs: any text of one line, shown in tables, completed, and taken where a number is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len

from powerflow.api.job_spec import JobSpec
from powerflow.api.records import JobState
from powerflow.cli.cluster import controller_command
from powerflow.service.metrics import exposition
from tests.cli.shell import ADA, Shell

NAMES = [
    "ジョブ-1",
    "run 7 (best)",
    "🚀",
    "👩‍🔬 probe",
    'say "hi"',
    "../../etc/passwd",
    "naïve",
    "=1+2",
    "a,b;c",
    "%2F",
]


def submit(shell: Shell, *names: str) -> list[str]:
    return [shell.cluster.submit(JobSpec(run="true", name=name), ADA)[0].id for name in names]


@pytest.mark.parametrize("name", NAMES)
def test_any_text_of_a_line_is_a_name(shell: Shell, tmp_path: Path, name: str) -> None:
    assert shell("submit", "--run", "true", "--name", name) == "job 1 is queued\n"
    assert shell.json("queue")["jobs"][0]["name"] == name
    assert f"   1  {name}" in shell("describe", name).splitlines()[0]
    shell.cluster.run("1")
    label = name.replace("\\", r"\\").replace('"', r"\"")
    assert f'name="{label}"' in exposition(shell.cluster, "1", "")[0].decode()
    assert shell("cancel", name) == "job 1 is cancelled\n"
    assert shell.json("history")["jobs"][0]["name"] == name


@pytest.mark.parametrize(
    "name", ["a\nb", "a\tb", "\x1b[31m", "a\x85b", "a\u202eb", "a\u2066b", "a\u2028b", "a\x00", "x" * 129]
)
def test_what_would_look_like_another_name_is_refused(shell: Shell, name: str) -> None:
    said = shell("submit", "--run", "true", "--name", name, code=2)
    assert said.startswith("powerflow: submit: name is ")
    assert "remove line breaks, control characters and marks" in said or "at most 128 characters" in said


@pytest.mark.parametrize("width", [60, 80, 120])
def test_wide_characters_do_not_break_a_table(shell: Shell, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for job_id in submit(shell, "ジョブ" * 20, "plain", "🚀" * 30):
        shell.cluster.run(job_id)
    lines = shell("queue").splitlines()
    assert max(map(cell_len, lines)) <= width
    assert len({cell_len(line[: line.index("running")]) for line in lines[2:5]}) == 1, "the states stand in one column"
    assert "…" in lines[2]


def test_a_name_is_that_of_the_active_job_and_a_number_is_a_number(shell: Shell) -> None:
    submit(shell, "train", "2", "", "train")
    shell.cluster.end("1")
    assert shell("hold", "train") == "job 4 is held\n", "job 1 has ended"
    assert shell("hold", "2") == "job 2 is held\n", "and not the job with this name by chance"
    assert shell("hold", "job-3") == "job 3 is held\n", "as tables show jobs without a name"
    assert shell("release", "job-3", "train") == "job 3 is queued\njob 4 is queued\n"
    shell.cluster.end("4", JobState.FAILED, "boom")
    again = submit(shell, "train")[0]
    assert shell.json("describe", "train")["job"]["id"] == again


def test_a_name_of_several_jobs_is_refused_with_their_numbers(shell: Shell) -> None:
    submit(shell, *["sweep"] * 10, "other")
    said = shell("cancel", "other", "sweep", code=2)
    assert (
        said == "powerflow: 10 jobs have the name 'sweep'; give the number of one: 10, 9, 8, 7, 6, 5, 4, 3 and others\n"
    )
    assert shell.json("queue", "--state", "cancelled")["jobs"] == [], "nothing was changed"
    assert "no job has the number or the name 'none'" in shell("logs", "none", code=3)
    for job_id in map(str, range(1, 11)):
        shell.cluster.end(job_id)
    assert "10 jobs have the name 'sweep'" in shell("describe", "sweep", code=2), "of those that have ended"


def test_names_are_completed_if_one_word_says_them(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    submit(shell, "ジョブ-1", "two words", "twice", "twice", "3d", "42", "tw$o")
    complete: Callable[[str], list[tuple[str, str]]] = controller_command.job_numbers
    assert [number for number, _ in complete("")] == ["7", "6", "5", "4", "3", "2", "1"]
    assert complete("ジ") == [("ジョブ-1", "job 1 of ada, queued")]
    assert complete("tw") == []
    assert [word for word, _ in complete("3")] == ["3", "3d"]
    assert [word for word, _ in complete("4")] == ["4"]


@pytest.mark.parametrize("verb", ["queue", "history", "describe ジョブ"])
def test_a_poor_terminal_shows_question_marks_and_a_closed_one_nothing(shell: Shell, verb: str) -> None:
    shell.cluster.run(submit(shell, "ジョブ")[0])
    shell.cluster.end(submit(shell, "終")[0])
    env = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-m", "powerflow", *verb.split()], env=env, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"?" in done.stdout
    words = f'exec "$0" -m powerflow {verb} >&- 2>&-'
    assert subprocess.run(["sh", "-c", words, sys.executable], check=False).returncode == 0
