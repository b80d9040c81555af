"""Read measured costs that replace the catalogue's: files written by ``powerflow fit``, or tables of measured points.

A JSON file holds fitted models. Any other file is a table of observations, which is fitted here, model by model.
Measured points are used where they exist; the fit fills in the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from powerflow.cost.catalogue import GpuType, declared, family, family_model
from powerflow.cost.fit import Fit, fit
from powerflow.cost.model import JobModel
from powerflow.cost.model_file import read_models
from powerflow.cost.observation import REQUIRED, Observation, read_observations, text_of
from powerflow.errors import InputError

#: Most models that are named in a message.
MOST_NAMED = 6


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured costs by model and GPU type, as read from files that the user named.

    Attributes:
        source: The files, as the user named them.
        fits: Fitted cost models by (model's name in lower case, GPU type).
        cards: GPU types in these files that the catalogue does not have.
    """

    source: str
    fits: Mapping[tuple[str, str], Fit]
    cards: tuple[GpuType, ...] = field(default=())

    def of(self, model: str) -> Mapping[str, Fit]:
        """Return the fitted cost models of a neural network, by GPU type.

        Look under the network's own name first, then under other names of its family (similar networks).
        """
        own = self._named(model.lower())
        if own:
            return own
        called = _called(model)
        return next((found for name in called if (found := self._named(name))), {})

    def names(self, most: int = MOST_NAMED) -> str:
        """Return the names of the models with their GPU types, for the user: ``lm (A40, H100), ncf (T4)``."""
        on: dict[str, list[str]] = {}
        for fitted in self.fits.values():
            on.setdefault(fitted.model.name, []).append(fitted.model.gpu_type)
        named = [f"{name} ({', '.join(types)})" for name, types in list(on.items())[:most]]
        return ", ".join([*named, *[f"and {len(on) - most} more"] * (len(on) > most)])

    def types(self) -> list[str]:
        """Return the GPU types on which any model was measured."""
        return list(dict.fromkeys(kind for _, kind in self.fits))

    def check_types(self, types: Collection[str], cluster: str) -> None:
        """Check that some model was measured on a GPU type of the cluster.

        Args:
            types: GPU types of the cluster, as the catalogue names them.
            cluster: The cluster, for the message.

        Raises:
            InputError: No model was.
        """
        if not set(self.types()) & set(types):
            raise InputError(
                f"its models were measured on {', '.join(self.types())}, but {cluster} has {', '.join(types)}",
                where=self.source,
                fix="give models that were measured on one of its GPU types",
            )

    def _named(self, name: str) -> dict[str, Fit]:
        return {kind: fitted for (model, kind), fitted in self.fits.items() if model == name}


def read_costs(paths: Sequence[str | Path]) -> Costs | None:
    """Read files of measured costs; return None if no file is given.

    Raises:
        InputError: A file cannot be read or is wrong (the message names line and field), or two files describe the same
            model on the same GPU type.
    """
    if not paths:
        return None
    fits: dict[tuple[str, str], Fit] = {}
    told: dict[tuple[str, str], str] = {}
    for path in paths:
        for fitted in _read(Path(path)):
            key = fitted.model.name.lower(), fitted.model.gpu_type
            if key in fits:
                what = f"{fitted.model.name} on {fitted.model.gpu_type} is also in {told[key]}"
                raise InputError(what, where=str(path), fix="leave out one of them")
            fits[key], told[key] = fitted, str(path)
    types = {kind for _, kind in fits}
    cards = tuple(card for card in declared() if card.name in types)
    return Costs(", ".join(map(str, paths)), fits, cards)


def usual_batch(fits: Iterable[Fit]) -> int:
    """Return the global batch that occurs most often in the measured points; of equally frequent ones, the largest."""
    counts = Counter(o.gpus * o.local_batch * o.accumulation for fitted in fits for o in fitted.observations)
    return max(counts, key=lambda batch: (counts[batch], batch))


def grouped(observations: Iterable[Observation]) -> dict[tuple[str, str], list[Observation]]:
    """Return observations grouped by model and GPU type."""
    groups: dict[tuple[str, str], list[Observation]] = {}
    for seen in observations:
        groups.setdefault((seen.model, seen.gpu_type), []).append(seen)
    return groups


def catalogue_prior(model: str, kind: str) -> JobModel | None:
    """Return the catalogue's cost model for a model name on a GPU type, or None if no family has this name."""
    try:
        return family_model(model, kind)
    except InputError:
        return None


def _read(path: Path) -> list[Fit]:
    text = text_of(path).strip()
    if text[:1] in ("{", "["):
        return read_models(path)
    if text and not set(REQUIRED) & {name.strip() for name in text.split("\n", 1)[0].split(",")}:
        raise InputError(
            "is neither a file of models nor a table of observations",
            where=str(path),
            fix="make models of what other tools measured: powerflow fit FILE -o MODELS.json",
        )
    groups = grouped(read_observations(path))
    return [fit(points, catalogue_prior(model, kind), folds=0) for (model, kind), points in groups.items()]


def _called(model: str) -> list[str]:
    """Return all names of the family to which a model belongs, in lower case; an empty list if it has no family."""
    try:
        known = family(model)
    except InputError:
        return []
    return [name.lower() for name in (known.name, *known.aliases)]
