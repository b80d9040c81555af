"""Small pools."""

from powerflow.cluster.occupancy import Occupancy
from powerflow.cluster.spec import Node, parse_cluster


def occupancy(text: str, *, rack_size: int | None = None) -> Occupancy:
    nodes = parse_cluster(text).nodes
    if rack_size is not None:
        nodes = tuple(Node(n.index, n.name, n.gpu_type, n.gpus, f"r{n.index // rack_size}") for n in nodes)
    return Occupancy(nodes)


def node_numbers(pool: Occupancy, owner: int) -> list[int]:
    names = [node.name for node in pool.nodes]
    return [names.index(share.node) for share in pool.placement(owner)]
