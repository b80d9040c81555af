"""Compare names of GPU types, as vendors and users write them.

"NVIDIA A100-SXM4-80GB", ``A100`` and ``a100-sxm4-80gb`` name one card. ``A100`` alone also names the PCIe card, but
``RTX3080`` does not name an RTX 3080 Ti.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

#: Names of makers and product lines, which do not change the meaning.
BRANDS = frozenset({"nvidia", "tesla", "quadro", "geforce", "graphics", "device", "gpu", "generation"})
#: Suffixes that name a different chip, not another form of the same one.
SIBLINGS = frozenset({"ti", "super", "ada", "blackwell", "pro"})


def words(name: str) -> list[str]:
    """Split the name of a GPU type into lower-case words: ``["rtx", "3080", "ti"]``."""
    return re.findall(r"[a-z0-9]+", name.lower())


def plain(name: str) -> str:
    """Reduce the name of a GPU type to lower-case letters and digits without brand words, to compare it with others."""
    every = words(name)
    return "".join(word for word in every if word not in BRANDS) or "".join(every)


def rest_of(name: str, wanted: str) -> list[str] | None:
    """Return the words of a GPU type's name, without brands, that are left after removing those of ``wanted``.

    Returns:
        The remaining words; None if ``wanted`` is not a sequence of whole words of the name.
    """
    every = [word for word in words(name) if word not in BRANDS]
    short = plain(wanted)
    for i in range(len(every)):
        for j in range(i + 1, len(every) + 1):
            if "".join(every[i:j]) == short:
                return every[:i] + every[j:]
    return None


def is_of_family(name: str, wanted: str) -> bool:
    """Return True if ``wanted`` names the same chip as ``name``, in any form factor, memory size or power."""
    rest = rest_of(name, wanted)
    return rest is not None and not SIBLINGS & set(rest)


def matching(wanted: str, types: Mapping[str, Collection[str]]) -> Sequence[str]:
    """Return the GPU types that a requested name can mean.

    If a type has exactly this name, only this type is meant; otherwise every type of the same family.

    Args:
        wanted: Name as the user wrote it.
        types: For each GPU type, the names that its cards report.
    """
    exact = [kind for kind, called in types.items() if any(plain(name) == plain(wanted) for name in called)]
    if exact:
        return exact
    return [kind for kind, called in types.items() if any(is_of_family(name, wanted) for name in (kind, *called))]


def slug(gpu_type: str) -> str:
    """Return a GPU type as node names and job files write it, such as ``A100-PCIE-40GB``."""
    every = re.findall(r"[A-Za-z0-9]+", gpu_type)
    return "-".join(every[1:] if len(every) > 1 and words(every[0]) in (["nvidia"], ["tesla"]) else every)
