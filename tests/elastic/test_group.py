"""Forming a process group, and what is left of an attempt that failed."""

from __future__ import annotations

import pytest
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from powerflow.elastic import group


def test_a_failed_attempt_does_not_change_where_the_next_one_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A newcomer that was still forming when a peer died meets those that had formed already: under the same name."""
    monkeypatch.setattr(group, "CONNECT_S", 0.1)
    with pytest.raises(RuntimeError) as lost:
        group.form(HashStore(), 0, 2, cuda=False)
    assert group.lost_peer(lost.value)
    group.form(HashStore(), 0, 1, cuda=False)
    try:
        assert dist.distributed_c10d._get_default_group().group_name == "0"
    finally:
        group.close()
