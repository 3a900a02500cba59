"""Errors as problem details (RFC 9457): one table from domain codes to status, one shape."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from http import HTTPStatus
from typing import Any, NamedTuple

import psycopg
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from api.authorisation import NoSuchOrganisation, OrganisationNeeded
from api.dependencies import NotAllowed, NotFound
from api.identity.failures import IdentityFailure
from api.identity.jwks import KeysUnavailable
from api.tokens import InvalidToken
from commands import Forbidden, TooMuchContention, VersionMismatch
from commands.catalogue import COMMANDS
from domain.errors import Refused
from domain.people import is_about_person, personal_parts
from eventstore import CommandReused, LogUnavailable
from eventstore.archive.object_store import ArchiveDamaged, ArchiveUnavailable
from eventstore.persons.keys import WrongMasterKey
from eventstore.seals.proofs import NoSuchEvent, NotSealed, Unprovable
from ml.whatif import WrongCase
from readmodels.database import ReadModelDiverged, ReadModelOutdated
from readmodels.exports import BadFilter, ExportsBusy
from readmodels.kpi_reports import BadReport
from readmodels.page import BadCursor
from readmodels.past import NotAMoment, NotByEffectiveTime, NotFoldable, NotInThePast
from readmodels.positions import ReadModelBehind
from readmodels.sorting import BadSort

_log = structlog.get_logger(__name__)

#: Rules that the sender broke whatever the state; every other refusal is a conflict with the state.
UNPROCESSABLE = frozenset(
    {
        "order.no_such_line",
        "order.lines_not_known",
        "order.line_sold_by_another_site",
        "order.location_too_exact",
        "order.promised_before_placed",
        "order.quantity_not_in_steps",
        "shipment.of_several_sites",
        "site.service_level_not_offered",
        "product.currency_missing",
        "product.not_what_the_unit_is",
        "product.pack_not_of_steps",
        "product.step_not_whole",
        "stock_keeping.currency_missing",
        "stock_keeping.level_not_of_steps",
        "stock_keeping.max_level_too_low",
        "stock_keeping.safety_above_reorder_point",
        "route_rule.broken",
        "route_rule.zone_crosses_itself",
        "vehicle.contradicts_itself",
        "vehicle.not_permitted_to_carry",
        "vehicle.overloaded",
        "tour.before_it_began",
        "tour.no_such_stop",
        "vehicle.at_another_site",
        "vehicle.does_not_serve",
        "decision.unknown_kind",
        "decision.no_such_option",
        "decision.option_rejected",
        "model.of_another_kind",
        "model.same_model",
        "simulation.position_ahead",
        "metric.reserved_id",
        "import.no_such_mapping",
        "import.other_files",
        "import.file_unusable",
        "webhook.unknown_event",
        "alert.snoozed_until_past",
        "notification.no_address",
        "webhook.address_not_allowed",
        "webhook.https_needed",
        "webhook.port_not_allowed",
        "api_key.expires_before_it_begins",
        "decision.wrong_subject",
        "invitation.expires_before_it_begins",
    }
)
#: What this installation is not set up for: it is nobody's fault who asks.
NOT_SET_UP = frozenset({"person.cannot_be_encrypted", "notification.no_mail"})
#: Rules about who it is: another person may.
NOT_THIS_PERSON = frozenset({"decision.needs_another_person", "model.needs_second_person"}) | {
    "notification.of_somebody_else",
    *("task.of_somebody_else", "organisation.needs_a_person", "member.needs_invitation"),
    *("organisation.needs_an_account", "decision.needs_a_person", "model.needs_a_person"),
}
#: Fields whose values are never told.
_SECRETS = frozenset(("body", name) for name in ("password", "code", "refresh_token"))
_PERSONS = [part for command in COMMANDS.values() for part in personal_parts(command)]


#: The media type of problem details.
PROBLEM_JSON = "application/problem+json"


class FieldError(BaseModel):
    """A field that was not accepted, its value, and the rule that it breaks."""

    field: str
    rule: str
    value: Any = None


class Problem(BaseModel):
    """What went wrong."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:chainlytics:problem:order.already_placed"])
    title: str
    status: int
    detail: str
    correlation_id: str | None = None
    errors: list[FieldError] | None = None


def status_of(refusal: Refused) -> HTTPStatus:
    """412 for another version than was seen, 404 for what is not known, 403 for what another person
    may, 422 for a broken rule of form, 503 for what is not set up, 409 for a conflict of states."""
    if isinstance(refusal, VersionMismatch):
        return HTTPStatus.PRECONDITION_FAILED
    if refusal.code.endswith(".unknown"):
        return HTTPStatus.NOT_FOUND
    if refusal.code in NOT_THIS_PERSON:
        return HTTPStatus.FORBIDDEN
    if refusal.code in UNPROCESSABLE:
        return HTTPStatus.UNPROCESSABLE_ENTITY
    if refusal.code in NOT_SET_UP:
        return HTTPStatus.SERVICE_UNAVAILABLE
    return HTTPStatus.CONFLICT


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of an endpoint, for its documentation."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
            },
        }
        for status in sorted({401, 403, 422, 503, *statuses})
    }


def problem(
    request: Request,
    status: int,
    code: str,
    detail: str,
    *,
    errors: Sequence[FieldError] = (),
    context: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An answer in the one shape of errors."""
    return _answer(request, Told(status, code, detail, errors, context, headers))


def _answer(request: Request, told: Told) -> JSONResponse:
    return JSONResponse(
        problem_of(told, str(getattr(request.state, "correlation_id", ""))),
        status_code=told.status,
        media_type=PROBLEM_JSON,
        headers=told.headers,
    )


class Told(NamedTuple):
    """What is told of an error, whichever way the answer goes."""

    status: int
    code: str
    detail: str
    errors: Sequence[FieldError] = ()
    context: Mapping[str, Any] | None = None
    headers: Mapping[str, str] | None = None


def problem_of(told: Told, correlation_id: str) -> dict[str, Any]:
    """Problem details as JSON has them."""
    body = Problem(
        type=f"urn:chainlytics:problem:{told.code}",
        title=HTTPStatus(told.status).phrase,
        status=told.status,
        detail=told.detail,
        correlation_id=correlation_id or None,
        errors=list(told.errors) or None,
        **({"context": dict(told.context)} if told.context else {}),
    )
    return body.model_dump(exclude_none=True)


def told_of(error: Exception) -> Told:
    """What is told of why a command was not taken; of what nobody foresaw, nothing but that."""
    match error:
        case Refused():
            return Told(status_of(error), error.code, error.detail, context=error.context)
        case IdentityFailure():
            return Told(error.status, error.code, str(error), headers=error.headers)
        case RequestValidationError():
            errors = _field_errors(error)
            detail = "; ".join(f"{one.field}: {one.rule}" for one in errors[:5])
            return Told(422, "invalid", detail, errors)
        case HTTPException():
            phrase = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
            code = getattr(error, "code", None) or _HTTP_CODES.get(error.status_code, phrase)
            return Told(error.status_code, code, str(error.detail), headers=error.headers)
    for kind, status, code, headers in _PLAIN:
        if isinstance(error, kind):
            return Told(status, code, str(error), headers=headers)
    return _UNEXPECTED


#: What the framework and the guards before it refuse, where HTTP's own phrase says less.
_HTTP_CODES = {
    408: "body-too-slow",
    413: "body-too-large",
    429: "too-many-requests",
}
_UNEXPECTED = Told(500, "unexpected", "something went wrong here; it was logged")


def install(app: FastAPI) -> None:
    """Answer every expected error of the application as problem details."""
    app.exception_handler(Refused)(_told)
    app.exception_handler(NotFound)(_not_found)
    app.exception_handler(IdentityFailure)(_told)
    app.exception_handler(RequestValidationError)(_told)
    app.exception_handler(WrongCase)(_wrong_case)
    app.exception_handler(HTTPException)(_told)
    app.exception_handler(psycopg.errors.QueryCanceled)(_too_slow)
    app.exception_handler(psycopg.OperationalError)(_cut_off)
    app.exception_handler(psycopg.InterfaceError)(_cut_off)
    app.exception_handler(ArchiveUnavailable)(_archive_away)
    app.exception_handler(ArchiveDamaged)(_archive_damaged)
    for kind, *_ in _PLAIN:
        app.exception_handler(kind)(_told)


_RETRY = {"Retry-After": "1"}
_PLAIN: tuple[tuple[type[Exception], int, str, Mapping[str, str]], ...] = (
    (InvalidToken, 401, "unauthenticated", {"WWW-Authenticate": "Bearer"}),
    (KeysUnavailable, 503, "issuer-unavailable", {"Retry-After": "30"}),
    (NoSuchOrganisation, 404, "not-found", {}),
    (OrganisationNeeded, 422, "organisation-needed", {}),
    (NotAllowed, 403, "forbidden", {}),
    (Forbidden, 403, "forbidden", {}),
    (NoSuchEvent, 404, "no-such-event", {}),
    (Unprovable, 422, "unprovable", {}),
    (CommandReused, 409, "idempotency-key-reused", {}),
    (TooMuchContention, 409, "too-much-contention", _RETRY),
    (NotSealed, 409, "not-sealed", _RETRY),
    (BadCursor, 422, "bad-cursor", {}),
    (BadSort, 422, "bad-sort", {}),
    (BadFilter, 422, "bad-filter", {}),
    (BadReport, 422, "bad-report", {}),
    (ExportsBusy, 503, "too-busy", {"Retry-After": "10"}),
    (NotAMoment, 422, "bad-as-of", {}),
    (NotInThePast, 422, "bad-as-of", {}),
    (NotByEffectiveTime, 422, "no-effective-time", {}),
    (LogUnavailable, 503, "log-unavailable", _RETRY),
    (WrongMasterKey, 503, "wrong-master-key", {}),
    (ReadModelBehind, 503, "read-model-behind", _RETRY),
    (NotFoldable, 503, "past-not-foldable", {"Retry-After": "5"}),
    (ReadModelOutdated, 503, "read-model-outdated", {"Retry-After": "5"}),
    (ReadModelDiverged, 503, "read-model-diverged", {"Retry-After": "5"}),
)


async def _told(request: Request, error: Exception) -> JSONResponse:
    return _answer(request, told_of(error))


async def _not_found(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, NotFound)
    return problem(request, 404, "not-found", str(error), context=error.context)


def _field_errors(error: RequestValidationError) -> list[FieldError]:
    return [_field_error(one) for one in error.errors()[:50]]


def _field_error(error: Mapping[str, Any]) -> FieldError:
    place, value = tuple(error["loc"]), error.get("input")
    rule, unsaid = error["msg"], _unsaid(error)
    if error["type"] == "value_error":
        rule = rule.removeprefix("Value error, ")
        # A rule over several fields says in front which one it is about: "ends_at: must be after".
        named = re.match(r"([a-z_0-9]+)(?:\.\d+)?: ", rule)
        if named and isinstance(value, Mapping) and named[1] not in place[-1:]:
            place, value = (*(place or ("body",)), named[1]), value.get(named[1])
            unsaid = unsaid or _unsaid({**error, "loc": place})
            rule = rule[named.end() :]
    return FieldError(
        # An unknown field's name is the sender's: of any length, of any characters.
        field=_short(".".join(str(part) for part in place)) or "body",
        rule=rule,
        value=None if unsaid else _short(value),
    )


def _unsaid(error: Mapping[str, Any]) -> bool:
    """Whether the value is not told: a person's is not, nor the search for one; of a missing field,
    the input is all that is there."""
    where, *place = error["loc"] or ("",)
    return (
        error["type"] == "missing"
        or (where, *place) in _SECRETS
        or (where, *place) == ("body", "search")
        or is_about_person(_PERSONS, place)
    )


async def _wrong_case(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, WrongCase)
    # It says "field: value and rule"; the value is quoted where it was sent as text.
    field, _, rule = str(error).partition(": ")
    quoted = re.match(r"'([^']*)'", rule)
    told = FieldError(field=field, rule=rule, value=_short(quoted[1]) if quoted else None)
    return problem(request, 422, "wrong-case", str(error), errors=[told])


def _short(value: Any) -> Any:
    """A refused value as it can be shown: scalars, cut; of anything larger what it is in JSON."""
    if isinstance(value, str):
        return value[:100].encode("utf-8", "replace").decode()
    if isinstance(value, bool | None) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    if isinstance(value, int | float | Decimal | date):
        return str(value)[:100]
    return "an object" if isinstance(value, Mapping) else "a list"


def http_problem(request: Request, error: HTTPException) -> JSONResponse:
    """What the framework refuses, in the one shape of errors."""
    return _answer(request, told_of(error))


async def _cut_off(request: Request, error: Exception) -> JSONResponse:
    # A pooled connection learns only from its next query that the server has ended it.
    _log.warning("database connection lost", path=request.url.path, error=str(error).strip())
    detail = "the connection to the database was lost"
    return problem(request, 503, "log-unavailable", detail, headers=_RETRY)


async def _too_slow(request: Request, error: Exception) -> JSONResponse:
    _log.warning("query cancelled", path=request.url.path, error=str(error).strip())
    detail = "the query took too long; ask for less: a shorter stretch, more filters, another sort"
    return problem(request, 503, "query-too-slow", detail)


async def _archive_away(request: Request, error: Exception) -> JSONResponse:
    # Where the archive is, is nobody's business but the operators'.
    _log.warning("archive unavailable", path=request.url.path, error=str(error))
    detail = "the archive of older events does not answer"
    return problem(request, 503, "archive-unavailable", detail, headers={"Retry-After": "5"})


async def _archive_damaged(request: Request, error: Exception) -> JSONResponse:
    _log.critical("archive damaged", path=request.url.path, error=str(error))
    detail = "a file of the archive of older events is lost or damaged; it was logged"
    return problem(request, 503, "archive-damaged", detail)


def unexpected(request: Request, error: Exception) -> JSONResponse:
    """An answer to what nobody foresaw: the reason goes to the log, never to the client."""
    _log.error("unexpected error", path=request.url.path, exc_info=error)
    return _answer(request, _UNEXPECTED)
