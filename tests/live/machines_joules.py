"""Compare what the store of a cluster has metered with what its machines have, and with the counters of their GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from powerflow.device.emulated.gpu import EmulatedGpu
from powerflow.osutil.files import read_json
from powerflow.store.store import Store
from tests.live.machines_cluster import MachinesCluster, until


@dataclass(frozen=True)
class Joules:
    """Joules at one moment, which may have begun anywhere: only differences mean something.

    Attributes:
        metered_j: What the store has metered.
        counted_j: What the machines had metered when the store was written.
        gpus: By UUID: what its machine has metered by now, and the counter of the GPU then.
        boots: Boot of each host.
    """

    metered_j: float
    counted_j: float
    gpus: dict[str, tuple[float, float]]
    boots: dict[int, str]


def gpus_of(cluster: MachinesCluster, i: int) -> list[EmulatedGpu]:
    """Return the GPUs of a host."""
    return [EmulatedGpu(path) for path in sorted((_devices(cluster, i) / "emulated" / cluster.node(i)).iterdir())]


def locked_clocks(cluster: MachinesCluster) -> dict[str, float]:
    """Return the GPUs whose clock is locked, with the clock."""
    gpus = [gpu for i in cluster.hosts.numbers() for gpu in gpus_of(cluster, i)]
    return {f"{gpu.node}/{gpu.index}": mhz for gpu in gpus if (mhz := gpu.state().locked_mhz)}


def joules(cluster: MachinesCluster) -> Joules:
    """Return the joules when the store and the machines are in step.

    Raises:
        AssertionError: The joules of jobs and of idle GPUs are not those that were metered.
    """
    found = _joules(cluster)

    def saved() -> bool:
        nonlocal found
        found = _joules(cluster)
        return found is not None

    until(saved, "the meter is saved", cluster.log)
    assert found is not None
    return found


def _joules(cluster: MachinesCluster) -> Joules | None:
    hosts = cluster.hosts
    store = Store(f"sqlite:///{cluster.state / 'powerflow.db'}")
    try:
        counted_j = 0.0
        gpus: dict[str, tuple[float, float]] = {}
        taken = {i: store.get(f"ledger {cluster.node(i)}") for i in hosts.numbers()}
        metered_j, jobs_j, idle_j = store.charges.totals()
        assert abs(jobs_j + idle_j - metered_j) <= 1e-6 * metered_j, f"{jobs_j} + {idle_j} J are not {metered_j} J"
        for i, rows in taken.items():
            ledger = read_json(_devices(cluster, i) / "ledger.json")
            if ledger is None or rows is None:
                return None
            more_mj = sum(row[3] - rows["rows"].get(str(row[0]), [0])[0] for row in ledger["rows"])
            accounts = ledger["meter"]["accounts"]
            counted_j += sum(account["total_j"] for account in accounts.values()) - more_mj / 1e3
            gpus |= {uid: (account["total_j"], account["energy_j"]) for uid, account in accounts.items()}
        if taken != {i: store.get(f"ledger {cluster.node(i)}") for i in taken}:
            return None
        return Joules(metered_j, counted_j, gpus, {i: hosts.boot_id(i) for i in hosts.numbers()})
    finally:
        store.close()


def check_joules(cluster: MachinesCluster, before: Joules, now: Joules) -> None:
    """Joules in the store are those of the machines' ledgers, and these are those of the GPUs' counters.

    The counters are compared only where the host has not crashed.
    """
    apart_j = (now.metered_j - before.metered_j) - (now.counted_j - before.counted_j)
    assert abs(apart_j) < 1.0, f"the store has {apart_j:.3f} J more than the machines have metered"
    for i in [i for i, boot in now.boots.items() if boot == before.boots[i]]:
        for gpu in gpus_of(cluster, i):
            total_j, counter_j = (a - b for a, b in zip(now.gpus[gpu.uuid], before.gpus[gpu.uuid], strict=True))
            where = f"{gpu.node}/{gpu.index}"
            assert abs(total_j - counter_j) < 0.01, f"{where} metered {total_j} J, its counter says {counter_j} J"


def _devices(cluster: MachinesCluster, i: int) -> Path:
    return cluster.hosts.disk(i) / "agent" / "devices"
