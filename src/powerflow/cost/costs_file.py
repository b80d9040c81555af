"""Read measured costs to use instead of the catalogue's: files that ``powerflow fit`` wrote, or tables of points.

JSON is a file of models, anything else a table of observations, whose points are
fitted here, model by model. Where points are, they win; between and beyond them the fit stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from powerflow.cost.catalogue import GpuType, declared, family, family_model, gpu_type
from powerflow.cost.fit import Fit, fit
from powerflow.cost.model import JobModel
from powerflow.cost.model_file import read_models
from powerflow.cost.observation import Observation, read_observations, text_of
from powerflow.errors import InputError


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured costs by model and GPU type.

    Attributes:
        source: The files, as they were given.
        fits: By (model's name in lower case, GPU type).
        cards: GPU types of them that the catalogue has not.
    """

    source: str
    fits: Mapping[tuple[str, str], Fit]
    cards: tuple[GpuType, ...] = field(default=())

    def of(self, model: str) -> Mapping[str, Fit]:
        """Return what is known of a model, by GPU type: under its own name, else under another name of its family."""
        own = self._named(model.lower())
        if own:
            return own
        called = _called(model)
        return next((found for name in called if (found := self._named(name))), {})

    def names(self) -> list[str]:
        """The models there are, each on its GPU types: ``lm (A40, H100)``."""
        on: dict[str, list[str]] = {}
        for fitted in self.fits.values():
            on.setdefault(fitted.model.name, []).append(fitted.model.gpu_type)
        return [f"{name} ({', '.join(types)})" for name, types in on.items()]

    def _named(self, name: str) -> dict[str, Fit]:
        return {kind: fitted for (model, kind), fitted in self.fits.items() if model == name}


def read_costs(paths: Sequence[str | Path]) -> Costs | None:
    """Read files of costs; None where none is given.

    Raises:
        InputError: A file cannot be read or has something wrong in it (with its line and field), or two of them tell of
            one model on one GPU type.
    """
    if not paths:
        return None
    fits: dict[tuple[str, str], Fit] = {}
    told: dict[tuple[str, str], str] = {}
    for path in paths:
        for fitted in _read(Path(path)):
            key = fitted.model.name.lower(), fitted.model.gpu_type
            if key in fits:
                what = f"{fitted.model.name} on {fitted.model.gpu_type} stands in {told[key]} too"
                raise InputError(what, where=str(path), fix="leave one of them away")
            fits[key], told[key] = fitted, str(path)
    types = {kind for _, kind in fits}
    cards = tuple(card for card in declared() if card.name in types)
    return Costs(", ".join(map(str, paths)), fits, cards)


def usual_batch(fits: Iterable[Fit]) -> int:
    """The global batch that most points of a model have; of equals, the largest."""
    counts = Counter(o.gpus * o.local_batch * o.accumulation for fitted in fits for o in fitted.observations)
    return max(counts, key=lambda batch: (counts[batch], batch))


def catalogue_prior(model: str, kind: str) -> JobModel | None:
    """The catalogue's model of that name on a GPU type; None where it has no such family."""
    try:
        return family_model(model, kind)
    except InputError:
        return None


def _read(path: Path) -> list[Fit]:
    if text_of(path).lstrip()[:1] in ("{", "["):
        return read_models(path)
    groups: dict[tuple[str, str], list[Observation]] = {}
    for seen in read_observations(path):
        groups.setdefault((seen.model, gpu_type(seen.gpu_type).name), []).append(seen)
    return [fit(points, catalogue_prior(model, kind), folds=0) for (model, kind), points in groups.items()]


def _called(model: str) -> list[str]:
    """The names of a model's family in the catalogue, lower case; none where there is no such family."""
    try:
        known = family(model)
    except InputError:
        return []
    return [name.lower() for name in (known.name, *known.aliases)]
