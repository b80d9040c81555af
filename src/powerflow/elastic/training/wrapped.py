"""What a script calls in place of its model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from powerflow.elastic.run import Run


class Wrapped(nn.Module):
    """Stands for the model, whatever group it is trained in.

    A copy of it, deep or pickled (an average, the best so far), is no part of the run: it stands for its own model.
    """

    def __init__(self, module: nn.Module, run: Run) -> None:
        super().__init__()
        self.module = module
        self._run: Run | None = run

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output."""
        if self._run is None:
            return self.module(*args, **kwargs)
        return self._run.forward(self.module, args, kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of."""
        return {**self.__dict__, "_run": None}
