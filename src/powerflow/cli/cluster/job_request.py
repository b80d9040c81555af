"""Say in words what the owner of a job asked for, for ``powerflow describe``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from powerflow.api.gpu_counts import Counts, said
from powerflow.units import duration, percent, prose, size

_NO_LIMIT = "no limit"


def request_facts(spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the owner of a job asked for: a name and a text for each line.

    Limits and the batch are shown also where the owner has said nothing of them; other keys only if they have a value.

    Args:
        spec: The job as JSON data of a `JobSpec`.
    """
    limits = spec["limits"]
    facts = [
        ("asked for", _gpus(spec)),
        ("command", spec["run"]),
        ("directory", spec["directory"]),
        ("array", spec["array"]),
        ("dependency", spec["dependency"]),
        ("time limit", _limit(spec["time_limit"], duration)),
        ("memory", _each(limits["memory"], size)),
        ("CPUs", _each(limits["cpus"], prose)),
        ("between steps", None if limits["between_steps"] is None else _limit(limits["between_steps"], duration)),
        ("batch", _batch(spec["batch"])),
        ("step pattern", spec["progress"]),
        ("model", spec["model"]),
        ("slower", _slowdown(spec["energy"]["max_slowdown"])),
        ("checkpoint", _checkpoint(spec)),
        ("retries", f"at most {spec['retries']}" if spec["retries"] else "none"),
        ("environment", " ".join(f"{key}={value}" for key, value in spec["env"].items())),
    ]
    if spec["rescale"] == "external":
        scheduler = spec["run"].partition(":")[0].capitalize()
        kept = [fact for fact in facts if fact[0] == "slower"]
        return [("started by", f"{scheduler}; PowerFlow only sets the clocks of its GPUs"), *kept]
    return [(name, text) for name, text in facts if text]


def _gpus(spec: Mapping[str, Any]) -> str:
    asked = spec["gpus"]
    counts = Counts(asked["least"], asked["most"], asked["gpu_type"], asked.get("counts"))
    gpus = "GPUs" if counts.most > 1 else "GPU"
    return f"{said(counts)} {gpus} · {spec['priority']} priority · rescale {spec['rescale']}"


def _limit(value: float | None, format_value: Callable[[float], str]) -> str:
    return _NO_LIMIT if value is None else f"at most {format_value(value)}"


def _each(value: float | None, format_value: Callable[[float], str]) -> str:
    """Return a limit of each process."""
    return _NO_LIMIT if value is None else f"{_limit(value, format_value)} for each process"


def _batch(batch: Mapping[str, Any] | None) -> str:
    if batch is None:
        return "unknown"
    most = batch["local_max"]
    return f"{batch['global']:,} samples a step" + ("" if most is None else f", at most {most:,} at once on a GPU")


def _slowdown(share: float | None) -> str | None:
    if share == 0:
        return "none is allowed"
    return None if share is None else f"at most {percent(share)}, to save energy"


def _checkpoint(spec: Mapping[str, Any]) -> str:
    asked = spec["checkpoint"]
    folder = asked["dir"] or "a folder of PowerFlow"
    every = f" · every {duration(asked['every'])}" if spec["rescale"] == "in-place" and asked["every"] else ""
    return f"in {folder}{every} · {duration(asked['grace'])} to save it before the job is ended"
