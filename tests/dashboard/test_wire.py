"""What a browser is sent: all once, then what has changed, in few bytes."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from powerflow.api.governance import BudgetRecord
from powerflow.api.records import GpuRecord, NodeRecord, Top
from powerflow.dashboard.cluster_view import cluster_view
from powerflow.dashboard.language import words
from powerflow.dashboard.wire import merge_patch, state_of
from tests.dashboard.test_views import JOB, TOP
from tests.service.fake_cluster import FakeCluster

EN = words("en")
SCALARS = st.text(max_size=3) | st.integers(0, 3) | st.booleans()
STATES = st.dictionaries(
    st.sampled_from("abcd"),
    st.recursive(
        SCALARS | st.lists(SCALARS, max_size=3),
        lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


def applied(before: Any, patch: Any) -> Any:
    """RFC 7396, section 2, as it is written there."""
    if not isinstance(patch, Mapping):
        return patch
    after = dict(before) if isinstance(before, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            after.pop(key, None)
        else:
            after[key] = applied(after.get(key), value)
    return after


@given(STATES, STATES)
def test_a_patch_makes_the_new_state_of_the_old_one(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert applied(old, merge_patch(old, new)) == new


@given(STATES)
def test_what_has_not_changed_is_not_sent(state: dict[str, Any]) -> None:
    assert merge_patch(state, state) == {}


class Big(FakeCluster):
    """1,000 GPUs and 1,000 jobs, each of whose watts is another one at every look."""

    def __init__(self) -> None:
        super().__init__()
        self.random = random.Random(1)
        self.turn = 0

    def top(self) -> Top:
        self.turn += 1
        jobs = [
            replace(
                JOB, id=str(number), name=f"train-{number}", gpus=1, clock_mhz=1410.0,
                progress=self.turn / 5000 + number / 1000,
                power_w=self.random.uniform(100, 400),
                energy_j=1e6 + 300 * 2 * self.turn + number, step_time_s=0.3,
                eta_s=TOP.time_s + 36_000 + number, reason="started on 1 GPU at 1410 MHz",
            )
            for number in range(200)
        ]  # fmt: skip
        return replace(TOP, time_s=TOP.time_s + 2 * self.turn, jobs=jobs, running=600, queued=400)

    def nodes(self) -> list[NodeRecord]:
        def gpu(node: int, i: int) -> GpuRecord:
            job = str(node * 8 + i) if node * 8 + i < 600 else None
            return GpuRecord(i, "GPU", job, self.random.uniform(100, 400), 1410.0, None, None)

        return [NodeRecord(f"node{n:03}", "A100", "up", [gpu(n, i) for i in range(8)], False) for n in range(125)]

    def budgets(self) -> list[BudgetRecord]:
        return []

    def savings(self) -> None:
        return None


def test_a_refresh_of_1000_gpus_and_1000_jobs_is_at_most_15_kb() -> None:
    cluster, packer = Big(), zlib.compressobj(6, zlib.DEFLATED, 31)
    state, sizes = state_of(cluster_view(cluster, EN), EN), []
    first = packer.compress(json.dumps(state).encode()) + packer.flush(zlib.Z_SYNC_FLUSH)
    for _ in range(3):
        after = state_of(cluster_view(cluster, EN), EN)
        text = json.dumps(merge_patch(state, after), ensure_ascii=False, separators=(",", ":")).encode()
        sizes.append(len(packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH)))
        state = after
    assert len(state["nodes"]) * 8 == 1000
    assert max(sizes) <= 15_000, sizes
    assert len(first) <= 60_000


def test_what_is_not_known_is_left_out_and_comes_when_it_is_known() -> None:
    cluster = Big()
    state = state_of(cluster_view(cluster, EN), EN)
    assert "share" not in state["gauges"][0], "no cap limits power"
    assert "null" not in json.dumps(state)
