"""Failed authentications are told of, and cannot fill the audit."""

from __future__ import annotations

from powerflow.service.refused import ADDRESSES, BURST, OTHERS, RefusedTokens


def test_the_first_attempt_is_told_at_once_and_more_of_them_together() -> None:
    refused = RefusedTokens()
    assert refused.take(0.0) == ()
    refused.add("192.0.2.1")
    assert list(refused.take(1.0)) == [("192.0.2.1", 1)]
    for _ in range(5):
        refused.add("192.0.2.1")
    assert list(refused.take(2.0)) == [("192.0.2.1", 5)]


def test_a_flood_from_everywhere_is_a_few_entries_and_no_attempt_is_lost() -> None:
    refused, told = RefusedTokens(), list[tuple[str, int]]()
    attempts = 0
    for second in range(600):
        for number in range(20):
            refused.add(f"192.0.{second}.{number}")
            attempts += 1
        told += refused.take(float(second))
    told += refused.take(1e6)
    assert sum(count for _, count in told) == attempts
    assert len(told) <= BURST + 600 / 60 + BURST
    assert OTHERS in dict(told)


def test_addresses_that_are_counted_apart_are_bounded() -> None:
    refused = RefusedTokens()
    for number in range(10 * ADDRESSES):
        refused.add(str(number))
    assert sum(count for _, count in refused.take(0.0)) == 10 * ADDRESSES
