"""A decision's timeline as a picture: from the request at the top to what came of it."""

from __future__ import annotations

from collections.abc import Sequence

from ml import drawing
from ml.drawing import EDGE, FAINT, SIZE, WIDTH
from readmodels.timeline import Step, Timeline

#: By why a step hangs where it hangs; told apart by the colour-blind too (Okabe & Ito 2008).
COLOURS = {"root": "#222222", "causation": "#0072b2", "stream": "#595959", "decision": "#009e73"}
_LEGEND = (
    ("causation", "caused by the one above"),
    ("stream", "later in the same stream"),
    ("decision", "names the decision"),
)
_ROW, _INDENT = 46, 22


def picture(timeline: Timeline) -> str:
    """The timeline as SVG: a dot for each event, lines from causes to what they led to."""
    rows = flat(timeline.root)
    elsewhere = parents_elsewhere(rows)
    title, top = drawing.heading(f"What came of decision {timeline.decision_id}")
    parts = [title, *_legend(top + 8)]
    first = top + 44
    for number, (depth, step, above) in enumerate(rows):
        x, y = _x(depth), first + _ROW * number
        if above is not None:
            over_x, over_y = _x(rows[above][0]), first + _ROW * above
            colour = COLOURS[step.by]
            dashes = "3 3" if step.by == "stream" else ""
            parts.append(drawing.line(over_x, over_y + 6, over_x, y, colour, dashes))
            parts.append(drawing.line(over_x, y, x - 6, y, colour, dashes))
        parts.append(
            f'<circle class="step" cx="{x}" cy="{y}" r="5" fill="{COLOURS[step.by]}"/>'
            + _told(step, x + 14, y, elsewhere.get(number))
        )
    height = first + _ROW * len(rows) + (0 if timeline.complete else 20)
    if not timeline.complete:
        told = "There are more events than are shown."
        parts.append(drawing.text(EDGE, height - 12, told, fill=FAINT))
    last = rows[-1][1]
    summary = f"{len(rows)} events from {rows[0][1].recorded_at:%Y-%m-%d %H:%M:%S}: {last.sentence}"
    return drawing.svg(f"What came of decision {timeline.decision_id}", summary, height, parts)


def flat(root: Step) -> list[tuple[int, Step, int | None]]:
    """The steps from the top to the bottom: depth, step, and the row of the one above it."""
    rows: list[tuple[int, Step, int | None]] = []
    waiting: list[tuple[int, Step, int | None]] = [(0, root, None)]
    while waiting:
        depth, step, above = waiting.pop()
        rows.append((depth, step, above))
        below = len(rows) - 1
        waiting.extend((depth + 1, child, below) for child in reversed(step.children))
    return rows


def parents_elsewhere(rows: Sequence[tuple[int, Step, int | None]]) -> dict[int, int]:
    """By row: the log position of what a step follows from, where that is not the one above it
    because the tree goes no deeper."""
    positions = {step.event_id: step.position for _, step, _ in rows}
    return {
        number: positions[step.parent]
        for number, (_, step, above) in enumerate(rows)
        if above is not None and step.parent is not None and step.parent != rows[above][1].event_id
    }


def _x(depth: int) -> float:
    return EDGE + 8 + _INDENT * depth


def _told(step: Step, x: float, y: float, parent: int | None) -> str:
    room = WIDTH - EDGE - x
    who = f"{step.recorded_at:%Y-%m-%d %H:%M:%S} · {step.actor} · position {step.position}"
    if parent is not None:
        who += f" · follows from position {parent}"
    if step.refers is not None:
        who += f" · its model: {step.refers.sentence} (position {step.refers.position})"
    return drawing.text(
        x, y + 4, drawing.cut(step.sentence, room, SIZE), full=step.sentence
    ) + drawing.text(x, y + 19, drawing.cut(who, room, SIZE), fill=FAINT, full=who)


def _legend(y: float) -> Sequence[str]:
    parts: list[str] = []
    x = float(EDGE)
    for by, told in _LEGEND:
        parts.append(f'<circle cx="{x + 5}" cy="{y}" r="4" fill="{COLOURS[by]}"/>')
        parts.append(drawing.text(x + 14, y + 4, told, fill=FAINT))
        x += 34 + drawing.width(told, SIZE)
    return parts
