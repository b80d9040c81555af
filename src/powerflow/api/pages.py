"""Lists of records in answers: all of them, or one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Items(Generic[Item]):
    """All items of a kind."""

    items: Sequence[Item]


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items, and the ``after`` to ask for the next ones with; ``next`` is None at the end."""

    items: Sequence[Item]
    next: str | None


@dataclass(frozen=True, slots=True)
class NumberedPage(Generic[Item]):
    """Some numbered items, oldest first; ``after`` is the number to go on from, now or later."""

    items: Sequence[Item]
    after: int
