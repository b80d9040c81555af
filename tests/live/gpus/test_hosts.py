"""GPUs of one machine as nodes: one per type, numbers that stay."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from powerflow.agent.gpus import AbsentGpu, chosen, described, numbered
from powerflow.api.records import Refused
from powerflow.cost.type_names import slug
from powerflow.device.protocol import DeviceLost, Gpu
from powerflow.engine.protocol import EngineNode
from powerflow.errors import InputError
from powerflow.live.gpus.hosts import names_by_type, nodes_of, rack_of
from powerflow.live.gpus.machines import ClusterGpu, cluster_gpu
from powerflow.live.gpus.wanted import type_wanted
from powerflow.testing.recorded_gpus import ReplayGpu


@dataclass
class _Card(ReplayGpu):
    """A GPU that is only there."""

    uuid: str
    gpu_type: str
    index: int
    node: str = "host"
    emulated: bool = False


def cards(*types: str, first: int = 0) -> list[Gpu]:
    return [_Card(f"GPU-{first + i}", kind, first + i) for i, kind in enumerate(types)]


def told(gpus: Sequence[Gpu]) -> list[ClusterGpu]:
    """As their machine describes them."""
    return [cluster_gpu("h", json.loads(json.dumps(described(gpu)))) for gpu in gpus]


def places(gpus: object) -> list[tuple[str, str, int]]:
    return [(gpu.uuid, gpu.node, gpu.index) for gpu in gpus]  # type: ignore[attr-defined]


def test_racks_and_switches_come_from_labels(tmp_path: Path) -> None:
    def node(**labels: str) -> EngineNode:
        return EngineNode("n", 4, labels=labels)

    assert rack_of(node()) == rack_of(node(rack="", color="red")) == "rack-0"
    assert rack_of(node(rack="r1")) == "r1"
    assert rack_of(node(switch="s2")) == "s2"
    assert rack_of(node(rack="r1", switch="s2")) == "r1/s2"
    gpus = told(numbered(cards("A100", "A100"), "gpu07", tmp_path))
    assert [each.rack for each in nodes_of(gpus, {"gpu07": "r1/s2"})] == ["r1/s2"]
    assert [each.rack for each in nodes_of(gpus)] == ["rack-0"]


def test_one_type_is_one_node_of_the_machines_name(tmp_path: Path) -> None:
    gpus = numbered(cards("A100", "A100"), "gpu07", tmp_path)
    assert places(gpus) == [("GPU-0", "gpu07", 0), ("GPU-1", "gpu07", 1)]
    assert [(node.name, node.gpu_type, node.gpus) for node in nodes_of(told(gpus))] == [("gpu07", "A100", 2)]


def test_two_types_are_two_nodes_each_numbered_from_zero(tmp_path: Path) -> None:
    gpus = numbered(cards("A100", "NVIDIA L4", "A100", "NVIDIA L4"), "gpu07", tmp_path)
    assert places(gpus) == [
        ("GPU-0", "gpu07-A100", 0),
        ("GPU-2", "gpu07-A100", 1),
        ("GPU-1", "gpu07-L4", 0),
        ("GPU-3", "gpu07-L4", 1),
    ]
    assert [(node.index, node.name, node.gpu_type, node.gpus) for node in nodes_of(told(gpus))] == [
        (0, "gpu07-A100", "A100", 2),
        (1, "gpu07-L4", "NVIDIA L4", 2),
    ]


def test_a_gap_in_the_drivers_numbers_is_none_in_ours(tmp_path: Path) -> None:
    three = cards("A100", "A100", "A100")
    assert places(numbered([three[0], three[2]], "h", tmp_path)) == [("GPU-0", "h", 0), ("GPU-2", "h", 1)]


def test_numbers_stay_when_a_gpu_goes_and_it_is_lost_until_it_comes_back(tmp_path: Path) -> None:
    numbered(cards("A100", "A100", "A100"), "h", tmp_path)
    left = numbered(cards("A100", "A100", first=1), "h", tmp_path)
    assert places(left) == [("GPU-0", "h", 0), ("GPU-1", "h", 1), ("GPU-2", "h", 2)]
    assert isinstance(left[0], AbsentGpu)
    for name, arguments in (("read", ()), ("clocks_mhz", ()), ("unlock_clock", ()), ("lock_clock", (1005.0,))):
        with pytest.raises(DeviceLost, match="GPU-0"):
            getattr(left[0], name)(*arguments)
    back = numbered(cards("A100", "A100", "A100"), "h", tmp_path)
    assert not any(isinstance(gpu, AbsentGpu) for gpu in back)


def test_a_second_type_that_comes_later_leaves_the_first_ones_node_alone(tmp_path: Path) -> None:
    numbered(cards("A100"), "h", tmp_path)
    both = numbered(cards("A100", "NVIDIA L4"), "h", tmp_path)
    assert places(both) == [("GPU-0", "h", 0), ("GPU-1", "h-L4", 0)]
    alone = numbered(cards("NVIDIA L4", first=1), "h", tmp_path)  # nothing answers in the other node: it is not there
    assert places(alone) == [("GPU-1", "h-L4", 0)]


def test_cards_that_are_called_otherwise_by_now_keep_their_numbers(tmp_path: Path) -> None:
    numbered(cards("A100", "A100", "A100"), "h", tmp_path)
    renamed = numbered(list(reversed(cards("NVIDIA A100X", "NVIDIA A100X"))), "h", tmp_path)
    assert places(renamed) == [("GPU-0", "h", 0), ("GPU-1", "h", 1), ("GPU-2", "h", 2)]
    assert isinstance(renamed[2], AbsentGpu)
    assert [(node.name, node.gpu_type, node.gpus) for node in nodes_of(told(renamed))] == [("h", "NVIDIA A100X", 3)]


def test_a_single_card_that_is_called_otherwise_leaves_no_gap(tmp_path: Path) -> None:
    numbered(cards("A100", "A100", "A100"), "h", tmp_path)
    for _ in range(2):
        mixed = numbered(cards("A100", "NVIDIA L4", "A100"), "h", tmp_path)
        assert places(mixed) == [
            ("GPU-0", "h", 0),
            ("GPU-1 as A100", "h", 1),
            ("GPU-2", "h", 2),
            ("GPU-1", "h-L4", 0),
        ]
        assert isinstance(mixed[1], AbsentGpu)
        assert [(node.name, node.gpus) for node in nodes_of(told(mixed))] == [("h", 3), ("h-L4", 1)]


@pytest.mark.parametrize(
    ("name", "short"),
    [("NVIDIA A100-PCIE-40GB", "A100-PCIE-40GB"), ("A100", "A100"), ("Tesla T4", "T4"), ("TITAN Xp", "TITAN-Xp")],
)
def test_names_that_may_stand_in_a_job(name: str, short: str) -> None:
    assert slug(name) == short


def test_a_job_says_which_of_two_it_means() -> None:
    types = {"A100": ["NVIDIA A100-SXM4-80GB"], "NVIDIA A100-PCIE-40GB": ["NVIDIA A100-PCIE-40GB"]}
    with pytest.raises(Refused) as refused:
        type_wanted("A100", types)
    assert (
        str(refused.value) == "A100 can mean A100-PCIE-40GB or A100-SXM4-80GB in this cluster; write one of these names"
    )
    assert type_wanted("A100-SXM4-80GB", types) == "A100"
    assert type_wanted("A100-PCIE-40GB", types) == "NVIDIA A100-PCIE-40GB"
    assert type_wanted(None, types) is None
    with pytest.raises(Refused, match="no H100 in this cluster"):
        type_wanted("H100", types)


def test_a_card_is_asked_for_by_its_own_name(tmp_path: Path) -> None:
    gpus = cards("NVIDIA H200")
    assert type_wanted("H200", names_by_type(told(gpus))) == "NVIDIA H200"


@pytest.mark.parametrize(
    ("names", "expected"),
    [("", [0, 1, 2]), ("0,2", [0, 2]), ("GPU-1", [1]), ("GPU-2, 0", [0, 2]), ("1,7", [1])],
)
def test_an_agent_uses_the_gpus_that_it_is_given(names: str, expected: list[int]) -> None:
    left_out: list[str] = []
    found = chosen(cards("A100", "A100", "A100"), names, left_out.append)
    assert [gpu.index for gpu in found] == expected
    missing = ["--gpus 7: this machine has no such GPU that can be used"] if "7" in names else []
    assert [words for words in left_out if words.startswith("--gpus")] == missing
    assert len(left_out) == 3 - len(expected) + len(missing)


def test_an_agent_without_any_of_its_gpus_is_refused() -> None:
    with pytest.raises(InputError, match="no GPU of this machine is one of 4,5"):
        chosen(cards("A100"), "4,5", print)
    with pytest.raises(InputError, match="',' names no GPU"):
        chosen(cards("A100"), ",", print)
