"""The GPUs of one machine as the scheduler's nodes: one node for each GPU type, every GPU with a number that it keeps.

A node has GPUs of one type, so a machine with two types is two nodes: ``gpu07-A100`` and ``gpu07-L4``. Jobs are placed
by node and number, and live on while the controller restarts; so which GPU (by UUID) has which number is kept on disk.
A GPU that had a number and is not there any more keeps its place as one that is lost.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from powerflow.cluster.spec import Node
from powerflow.cost.type_names import words
from powerflow.device.protocol import DeviceLost, Gpu, Reading
from powerflow.osutil.files import read_json, replace_json

#: Where it is kept which GPU is which, in the state directory.
NUMBERS = "gpus.json"


class AbsentGpu:
    """A `Gpu` that had a number here before and cannot be used now: every call says that it is lost."""

    emulated = False

    def __init__(self, uuid: str, node: str, index: int, gpu_type: str) -> None:
        self.uuid, self.node, self.index, self.gpu_type = uuid, node, index, gpu_type

    def read(self) -> Reading:
        """See `Gpu.read`."""
        raise self._lost()

    def clocks_mhz(self) -> Sequence[float]:
        """See `Gpu.clocks_mhz`."""
        raise self._lost()

    def lock_clock(self, clock_mhz: float) -> None:
        """See `Gpu.lock_clock`."""
        raise self._lost()

    def unlock_clock(self) -> None:
        """See `Gpu.unlock_clock`."""
        raise self._lost()

    def _lost(self) -> DeviceLost:
        return DeviceLost(f"GPU {self.index} of {self.node} ({self.uuid}) was here before, and cannot be used now")


def numbered(gpus: Sequence[Gpu], host: str, state: Path) -> Sequence[Gpu]:
    """Give every GPU its node and its number there, the same as before, and keep them.

    Args:
        gpus: Those of this machine that can be used; their ``node`` and ``index`` are set.
        host: Name of this machine: that of the node too, while it has GPUs of one type.
        state: The state directory.

    Returns:
        These GPUs, and `AbsentGpu` for those that are missing from a node that still has some.
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
    """Places with the types that cards have now: an upgrade, or another driver, can call the same card otherwise.

    Where all of a node are called otherwise they stay what they were to each other. A single one starts anew, in a node
    of its type, and its place is taken by one that is lost, as the numbers of a node have no gap.
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
    """The scheduler's nodes that these GPUs are in, in order of first appearance; all in one rack.

    Each has GPUs of one type, numbered from 0 without a gap.
    """
    by_node: dict[str, list[Gpu]] = {}
    for gpu in gpus:
        by_node.setdefault(gpu.node, []).append(gpu)
    return tuple(
        Node(number, name, of_node[0].gpu_type, len(of_node), "rack-0")
        for number, (name, of_node) in enumerate(by_node.items())
    )


def names_by_type(gpus: Sequence[Gpu]) -> Mapping[str, Collection[str]]:
    """Per GPU type, the names that its cards give themselves; what a job may ask for."""
    found: dict[str, set[str]] = {}
    for gpu in gpus:
        found.setdefault(gpu.gpu_type, set()).add(str(getattr(gpu, "vendor_name", gpu.gpu_type)))
    return found


def slug(gpu_type: str) -> str:
    """A GPU type as it may stand in the name of a node, or of what a job asks for: ``A100-PCIE-40GB``."""
    every = re.findall(r"[A-Za-z0-9]+", gpu_type)
    return "-".join(every[1:] if len(every) > 1 and words(every[0]) in (["nvidia"], ["tesla"]) else every)
