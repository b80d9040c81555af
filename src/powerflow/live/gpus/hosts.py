"""Present the GPUs of machines as nodes of the scheduler."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from powerflow.cluster.spec import Node
from powerflow.engine.protocol import EngineNode
from powerflow.live.gpus.machines import ClusterGpu

#: Rack of nodes of which the site does not say where they are.
SOMEWHERE = "rack-0"


def rack_of(node: EngineNode) -> str:
    """Return the group of nodes within which a node's network is fastest: its rack and its switch, as labels say."""
    return "/".join(node.labels[key] for key in ("rack", "switch") if node.labels.get(key)) or SOMEWHERE


def nodes_of(gpus: Sequence[ClusterGpu], racks: Mapping[str, str] | None = None) -> tuple[Node, ...]:
    """Return the scheduler's nodes for these GPUs, in order of first appearance.

    Each node has GPUs of one type, numbered from 0 without a gap.

    Args:
        gpus: The GPUs of all machines.
        racks: Rack of each node, by name; the others are in one rack together.
    """
    racks = racks or {}
    by_node: dict[str, list[ClusterGpu]] = {}
    for gpu in gpus:
        by_node.setdefault(gpu.node, []).append(gpu)
    return tuple(
        Node(number, name, of_node[0].gpu_type, len(of_node), racks.get(name, SOMEWHERE))
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
