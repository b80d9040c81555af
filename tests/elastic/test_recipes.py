"""The recipes are true: each runs as it stands in the page, alone, in several passes and in a gang that grows."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from powerflow.api.job_file import spec_of_text
from powerflow.elastic.check.report import check
from powerflow.elastic.mailbox import JOB_DIR, RANK_NAME
from powerflow.elastic.static_gang import StaticGang
from powerflow.errors import InputError
from tests.elastic import trainee
from tests.elastic.supervisor import Supervisor
from tests.processes import CONTEXT

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "recipes.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
IN_PLACE = ("Gradient accumulation", "Mixed precision", "Average of the parameters", "GAN")
RESTARTED = {"Hugging Face Trainer": ("transformers", "accelerate"), "Lightning": ("lightning",)}


def block(title: str, language: str = "python") -> str:
    """The block of code in a section."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", SECTIONS[title], re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture
def run_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], list[float]]]:
    """Run a recipe in this process, and return the numbers that it prints."""
    for name in (JOB_DIR, RANK_NAME, "POWERFLOW_EMULATED", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def act(script: str) -> list[float]:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(script, f"{tmp_path}/train.py", "exec"), {"__name__": "__main__"})
        return numbers(printed.getvalue())

    yield act
    torch.set_num_threads(threads)


def numbers(printed: str) -> list[float]:
    return [float(found) for found in re.findall(r"-?\d+(?:\.\d+)?", printed)]


def split_steps(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Let a run without PowerFlow have passes of at most so many samples."""
    behind = StaticGang.__init__

    def init(self: StaticGang, *args: Any) -> None:
        behind(self, *args)
        self.local_batch_max = most

    monkeypatch.setattr(StaticGang, "__init__", init)


@pytest.mark.parametrize("title", IN_PLACE[:3])
def test_several_passes_come_to_what_one_does(
    title: str, run_recipe: Callable[[str], list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_recipe(block(title))
    split_steps(monkeypatch, 24)
    assert len(whole) >= 6
    assert run_recipe(block(title)) == pytest.approx(whole, abs=0.003)  # half precision rounds each pass for itself


def test_a_gan_trains_in_one_pass_and_is_refused_in_several(
    run_recipe: Callable[[str], list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, first, second = run_recipe(block("GAN"))
    assert abs(first - 2.0) < 1.0 > abs(second - 2.0)
    split_steps(monkeypatch, 24)
    with pytest.raises(InputError, match="between two backwards of one pass"):
        run_recipe(block("GAN"))


@pytest.mark.parametrize("title", IN_PLACE)
def test_a_rank_that_comes_later_has_it_all(
    title: str, run_recipe: Callable[[str], list[float]], tmp_path: Path
) -> None:
    script = block(title).replace("run.epochs(3)", "run.epochs(12)")  # a few steps go by while the rank comes
    (tmp_path / "train.py").write_text(script)
    (directory := tmp_path / "job").mkdir()
    with Supervisor(directory, script=str(tmp_path / "train.py")) as job:
        names = job.start(1)
        job.allow(3)
        new = job.launch(1)
        job.rescale([*names, *new])
        job.run_out()
        assert set(job.codes().values()) == {0}, job.story()
        came = job.mailbox.reports(new)[0]
        assert came.generation == 2
        printed = numbers((directory / "log" / f"{names[0]}.out").read_text())
    if title != "GAN":  # its random numbers differ from rank to rank
        assert printed == pytest.approx(run_recipe(script), abs=0.003)


@pytest.mark.parametrize("title", [*IN_PLACE, *RESTARTED])
def test_what_the_checker_says_of_it(title: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(block(title))
    report = check(tmp_path / "train.py")
    assert {one.rule for one in report.findings} == ({"trainer"} if title in RESTARTED else set())
    assert report.joins == (title in IN_PLACE)


@pytest.mark.parametrize("title", ["Gradient accumulation", *RESTARTED])
def test_its_job_file_is_one(title: str) -> None:
    spec = spec_of_text(block(title, "yaml"), "job.yaml")
    assert spec.rescale == ("restart" if title in RESTARTED else "in-place")
    assert spec.batch is not None


@pytest.mark.parametrize("title", RESTARTED)
def test_a_recipe_for_another_package(title: str, tmp_path: Path) -> None:
    """Twice: the second run resumes where the first has ended."""
    if missing := [name for name in RESTARTED[title] if importlib.util.find_spec(name) is None]:
        pytest.skip(f"{', '.join(missing)} not installed")
    (tmp_path / "train.py").write_text(block(title))
    for again in range(2):
        output = tmp_path / f"printed-{again}"
        environment = {"POWERFLOW_CHECKPOINT_DIR": str(tmp_path / "ck")}
        process = CONTEXT.Process(
            target=trainee.run_script, args=([str(tmp_path / "train.py")], environment, str(output))
        )
        process.start()
        process.join()
        assert process.exitcode == 0, output.read_text()
        assert output.read_text().splitlines()[-1] == "32 steps"
