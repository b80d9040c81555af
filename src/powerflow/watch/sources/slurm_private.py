"""Find out which GPUs are held by jobs that ``PrivateData=jobs`` hides from the user who asks.

Slurm tells nothing of these jobs, but each node still tells how many of its GPUs are given out, and in some
versions which (``GresUsed=gpu:3(IDX:0-2)``). What no visible job holds belongs to a hidden one. Where the numbers are
not told, each GPU of such a node that no visible job holds may be the hidden one. ``PrivateData=nodes`` hides all
nodes, too.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator

from powerflow.osutil.host_names import short_host
from powerflow.watch.owners import GpuAddress

#: The request that tells what is hidden from users.
CONFIG = ("scontrol", "show", "config")
#: The request that tells how many GPUs of each node are given out.
NODES = ("scontrol", "--details", "--oneliner", "show", "nodes")
#: How often it is asked what is hidden, seconds.
CONFIG_S = 3600.0
#: Most GPUs of a node that a range may name: a damaged answer must not fill the memory.
_MOST_NUMBERS = 100_000

_PRIVATE = re.compile(r"^PrivateData\s*=\s*(\S+)", re.MULTILINE)
_NODE = re.compile(r"^NodeName=(\S+) .*? Gres=(\S+).*? GresUsed=(\S+)", re.MULTILINE)
_GPUS = re.compile(r"(?:^|,)gpu(?::[^:()=,]+)?:(\d+)(?:\(IDX:([0-9,\-]+)\))?")


def hidden_kinds(config: str) -> set[str]:
    """Return what ``scontrol show config`` says is hidden from users: ``jobs``, ``nodes`` and others."""
    found = _PRIVATE.search(config)
    return set(found[1].split(",")) - {"none"} if found else set()


def hidden_gpus(nodes: str, held: Collection[GpuAddress]) -> set[GpuAddress]:
    """Return the GPUs that hidden jobs hold, or may hold.

    Args:
        nodes: Output of ``scontrol --details --oneliner show nodes``.
        held: GPUs that visible jobs hold.
    """
    found: set[GpuAddress] = set()
    for name, gres, used in _NODE.findall(nodes):
        node = short_host(name)
        visible = {gpu for gpu in held if gpu.node == node}
        given, numbers = 0, set[int]()
        for count, told in _GPUS.findall(used):
            given += int(count)
            numbers.update(numbers_in(told) if told else ())
        if given <= len(visible):
            continue
        if len(numbers) != given:  # which ones are given out is not told
            numbers = set(range(sum(int(count) for count, _ in _GPUS.findall(gres))))
        found |= {GpuAddress(node, number) for number in numbers} - visible
    return found


def numbers_in(text: str) -> Iterator[int]:
    """Yield the numbers of ``0-2,5``."""
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield from itertools.islice(range(int(first), int(last or first) + 1), _MOST_NUMBERS)
