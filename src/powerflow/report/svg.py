"""Draw the figure of energy against mean completion time as a static image, for a README or a paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from xml.sax.saxutils import escape

from powerflow import units
from powerflow.report import words
from powerflow.report.plane import Curve, Plane, Spot, ladder, plane_of
from powerflow.simulate.comparison import Comparison

WIDTH, HEIGHT = 860, 470
LEFT, RIGHT, TOP, BOTTOM = 62, 118, 58, 52
LEAST_GAP = 15  # pixels between the names at the right end

#: Colours and dashes in the order of `curves`, without the subject's; they suit light and dark themes.
COLOURS = ("#c8501e", "#0e8a68", "#b0568e", "#b07800", "#2b94c4", "#6a4fb3", "#7d7f1a", "#8a5a3c", "#5f6672")
DASHES = ("6 4", "2 3", "8 3 2 3", "10 4", "none")
STYLE = """
text{font:13px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;fill:#4c515c}
.title{font-size:15px;font-weight:600;fill:#16181d}.ours{stroke:#0b5cad}.name-ours{fill:#0b5cad;font-weight:600}
.rule{stroke:#dcd9d1}.level{stroke:#b9b5aa;stroke-dasharray:2 3}.bound{stroke:#6b6f78}.never{fill:#5a5e68;opacity:.13}
@media(prefers-color-scheme:dark){text{fill:#aeb2bb}.title{fill:#eceae4}.ours{stroke:#5fb0ff}.name-ours{fill:#5fb0ff}
.rule{stroke:#3a3e47}.level{stroke:#565c68}.bound{stroke:#9aa0ab}.never{fill:#a0a6b2}}
"""


def frontier_svg(comparison: Comparison) -> str:
    """Draw each policy's frontier on the first seed, the lower bound, and the energy levels as an SVG image.

    The same input gives the same bytes.
    """
    plane = plane_of(comparison)
    unit, size = words.time_unit([plane.low_s, plane.high_s])
    x, y = _scales(plane)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(words.without_folders(comparison.title))}</title><style>{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="22">Mean job completion time ({unit}, log scale) over energy</text>',
        f'<text x="{LEFT}" y="42">{escape(words.without_folders(comparison.title))}; simulated</text>',
        f'<clipPath id="in"><rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" '
        f'height="{HEIGHT - TOP - BOTTOM}"/></clipPath>',
    ]
    for value, text in ladder(plane.low_s / size, plane.high_s / size):
        at = y(value * size)
        parts.append(f'<path class="rule" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{text}</text>')
    for share, budget in plane.levels:
        at = x(share)
        parts.append(f'<path class="level" d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        named = f"{units.percent(share)} of FIFO" if share == 1 else units.percent(share)
        for line, text in enumerate((named, budget)):
            where = f'x="{at:.1f}" y="{HEIGHT - BOTTOM + 19 + 17 * line}"'
            parts.append(f'<text {where} text-anchor="middle">{text}</text>')
    parts.append('<g clip-path="url(#in)" fill="none" stroke-linejoin="round">')
    if plane.bound:
        d = _path(plane.bound, x, y)
        low, high = plane.bound[0].share, plane.bound[-1].share
        floor = HEIGHT - BOTTOM
        parts.append(f'<path class="never" d="{d}L{x(high):.1f} {floor}L{x(low):.1f} {floor}Z"/>')
        parts.append(f'<path class="bound" d="{d}"/>')
    drawn = [curve for curve in plane.curves if curve.lines and curve.lines[0]]
    others = [curve.policy for curve in drawn if not curve.ours]
    for curve in drawn:
        parts.append(f'<path {_stroke(curve, others)} d="{_path(curve.lines[0], x, y)}"/>')
    parts.append("</g>")
    parts += _names(plane, drawn, others, x, y)
    return "\n".join([*parts, "</svg>", ""])


def _scales(plane: Plane) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """Return two functions that convert shares of energy and seconds to pixels."""
    across = (WIDTH - LEFT - RIGHT) / (plane.high - plane.low)
    down = (HEIGHT - TOP - BOTTOM) / math.log(plane.high_s / plane.low_s)
    return lambda share: LEFT + across * (share - plane.low), lambda s: TOP + down * math.log(plane.high_s / s)


def _path(spots: Sequence[Spot], x: Callable[[float], float], y: Callable[[float], float]) -> str:
    return "M" + "L".join(f"{x(spot.share):.1f} {y(spot.seconds):.1f}" for spot in spots if spot.seconds > 0)


def _stroke(curve: Curve, others: Sequence[str]) -> str:
    if curve.ours:
        return 'class="ours" stroke-width="3"'
    i = others.index(curve.policy)
    dash = DASHES[i % len(DASHES)]
    return f'stroke="{COLOURS[i % len(COLOURS)]}" stroke-width="1.7" stroke-dasharray="{dash}"'


def _names(
    plane: Plane,
    drawn: Sequence[Curve],
    others: Sequence[str],
    x: Callable[[float], float],
    y: Callable[[float], float],
) -> list[str]:
    """Return the policy names at the right ends of the lines; names that would be too close are moved apart."""
    ends = [(_end(curve.lines[0], plane), curve.policy, curve.ours) for curve in drawn]
    if plane.bound:
        ends.append((_end(plane.bound, plane), "bound", False))
    places: list[float] = []
    texts = []
    for spot, policy, ours in sorted(ends, key=lambda end: -end[0].seconds):
        at = min(max(y(spot.seconds) + 4, TOP + 8), HEIGHT - BOTTOM)
        at = max(at, places[-1] + LEAST_GAP) if places else at
        places.append(at)
        fill = "" if ours or policy not in others else f' style="fill:{COLOURS[others.index(policy) % len(COLOURS)]}"'
        kind = ' class="name-ours"' if ours else ""
        texts.append(f'<text{kind}{fill} x="{WIDTH - RIGHT + 8}" y="{at:.1f}">{escape(words.label(policy))}</text>')
    return texts


def _end(spots: Sequence[Spot], plane: Plane) -> Spot:
    """Return the last point of a line that lies inside the shown ranges."""
    inside = [spot for spot in spots if spot.share <= plane.high and spot.seconds > 0]
    return inside[-1] if inside else spots[0]
