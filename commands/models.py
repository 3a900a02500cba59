"""Models: which rule answers which command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from commands.handler import Handler, Read
from domain import models
from domain.access import OPERATE, PLAN, SERVE


def model_stream(model_hash: str) -> str:
    """The stream of a model."""
    return models.STREAM.format(model_hash=model_hash)


def _stream(command: Any) -> str:
    return model_stream(command.model_hash)


def _by_actor(rule: Callable[..., Any]) -> Callable[..., Any]:
    return lambda command, actor, model: rule(model, command, actor)


HANDLERS = (
    Handler(
        command=models.RegisterModel,
        roles=PLAN,
        stream=_stream,
        decider=models.MODELS,
        decide=_by_actor(models.register),
        creates=True,
    ),
    Handler(
        command=models.RollBackModel,
        roles=OPERATE,
        stream=_stream,
        decider=models.MODELS,
        decide=lambda command, actor, model, to=None: models.roll_back(
            model, command, actor, model if to is None else to
        ),
        reads=lambda command: [Read(model_stream(command.to), models.MODELS)],
    ),
    Handler(
        command=models.RecordMeasurement,
        roles=SERVE,
        stream=_stream,
        decider=models.MODELS,
        decide=lambda command, _, model: models.measure(model, command),
    ),
    *(
        Handler(
            command=command,
            roles=roles,
            stream=_stream,
            decider=models.MODELS,
            decide=_by_actor(rule),
        )
        for command, roles, rule in (
            (models.ApproveModel, OPERATE, models.approve),
            (models.DeployModel, OPERATE, models.deploy),
            (models.WithdrawModel, OPERATE, models.withdraw),
            (models.StopModel, PLAN, models.stop),
            (models.ResumeModel, OPERATE, models.resume),
            (models.RetireModel, OPERATE, models.retire),
        )
    ),
)
