"""Find the family that a model outside the catalogue most resembles, by its name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from powerflow.cost.catalogue import families, family

_SHORTEST_STEM = 4  # letters that may stand inside a word; shorter stems must be the word


def family_alike(name: str) -> str | None:
    """Return the family that a model's name resembles, ``resnet34`` → imagenet; None if it resembles none.

    A name's words are compared with the stems of the families' names, aliases and kin (``resnet`` of ``resnet50``), the
    longest first. Of several with one stem, that with the nearest number is taken, and the kin where there is none.
    """
    words = re.findall(r"[a-z]+", name.lower())
    number = next(iter(re.findall(r"\d+", name)), None)
    found = [
        (len(stem), -_apart(number, of), kin)
        for stem, of, kin in _stems()
        if any(word == stem or (len(stem) >= _SHORTEST_STEM and stem in word) for word in words)
    ]
    return max(found, key=lambda one: one[:2])[2] if found else None


def _stems() -> Iterator[tuple[str, str | None, str]]:
    """(letters, number after them, family) of all that the families are called, kin first."""
    for name in families():
        for called in family(name).kin:
            yield called, None, name
    for name in families():
        for called in (name, *family(name).aliases):
            if found := re.match(r"([a-z]+)[-_]?v?(\d+)?", called.lower()):
                yield found.group(1), found.group(2), name


def _apart(number: str | None, other: str | None) -> float:
    """How far two numbers of names are apart; kin without a number are nearer than any for a name without one."""
    if number is None or other is None:
        return 0.0 if number is other else 1.0
    return abs(math.log(max(float(number[:9]), 1.0) / max(float(other), 1.0)))
