"""A model's card (Mitchell et al., Model Cards for Model Reporting, 2019) as Markdown, from what
the log says of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from domain.models import ModelRegistered
from ml.estimates import ESTIMATES
from ml.kind import Kind
from readmodels import models
from readmodels.database import ReadModels
from readmodels.models import Deployment, ModelAlert, ModelDetail, ModelMeasurement, ModelMonth
from readmodels.policies import PolicySummary, get_policy

#: Measurements and months that a card shows, the latest ones.
_SHOWN = 12
_METRICS = (
    ("rows", "held-out cases", ""),
    ("late_share", "of them it occurred", ""),
    ("auc", "AUC", "higher is better, 0.5 is chance"),
    ("log_loss", "log loss", "lower is better"),
    ("brier", "Brier score", "lower is better"),
    ("accuracy", "accuracy", "higher is better"),
    ("calibration_error", "calibration error (ECE)", "lower is better"),
)
_ERRORS = (
    ("rows", "held-out cases", ""),
    ("mae", "mean absolute error", "lower is better"),
    ("rmse", "root mean squared error", "lower is better"),
)


@dataclass(frozen=True, slots=True)
class Story:
    """All that the read models tell of a model."""

    model: ModelDetail
    deployments: Sequence[Deployment]
    measurements: Sequence[ModelMeasurement]
    months: Sequence[ModelMonth]
    alerts: Sequence[ModelAlert]
    policy: PolicySummary


#: The read models that a story is taken from.
READS = (
    "model_list",
    "model_roles",
    "model_deployments",
    "model_measurements",
    "model_months",
    "model_alerts",
    "policy_list",
)


async def story_of(read: ReadModels, model_hash: str) -> Story | None:
    """What is known of a model; None where there is none."""
    model = await models.get_model(read, model_hash)
    if model is None:
        return None
    deployments = await models.model_deployments(read, model_hash=model_hash, limit=100)
    measurements = await models.model_measurements(read, model_hash, limit=_SHOWN)
    months = await models.model_months(read, model_hash, limit=500)
    alerts = await models.model_alerts(read, model_hash=model_hash, limit=100)
    return Story(
        model,
        deployments.items,
        measurements.items,
        months.items[-_SHOWN:],
        alerts.items,
        await get_policy(read, model.kind),
    )


def card(story: Story, kind: Kind | None) -> str:
    """The card. ``kind``: its declaration, where it is one of decisions and the code has it."""
    # With the fields that an older registration lacks.
    registered = ModelRegistered.model_validate(story.model.registered).model_dump(mode="json")
    sections = (
        _head(story.model, kind),
        _intended_use(story.model, kind),
        _training(registered),
        _features(story.model, kind),
        _metrics(registered),
        _segments(registered),
        _governance(story),
        _in_service(story),
        _alerts(story.alerts),
        _limits(story, registered),
    )
    return "\n\n".join(sections) + "\n"


def _head(model: ModelDetail, kind: Kind | None) -> str:
    roles = ", ".join(model.roles) or "none"
    lines = [
        f"# Model card: {model.kind} {model.model_hash[:12]}",
        "",
        f"- Hash of its artifact (SHA-256): `{model.model_hash}`",
        f"- Stage: {model.stage}; role now: {roles}",
        f"- Feature schema: `{model.registered['schema_hash']}`",
    ]
    if model.stopped:
        lines.append(f"- **Stopped**: {_plain(model.stopped)}")
    if model.retired:
        lines.append(f"- **Retired**: {_plain(model.retired)}")
    declared = ESTIMATES.get(model.kind) if kind is None else kind
    if declared is None or declared.schema_hash != model.registered["schema_hash"]:
        lines.append(
            "- **Outdated**: the features of its kind have changed since; it cannot decide"
        )
    return "\n".join(lines)


def _intended_use(model: ModelDetail, kind: Kind | None) -> str:
    estimate = ESTIMATES.get(model.kind)
    if estimate is not None:
        return (
            f"## Intended use\n\nIt says {estimate.family.value}: {estimate.unit}. Where no model "
            f"is deployed a rule does: {estimate.says}. It is made for the organisation whose log "
            "it learned from, and for no other."
        )
    warns = "what its kind warns of comes true" if kind is None else f"a case will {kind.warning}"
    return (
        f"## Intended use\n\nIt says how likely it is that {warns}, for each candidate of a "
        f"decision of the kind `{model.kind}`. The choice weighs that risk against cost and "
        "carbon; hard rules are checked apart from it and always win. It is made for the "
        "organisation whose log it learned from, and for no other."
    )


def _training(registered: Mapping[str, Any]) -> str:
    training = registered["training"]
    rows = [
        ("cases", _plain(training["query"] or "not recorded")),
        ("log positions", f"{training['from_position']:,} to {training['to_position']:,}"),
        ("cases learned from", f"{training['train_rows']:,}"),
        (
            "cases calibrated on",
            "none" if training["calibrated_on"] is None else f"{training['calibrated_on']:,}",
        ),
        ("split", f"by time: cases from {training['split_at']} on judge it, none is learned from"),
        ("data (SHA-256)", f"`{training['data_hash']}`" if training["data_hash"] else "not kept"),
        ("base score", f"`{training['base_score']}`"),
    ]
    libraries = ", ".join(f"{name} {version}" for name, version in training["libraries"].items())
    return "\n\n".join(
        (
            "## Training",
            _table(("", ""), rows),
            "Parameters: "
            + ", ".join(f"`{name}={value}`" for name, value in training["parameters"].items()),
            f"Libraries: {libraries}",
        )
    )


def _features(model: ModelDetail, kind: Kind | None) -> str:
    known = {} if kind is None else {one.name: one for one in kind.features}
    rows = []
    for number, name in enumerate(model.features, 1):
        feature = known.get(name)
        lever = None if feature is None else feature.lever
        rows.append(
            (
                number,
                f"`{name}`",
                "" if feature is None else _plain(feature.raises),
                "" if lever is None else f"{lever.low:g} to {lever.high:g}",
            )
        )
    return "## Features\n\n" + _table(("", "name", "in words", "people can change it"), rows)


def _metrics(registered: Mapping[str, Any]) -> str:
    model, baseline = registered["metrics"], registered["baseline"]
    of_numbers = model["log_loss"] is None
    rows = [
        (told, _figure(model.get(name)), _figure(baseline.get(name)), better)
        for name, told, better in (_ERRORS if of_numbers else _METRICS)
    ]
    if of_numbers:
        gain = (baseline["mae"] or 0.0) - (model["mae"] or 0.0)
        better = "worse than" if gain < 0 else "better than" if gain else "as good as"
        table = _table(("on later, held-out cases", "model", "rule", ""), rows)
        return f"## Metrics\n\n{table}\n\n**It is {better} the rule.**"
    gain = baseline["log_loss"] - model["log_loss"]
    verdict = (
        "\n\n**Its probabilities fit worse than the baseline's.**"
        if gain < 0
        else f"\n\nIts probabilities fit {'better than' if gain else 'as well as'} the baseline's."
    )
    table = _table(("on later, held-out cases", "model", "baseline", ""), rows)
    return f"## Metrics\n\n{table}{verdict}"


def _segments(registered: Mapping[str, Any]) -> str:
    found = registered.get("segments") or []
    if not found:
        return "## By segment\n\nNone is recorded: it was registered without, or had too few cases."
    rows = [
        (
            one["column"],
            _plain(one["value"]),
            *(_figure(one["metrics"].get(name)) for name, _, _ in _METRICS if name != "accuracy"),
        )
        for one in found
    ]
    heads = ("segment", "value", "cases", "occurred", "AUC", "log loss", "Brier", "ECE")
    return "## By segment\n\n" + _table(heads, rows)


def _governance(story: Story) -> str:
    model = story.model
    rows: list[tuple[str, ...]] = [
        (_time(model.registered_at), "registered", _plain(model.registered_by), "")
    ]
    if model.approved_at is not None:
        rows.append((_time(model.approved_at), "approved", _plain(model.approved_by or ""), ""))
    ends = [one for one in story.deployments if one.role == "none"]
    for one in reversed(story.deployments):
        # A retirement is the last end of a role.
        ended = "retired" if model.retired and one is ends[0] else "withdrawn"
        what = ended if one.role == "none" else f"deployed as {one.role}"
        told = what if one.reason is None or one.role == "none" else f"{what}, by a rollback"
        rows.append((_time(one.at), told, _plain(one.by), _plain(one.reason or "")))
    return "## Approval and deployments\n\n" + _table(("when", "what", "by", "reason"), rows)


def _in_service(story: Story) -> str:
    parts = ["## In service"]
    if story.months:
        rows = [
            (
                f"{one.month:%Y-%m}",
                one.decisions,
                one.outcomes,
                *(
                    _figure(value)
                    for value in (
                        one.accuracy,
                        one.brier,
                        one.foretold_share,
                        one.occurred_share,
                        one.override_rate,
                    )
                ),
            )
            for one in story.months
        ]
        heads = ("month", "decisions", "outcomes", "accuracy", "Brier", "foretold", "occurred")
        parts.append(_table((*heads, "overridden"), rows))
    if story.measurements:
        heads = ("measured", "positions", "decisions", "outcomes", "accuracy", "ECE", "largest PSI")
        measured = [_measured(one) for one in story.measurements]
        parts.append(_table((*heads, "largest KS"), measured))
    if len(parts) == 1:
        parts.append("It has decided nothing yet, and nothing was measured.")
    return "\n\n".join(parts)


def _measured(one: ModelMeasurement) -> tuple[object, ...]:
    found = one.measurement
    return (
        _time(one.measured_at),
        f"{found['from_position']:,} to {found['to_position']:,}",
        found["decisions"],
        found["outcomes"],
        _figure(found["accuracy"]),
        _figure(found["calibration_error"]),
        _largest(found["psi"]),
        _largest(found["ks"]),
    )


def _largest(values: Mapping[str, float]) -> str:
    if not values:
        return ""
    name = max(values, key=lambda one: values[one])
    return f"{values[name]:.3f} ({name})"


def _alerts(alerts: Sequence[ModelAlert]) -> str:
    if not alerts:
        return "## Alerts\n\nNone was ever raised."
    rows = [
        (
            "open" if one.open else "cleared",
            _time(one.raised_at),
            one.measure if one.feature is None else f"{one.measure} of {one.feature}",
            f"{one.value:.3f} (threshold {one.threshold:g})",
            _plain(one.sentence),
        )
        for one in alerts
    ]
    return "## Alerts\n\n" + _table(("", "raised", "measure", "value", ""), rows)


def _limits(story: Story, registered: Mapping[str, Any]) -> str:
    training, metrics, policy = registered["training"], registered["metrics"], story.policy
    told = [
        f"It knows what the log held up to position {training['to_position']:,}; what changed "
        "later it meets only in its features.",
        f"It was judged on {metrics['rows']:,} cases; a figure of few cases says little.",
        "It learned from cases whose outcome became known. What was never recorded it cannot see.",
        "Its SHAP values say what its score is made of, not what causes what: a what-if tells what "
        "the model would say, not what the world would do.",
    ]
    if training["calibrated_on"] is None:
        told.append("Its probabilities are not calibrated.")
    weak = [
        f"{one['column']} {one['value']}"
        for one in registered.get("segments") or []
        if metrics["brier"] is not None and one["metrics"]["brier"] > 1.25 * metrics["brier"]
    ]
    if weak:
        told.append(
            "Its Brier score is more than a quarter worse than overall for: "
            f"{_plain(', '.join(weak))}."
        )
    if any(one.open for one in story.alerts):
        told.append("**An alert is open: see above.**")
    told.append(
        f"People take over below a confidence of {policy.minimum_confidence:.0%}"
        + (
            ""
            if policy.four_eyes_above_minor is None
            else f", two of them above {policy.four_eyes_above_minor:,} minor units"
        )
        + " (the policy of its kind now)."
    )
    return "## Limits\n\n" + "\n".join(f"- {one}" for one in told)


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _plain(text: str) -> str:
    """What people wrote, without a meaning in Markdown or HTML."""
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
