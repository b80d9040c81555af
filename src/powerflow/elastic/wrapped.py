"""What a script calls in place of its model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from powerflow.elastic.run import Run


class Wrapped(nn.Module):
    """Stands for the model, whatever group it is trained in."""

    def __init__(self, module: nn.Module, run: Run) -> None:
        super().__init__()
        self.module = module
        self._run = run

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output."""
        return self._run.forward(self.module, args, kwargs)
