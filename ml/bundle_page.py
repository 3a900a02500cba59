"""The page of an evidence bundle: the story as a lawyer and a planner read it, in one HTML file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from domain.decisions import DECISIONS, RULE_BASED, Decision
from domain.models import ModelAlertCleared, ModelAlertRaised, ModelMeasured
from domain.people import PersonErased
from domain.values import money
from ml.bundle_looks import STYLE
from ml.bundle_story import TOKEN, Case, Json
from ml.explaining import name_of, number

#: Options that the page shows; decision.json has all.
_MOST_OPTIONS = 25
#: Events behind the decision that are told in a list; the table has all.
_MOST_LATER = 20
#: Tables behind a feature whose last positions are told beside it, at the most.
_MOST_SOURCES = 4
#: What is told of models every hour: there so that their streams have no gap.
_MEASURED = (ModelMeasured, ModelAlertRaised, ModelAlertCleared)


def page(case: Case, decision: Json, manifest: Mapping[str, Any], picture: str | None) -> str:
    """The page.

    Args:
        case: the events.
        decision: the story, as in decision.json.
        manifest: what the bundle says of itself.
        picture: the waterfall, where something was decided.
    """
    made = decision["made"]
    state = Decision()
    for one in case.own:
        event = None if one.type is None else one.type.model_validate(one.body)
        state = state if event is None else DECISIONS.evolve(state, event)
    parts = [_head(case, decision, state), _trust(manifest), _facts(case, decision, state)]
    if made is not None:
        parts += [_why(decision, picture), _options(decision), _features(decision)]
        parts += [_rules(decision), _model(decision)]
    parts += [_people(decision), _after(case, decision), _events(case), _check(decision, manifest)]
    title = escape(f"Decision {decision['decision_id']}")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{chr(10).join(parts)}\n</main>\n</body>\n</html>\n"
    )


def _head(case: Case, decision: Json, state: Decision) -> str:
    words, failure = decision["explanation"] or {}, decision["failure"] or {}
    summary = words.get("summary") or f"Nothing was decided: {failure.get('detail', '')}"
    kicker = f"Evidence bundle · decision {decision['decision_id']} ({decision['kind']})"
    found = f'<p class="kicker">{escape(kicker)}</p>\n<h1>{escape(summary)}</h1>'
    if state.overridden:
        now = escape(name_of(state.option, case.kind))
        found += f'\n<p class="now">People chose otherwise: <strong>{now}</strong></p>'
    return found


def _trust(manifest: Mapping[str, Any]) -> str:
    return (
        '<div class="box"><p><strong>This page is for reading. What counts is what the verifier '
        "says.</strong> It was written from events of a log of which every entry is under a signed "
        f"head, here over {manifest['log_size']:,} events. Positions are places in that log. The "
        'page itself is not signed. <a href="#check">How to check it</a></p></div>'
    )


def _facts(case: Case, decision: Json, state: Decision) -> str:
    request, made = decision["request"], decision["made"]
    facts = [
        ("Subject", escape(decision["subject_id"])),
        ("Asked for by", f"{_who(request)} at {_time(request['recorded_at'])} UTC, {_at(request)}"),
    ]
    if made is not None:
        facts += [
            ("Decided at", f"{_time(made['recorded_at'])} UTC, {_at(made)}"),
            ("Chosen by the model", escape(name_of(made["option"], case.kind))),
        ]
    if made is not None and dict(state.option) != made["option"]:
        facts.append(
            ("What holds now", f"<strong>{escape(name_of(state.option, case.kind))}</strong>")
        )
    facts.append(("Where it stands", escape(_STAGES.get(state.stage.value, state.stage.value))))
    if made is not None and made["chosen"] is not None:
        stake = made["value_minor"]
        facts += [
            (
                "Foretold risk",
                f"{made['foretold']:.1%}, at a confidence of {made['confidence']:.1%}",
            ),
            ("At stake", "not known" if stake is None else escape(money(stake, made["currency"]))),
        ]
    weights = request["weights"]
    facts.append(
        (
            "Weighed by",
            f"cost × {weights['cost']:g}, {weights['risk_minor']:,} minor units for the whole "
            f"risk, {weights['carbon_minor_per_kg']:,} minor units for each kg of carbon",
        )
    )
    return "<h2>What was decided</h2>\n" + _dl(facts)


_STAGES = {
    "made": "it stands as the model made it",
    "referred": "it waits for people to agree",
    "confirmed": "people confirmed it",
    "overridden": "people chose another option than the model",
    "contested": "somebody objects to it",
    "failed": "nothing was decided",
    "closed": "its outcome is known",
}


def _why(decision: Json, picture: str | None) -> str:
    words = decision["explanation"]
    reasons = "".join(f"<li>{escape(one['sentence'])}</li>" for one in words["reasons"])
    parts = [f"<h2>Why</h2>\n<p>The strongest reasons, {_at(words)}:</p>\n<ol>{reasons}</ol>"]
    if not reasons:
        parts = ["<h2>Why</h2>\n<p>Every option breaks a hard rule: a person has to decide.</p>"]
    if words["runner_up"] is not None:
        parts.append(f"<p>{escape(words['runner_up']['sentence'])}.</p>")
    if picture is not None:
        parts.append(
            "<p>The picture adds up what each feature does to the score of the choice, from the "
            f"usual score to its own (exact SHAP values).</p>\n<figure>{picture}</figure>"
        )
    return "\n".join(parts)


def _options(decision: Json) -> str:
    made, runner = decision["made"], decision["explanation"]["runner_up"]
    second = None if runner is None else runner["candidate"]
    ranked = sorted(
        decision["candidates"],
        key=lambda one: (bool(one["rejected"]), one["objective"], one["index"]),
    )
    rows = []
    for one in ranked[:_MOST_OPTIONS]:
        verdict = "allowed"
        if one["rejected"]:
            verdict = f'<span class="bad">ruled out: {escape(", ".join(one["rejected"]))}</span>'
        elif one["chosen"]:
            verdict = '<span class="good">chosen</span>'
        elif one["index"] == second:
            verdict = "runner-up"
        cells = (
            escape(name_of(one["option"])),
            escape(money(one["cost_minor"], made["currency"])),
            f"{one['risk']:.1%}",
            f"{one['carbon_g'] / 1000:,.1f} kg",
            escape(money(one["objective"], made["currency"])),
            verdict,
        )
        rows.append((cells, "chosen" if one["chosen"] else ""))
    heads = ("option", "cost", "risk", "carbon", "in all", "")
    left = len(ranked) - len(rows)
    more = f" {left:,} more are in <code>decision.json</code>." if left else ""
    return (
        f"<h2>The options</h2>\n<p>{len(ranked):,} were weighed, best first. What is ruled out "
        f"comes last whatever it costs.{more}</p>\n" + _table(heads, rows, numbers=range(1, 5))
    )


def _features(decision: Json) -> str:
    chosen = next((one for one in decision["candidates"] if one["chosen"]), None)
    runner = decision["explanation"]["runner_up"]
    shown = [] if chosen is None else [("the choice", chosen)]
    if runner is not None:
        shown.append(("the runner-up", decision["candidates"][runner["candidate"]]))
    if not shown:
        return ""
    parts = [
        "<h2>What it was decided on</h2>\n<p>The numbers that the model saw, strongest push first "
        "(in log odds; above zero it raises the risk), and the last log positions that they come "
        "from.</p>"
    ]
    for name, one in shown:
        rows = []
        for feature in sorted(one["features"], key=lambda each: -abs(each["contribution"])):
            places = list(dict.fromkeys(feature["lineage"].values()))
            links = ", ".join(_link(position) for position in places[:_MOST_SOURCES])
            cells = (
                escape(feature["sentence"]),
                escape(number(feature["value"])),
                f"{feature['contribution']:+.3f}",
                links or '<span class="faint">the request</span>',
            )
            rows.append((cells, ""))
        title = f"{name[0].upper()}{name[1:]}: {name_of(one['option'])}"
        heads = ("in words", "value", "push", "from")
        parts.append(_table(heads, rows, numbers=(1, 2), title=title))
    return "\n".join(parts)


def _rules(decision: Json) -> str:
    rules, of = decision["constraints"], len(decision["candidates"])
    if not rules:
        return ""
    rows = []
    for one in rules:
        broken = len(one["broken_by"])
        verdict = (
            f'<span class="bad">broken by {broken:,} of {of:,}</span>'
            if broken
            else '<span class="good">kept by all</span>'
        )
        code = f'<span class="name">{escape(one["code"])}</span>'
        rows.append(((code, escape(one["sentence"]), f'<span class="name">{verdict}</span>'), ""))
    told_ = decision["explanation"]["rejections"]
    items = "".join(f"<li>{escape(one['sentence'])}</li>" for one in told_)
    more = f"\n<p>What was broken, in words:</p><ul>{items}</ul>" if items else ""
    return (
        "<h2>The hard rules</h2>\n<p>An option that breaks one is ruled out, however good its "
        "score is.</p>\n" + _table(("rule", "broken where", ""), rows) + more
    )


def _model(decision: Json) -> str:
    made, found = decision["made"], decision["governance"]
    hash_ = made["model_hash"]
    libraries = ", ".join(f"{name} {version}" for name, version in made["libraries"].items())
    link = f'<a href="model/{hash_}"><code>{hash_}</code></a>'
    if made["role"] == RULE_BASED:
        facts = [("Rule", link), ("Method", "rule-based: no model was deployed")]
    else:
        facts = [("Model", link), ("Its role", escape(made["role"]))]
    for name, key in (("Proposed by", "registered"), ("Approved by", "approved"), ("Role", "role")):
        one = found[key]
        if one is not None:
            label = "Given its role by" if key == "role" else name
            facts.append((label, f"{_who(one)} at {_time(one['recorded_at'])} UTC, {_at(one)}"))
    if (registered := found["registered"]) is not None:
        training = registered["training"]
        facts.append(
            (
                "Learned from",
                f"{training['train_rows']:,} cases of the log positions "
                f"{training['from_position']:,} to {training['to_position']:,}",
            )
        )
    facts += [
        ("Libraries", escape(libraries)),
        ("Kind's code", f"<code>{escape(made['code'])}</code>"),
    ]
    if registered is not None:
        card = '<a href="model-card.md">model-card.md</a>, as of the making of this bundle'
        facts.append(("Card", card))
    for one in decision["shadows"]:
        says = "agrees" if one["agrees"] else f"would have chosen {name_of(one['option'])}"
        facts.append(
            ("Shadow", f"<code>{one['model_hash'][:12]}</code> {escape(says)}, {_at(one)}")
        )
    title = "The rule" if made["role"] == RULE_BASED else "The model"
    return f"<h2>{title}</h2>\n" + _dl(facts)


def _people(decision: Json) -> str:
    policy, referral = decision["governance"]["policy"], decision["referral"]
    rows = []
    if policy is None:
        rule = "No policy was set: the usual one."
    else:
        most = policy["four_eyes_above_minor"]
        eyes = "" if most is None else f"; two persons above {most:,} minor units at stake"
        rule = (
            f"Policy at {_at(policy)}, set by {_who(policy)}: a person decides below a confidence "
            f"of {policy['minimum_confidence']:.1%}{eyes}."
        )
    asked = "Nobody had to agree."
    if referral is not None:
        why = "; ".join(one["sentence"] for one in referral["reasons"])
        asked = f"Referred to people, {referral['approvals']} must agree ({_at(referral)}): "
        asked += f"{escape(why)}."
    for one in decision["reviews"]:
        what = {
            "DecisionConfirmed": "confirmed",
            "DecisionOverridden": f"chose {name_of(one.get('option', {}))} instead",
            "DecisionContested": "contested it",
            "DecisionNotRedecided": "let it stand",
        }[one["event"]]
        why = one.get("reason") or one.get("detail") or ""
        when = f'<span class="name">{_time(one["recorded_at"])}</span>'
        cells = (_link(one["position"]), when, _who(one), escape(what), escape(why))
        rows.append((cells, ""))
    again = decision["redecided_by"]
    after = f"<p>Decided anew as {escape(', '.join(again))}.</p>" if again else ""
    if (of := decision["request"]["redecides"]) is not None:
        after += f"<p>It answers the contested decision {escape(of)}.</p>"
    heads = ("position", "when (UTC)", "who", "did what", "why")
    table = _table(heads, rows) if rows else "<p>Nobody confirmed, overrode or contested it.</p>"
    return f"<h2>What people did</h2>\n<p>{rule} {asked}</p>\n{table}{after}"


def _after(case: Case, decision: Json) -> str:
    outcome, made = decision["outcome"], decision["made"]
    later = [
        one
        for one in case.events
        if one.position > case.request.position
        and not one.stored.topic.startswith("decisions.")
        and one.type not in _MEASURED
    ]
    items = "".join(
        f"<li>{escape(one.sentence)}, position {_link(one.position)}</li>"
        for one in later[:_MOST_LATER]
    )
    more = f"\n<p>What followed:</p>\n<ul>{items}</ul>" if items else ""
    if outcome is None:
        return f"<h2>What came of it</h2>\n<p>No outcome is recorded.</p>{more}"
    occurred = {True: "came true", False: "did not come true", None: "cannot be known"}
    facts = [
        ("What was warned of", escape(occurred[outcome["occurred"]])),
        ("What the model chose", "was done" if outcome["followed"] else "was not done"),
        ("Recorded", f"{_time(outcome['recorded_at'])} UTC by {_who(outcome)}, {_at(outcome)}"),
    ]
    if outcome["cost_minor"] is not None:
        currency = None if made is None else made["currency"]
        facts.insert(2, ("It came to cost", escape(money(outcome["cost_minor"], currency))))
    return "<h2>What came of it</h2>\n" + _dl(facts) + more


def _events(case: Case) -> str:
    erased = {one.body["person"] for one in case.events if one.type is PersonErased}
    own = {one.position for one in case.own}
    rows = []
    shown = [one for one in case.events if one.type not in _MEASURED]
    for one in shown:
        told_ = escape(one.sentence)
        if TOKEN.search(json.dumps(one.body)):
            state = "erased" if one.body.get("person") in erased else "encrypted"
            told_ += f' <span class="faint">· personal ({state})</span>'
        position = one.position
        cells = (
            f'<a class="at" href="events/{position}.json">{position:,}</a>',
            f'<span class="name">{_time(one.stored.recorded_at)}</span>',
            f'<span class="name">{escape(one.stored.actor)}</span>',
            told_,
        )
        rows.append((cells, "chosen" if position in own else "", f"p{position}"))
    beside = len(case.events) - len(shown)
    measured = (
        f" {beside:,} measurements and alerts of models are in events/ alone." if beside else ""
    )
    left = "".join(f"<li>{escape(one)}</li>" for one in case.left_out)
    more = f"\n<p>Left out, for their number:</p><ul>{left}</ul>" if left else ""
    return (
        f"<h2>The events</h2>\n<p>{len(rows):,} events of the log, by position; those of the "
        f"decision itself stand out.{measured}</p>\n"
        + _table(("position", "recorded (UTC)", "by", "what"), rows)
        + more
    )


def _check(decision: Json, manifest: Mapping[str, Any]) -> str:
    libraries = {} if decision["made"] is None else decision["made"]["libraries"]
    wanted = libraries.get("xgboost")
    replay = (
        f" To make the decision again it wants numpy and xgboost {escape(wanted)}."
        if wanted is not None
        else ""
    )
    facts = [
        ("Log", f"<code>{escape(manifest['origin'])}</code>"),
        ("Signed head", f"over {manifest['log_size']:,} events (<code>checkpoint.txt</code>)"),
        ("Organisation", f"<code>{escape(manifest['organisation_id'])}</code>"),
        ("Made", f"{_time(manifest['made_at'])} UTC"),
    ]
    return (
        '<h2 id="check">How to check it</h2>\n<p>With Python and one file, without the system that '
        "made this, and without a network. Use your own copy of <code>verifier.py</code>: the one "
        "in here came with what it checks. Know the log's name from a source that you trust.</p>\n"
        f"<pre>python verifier.py BUNDLE.zip --origin {escape(manifest['origin'])}</pre>\n"
        f"<p>It needs nothing but Python for all proofs.{replay} It says what the log says: "
        "compare it with this page.</p>\n"
        + _dl(facts)
        + "<ul><li><strong>Proved:</strong> the events are in the log as it was signed, to the "
        "byte; the numbers of the story are theirs; the models are those that decided; the choice "
        "follows from the weights.</li>"
        "<li><strong>Not proved:</strong> this page and the picture, sentences beside features and "
        "rules, senders' roles, the model's card; that nothing followed behind the last event "
        "here; and that no later policy and no other model's role was left out: the verifier says "
        "how far each stream is here.</li></ul>"
    )


# pieces


def _who(one: Json) -> str:
    asked = one.get("asked_as")
    roles = f' <span class="faint">({escape(", ".join(asked["roles"]))})</span>' if asked else ""
    return f"{escape(one['actor'])}{roles}"


def _at(one: Json) -> str:
    return f"position {_link(one['position'])}"


def _link(position: int) -> str:
    return f'<a class="at" href="#p{position}">{position:,}</a>'


def _time(moment: str | datetime) -> str:
    found = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return f"{found.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _dl(facts: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>\n" for name, value in facts)
    return f"<dl>\n{rows}</dl>"


def _table(
    heads: Sequence[str],
    rows: Iterable[tuple[Any, ...]],
    *,
    numbers: Iterable[int] = (),
    title: str = "",
) -> str:
    """A table. Each row: cells as HTML, a class, and perhaps an id."""
    right = set(numbers)

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f'<{tag} class="number">{cell}</{tag}>' if at in right else f"<{tag}>{cell}</{tag}>"
            for at, cell in enumerate(row)
        )

    lines = []
    for row, name, *id_ in rows:
        kind = f' class="{name}"' if name else ""
        anchor = f' id="{id_[0]}"' if id_ else ""
        lines.append(f"<tr{kind}{anchor}>{cells('td', row)}</tr>")
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    return (
        f'<div class="wide"><table>{caption}\n<thead><tr>{cells("th", heads)}</tr></thead>\n'
        f"<tbody>\n{chr(10).join(lines)}\n</tbody></table></div>"
    )
