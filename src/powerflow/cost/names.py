"""Find the catalogue's family whose name is most similar to an unknown model's name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from powerflow.cost.catalogue import families, family

_SHORTEST_STEM = 4  # letters; a shorter stem must be the whole word


def family_alike(name: str) -> str | None:
    """Return the family whose name a model's name resembles (``resnet34`` → imagenet), or None.

    The words of the name are compared with the stems of the families' names, aliases and related names (``resnet`` is
    the stem of ``resnet50``). The longest matching stem wins. If several names have this stem, the name with the
    nearest number wins; if the model's name has no number, the related name wins.
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
    """Yield (letters, number after the letters, family) for all names of all families, related names first."""
    for name in families():
        for called in family(name).kin:
            yield called, None, name
    for name in families():
        for called in (name, *family(name).aliases):
            if found := re.match(r"([a-z]+)[-_]?v?(\d+)?", called.lower()):
                yield found.group(1), found.group(2), name


def _apart(number: str | None, other: str | None) -> float:
    """Return the distance between the numbers in two names.

    A name without a number is nearest to another one without.
    """
    if number is None or other is None:
        return 0.0 if number is other else 1.0
    return abs(math.log(max(float(number[:9]), 1.0) / max(float(other), 1.0)))
