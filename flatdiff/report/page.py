"""A Markdown text as one HTML file that opens from disk: no script, no other file."""

import base64
import html
import re

import markdown

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
td.text { white-space: normal; min-width: min(23rem, 55vw); }
td.holds { color: var(--good); } td.does { color: var(--bad); }
td.holds, td.does { font-weight: 600; }
figure { margin: 1rem 0; }
figure .scroll { margin: 0 0 .3rem; }
figure img { display: block; height: auto; background: #fff; border-radius: 6px; }
figure .scroll img { width: min(100%, var(--wide, 100%));
  min-width: min(38rem, calc(.4 * var(--wide, 95rem))); }
td img { display: block; width: 12rem; image-rendering: pixelated; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem; }
summary { cursor: pointer; }
@media screen and (max-width: 40rem) {
  body { padding: 1.25rem 1rem 3rem; } thead { display: none; }
  table, tbody, tr, td { display: block; width: 100%; }
  tr { border-bottom: 1px solid var(--line); padding: .5rem 0; }
  td, td.text, td:first-child { display: flex; justify-content: space-between; gap: 1rem;
    border: 0; padding: .15rem 0; min-width: 0; text-align: right; white-space: normal; }
  td:empty { display: none; } td::before { content: attr(data-title); color: var(--dim);
    text-align: left; } td:first-child { display: block; font-weight: 600; text-align: left; }
  td:first-child::before { content: none; } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } table { font-size: 7.5pt; }
  th, td { padding: .15rem .35rem; } th { min-width: 0; } .scroll { overflow: visible; }
  td:first-child { min-width: 0; }
  figure .scroll img { min-width: 0; } figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; } details { display: none; } }
"""
DPI = 120  # of our png files; a CSS inch has 96 px
TYPES = {"svg": "svg+xml", "png": "png"}


def page(title: str, text: str, files: dict[str, bytes]) -> str:
    """The page of a Markdown text, whose images are those of `files`, by the names it links. An
    image that is a paragraph has its words below it, and scrolls sideways where it is wider than
    a phone, on which a row of a table is a list of its cells. A cell that begins with "holds" or
    "does not" has its colour."""
    body = markdown.markdown(text, extensions=["tables"])
    body = re.sub(r'src="([^"]+)"', lambda found: _source(found[1], files), body)
    figure = r'<figure><div class="scroll">\1</div><figcaption>\2</figcaption></figure>'
    body = re.sub(r'<p>(<img alt="([^"]*)"[^>]*>)</p>', figure, body)
    body = re.sub(r"(?s)<table>.*?</table>", _table, body)
    body = re.sub(r"<td([^>]*)>(holds|does)\b", r'<td class="\2"\1>\2', body)
    body = re.sub(r"<td([^>]*)>(?=[^<]{40})", r'<td class="text"\1>', body)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"{body}\n</body>\n</html>\n"
    )


def details(title: str, text: str) -> str:
    """Markdown of what is seen when it is asked for."""
    return f"<details><summary>{title}</summary><pre>{html.escape(text)}</pre></details>"


def _table(found: re.Match) -> str:
    """A table whose cells say what they are of, each by the head of its column."""
    heads = re.findall(r"<th\b[^>]*>(.*?)</th>", found[0])
    plain = [re.sub("<[^>]*>", "", head) for head in heads]
    rows = found[0].split("<tr>")
    for i, row in enumerate(rows[2:], 2):
        cells = row.split("<td")
        told = (f'<td data-title="{head}"{cell}' for head, cell in zip(plain, cells[1:]))
        rows[i] = cells[0] + "".join(told)
    return f'<div class="scroll">{"<tr>".join(rows)}</div>'


def _source(name: str, files: dict[str, bytes]) -> str:
    """The file in the page itself; of a png as wide as it was meant to be, at most."""
    content, kind = files[html.unescape(name)], TYPES[name.rpartition(".")[2]]
    data = f'src="data:image/{kind};base64,{base64.b64encode(content).decode()}"'
    if kind == "svg+xml":
        return data
    pixels = int.from_bytes(content[16:20], "big")  # of the header (PNG, third edition, 11.2.1)
    return f'{data} style="--wide: {round(pixels * 96 / DPI)}px"'
