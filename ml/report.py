"""A report as text, tables and pictures, written as one HTML file or as Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_UNSAFE = re.compile(r"([\\`*_{}\[\]<>|#])")

# what a report is made of


@dataclass(frozen=True, slots=True)
class Heading:
    """The title of a section."""

    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Rows:
    """A table. ``numbers``: so many of the last columns are numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: int = 0


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG document, and the name of a file for it."""

    name: str
    title: str
    svg: str


Block = Heading | Text | Rows | Picture


@dataclass(frozen=True, slots=True)
class Report:
    """A title and what comes under it."""

    title: str
    blocks: Sequence[Block]


#: How a page looks, light or dark as its reader's screen is.
CSS = """
:root { color-scheme: light dark; --ink: #1f2328; --faint: #5b636d; --rule: #d9dee3;
  --ground: #ffffff; --soft: #f5f7f9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e6ea; --faint: #9aa4af; --rule: #343b44;
  --ground: #15181c; --soft: #1d2126; } }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Arial, "Liberation Sans", sans-serif; }
main { max-width: 54rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; padding-top: 1.25rem;
  border-top: 1px solid var(--rule); }
p { margin: .5rem 0 1rem; max-width: 44rem; }
figure { margin: 1.25rem 0; }
figure svg { display: block; width: 100%; height: auto; border-radius: 8px;
  box-shadow: 0 0 0 1px var(--rule); }
.wide { overflow-x: auto; margin: 1.25rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem .35rem 0; }
th { color: var(--faint); font-weight: 500; border-bottom: 1px solid var(--rule); }
td { border-bottom: 1px solid var(--soft); overflow-wrap: anywhere; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.number, .name { white-space: nowrap; }
tr > :last-child { padding-right: 0; }
"""


def as_html(report: Report) -> str:
    """One page that needs no other file, light or dark as its reader's screen is."""
    body = "\n".join(_html_of(block) for block in report.blocks)
    title = html.escape(report.title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{CSS}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{title}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _html_of(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{html.escape(text)}</h2>"
        case Text(text):
            return f"<p>{html.escape(text)}</p>"
        case Picture(_, _, svg):
            return f"<figure>{svg}</figure>"
        case Rows(title, columns, rows, numbers):
            first = len(columns) - numbers
            head = _cells("th", columns, first)
            body = "\n".join(f"<tr>{_cells('td', row, first)}</tr>" for row in rows)
            return (
                f'<div class="wide"><table><caption>{html.escape(title)}</caption>\n'
                f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
            )


def _cells(tag: str, cells: Sequence[str], first_number: int) -> str:
    told = []
    for number, cell in enumerate(cells):
        name = "number" if number >= first_number else "" if " " in cell else "name"
        kind = f' class="{name}"' if name else ""
        told.append(f"<{tag}{kind}>{html.escape(cell)}</{tag}>")
    return "".join(told)


def as_markdown(report: Report, pictures: Mapping[str, str]) -> str:
    """The same as Markdown. ``pictures``: where each picture is, by its name."""
    parts = [f"# {_plain(report.title)}"]
    for block in report.blocks:
        match block:
            case Heading(text):
                parts.append(f"## {_plain(text)}")
            case Text(text):
                parts.append(_plain(text))
            case Picture(name, title, _):
                parts.append(f"![{_plain(title)}](<{pictures[name]}>)")
            case Rows(title, columns, rows, numbers):
                rules = ["---"] * (len(columns) - numbers) + ["---:"] * numbers
                lines = [columns, rules, *rows]
                told = "\n".join(
                    f"| {' | '.join(cells if cells is rules else map(_plain, cells))} |"
                    for cells in lines
                )
                parts.append(f"**{_plain(title)}**\n\n{told}")
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    return _UNSAFE.sub(r"\\\1", " ".join(text.split()))


def write_markdown(report: Report, file: Path) -> list[Path]:
    """Write a report as Markdown, and each picture as an SVG file beside it; what was written.

    Raises:
        OSError: a file cannot be written.
    """
    written, names = [], {}
    for block in report.blocks:
        if isinstance(block, Picture):
            names[block.name] = f"{file.stem}-{block.name}.svg"
            written.append(file.with_name(names[block.name]))
            written[-1].write_text(block.svg, encoding="utf-8")
    file.write_text(as_markdown(report, names), encoding="utf-8")
    return [file, *written]
