"""Find the GPU type of an NVIDIA card: one of the catalogue's, or one of its own with the limits its driver reports.

A card is of a type of the catalogue only if its name says so and its limits agree. Another form of the same chip (PCIe,
NVL, laptop, Max-Q, a virtual GPU, another memory) has other limits, and keeps its own name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from powerflow.cost.catalogue import GpuType, catalogue_types, declare, gpu_type
from powerflow.cost.guess import CardLimits, agree, guessed_type
from powerflow.cost.type_names import rest_of

#: Words that may stand beside the chip's in the name of a card of the catalogue: the board and memory it comes with.
FORMS = frozenset({"sxm", "sxm2", "sxm4", "sxm5", "hbm3", "collectors", "edition"})


def catalogue_name(vendor_name: str) -> str:
    """Return a GPU's name in the catalogue ("NVIDIA A100-SXM4-80GB" is A100), or its own if it has none there."""
    found = []
    for card in catalogue_types():
        rest = rest_of(vendor_name, card.name)
        if rest is not None and set(rest) <= FORMS | {f"{card.memory_gib:.0f}gb"}:
            found.append(card.name)
    return max(found, key=len, default=vendor_name)


def type_of(vendor_name: str, limits: CardLimits) -> GpuType:
    """Return the type of a card; declare it with the limits its driver reports if the catalogue does not have it.

    Args:
        vendor_name: Its name from the driver.
        limits: Its limits from the driver.
    """
    name = catalogue_name(vendor_name)
    if name != vendor_name or name in {card.name for card in catalogue_types()}:
        card = gpu_type(name)
        if agree(card, limits):
            return card
    own = guessed_type(vendor_name or "unnamed NVIDIA GPU", limits)
    declare(own)
    return own


def limits_of(nvml: Any, handle: Any, tells: Callable[..., float], clocks_mhz: Sequence[float]) -> CardLimits:
    """Read a card's limits from its driver; nan for those it does not report.

    Args:
        nvml: The vendor's binding.
        handle: The card's handle.
        tells: Calls a function of the binding; returns nan if the card does not support it.
        clocks_mhz: Clocks that the card lists, ascending; may be empty.
    """
    step_mhz = math.nan
    if len(clocks_mhz) > 1:  # the mean: V100 steps by 7 and 8 MHz in turn
        step_mhz = (clocks_mhz[-1] - clocks_mhz[0]) / (len(clocks_mhz) - 1)
    top_mhz = clocks_mhz[-1] if clocks_mhz else tells(nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM)
    return CardLimits(
        clock_min_mhz=clocks_mhz[0] if clocks_mhz else math.nan,
        clock_max_mhz=top_mhz or math.nan,
        clock_step_mhz=step_mhz,
        limit_w=(tells(nvml.nvmlDeviceGetPowerManagementDefaultLimit, handle) or math.nan) / 1e3,
        memory_gib=(tells(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).total) or math.nan) / 2**30,
    )
