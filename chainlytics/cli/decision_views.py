"""Decisions, explanations and replays as a person reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.markup import escape

from chainlytics.cli.console import console, table
from domain.decisions import RULE_BASED
from domain.values import money
from ml.catalogue import KINDS
from ml.explaining import ExplainedCandidate, Explanation, name_of
from ml.replay import Replayed
from readmodels.decisions import DecisionDetail

#: Candidates and features that are shown.
_CANDIDATES, _FEATURES = 8, 12
_BAR = 24


def show_detail(detail: DecisionDetail) -> None:
    """Print an answered decision and what became of it."""
    assert detail.made is not None
    assert detail.explained is not None
    show_decision(detail.made, detail.explained)
    if detail.referred is not None:
        why = "; ".join(one["sentence"] for one in detail.referred["reasons"])
        _line("Referred", f"{_people(detail.referred['approvals'])} must agree: {why}")
    _show_reviews(detail)
    if detail.kept is not None:
        _line("Kept", f"it could not be made anew, so it stands: {detail.kept['detail']}")
    if detail.shadow is not None:
        same = "the same" if detail.shadow["agrees"] else _option(detail.shadow)
        _line("Shadow", f"model {detail.shadow['model_hash'][:12]} would have chosen {same}")
    if detail.outcome is not None:
        cost = detail.outcome["cost_minor"]
        came = "" if cost is None else f"; it cost {money(cost, detail.made['currency'])}"
        said = {True: "yes", False: "no", None: "cannot be known"}
        followed = "followed" if detail.outcome["followed"] else "not followed"
        _line(
            "Outcome",
            f"would it {_warning(detail.outcome['kind'])}? {said[detail.outcome['occurred']]}; "
            f"the decision was {followed}{came}",
        )


def _show_reviews(detail: DecisionDetail) -> None:
    """What people did, in the order in which they did it."""
    found = sorted(
        (
            (event[f"{what}_at"], what, event)
            for what, event in (
                ("confirmed", detail.confirmed),
                ("overridden", detail.overridden),
                ("contested", detail.contested),
            )
            if event is not None
        ),
        key=lambda one: datetime.fromisoformat(one[0]),
    )
    for number, (_, what, event) in enumerate(found, 1):
        option = f", {_option(event)}" if what == "overridden" else ""
        reason = f": {event['reason']}" if "reason" in event else ""
        waits = event.get("approvals_left") and number == len(found)
        left = f"; {_people(event['approvals_left'])} must still agree" if waits else ""
        _line(what.capitalize(), f"by {event[f'{what}_by']}{option}{reason}{left}")


def show_decision(made: Mapping[str, Any], explained: Mapping[str, Any]) -> None:
    """Print a decision as a person would want to read it."""
    console.rule(f"[bold]Decision {made['decision_id']}[/]", align="left")
    console.print(f"[bold green]{escape(explained['summary'])}[/]\n")
    ranked = sorted(
        enumerate(made["candidates"]),
        key=lambda one: (bool(one[1]["rejected"]), one[1]["objective"]),
    )
    rows = [
        (
            index,
            "→" if index == made["chosen"] else "",
            name_of(candidate["option"], KINDS.get(made["kind"])),
            f"{candidate['risk']:.1%}",
            money(candidate["cost_minor"], made["currency"]),
            f"{candidate['carbon_g'] / 1000:.1f} kg",
            money(candidate["objective"], made["currency"]),
            "\n".join(candidate["rejected"]),
        )
        for index, candidate in ranked[:_CANDIDATES]
    ]
    more = len(ranked) > len(rows)
    title = f"Candidates, the best {len(rows)} of {len(ranked)}" if more else "Candidates"
    columns = ("", "", "option", "risk", "cost", "carbon", "objective", "ruled out by")
    table(title, columns, rows)
    if explained["reasons"]:
        console.print("\n[bold]Why this one is as risky as it is[/]")
        _bars([(one["sentence"], one["contribution"] or 0.0) for one in explained["reasons"]])
        console.print()
    runner_up = explained["runner_up"] or {"sentence": "there was no other candidate"}
    _line("Runner-up", runner_up["sentence"])
    if explained["rejections"]:
        _line("Ruled out", "; ".join(one["sentence"] for one in explained["rejections"][:5]))
    if made["confidence"] is not None:
        does = "will" if made["foretold"] >= 0.5 else "will not"
        _line(
            "How sure",
            f"{made['confidence']:.1%} that it {does} {_warning(made['kind'])} (calibrated); "
            f"{_by(made)} {made['model_hash'][:12]}, as of log position {made['as_of']:,}",
        )


def _by(made: Mapping[str, Any]) -> str:
    return "rule-based, no model:" if made["role"] == RULE_BASED else str(made["role"])


def show_explanation(explanation: Explanation) -> None:
    """Print why candidates have their scores."""
    console.rule(f"[bold]Decision {explanation.decision_id}[/]", align="left")
    console.print(f"[bold green]{escape(explanation.summary)}[/]")
    for candidate in explanation.candidates:
        show_candidate(candidate, explanation.currency)
    holds = "holds" if explanation.additive else "[red]does not hold[/]"
    console.print(
        f"\nbase + contributions = margin {holds}: off by {explanation.additivity_error:.1e} at "
        f"the most ({explanation.additivity_tolerance:.0e} is allowed); "
        f"{'rule' if explanation.role == RULE_BASED else 'model'} {explanation.model_hash[:12]}"
    )


def show_candidate(candidate: ExplainedCandidate, currency: str | None) -> None:
    """Print one candidate's score and its pushes. ``currency``: of its amounts, where known."""
    state = "chosen" if candidate.chosen else ", ".join(candidate.rejected) or "not chosen"
    console.print(
        f"\n[bold]{candidate.index}: {escape(name_of(candidate.option))}[/] ({state}): "
        f"risk {candidate.risk:.1%}, cost {money(candidate.cost_minor, currency)}, "
        f"carbon {candidate.carbon_g / 1000:.1f} kg, "
        f"objective {money(candidate.objective, currency)}"
    )
    pushes = [(one.sentence, one.contribution) for one in candidate.features]
    shown = [("base value: what the model says of any case", candidate.base), *pushes[:_FEATURES]]
    if rest := pushes[_FEATURES:]:
        shown.append((f"{len(rest)} more features", sum(push for _, push in rest)))
    _bars(shown)
    console.print(f"  {candidate.margin:+.2f} = margin (log odds)")


def show_counterfactual_table(changes: Sequence[tuple[str, str, str, str]]) -> None:
    """Print the changes of a counterfactual."""
    table("What would have to be different", ("value", "of", "now", "then"), changes)


def show_replay(found: list[Replayed], seconds: float) -> None:
    """Print what a replay found."""
    different = [one for one in found if not one.same]
    if different:
        table(
            "Not the same as on the log",
            ("decision", "position", "cause", "detail"),
            [(one.decision_id, one.position, one.cause, one.detail) for one in different[:50]],
        )
        causes = Counter(one.cause for one in different)
        console.print(", ".join(f"{count} by {cause}" for cause, count in causes.items()))
    for one in [one for one in found if one.erased][:50]:
        what = escape("; ".join(one.erased))
        console.print(f"{one.decision_id}: its case holds erased data: {what}")
    compared = sum(one.bytes_compared for one in found)
    console.print(
        f"replayed {len(found)} decisions in {seconds:.1f} s: "
        f"[green]{len(found) - len(different)} the same to the byte[/] "
        f"({compared:,} bytes compared), {len(different)} different"
    )


def _bars(pushes: Sequence[tuple[str, float]]) -> None:
    """A text bar for each push, as long as it is strong."""
    widest = max((abs(push) for _, push in pushes), default=0.0) or 1.0
    for sentence, push in pushes:
        colour = "red" if push > 0 else "green"
        blocks = "█" * max(1, round(_BAR * abs(push) / widest))
        console.print(f"  {push:+.2f} [{colour}]{blocks:<{_BAR}}[/] {escape(sentence)}")


def _line(head: str, text: str) -> None:
    console.print(f"[bold]{head:<11}[/] {escape(text)}")


def _option(event: Mapping[str, Any]) -> str:
    return name_of(event["option"], KINDS.get(event["kind"]))


def _people(count: int) -> str:
    return f"{count} person" if count == 1 else f"{count} persons"


def _warning(kind: str) -> str:
    return KINDS[kind].warning if kind in KINDS else "come out as warned"
