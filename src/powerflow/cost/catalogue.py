"""List GPU types and model families, with values that are known without any measurement.

The values and their sources are in ``data/*.toml``. A family measured on the requested GPU type has origin "measured".
A family whose parameters were derived from other hardware or from another network has origin "modelled".
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from powerflow.cost.model import JobModel, PowerModel, ThroughputModel
from powerflow.cost.table import Axes
from powerflow.cost.type_names import plain
from powerflow.errors import InputError

#: The GPU type on which the families' step times were measured (Pollux, OSDI'21, AWS g4dn.12xlarge).
PROFILED_ON = "T4"

#: Share of a synchronisation that depends neither on link speed nor on bytes (latency, launches). Assumed.
SYNC_FLOOR = 0.1


@dataclass(frozen=True, slots=True)
class GpuType:
    """One type of GPU with its limits and speed.

    Attributes:
        name: Name as users write it.
        clock_min_mhz, clock_max_mhz, clock_step_mhz: Clocks to which the GPU can be locked: the maximum minus whole
            steps.
        idle_w: Watts when the GPU is not used.
        limit_w: Power limit of the board in watts.
        memory_gib: Memory in GiB.
        speed: Training throughput when busy, relative to a V100.
        node_gbyte_s: Bandwidth between GPUs of one node, GB/s.
        network_gbit_s: Network bandwidth of one node, Gbit/s.
        sources: Sources of the values, by group (clocks, power, speed, link).
    """

    name: str
    clock_min_mhz: float
    clock_max_mhz: float
    clock_step_mhz: float
    idle_w: float
    limit_w: float
    memory_gib: float
    speed: float
    node_gbyte_s: float
    network_gbit_s: float
    sources: dict[str, str]


@dataclass(frozen=True, slots=True)
class Family:
    """Model family: one kind of neural network, trained on one data set.

    Attributes:
        name: Name of the family: the application name of Pollux' profiles, or the name of the network.
        aliases: Other names used in traces.
        kin: Words in the names of other models that are assigned to this family (`powerflow.cost.names`).
        global_batches: Usual samples per iteration; the first is the default.
        gpus_max: Largest number of GPUs in the family's profile.
        like: Family from which the step time is derived; empty if this family was measured itself.
        source: Source of the parameters.
    """

    name: str
    aliases: tuple[str, ...]
    kin: tuple[str, ...]
    global_batches: tuple[int, ...]
    gpus_max: int
    like: str
    source: str


#: GPU types added to the catalogue in this process by `declare`, by name.
_declared: dict[str, GpuType] = {}


def gpu_types() -> tuple[str, ...]:
    """Return the names of all GPU types: those of the catalogue, then those added by `declare`."""
    return tuple(_gpu_types() | _declared)


def catalogue_types() -> tuple[GpuType, ...]:
    """Return all GPU types of the catalogue."""
    return tuple(_gpu_types().values())


def declare(*cards: GpuType) -> None:
    """Add GPU types that the catalogue does not have, as found by a driver or in a file.

    They are known in this process only; pass the result of `declared` to spawned processes. A type of the catalogue is
    not changed. A type that was added before is replaced.
    """
    for card in cards:
        if plain(card.name) not in {plain(name) for name in _gpu_types()}:
            _declared[card.name] = card


def is_known(name: str) -> bool:
    """Return True if `gpu_type` finds a GPU type with this name."""
    return plain(name) in {plain(known) for known in gpu_types()}


def declared() -> tuple[GpuType, ...]:
    """Return the GPU types added in this process by `declare`."""
    return tuple(_declared.values())


def gpu_type(name: str) -> GpuType:
    """Return the GPU type with a name, ignoring case, blanks, dashes and brand.

    Raises:
        InputError: No GPU type has this name; the message lists the known types, the most similar first.
    """
    found = {plain(known): kind for known, kind in (_gpu_types() | _declared).items()}.get(plain(name))
    if found is None:
        raise _unknown("GPU type", name, gpu_types())
    return found


def families() -> tuple[str, ...]:
    """Return the names of all model families."""
    return tuple(_families())


def family(name: str) -> Family:
    """Return the model family with a name or alias, ignoring case, blanks and dashes.

    Raises:
        InputError: No family has this name; the message lists the known families, the most similar first.
    """
    for known in _families().values():
        if _plain(name) in {_plain(called) for called in (known.name, *known.aliases)}:
            return known
    raise _unknown("model family", name, families())


def family_model(name: str, gpu_type_name: str) -> JobModel:
    """Return the cost model of a family on one GPU type: as measured, or derived from a measurement on a T4.

    A derived model scales the seconds per sample with the relative speed of the GPU types, the synchronising time with
    the link speed (except for a share of it, `SYNC_FLOOR`), and the largest local batch with the memory. Watts keep
    their position between idle draw and power limit. The effect of a lower clock follows the measured ratio of total
    draw. The launch time α depends on the host and is kept.

    Raises:
        InputError: The family or the GPU type is unknown.
    """
    kind, card, home = family(name), gpu_type(gpu_type_name), gpu_type(PROFILED_ON)
    fitted = _raw("fitted")[kind.like or kind.name]
    own = _raw("fitted")[kind.name]
    scale = _raw("families")[kind.name]
    faster = card.speed / home.speed
    in_node = _sync_scale(scale.get("sync_scale", 1.0), card.node_gbyte_s / home.node_gbyte_s)
    across = _sync_scale(scale.get("sync_scale", 1.0), card.network_gbit_s / home.network_gbit_s)
    time = fitted["throughput"]
    per_sample = scale.get("sample_scale", 1.0)
    throughput = ThroughputModel(
        alpha_s=time["alpha_s"],
        beta_s=time["beta_s"] * per_sample / faster,
        corner=time["corner"],
        kappa=own["clock"]["kappa"],
        clock_max_mhz=card.clock_max_mhz,
        node_alpha_s=time["node_alpha_s"] * in_node,
        node_beta_s=time["node_beta_s"] * in_node,
        cross_alpha_s=time["cross_alpha_s"] * across,
        cross_beta_s=time["cross_beta_s"] * across,
        gamma=time["gamma"],
        crowding=time["crowding"],
        two_node_factor=time.get("two_node_factor", 1.0),
    )
    active_w = card.idle_w + own["power"]["load"] * (card.limit_w - card.idle_w)
    above_idle = _share_above_idle(own["clock"]["linear"] + own["clock"]["cubic"], card.idle_w, active_w)
    power = PowerModel(
        idle_w=card.idle_w,
        active_w=active_w,
        busy_exponent=own["power"]["busy_exponent"],
        h_linear=own["clock"]["linear"] * above_idle,
        h_cubic=own["clock"]["cubic"] * above_idle,
        sync_share=own["power"]["sync_share"],
    )
    fits = fitted["local_batch_max"] * card.memory_gib / home.memory_gib / max(1.0, per_sample)
    origin = "measured" if card.name == PROFILED_ON and not kind.like else "modelled"
    return JobModel(kind.name, card.name, throughput, power, max(1, int(fits)), origin)


def axes_for(gpu_type_name: str, gpus_per_node: int, gpu_counts: Iterable[int], clocks: int = 7) -> Axes:
    """Return the GPU counts and clocks for the cost tables of a pool.

    The clocks are evenly spaced from about half the maximum to the maximum, on supported steps. No profile has its
    energy minimum below half the maximum clock.

    Raises:
        InputError: The type is unknown, a count or the node size is below 1, or ``clocks`` is below 1.
    """
    card = gpu_type(gpu_type_name)
    counts = np.unique(np.fromiter(gpu_counts, np.int64))
    if len(counts) == 0 or counts[0] < 1:
        raise InputError("GPU counts must be 1 or more", where=card.name)
    if gpus_per_node < 1:
        raise InputError(f"{gpus_per_node} GPUs per node", where=card.name, fix="give at least 1")
    if clocks < 1:
        raise InputError(f"{clocks} clocks", where=card.name, fix="give at least 1")
    lowest = max(card.clock_min_mhz, card.clock_max_mhz / 2)
    below = np.linspace(card.clock_max_mhz - lowest, 0.0, clocks) if clocks > 1 else np.zeros(1)
    steps = np.unique(np.floor(below / card.clock_step_mhz + 1e-9))[::-1]
    return Axes(card.name, gpus_per_node, counts, card.clock_max_mhz - steps * card.clock_step_mhz)


@cache
def _raw(name: str) -> dict[str, Any]:
    return tomllib.loads(files("powerflow.cost").joinpath("data", f"{name}.toml").read_text("utf-8"))


@cache
def _gpu_types() -> dict[str, GpuType]:
    kinds = {}
    for name, entry in _raw("gpu_types").items():
        sources = {key.removesuffix("_source"): text for key, text in entry.items() if key.endswith("_source")}
        numbers = {key: value for key, value in entry.items() if not key.endswith("_source")}
        kinds[name] = GpuType(name=name, sources=sources, **numbers)
    return kinds


@cache
def _families() -> dict[str, Family]:
    return {
        name: Family(
            name=name,
            aliases=tuple(entry["aliases"]),
            kin=tuple(entry.get("kin", ())),
            global_batches=tuple(entry["global_batches"]),
            gpus_max=entry["gpus_max"],
            like=entry.get("like", ""),
            source=entry["source"],
        )
        for name, entry in _raw("families").items()
    }


def _sync_scale(bytes_ratio: float, link_ratio: float) -> float:
    """Return the factor on synchronising time for more bytes and a faster link.

    The share `SYNC_FLOOR` of the time does not change with bytes and link.
    """
    return SYNC_FLOOR + (1.0 - SYNC_FLOOR) * bytes_ratio / link_ratio


def _share_above_idle(falls: float, idle_w: float, active_w: float) -> float:
    """Return the factor that turns a share of the total draw into a share of the draw above idle."""
    return min(active_w / max(active_w - idle_w, 1e-9), 1.0 / falls if falls > 0 else 1.0)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _unknown(what: str, name: str, known: Sequence[str]) -> InputError:
    close = difflib.get_close_matches(name.lower(), [k.lower() for k in known], n=3, cutoff=0.5)
    ordered = sorted(known, key=lambda k: close.index(k.lower()) if k.lower() in close else len(close))
    return InputError(f"unknown {what} {name!r}", fix=f"known: {', '.join(ordered)}", exit_code=3)
