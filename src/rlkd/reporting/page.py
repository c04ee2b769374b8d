"""The shell of a report: one HTML file that opens offline, without scripts."""

from collections.abc import Sequence
from html import escape

from rlkd.reporting.escaping import printable
from rlkd.reporting.pictures import Picture
from rlkd.reporting.svg import FONT, GRID, INK, SOFT_INK

STYLE = f"""
:root {{ color-scheme: light; }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: #ffffff; color: {INK}; font: 15px/1.55 {FONT}; }}
main {{ max-width: 968px; margin: 0 auto; padding: 48px 24px 72px; }}
h1 {{ font-size: 27px; line-height: 1.25; margin: 0 0 6px; letter-spacing: -0.01em; }}
h2 {{ font-size: 17px; margin: 52px 0 14px; padding-top: 14px; border-top: 1px solid {GRID}; }}
h2 span {{ color: {SOFT_INK}; font-weight: 400; margin-right: 8px; }}
p {{ margin: 0 0 12px; max-width: 76ch; }}
.lead, figcaption, .note {{ color: {SOFT_INK}; }}
.lead {{ font-size: 16px; margin-bottom: 24px; }}
.note {{ font-size: 13.5px; margin-top: 12px; max-width: 88ch; }}
.warning {{ border-left: 3px solid #e69f00; padding: 2px 0 2px 12px; margin: 8px 0; }}
dl {{ display: grid; grid-template-columns: 110px 1fr; gap: 5px 16px; margin: 0 0 20px; }}
dt {{ color: {SOFT_INK}; }}
dd {{ margin: 0; overflow-wrap: anywhere; }}
code {{ font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }}
.scroll {{ overflow-x: auto; }}
.scroll + .scroll {{ margin-top: 20px; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
th {{ font-weight: 500; color: {SOFT_INK}; font-size: 13px; white-space: nowrap; }}
th, td {{ padding: 7px 12px 7px 0; text-align: right; vertical-align: baseline;
  border-bottom: 1px solid {GRID}; }}
thead th {{ border-bottom-color: {INK}; }}
th:last-child, td:last-child {{ padding-right: 0; }}
th.words, td.words {{ text-align: left; }}
* + td.words, * + th.words {{ padding-left: 16px; }}
td:first-child {{ font-weight: 600; }}
details td {{ font-size: 13px; }}
details td:first-child {{ font-weight: 400; }}
summary {{ cursor: pointer; color: {SOFT_INK}; margin: 18px 0 8px; }}
figure {{ margin: 0; }}
figure svg {{ display: block; max-width: 100%; height: auto; margin: 0 auto; }}
figcaption {{ font-size: 13.5px; margin-top: 12px; max-width: 88ch; }}
.absent {{ background: #f9fafb; border: 1px dashed #d1d5db; border-radius: 4px;
  max-width: none; padding: 22px; color: {SOFT_INK}; }}
@media (max-width: 600px) {{
  dl {{ grid-template-columns: 1fr; gap: 0; }}
  dd {{ margin-bottom: 8px; }}
}}
@media print {{
  main {{ padding: 0; max-width: none; }}
  figure, table {{ break-inside: avoid; }}
  h2 {{ break-after: avoid; }}
}}
"""


def page(title: str, body: str) -> str:
    """Wrap a body in a page, with an escape for what no reader of it would see.

    Args:
        title: Plain words.
        body: HTML.
    """
    head = (
        '<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>"
    )
    whole = (
        f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n'
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )
    return "\n".join(map(printable, whole.split("\n")))


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Write a list of names and what they are.

    Args:
        pairs: Plain words and HTML.
    """
    return f"<dl>{''.join(f'<dt>{escape(a)}</dt><dd>{b}</dd>' for a, b in pairs)}</dl>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[str]) -> str:
    """Write a table.

    Args:
        header: Names of the columns.
        rows: Plain words.
        words: Names of the columns that hold words, not figures: they are set to the left.
    """
    classes = [' class="words"' if name in words else "" for name in header]
    head = "".join(f"<th{c}>{escape(name)}</th>" for c, name in zip(classes, header, strict=True))
    lines = [
        "".join(f"<td{c}>{escape(cell)}</td>" for c, cell in zip(classes, row, strict=True))
        for row in rows
    ]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def figure(position: int, picture: Picture) -> str:
    """Write a picture under its heading; in words where there is none."""
    heading = f"<h2><span>{position}</span>{escape(picture.title)}</h2>"
    caption = escape(picture.caption)
    if picture.svg is None:
        return f'{heading}\n<p class="absent">{caption}</p>'
    return f"{heading}\n<figure>{picture.svg}<figcaption>{caption}</figcaption></figure>"
