"""A profile of three models over batch sizes: seconds, watts and joules of a step, as points that ``fit`` reads.

The clock is left to the card, so points bear none: the type's highest, as far as the power limit lets it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.on_gpu.card import TINY, Sampled, busy, device, repeated, the_gpu

#: Batch sizes of each model.
BATCHES = (1, 2, 4) if TINY else (4, 16, 64, 256)
SECONDS = 0.1 if TINY else 3.5
#: Where the points stand, in the folder of the record.
POINTS = "on_gpu_points.csv"


def steps() -> dict[str, Callable[[int], Callable[[], object]]]:
    """Of each model, what makes a training step of a batch size."""
    import torch
    from torch import nn

    small, where = TINY, device()
    width = 32 if small else 4096
    pixels, channels = (8, 4) if small else (64, 128)
    tokens, wide = (8, 16) if small else (128, 768)
    layer = nn.TransformerEncoderLayer(wide, 2 if small else 12, 4 * wide, dropout=0.0, batch_first=True)
    models = {
        "mlp": (nn.Sequential(*(nn.Linear(width, width) for _ in range(4))), (width,)),
        "conv": (
            nn.Sequential(
                nn.Conv2d(3, channels, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(channels, 8, 3, padding=1),
            ),
            (3, pixels, pixels),
        ),
        "transformer": (nn.TransformerEncoder(layer, 1 if small else 6, enable_nested_tensor=False), (tokens, wide)),
    }

    def maker(model: nn.Module, shape: tuple[int, ...]) -> Callable[[int], Callable[[], object]]:
        model.to(where)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

        def of(batch: int) -> Callable[[], object]:
            x = torch.randn(batch, *shape, device=where)

            def step() -> None:
                model(x).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()

            return step

        return of

    return {name: maker(model, shape) for name, (model, shape) in models.items()}


def measure(out: Path) -> dict[str, Any]:
    """Points of all models and batch sizes, written as CSV, and how well a fit foretells those it has not seen."""
    from powerflow.cost.fit import fit
    from powerflow.cost.observation import Observation, observations_csv, read_observations

    gpu, seen, rows = the_gpu(), [], []
    for name, of in steps().items():
        for batch in BATCHES:
            with busy(), Sampled(gpu) as sampled:
                times, took_s = repeated(of(batch), SECONDS)
            drawn = sampled.result()
            step_s, watts = took_s / times, drawn["mean_w"]
            limit_w = drawn["power_limit_w"]
            rows.append({"model": name, "batch": batch, "step_s": step_s, "step_j": step_s * watts, **drawn})
            seen.append(
                Observation(
                    name,
                    gpu.gpu_type,
                    1,
                    batch,
                    step_s,
                    power_w=watts if math.isfinite(watts) else None,
                    power_limit_w=limit_w if limit_w > 0 else None,
                )
            )
    path = out / POINTS
    path.write_text(observations_csv(seen), encoding="utf-8")
    fits = {}
    for name in dict.fromkeys(point.model for point in seen):
        fitted = fit([point for point in read_observations(path) if point.model == name])
        fits[name] = {
            "time": fitted.time._asdict(),
            "held_out_time": fitted.held_out_time and fitted.held_out_time._asdict(),
            "held_out_power": fitted.held_out_power and fitted.held_out_power._asdict(),
            "notes": list(fitted.notes),
        }
    return {"gpu_type": gpu.gpu_type, "points": str(path), "rows": rows, "fits": fits}
