"""Inside a job: the few lines that a training script imports, and how it is told to rescale.

`mailbox` is how the controller and the ranks talk; it needs nothing but the standard library. Everything else here
imports torch, and only when `init` is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from powerflow.elastic.run import Run


def init() -> Run:
    """Begin an elastic run; call it where the script would call ``dist.init_process_group``.

    Without PowerFlow's environment it is a plain run: one rank, or the ranks that torchrun started.

    Raises:
        InputError: If the environment is incomplete.
    """
    from powerflow.elastic.run import Run

    return Run()
