"""Plot fitted costs against measured costs, as one self-contained HTML file."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.cost.fit import Fit
from powerflow.cost.limit import limited_costs
from powerflow.cost.points import points_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

ROW_HEIGHT_PX = 380
_POINT = {"size": 6, "opacity": 0.7}


def render_fits(fits: Sequence[Fit]) -> str:
    """Return an HTML page that plots predicted against measured step times, and power if it was measured.

    Each model has one row of plots. A point on the diagonal is predicted exactly. The dashed lines are one residual
    standard deviation away from the diagonal. The tooltip of a point shows its configuration.
    """
    from plotly.subplots import make_subplots

    titles = []
    for fitted in fits:
        name = html.escape(f"{fitted.model.name} on {fitted.model.gpu_type}")
        titles += [f"{name}: step time", f"{name}: power" if fitted.power else f"{name}: power was not measured"]
    spacing = min(0.08, 0.5 / len(fits))
    figure = make_subplots(rows=len(fits), cols=2, subplot_titles=titles, vertical_spacing=spacing)
    for row, fitted in enumerate(fits, 1):
        points = points_of(fitted.observations, fitted.model.throughput.clock_max_mhz)
        labels = [_label(*configuration) for configuration in zip(*points.where, strict=True)]
        predicted, each_w = limited_costs(fitted.model, *points.where, points.limit_w)
        _parity(figure, row, 1, points.time_s, predicted, fitted.time_sd, labels, "s")
        if fitted.power is not None:
            known = np.isfinite(points.power_w)
            watts = points.gpus * each_w
            some = [label for label, keep in zip(labels, known, strict=True) if keep]
            _parity(figure, row, 2, points.power_w[known], watts[known], fitted.power_sd, some, "W")
    figure.update_layout(
        height=ROW_HEIGHT_PX * len(fits) + 80,
        showlegend=False,
        template="plotly_white",
        title="Costs of jobs: fitted and measured",
    )
    page: str = figure.to_html(include_plotlyjs=True, full_html=True, div_id="fits")
    return page


def _parity(
    figure: go.Figure,
    row: int,
    column: int,
    measured: FloatArray,
    predicted: FloatArray,
    log_sd: float,
    labels: list[str],
    unit: str,
) -> None:
    """Draw predicted against measured values on logarithmic axes, with the diagonal.

    Dashed lines on both sides of the diagonal are one standard deviation away.
    """
    import plotly.graph_objects as go

    both = np.concatenate([measured, predicted])
    ends = np.array([both.min() / 1.1, both.max() * 1.1])
    lines: list[tuple[float, str]] = [(1.0, "solid"), (np.exp(log_sd), "dash"), (np.exp(-log_sd), "dash")]
    for factor, dash in lines:
        line: dict[str, Any] = {"color": "#888", "width": 1, "dash": dash}
        figure.add_trace(
            go.Scatter(x=ends, y=ends * factor, mode="lines", line=line, hoverinfo="skip"), row=row, col=column
        )
    hover = f"%{{text}}<br>measured %{{x:.4~r}} {unit}<br>predicted %{{y:.4~r}} {unit}<extra></extra>"
    figure.add_trace(
        go.Scatter(x=measured, y=predicted, mode="markers", marker=_POINT, text=labels, hovertemplate=hover),
        row=row,
        col=column,
    )
    figure.update_xaxes(type="log", title=f"measured, {unit}", row=row, col=column)
    figure.update_yaxes(type="log", title=f"predicted, {unit}", row=row, col=column)


def _label(gpus: int, local_batch: int, accumulation: int, clock_mhz: float, crosses: int) -> str:
    where = f"{crosses + 1} nodes" if crosses else "one node"
    return f"{gpus} GPUs on {where}, {accumulation} × {local_batch} samples each, {clock_mhz:g} MHz"
