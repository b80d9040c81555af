"""What every run must have come to, however often it was rescaled or hurt."""

from __future__ import annotations

import functools
from collections import defaultdict

import numpy as np
import torch

from powerflow.elastic.training.sampling import SampleOrder
from tests.elastic import trainee
from tests.elastic.supervisor import Supervisor

ORDER = SampleOrder(trainee.SAMPLES, trainee.GLOBAL_BATCH, True, 3)

reference = functools.cache(trainee.reference)


def check(job: Supervisor, *, repeats: int = 0) -> None:
    """All of it."""
    check_end(job)
    check_samples(job, repeats=repeats)
    check_equal(job)


def check_end(job: Supervisor) -> None:
    """Every rank that came to the end has the parameters of the fixed-size run."""
    finals = sorted(job.directory.glob("final-*.pt"))
    assert finals, job.story()
    for path in finals:
        final = torch.load(path)
        for key, value in reference(job.epochs).items():
            torch.testing.assert_close(final[key], value, rtol=1e-9, atol=1e-11)
    for entry in job.entries("end"):
        assert entry["step"] == job.steps
        assert entry["samples"] == trainee.SAMPLES * job.epochs


def check_samples(job: Supervisor, *, repeats: int) -> None:
    """What each step was made of, in the generation that did it last, is exactly its batch."""
    attempts: dict[tuple[int, int], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for entry in job.entries("pass"):
        attempts[entry["epoch"], entry["within"]][entry["generation"]] += entry["index"]
    assert len(attempts) == job.steps
    for (epoch, within), generations in attempts.items():
        last = generations[max(generations)]
        begin = within * trainee.GLOBAL_BATCH
        expected = ORDER.epoch(epoch)[begin : begin + ORDER.size(within)]
        assert sorted(last) == sorted(expected.tolist()), (epoch, within, generations)
    again = sum(len(generations) - 1 for generations in attempts.values())
    assert again <= repeats
    seen = np.zeros((job.epochs, trainee.SAMPLES), int)
    for (epoch, _), generations in attempts.items():
        np.add.at(seen[epoch], generations[max(generations)], 1)
    assert (seen == 1).all()


def check_equal(job: Supervisor) -> None:
    """At every step of every generation all ranks had the same parameters and optimiser state, bit by bit."""
    hashes: dict[tuple[int, int], set[str]] = defaultdict(set)
    for entry in job.entries("state"):
        hashes[entry["generation"], entry["step"]].add(entry["hash"])
    assert all(len(found) == 1 for found in hashes.values())
