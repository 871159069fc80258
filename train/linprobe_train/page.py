"""The shell of our HTML pages: one file, no network, light and dark, screen, phone and print."""

from html import escape

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --dim: #59636e; --line: #d1d9e0;
  --accent: #0969da; --good: #1a7f37; --bad: #cf222e; --heat: 9 105 218; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #0d1117; --ink: #e6edf3; --dim: #9198a1; --line: #3d444d; --accent: #4493f8;
    --good: #3fb950; --bad: #f85149; --heat: 68 147 248; } }
@media print { :root { --paper: #fff; --ink: #000; --dim: #444; --line: #bbb; --accent: #0550ae;
    --good: #116329; --bad: #a40e26; --heat: 9 105 218; }
  details > *, details::details-content { display: revert; content-visibility: visible; }
  section, figure, tr { break-inside: avoid; } body { max-width: none !important; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 60rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; -webkit-text-size-adjust: 100%;
  print-color-adjust: exact; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--line); }
p { margin: .4rem 0; } .note { color: var(--dim); font-size: .9rem; }
.warning { border-left: 4px solid var(--bad); padding: .2rem .8rem; margin: .6rem 0; }
.wide { overflow-x: auto; } figure { margin: .5rem 0; } svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--line);
  vertical-align: top; font-variant-numeric: tabular-nums; }
table.numbers td:not(:first-child), table.numbers th:not(:first-child) { text-align: right;
  white-space: nowrap; }
code { font-size: .85em; overflow-wrap: anywhere; }
"""
"""Common to all pages; colours are variables, so that plots follow light and dark too."""


def page(title: str, body: str, style: str = "") -> str:
    """Wrap HTML in a complete page.

    Parameters
    ----------
    title : plain text.
    body : HTML, already escaped.
    style : more CSS.
    """
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )
