"""Keep plain values of a script, such as the best accuracy so far, with the state of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from powerflow.errors import InputError


class Kept:
    """Values that a new rank gets from the other ranks, and that a checkpoint holds. Each is an attribute::

        kept = run.keep(best=0.0, since=0)
        …
        if accuracy > kept.best:
            kept.best, kept.since = accuracy, run.position.step

    All ranks must set the same values at the same step.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Begin with these values."""
        vars(self).update(values)

    def __getattr__(self, name: str) -> Any:
        """Raise an error: there is no value of this name."""
        raise AttributeError(f"{name!r} is no value that is kept")

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a value.

        Raises:
            InputError: ``run.keep`` was not given a value of this name.
        """
        if name not in vars(self):
            raise InputError(f"{name!r} is no value that is kept", where="run.keep", fix=f"run.keep({name}=…) first")
        super().__setattr__(name, value)

    def state_dict(self) -> dict[str, Any]:
        """Return all values by name."""
        return dict(vars(self))

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Replace the values by those of the run. Values that the run does not have yet stay as they are."""
        vars(self).update({name: value for name, value in state_dict.items() if name in vars(self)})
