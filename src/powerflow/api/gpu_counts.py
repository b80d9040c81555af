r"""Read the GPU counts that a job can use, in each form in which users may write them.

::

    gpus: 4                                  # so many
    gpus: H100:1..8                          # any count from 1 to 8, of this type
    gpus: [1, 2, 4, 8]                       # these counts only; as text: "1,2,4,8", "H100:1,2,4,8"
    gpus: {multiple_of: 2, max: 16}          # 2, 4, 6, … 16; as text: "2..16 by 2"
    gpus: {multiple_of: 4, min: 8, max: 32, type: H100}
    gpus: {counts: [1, 2, 4], type: H100}
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

TYPE = r"[A-Za-z][A-Za-z0-9._-]{0,63}"
_COUNT = r"[1-9][0-9]{0,5}"
#: All forms that are text.
TEXT = rf"(({TYPE}):)?({_COUNT})(\.\.({_COUNT})(\s+by\s+({_COUNT}))?|(\s*,\s*{_COUNT})+)?"
#: Counts that a list, or a multiple, may have.
MOST_COUNTS = 4096
MOST_GPUS = 999_999
FIX = "write 4, 1..8, [1, 2, 4, 8], {multiple_of: 2, max: 16} or H100:1..8"
_MULTIPLE_KEYS = {"multiple_of", "min", "max", "type"}
_LIST_KEYS = {"counts", "type"}


class NoCounts(ValueError):
    """Error: a value is not a valid description of GPU counts. The message says how to correct it."""

    def __init__(self, what: str, fix: str = FIX) -> None:
        super().__init__(what)
        self.what, self.fix = what, fix


class Counts(NamedTuple):
    """GPU counts: any count from ``least`` to ``most``, or only the listed counts; and the GPU type, if named."""

    least: int
    most: int
    gpu_type: str | None
    counts: tuple[int, ...] | None = None


def read_counts(value: object, shown: str) -> Counts | None:
    """Read GPU counts in any form of this module; return None for a value of another type.

    Args:
        value: The value, as a YAML or JSON parser returns it.
        shown: The value as text, for error messages.

    Raises:
        NoCounts: The value has one of the forms, but no possible GPU counts.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)[:99]
    if isinstance(value, str):
        return _of_text(value, shown)
    if isinstance(value, list | tuple):
        return _listed([_whole(count, "a count") for count in value], None)
    if isinstance(value, dict) and value.keys() & {"multiple_of", "min", "max"}:
        return _of_multiple(value)
    if isinstance(value, dict) and "counts" in value and "least" not in value:
        _known(value, _LIST_KEYS)
        if not isinstance(value["counts"], list | tuple):
            raise NoCounts("counts is not a list", "write counts: [1, 2, 4, 8]")
        return _listed([_whole(count, "a count") for count in value["counts"]], value.get("type"))
    return None


def said(counts: Counts) -> str:
    """Return GPU counts as text, in the shortest form."""
    least, most, gpu_type, listed = counts
    if listed is not None and len(listed) > 1:
        step = listed[1] - listed[0]
        even = len(listed) > 3 and listed == tuple(range(least, most + 1, step))
        text = f"{least}..{most} by {step}" if even else ",".join(map(str, listed))
    else:
        text = str(least) if least == most else f"{least}..{most}"
    return f"{gpu_type}:{text}" if gpu_type else text


def _of_text(text: str, shown: str) -> Counts:
    found = re.fullmatch(TEXT, text.strip(), re.ASCII)
    if found is None:
        raise NoCounts(f"cannot read {shown} as GPUs")
    gpu_type, first, last, step, more = found[2], int(found[3]), found[5], found[7], found[8]
    if more is not None:
        return _listed([int(count) for count in text.partition(":")[2 if gpu_type else 0].split(",")], gpu_type)
    if step is not None:
        return _multiples(first, int(last), int(step), gpu_type)
    return Counts(first, int(last or first), gpu_type)


def _of_multiple(value: dict[Any, Any]) -> Counts:
    _known(value, _MULTIPLE_KEYS)
    if "max" not in value:
        raise NoCounts("no 'max'", "write {multiple_of: 2, max: 16}")
    step = _whole(value.get("multiple_of", 1), "multiple_of")
    most, least = _whole(value["max"], "max"), _whole(value.get("min", step), "min")
    first = -(-least // step) * step  # the first multiple that is large enough
    if first > most:
        raise NoCounts(f"there is no multiple of {step} from {least} to {most}", "give a larger max")
    if step == 1:
        return Counts(first, most, value.get("type"))
    return _multiples(first, most, step, value.get("type"))


def _multiples(least: int, most: int, step: int, gpu_type: str | None) -> Counts:
    if least > most:
        raise NoCounts(f"{least}..{most} has a minimum above its maximum", "write LEAST..MOST")
    if (most - least) // step >= MOST_COUNTS:
        raise NoCounts(f"more than {MOST_COUNTS} counts", "give a larger multiple, or a range such as 1..8")
    counts = list(range(least, most + 1, step))
    return _listed(counts, gpu_type) if len(counts) > 1 else Counts(least, least, gpu_type)


def _listed(counts: list[int], gpu_type: str | None) -> Counts:
    if len(set(counts)) < 2:
        raise NoCounts("the list has fewer than two counts", "write 4, or a list: [1, 2, 4, 8]")
    if len(counts) > MOST_COUNTS:
        raise NoCounts(f"more than {MOST_COUNTS} counts", "give a range such as 1..8")
    ordered = tuple(sorted(set(counts)))
    return Counts(ordered[0], ordered[-1], gpu_type, ordered)


def _known(value: dict[Any, Any], keys: set[str]) -> None:
    for key in value:
        if key not in keys:
            raise NoCounts(f"unknown key {str(key)[:40]!r}", f"known keys: {', '.join(sorted(keys))}")


def _whole(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_GPUS:
        raise NoCounts(f"{what} is {str(value)[:40]!r}", f"give a whole number from 1 to {MOST_GPUS}")
    return value
