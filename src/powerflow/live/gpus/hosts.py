"""Present the GPUs of machines as nodes of the scheduler."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from powerflow.cluster.spec import Node
from powerflow.live.gpus.machines import ClusterGpu


def nodes_of(gpus: Sequence[ClusterGpu]) -> tuple[Node, ...]:
    """Return the scheduler's nodes for these GPUs, in order of first appearance; all nodes are in one rack.

    Each node has GPUs of one type, numbered from 0 without a gap.
    """
    by_node: dict[str, list[ClusterGpu]] = {}
    for gpu in gpus:
        by_node.setdefault(gpu.node, []).append(gpu)
    return tuple(
        Node(number, name, of_node[0].gpu_type, len(of_node), "rack-0")
        for number, (name, of_node) in enumerate(by_node.items())
    )


def names_by_type(gpus: Sequence[ClusterGpu]) -> Mapping[str, Collection[str]]:
    """Return for each GPU type the names that the driver gives to GPUs of this type.

    A job may ask for any of these names.
    """
    found: dict[str, set[str]] = {}
    for gpu in gpus:
        found.setdefault(gpu.gpu_type, set()).add(gpu.vendor_name)
    return found
