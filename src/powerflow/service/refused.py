"""Count refused tokens by address, so that the audit covers every attempt and cannot be flooded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

#: Addresses that are counted apart; attempts from more of them are counted together.
ADDRESSES = 256
#: Entries at once, and seconds until there may be one more.
BURST, EVERY_S = 10, 60.0
OTHERS = "elsewhere"


class RefusedTokens:
    """Failed authentications since they were last taken, by address.

    ``add`` is called by the event loop and ``take`` by one other thread.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._allowed = float(BURST)
        self._taken_s: float | None = None

    def add(self, address: str) -> None:
        """Count an attempt from an address."""
        known = address in self._counts or len(self._counts) < ADDRESSES
        self._counts[address if known else OTHERS] += 1

    def take(self, now_s: float) -> Sequence[tuple[str, int]]:
        """Return addresses and attempts that may be written down now, most first; keep the rest for later.

        At most `BURST` entries at once and one each `EVERY_S` seconds from then on; the last one of a burst sums up all
        addresses that have none of their own.
        """
        if self._taken_s is not None:
            self._allowed = min(float(BURST), self._allowed + (now_s - self._taken_s) / EVERY_S)
        self._taken_s = now_s
        most = int(self._allowed)
        if not self._counts or not most:
            return ()
        counts, self._counts = self._counts, Counter()
        found = counts.most_common()
        if len(found) > most:
            found = [*found[: most - 1], (OTHERS, sum(count for _, count in found[most - 1 :]))]
        self._allowed -= len(found)
        return found
