"""Plots of the report as inline SVG and PNG; the adapter of matplotlib and Pillow.

Both come with the extra ``report``. Colours are CSS variables, so that a plot follows the page from
light to dark and into print.

One small plot without a plotting library: lines with deviations over a doubling axis.

Kept to what the base install needs (few-shot curves); the report's plots are matplotlib's.

Images of some test rows, where the shards that the features came from are at hand.
"""

import base64
import io
import math
import re
import tarfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import OptionError
from linprobe_train.protocol.search import Sweep
from linprobe_train.show.facts import Calibration

_INK, _ACCENT, _LINE = "#010101", "#020202", "#030303"
_VARIABLES = {_INK: "currentColor", _ACCENT: "var(--accent)", _LINE: "var(--line)"}
"""Colours that matplotlib is given, and what stands in the page instead."""
THUMBNAIL = 160
"""Longest side of a thumbnail in pixels."""


def check_plotting() -> None:
    """Refuse to start where the plotting libraries are not installed.

    Raises
    ------
    OptionError : naming the extra.
    """
    missing = [name for name in ("matplotlib", "PIL") if find_spec(name) is None]
    if missing:
        raise OptionError(
            f"a report needs {' and '.join(missing)}, which is not installed here",
            hint="pip install 'linprobe[report]'",
        )


def curve_svg(sweep: Sweep, metric: str) -> str:
    """The held-out score over C, with the chosen C marked."""
    from matplotlib.axes import Axes

    C = [point.C for point in sweep.points]
    score = [100 * point.score for point in sweep.points]
    best = max(score)

    def draw(axes: Axes) -> None:
        axes.plot(C, score, color=_ACCENT, marker="o", markersize=4)
        axes.axvline(sweep.C, color=_INK, linewidth=1, linestyle="--")
        axes.annotate(f" C = {sweep.C:.3g}", (sweep.C, min(score)), color=_INK)
        axes.plot([sweep.C], [best], color=_ACCENT, marker="o", markersize=9)
        axes.set_xscale("log")
        axes.set_xlabel("C")
        axes.set_ylabel(f"held-out {metric}, %")

    return _svg("curve", draw, (7.0, 3.2))


def calibration_svg(found: Calibration) -> str:
    """Accuracy over confidence, beside the diagonal of a calibrated probe."""
    from matplotlib.axes import Axes

    area = 15 + 185 * found.rows / found.rows.max()

    def draw(axes: Axes) -> None:
        axes.plot([0, 100], [0, 100], color=_INK, linewidth=1, linestyle="--")
        axes.plot(100 * found.confidence, 100 * found.accuracy, color=_ACCENT, linewidth=1)
        axes.scatter(100 * found.confidence, 100 * found.accuracy, s=area, color=_ACCENT)
        axes.set_xlim(0, 103)
        axes.set_ylim(0, 103)
        axes.set_xlabel("confidence, %")
        axes.set_ylabel("right, %")

    return _svg("calibration", draw, (4.2, 3.8))


def _svg(name: str, draw: Callable[..., None], inches: tuple[float, float]) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(_LINE)
    axes.tick_params(colors=_INK)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    axes.grid(visible=True, color=_LINE)
    draw(axes)
    out = io.StringIO()
    # Text stays text; the same result gives the same bytes, and ids differ between plots.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return text


def heat_png(share: NDArray[np.float64], colour: tuple[int, int, int]) -> str:
    """A matrix of shares in [0, 1] as a data URI: one pixel a cell, the more the more opaque."""
    from PIL import Image

    pixels = np.empty((*share.shape, 4), np.uint8)
    pixels[..., :3] = colour
    # The square root lifts single confusions out of the background.
    pixels[..., 3] = np.rint(255 * np.sqrt(share))
    out = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(out, "PNG", optimize=True)
    return _data_uri("image/png", out.getvalue())


def thumbnail(image: bytes) -> str | None:
    """A small JPEG of an image file as a data URI; None if it cannot be decoded."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(image)) as opened:
            opened.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))
            small = opened.convert("RGB")
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            out = io.BytesIO()
            small.save(out, "JPEG", quality=80)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return _data_uri("image/jpeg", out.getvalue())


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


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


_IMAGES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
)


def find_images(folder: Path, split: str, keys: Collection[str]) -> Mapping[str, bytes]:
    """Image files of samples, by key; those that are not found are left out.

    A report goes without pictures rather than not at all: tars that cannot be read are passed over.

    Parameters
    ----------
    folder : holds ``<split>/*.tar`` or ``<split>*.tar``, as packed.
    split : such as ``test``.
    keys : sample keys: member paths up to the first dot of the basename.
    """
    found: dict[str, bytes] = {}
    wanted = set(keys)
    for path in sorted([*folder.glob(f"{split}/*.tar*"), *folder.glob(f"{split}*.tar*")]):
        if wanted - set(found):
            found |= _from_shard(path, wanted - set(found))
    return found


def _from_shard(path: Path, wanted: Collection[str]) -> Mapping[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as shard:
            for member in shard:
                name = PurePosixPath(member.name)
                key = str(name.with_name(name.name.partition(".")[0] or name.name))
                if key in wanted and name.suffix.lower() in _IMAGES and member.isfile():
                    stream = shard.extractfile(member)
                    found[key] = b"" if stream is None else stream.read()
    except (tarfile.TarError, OSError, EOFError):
        pass
    return found
