"""The words of the OpenAPI document that hold for all endpoints."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from domain.values import CURRENCIES

_ID = "6f1b7a52-0c35-4c1e-9d57-0d4a5a3c8f11"

_TAG = r'(W/)?"[!#-~]*"'


#: What FastAPI's security schemes are, in the words of a user.
SECURITY: Mapping[str, Mapping[str, Any]] = {
    "HTTPBearer": {
        "description": "A token in `Authorization: Bearer ...`: of a signed-in user, of the "
        "identity provider that the installation trusts, an API key, or an operator's "
        "(`chainlytics token`).",
    },
}

#: What fields (or fields of a schema) of these names may hold in a request, by type, where the type
#: says less than is checked.
TAKEN: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "if-match": {"string": {"pattern": rf"^(\*|{_TAG}(\s*,\s*{_TAG})*)$"}},
    "currency": {"string": {"enum": sorted(CURRENCIES)}},
    "Recipient.name": {"string": {"pattern": r"\S"}},
    "Recipient.street": {"string": {"pattern": r"\S"}},
    "Recipient.city": {"string": {"pattern": r"\S"}},
    "Recipient.phone": {"string": {"pattern": r"^\+?[ ()/.-]*([0-9][ ()/.-]*){3}[0-9 ()/.-]*$"}},
    "quantity": {
        "string": {"pattern": r"^(?=.*[1-9])[0-9]{1,12}(\.[0-9]{1,3})?$"},
        "number": {"multipleOf": 0.001, "maximum": 10**12 - 1},
    },
    "change": {
        "string": {"pattern": r"^-?[0-9]{1,12}(\.[0-9]{1,3})?$"},
        "number": {"multipleOf": 0.001, "minimum": 1 - 10**12, "maximum": 10**12 - 1},
    },
}


def _any(operation: Mapping[str, Any], status: str) -> bool:
    return True


def _of(*statuses: str) -> Callable[[Mapping[str, Any], str], bool]:
    return lambda operation, status: status in statuses


def _tagged(operation: Mapping[str, Any], status: str) -> bool:
    """Whether an answer names the version of what it shows."""
    if status not in ("200", "201", "202", "304"):
        return False
    return operation["operationId"] in TAGGED | TAGGED_COMMANDS or _takes_a_key(operation)


def _takes_a_key(operation: Mapping[str, Any]) -> bool:
    return any(one["name"].lower() == "idempotency-key" for one in operation.get("parameters", ()))


def _of_a_task(operation: Mapping[str, Any], status: str) -> bool:
    """Whether an answer to a command shows a task, and says where it is."""
    if status not in ("200", "202") or not _takes_a_key(operation):
        return False
    return "tasks" in operation["tags"] or operation["operationId"] in TASKS_ELSEWHERE


def _located(operation: Mapping[str, Any], status: str) -> bool:
    """Whether an answer to a command says where to look for what it brought about."""
    good = status in ("200", "201", "202")
    return _of_a_task(operation, status) or (good and operation["operationId"] in LOCATED)


def _later(operation: Mapping[str, Any], status: str) -> bool:
    """Whether an answer says when to ask again."""
    if status == "200" and operation["operationId"] in ("get_task", "get_simulation"):
        return True
    return status in ("409", "429", "503") or _of_a_task(operation, status)


def _in_the_past(operation: Mapping[str, Any], status: str) -> bool:
    names = {parameter["name"] for parameter in operation.get("parameters", ())}
    return status == "200" and "as_of" in names


#: Queries whose answers have an `ETag`.
TAGGED = frozenset(
    {
        "get_order",
        "get_site",
        "get_product",
        "get_stock_keeping",
        "get_stock",
        "get_vehicle",
        "get_decision",
        "get_explanation",
        "get_waterfall",
        "get_policy",
        "get_model",
        "get_counterfactual",
        "get_asyncapi",
        "list_schemas",
        "get_schema",
        "get_organisation",
        "get_member",
        "get_task",
        "get_webhook",
        "get_client",
        "get_metric",
        "get_forecast",
        "get_forecast_picture",
        "get_plan",
        "get_tour",
        "get_scenario",
        "get_simulation",
        "simulation_results",
        "get_schedule",
        "get_alert",
        "get_rule",
        "get_subscription",
        "explain_decision",
        "get_factors",
        "decision_insights",
    }
)
#: Commands whose answers have one although they take no `Idempotency-Key`.
TAGGED_COMMANDS = frozenset({"accept_invitation"})

#: Commands of other areas whose answers show a task.
TASKS_ELSEWHERE = frozenset({"request_tours", "request_simulation", "cancel_simulation"})
#: Commands whose answers say where something is that is no task.
LOCATED = frozenset({"generate_scenario", "ask_and_wait"})

#: Headers of answers; ``statuses`` says which answers have them.
HEADERS: Mapping[str, Mapping[str, Any]] = {
    "X-Correlation-ID": {
        "description": "The request's id, as logs and events name it: yours, where you sent "
        "`X-Correlation-ID` or `traceparent`.",
        "schema": {"type": "string", "format": "uuid"},
        "example": _ID,
        "required": True,
        "statuses": _any,
    },
    "ETag": {
        "description": "The version of what the answer shows.",
        "schema": {"type": "string"},
        "example": '"3"',
        "statuses": _tagged,
    },
    "As-Of-Position": {
        "description": "The log position that the answer is as of, where the past was asked for.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
        "example": "1234",
        "statuses": _in_the_past,
    },
    "WWW-Authenticate": {
        "description": "How to say who you are.",
        "schema": {"type": "string"},
        "example": "Bearer",
        "required": True,
        "statuses": _of("401"),
    },
    "RateLimit": {
        "description": "What is left of the budget that was used up, and when there is more.",
        "schema": {"type": "string"},
        "example": '"identity";r=0;t=1',
        "statuses": _of("429"),
    },
    "RateLimit-Policy": {
        "description": "The budget that was used up: requests, and seconds until it is full again.",
        "schema": {"type": "string"},
        "example": '"identity";q=10000;w=10',
        "statuses": _of("429"),
    },
    "Location": {
        "description": "Where what was asked for is: a task, usually.",
        "schema": {"type": "string", "format": "uri-reference"},
        "example": "/api/v1/tasks/T-1",
        "statuses": _located,
    },
    "Retry-After": {
        "description": "Seconds after which another try may help, or after which it is worth to "
        "look again: of a task, as long as it is not finished.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
        "example": "1",
        "statuses": _later,
    },
}

#: Kinds of content that no model describes.
CONTENT: Mapping[str, Mapping[str, Any]] = {
    "image/svg+xml": {
        "schema": {"type": "string"},
        "example": '<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>',
    },
    "text/plain": {
        "schema": {"type": "string"},
        "example": "# HELP chainlytics_log_head The last position of the log.\n"
        "# TYPE chainlytics_log_head gauge\nchainlytics_log_head 1234.0\n",
    },
    "text/event-stream": {
        "schema": {"type": "string"},
        "example": 'id: 1234\nevent: OrderPlaced\ndata: {"position": 1234}\n\n',
    },
    "text/csv": {"schema": {"type": "string"}, "example": "order_id,result\nO-1,accepted\n"},
    "text/html": {"schema": {"type": "string"}, "example": "<!DOCTYPE html>\n<html></html>\n"},
    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    "text/markdown": {
        "schema": {"type": "string"},
        "example": "# Model card\n\nWhat it decides, what it learned from, how well it does.\n",
    },
    "application/zip": {"schema": {"type": "string", "format": "binary"}},
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": {
        "schema": {"type": "string", "format": "binary"}
    },
    "application/schema+json": {
        "schema": {"type": "object"},
        "example": {"title": "OrderPlaced", "type": "object", "properties": {}},
    },
}

#: By status: the code of an example problem, and what it says.
_PROBLEMS: Mapping[int, tuple[str, str]] = {
    400: ("bad-request", "There was an error parsing the body"),
    401: ("unauthenticated", "a bearer token is needed"),
    403: ("forbidden", "this is not allowed for viewer"),
    404: ("not-found", "it is not known"),
    406: ("not-acceptable", "none of the media types that you accept is there"),
    408: ("request-timeout", "the request took longer than it may"),
    409: ("too-much-contention", "others changed the same thing all the time; try again"),
    411: ("length-required", "say by Content-Length how long the body is"),
    412: ("precondition-failed", "it was changed: its version is 4, not 3"),
    413: ("body-too-large", "the body is larger than 1,000,000 bytes"),
    415: ("unsupported-media-type", "the body must be application/json"),
    422: ("invalid", "body.order_id: String should match pattern"),
    428: ("precondition-required", "say by If-Match which version you mean"),
    429: ("rate-limited", "too many requests; try again later"),
    500: ("unexpected", "something went wrong here; it was logged"),
    501: ("not-implemented", "this installation does not offer it"),
    502: ("bad-gateway", "another service did not answer as it should"),
    503: ("log-unavailable", "the database does not answer"),
}
_FIELD = {
    "field": "body.order_id",
    "rule": "String should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'",
    "value": "O 1",
}


def problem_example(operation: Mapping[str, Any], path: str, status: int) -> dict[str, Any]:
    """What an operation's problem of a status may look like."""
    code, detail = _PROBLEMS.get(status, ("problem", HTTPStatus(status).phrase))
    more: dict[str, Any] = {}
    parameters = {one["name"]: one.get("example") for one in operation.get("parameters", ())}
    if status == 404 and (places := re.findall(r"\{(\w+)\}", path)):
        what = places[0].removesuffix("_id").replace("_", " ")
        detail = f"{what} {parameters[places[0]]!r} is not known"
    if status == 409 and "idempotency-key" in parameters:
        code = "idempotency-key-reused"
        detail = "the idempotency key was used before, for another command"
    if status == 409 and {"proof", "decisions"} & set(operation["tags"]) and "get" in path:
        code, detail = "not-sealed", "the newest events are not sealed yet"
    if status == 422:
        field = _FIELD if "order_id" in str(operation) else _field_of(parameters)
        more["errors"] = [field]
        detail = f"{field['field']}: {field['rule']}"
    return {
        "type": f"urn:chainlytics:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "correlation_id": _ID,
    } | more


def _field_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    if "limit" in parameters:
        rule = "Input should be less than or equal to 500"
        return {"field": "query.limit", "rule": rule, "value": "501"}
    return {"field": "body.color", "rule": "Extra inputs are not permitted", "value": "red"}
