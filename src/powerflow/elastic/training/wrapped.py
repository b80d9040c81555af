"""Define the module that a script calls in place of its model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from powerflow.elastic.run import Run


class Wrapped(nn.Module):
    """Calls the model through the elastic run.

    Copies of this module, deep or pickled (an average, the best model so far), are not part of the run. They call their
    own model directly.
    """

    def __init__(self, module: nn.Module, run: Run) -> None:
        super().__init__()
        self.module = module
        self._run: Run | None = run

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the model's output."""
        if self._run is None:
            return self.module(*args, **kwargs)
        return self._run.forward(self.module, args, kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes that a copy of this module gets: all attributes, but without the run."""
        return {**self.__dict__, "_run": None}
