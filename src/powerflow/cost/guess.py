"""Describe a GPU type that the catalogue does not have, by its measured limits and guesses for the rest.

Clocks, power limit and memory are taken from the card's driver or from measured points. Idle draw, speed and links are
those of the most similar type of the catalogue, scaled by the ratio of the power limits. These guesses are only a
start: watts and step times are learnt from the first measured steps on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from powerflow.cost.catalogue import GpuType, catalogue_types
from powerflow.cost.type_names import is_of_family
from powerflow.units import prose

#: Clock step where neither driver nor table gives one; most NVIDIA cards have it.
ANY_STEP_MHZ = 15.0


@dataclass(frozen=True, slots=True)
class CardLimits:
    """Known limits of a GPU; nan for each unknown one.

    Attributes:
        clock_min_mhz, clock_max_mhz, clock_step_mhz: Clocks to which the GPU can be locked.
        limit_w: Default power limit of the board, in watts.
        memory_gib: Memory in GiB.
        idle_w: Watts when the GPU is not used.
    """

    clock_min_mhz: float = math.nan
    clock_max_mhz: float = math.nan
    clock_step_mhz: float = math.nan
    limit_w: float = math.nan
    memory_gib: float = math.nan
    idle_w: float = math.nan


def agree(card: GpuType, limits: CardLimits) -> bool:
    """Return True if the known limits of a GPU match a type of the catalogue.

    Clocks may differ by 2 %, watts by 5 %, memory by 10 % (drivers count usable memory differently).
    """
    pairs = (
        (limits.clock_max_mhz, card.clock_max_mhz, 0.02),
        (limits.limit_w, card.limit_w, 0.05),
        (limits.memory_gib, card.memory_gib, 0.10),
    )
    return all(math.isnan(found) or abs(found / known - 1.0) <= within for found, known, within in pairs)


def guessed_type(name: str, limits: CardLimits, told_by: str = "the driver") -> GpuType:
    """Make a GPU type from its known limits and guesses for the rest.

    Args:
        name: Name of the GPU type.
        limits: Known limits. Unknown clocks, watts and memory are taken from the most similar catalogue type.
        told_by: Source of the limits, for the user.
    """
    like = _nearest(name, limits.limit_w)
    ratio = limits.limit_w / like.limit_w if math.isfinite(limits.limit_w) else 1.0
    top_mhz = _or(limits.clock_max_mhz, like.clock_max_mhz)
    step_mhz = _or(limits.clock_step_mhz, ANY_STEP_MHZ)
    low_mhz = _or(limits.clock_min_mhz, top_mhz * like.clock_min_mhz / like.clock_max_mhz)
    known = [
        word
        for word, value in (
            ("clocks", limits.clock_max_mhz),
            ("power limit", limits.limit_w),
            ("memory", limits.memory_gib),
            ("idle draw", limits.idle_w),
        )
        if math.isfinite(value)
    ]
    told = f"{', '.join(known)}: {told_by}" if known else f"{told_by} gives no values"
    guess = f"a guess: as {like.name}, times {prose(ratio)}, the ratio of the power limits"
    return GpuType(
        name=name,
        clock_min_mhz=min(low_mhz, top_mhz),
        clock_max_mhz=top_mhz,
        clock_step_mhz=step_mhz,
        idle_w=_or(limits.idle_w, like.idle_w * ratio),
        limit_w=_or(limits.limit_w, like.limit_w),
        memory_gib=_or(limits.memory_gib, like.memory_gib),
        speed=like.speed * ratio,
        node_gbyte_s=like.node_gbyte_s,
        network_gbit_s=like.network_gbit_s,
        sources={"limits": told, "speed": guess, "idle": "as told" if math.isfinite(limits.idle_w) else guess},
    )


def in_words(card: GpuType) -> str:
    """Return one line about a guessed GPU type: its known and its guessed values."""
    return (
        f"{card.name} is not in the catalogue: {card.clock_min_mhz:.0f} to {card.clock_max_mhz:.0f} MHz, "
        f"{card.limit_w:.0f} W, {card.memory_gib:.0f} GiB ({card.sources['limits']}); job costs start from "
        f"{card.sources['speed']}, and are then learnt"
    )


def _nearest(name: str, limit_w: float) -> GpuType:
    """Return the catalogue's type with the same chip, else the type with the nearest power limit."""
    known = catalogue_types()
    same = [card for card in known if is_of_family(name, card.name)]
    if same or math.isnan(limit_w):
        return same[0] if same else known[0]
    return min(known, key=lambda card: abs(math.log(limit_w / card.limit_w)))


def _or(value: float, otherwise: float) -> float:
    return value if math.isfinite(value) else otherwise
