"""Describe a cluster as nodes of GPUs in racks, and read the description from a short text or a YAML file.

The short text is ``COUNTxGPUS:TYPE``, several joined by ``+``: ``16x8:A100`` is sixteen nodes with eight A100 each;
``16x8:A100+4x4:T4`` adds four nodes with four T4 each. A YAML file can say more (`NodeGroup` documents every key)::

    groups:
      - gpu_type: A100
        count: 16
        gpus: 8
        rack_size: 4
        names: gpu[01-16]
        idle_w: 350
        can_sleep: true
        sleep_w: 20
        wake_s: 240
      - {gpu_type: T4, count: 4, gpus: 4, racks: [old-a, old-b]}

All nodes of one GPU type form a **pool**; a job runs inside one pool. Here a GPU type is only a name; `powerflow.cost`
knows its speed and power.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from powerflow.errors import InputError

#: The GPUs of a node are bits of a 64-bit mask in `powerflow.cluster.occupancy`.
MOST_GPUS_PER_NODE = 64
#: A larger number is taken for a typing error.
MOST_GPUS = 1_000_000
#: Default number of nodes in a rack.
DEFAULT_RACK_SIZE = 8

_TERM = re.compile(r"\s*([-+]?\d{1,12})\s*[xX]\s*([-+]?\d{1,12})\s*:\s*(\S+)\s*")
_LOOKS_LIKE_TEXT = re.compile(r"\s*[-+]?\d*\s*[xX]\s*[-+]?\d|[^/]*\d\s*:\s*\w+\s*$")
_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
_NAMES = re.compile(r"([A-Za-z0-9._-]*)\[(\d+)-(\d+)\]([A-Za-z0-9._-]*)")


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Group of equal nodes, as an administrator describes it. Its fields are the keys of the YAML file.

    Attributes:
        gpu_type: Name of the nodes' GPU type.
        count: Number of nodes, ≥ 1.
        gpus: GPUs in each node, 1 to 64.
        rack_size: Nodes in one rack; each group starts a new rack. Cannot be combined with ``racks``.
        racks: Names of the racks that hold the nodes, filled in order and evenly; groups may share a rack.
        names: Node names as a range, ``gpu[001-016]``; the default is ``a100-0``, ``a100-1``, …
        idle_w: Watts of one awake node without its GPUs (host, fans, network); with 0 they are not counted.
        can_sleep: True if an empty node may be put to sleep.
        sleep_w: Watts of one sleeping node, its GPUs included.
        wake_s: Seconds from asleep to usable. Until then the node draws the same as awake and idle. Required with
            ``can_sleep``.
    """

    gpu_type: str
    count: int
    gpus: int
    rack_size: int | None = None
    racks: tuple[str, ...] = ()
    names: str | None = None
    idle_w: float = 0.0
    can_sleep: bool = False
    sleep_w: float = 0.0
    wake_s: float | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One node of the cluster.

    Attributes:
        index: Number of the node in the cluster, from 0 without gaps.
        name: Name of the node, unique in the cluster.
        gpu_type: Name of the node's GPU type.
        gpus: Number of GPUs, 1 to 64.
        rack: Name of the node's rack.
        idle_w: Watts of the awake node without its GPUs.
        can_sleep: True if the node may be put to sleep when it is empty.
        sleep_w: Watts of the sleeping node, its GPUs included.
        wake_s: Seconds from asleep to usable.
    """

    index: int
    name: str
    gpu_type: str
    gpus: int
    rack: str
    idle_w: float = 0.0
    can_sleep: bool = False
    sleep_w: float = 0.0
    wake_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """Description of a cluster. It does not change while jobs run.

    Attributes:
        source: The text or path from which the description was read.
        nodes: Every node, ``nodes[i].index == i``.
    """

    source: str
    nodes: tuple[Node, ...]

    @property
    def gpus(self) -> int:
        """Number of GPUs of all types together."""
        return sum(node.gpus for node in self.nodes)

    def pools(self) -> Mapping[str, tuple[Node, ...]]:
        """Return the nodes of each GPU type, types in order of first appearance."""
        pools: dict[str, list[Node]] = {}
        for node in self.nodes:
            pools.setdefault(node.gpu_type, []).append(node)
        return {gpu_type: tuple(nodes) for gpu_type, nodes in pools.items()}


def parse_cluster(text_or_path: str | Path, where: str = "--cluster") -> ClusterSpec:
    """Read a cluster from ``"16x8:A100+4x4:T4"`` or from a YAML file.

    ``where`` is the source of the text in error messages, such as the name of an option.

    Raises:
        InputError: The description is wrong; the message is one line with the place of the error. No other exception is
            raised.
    """
    text = str(text_or_path)
    if not text.strip():
        raise InputError("cluster is empty", where=where, fix="give 16x8:A100 or a YAML file")
    terms = [_TERM.fullmatch(term) for term in text.split("+")]
    if all(terms):
        groups = [NodeGroup(term[3], int(term[1]), int(term[2])) for term in terms if term]
        return build_cluster(groups, source=text)
    bare_word = "/" not in text and "." not in text
    if (bare_word or _LOOKS_LIKE_TEXT.match(text)) and not os.path.exists(text):
        fix = "write COUNTxGPUS:TYPE, such as 16x8:A100, or give a YAML file"
        raise InputError(f"cannot read {text!r} as a cluster", where=where, fix=fix)

    from powerflow.cluster.spec_file import read_groups  # YAML only where there is a file

    groups_and_lines = read_groups(Path(text))
    groups = [group for group, _ in groups_and_lines]
    return build_cluster(groups, source=text, places=[f"{printable(text)}:{line}" for _, line in groups_and_lines])


def printable(text: str) -> str:
    """Return a path in a form that can be printed safely in a message of one line."""
    return text if text.isprintable() else repr(text)


def build_cluster(groups: Sequence[NodeGroup], *, source: str, places: Sequence[str] = ()) -> ClusterSpec:
    """Make the description of a cluster: give each node of some groups a number, a name and a rack.

    Args:
        groups: At least one group.
        source: Source of the groups, as it is shown to the user.
        places: Place of each group in its source, for error messages; ``source`` if absent.

    Raises:
        InputError: A group is impossible, two nodes have the same name, or the cluster is too large.
    """
    if not groups:
        raise InputError("cluster has no nodes", where=source)
    nodes: list[Node] = []
    named: set[str] = set()
    unnamed: dict[str, int] = {}  # number of nodes of each type with a default name
    racks = total = 0
    for i, group in enumerate(groups):
        where = places[i] if places else source
        _check(group, where)
        total += group.count * group.gpus
        if total > MOST_GPUS:
            raise InputError(f"{total} GPUs are more than {MOST_GPUS}", where=where)
        rack_names, racks = _racks_of(group, racks)
        first = unnamed.get(group.gpu_type, 0)
        if group.names is None:
            unnamed[group.gpu_type] = first + group.count
        for name, rack in zip(_names_of(group, first, where), rack_names, strict=True):
            if name in named:
                raise InputError(f"two nodes have the name {name!r}", where=where)
            named.add(name)
            nodes.append(
                Node(
                    index=len(nodes),
                    name=name,
                    gpu_type=group.gpu_type,
                    gpus=group.gpus,
                    rack=rack,
                    idle_w=group.idle_w,
                    can_sleep=group.can_sleep,
                    sleep_w=group.sleep_w,
                    wake_s=group.wake_s or 0.0,
                )
            )
    return ClusterSpec(source, tuple(nodes))


def _check(group: NodeGroup, where: str) -> None:
    """Check a group of nodes.

    Raises:
        InputError: The group is impossible.
    """
    if not _TYPE.fullmatch(group.gpu_type):
        raise InputError(
            f"{group.gpu_type!r} is not a valid name of a GPU type",
            where=where,
            fix="use letters, digits, '.', '_', '-'",
        )
    if group.count < 1:
        raise InputError(f"{group.count} nodes", where=where, fix="a group has at least 1 node")
    if not 1 <= group.gpus <= MOST_GPUS_PER_NODE:
        raise InputError(f"{group.gpus} GPUs per node", where=where, fix=f"a node has 1 to {MOST_GPUS_PER_NODE} GPUs")
    if group.rack_size is not None and group.racks:
        raise InputError("both rack_size and racks are given", where=where, fix="give one of them")
    if group.rack_size is not None and group.rack_size < 1:
        raise InputError(f"rack_size is {group.rack_size}", where=where, fix="a rack holds at least 1 node")
    if len(set(group.racks)) != len(group.racks):
        raise InputError("racks has the same name twice", where=where)
    if len(group.racks) > group.count:
        raise InputError(
            f"{len(group.racks)} racks for {group.count} nodes", where=where, fix="give at most one rack per node"
        )
    for key, value in (("idle_w", group.idle_w), ("sleep_w", group.sleep_w), ("wake_s", group.wake_s or 0.0)):
        if not 0.0 <= value < float("inf"):
            raise InputError(f"{key} is {value:g}", where=where, fix="give a number ≥ 0")
    if group.can_sleep and group.wake_s is None:
        raise InputError("can_sleep without wake_s", where=where, fix="give the seconds that a node takes to wake")


def _racks_of(group: NodeGroup, racks_before: int) -> tuple[list[str], int]:
    """Return the rack of each node of a group, and the number of racks numbered so far."""
    if group.racks:
        return [group.racks[i * len(group.racks) // group.count] for i in range(group.count)], racks_before
    size = group.rack_size or DEFAULT_RACK_SIZE
    names = [f"rack-{racks_before + i // size}" for i in range(group.count)]
    return names, racks_before + -(-group.count // size)


def _names_of(group: NodeGroup, first: int, where: str) -> list[str]:
    if group.names is None:
        return [f"{group.gpu_type.lower()}-{first + i}" for i in range(group.count)]
    pattern = _NAMES.fullmatch(group.names)
    if pattern is None:
        raise InputError(
            f"names {group.names!r} is not a range", where=where, fix="write a range, such as gpu[001-016]"
        )
    head, low, high, tail = pattern.groups()
    length = int(high) - int(low) + 1
    if length != group.count:
        raise InputError(f"names {group.names!r} has {max(length, 0)} names for {group.count} nodes", where=where)
    return [f"{head}{int(low) + i:0{len(low)}d}{tail}" for i in range(group.count)]
