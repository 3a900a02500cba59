"""Simulations: which rule answers which command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from commands.handler import Handler, Read
from commands.sites import site_stream
from commands.tasks import task_stream
from commands.transport import vehicle_stream
from domain import simulations, sites, task_requests, tasks, transport, work
from domain.access import OPERATE, PLAN
from domain.errors import Refused
from domain.values import Event


def scenario_stream(scenario_id: str) -> str:
    """The stream of a scenario."""
    return simulations.STREAM.format(scenario_id=scenario_id)


def _named(command: simulations.GenerateScenario) -> tuple[list[str], list[str]]:
    """The sites and the vehicles that its disturbances name, each once."""
    found = command.disturbances
    site_ids = [one.site_id for one in found if one.site_id is not None]
    vehicle_ids = [one.vehicle_id for one in found if one.vehicle_id is not None]
    return list(dict.fromkeys(site_ids)), list(dict.fromkeys(vehicle_ids))


def _sites_and_vehicles(command: simulations.GenerateScenario) -> list[Read]:
    site_ids, vehicle_ids = _named(command)
    return [
        *(Read(site_stream(site_id), sites.SITES) for site_id in site_ids),
        *(Read(vehicle_stream(vehicle_id), transport.VEHICLES) for vehicle_id in vehicle_ids),
    ]


def _generate(
    command: simulations.GenerateScenario,
    actor: str,
    scenario: simulations.Scenario,
    *states: Any,
) -> Sequence[Event]:
    events = simulations.generate(scenario, command, actor)
    site_ids, vehicle_ids = _named(command)
    for site_id, site in zip(site_ids, states, strict=False):
        sites.must_be_known(site, site_id)
    for vehicle_id, vehicle in zip(vehicle_ids, states[len(site_ids) :], strict=True):
        transport.must_be_in_use(vehicle, vehicle_id)
    return events


def _request(
    command: work.RequestSimulation,
    actor: str,
    task: tasks.Task,
    scenario: simulations.Scenario,
) -> Sequence[Event]:
    events = task_requests.request(task, command, actor)
    simulations.must_be_in_use(scenario, command.scenario_id)
    return events


def _cancel(command: simulations.CancelSimulation, actor: str, task: tasks.Task) -> Sequence[Event]:
    if task.asked is None or task.asked.kind != work.Kind.SIMULATION:
        raise Refused("simulation.unknown", simulation_id=command.task_id)
    cancel = tasks.CancelTask(**command.model_dump())
    return task_requests.cancel(task, cancel, actor)


HANDLERS: tuple[Handler, ...] = (
    Handler(
        command=simulations.GenerateScenario,
        roles=PLAN,
        stream=lambda command: scenario_stream(command.scenario_id),
        decider=simulations.SCENARIOS,
        decide=_generate,
        reads=_sites_and_vehicles,
        creates=True,
    ),
    Handler(
        command=simulations.RetireScenario,
        roles=PLAN,
        stream=lambda command: scenario_stream(command.scenario_id),
        decider=simulations.SCENARIOS,
        decide=lambda command, actor, scenario: simulations.retire(scenario, command, actor),
    ),
    Handler(
        command=simulations.CancelSimulation,
        roles=OPERATE,
        stream=lambda command: task_stream(command.task_id),
        decider=tasks.TASKS,
        decide=_cancel,
    ),
    Handler(
        command=work.RequestSimulation,
        roles=PLAN,
        stream=lambda command: task_stream(command.task_id),
        decider=tasks.TASKS,
        decide=_request,
        reads=lambda command: [Read(scenario_stream(command.scenario_id), simulations.SCENARIOS)],
        creates=True,
    ),
)
