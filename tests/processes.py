"""Start helper processes of tests quickly: as forks of a process that has imported what they need.

There is one such process for each pytest worker, so its modules are listed in one place.
"""

from __future__ import annotations

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "torch",
        "torch._dynamo",
        "torch.distributed",
        "tests.elastic.trainee",
        "tests.elastic.small",
        "tests.agent.here",
    ]
)
