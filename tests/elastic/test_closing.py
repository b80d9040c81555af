"""A rank that leaves its group goes on, although DDP lets the group go last and threads of gloo still free tensors."""

from __future__ import annotations

import faulthandler

import torch
from torch import nn
from torch._C._distributed_c10d import HashStore
from torch.nn.parallel import DistributedDataParallel

from powerflow.elastic import group
from tests.processes import CONTEXT


def _form_and_close() -> None:
    """Form a group and close it, again and again.

    The last exchange is DDP's own, of a buffer; so the thread of gloo has a tensor to free that Python knows.
    """
    faulthandler.dump_traceback_later(60, exit=True)
    torch.set_num_threads(1)
    for _ in range(60):
        group.form(HashStore(), 0, 1, cuda=False)
        model = nn.Sequential(nn.Linear(4, 4))
        model.register_buffer("counter", torch.zeros(1))
        parallel = DistributedDataParallel(model, init_sync=False)
        parallel(torch.zeros(1, 4))
        group.close()
        del parallel  # the last but one that holds the group; it was the last, and hung within 20 rounds


def test_a_group_is_closed_while_its_threads_free_tensors() -> None:
    process = CONTEXT.Process(target=_form_and_close)
    process.start()
    process.join()
    assert process.exitcode == 0
