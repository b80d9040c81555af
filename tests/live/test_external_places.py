"""Which GPUs of the cluster the GPUs of a job of another scheduler are."""

from __future__ import annotations

from typing import Any

from powerflow.live.external_jobs import placement_of
from powerflow.live.gpus.machines import ClusterGpu


def gpu(machine: str, index: int, **values: Any) -> ClusterGpu:
    """A GPU of a machine whose driver counts as PowerFlow does."""
    plain = {"node": machine, "gpu_type": "A100", "emulated": False, "vendor_name": "", "driver_index": index}
    return ClusterGpu(machine=machine, uuid=f"{machine}-{index}-{values}", index=index, **{**plain, **values})


def places(*gpus: ClusterGpu, of: dict[str, tuple[int, ...]]) -> Any:
    return placement_of(of, {each.place: each for each in gpus})


def test_the_drivers_numbers_count_and_short_names_do() -> None:
    known = [gpu("N1.site.org", 0, driver_index=3), gpu("N1.site.org", 1, driver_index=0), gpu("n2", 0)]
    assert places(*known, of={"n1": (0, 3)}) == (("N1.site.org", (0, 1)),)
    assert places(*known, of={"n1": (3,), "n2": (0,)}) == (("N1.site.org", (0,)), ("n2", (0,)))
    assert places(*known, of={"n1": (1,)}) == ()
    assert places(*known, of={"n2": (0,), "n3": (0,)}) == ()


def test_a_machine_of_several_types_has_several_nodes() -> None:
    known = [gpu("n1", 0, node="n1-A100"), gpu("n1", 0, node="n1-L4", driver_index=1)]
    assert places(*known, of={"n1": (0, 1)}) == (("n1-A100", (0,)), ("n1-L4", (0,)))


def test_what_may_be_another_gpu_is_no_gpu() -> None:
    """Two hosts with one short name, and a machine whose driver may count without a GPU that has gone."""
    twins = [gpu("n1.east", 0), gpu("n1.west", 0), gpu("n2.west", 0)]
    assert places(*twins, of={"n1": (0,)}) == ()
    assert places(*twins, of={"n2": (0,)}) == (("n2.west", (0,)),)
    without_one = [gpu("n1", 0), gpu("n1", 1, driver_index=None), gpu("n1", 2, driver_index=1), gpu("n2", 0)]
    assert places(*without_one, of={"n1": (0,)}) == ()
    assert places(*without_one, of={"n2": (0,)}) == (("n2", (0,)),)
