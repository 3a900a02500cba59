"""Tours as a task: what is known of a site's day is gathered, solved, kept, and put into effect.

The problem is an artifact under its hash, the solution stands in the event: whoever wants to know
whether it was found as the event says solves the problem again (``replay``).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import BaseModel

from commands import Context
from commands.context import derived
from domain.access import Role
from domain.errors import Refused
from domain.factors import COST_CURRENCY
from domain.routing import Problem, Solution, canonical
from domain.tour_plans import CancelTourPlan, PlanTours, TourOrder, TourVehicle
from domain.work import ToursWork
from eventstore.ids import named_id
from ml.estimates import TRAVEL_TIME
from ml.job import CannotBeDone, Found, Job, Report, Tools
from ml.judging import Judge, Judges
from ml.routing import SOLVER, solve, solver_version, usual_iterations
from ml.tour_day import Gathered, events_of, gather
from ml.tour_problem import CurrenciesDiffer, VehicleAtHand, problem_of
from ml.travel import RULE_BASED
from ml.travel_time import ways
from readmodels.database import ReadModels
from readmodels.positions import Positions
from readmodels.tours import TourPlanDetail

#: Iterations times orders that are solved again while somebody waits: some ten seconds.
MOST_AT_ONCE = 2_000_000
#: So often is planned again where other plans were faster: each time with what these left.
_TRIES = 5
#: What a plan is refused by that was made while another one took its orders or vehicles.
_WERE_FASTER = ("tour.order_on_another_tour", "tour.vehicle_on_another_tour")
#: How long read models may take to come to the request, in seconds.
_PATIENCE_S = 30.0


class Replay(BaseModel):
    """A plan that was solved again. ``same``: to the byte; otherwise ``cause`` says why not.
    ``estimate``: what its ways come from; ``same_ways``: made again they are the same numbers;
    None: they cannot be, as its model is there no more."""

    plan_id: str
    same: bool
    cause: str | None
    problem_hash: str
    solver: str
    solver_version: str
    installed_version: str
    iterations: int
    seed: int
    bytes_compared: int
    estimate: str
    same_ways: bool | None


async def tours(tools: Tools, job: Job, report: Report) -> Found:
    """Plan a site's day.

    Raises:
        CannotBeDone: the site or the plan to be replaced is unknown, or there is nothing to plan.
    """
    asked = job.asked.tours
    assert asked is not None
    context = _context(job)
    plan_id = asked.plan_id or f"TP-{context.command_id}"
    read = ReadModels(tools.log, job.organisation_id)
    known = (await tools.log.answers([context.command_id])).get(context.command_id)
    if known is not None:  # a worker that died had come so far
        planned = await events_of(tools.log, job.organisation_id, [f"tour_plans/{plan_id}"])
        return _found(plan_id, planned[f"tour_plans/{plan_id}"][0].solution)
    report(0, 0, "gathering orders and vehicles")
    async with Positions(tools.log, tools.url) as positions:
        tables = (
            *("order_summary", "order_lines", "vehicle_list"),
            *("model_list", "model_roles"),
        )
        await positions.wait_for(job.cause.position, tables, _PATIENCE_S)
    tries = 0
    while True:
        try:
            return await _planned(tools, job, report, read, plan_id, context)
        except Refused as refusal:
            tries += 1
            if refusal.code not in _WERE_FASTER or tries == _TRIES:
                raise
        report(0, 0, "gathering again: another plan was faster")


async def _planned(
    tools: Tools, job: Job, report: Report, read: ReadModels, plan_id: str, context: Context
) -> Found:
    """Plan with what there is now, and put it into effect.

    Raises:
        Refused: what it goes by is not so any more.
    """
    asked = job.asked.tours
    assert asked is not None
    gathered = await gather(tools.log, read, job.organisation_id, asked)
    if not gathered.orders and not gathered.without and asked.replaces is None:
        # No failure: who has every day planned has days on which nothing is to go.
        told = f"no order of site {asked.site_id} is to go by {asked.day}"
        return Found({"tours": 0, "served": 0, "unserved": 0, "nothing_to_plan": told})
    judge = await Judges(tools.artifacts).now(read, TRAVEL_TIME)
    problem, at_hand = _problem(gathered, asked, judge)
    problem_hash = await tools.artifacts.put(canonical(problem))
    iterations = asked.iterations or usual_iterations(len(problem.stops))
    solution = solve(
        problem,
        iterations=iterations,
        seed=asked.seed,
        progress=lambda done, total: report(done, total, "looking for shorter tours"),
    )
    report(iterations, iterations, "putting the tours into effect")
    now = datetime.now(UTC)
    if asked.replaces is not None:
        given_up = CancelTourPlan(
            plan_id=asked.replaces, reason=f"replaced by {plan_id}", cancelled_at=now
        )
        try:
            await tools.bus.execute(given_up, derived(context, job.cause.event_id, "replaces"))
        except Refused as refusal:
            if refusal.code not in ("tour_plan.already_cancelled", "tour_plan.nothing_left"):
                raise
    await tools.bus.execute(
        _command(plan_id, asked, gathered, problem, problem_hash, solution, at_hand, now), context
    )
    return _found(plan_id, solution)


def must_be_quick(plan_id: str, iterations: int, orders: int) -> None:
    """Refuse to solve a plan again while somebody waits, if that would take more than seconds."""
    size = iterations * orders
    if size > MOST_AT_ONCE:
        raise Refused(
            "tour_plan.too_large_to_replay", plan_id=plan_id, size=size, most=MOST_AT_ONCE
        )


async def replay(content: bytes, plan: TourPlanDetail, judges: Judges) -> Replay:
    """Solve a plan's problem again, and compare the solutions byte for byte.

    Args:
        content: the artifact that the plan names.
        judges: finds the model that its ways come from.
    """
    problem = Problem.model_validate_json(content)
    then = Solution.model_validate(plan.plan["solution"])
    again = await asyncio.to_thread(
        solve, problem, iterations=plan.iterations, seed=plan.seed, progress=None
    )
    one, other = canonical(then), canonical(again)
    cause = None
    if one != other:
        cause = (
            f"{SOLVER} is {again.solver_version} here and was {plan.solver_version} then"
            if again.solver_version != plan.solver_version
            else "the solutions differ: nothing that is stored says why"
        )
    return Replay(
        plan_id=plan.plan_id,
        same=one == other,
        cause=cause,
        problem_hash=plan.problem_hash,
        solver=plan.solver,
        solver_version=plan.solver_version,
        installed_version=solver_version(),
        iterations=plan.iterations,
        seed=plan.seed,
        bytes_compared=len(one),
        estimate=plan.estimate,
        same_ways=await _same_ways(problem, plan.estimate, judges),
    )


async def _same_ways(problem: Problem, estimate: str, judges: Judges) -> bool | None:
    if problem.depot is None:
        return None
    try:
        name = TRAVEL_TIME.hash if estimate == RULE_BASED else estimate
        judge = await judges.of(TRAVEL_TIME, name)
    except Refused:
        return None
    modes = [one.mode for one in problem.profiles]
    told = (modes, problem.origin, problem.depot, problem.stops, problem.vehicles, judge)
    return await asyncio.to_thread(ways, *told) == problem.profiles


def _problem(
    gathered: Gathered, asked: ToursWork, travel: Judge
) -> tuple[Problem, tuple[VehicleAtHand, ...]]:
    if not gathered.orders and not gathered.without:
        told = f"no order of site {asked.site_id} is to go by {asked.day}"
        raise CannotBeDone("tours.nothing_to_plan", told)
    try:
        problem, at_hand = problem_of(
            gathered.site,
            asked.day,
            gathered.orders,
            gathered.vehicles,
            gathered.rules,
            gathered.tariffs,
            travel,
        )
    except CurrenciesDiffer as error:
        raise CannotBeDone("tours.currencies_differ", str(error)) from error
    without = (*gathered.without, *problem.without)
    return problem.model_copy(update={"without": without}), at_hand


def _command(
    plan_id: str,
    asked: ToursWork,
    gathered: Gathered,
    problem: Problem,
    problem_hash: str,
    solution: Solution,
    at_hand: Sequence[VehicleAtHand],
    now: datetime,
) -> PlanTours:
    by_id = {one.vehicle.vehicle_id: one for one in at_hand}
    customers = {one.order_id: one.customer_id for one in gathered.orders}
    used = [vehicle.profile for vehicle in problem.vehicles] or [0]
    direct = problem.profiles[used[0]].distance_m[0]
    return PlanTours(
        plan_id=plan_id,
        site_id=asked.site_id,
        day=asked.day,
        currency=problem.currency or COST_CURRENCY,
        origin=problem.origin,
        problem_hash=problem_hash,
        estimate=problem.profiles[0].estimate,
        solution=solution,
        vehicles=tuple(
            TourVehicle(
                vehicle_id=one.vehicle_id,
                driver_id=by_id[one.vehicle_id].driver_id,
                mode=problem.profiles[one.profile].mode,
                max_weight_g=one.max_weight_g,
                max_volume_cm3=one.max_volume_cm3,
                rates=one.rates,
                emission=one.emission,
            )
            for one in problem.vehicles
        ),
        orders=tuple(
            TourOrder(
                order_id=stop.order_id,
                weight_g=stop.weight_g,
                volume_cm3=stop.volume_cm3,
                direct_m=direct[place],
                point=stop.point,
                customer_id=customers.get(stop.order_id),
            )
            for place, stop in enumerate(problem.stops, start=1)
        ),
        replaces=asked.replaces,
        planned_at=now,
    )


def _found(plan_id: str, solution: Solution) -> Found:
    return Found(
        {
            "plan_id": plan_id,
            "tours": len(solution.routes),
            "served": sum(len(route.visits) for route in solution.routes),
            "unserved": len(solution.unserved),
            "distance_m": solution.distance_m,
            "iterations": solution.iterations,
            "seed": solution.seed,
        },
        canonical(solution),
        "application/json",
        "tours.json",
    )


def _context(job: Job) -> Context:
    """On behalf of who asked; the same command however often the task is begun."""
    name = named_id(job.cause.event_id, "plan tours")
    return Context(
        organisation_id=job.organisation_id,
        actor=job.asked.requested_by,
        roles=frozenset({Role.SERVICE}),
        command_id=name,
        correlation_id=job.cause.correlation_id,
        causation_id=job.cause.event_id,
        # Orders come and go: planned again it might be another plan, and the first one stands.
        digest=hashlib.sha256(f"plan tours {job.cause.event_id}".encode()).digest(),
    )
