"""The library for training scripts that PowerFlow can rescale while they run.

`mailbox` is the communication between the controller and the ranks; it needs only the standard library. All other
modules import torch, and are loaded when `init` is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from powerflow.elastic.run import Run


def init() -> Run:
    """Begin an elastic run; call this where the script would call ``dist.init_process_group``.

    If PowerFlow did not start the script, the run has one rank, or the ranks that torchrun started.

    Raises:
        InputError: The environment is incomplete.
    """
    from powerflow.elastic.run import Run

    return Run()
