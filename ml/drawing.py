"""What pictures are drawn with: SVG text, lines and texts that fit into the room that there is.

A picture is a whole document of its own: fonts every machine has, no script, no style sheet and no
ids; a white ground, so that a dark page can hold it. Lengths are in pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

WIDTH = 760
INK, FAINT = "#222222", "#595959"
SIZE, TITLE_SIZE = 12, 16
EDGE = 16

_FONT = "Arial, Helvetica, 'Liberation Sans', sans-serif"
_UNFIT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# Advance widths in em of DejaVu Sans, the widest of the fonts that a browser may take.
_ADVANCES = {
    letter: advance
    for letters, advance in (
        ("ijl'", 0.28),
        (" .,:;|", 0.34),
        ('ftr!()[]/\\-I"', 0.42),
        ("cskvxyzJ{}*?_`°L", 0.59),
        ("abdeghnopqu0123456789$FETPSYZ", 0.66),
        ("ABCDGHKNORUVX&", 0.79),
        ("+=<>~^#−×→", 0.84),
        ("mwMWQ@%…", 1.0),
    )
    for letter in letters
}


def heading(title: str) -> tuple[str, float]:
    """The title in one line or two, and where the next thing may begin."""
    room = WIDTH - 2 * EDGE
    words, first = plain(title).split(" "), ""
    while words and width(f"{first} {words[0]}", TITLE_SIZE, bold=True) <= room:
        first = f"{first} {words.pop(0)}".strip()
    told = [first, " ".join(words)] if first and words else [first or " ".join(words)]
    parts = [
        text(
            EDGE,
            28 + 22 * number,
            cut(line, room, TITLE_SIZE, bold=True),
            size=TITLE_SIZE,
            bold=True,
        )
        for number, line in enumerate(told)
    ]
    return "".join(parts), 18 + 22.0 * len(told)


def svg(title: str, summary: str, height: float, parts: Iterable[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {WIDTH} {height:.0f}" font-family="{_FONT}" font-size="{SIZE}">'
        f"<title>{escape(plain(title))}</title><desc>{escape(plain(summary))}</desc>"
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="#ffffff"/>{"".join(parts)}</svg>'
    )


def text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    fill: str = INK,
    size: int = SIZE,
    bold: bool = False,
    full: str = "",
) -> str:
    """``full``: what a pointer is told where the text was cut."""
    more = f"<title>{escape(full)}</title>" if full and (full := plain(full)) != text else ""
    at = f' text-anchor="{anchor}"' if anchor != "start" else ""
    sized = f' font-size="{size}"' if size != SIZE else ""
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.2f}" y="{y:.2f}" fill="{fill}"{at}{sized}{weight}>'
        f"{more}{escape(text)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, colour: str, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<line x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}" stroke="{colour}"{dashed}/>'
    )


def width(text: str, size: float, *, bold: bool = False) -> float:
    """At least as many pixels as the text takes in any likely font."""
    ems = sum(_ADVANCES.get(letter) or (0.75 if letter < "\u0250" else 1.3) for letter in text)
    return ems * size * (1.12 if bold else 1.0)


def cut(text: str, room: float, size: float, *, bold: bool = False) -> str:
    """The text, or as much of its beginning as there is room for and "…"."""
    text = plain(text)
    if width(text, size, bold=bold) <= room:
        return text
    room -= width("…", size, bold=bold)
    for end, letter in enumerate(text):
        room -= width(letter, size, bold=bold)
        if room < 0:
            return f"{text[:end].rstrip()}…"
    return text


def plain(text: str) -> str:
    """On one line."""
    return " ".join(text.split())


def escape(text: str) -> str:
    """As XML 1.0 can hold it, "�" for what it cannot."""
    text = _UNFIT.sub("\ufffd", text)
    return (
        text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    )
