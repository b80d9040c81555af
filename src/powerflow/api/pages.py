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
    """One page of records. Pass ``next`` as ``after`` in the next request; None means that this is the last page."""

    items: Sequence[Item]
    next: str | None


@dataclass(frozen=True, slots=True)
class NumberedPage(Generic[Item]):
    """One page of numbered records, oldest first. Pass its ``after`` in the next request to get later records."""

    items: Sequence[Item]
    after: int
