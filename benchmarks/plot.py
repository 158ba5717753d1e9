"""Plots as SVG: lines over a parameter, readable in light and dark, with no script and nothing from elsewhere.

Colours are the page's: the strokes are `var(--s0)`, `var(--s1)`, … and the rest `currentColor`.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Callable, Sequence

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 12, 44
SERIES_COLOURS = 8
LOGARITHMIC_FROM = 20.0  # the largest value over the smallest


@dataclasses.dataclass
class Point:
    """`low` and `high` are the extremes of the repeats around `y`."""

    x: float
    y: float
    low: float
    high: float


@dataclasses.dataclass
class Series:
    label: str
    points: list[Point]


@dataclasses.dataclass
class Axis:
    """Maps values to pixels, linearly or logarithmically."""

    low: float
    high: float
    is_logarithmic: bool
    start: float
    end: float

    def at(self, value: float) -> float:
        shape: Callable[[float], float] = math.log10 if self.is_logarithmic else float
        low, high = shape(self.low), shape(self.high)
        share = (shape(value) - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        if not self.is_logarithmic:
            step = nice_step((self.high - self.low) / 5 or 1.0)
            first = math.ceil(self.low / step - 1e-9)
            return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        multiples = (1, 2, 5) if last - first <= 3 else (1,)
        return [m * 10.0**n for n in range(first, last + 1) for m in multiples if self.low <= m * 10.0**n <= self.high]


def nice_step(rough: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(multiple * power for multiple in (1, 2, 5, 10) if multiple * power >= rough * (1 - 1e-9))


def x_axis(values: Sequence[float]) -> Axis:
    low, high = min(values), max(values)
    return Axis(low, high, low > 0 and high / low >= LOGARITHMIC_FROM, LEFT + 12, WIDTH - RIGHT - 12)


def y_axis(values: Sequence[float]) -> Axis:
    """From zero, unless it is logarithmic."""
    positive = [value for value in values if value > 0]
    if positive and len(positive) == len(values) and max(positive) / min(positive) >= LOGARITHMIC_FROM:
        return Axis(min(positive) / 1.25, max(positive) * 1.25, True, HEIGHT - BOTTOM, TOP)
    return Axis(min(0.0, *values), max(*values, 1e-9) * 1.08, False, HEIGHT - BOTTOM, TOP)


def short(value: float) -> str:
    """12,000 as 12k, 0.5 as 0.5."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def line_plot(title: str, x_name: str, y_name: str, series: Sequence[Series]) -> str:
    """An <svg>; "" where no series has a point."""
    points = [point for one in series for point in one.points]
    if not points:
        return ""
    xs = sorted({point.x for point in points})
    x, y = x_axis(xs), y_axis([value for point in points for value in (point.low, point.high)])
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title, quote=True)}">',
        *_grid(x, y, xs),
        f'<text class="name" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{html.escape(_axis_words(x_name, x))}</text>",
        f'<text class="name" transform="translate(13 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)" '
        f'text-anchor="middle">{html.escape(_axis_words(y_name, y))}</text>',
    ]
    for number, one in enumerate(series):
        parts += _drawn(one, f"var(--s{number % SERIES_COLOURS})", x, y, marks=len(xs) <= 40)
    return "\n".join([*parts, "</svg>"])


def _axis_words(name: str, axis: Axis) -> str:
    return f"{name} (logarithmic)" if axis.is_logarithmic else name


def _grid(x: Axis, y: Axis, xs: Sequence[float]) -> list[str]:
    parts = []
    for tick in y.ticks():
        at = y.at(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{short(tick)}</text>')
    # A few measured values are the ticks themselves; many would run into each other.
    for tick in xs if len(xs) <= 8 else x.ticks():
        at = x.at(tick)
        parts.append(
            f'<line class="tick" x1="{at:.1f}" x2="{at:.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 4}"/>'
        )
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{short(tick)}</text>')
    bottom = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    return parts


def _drawn(one: Series, colour: str, x: Axis, y: Axis, *, marks: bool) -> list[str]:
    points = sorted(one.points, key=lambda point: point.x)
    path = " ".join(f"{x.at(point.x):.1f},{y.at(point.y):.1f}" for point in points)
    parts = [f'<polyline class="line" style="stroke:{colour}" points="{path}"/>']
    if not marks:
        return parts
    for point in points:
        at, words = x.at(point.x), html.escape(f"{one.label}: {point.y:,.4g} at {point.x:g}")
        if point.high > point.low:
            low, high = y.at(point.low), y.at(point.high)
            parts.append(
                f'<line class="spread" style="stroke:{colour}" x1="{at:.1f}" x2="{at:.1f}" '
                f'y1="{low:.1f}" y2="{high:.1f}"/>'
            )
        parts.append(
            f'<circle style="fill:{colour}" cx="{at:.1f}" cy="{y.at(point.y):.1f}" r="3.5">'
            f"<title>{words}</title></circle>"
        )
    return parts
