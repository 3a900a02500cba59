"""Models as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from chainlytics.cli.console import console, table
from domain.models import Metrics, ModelRegistered
from ml.models import Trained
from readmodels.models import ModelDetail

_BETTER: Mapping[str, str] = {
    "auc": "higher is better",
    "log_loss": "lower is better",
    "mae": "lower is better",
    "rmse": "lower is better",
    "brier": "lower is better",
    "accuracy": "higher is better",
    "calibration_error": "lower is better",
}


def show_training(trained: Trained) -> None:
    """Print how well a model does beside its baseline."""
    model = trained.registration
    _figures(model.model_hash, f"{model.training.split_at:%Y-%m-%d}", model.metrics, model.baseline)


def show_model(model: ModelDetail) -> None:
    """Print a model: where it stands, what it learned from, how well it does."""
    registered = ModelRegistered.model_validate(model.registered)
    training = registered.training
    lines: list[tuple[str, object]] = [
        ("kind", model.kind),
        ("stage", model.stage),
        ("roles now", ", ".join(model.roles) or "none"),
        ("stopped", model.stopped),
        ("retired", model.retired),
        ("registered", f"{model.registered_at:%Y-%m-%d %H:%M} by {model.registered_by}"),
        ("approved by", model.approved_by),
        ("learned from", f"{training.train_rows:,} cases, up to position {training.to_position:,}"),
        ("features", f"{len(training.features)}, schema {model.registered['schema_hash'][:12]}"),
        ("libraries", ", ".join(f"{name} {one}" for name, one in training.libraries.items())),
    ]
    table(f"Model {model.model_hash}", ("", ""), [line for line in lines if line[1]])
    split = f"{training.split_at:%Y-%m-%d}"
    _figures(model.model_hash, split, registered.metrics, registered.baseline)
    if registered.segments:
        columns = ("segment", "value", "cases", "AUC", "log loss", "Brier score")
        told = [
            (
                one.column,
                one.value,
                one.metrics.rows,
                one.metrics.auc,
                one.metrics.log_loss,
                one.metrics.brier,
            )
            for one in registered.segments
        ]
        table("By segment", columns, told)
    if model.measurement is not None:
        _measured(model.measurement)


def _measured(found: Mapping[str, Any]) -> None:
    told = ", ".join(
        f"{name.replace('_', ' ')} {found[name]:.4f}"
        for name in ("accuracy", "brier", "calibration_error")
        if found[name] is not None
    )
    console.print(
        f"last measured on {found['decisions']:,} decisions and {found['outcomes']:,} outcomes"
        + escape(f": {told}" if told else "")
    )


def _figures(model_hash: str, split: str, metrics: Metrics, baseline: Metrics) -> None:
    rows = [
        (name, _BETTER.get(name), getattr(metrics, name), getattr(baseline, name))
        for name in Metrics.model_fields
        if getattr(metrics, name) is not None
    ]
    columns = ("", "", "model", "baseline")
    table(f"Model {model_hash[:12]} on the later cases, from {split} on", columns, rows)
    if metrics.fit_worse_than(baseline):
        name, own, other = metrics.against(baseline)
        console.print(
            f"[yellow]It fits worse than the baseline: {name} "
            f"{own:.4f}, the baseline's {other:.4f}. Only --accept-worse "
            "approves it.[/] More history, or what the log does not hold yet, may help."
        )
