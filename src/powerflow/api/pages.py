"""Define lists of records in answers: complete lists, and single pages of long lists."""

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
    """One page of records. ``next`` is the value of ``after`` for the next page; None if this page is the last."""

    items: Sequence[Item]
    next: str | None


@dataclass(frozen=True, slots=True)
class NumberedPage(Generic[Item]):
    """One page of numbered records, oldest first. ``after`` is the number after which the next request should go on."""

    items: Sequence[Item]
    after: int
