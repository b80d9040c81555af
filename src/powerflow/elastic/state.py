"""What a rank is: model, optimiser, LR scheduler, scaler, position, random numbers; to hand over or to keep."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from powerflow.elastic.training import streams
from powerflow.elastic.training.sampling import Position
from powerflow.elastic.training.streams import Bases
from powerflow.errors import InputError
from powerflow.osutil.files import locked, replaced

#: Bytes sent at once: enough to use the link, little enough that nobody needs much memory for it.
BUCKET_BYTES = 64 << 20

State = dict[str, Any]


class Stateful(Protocol):
    """Anything that can say its state and take it back."""

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Become this."""
        ...


class Training:
    """What a rank trains, and how far it is.

    Attributes:
        model: What is trained.
        options: How DDP is to wrap it.
        things: Model, optimiser and whatever else was registered.
        position: How far.
        in_parallel_trained: Which parameters were trained when the model was last made parallel.
        streams: Bases of the run's random numbers, once it has begun.
        joined: Whether this state belongs to the run; a newcomer's does not until it was given one.
    """

    def __init__(self, model: nn.Module, others: Sequence[Stateful], options: Mapping[str, Any]) -> None:
        self.model = model
        self.options = options
        self.things: list[Stateful] = [model, *others]
        self.position = Position()
        self.joined = False
        self.in_parallel_trained: list[bool] = []
        self.streams: Bases | None = None

    def on_cuda(self) -> bool:
        """Whether the model is on a CUDA device."""
        return any(parameter.is_cuda for parameter in self.model.parameters())

    def optimizes(self) -> bool:
        """Whether an optimiser was registered, of whatever class."""
        return any(hasattr(thing, "step") and hasattr(thing, "zero_grad") for thing in self.things)

    def fewest_samples(self) -> int:
        """That a pass can do with: batch normalisation needs two to train."""
        return 2 if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.model.modules()) else 1

    def trained(self) -> list[bool]:
        """Which parameters are trained and not frozen."""
        return [parameter.requires_grad for parameter in self.model.parameters()]

    def in_parallel(self) -> DistributedDataParallel:
        """The model as DDP of the default group; its ranks have equal parameters already."""
        self.in_parallel_trained = self.trained()
        return DistributedDataParallel(self.model, init_sync=False, **self.options)

    def parameters(self) -> list[nn.Parameter]:
        """All parameters of the model."""
        return list(self.model.parameters())

    def nothing(self) -> Tensor:
        """A loss whose gradient is 0 for every parameter that is trained."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return sum(((0.0 * parameter).sum().float() for parameter in trained), torch.zeros(()))

    def drop_gradients(self) -> None:
        """Forget what a failed step has left, and views of buckets of a group that is no more."""
        self.model.zero_grad(set_to_none=True)
        for thing in self.things:
            if isinstance(thing, Optimizer):
                thing.zero_grad(set_to_none=True)

    def draw_own_numbers(self, rank: int) -> None:
        """Have this rank draw random numbers of its own from here on, as `powerflow.elastic.training.streams` says."""
        if self.streams is None:
            self.streams = streams.bases()
        streams.seed(self.streams, self.position.step, rank)

    def state(self) -> State:
        """All of it; tensors are not copied."""
        if self.streams is None:
            self.streams = streams.bases()
        return {
            "position": tuple(self.position),
            "things": [thing.state_dict() for thing in self.things],
            "trained": self.trained(),
            "streams": self.streams,
        }

    def become(self, state: State) -> None:
        """Take over such a state."""
        if len(self.things) != len(state["things"]):
            raise _not_alike(f"{len(state['things'])} things were given to run.wrap there, {len(self.things)} here")
        for thing, its in zip(self.things, state["things"], strict=True):
            try:
                thing.load_state_dict(its)
            except (ValueError, RuntimeError, KeyError) as error:
                reason = " ".join(str(error).split())
                raise _not_alike(f"state of {type(thing).__name__}: {reason[:300]}") from error
        for parameter, trained in zip(self.model.parameters(), state["trained"], strict=True):
            parameter.requires_grad_(trained)
        self.streams = state.get("streams", self.streams)
        self.position = Position(*state["position"])
        self.joined = True

    def save(self, path: Path) -> None:
        """Keep the state in a file, whole or not at all; a later state that is there already is left."""
        self.keep(path, self.position.step, lambda file: torch.save(self.state(), file))

    def keep(self, path: Path, step: int, write: Callable[[BinaryIO], object]) -> None:
        """Keep a state in a file, whole or not at all; a later state that is there already is left.

        Args:
            path: The file.
            step: Steps that are done in that state.
            write: Writes it.

        Raises:
            OSError: It cannot be written; what was there stays.
        """
        with locked(path.with_suffix(".lock"), mode=0o666):
            kept = load(path)
            if kept is not None and kept["position"][0] >= step:
                return
            del kept
            # always the same name: ranks that are killed while they write leave one such file, not many
            temporary = path.with_name(f".{path.name}.new")
            temporary.unlink(missing_ok=True)
            with replaced(path, durable=True, temporary=temporary) as file:
                write(file)


def _not_alike(what: str) -> InputError:
    return InputError(
        f"what the others train is not what this rank has built: {what}",
        fix="build all that run.wrap is given in the same way in every rank, and change none of it afterwards",
        exit_code=1,
    )


def load(path: Path) -> State | None:
    """A state kept in a file, on the CPU, read as it is used; None if there is none.

    The file is the job's own and as trusted as its script: unpickling it may run code.
    """
    try:
        state: State = torch.load(path, map_location="cpu", mmap=True, weights_only=False)
    except FileNotFoundError:
        return None
    return state


class _Pickler(pickle.Pickler):
    """Pickles all but dense tensors, which it puts aside in ``tensors``."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.tensors: list[Tensor] = []

    def persistent_id(self, obj: Any) -> int | None:
        if not isinstance(obj, Tensor) or obj.layout != torch.strided:
            return None
        self.tensors.append(obj.detach())
        return len(self.tensors) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(file)
        self.tensors = tensors

    def persistent_load(self, pid: int) -> Tensor:
        return self.tensors[pid]


def copied(state: State) -> Callable[[], State]:
    """Copy a state into this process's memory, in one pass over its tensors; return what makes a state of the copy."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(state)
    tensors = [tensor.to("cpu", copy=True) for tensor in pickler.tensors]
    return lambda: _Unpickler(io.BytesIO(file.getvalue()), tensors).load()


def send(state: State, source: int) -> None:
    """Give a state to all ranks of the group; ``source`` is our own number."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(state)
    kinds = [(tensor.dtype, tuple(tensor.shape), tensor.device.type) for tensor in pickler.tensors]
    dist.broadcast_object_list([(file.getvalue(), kinds)], src=source)
    for device, bucket in _buckets(kinds):
        pieces = [pickler.tensors[i].contiguous().reshape(-1).view(torch.uint8) for i in bucket]
        dist.broadcast(torch.cat(pieces).to(device), source)


def receive(source: int, *, keep: bool) -> State | None:
    """Take the state that ``source`` sends; all or nothing. Who does not ``keep`` it only lets it pass."""
    head: list[Any] = [None]
    dist.broadcast_object_list(head, src=source)
    content, kinds = head[0]
    tensors: list[Tensor] = [torch.empty(0)] * len(kinds)
    for device, bucket in _buckets(kinds):
        flat = torch.empty(sum(_bytes(kinds[i]) for i in bucket), dtype=torch.uint8, device=device)
        dist.broadcast(flat, source)
        offset = 0
        for i in bucket if keep else ():
            after = offset + _bytes(kinds[i])
            tensors[i] = flat[offset:after].clone().view(kinds[i][0]).reshape(kinds[i][1])
            offset = after
    if not keep:
        return None
    state: State = _Unpickler(io.BytesIO(content), tensors).load()
    return state


def _bytes(kind: tuple[torch.dtype, tuple[int, ...], str]) -> int:
    dtype, shape, _ = kind
    count = 1
    for length in shape:
        count *= length
    return count * dtype.itemsize


def _buckets(kinds: list[tuple[torch.dtype, tuple[int, ...], str]]) -> Iterator[tuple[str, list[int]]]:
    """Tensors to send together, by device: as many as fit a bucket, or one that does not."""
    for device in sorted({kind[2] for kind in kinds}):
        bucket: list[int] = []
        size = 0
        for i, kind in enumerate(kinds):
            if kind[2] != device or not _bytes(kind):
                continue
            if bucket and size + _bytes(kind) > BUCKET_BYTES:
                yield device, bucket
                bucket, size = [], 0
            bucket.append(i)
            size += _bytes(kind)
        if bucket:
            yield device, bucket
