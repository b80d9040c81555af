"""``--costs`` means the same to each command on a log: used and named, or refused before anything is simulated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from powerflow.cli.main import main

POINTS = "model,gpu_type,gpus,local_batch,step_time_s,power_w\nlm,A100,1,16,0.1,300\nlm,A100,2,16,0.11,580\n"
LOG = "submit_s,duration_s,gpus,model\n0,600,1,lm\n60,600,2,LM\n120,600,1,bert\n"


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("log.csv").write_text(LOG)
    Path("lm.csv").write_text(POINTS)
    Path("other.csv").write_text(POINTS.replace("A100", "A40"))
    Path("gpt.csv").write_text(POINTS.replace("lm,", "gpt,"))
    Path("smi.csv").write_text("timestamp, index, power.draw [W]\n")


def test_the_result_names_the_models_of_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "log.csv", "--cluster", "1x4:A100", "--costs", "lm.csv", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["facts"]
    assert facts["Costs"].startswith("measured, from lm.csv (lm (A100)): 2 of 3 jobs; not in it: 1 of 'bert', which")


@pytest.mark.parametrize("command", ["simulate", "compare", "replay"])
@pytest.mark.parametrize(
    ("costs", "why"),
    [
        ("other.csv", "other.csv: its models were measured on A40, but 1x4:A100 has A100; give models that were"),
        (
            "gpt.csv",
            "gpt.csv: no job of log.csv has a model of it: it has gpt (A100), the log names 'lm', 'LM', 'bert'",
        ),
        (
            "smi.csv",
            "smi.csv: is neither a file of models nor a table of observations; make models of what other tools",
        ),
        ("none.csv", "none.csv: no such file"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    command: str, costs: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "log.csv", "--cluster", "1x4:A100", "--costs", costs]) in (2, 3)
    said = capsys.readouterr()
    assert said.err.startswith(f"powerflow: {why}")
    assert said.err.count("\n") == 1
    assert said.out == ""
