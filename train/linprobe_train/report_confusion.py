"""The confusion matrix of a report: a table for few classes, a map one can read for a thousand."""

import json
from html import escape

import numpy as np
from numpy.typing import NDArray

from linprobe_train.report_facts import Confusion
from linprobe_train.report_plots import heat_png

PAIRS = 20
"""Confusions listed by name."""
HEAT = (36, 120, 222)
"""Between the accents of light and of dark."""

_HOVER = """
<script>
(() => {
  const map = document.querySelector('.heat'), told = document.querySelector('#told');
  const { names, counts } = JSON.parse(document.querySelector('#confusion').textContent);
  const k = names.length;
  map.addEventListener('pointermove', event => {
    const box = map.getBoundingClientRect();
    const cell = share => Math.min(k - 1, Math.max(0, Math.floor(share * k)));
    const i = cell((event.clientY - box.top) / box.height);
    const j = cell((event.clientX - box.left) / box.width);
    told.textContent = `${names[i]} taken for ${names[j]}: ${(counts[i] || {})[j] || 0}`;
  });
})();
</script>
"""


def confusion_html(confusion: Confusion, classes: tuple[str, ...], few: int) -> str:
    """The section: cells with numbers up to ``few`` classes, beyond that a map; the worst pairs."""
    small = len(classes) <= few
    body = _table(confusion.counts, classes) if small else _map(confusion.counts, classes)
    note = "Rows are the true classes, columns what the probe said."
    return (
        f"<section><h2>Confusion</h2>{body}<p class='note'>{note}</p>"
        f"{_pairs(confusion, classes)}</section>"
    )


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of the true class in every cell, (k, k)."""
    found: NDArray[np.float64] = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return found


def _table(counts: NDArray[np.int64], classes: tuple[str, ...]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in classes)
    lines = []
    for i, (row, share) in enumerate(zip(counts.tolist(), _shares(counts).tolist(), strict=True)):
        cells = "".join(
            f"<td{' class=right' if i == j else ''} style='background:rgb(var(--heat) / "
            f"{0.85 * part:.2f})'>{n or ''}</td>"
            for j, (n, part) in enumerate(zip(row, share, strict=True))
        )
        lines.append(f"<tr><th>{escape(classes[i])}</th>{cells}</tr>")
    return (
        f"<div class='wide'><table class='confusion'><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _map(counts: NDArray[np.int64], classes: tuple[str, ...]) -> str:
    sparse: dict[str, dict[str, int]] = {}
    for i, j in zip(*(at.tolist() for at in np.nonzero(counts)), strict=True):
        sparse.setdefault(str(i), {})[str(j)] = int(counts[i, j])
    # "</" would end the script element, whatever stands around it.
    data = json.dumps({"names": classes, "counts": sparse}, ensure_ascii=False).replace(
        "</", "<\\/"
    )
    return (
        f"<figure><img class='heat' src='{heat_png(_shares(counts), HEAT)}' "
        f"alt='confusion matrix of {len(classes)} classes'></figure>"
        "<p id='told'>Point at the map to read a cell.</p>"
        f"<script type='application/json' id='confusion'>{data}</script>{_HOVER}"
    )


def _pairs(confusion: Confusion, classes: tuple[str, ...]) -> str:
    pairs = confusion.pairs(PAIRS)
    if not pairs:
        return "<p>No row was taken for another class.</p>"
    rows = "".join(
        f"<tr><td>{escape(classes[i])}</td><td>{escape(classes[j])}</td><td>{n} of "
        f"{int(confusion.counts[i].sum())}</td></tr>"
        for i, j, n in pairs
    )
    return (
        "<div class='wide'><table><thead><tr><th>true</th><th>taken for</th><th>rows</th></tr>"
        f"</thead><tbody>{rows}</tbody></table></div>"
    )
