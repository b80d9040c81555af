"""Tell Hugging Face's accelerate the number of this rank, so that ``is_main_process`` is True on one rank only.

PowerFlow starts ranks without the launcher of accelerate. So accelerate takes each rank for process 0 of 1. This module
replaces accelerate's process index by the number of the rank. Accelerate's number of processes stays 1. Otherwise
accelerate would split loaders, and would communicate in a process group that it has not formed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from powerflow.elastic.environment import RankPlace


def tell_accelerate(place: Callable[[], RankPlace]) -> None:
    """Make accelerate, if the script has imported it, use the number of this rank.

    Args:
        place: Function that returns the place (number) of this rank now. It is called each time accelerate asks.
    """
    state = sys.modules.get("accelerate.state")
    for kind in ("PartialState", "AcceleratorState"):
        found = getattr(state, kind, None)
        if found is not None:
            found.process_index = property(lambda _: place().rank, lambda *_: None)
            found.local_process_index = property(lambda _: place().local, lambda *_: None)
