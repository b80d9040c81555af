"""Tell Hugging Face's accelerate which rank this is, so that ``is_main_process`` is true on one rank alone.

Started by PowerFlow there is no launcher of accelerate, and it takes each rank for the only process: ``PartialState``
says number 0 of 1. Its number becomes the one in the gang, whenever it is asked for. Its number of processes stays 1:
accelerate would share out loaders by it, and gather by a process group that it has not formed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from powerflow.elastic.environment import RankPlace


def tell_accelerate(place: Callable[[], RankPlace]) -> None:
    """Have accelerate's state, where it is loaded, ask for this rank's place instead of remembering one."""
    state = sys.modules.get("accelerate.state")
    for kind in ("PartialState", "AcceleratorState"):
        found = getattr(state, kind, None)
        if found is not None:
            found.process_index = property(lambda _: place().rank, lambda *_: None)
            found.local_process_index = property(lambda _: place().local, lambda *_: None)
