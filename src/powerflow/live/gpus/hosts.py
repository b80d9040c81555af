"""Present the GPUs of one machine as nodes of the scheduler, with a fixed number for each GPU.

A node has GPUs of one type, so a machine with two types is two nodes: ``gpu07-A100`` and ``gpu07-L4``. The placement of
a job names nodes and GPU numbers, and must stay valid when the controller restarts. So the number of each GPU (by UUID)
is kept on disk. A GPU that is missing keeps its number, and counts as lost.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from powerflow.cluster.spec import Node
from powerflow.cost.type_names import words
from powerflow.device.protocol import DeviceLost, Gpu
from powerflow.osutil.files import read_json, replace_json

#: File of the numbers, in the state directory.
NUMBERS = "gpus.json"


class AbsentGpu:
    """A GPU that once had a number on this machine and cannot be used now: every call raises `DeviceLost`."""

    emulated = False

    def __init__(self, uuid: str, node: str, index: int, gpu_type: str) -> None:
        self.uuid, self.node, self.index, self.gpu_type = uuid, node, index, gpu_type

    def _fail(self, *_: object) -> NoReturn:
        raise DeviceLost(f"GPU {self.index} of {self.node} ({self.uuid}) was used before, but cannot be used now")

    read = clocks_mhz = lock_clock = unlock_clock = _fail


def numbered(gpus: Sequence[Gpu], host: str, state: Path) -> Sequence[Gpu]:
    """Give every GPU of this machine a node and a number in it, and store both. A known GPU keeps its node and number.

    Args:
        gpus: GPUs of this machine that can be used; their ``node`` and ``index`` are set.
        host: Name of this machine. The node has the same name while all GPUs of the machine have one type.
        state: The state directory.

    Returns:
        The given GPUs, and an `AbsentGpu` for each GPU that is missing from a node that still has some GPUs.
    """
    path = state / NUMBERS
    places: dict[str, tuple[str, int, str]] = {
        uuid: (str(node), int(number), str(kind)) for uuid, (node, number, kind) in ((read_json(path)) or {}).items()
    }
    places = _retyped(places, {gpu.uuid: gpu.gpu_type for gpu in gpus})
    several = len({gpu.gpu_type for gpu in gpus} | {kind for _, _, kind in places.values()}) > 1
    for gpu in gpus:
        if gpu.uuid not in places:
            nodes = {kind: node for node, _, kind in places.values()}
            node = nodes.get(gpu.gpu_type) or (f"{host}-{slug(gpu.gpu_type)}" if several else host)
            taken = {number for name, number, _ in places.values() if name == node}
            number = next(i for i in range(len(taken) + 1) if i not in taken)
            places[gpu.uuid] = node, number, gpu.gpu_type
        gpu.node, gpu.index, _ = places[gpu.uuid]
    replace_json(path, {uuid: list(place) for uuid, place in places.items()})
    here, answering = {gpu.uuid for gpu in gpus}, {gpu.node for gpu in gpus}
    absent = [AbsentGpu(uuid, *place) for uuid, place in places.items() if uuid not in here and place[0] in answering]
    return sorted([*gpus, *absent], key=lambda gpu: (gpu.node, gpu.index))


def _retyped(places: Mapping[str, tuple[str, int, str]], types: Mapping[str, str]) -> dict[str, tuple[str, int, str]]:
    """Return the places of GPUs with their present types, because an upgrade or another driver may rename a GPU's type.

    If the types of all GPUs of a node are renamed, the GPUs keep their node. If only one GPU has another type, it gets
    a new place in a node of this type, and an absent GPU takes its old place, because the numbers of a node have no
    gap.
    """
    now: dict[str, set[str]] = {}
    for uuid, (node, _, _) in places.items():
        now.setdefault(node, set()).update([types[uuid]] if uuid in types else [])
    found = {}
    for uuid, (node, number, kind) in places.items():
        name = next(iter(now[node])) if len(now[node]) == 1 else kind
        stays = types.get(uuid, name) == name
        found[uuid if stays else f"{uuid} as {kind}"] = node, number, name
    return found


def nodes_of(gpus: Sequence[Gpu]) -> tuple[Node, ...]:
    """Return the scheduler's nodes for these GPUs, in order of first appearance; all nodes are in one rack.

    Each node has GPUs of one type, numbered from 0 without a gap.
    """
    by_node: dict[str, list[Gpu]] = {}
    for gpu in gpus:
        by_node.setdefault(gpu.node, []).append(gpu)
    return tuple(
        Node(number, name, of_node[0].gpu_type, len(of_node), "rack-0")
        for number, (name, of_node) in enumerate(by_node.items())
    )


def names_by_type(gpus: Sequence[Gpu]) -> Mapping[str, Collection[str]]:
    """Return for each GPU type the names that the driver gives to GPUs of this type.

    A job may ask for any of these names.
    """
    found: dict[str, set[str]] = {}
    for gpu in gpus:
        found.setdefault(gpu.gpu_type, set()).add(str(getattr(gpu, "vendor_name", gpu.gpu_type)))
    return found


def slug(gpu_type: str) -> str:
    """Return a GPU type as node names and job files write it, such as ``A100-PCIE-40GB``."""
    every = re.findall(r"[A-Za-z0-9]+", gpu_type)
    return "-".join(every[1:] if len(every) > 1 and words(every[0]) in (["nvidia"], ["tesla"]) else every)
