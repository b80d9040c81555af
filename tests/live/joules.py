"""What the counters of a machine's GPUs said when the store was last written."""

from __future__ import annotations

from pathlib import Path

from powerflow.live.gpus.gpus import LEDGER
from powerflow.osutil.files import read_json
from powerflow.store.store import Store


def joules(store: Store, device_directory: Path, machine: str) -> tuple[float, float] | None:
    """Joules metered in all by the store, and by the counters at that moment; None while nothing was taken yet."""
    while True:
        taken = store.get(LEDGER + machine)
        metered_j, _, _ = store.charges.totals()
        if taken == store.get(LEDGER + machine):
            break
    ledger = read_json(device_directory / "ledger.json")
    if taken is None or ledger is None:
        return None
    counted_j = sum(account["energy_j"] for account in ledger["meter"]["accounts"].values())
    # the machine has counted on since
    more_mj = sum(row[3] - taken["rows"].get(str(row[0]), [0])[0] for row in ledger["rows"])
    return metered_j, counted_j - more_mj / 1e3
