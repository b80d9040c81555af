"""Find the GPU type of an NVIDIA card: a type of the catalogue, or a new type with the limits from the driver.

A card gets a type of the catalogue only if the name and the limits agree. Other products with the same chip (PCIe, NVL,
laptop, Max-Q, a virtual GPU, another memory size) have other limits, so each of them gets its own type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from powerflow.cost.catalogue import GpuType, catalogue_types, declare, gpu_type
from powerflow.cost.guess import CardLimits, agree, guessed_type
from powerflow.cost.type_names import rest_of

#: Words for board and memory that may stand beside the chip's name in the name of a card of the catalogue.
FORMS = frozenset({"sxm", "sxm2", "sxm4", "sxm5", "hbm3", "collectors", "edition"})


def catalogue_name(vendor_name: str) -> str:
    """Return the catalogue's name of a card; the vendor's name if the catalogue does not have the card.

    For example, "NVIDIA A100-SXM4-80GB" is A100.
    """
    found = []
    for card in catalogue_types():
        rest = rest_of(vendor_name, card.name)
        if rest is not None and set(rest) <= FORMS | {f"{card.memory_gib:.0f}gb"}:
            found.append(card.name)
    return max(found, key=len, default=vendor_name)


def type_of(vendor_name: str, limits: CardLimits) -> GpuType:
    """Return the GPU type of a card.

    If the catalogue does not have the card, a new type is declared with the limits that the driver reports.

    Args:
        vendor_name: Name of the card from the driver.
        limits: Limits of the card from the driver.
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
    """Read a card's limits (clocks, power, memory) from its driver; nan for each limit that the driver does not report.

    Args:
        nvml: The Python module pynvml.
        handle: NVML's handle of the card.
        tells: Calls a function of pynvml, and returns nan if the card does not support the function.
        clocks_mhz: Clocks that the card can be locked to, ascending, in MHz; may be empty.
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
