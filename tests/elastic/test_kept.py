"""Plain values that belong to the state of the run, and what a script asks about its rank."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from powerflow import elastic
from powerflow.errors import InputError
from tests.elastic.supervisor import Supervisor
from tests.elastic.trainee import STEPS_PER_EPOCH


def test_a_new_rank_goes_on_with_the_values_of_the_others(tmp_path: Path) -> None:
    with Supervisor(tmp_path, script="keeps_values") as job:
        names = job.start(1)
        job.allow(20)
        new = job.launch(1)
        job.rescale([*names, *new])
        job.run_out()
        assert set(job.codes().values()) == {0}, job.story()
        ends = job.entries("end")
        begins = job.entries("begin")
    total = 3 * STEPS_PER_EPOCH
    assert [(end["steps"], end["best"]) for end in ends] == [(total, total / 2)] * 2
    assert sorted((end["main"], end["local"]) for end in ends) == [(False, 1), (True, 0)]
    assert all(entry["steps"] == entry["trained"] for entry in begins)
    assert any(entry["trained"] for entry in begins if entry["name"] == new[0])


def test_values_are_kept_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POWERFLOW_JOB_DIR", "POWERFLOW_RANK", "POWERFLOW_EMULATED", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    run = elastic.init()
    kept = run.keep(best=0.5, path="a")
    with pytest.raises(InputError, match="'worst' is no value that is kept"):
        kept.worst = 1
    kept.load_state_dict({"best": 0.75, "of an older script": 3})
    assert kept.state_dict() == {"best": 0.75, "path": "a"}
    run.wrap(nn.Linear(1, 1))
    with pytest.raises(InputError, match="keep was called after wrap"):
        run.keep(more=1)
    assert run.is_main
    assert run.local_rank == 0


def test_the_device_is_the_gpu_of_this_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POWERFLOW_JOB_DIR", raising=False)
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert elastic.init().device == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for seen, number in ((1, 0), (8, 3)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda seen=seen: seen)
        assert elastic.init().device == torch.device("cuda", number)
