"""Detect changes of parameters, averages or learning rates between the passes of one step.

The check must be fast, because it runs in each pass. It compares version counters (torch counts changes of a tensor)
and memory addresses. Changes of ``parameter.data`` do not raise the version counter, so some values of some parameters
are compared, too. Values on a GPU are compared on the GPU, and the result is read when the GPU has finished.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from powerflow.elastic.state import Training

#: Number of parameters whose values are compared, and number of compared values of each parameter.
_SAMPLED, _VALUES = 48, 8
#: Integer type by size of a value: bits are compared, so that NaN equals NaN.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_RATES = ("lr", "momentum", "betas", "weight_decay")
#: Classes of tensors that only hold numbers.
_PLAIN = (Tensor, nn.Parameter)
#: How deep the state of an object is searched for tensors.
_DEEP = 4


class TrainingSnapshot:
    """A snapshot of everything that a run trains, to detect changes. `take` takes the snapshot."""

    def __init__(self, training: Training) -> None:
        self._training = training
        self._names = [name for name, _ in training.model.named_parameters()]
        self._parameters = list(training.model.parameters())
        self._copies = _copies(training)
        self._loose = list[weakref.ref[Tensor]]()
        self._versions: list[int] = []
        self._places: list[int] = []
        self._rates: list[object] = []
        self._copied: list[int] = []
        self._loosely: list[int] = []
        self._values = _Values([])

    def search(self) -> None:
        """Find copies of parameters that the script keeps but did not give to ``run.wrap``.

        The search takes about 0.1 s.
        """
        known = {id(tensor) for tensor in self._parameters} | {id(one()) for _, one in self._copies}
        shapes = self._shapes()
        known |= {id(parameter.grad) for parameter in self._parameters}
        loose = []
        for thing in gc.get_objects():
            kind = type(thing)
            if issubclass(kind, nn.Module):
                for parameter in getattr(thing, "_parameters", {}).values():
                    if parameter is not None and id(parameter) not in known and _is_like(parameter, shapes):
                        known.add(id(parameter))
                        self._copies.append(
                            (f"a parameter of a {kind.__name__} beside the model", weakref.ref(parameter))
                        )
            elif issubclass(kind, Tensor) and _is_like(thing, shapes):
                loose.append(thing)
        self._loose = [weakref.ref(tensor) for tensor in loose if id(tensor) not in known]

    def take(self) -> None:
        """Take a new snapshot of everything that is trained. It replaces the last snapshot."""
        self._versions = [parameter._version for parameter in self._parameters]
        places = [parameter.data_ptr() for parameter in self._parameters]
        if places != self._places:
            self._places = places
            self._values = _Values(self._parameters)
        self._values.take()
        self._rates = self._read_rates()
        self._copied = [_version(one) for _, one in self._copies]
        self._loosely = [_version(one) for one in self._loose]

    def changed(self) -> str:
        """Return what has changed since the last `take`, in words; "" if nothing has changed."""
        if [parameter._version for parameter in self._parameters] != self._versions:
            now = [parameter._version for parameter in self._parameters]
            return f"parameter {self._first(now, self._versions)}"
        places = [parameter.data_ptr() for parameter in self._parameters]
        if places != self._places:
            return f"parameter {self._first(places, self._places)}"
        if self._values.changed():
            return "parameters (by way of .data)"
        if self._read_rates() != self._rates:
            return "a learning rate (or momentum, betas, weight decay)"
        for (name, one), before in zip(self._copies, self._copied, strict=True):
            if _version(one) not in (before, -1):
                return name
        return self._changed_copy()

    def _changed_copy(self) -> str:
        """Check tensors that are not registered but have the shape of a parameter; return in words what has changed.

        A few such tensors may change. If there is a changed tensor for each parameter's shape, the script keeps an
        average.
        """
        changed = set()
        for one, before in zip(self._loose, self._loosely, strict=True):
            tensor = one()
            if tensor is not None and tensor._version != before:
                changed.add(tensor.shape)
        return "a copy of all parameters (an average?)" if changed and changed >= self._shapes() else ""

    def _shapes(self) -> set[torch.Size]:
        return {p.shape for p in self._parameters if p.requires_grad and p.dim() > 1}

    def _first(self, now: list[int], before: list[int]) -> str:
        return next(name for name, new, old in zip(self._names, now, before, strict=True) if new != old)

    def _read_rates(self) -> list[object]:
        rates = list[object]()
        for thing in self._training.things[1:]:
            holder = thing if hasattr(thing, "param_groups") else getattr(thing, "optimizer", None)
            for group in getattr(holder, "param_groups", ()):
                rates += [_plain(group.get(name)) for name in _RATES]
        return rates


class _Values:
    """Detects changes of tensors: it compares a few values of a few of the tensors."""

    def __init__(self, tensors: list[nn.Parameter]) -> None:
        every = max(1, -(-len(tensors) // _SAMPLED))
        groups: dict[tuple[torch.device, int], list[Tensor]] = {}
        for tensor in tensors[::every]:
            if tensor.numel() and tensor.layout == torch.strided and tensor.is_contiguous():
                flat = tensor.detach().view(-1)
                some = flat[:: max(1, tensor.numel() // _VALUES)][:_VALUES]
                groups.setdefault((some.device, some.element_size()), []).append(some)
        self._groups = [[_bits(some) for some in group] for (_, size), group in groups.items() if size in _BITS]
        self._before: list[Tensor] = []
        self._pending: list[tuple[Tensor, torch.Event]] = []

    def take(self) -> None:
        self._before = [torch.cat(group) for group in self._groups]

    def changed(self) -> bool:
        for group, before in zip(self._groups, self._before, strict=True):
            now = torch.cat(group)
            if not now.is_cuda:
                if not torch.equal(now, before):
                    return True
                continue
            differs = torch.empty((), dtype=torch.bool, pin_memory=True)
            differs.copy_((now != before).any(), non_blocking=True)
            event: torch.Event = torch.Event(now.device)
            event.record()
            self._pending.append((differs, event))
        while self._pending and self._pending[0][1].query():
            if bool(self._pending.pop(0)[0]):
                return True
        return False


def _copies(training: Training) -> list[tuple[str, weakref.ref[Tensor]]]:
    """Return tensors that may be copies of parameters, with a name for each.

    They are tensors in the objects given to ``run.wrap`` that have the shape of a parameter but are not parameters.
    """
    shapes = {p.shape for p in training.model.parameters() if p.requires_grad and p.dim() > 1}
    found = [(f"buffer {name}", tensor) for name, tensor in training.model.named_buffers()]
    for thing in training.things[1:]:
        kind = type(thing).__name__
        if isinstance(thing, nn.Module):
            found += [(f"{kind} ({name})", tensor) for name, tensor in thing.named_parameters()]
            found += [(f"{kind} ({name})", tensor) for name, tensor in thing.named_buffers()]
        elif not isinstance(thing, Optimizer) and not hasattr(getattr(thing, "optimizer", None), "param_groups"):
            found += [(kind, tensor) for tensor in _tensors(thing.state_dict(), _DEEP)]
    ours = {id(parameter) for parameter in training.model.parameters()}
    return [
        (name, weakref.ref(tensor))
        for name, tensor in found
        if tensor.shape in shapes and id(tensor) not in ours and _counts(tensor)
    ]


def _tensors(state: object, deep: int) -> Iterable[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif deep and isinstance(state, dict | list | tuple):
        for part in state.values() if isinstance(state, dict) else state:
            yield from _tensors(part, deep - 1)


def _is_like(tensor: Tensor, shapes: set[torch.Size]) -> bool:
    """Return True if a plain tensor has one of the given shapes.

    A tensor of another class may have no definite shape.
    """
    return type(tensor) in _PLAIN and not tensor.is_nested and tensor.shape in shapes and _counts(tensor)


def _counts(tensor: Tensor) -> bool:
    """Return True if torch keeps a version counter for a tensor, which counts its changes."""
    return tensor.is_floating_point() and not tensor.is_inference()


def _version(one: weakref.ref[Tensor]) -> int:
    tensor = one()
    return -1 if tensor is None else tensor._version


def _plain(value: Any) -> object:
    return (id(value), value._version) if isinstance(value, Tensor) else value


def _bits(tensor: Tensor) -> Tensor:
    return tensor.view(_BITS[tensor.element_size()])
