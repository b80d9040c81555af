"""Count the GPUs in a Slurm record: whole GPUs, MIG slices (parts of a GPU), and shares through shard or mps.

Slurm calls all of these generic resources (gres). A MIG slice is ``gres/gpu:a100_1g.5gb=1`` (or ``gres/gpu:1g.5gb=1``);
it is also counted in ``gres/gpu``. A share of a GPU is ``gres/shard=4`` or ``gres/mps=25`` (gres.conf(5)).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from powerflow.trace.fields import Unusable, clip

_COUNT = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)([KMGTP]?)")
_SUFFIX = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4, "P": 1024**5}

# NVIDIA's MIG profiles: compute slices, then memory ("1g.5gb", "3g.20gb", "1c.3g.20gb", "1g.10gb+me")
_MIG = re.compile(r"(?<![0-9])(?:(\d)c[._-])?(\d)g[._-]?(\d{1,3})gb(?![0-9a-z])", re.IGNORECASE)
_MIG_WORD = re.compile(r"(?:^|[._:-])mig(?:$|[._:-])", re.IGNORECASE)
_SLICES = 7  # compute slices of an A100, H100, H200 or B200
_FOUR_SLICES = {(1, 6), (2, 12), (4, 24), (1, 24), (2, 48), (4, 96)}  # profiles of an A30, and of an RTX PRO 6000

_SHARES = ("shard", "mps")
_TRES = {"gres/gpu", "gres/shard", "gres/mps", "node"}
_GPU = ("gpu", "7696487")  # Slurm's plugin number of "gpu"; old databases hold it instead of the name
_SCOPE = re.compile(r"PER_(NODE|JOB|SOCKET|TASK):")

_OPTION = re.compile(r"(?:--(gres|gpus|gpus-per-node|gpus-per-task|gpus-per-socket)(?:=|\s+)|(?<=\s)-G\s*=?)(\S+)")


@dataclass(frozen=True, slots=True)
class SlurmGpus:
    """The GPUs in a Slurm record.

    Attributes:
        whole: Number of whole GPUs.
        slices: MIG profile (kind of slice) → number of slices.
        shares: Share of a GPU, as ``gres/shard=4`` or ``gres/mps=25``; "" if the job shares no GPU.
        one_node_assumed: True if the record has GPUs per node but no number of nodes; then one node is assumed.
    """

    whole: float = 0.0
    slices: Mapping[str, float] = field(default_factory=dict)
    shares: str = ""
    one_node_assumed: bool = False

    def __bool__(self) -> bool:
        """Return True if the record has a GPU or a part of a GPU."""
        return bool(self.whole or self.slices or self.shares)


def held_gpus(allocated: Iterable[SlurmGpus], requested: Iterable[SlurmGpus], submitted: SlurmGpus) -> SlurmGpus:
    """Return the GPUs that a job held, from all columns of its Slurm record.

    Allocated counts are preferred to requested counts. MIG slices and shares are taken from any column, because at some
    sites only the request or the submit line names them.

    Args:
        allocated: GPUs in the columns of allocated resources.
        requested: GPUs in the columns of requested resources.
        submitted: GPUs in the submit line.
    """
    asked = [*requested]
    granted = next((gpus for gpus in (*allocated, *asked) if gpus), SlurmGpus())
    asked.append(submitted)
    if granted.slices:
        return granted
    if sliced := next((gpus for gpus in asked if gpus.slices), None):
        whole = max(0.0, granted.whole - sum(sliced.slices.values())) if sliced.whole else 0.0
        return SlurmGpus(whole, sliced.slices)
    shared = granted.shares or next((gpus.shares for gpus in asked if gpus.shares), "")
    if shared and not any(gpus.whole for gpus in asked):
        return SlurmGpus(shares=shared)
    return SlurmGpus(granted.whole, shares="" if granted.whole else shared, one_node_assumed=granted.one_node_assumed)


def tres_gpus(tres: Mapping[str, float]) -> SlurmGpus:
    """Return the GPUs among a record's trackable resources (``tres``: name → count).

    ``gres/gpu`` counts all GPUs. If it is missing, the counts of all ``gres/gpu:type`` are added.
    """
    slices = {mig_profile(name): count for name, count in tres.items() if mig_profile(name) and count > 0}
    typed = sum(count for name, count in tres.items() if name.startswith("gres/gpu:") and not mig_profile(name))
    total = tres.get("gres/gpu")
    whole = typed if total is None else max(0.0, total - sum(slices.values()))
    shares = ",".join(
        f"gres/{kind}={count:g}"
        for kind in _SHARES
        if (count := tres.get(f"gres/{kind}", sum(n for name, n in tres.items() if name.startswith(f"gres/{kind}:"))))
    )
    return SlurmGpus(whole, slices, shares)


def parse_tres(value: str) -> dict[str, float]:
    """Read trackable resources such as ``billing=8,cpu=64,gres/gpu:a100=8,node=1``; return name → count.

    Only GPUs, shares of GPUs, and nodes are returned. Counts may have the suffixes K, M, G, T, P (powers of 1024).

    Raises:
        Unusable: A count is not a number.
    """
    found: dict[str, float] = {}
    for part in value.strip("\"' ").split(","):
        name, _, count = part.strip().partition("=")
        kind = name.partition(":")[0]
        if kind in _TRES:
            found[name] = parse_count(count)
    return found


def gres_gpus(value: str, nodes: float | None) -> SlurmGpus:
    """Read GPUs from the older columns ``AllocGRES`` and ``ReqGRES``: ``gpu:2``, ``gres:gpu:a100:8(IDX:0-7)``.

    Counts are per node. Slurm 19.05 to 20.02 write ``PER_NODE:`` or ``PER_JOB:`` before a count; if a record has both,
    the count per job is used.

    Args:
        value: Text of the column.
        nodes: Number of nodes of the job; None if the record does not have it.

    Raises:
        Unusable: A count is not a number, or it is per task or socket (the record does not have their numbers).
    """
    whole: dict[str, float] = {}
    slices: dict[str, float] = {}
    shares: list[str] = []
    scope = "NODE"
    for part in re.split(r"[,;]", re.sub(r"\([^)]*\)", "", value)):
        body = part.strip()
        while found := _SCOPE.match(body):
            scope, body = found.group(1), body[found.end() :]
        words = body.removeprefix("gres:").removeprefix("gres/").replace("=", ":").split(":")
        if words[0] in _SHARES:
            shares.append(f"gres/{words[0]}={words[-1]}" if parse_count(words[-1]) else "")
        elif words[0] in _GPU:
            counted = len(words) > 1 and _COUNT.fullmatch(words[-1]) is not None
            if len(words) > 2 and not counted:
                raise Unusable(f"GPU count is not a number ({clip(words[-1])})")
            count = parse_count(words[-1]) if counted else 1.0
            if profile := mig_profile(body):
                slices[profile] = slices.get(profile, 0.0) + count * (1.0 if scope == "JOB" else nodes or 1.0)
            else:
                whole[scope] = whole.get(scope, 0.0) + count
    if "JOB" in whole:
        return SlurmGpus(whole["JOB"], slices, ",".join(filter(None, shares)))
    if "NODE" not in whole and sum(whole.values()) > 0:
        raise Unusable(f"GPUs are logged per {min(whole).lower()}, but the number of {min(whole).lower()}s is not")
    per_node = whole.get("NODE", 0.0)
    return SlurmGpus(per_node * (nodes or 1.0), slices, ",".join(filter(None, shares)), per_node > 0 and nodes is None)


def submitted_gpus(line: str) -> tuple[SlurmGpus, str]:
    """Return the GPUs that a submit line requests (``sbatch --gres=gpu:1g.5gb:1 …``), and the option that requests
    them.

    The option is "" if there is none. Counts are not reliable, because the job script may set further options.
    """
    for found in _OPTION.finditer(line):
        option, value = found.group(1), found.group(2).strip("\"'")
        try:
            gpus = gres_gpus(value if option == "gres" else f"gpu:{value}", 1.0)
        except Unusable:
            continue
        if gpus:
            return gpus, clip(found.group(0).strip()).strip("'")
    return SlurmGpus(), ""


def mig_profile(name: str) -> str:
    """Return the MIG profile (kind of slice) in the name of a GPU type: ``1g.5gb`` for ``a100_1g.5gb``.

    The result is "mig" if the name contains MIG but no profile, and "" if it is a whole GPU.
    """
    if found := _MIG.search(name):
        return found.group(0).lower()
    return "mig" if _MIG_WORD.search(name) else ""


def slice_share(profile: str) -> float | None:
    """Return the share of a GPU's compute slices that a MIG profile has; None for an unknown profile.

    An A100, H100, H200 or B200 has seven compute slices, an A30 or RTX PRO 6000 four (NVIDIA MIG user guide, "Supported
    MIG profiles").
    """
    found = _MIG.fullmatch(profile)
    if found is None:
        return None
    of_instance, compute, memory = found.groups()
    slices = 4 if (int(compute), int(memory)) in _FOUR_SLICES else _SLICES
    return int(of_instance or compute) / slices


def parse_count(value: str) -> float:
    """Convert a count that may end in K, M, G, T or P (powers of 1024) to a number.

    Raises:
        Unusable: The text is not such a count.
    """
    found = _COUNT.fullmatch(value.strip())
    if found is None:
        raise Unusable(f"GPU count is not a number ({clip(value)})")
    return float(found.group(1)) * _SUFFIX[found.group(2)]


def node_count(names: str) -> float | None:
    """Return the number of nodes in a node list: 5 for ``gpu[01-03,07],login1``; None if no number can be found."""
    total = 0.0
    for name in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", names.strip()):
        here = 1.0
        for ranges in re.findall(r"\[([^\]]*)\]", name):
            inside = 0
            for part in ranges.split(","):
                first, _, last = part.partition("-")
                if not (first.isascii() and first.isdigit() and len(part) < 20 and (not last or last.isdigit())):
                    return None
                inside += int(last or first) - int(first) + 1
            here *= inside
        total += here
    return total if total > 0 and "None" not in names else None
