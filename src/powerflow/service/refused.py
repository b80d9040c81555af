"""Count failed authentications by address, so that the audit needs few entries even for very many attempts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

#: Most addresses that are counted one by one; attempts from further addresses are counted together.
ADDRESSES = 256
#: Most audit entries at once, and seconds until one more is allowed.
BURST, EVERY_S = 10, 60.0
OTHERS = "elsewhere"


class RefusedTokens:
    """Number of failed authentications of each address, since the last call of ``take``.

    The event loop calls ``add``, and one other thread calls ``take``.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._allowed = float(BURST)
        self._taken_s: float | None = None

    def add(self, address: str) -> None:
        """Count a failed authentication from an address."""
        known = address in self._counts or len(self._counts) < ADDRESSES
        self._counts[address if known else OTHERS] += 1

    def take(self, now_s: float) -> Sequence[tuple[str, int]]:
        """Return addresses with their numbers of attempts, for the audit: most attempts first.

        At most `BURST` entries are returned at once, and after that one more every `EVERY_S` seconds. If there are more
        addresses, the last entry has the sum of the others. Until an entry is allowed, attempts are still counted.
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
