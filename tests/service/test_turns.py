"""Users are answered in turn: who asks for much waits in their own queue."""

from __future__ import annotations

import asyncio
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.service.turns import Turns


def test_a_flood_of_one_user_lets_others_in_between() -> None:
    async def flood() -> list[str]:
        turns, order = Turns(at_once=2, each=1), list[str]()

        async def ask(user: str) -> None:
            async with turns.turn(user):
                order.append(user)
                await asyncio.sleep(0)

        asked = [asyncio.create_task(ask("mallory")) for _ in range(50)]
        await asyncio.sleep(0)
        asked += [asyncio.create_task(ask(user)) for user in ("ada", "bob")]
        await asyncio.gather(*asked)
        return order

    order = asyncio.run(flood())
    assert len(order) == 52
    assert max(order.index("ada"), order.index("bob")) < 6


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.lists(st.sampled_from("abc"), max_size=30), st.integers(0, 2**16))
def test_limits_hold_and_everybody_gets_a_turn_whoever_gives_up(
    at_once: int, each: int, users: list[str], seed: int
) -> None:
    async def crowd() -> None:
        turns, chance = Turns(at_once, each), random.Random(seed)
        now = dict.fromkeys("abc", 0)

        async def ask(user: str) -> None:
            async with turns.turn(user):
                now[user] += 1
                assert now[user] <= each
                assert sum(now.values()) <= at_once
                try:
                    for _ in range(chance.randrange(3)):
                        await asyncio.sleep(0)
                finally:
                    now[user] -= 1

        asked = [asyncio.create_task(ask(user)) for user in users]
        await asyncio.sleep(0)
        gone = [one for one in asked if chance.random() < 0.3]
        for one in gone:
            one.cancel()
            if chance.random() < 0.5:
                await asyncio.sleep(0)
        done = await asyncio.gather(*asked, return_exceptions=True)
        assert all(result is None or isinstance(result, asyncio.CancelledError) for result in done), done
        async with turns.turn("a"):  # nothing was lost on the way
            pass
        assert turns._busy == 0
        assert not turns._queues

    asyncio.run(asyncio.wait_for(crowd(), 60))
