"""Plots as SVG and pictures as data URIs; the adapter of matplotlib and Pillow."""

import base64
import io
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from linprobe import tars
from linprobe.disk import write_atomic
from linprobe.errors import LinprobeError
from linprobe.names import IMAGE_EXTENSIONS, image_formats
from linprobe.records import open_regular
from linprobe_train.protocol.scoring import SweepPoint
from linprobe_train.protocol.search import Sweep
from linprobe_train.scores.metrics import scale_of, title_of, unit_of
from linprobe_train.show.facts import Calibration, Confusion
from linprobe_train.tasks.fewshot import FewshotResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _ACCENT, _LINE = "#010101", "#020202", "#030303"
"""Colours that matplotlib is given; others stand in the file, CSS variables for a page's themes."""
_OF_THE_PAGE = {_INK: "currentColor", _ACCENT: "var(--accent)", _LINE: "var(--line)"}
_OF_A_FILE = {_INK: "#1b1f24", _ACCENT: "#0072b2", _LINE: "#d1d9e0"}
HEAT = (36, 120, 222)
"""Red, green and blue between the accents of the light and of the dark page."""
LARGEST_IMAGE = 64 << 20
"""Most bytes of an image file that is shown."""
THUMBNAIL = 160
"""Longest side of a thumbnail in pixels."""


def curve_svg(sweep: Sweep, metric: str) -> str:
    """What C was chosen by over C, with the chosen C marked: the held-out loss, or the score.

    Points of the band that the headline metric chose from are filled; a bar says what a score of
    which rows are undecided could still become.
    """
    C, score = _curve(sweep.points, sweep.metric)
    metric, unit = f"held-out {metric}", unit_of(sweep.metric)
    if sweep.points[0].likelihood:
        metric, unit = "held-out loss", "nats"
    figure, axes = _figure(7.0, 3.2)
    axes.plot(C, score, color=_ACCENT)
    outside = np.array(
        [p.likelihood is not None and not p.likelihood.in_band for p in sweep.points]
    )
    for name, which, colour in (("inside", ~outside, _ACCENT), ("outside", outside, "none")):
        points = np.array(C)[which], np.array(score)[which]
        axes.scatter(*points, s=20, c=colour, edgecolors=_ACCENT, zorder=3).set_gid(name)
    bars = [(p.C, p.low or 0.0, p.high or 0.0) for p in sweep.points if p.undecided]
    at, low, high = np.array(bars).reshape(-1, 3).T
    scale = scale_of(sweep.metric)
    axes.vlines(at, scale * low, scale * high, color=_ACCENT).set_gid("undecided")
    axes.axvline(sweep.C, color=_INK, linewidth=1, linestyle="--")
    chosen = score[C.index(sweep.C)]
    far = max(score, key=lambda y: abs(y - chosen))  # beside the line, off the curve's end
    axes.annotate(f" C = {sweep.C:.3g}", (sweep.C, far), color=_INK)
    axes.plot([sweep.C], [chosen], color=_ACCENT, marker="o", markersize=9)
    axes.set(xscale="log", xlabel="C", ylabel=f"{metric}, {unit}")
    return _svg(figure, "curve", _OF_THE_PAGE)


def _curve(points: Sequence[SweepPoint], metric: str) -> tuple[list[float], list[float]]:
    """C, and the held-out loss where C is chosen by it, else the score."""
    losses = [point.likelihood.nll for point in points if point.likelihood]
    return [p.C for p in points], losses or [scale_of(metric) * p.score for p in points]


def calibration_svg(calibration: Calibration) -> str:
    """Accuracy over confidence, beside the diagonal of a calibrated probe."""
    x, y = 100 * calibration.confidence, 100 * calibration.accuracy
    figure, axes = _figure(4.2, 3.8)
    axes.plot([0, 100], [0, 100], color=_INK, linewidth=1, linestyle="--")
    axes.plot(x, y, color=_ACCENT, linewidth=1)
    axes.scatter(x, y, s=15 + 185 * calibration.rows / calibration.rows.max(), color=_ACCENT)
    axes.set(xlim=(0, 103), ylim=(0, 103), xlabel="confidence, %", ylabel="right, %")
    return _svg(figure, "calibration", _OF_THE_PAGE)


def fewshot_svg(result: FewshotResult) -> str:
    """Mean and standard deviation over the number of shots: a file of its own, on white."""
    shots = [score.shots for score in result.results]
    scale = scale_of(result.metric)
    mean = [scale * score.mean for score in result.results]
    deviation = [scale * (score.deviation or 0.0) for score in result.results]
    figure, axes = _figure(6.4, 4.0)
    line, *_ = axes.errorbar(shots, mean, deviation, color=_ACCENT, marker="o", capsize=3)
    line.set_gid("mean")
    axes.set_xscale("log", base=2)
    axes.set_xticks(shots, [str(n) for n in shots])
    axes.set(xlabel="training rows of each class")
    axes.set_ylabel(f"{title_of(result.metric)}, {unit_of(result.metric)}")
    name = f"{result.encoder} · {result.question.tap} on {result.dataset}"
    title = name if len(name) <= 80 else f"{name[:79]}…"  # a longer one leaves no room to draw in
    axes.set_title(title, color=_INK, loc="left", fontsize="medium", parse_math=False)
    return _svg(figure, "fewshot", _OF_A_FILE, background="white") + "\n"


def write_fewshot_plot(folder: Path, result: FewshotResult) -> Path | None:
    """Draw ``fewshot.svg`` beside a result; None where matplotlib is not installed."""
    path = folder / "fewshot.svg"
    try:
        write_atomic(path, fewshot_svg(result).encode())
    except ModuleNotFoundError:
        return None
    return path


def _figure(width: float, height: float) -> tuple["Figure", "Axes"]:
    """A figure of so many inches, and its empty axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot(facecolor="none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(_LINE)
    axes.tick_params(which="both", colors=_INK)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    axes.grid(visible=True, color=_LINE)
    return figure, axes


def _svg(figure: "Figure", name: str, colours: Mapping[str, str], background: str = "none") -> str:
    """The SVG element of a figure; the same result gives the same bytes."""
    import matplotlib as mpl

    out = io.StringIO()
    # Text stays text, and the salt keeps the ids of two plots of a page apart.
    text = mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name})
    with text, warnings.catch_warnings():
        # The reader's font draws the text; matplotlib's may lack a glyph of a name.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(out, format="svg", facecolor=background, metadata={"Date": None})
    svg = out.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return re.sub("|".join(colours), lambda match: colours[match[0]], svg)


def heat_uri(confusion: Confusion) -> str:
    """A confusion matrix as a PNG, one pixel a cell: the larger its share, the more opaque."""
    from PIL import Image

    shares = confusion.shares()
    pixels = np.empty((*shares.shape, 4), np.uint8)
    pixels[..., :3] = HEAT
    # The square root lifts single confusions out of the background.
    pixels[..., 3] = np.rint(255 * np.sqrt(shares))
    out = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(out, "PNG", optimize=True)
    return _data_uri("image/png", out.getvalue())


def thumbnails(folder: Path, split: str, keys: Collection[str]) -> Mapping[str, str]:
    """Small pictures of samples as data URIs, by key; those that are not at hand are left out.

    ``folder`` holds ``<split>/*.tar`` or ``*<split>*.tar``, as extracted. A report goes without
    pictures rather than not at all: tars and images that cannot be read are passed over.
    """
    uris: dict[str, str] = {}
    for path in sorted([*folder.glob(f"{split}/*.tar*"), *folder.glob(f"*{split}*.tar*")]):
        if not path.is_file():
            continue
        try:
            for key, data in _images_of(path, set(keys) - set(uris)):
                if uri := _thumbnail(data):
                    uris[key] = uri
        except (LinprobeError, *tars.UNREADABLE):
            continue
    return uris


def _images_of(path: Path, keys: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Images by key: the path of a member up to the first dot of its basename."""
    with open_regular(path) as file, tars.open_file(file) as shard:
        for member in tars.files(shard) if keys else ():
            inner, slash, name = member.name.rpartition("/")
            stem, _, extensions = name.partition(".")
            key = f"{inner}{slash}{stem}"
            if key not in keys:
                key = f"{path.name}/{key}"  # as --key-prefix has it
            is_image = extensions.lower().rpartition(".")[2] in IMAGE_EXTENSIONS
            if key in keys and is_image and member.size <= LARGEST_IMAGE:
                stream = shard.extractfile(member)
                yield key, b"" if stream is None else stream.read()


def _thumbnail(image: bytes) -> str | None:
    """A small JPEG; None where the image cannot be decoded."""
    from PIL import Image

    try:
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(io.BytesIO(image), formats=image_formats()) as opened,
        ):
            opened.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))
            small = opened.convert("RGB")
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            out = io.BytesIO()
            small.save(out, "JPEG", quality=80)
    except Exception:  # Pillow's plugins raise whatever a damaged file makes them do
        return None
    return _data_uri("image/jpeg", out.getvalue())


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
