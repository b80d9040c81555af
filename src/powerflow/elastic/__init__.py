"""Let training scripts run as elastic jobs, which PowerFlow can rescale while they run.

The module `mailbox`, through which controller and ranks communicate, needs only the standard library. All other modules
import torch, and are imported when `init` is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from powerflow.elastic.run import Run


def init() -> Run:
    """Begin an elastic run, and return it. Call this where the script would call ``dist.init_process_group``.

    If PowerFlow did not start the script, the run has one rank, or the ranks that torchrun started.

    Raises:
        InputError: Only one of the environment variables POWERFLOW_JOB_DIR and POWERFLOW_RANK is set, or the checkpoint
            folder cannot be used, or the script has opened a process group itself.
    """
    from powerflow.elastic.run import Run

    return Run()
