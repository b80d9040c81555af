"""The state of a run comes to those who lack it, unchanged, whatever tensors are in it."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import FileStore

from powerflow.elastic import group, handover
from powerflow.elastic.handover import Way, share
from powerflow.elastic.state import Training
from powerflow.elastic.training.sampling import Position
from tests.processes import CONTEXT
from tests.slow import slow


class Odd:
    """Tensors of all kinds: large, small, empty, without dimension, not contiguous, larger than a message."""

    def __init__(self, seed: int, slow_s: float = 0.0) -> None:
        self.slow_s = slow_s
        generator = torch.Generator().manual_seed(seed)

        def numbers(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator)

        self.state: dict[str, Any] = {
            "large": numbers(600, 500),
            "turned": numbers(700, 500).t(),
            "part": numbers(300, 40)[:, 3:17],
            "huge": numbers(3000, 300),
            "whole": numbers(9).to(torch.int64),
            "half": numbers(1 << 20).to(torch.bfloat16),
            "true": numbers(5) > 0,
            "one": numbers(),
            "none": numbers(0, 4),
            "word": f"of {seed}",
        }

    def state_dict(self) -> dict[str, Any]:
        time.sleep(self.slow_s)
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def _rank(
    folder: str, rank: int, ranks: int, joined: dict[int, int], slow_s: float = 0.0, cuda: int | None = None
) -> None:
    if rank == cuda:
        torch.cuda.is_initialized = lambda: True
    torch.set_num_threads(1)
    torch.manual_seed(rank)  # parameters of its own
    odd, model = Odd(joined.get(rank, 1000 + rank), slow_s), nn.Linear(3, 2)
    training = Training(model, [odd], {})
    training.joined, training.position = rank in joined, Position(step=joined.get(rank, 0))
    handover.BUCKET_BYTES = 1_500_000  # several messages for a tensor
    if slow_s:
        group.CONNECT_S = slow_s - 1.0
    group.form(FileStore(f"{folder}/store", ranks), rank, ranks, cuda=False)
    state = share(training, rank, ranks)
    if state is not None:
        training.become(state)
    torch.save((state is not None, odd.state, model.state_dict(), training.position.step), f"{folder}/{rank}.pt")
    dist.barrier()
    group.close()


@pytest.mark.parametrize(
    ("joined", "cuda"),
    [
        ({0: 7}, None),
        ({2: 7}, None),
        pytest.param({0: 7, 1: 7}, None, marks=slow),
        ({0: 6, 2: 7}, None),
        ({}, None),
        ({0: 7}, 1),
        pytest.param({2: 7}, 1, marks=slow),
        ({0: 7, 1: 7}, 1),
        pytest.param({0: 6, 2: 7}, 1, marks=slow),
        pytest.param({}, 1, marks=slow),
    ],
    ids=str,
)
def test_those_who_lack_the_state_get_it_whole(tmp_path: Path, joined: dict[int, int], cuda: int | None) -> None:
    """Steps by rank of those who have the state; with {} all begin, and take the state of the first.

    If one rank uses CUDA, all take part, and those who have the state still keep their own.
    """
    ranks = 4
    processes = [
        CONTEXT.Process(target=_rank, args=(str(tmp_path), rank, ranks, joined, 0.0, cuda)) for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120.0)
        assert process.exitcode == 0
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(ranks)]
    most = max(joined.values(), default=0)
    source = min((rank for rank in joined if joined[rank] == most), default=0)
    expected = Odd(seed=joined.get(source, 1000 + source)).state
    for rank, (received, state, model, step) in enumerate(found):
        assert received == (rank != source and (rank not in joined or joined[rank] < most))
        assert step == most
        assert state.keys() == expected.keys()
        for name, value in expected.items():
            if isinstance(value, torch.Tensor):
                assert state[name].dtype == value.dtype, name
                assert torch.equal(state[name], value), name
            else:
                assert state[name] == value
        if received:
            assert torch.equal(model["weight"], found[source][2]["weight"])


def test_a_state_that_takes_longer_than_a_connection_is_waited_for(tmp_path: Path) -> None:
    processes = [CONTEXT.Process(target=_rank, args=(str(tmp_path), rank, 2, {0: 7}, 3.0)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120.0)
        assert process.exitcode == 0
    assert torch.load(tmp_path / "1.pt")[0]


@pytest.mark.parametrize("ranks", range(1, 40))
def test_the_way_reaches_each_rank_once(ranks: int) -> None:
    members = [7 * rank % 41 for rank in range(ranks)]
    ways = {rank: Way(members, rank) for rank in members}
    assert ways[members[0]].parent is None
    children = list(itertools.chain(*(way.children for way in ways.values())))
    assert sorted(children) == sorted(members[1:])
    for rank, way in ways.items():
        assert all(ways[child].parent == rank for child in way.children)
    depth = {members[0]: 0}
    for rank in members:  # parents come before their children
        depth |= dict.fromkeys(ways[rank].children, depth[rank] + 1)
    assert max(depth.values()) <= ranks.bit_length()
