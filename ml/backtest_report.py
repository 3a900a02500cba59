"""The report of a backtest: what would change, what it comes to, how far that can be trusted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from domain.values import money
from ml.comparison import Backtest, Change, Comparison, Figures, Fit, Option, Outcomes
from ml.pictures import bars, flows, reliability_diagram
from ml.report import Block, Heading, Picture, Report, Rows, Text

#: Changed decisions that a report shows; ``Backtest.changes`` has more.
MOST_SHOWN = 25
_MOST_SWAPS = 15


def of_backtest(found: Backtest) -> Report:
    """What a backtest found, for people."""
    blocks: list[Block] = [Text(_question(found)), Text(_answer(found)), *_caveats(found)]
    if found.compared:
        blocks += _swap_set(found)
        blocks += _figures(found)
        blocks += _parts(found)
        blocks += _outcomes(found.outcomes)
        blocks += _unseen(found)
        blocks += _changes(found)
    return Report(f"Backtest of {found.kind} decisions", blocks)


def _question(found: Backtest) -> str:
    by = []
    if found.model_hash is not None:
        by.append(f"model {found.model_hash[:12]}")
    if (weights := found.weights) is not None:
        by.append(
            f"the weights cost = {weights.cost:g}, risk = {weights.risk_minor:,} minor units, "
            f"carbon = {weights.carbon_minor_per_kg:,} minor units per kg"
        )
    same = "" if found.model_hash and weights else "; all else is as it was"
    return (
        f"What would have been decided on the requests at log positions "
        f"{found.from_position:,} to {found.to_position:,} by {' and '.join(by)}{same}? Each was "
        "decided again from what the log held at its own position, and nothing later."
    )


def _answer(found: Backtest) -> str:
    if not found.compared:
        told = "No request was decided both then and now: there is nothing to compare."
    else:
        told = (
            f"Of {found.compared:,} decisions {found.unchanged:,} stay and {found.swapped:,} "
            f"({found.swapped / found.compared:.1%}) would be others."
        )
    if found.comparison is not None:
        then, now = found.comparison.then.objective, found.comparison.now.objective
        told += (
            f" Judged by the backtest's model and weights, the mean objective is "
            f"{money(now, found.currency)} instead of {money(then, found.currency)} "
            f"({_percent(_share(then, now))})."
        )
    if found.failed_then or found.failed_now:
        told += (
            f" Requests without a decision: {found.failed_then:,} then, {found.failed_now:,} now."
        )
    return told


def _caveats(found: Backtest) -> Iterator[Block]:
    """What a reader has to know before believing the figures."""
    if found.compared and found.learned_to is not None:
        to, learned, compared = found.learned_to, found.learned, found.compared
        lie = f"{learned:,} of the {compared:,} decisions compared lie"
        told = (
            f"{lie} before that: their foretold figures flatter it."
            if learned
            else f"all {compared:,} decisions compared lie behind that."
        )
        if found.unseen is not None:
            told += " What lies behind it is told by itself further down."
        elif learned:
            told += " None lies behind it: nothing here tells how it does on cases new to it."
        yield Text(f"The model learned from cases up to position {to:,}; {told}")
    if len(found.currencies) > 1:
        names = ", ".join(one or "not known" for one in found.currencies)
        yield Text(
            f"The decisions are in several currencies ({names}): means of amounts mix them and are "
            "told without one."
        )


def _swap_set(found: Backtest) -> Iterator[Block]:
    # Shorter than in words: a picture has little room.
    pairs = [(_option(one.then, " "), _option(one.now, " "), one.count) for one in found.swaps]
    moved = [one for one in found.swaps if one.then != one.now]
    yield Heading("What is chosen instead of what")
    yield Picture("swaps", "Choices then and now", flows("Choices then and now", pairs))
    if not moved:
        yield Text("No choice changes.")
        return
    for column in dict.fromkeys(name for swap in found.swaps for name in swap.then):
        by_value = Counter[tuple[str, str]]()
        for swap in found.swaps:
            by_value[swap.then.get(column, "none"), swap.now.get(column, "none")] += swap.count
        if any(then != now for then, now in by_value):
            title = f"{_words(column).capitalize()} then and now"
            values = [(then, now, count) for (then, now), count in by_value.items()]
            yield Picture(f"swaps-{column}", title, flows(title, values))
    rows = [(_option(one.then), _option(one.now), f"{one.count:,}") for one in moved[:_MOST_SWAPS]]
    title = "The most frequent changes" if len(moved) > len(rows) else "The changes"
    yield Rows(title, ("then", "now", "decisions"), rows, numbers=1)


def _figures(found: Backtest) -> Iterator[Block]:
    yield Heading("What it comes to")
    if (means := found.comparison) is None:
        yield Text("No decision has both choices among its candidates now.")
        return
    yield Text(
        f"Means over {found.judged:,} decisions. 'As recorded' is the choice of then as its own "
        "model and weights judged it. The other two columns judge the choice of then and that of "
        "now by one measure, the backtest's model and weights: only they tell which is better."
    )
    rows = _means(means, found.currency)
    for name, (then, now) in (
        ("referred to people", found.referred),
        ("nothing allowed", found.none_allowed),
    ):
        rows.append((name, f"{then:.1%}", "", f"{now:.1%}", f"{(now - then) * 100:+.1f} points"))
    yield Rows("Then and now", _MEANS, rows, numbers=4)
    title = "Change of the means, choice of now against that of then"
    shares = [(name, {"change": change * 100}) for name, change in _relative(means).items()]
    yield Picture("change", title, bars(title, shares, "% (less is better)"))


_MEANS = ("mean", "as recorded", "choice of then", "choice of now", "change")


def _means(means: Comparison, currency: str | None) -> list[tuple[str, ...]]:
    told = [
        ("cost", *(money(one.cost_minor, currency) for one in _three(means))),
        ("risk", *(f"{one.risk:.2%}" for one in _three(means))),
        ("carbon", *(f"{one.carbon_kg:.2f} kg" for one in _three(means))),
        ("objective", *(money(one.objective, currency) for one in _three(means))),
    ]
    changes = _relative(means)
    return [(*row, _percent(changes[row[0]])) for row in told]


def _parts(found: Backtest) -> Iterator[Block]:
    if not (found.parts or found.untold):
        return
    yield Heading("By segment")
    if found.untold:
        names = ", ".join(map(_words, found.untold))
        yield Text(f"Left out: {names}. Neither an option nor a feature of a decision tells it.")
    if not found.parts:
        return
    unit = _unit(found.currency)
    yield Text(
        "Decisions by what was chosen then; means of the objective by the backtest's measure."
    )
    axis = f"objective, {found.currency or 'in the currency'}"
    for column in dict.fromkeys(part.column for part in found.parts):
        mine = [part for part in found.parts if part.column == column]
        title = f"Mean objective by {_words(column)}"
        shown = [
            (
                part.value,
                {
                    "choice of then": part.comparison.then.objective / unit,
                    "choice of now": part.comparison.now.objective / unit,
                },
            )
            for part in mine
        ]
        yield Picture(f"by-{column}", title, bars(title, shown, axis))
        rows = []
        for part in mine:
            changes = _relative(part.comparison)
            moved = f"{part.swapped:,} ({part.swapped / part.decisions:.0%})"
            means = (_percent(changes[name]) for name in ("cost", "risk", "carbon", "objective"))
            rows.append((part.value, f"{part.decisions:,}", moved, *means))
        columns = (_words(column), "decisions", "changed", "cost", "risk", "carbon", "objective")
        yield Rows(f"Change by {_words(column)}", columns, rows, numbers=6)


def _outcomes(outcomes: Outcomes) -> Iterator[Block]:
    yield Heading("Against what happened")
    yield Text(
        f"The outcome is known of {outcomes.same + outcomes.other:,} decisions that were followed. "
        f"{outcomes.same:,} of them would be decided the same: their outcome can be held against "
        f"what was foretold then and what would be foretold now. {outcomes.other:,} would be "
        "decided otherwise: what would have become of them is not known, only foretold."
    )
    if outcomes.then is None or outcomes.now is None:
        return
    fits = (("then", outcomes.then), ("now", outcomes.now))
    yield _fit_rows(f"Foretold risks of {outcomes.same:,} decisions", fits)
    for name, fit in fits:
        title = f"Risks as foretold {name}, and what occurred"
        yield Picture(f"reliability-{name}", title, reliability_diagram(title, fit.bins))


def _unseen(found: Backtest) -> Iterator[Block]:
    if (part := found.unseen) is None or found.learned_to is None:
        return
    yield Heading("On cases new to the model")
    yield Text(
        f"{part.compared:,} of the decisions compared lie behind position {found.learned_to:,}, up "
        f"to which the model learned; {part.swapped:,} of them would be others. The outcome is "
        f"known of {part.outcomes.same:,} that were followed and would be decided the same."
    )
    if part.comparison is not None:
        title = f"Means over {part.judged:,} decisions new to the model"
        yield Rows(title, _MEANS, _means(part.comparison, found.currency), numbers=4)
    then, now = part.outcomes.then, part.outcomes.now
    if then is not None and now is not None:
        title = f"Foretold risks of {part.outcomes.same:,} decisions new to the model"
        yield _fit_rows(title, (("then", then), ("now", now)))


def _fit_rows(title: str, fits: Sequence[tuple[str, Fit]]) -> Rows:
    rows = [
        _fit_row(name, measure, digits, fits)
        for name, measure, digits in (
            ("Brier score (0 is best)", "brier", 4),
            ("log loss (0 is best)", "log_loss", 4),
            ("accuracy", "accuracy", 4),
            ("calibration error (0 is best)", "calibration_error", 4),
            ("AUC (1 is best)", "auc", 4),
            ("share that occurred", "late_share", 4),
        )
    ]
    return Rows(title, ("measure", "foretold then", "foretold now"), rows, numbers=2)


def _fit_row(
    name: str, measure: str, digits: int, fits: Sequence[tuple[str, Fit]]
) -> tuple[str, ...]:
    values = [getattr(fit.metrics, measure) for _, fit in fits]
    return name, *("not defined" if one is None else f"{one:.{digits}f}" for one in values)


def _changes(found: Backtest) -> Iterator[Block]:
    if not found.changes:
        return
    shown = found.changes[:MOST_SHOWN]
    yield Heading("Decisions that change")
    more = f", the {len(shown)} with the most to gain" if found.swapped > len(shown) else ""
    yield Text(
        f"{found.swapped:,} decisions{more}. Objectives by the backtest's measure, and by the "
        "model and weights that decided then."
    )
    columns = ("decision", "subject", "then", "now", "by new: then → now", "by old: then → now")
    yield Rows("Changed decisions", columns, [_change_row(one) for one in shown], numbers=2)


def _change_row(one: Change) -> tuple[str, ...]:
    return (
        one.decision_id,
        one.subject_id,
        _option(one.then),
        _option(one.now),
        f"{_money(one.then_by_new, one.currency)} → {_money(one.now_by_new, one.currency)}",
        f"{_money(one.then_by_old, one.currency)} → {_money(one.now_by_old, one.currency)}",
    )


def _three(means: Comparison) -> tuple[Figures, Figures, Figures]:
    return means.recorded, means.then, means.now


def _relative(means: Comparison) -> dict[str, float]:
    """How much more the choice of now has than that of then, as a share of it."""
    then, now = means.then, means.now
    pairs = {
        "cost": (then.cost_minor, now.cost_minor),
        "risk": (then.risk, now.risk),
        "carbon": (then.carbon_kg, now.carbon_kg),
        "objective": (then.objective, now.objective),
    }
    return {name: _share(*pair) for name, pair in pairs.items()}


def _share(then: float, now: float) -> float:
    return (now - then) / abs(then) if then else 0.0 if now == then else math.inf


def _percent(change: float) -> str:
    return f"{change:+.1%}" if math.isfinite(change) else "from nothing"


def _money(minor: float | None, currency: str | None) -> str:
    return "none" if minor is None else money(minor, currency)


def _unit(currency: str | None) -> float:
    """How many minor units a currency's unit has."""
    return 10.0 ** len(money(0, currency).partition(" ")[0].partition(".")[2])


def _option(option: Option, between: str = " by ") -> str:
    return between.join(option.values()) or "none allowed"


def _words(column: str) -> str:
    return column.removesuffix("_id").replace("_", " ")
