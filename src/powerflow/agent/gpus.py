"""Find the GPUs of a machine, number them, and describe them for the controller.

A node has GPUs of one type, so a machine with two types is two nodes: ``gpu07-A100`` and ``gpu07-L4``. The placement of
a job names nodes and GPU numbers, and must stay valid when the agent restarts. So the number of each GPU (by UUID) is
kept on disk. A GPU that is missing keeps its number, and counts as lost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from powerflow.cluster.spec import parse_cluster
from powerflow.cost.catalogue import declared
from powerflow.cost.type_names import slug
from powerflow.device.protocol import DeviceError, DeviceLost, Gpu
from powerflow.errors import InputError
from powerflow.osutil.files import read_json, replace_json

#: File of the numbers.
NUMBERS = "gpus.json"


def find_gpus(
    directory: Path, numbers: Path, host: str, emulate: str | None, leave_out: Callable[[str], None], names: str = ""
) -> Sequence[Gpu]:
    """Find the GPUs of this machine, or make emulated ones.

    Args:
        directory: The device directory, for the files of emulated GPUs.
        numbers: Directory with the file of the GPUs' numbers.
        host: Name of this machine.
        emulate: Emulated GPUs, such as ``2x4:A100``; None for the NVIDIA GPUs of this machine.
        leave_out: Called with each GPU that cannot be used, and why.
        names: The NVIDIA GPUs to use, see `chosen`; "" for all.

    Raises:
        InputError: There is no GPU, or the emulated GPUs cannot be made.
    """
    if emulate is None:
        from powerflow.device.nvml import discover

        left_out: list[str] = []
        found = discover(host, left_out.append)
        for words in left_out:
            leave_out(words)
        if not found:
            raise InputError(
                f"no NVIDIA GPU of this machine can be used ({'; '.join(left_out) or 'the driver knows of none'})",
                fix="give --emulate 2x4:A100 for emulated GPUs",
                exit_code=1,
            )
        return numbered(chosen(found, names, leave_out), host, numbers)
    from powerflow.device.emulated.gpu import create

    spec = parse_cluster(emulate, "--emulate")
    try:
        return create(directory / "emulated", spec.nodes)
    except DeviceError as error:
        raise InputError(str(error), exit_code=1) from error


def chosen(gpus: Sequence[Gpu], names: str, leave_out: Callable[[str], None]) -> Sequence[Gpu]:
    """Return the GPUs of this machine that the site has given to this agent.

    Args:
        gpus: The GPUs of this machine, with the driver's numbers.
        names: Numbers of the driver, or UUIDs or their beginnings, comma-separated; "" for all GPUs.
        leave_out: Called with each other GPU, and with each name that fits no GPU.

    Raises:
        InputError: There is none, or ``names`` has no name.
    """
    if not names:
        return gpus
    given = sorted({name.strip() for name in names.split(",")} - {""})
    if not given:
        raise InputError(f"{names!r} names no GPU", where="--gpus", fix="give 0,1 or UUIDs, or leave it out for all")

    def fits(name: str, gpu: Gpu) -> bool:
        return str(gpu.index) == name if name.isdecimal() else gpu.uuid.startswith(name)

    found = [gpu for gpu in gpus if any(fits(name, gpu) for name in given)]
    if not found:
        raise InputError(f"no GPU of this machine is one of {names}", where="--gpus", exit_code=1)
    for name in given:  # a card may be broken: the others are used
        if not any(fits(name, gpu) for gpu in gpus):
            leave_out(f"--gpus {name}: this machine has no such GPU that can be used")
    for gpu in gpus:
        if gpu not in found:
            leave_out(f"GPU {gpu.index} ({gpu.uuid}) is none of --gpus {names}")
    return found


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


def described(gpu: Gpu) -> dict[str, Any]:
    """Return a description of a GPU as a JSON object.

    It has ``node``, ``index``, ``uuid``, ``gpu_type``, ``emulated``, ``clocks_mhz`` (empty if clocks cannot be set),
    ``vendor_name`` (the type in the driver's words), ``driver_index`` (None if unknown), and ``card``: the limits of a
    type that the catalogue does not have, for `catalogue.declare`; None if the catalogue has it.
    """
    try:
        clocks_mhz = [float(mhz) for mhz in gpu.clocks_mhz()]
    except DeviceError:
        clocks_mhz = []
    cards = {card.name: dataclasses.asdict(card) for card in declared()}
    return {
        "node": gpu.node,
        "index": gpu.index,
        "uuid": gpu.uuid,
        "gpu_type": gpu.gpu_type,
        "emulated": gpu.emulated,
        "clocks_mhz": clocks_mhz,
        "vendor_name": str(getattr(gpu, "vendor_name", gpu.gpu_type)),
        "driver_index": getattr(gpu, "driver_index", None),
        "card": cards.get(gpu.gpu_type),
    }
