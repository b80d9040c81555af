"""Names of GPU types: as vendors write them, as people write them, and which of them mean the same.

"NVIDIA A100-SXM4-80GB", ``A100`` and ``a100-sxm4-80gb`` name one card; ``A100`` alone also names the PCIe card, and
nobody who writes ``RTX3080`` means an RTX 3080 Ti.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

#: Words of makers and product lines: a name means the same without them.
BRANDS = frozenset({"nvidia", "tesla", "quadro", "geforce", "graphics", "device", "gpu", "generation"})
#: Words that make another chip of what stands before them, not another form of the same.
SIBLINGS = frozenset({"ti", "super", "ada", "blackwell", "pro"})


def words(name: str) -> list[str]:
    """Split a name into its words, in lower case: ``["rtx", "3080", "ti"]``."""
    return re.findall(r"[a-z0-9]+", name.lower())


def plain(name: str) -> str:
    """Reduce a name to its letters and digits without brands, so that equal names compare equal."""
    every = words(name)
    return "".join(word for word in every if word not in BRANDS) or "".join(every)


def rest_of(name: str, wanted: str) -> list[str] | None:
    """Say which words of a name, brands aside, remain beside those that ``wanted`` stands for.

    Returns:
        The other words; None where ``wanted`` is no run of whole words of the name.
    """
    every = [word for word in words(name) if word not in BRANDS]
    short = plain(wanted)
    for i in range(len(every)):
        for j in range(i + 1, len(every) + 1):
            if "".join(every[i:j]) == short:
                return every[:i] + every[j:]
    return None


def is_of_family(name: str, wanted: str) -> bool:
    """Say whether a card of this name is one that ``wanted`` names: the same chip, whatever form, memory or power."""
    rest = rest_of(name, wanted)
    return rest is not None and not SIBLINGS & set(rest)


def matching(wanted: str, types: Mapping[str, Collection[str]]) -> Sequence[str]:
    """List the GPU types that a request may mean.

    A type that bears exactly the wanted name is meant alone; else every type of that family is.

    Args:
        wanted: As a person wrote it.
        types: Per GPU type, the names that its cards give themselves.
    """
    exact = [kind for kind, called in types.items() if any(plain(name) == plain(wanted) for name in called)]
    if exact:
        return exact
    return [kind for kind, called in types.items() if any(is_of_family(name, wanted) for name in (kind, *called))]
