"""Define the lists in answers: complete lists, and pages of long lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Items(Generic[Item]):
    """Complete list of records of one kind."""

    items: Sequence[Item]


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """One page of records. To get the next page, request ``after=next``; ``next`` is None on the last page."""

    items: Sequence[Item]
    next: str | None


@dataclass(frozen=True, slots=True)
class NumberedPage(Generic[Item]):
    """One page of numbered records, oldest first. To get later records, request ``after`` with the value given here."""

    items: Sequence[Item]
    after: int
