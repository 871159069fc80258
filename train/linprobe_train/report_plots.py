"""Plots of the report as inline SVG and PNG; the adapter of matplotlib and Pillow.

Both come with the extra ``report``. Colours are CSS variables, so that a plot follows the page from
light to dark and into print.
"""

import base64
import io
import re
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from linprobe_train.choosing import Sweep
from linprobe_train.errors import OptionError
from linprobe_train.report_facts import Calibration

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
