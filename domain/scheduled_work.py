"""What a schedule asks for: the kind of task, what that is told, and the request it becomes."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import Field, model_validator

from domain.values import Command, Id, Value
from domain.work import (
    RequestArchiving,
    RequestInference,
    RequestSealing,
    RequestSimulation,
    RequestTours,
    RequestTraining,
)

#: What each kind of task has to be told, beside when.
_TOLD: dict[str, tuple[str, ...]] = {
    "training": ("kind",),
    "inference": ("kind",),
    "simulation": ("scenario_id",),
    "tours": ("site_id", "days_ahead"),
    "sealing": (),
    "archiving": (),
}
#: The tasks that are of the whole server, not of one organisation.
OF_THE_SERVER = frozenset({"sealing", "archiving"})


class ScheduledWork(Value):
    """The kind of task, and what that has to be told: ``kind`` of decision for training and
    inference, ``scenario_id`` for a simulation, ``site_id`` for tours, which are planned for the
    day that is ``days_ahead`` of the one on which they are due; nothing for sealing and archiving.
    """

    task: Literal["training", "inference", "simulation", "tours", "sealing", "archiving"]
    kind: Id | None = None
    scenario_id: Id | None = None
    site_id: Id | None = None
    days_ahead: Annotated[int, Field(ge=0, le=30)] | None = None

    @model_validator(mode="after")
    def _is_told_what_it_needs(self) -> Self:
        told = _TOLD[self.task]
        for name in ("kind", "scenario_id", "site_id", "days_ahead"):
            given = getattr(self, name) is not None
            if given and name not in told:
                raise ValueError(f"{name}: {self.task} is not told of one")
            if not given and name in told and name != "days_ahead":
                raise ValueError(f"{name}: {self.task} needs one")
        return self


class WorkOfSchedule(Value):
    """The same, as events keep it."""

    task: str
    kind: str | None
    scenario_id: str | None
    site_id: str | None
    days_ahead: int | None


def request_of(
    work: ScheduledWork | WorkOfSchedule, task_id: str, priority: int, at: datetime, zone: str
) -> Command:
    """The request for a schedule's task, due at a moment; tours are planned for the day of that by
    the clock of the schedule's zone.

    Raises:
        ValueError: it is not one that can be asked for; the message names the field.
    """
    said = {"task_id": task_id, "priority": priority, "requested_at": at}
    match work.task:
        case "training":
            return RequestTraining.model_validate({**said, "kind": work.kind})
        case "inference":
            return RequestInference.model_validate({**said, "kind": work.kind})
        case "simulation":
            return RequestSimulation.model_validate({**said, "scenario_id": work.scenario_id})
        case "tours":
            day = at.astimezone(ZoneInfo(zone)).date() + timedelta(days=work.days_ahead or 0)
            return RequestTours.model_validate({**said, "site_id": work.site_id, "day": day})
        case "sealing":
            return RequestSealing.model_validate(said)
        case "archiving":
            return RequestArchiving.model_validate(said)
    raise ValueError(f"task: {work.task!r} is none that a schedule can ask for")
