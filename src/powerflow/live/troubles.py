"""Show what could not be done for single jobs, as notices."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

#: So many are shown.
TROUBLES_SHOWN = 10


def tell_troubles(troubles: Mapping[str, str], notices: MutableMapping[str, str]) -> None:
    """Replace the troubles among the notices by these.

    Args:
        troubles: In words, by job; "" for the engine itself.
        notices: What an operator is shown, by a name of each.
    """
    engine = troubles.get("", "")
    told = [f"job {job_id}: {trouble}" for job_id, trouble in sorted(troubles.items()) if job_id][:TROUBLES_SHOWN]
    said = dict(enumerate([engine, *told] if engine else told))
    for number in range(TROUBLES_SHOWN + 1):
        key = f"trouble {number}"
        if number in said:
            notices[key] = said[number]
        else:
            notices.pop(key, None)
