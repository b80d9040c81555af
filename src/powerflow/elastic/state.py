"""Load and save the state of a run: model, optimiser, LR scheduler, scaler, position and random numbers."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from powerflow.elastic.fence import raise_fence, refuse_overtaken
from powerflow.elastic.training import streams
from powerflow.elastic.training.sampling import Position
from powerflow.elastic.training.streams import Bases
from powerflow.errors import InputError
from powerflow.osutil.files import locked, replaced

State = dict[str, Any]


class Stateful(Protocol):
    """Any object that can return its state and load a state."""

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state of this object."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Replace the state of this object by another state."""
        ...


class Training:
    """Everything that a rank trains, and how much of the run it has trained.

    Attributes:
        model: The model.
        options: Options for DDP.
        things: Model, optimiser and all other objects that the script gave to ``run.wrap``.
        position: Steps, epoch and samples that the run has trained.
        in_parallel_trained: For each parameter: True if it was trained (not frozen) when DDP last wrapped the model.
        streams: Base numbers from which the run's random numbers are seeded; None before the run has begun.
        joined: True if this state belongs to the run. The state of a new rank does not belong to the run until the rank
            has received the run's state.
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
        """Return True if a parameter of the model is on a CUDA device."""
        return any(parameter.is_cuda for parameter in self.model.parameters())

    def optimizes(self) -> bool:
        """Return True if the script gave an optimiser (of any class) to ``run.wrap``."""
        return any(hasattr(thing, "step") and hasattr(thing, "zero_grad") for thing in self.things)

    def fewest_samples(self) -> int:
        """Return the fewest samples that a pass needs: 2 if the model has batch normalisation, otherwise 1."""
        return 2 if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.model.modules()) else 1

    def trained(self) -> list[bool]:
        """Return for each parameter True if it is trained, False if it is frozen."""
        return [parameter.requires_grad for parameter in self.model.parameters()]

    def in_parallel(self) -> DistributedDataParallel:
        """Return the model wrapped by DDP for torch's default group. The ranks must already have equal parameters."""
        self.in_parallel_trained = self.trained()
        return DistributedDataParallel(self.model, init_sync=False, **self.options)

    def parameters(self) -> list[nn.Parameter]:
        """Return all parameters of the model."""
        return list(self.model.parameters())

    def nothing(self) -> Tensor:
        """Return a loss that is 0, with gradient 0 for each trained parameter."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return sum(((0.0 * parameter).sum().float() for parameter in trained), torch.zeros(()))

    def drop_gradients(self) -> None:
        """Set all gradients to None.

        The gradients may be those of a failed step, or may use memory of a process group that was closed.
        """
        self.model.zero_grad(set_to_none=True)
        for thing in self.things:
            if isinstance(thing, Optimizer):
                thing.zero_grad(set_to_none=True)

    def draw_own_numbers(self, rank: int) -> None:
        """Seed the random numbers of this rank (`powerflow.elastic.training.streams`)."""
        if self.streams is None:
            self.streams = streams.bases()
        streams.seed(self.streams, self.position.step, rank)

    def state(self) -> State:
        """Return the whole state of the run. Its tensors are not copied."""
        if self.streams is None:
            self.streams = streams.bases()
        return {
            "position": tuple(self.position),
            "things": [thing.state_dict() for thing in self.things],
            "trained": self.trained(),
            "streams": self.streams,
        }

    def become(self, state: State) -> None:
        """Replace the state of this rank by the state of the run.

        Raises:
            InputError: The state does not fit the objects that this rank has built.
        """
        if len(self.things) != len(state["things"]):
            raise _not_alike(f"{len(state['things'])} objects for run.wrap on other ranks, {len(self.things)} here")
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

    def save(self, path: Path, generation: int) -> None:
        """Save the state of the run to a file, unless the file already has a state of this step or a later one.

        Arguments and errors are those of `keep`.
        """
        self.keep(path, self.position.step, generation, lambda file: torch.save(self.state(), file))

    def keep(self, path: Path, step: int, generation: int, write: Callable[[BinaryIO], object]) -> None:
        """Replace a checkpoint file by a state, unless the file already has a state of this step or a later one.

        Args:
            path: The file.
            step: Number of completed steps in the state.
            generation: Generation of the rank that saves.
            write: Function that writes the state to an open file.

        Raises:
            Overtaken: A later generation has taken over the run (`powerflow.elastic.fence`); the old file remains.
            OSError: The state cannot be written; the old file remains.
        """
        with locked(path.with_suffix(".lock"), mode=0o666):
            refuse_overtaken(path, generation)
            raise_fence(path, generation)
            kept = load(path)
            if kept is not None and kept["position"][0] >= step:
                return
            del kept
            # one name for all ranks, so that those killed while they write leave one file only
            temporary = path.with_name(f".{path.name}.new")
            temporary.unlink(missing_ok=True)
            with replaced(path, durable=True, temporary=temporary) as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
                refuse_overtaken(path, generation)  # writing may have taken minutes


def _not_alike(what: str) -> InputError:
    return InputError(
        f"this rank has built other objects than the other ranks: {what}",
        fix="build all objects for run.wrap in the same way on every rank, and do not change them afterwards",
        exit_code=1,
    )


def load(path: Path) -> State | None:
    """Return the state in a checkpoint file, on the CPU and memory-mapped; None if the file does not exist.

    Loading a checkpoint may run code in it (pickle). The file belongs to the job, so it is as trusted as the job's
    script.
    """
    try:
        state: State = torch.load(path, map_location="cpu", mmap=True, weights_only=False)
    except FileNotFoundError:
        return None
    return state


class TensorPickler(pickle.Pickler):
    """Pickles everything except dense tensors, which it collects in ``tensors``."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.tensors: list[Tensor] = []

    def persistent_id(self, obj: Any) -> int | None:
        """Return the number of a dense tensor; None for anything else."""
        if not isinstance(obj, Tensor) or obj.layout != torch.strided:
            return None
        self.tensors.append(obj.detach())
        return len(self.tensors) - 1


class TensorUnpickler(pickle.Unpickler):
    """Makes an object from what a `TensorPickler` has written, and from its tensors."""

    def __init__(self, file: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(file)
        self.tensors = tensors

    def persistent_load(self, pid: int) -> Tensor:
        """Return the tensor of this number."""
        return self.tensors[pid]


def copied(state: State) -> Callable[[], State]:
    """Copy a state to CPU memory. Return a function that makes a state from this copy."""
    file = io.BytesIO()
    pickler = TensorPickler(file)
    pickler.dump(state)
    tensors = [tensor.to("cpu", copy=True) for tensor in pickler.tensors]
    return lambda: TensorUnpickler(io.BytesIO(file.getvalue()), tensors).load()
