import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.cluster.buddy import choose_gpus, lowest_bit, popcount


def choose(free: int, gpus: int) -> int:
    return int(choose_gpus(np.uint64(free), gpus))


@pytest.mark.parametrize(
    ("free", "gpus", "chosen"),
    [
        (0b1111_1111, 8, 0b1111_1111),
        (0b1111_1111, 2, 0b0000_0011),  # nothing else to cut than the whole
        (0b1111_1100, 2, 0b0000_1100),  # the pair whose buddy is taken, not half of the free four
        (0b1111_0100, 1, 0b0000_0100),
        (0b0110_1111, 1, 0b0010_0000),  # a single before a pair or a four is broken
        (0b0110_0110, 2, 0b0000_0110),  # no aligned pair is left: two singles
        (0b1111_1111, 6, 0b0011_1111),  # a four and a pair
        (0b0011_1111, 6, 0b0011_1111),  # a node of six
        (0b0011_1111, 2, 0b0011_0000),  # of six: the pair, so that the four stays whole
        (0b1011_0111, 4, 0b0011_0011),  # no aligned four is left: two aligned pairs
        (2**64 - 1, 64, 2**64 - 1),
        (2**64 - 1, 33, 2**33 - 1),
        (1 << 63, 1, 1 << 63),
    ],
)
def test_worked_by_hand(free: int, gpus: int, chosen: int) -> None:
    assert choose(free, gpus) == chosen


@settings(deadline=None)
@given(st.integers(1, 2**64 - 1))
def test_bit_counting(mask: int) -> None:
    assert popcount(np.uint64(mask)) == mask.bit_count()
    assert lowest_bit(np.uint64(mask)) == (mask & -mask).bit_length() - 1


def aligned_blocks(free: int, size: int) -> list[int]:
    ones = (1 << size) - 1
    return [ones << start for start in range(0, 64, size) if free >> start & ones == ones]


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 2**64 - 1) | st.integers(1, 255), st.data())
def test_any_count_that_fits_is_chosen_from_the_free(free: int, data: st.DataObject) -> None:
    gpus = data.draw(st.integers(1, free.bit_count()))
    chosen = choose(free, gpus)
    assert chosen & ~free == 0
    assert chosen.bit_count() == gpus
    if gpus.bit_count() == 1 and aligned_blocks(free, gpus):
        assert chosen in aligned_blocks(free, gpus)
        # It breaks no larger free block than it must: every free block of twice the size that it does not need stays.
        for size in (2 * gpus, 4 * gpus):
            if len(aligned_blocks(free, gpus)) > size // gpus * len(aligned_blocks(free, size)):
                assert len(aligned_blocks(free & ~chosen, size)) == len(aligned_blocks(free, size))
            if size == 32:
                break
