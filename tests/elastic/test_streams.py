"""Every rank draws random numbers of its own, and the same ones when it is done again."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from powerflow.elastic.training import streams


@contextlib.contextmanager
def own_numbers() -> Iterator[None]:
    """Leave the generators of this process as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


def begin(seed: int) -> None:
    """What a script does."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002


def draw() -> list[float]:
    """One number of each library."""
    return [torch.rand(1).item(), random.random(), float(np.random.random())]  # noqa: NPY002


def test_ranks_and_steps_differ_and_the_same_again_is_the_same() -> None:
    with own_numbers():
        begin(5)
        run = streams.bases()
        places = [(step, rank) for step in (0, 1, 700) for rank in range(4)]
        drawn: dict[tuple[int, int], list[float]] = {}
        for _ in range(2):
            for step, rank in places:
                begin(5)
                streams.seed(run, step, rank)
                found = draw()
                assert drawn.setdefault((step, rank), found) == found
    for kind in range(3):
        assert len({found[kind] for found in drawn.values()}) == len(places)


def test_the_first_rank_of_all_goes_on_with_the_scripts_own() -> None:
    with own_numbers():
        begin(5)
        run = streams.bases()
        streams.seed(run, 0, 0)
        found = draw()
        begin(5)
        assert draw() == found


def test_each_library_has_the_seed_that_the_script_gave_it() -> None:
    """Who seeds torch alone has the same numbers of torch again, whatever the others do."""
    with own_numbers():
        begin(1)
        one = streams.bases()
        random.seed(2)
        other = streams.bases()
    assert other["python"] != one["python"]
    assert (other["torch"], other["numpy"]) == (one["torch"], one["numpy"])


@given(seed=st.integers(0, 2**64 - 1), step=st.integers(0, 2**40), rank=st.integers(1, 10_000))
def test_whatever_the_script_has_seeded(seed: int, step: int, rank: int) -> None:
    with own_numbers():
        streams.seed({"torch": seed, "numpy": seed, "python": seed}, step, rank)
        assert all(0 <= number < 1 for number in draw())
