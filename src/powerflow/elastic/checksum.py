"""Compare the parameters of all ranks bit by bit, when a group of ranks is formed and regularly afterwards.

Data-parallel ranks start with the same parameters and apply the same gradients, so their parameters stay equal to the
last bit. If they differ, the ranks no longer train one model. One cause is a script that updates with something that is
not equal on all ranks: a random number, a local gradient, a learning rate that counts passes. The other cause is
hardware that computes wrongly.

The checksum of a parameter is the sum of its bits as 64-bit integers. It does not depend on the order of summation.
Buffers may differ between ranks (each rank has its own BatchNorm statistics). Parameters that DDP ignores may differ,
too. Different kinds of hardware may round differently, so ranks are only compared with ranks on the same kind of
hardware.
"""

from __future__ import annotations

import math
import platform
import time
import zlib
from collections.abc import Iterable
from typing import NamedTuple, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

from powerflow.elastic.state import Training
from powerflow.errors import InputError

#: Largest share of the time that comparisons may take.
SHARE = 0.0005
#: Steps from the start of a group to the first comparison, and fewest steps between later comparisons.
SOON, FEWEST = 10, 100
#: Estimated seconds that the exchange of checksums takes.
_EXCHANGE_S = 0.0005
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class _Begun(NamedTuple):
    """A comparison that was begun: at which step, number and checksums of this rank, and the exchange of the table."""

    step: int
    rank: int
    sums: Tensor
    table: Tensor
    work: dist.Work | None


class RankComparison:
    """Compares the parameters of the ranks of a gang.

    A comparison takes two calls, so that the first step of a new group need not wait for the exchange.

    Attributes:
        due: Number of the step before which the next comparison must be made; the same on all ranks.
    """

    def __init__(self, training: Training) -> None:
        self._training = training
        self.due = 0
        self._cost_s = math.inf
        self._since: tuple[int, float] | None = None  # step and time of the last comparison
        self._begun: _Begun | None = None

    @property
    def may_finish(self) -> bool:
        """True if a comparison was begun before the last step. The answer is the same on all ranks."""
        return self._begun is not None and self._training.position.step > self._begun.step

    @property
    def is_open(self) -> bool:
        """True if a comparison was begun and has not ended."""
        return self._begun is not None

    @property
    def has_news(self) -> bool:
        """True if a step was trained since the last comparison of parameters. The answer is the same on all ranks."""
        return self._since is None or self._training.position.step > self._since[0]

    def compare(self, rank: int, ranks: int, *, formed: bool = False) -> None:
        """Compare the parameters of all ranks now. Arguments and errors are those of `begin` and `finish`."""
        self.finish()
        self.begin(rank, ranks, formed=formed)
        self.finish()

    def begin(self, rank: int, ranks: int, *, formed: bool = False) -> None:
        """Begin to compare the parameters of all ranks of torch's default group, as they are now.

        All ranks must call this at the same step, and `finish` at the same later moment.

        Args:
            rank: Number of this rank.
            ranks: Number of ranks.
            formed: True if the group has just been formed.

        Raises:
            RuntimeError: A rank was lost (`powerflow.elastic.group.lost_peer`).
        """
        step = self._training.position.step
        began_s = time.monotonic()
        sums = _sums(self._named().values())
        self._cost_s = min(self._cost_s, time.monotonic() - began_s + _EXCHANGE_S)
        table = torch.zeros(ranks, 3, dtype=torch.int64)
        proposed = SOON if formed else self._steps_between(step, began_s)
        table[rank] = torch.tensor([_digest(sums), _hardware(self._training.model), proposed])
        work = dist.all_reduce(table, async_op=True) if ranks > 1 else None
        self._begun = _Begun(step, rank, sums, table, work)
        self._since = (step, time.monotonic())
        self.due = step + proposed
        if work is None:
            self.finish()

    def finish(self) -> None:
        """End the comparison that was begun. If none was, do nothing.

        Raises:
            InputError: Parameters of two ranks differed when the comparison began. All ranks raise this error.
            RuntimeError: A rank was lost (`powerflow.elastic.group.lost_peer`).
        """
        begun, self._begun = self._begun, None
        if begun is None:
            return
        if begun.work is not None:
            begun.work.wait()
        table = begun.table
        self.due = begun.step + int(table[:, 2].max())
        ranks = len(table)
        first = [next(row for row in range(ranks) if table[row, 1] == table[other, 1]) for other in range(ranks)]
        differ = [other for other in range(ranks) if table[other, 0] != table[first[other], 0]]
        if differ:
            self._refuse(begun, differ, first)

    def forget(self) -> None:
        """Forget a comparison that was begun, because its group has ended."""
        self._begun = None

    def _named(self) -> dict[str, nn.Parameter]:
        model = self._training.model
        ignored = set(getattr(model, "_ddp_params_and_buffers_to_ignore", ()))
        return {name: parameter for name, parameter in model.named_parameters() if name not in ignored}

    def _steps_between(self, step: int, now_s: float) -> int:
        """Return how many steps this rank proposes until the next comparison."""
        if self._since is None or step <= self._since[0]:
            return FEWEST
        step_s = (now_s - self._since[1]) / (step - self._since[0])
        return max(FEWEST, math.ceil(self._cost_s / (SHARE * max(step_s, 1e-6))))

    def _refuse(self, begun: _Begun, differ: list[int], first: list[int]) -> NoReturn:
        table = torch.zeros(len(first), len(begun.sums), dtype=torch.int64)
        table[begun.rank] = begun.sums
        dist.all_reduce(table)
        apart = (table != table[first]).any(dim=0).nonzero().flatten().tolist()
        names = list(self._named())
        raise InputError(
            f"parameters of ranks differ: at step {begun.step} parameter {names[apart[0]]}"
            + (f" and {len(apart) - 1} more are" if len(apart) > 1 else " is")
            + f" not the same on rank {', '.join(map(str, differ))} as on rank {first[differ[0]]}",
            fix="update only with gradients from run.backward; give optimiser, LR scheduler and scaler to run.wrap; if"
            " random numbers must be equal on all ranks, use a generator that is seeded by run.position.step",
        )


def _sums(parameters: Iterable[Tensor]) -> Tensor:
    """Return one checksum for each parameter, as a tensor on the CPU."""
    found: dict[torch.device, list[tuple[int, Tensor]]] = {}
    count = 0
    for parameter in parameters:
        if parameter.layout == torch.strided and parameter.element_size() in _BITS:
            found.setdefault(parameter.device, []).append((count, _sum(parameter.detach())))
        count += 1
    sums = torch.zeros(count, dtype=torch.int64)
    for numbered in found.values():
        sums[[number for number, _ in numbered]] = torch.stack([value for _, value in numbered]).cpu()
    return sums


def _sum(tensor: Tensor) -> Tensor:
    if not tensor.is_contiguous():
        strides = tensor.stride()
        order = sorted(range(tensor.dim()), key=lambda axis: -strides[axis])
        tensor = tensor.permute(order)  # the order in memory, if the tensor is dense
    flat = tensor.reshape(-1)
    size = flat.element_size()
    if flat.data_ptr() % 8 or flat.storage_offset() * size % 8:
        flat = flat.clone()
    whole = flat.numel() - flat.numel() % (8 // size)  # words of 64 bits are much faster than smaller ones
    return flat[:whole].view(torch.int64).sum() + flat[whole:].view(_BITS[size]).sum(dtype=torch.int64)


def _digest(sums: Tensor) -> int:
    """Return one number that depends on all checksums of the parameters and on their order."""
    weights = torch.arange(1, 2 * len(sums), 2, dtype=torch.int64) * 0x9E3779B97F4A7C1
    return int((sums * weights).sum())


def _hardware(model: nn.Module) -> int:
    """Return a number that stands for the kind of hardware on which this rank computes."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if device.type == "cuda":
        kind = torch.cuda.get_device_name(device)
    else:
        kind = f"{device.type} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return zlib.crc32(kind.encode())
