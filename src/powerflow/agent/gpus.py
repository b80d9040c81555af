"""Describe the GPUs of a machine for the controller."""

from __future__ import annotations

import dataclasses
from typing import Any

from powerflow.cost.catalogue import declared
from powerflow.device.protocol import DeviceError, Gpu


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
