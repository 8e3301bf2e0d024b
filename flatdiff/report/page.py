"""A report as one HTML file that opens from disk: no script, no other file, readable in print.

`page` takes what stands in it, and knows nothing of studies.
"""

import base64
import html
import re

STYLE = """
:root { color-scheme: light dark; --ink: #1d2125; --dim: #5c666f; --paper: #fff; --line: #d9dee2;
  --good: #17692f; --bad: #a3261f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e6e8; --dim: #9aa4ac; --paper: #16191c;
  --line: #363c42; --good: #7fce93; --bad: #f0928b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 68rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .5rem; }
p, li { max-width: 44rem; }
.dim, figcaption { color: var(--dim); font-size: .9rem; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; vertical-align: bottom; white-space: normal; min-width: 4.5rem; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td:first-child { min-width: 11rem; }
table.text td:first-child { white-space: normal; min-width: min(23rem, 55vw); }
table.text :is(th, td):nth-child(-n + 3), table.text :is(th, td):last-child { text-align: left; }
td.holds { color: var(--good); } td.does { color: var(--bad); }
td.holds, td.does { font-weight: 600; }
figure { margin: 1rem 0; }
figure .scroll { margin: 0 0 .3rem; }
figure img { display: block; height: auto; background: #fff; border-radius: 6px; }
figure .scroll img { width: 100%; min-width: 38rem; }
.grids { display: grid; grid-template-columns: repeat(var(--columns), minmax(6rem, 1fr));
  gap: .9rem; overflow-x: auto; }
.grids figure { margin: 0; } .grids img { width: 100%; image-rendering: pixelated; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem; }
summary { cursor: pointer; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } table { font-size: 7.5pt; }
  th, td { padding: .15rem .35rem; } th { min-width: 0; } .scroll, .grids { overflow: visible; }
  td:first-child, table.text td:first-child { min-width: 0; }
  figure .scroll img { min-width: 0; } figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; } details { display: none; } }
"""


def page(title: str, parts: list[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    return f"<h{level}>{html.escape(text)}</h{level}>"


def paragraph(text: str, kind: str = "") -> str:
    of_kind = f' class="{kind}"' if kind else ""
    return f"<p{of_kind}>{html.escape(text)}</p>"


def bullets(texts: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in texts) + "</ul>"


def table(header: list[str], rows: list[list[str]], kind: str = "") -> str:
    """**Text** is bold; a cell that begins with "holds" or "does not" has its colour."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _cell(text: str) -> str:
    word = text.split(" ")[0]
    kind = f' class="{word}"' if word in ("holds", "does") else ""
    bold = re.sub(r"^\*\*(.*)\*\*$", r"<b>\1</b>", html.escape(text))
    return f"<td{kind}>{bold}</td>"


def figure(svg: str, caption: str) -> str:
    """Wider than a phone, where it scrolls sideways."""
    image = _image("image/svg+xml", svg.encode(), caption)
    return _captioned(f'<div class="scroll">{image}</div>', caption)


def grids(pictures: list[tuple[bytes, str]], columns: int) -> str:
    """PNG pictures with their captions, row by row."""
    inside = "\n".join(_captioned(_image("image/png", p, text), text) for p, text in pictures)
    return f'<div class="grids" style="--columns: {columns}">\n{inside}\n</div>'


def _image(kind: str, content: bytes, alt: str) -> str:
    data = base64.b64encode(content).decode()
    return f'<img src="data:{kind};base64,{data}" alt="{html.escape(alt)}">'


def _captioned(inside: str, caption: str) -> str:
    return f"<figure>{inside}<figcaption>{html.escape(caption)}</figcaption></figure>"


def details(title: str, text: str) -> str:
    return (
        f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre></details>"
    )
