"""A GPU type that the catalogue does not have: its limits as measured, everything else a guess that says so.

What a card's driver (or whoever measured it) tells is taken: clocks, power limit, memory. Idle draw, speed and links
are those of the nearest type of the catalogue, scaled by the ratio of the power limits. That is a start and no more:
watts and step times are learnt from the first measured steps on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from powerflow.cost.catalogue import GpuType, catalogue_types
from powerflow.cost.type_names import is_of_family

#: Clocks in which neither a driver nor a table says how far apart they are: as most NVIDIA cards have them.
ANY_STEP_MHZ = 15.0


@dataclass(frozen=True, slots=True)
class CardLimits:
    """Limits of a card; nan where one is not known.

    Attributes:
        clock_min_mhz, clock_max_mhz, clock_step_mhz: Clocks it can be locked to.
        limit_w: Board power limit: the one it comes with.
        memory_gib: Memory.
        idle_w: Watts when nobody uses it.
    """

    clock_min_mhz: float = math.nan
    clock_max_mhz: float = math.nan
    clock_step_mhz: float = math.nan
    limit_w: float = math.nan
    memory_gib: float = math.nan
    idle_w: float = math.nan


def agree(card: GpuType, limits: CardLimits) -> bool:
    """Say whether measured limits are those of a type of the catalogue, as far as they are known.

    Clocks may be off by 2 %, watts by 5 %, memory by 10 % (what a driver counts as usable differs).
    """
    pairs = (
        (limits.clock_max_mhz, card.clock_max_mhz, 0.02),
        (limits.limit_w, card.limit_w, 0.05),
        (limits.memory_gib, card.memory_gib, 0.10),
    )
    return all(math.isnan(found) or abs(found / known - 1.0) <= within for found, known, within in pairs)


def guessed_type(name: str, limits: CardLimits, told_by: str = "the driver") -> GpuType:
    """Make a type of what is known of it.

    Args:
        name: Its own name.
        limits: What is known; clocks, watts and memory that are not are those of the nearest type.
        told_by: Where the limits come from, for people.
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
    told = f"{', '.join(known)}: {told_by}" if known else f"nothing is known from {told_by}"
    guess = f"a guess: as {like.name}, times {ratio:.3g}, the ratio of the power limits"
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
    """Say in one line what is known of a guessed type, and what is not."""
    return (
        f"{card.name} is not in the catalogue: {card.clock_min_mhz:.0f} to {card.clock_max_mhz:.0f} MHz, "
        f"{card.limit_w:.0f} W, {card.memory_gib:.0f} GiB ({card.sources['limits']}); what jobs cost on it starts "
        f"from {card.sources['speed']}, and is learnt"
    )


def _nearest(name: str, limit_w: float) -> GpuType:
    """The catalogue's type of the same chip, else the one of the nearest power limit."""
    known = catalogue_types()
    same = [card for card in known if is_of_family(name, card.name)]
    if same or math.isnan(limit_w):
        return same[0] if same else known[0]
    return min(known, key=lambda card: abs(math.log(limit_w / card.limit_w)))


def _or(value: float, otherwise: float) -> float:
    return value if math.isfinite(value) else otherwise
