"""Choose GPUs of one node by buddy allocation, with the node's GPUs as bits of a 64-bit mask.

GPUs with neighbouring numbers are close in hardware (one NVLink quad, one socket), so a job gets an aligned block: 2
GPUs start at an even number, 4 at a multiple of four. The block is cut from the smallest free block that is large
enough, which keeps large blocks whole (Knowlton, "A fast storage allocator", CACM 1965). If no aligned block is left,
the job gets the largest free pieces instead; so a job fits whenever enough GPUs are free.
"""

from __future__ import annotations

import numpy as np

from powerflow.kernel import array_kernel, inlined

#: Block sizes 1, 2, 4, …, 64.
_ORDERS = 7
#: ``_STARTS[i]``: mask of the bits at which a block of ``2**i`` GPUs may start.
_STARTS = np.array([sum(1 << bit for bit in range(0, 64, 1 << order)) for order in range(_ORDERS)], dtype=np.uint64)
_ZERO = np.uint64(0)
_ONE = np.uint64(1)


@inlined
def popcount(mask: np.uint64) -> np.int64:
    """Return the number of set bits of a mask."""
    x = np.uint64(mask)
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@inlined
def lowest_bit(mask: np.uint64) -> np.int64:
    """Return the position of the lowest set bit of a mask that is not 0."""
    lowest = mask & (~mask + np.uint64(1))
    return popcount(lowest - np.uint64(1))


@array_kernel
def choose_gpus(free: np.uint64, gpus: int) -> np.uint64:
    """Choose free GPUs of one node.

    Args:
        free: Mask of the node's free GPUs.
        gpus: Number of GPUs to choose, from 1 to the number of free ones.

    Returns:
        Mask of the chosen GPUs. If ``gpus`` is a power of two and the node has a free aligned block of this size, it is
        such a block. Otherwise the mask consists of as few blocks as possible, the largest first.
    """
    chosen = _ZERO
    left = gpus
    order = _ORDERS - 1
    while left > 0:
        while (1 << order) > left:
            order -= 1
        block = _smallest_block(free, order)
        if block == _ZERO:
            order -= 1
            continue
        chosen |= block
        free &= ~block
        left -= 1 << order
    return chosen


@array_kernel
def _smallest_block(free: np.uint64, order: int) -> np.uint64:
    """Return the first ``2**order`` GPUs of the smallest free block that has at least this size; 0 if there is none."""
    blocks = free  # where free blocks of 2**i GPUs start
    for i in range(_ORDERS):
        larger, halves = _ZERO, _ZERO
        if i + 1 < _ORDERS:  # a block is free if both its halves are; a shift by 64 would have no meaning
            half = np.uint64(1 << i)
            larger = blocks & (blocks >> half) & _STARTS[i + 1]
            halves = larger | (larger << half)
        alone = blocks & ~halves
        if i >= order and alone != _ZERO:
            width = 1 << order
            ones = ~_ZERO if width == 64 else (_ONE << np.uint64(width)) - _ONE
            return ones << np.uint64(lowest_bit(alone))
        blocks = larger
    return _ZERO
