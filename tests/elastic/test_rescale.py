"""Runs that rescale end as runs that do not; nothing is lost or trained twice."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from powerflow.elastic.mailbox import Phase
from powerflow.elastic.order import Order
from tests.elastic import trainee
from tests.elastic.supervisor import Supervisor

ORDER = Order(trainee.SAMPLES, trainee.GLOBAL_BATCH, True, 3)


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    return trainee.reference()


def check_end(job: Supervisor, reference: dict[str, torch.Tensor]) -> None:
    """Every rank that came to the end has the parameters of the fixed-size run."""
    finals = sorted(job.directory.glob("final-*.pt"))
    assert finals, job.story()
    for path in finals:
        final = torch.load(path)
        for key, value in reference.items():
            torch.testing.assert_close(final[key], value, rtol=1e-9, atol=1e-11, msg=lambda m, k=key: f"{k}: {m}")
    for entry in job.entries("end"):
        assert entry["step"] == trainee.STEPS
        assert entry["samples"] == trainee.SAMPLES * trainee.EPOCHS


def check_samples(job: Supervisor, *, repeats: int = 0) -> None:
    """What each step was made of, in the generation that did it last, is exactly its batch."""
    attempts: dict[tuple[int, int], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for entry in job.entries("pass"):
        attempts[entry["epoch"], entry["within"]][entry["generation"]] += entry["index"]
    assert len(attempts) == trainee.STEPS
    for (epoch, within), generations in attempts.items():
        last = generations[max(generations)]
        begin = within * trainee.GLOBAL_BATCH
        expected = ORDER.epoch(epoch)[begin : begin + ORDER.size(within)]
        assert sorted(last) == sorted(expected.tolist()), (epoch, within, generations)
    again = sum(len(generations) - 1 for generations in attempts.values())
    assert again <= repeats
    seen = np.zeros((trainee.EPOCHS, trainee.SAMPLES), int)
    for (epoch, _), generations in attempts.items():
        np.add.at(seen[epoch], generations[max(generations)], 1)
    assert (seen == 1).all()


def check_equal(job: Supervisor) -> None:
    """At every step of every generation all ranks had the same parameters and optimiser state, bit by bit."""
    hashes: dict[tuple[int, int], set[str]] = defaultdict(set)
    for entry in job.entries("state"):
        hashes[entry["generation"], entry["step"]].add(entry["hash"])
    assert all(len(found) == 1 for found in hashes.values())


def test_thirty_random_rescales(tmp_path: Path, reference: dict[str, torch.Tensor]) -> None:
    rng = random.Random(5)
    with Supervisor(tmp_path, local_batch_max=3) as job:
        members = job.launch(1)
        job.rescale(members)
        sizes = [1]
        for _ in range(32):
            size = rng.choice([n for n in (1, 2, 3, 4) if n != sizes[-1]])
            keep = members[:size] if rng.random() < 0.7 else members[-size:]  # at times the leader goes
            members = keep + job.launch(size - len(keep))
            job.rescale(members)
            sizes.append(size)
        job.run_out()
        assert set(job.codes().values()) == {0}, job.story()
        check_end(job, reference)
        check_samples(job)
        check_equal(job)
        reports = job.mailbox.reports(members)
        assert {report.phase for report in reports} == {Phase.DONE}
        assert all(report.steps_total == trainee.STEPS for report in reports)
        gone = [n for n in job.processes if n not in members]
        assert {report.phase for report in job.mailbox.reports(gone)} == {Phase.RELEASED}
