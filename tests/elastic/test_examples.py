"""The example of an ordinary DDP script becomes elastic by few changed lines, and comes to the same end."""

from __future__ import annotations

import difflib
import re
import socket
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.elastic import trainee
from tests.elastic.supervisor import Supervisor
from tests.processes import CONTEXT

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "elastic"
EPOCHS, STEPS, SAMPLES, VALIDATED = 4, 32, 2048, 500


def changes(plain: str, elastic: str) -> list[str]:
    """Lines that differ, the scripts' own docstrings left out, as a unified diff without context shows them."""
    texts = ((EXAMPLES / name).read_text() for name in (plain, elastic))
    before, after = (re.sub(r'\A""".*?"""\n', "", text, flags=re.S).splitlines() for text in texts)
    return list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:]


def count(changed: list[str]) -> int:
    """Number of changed lines as a person counts them: one that is replaced counts once, an empty one not at all."""
    total = added = removed = 0
    for line in [*changed, "@@"]:
        if line.startswith("@@"):
            total += max(added, removed)
            added = removed = 0
        elif line[1:].strip():
            added += line[0] == "+"
            removed += line[0] == "-"
    return total


@pytest.mark.parametrize(
    ("plain", "elastic", "page", "most"),
    [("train_plain.py", "train.py", "elastic.md", 8), ("classify_plain.py", "classify.py", "recipes.md", 15)],
)
def test_few_lines_make_a_script_elastic(plain: str, elastic: str, page: str, most: int) -> None:
    changed = changes(plain, elastic)
    assert 0 < count(changed) <= most
    shown = (EXAMPLES.parents[1] / "docs" / page).read_text()
    for line in changed:
        if not line.startswith("@@") and line[1:].strip():
            assert line in shown


def run_alone(script: str, output: Path, **environment: str) -> str:
    """What a script prints, in a process of its own."""
    name, *arguments = script.split()
    command = [str(EXAMPLES / name), *arguments]
    process = CONTEXT.Process(target=trainee.run_script, args=(command, environment, str(output)))
    process.start()
    process.join()
    printed = output.read_text()
    assert process.exitcode == 0, printed
    process.close()
    return printed


def by_torchrun() -> dict[str, str]:
    """The environment of its only rank."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}


@pytest.mark.parametrize("script", ["train_plain.py", "train.py"])
def test_short_examples_run(script: str, tmp_path: Path) -> None:
    printed = run_alone(script, tmp_path / "printed", **by_torchrun())
    losses = [float(found) for found in re.findall(r"loss ([\d.]+)", printed)]
    assert len(losses) == 10
    assert losses[-1] < losses[0]


def scores(printed: str) -> dict[int, tuple[float, float]]:
    """Accuracy and best accuracy by epoch."""
    found = re.findall(r"^epoch (\d+): accuracy ([\d.]+), best ([\d.]+)$", printed, re.MULTILINE)
    return {int(epoch): (float(accuracy), float(best)) for epoch, accuracy, best in found}


def test_an_ordinary_script_and_its_elastic_form(tmp_path: Path) -> None:
    """Alone, by torchrun's environment, resumed, and in a gang of 2, 3 and 1 ranks, of which the last has come anew."""
    options = f"--epochs {EPOCHS} --batch-size 64 --out"
    plain = scores(run_alone(f"classify_plain.py {options} {tmp_path}/plain", tmp_path / "1", **by_torchrun()))
    alone = scores(run_alone(f"classify.py {options} {tmp_path}/alone", tmp_path / "2"))
    assert list(plain) == list(alone) == list(range(EPOCHS))
    assert plain[EPOCHS - 1][1] > 0.6 < alone[EPOCHS - 1][1]
    expected = torch.load(tmp_path / "alone" / "last.pt")
    again = scores(run_alone(f"classify.py --epochs {EPOCHS + 1} --out {tmp_path}/alone", tmp_path / "3"))
    assert list(again) == [EPOCHS]
    assert again[EPOCHS][1] == max(again[EPOCHS][0], alone[EPOCHS - 1][1])

    (directory := tmp_path / "job").mkdir()
    with Supervisor(directory, script=f"{EXAMPLES}/classify.py {options} {tmp_path}/out") as job:
        names = job.start(2)
        job.allow(2 * STEPS - 8)
        job.wait(lambda: job.mailbox.reports(names)[0].step == job.allowed, "most of the second epoch")
        new = job.launch(1)
        job.rescale([*names, *new])
        first_with_three = job.mailbox.reports(new)[0].step // STEPS
        job.allow((first_with_three + 1) * STEPS + 8)
        job.wait(lambda: job.mailbox.reports(names)[0].step == job.allowed, "the epoch after")
        job.rescale(new)
        job.run_out()
        assert set(job.codes().values()) == {0}, job.story()
        check_samples(job.entries("pass"))
        sums = job.entries("sum")
        printed = [scores((directory / "log" / f"{name}.out").read_text()) for name in (names[0], new[0])]
    assert all(entry["values"][1] == VALIDATED for entry in sums)
    took_part = Counter(entry["epoch"] for entry in sums)
    assert [took_part[first_with_three + i] for i in (-1, 0, 1)] == [2, 3, 1]
    assert [*printed[0], *printed[1]] == list(range(EPOCHS))
    together = printed[0] | printed[1]
    for epoch, (accuracy, best) in together.items():
        assert accuracy == pytest.approx(alone[epoch][0], abs=0.011)  # sums of another order
        assert best == max(accuracy for accuracy, _ in list(together.values())[: epoch + 1])
    last = torch.load(tmp_path / "out" / "last.pt")
    for name, weights in expected["model"].items():
        torch.testing.assert_close(last["model"][name], weights, rtol=0.02, atol=0.002)
    best_model = torch.load(tmp_path / "out" / "best.pt")
    assert best_model.keys() == last["model"].keys()


def check_samples(passes: list[dict[str, Any]]) -> None:
    """Every sample was trained once in every epoch, by the generation that did its step last."""
    attempts: dict[tuple[int, int], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for entry in passes:
        attempts[entry["epoch"], entry["within"]][entry["generation"]] += entry["values"]
    assert len(attempts) == EPOCHS * STEPS
    for epoch in range(EPOCHS):
        trained = [at[max(at)] for (number, _), at in attempts.items() if number == epoch]
        values = [value for step in trained for value in step]
        assert len(values) == SAMPLES == len(set(values))
