"""Find the number that CUDA gives each GPU, for programs (such as Zeus) that need numbers instead of UUIDs.

With ``CUDA_DEVICE_ORDER=PCI_BUS_ID``, CUDA counts GPUs by PCI address, as NVML does (NVIDIA, "CUDA Environment
Variables"). Both counts agree only if CUDA and NVML see the same GPUs: a GPU that is split by MIG or does not answer
may shift the numbers of the GPUs after it. So numbers are used only if this controller has all GPUs of the machine, in
this order. Otherwise UUIDs are used, which always name the right GPU.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from powerflow.device.nvml import NvmlGpu
from powerflow.device.protocol import Gpu


def cuda_numbers(gpus: Sequence[Gpu]) -> Mapping[str, int]:
    """Return the CUDA number of each GPU by its UUID; empty if the numbers may be wrong."""
    cards = [gpu for gpu in gpus if isinstance(gpu, NvmlGpu)]
    by_address = sorted(cards, key=lambda card: card.pci_address)
    numbers = {card.uuid: number for number, card in enumerate(by_address)}
    whole = len(cards) == len(gpus) and all(card.machine_gpus == len(cards) for card in cards)
    known = all(card.pci_address for card in cards) and len({card.pci_address for card in cards}) == len(cards)
    as_nvml = all(numbers[card.uuid] == card.driver_index for card in cards)
    return numbers if whole and known and as_nvml else {}


def visible(uuids: Sequence[str], numbers: Mapping[str, int], silent: Collection[object]) -> dict[str, str]:
    """Return the environment variables with which a program sees these GPUs and no others.

    Args:
        uuids: UUIDs of the GPUs, in the order in which the program shall see them.
        numbers: CUDA number of each GPU by UUID, the result of `cuda_numbers`.
        silent: GPUs of the machine that do not answer now. If there are any, UUIDs are used, because numbers may have
            shifted.
    """
    by_number = bool(numbers) and not silent
    return {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(str(numbers[uuid]) if by_number else uuid for uuid in uuids),
        "NVIDIA_VISIBLE_DEVICES": ",".join(uuids),  # for containers, which take UUIDs
    }
