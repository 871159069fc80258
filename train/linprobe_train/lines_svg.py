"""One small plot without a plotting library: lines with deviations over a doubling axis.

Kept to what the base install needs (few-shot curves); the report's plots are matplotlib's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's palette, told apart by colour-blind readers, on light and on dark."""
WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 60, 16, 40, 48


_OPENING = (
    f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' role='img' "
    "font-family='sans-serif' font-size='13' style='background:#fff;color:#1b1f24'>"
)


@dataclass(frozen=True)
class Series:
    """One line."""

    name: str
    """For the legend."""
    x: tuple[float, ...]
    """Positive, ascending."""
    y: tuple[float, ...]
    """As many."""
    deviation: tuple[float, ...]
    """Half the height of each bar; 0 for none."""


@dataclass(frozen=True)
class _Frame:
    """From data to pixels."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        low, high = (math.log2(end) for end in self.x)
        across = (math.log2(x) - low) / ((high - low) or 1)
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM),
        )


def lines_svg(title: str, axis: str, series: Sequence[Series]) -> str:
    """Draw lines over x on a doubling scale, with bars of one deviation; at least one series."""
    points = [point for one in series for point in zip(one.y, one.deviation, strict=True)]
    step = _step(
        min(value - bar for value, bar in points), max(value + bar for value, bar in points)
    )
    low = step * math.floor(min(value - bar for value, bar in points) / step)
    high = max(step * math.ceil(max(value + bar for value, bar in points) / step), low + step)
    xs = sorted({x for one in series for x in one.x})
    frame = _Frame((xs[0], xs[-1]), (low, high))
    ticks = [low + step * i for i in range(round((high - low) / step) + 1)]
    parts = [
        _OPENING,
        f"<title>{escape(title)}</title>",
        _text(LEFT, 20, title, "start"),
        *(_grid_line(frame, xs, y) for y in ticks),
        *(_text(frame.at(x, low)[0], HEIGHT - BOTTOM + 18, f"{x:g}", "middle") for x in xs),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, axis, "middle"),
    ]
    for i, one in enumerate(series):
        parts += _line(frame, one, COLOURS[i % len(COLOURS)])
        parts.append(_legend(i, one.name, COLOURS[i % len(COLOURS)]))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _step(low: float, high: float) -> float:
    """A round distance of ticks, so that there are three to eight."""
    raw = max(high - low, 1e-6) / 5
    size = 10.0 ** math.floor(math.log10(raw))
    return next(size * m for m in (1, 2, 5, 10) if size * m >= raw)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' fill='currentColor'>"
        f"{escape(text)}</text>"
    )


def _grid_line(frame: _Frame, xs: Sequence[float], y: float) -> str:
    (x1, y1), (x2, _) = frame.at(xs[0], y), frame.at(xs[-1], y)
    x2 = max(x2, WIDTH - RIGHT)
    rule = f"<path d='M{x1:.1f} {y1:.1f}H{x2:.1f}' stroke='currentColor' stroke-opacity='.15'/>"
    return rule + _text(LEFT - 8, y1 + 4, f"{y:g}", "end")


def _line(frame: _Frame, one: Series, colour: str) -> list[str]:
    points = [frame.at(x, y) for x, y in zip(one.x, one.y, strict=True)]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    parts = [f"<path d='M{path}' fill='none' stroke='{colour}' stroke-width='2'/>"]
    for (x, y), value, bar in zip(points, one.y, one.deviation, strict=True):
        parts.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.5' fill='{colour}'/>")
        if bar:
            ends = (frame.at(one.x[0], value + side * bar)[1] for side in (-1, 1))
            bottom, top = (f"{end:.1f}" for end in ends)
            parts.append(f"<path d='M{x:.1f} {bottom}V{top}' stroke='{colour}'/>")
    return parts


def _legend(i: int, name: str, colour: str) -> str:
    y = HEIGHT - BOTTOM - 14 - 18 * i
    rule = f"<path d='M{WIDTH - 330} {y}h20' stroke='{colour}' stroke-width='2'/>"
    return rule + _text(WIDTH - 302, y + 4, name, "start")
