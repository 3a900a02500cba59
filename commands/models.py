"""Models: which rule answers which command."""

from __future__ import annotations

from commands.handler import Handler
from domain import models
from domain.access import OPERATE, PLAN


def model_stream(model_hash: str) -> str:
    """The stream of a model."""
    return models.STREAM.format(model_hash=model_hash)


HANDLERS = (
    Handler(
        command=models.RegisterModel,
        roles=PLAN,
        stream=lambda command: model_stream(command.model_hash),
        decider=models.MODELS,
        decide=lambda command, actor, model: models.register(model, command, actor),
        creates=True,
    ),
    Handler(
        command=models.ApproveModel,
        roles=OPERATE,
        stream=lambda command: model_stream(command.model_hash),
        decider=models.MODELS,
        decide=lambda command, actor, model: models.approve(model, command, actor),
    ),
    Handler(
        command=models.DeployModel,
        roles=OPERATE,
        stream=lambda command: model_stream(command.model_hash),
        decider=models.MODELS,
        decide=lambda command, actor, model: models.deploy(model, command, actor),
    ),
)
