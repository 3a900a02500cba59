"""The OpenAPI document: what FastAPI reads from endpoints, completed once for all of them.

Endpoints say what is their own: summary, description, models, errors. What holds everywhere is
added here: examples of every parameter, body and answer, problems by status, headers, names that
generated clients read well. `api/documented.py` and
`api/document_names.py` have the words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from threading import Lock
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from api.document_names import NAMES, PARAMETERS, TAGS
from api.documented import (
    CONTENT,
    HEADERS,
    SECURITY,
    TAGGED,
    TAKEN,
    problem_example,
)
from api.errors import PROBLEM_JSON, documented
from api.examples import example_of

OPENAPI = "3.1.0"
#: Where a server has the document.
PATH = "/openapi.json"
_METHODS = ("get", "put", "post", "delete", "patch")
_ALTERNATIVES = re.compile(r"^\^\(([\w./-]+(?:\|[\w./-]+)*)\)\$$")
_JSON = "application/json"
_PROBLEM = "#/components/schemas/Problem'"
_PAGE = re.compile(r"Page_(\w+)_")

Document = dict[str, Any]
Operation = dict[str, Any]


def describe(app: FastAPI) -> Document:
    """The document of an application; the same one for applications of the same endpoints."""
    routes = [one for one in app.routes if isinstance(one, APIRoute) and one.include_in_schema]
    key = (app.title, app.version, app.description, *map(id, routes))
    with _describing:  # whoever asks meanwhile waits for it
        if key not in _described:
            _described[key] = routes, _describe(app)
        return _described[key][1]


#: To make one takes seconds. The routes stay, so that their ids are no others'.
_described: dict[tuple[object, ...], tuple[list[APIRoute], Document]] = {}
_describing = Lock()


def _describe(app: FastAPI) -> Document:
    document = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version=OPENAPI,
        description=app.description,
        routes=app.routes,
        servers=[{"url": "/", "description": "Where this document is served"}],
    )
    document = _named(document)
    components = document["components"]
    for name, schema in components["schemas"].items():
        _title(schema, name)
        _each_schema(schema, _plain)
        if schema.get("additionalProperties") is False:
            _each_schema(schema, _precise)
    for name, scheme in components.get("securitySchemes", {}).items():
        scheme.update(SECURITY.get(name, {}))
    used: set[str] = set()
    for path, method, operation in operations(document):
        used.update(operation.get("tags", ()))
        _complete(operation, path, method, components["schemas"])
    document["tags"] = [
        {"name": tag, "description": TAGS[tag]} if tag in TAGS else {"name": tag}
        for tag in [*(tag for tag in TAGS if tag in used), *sorted(used - TAGS.keys())]
    ]
    components["headers"] = {
        name: {key: said for key, said in header.items() if key != "statuses"}
        for name, header in HEADERS.items()
    }
    return document


def _named(document: Document) -> Document:
    """The document with the names of schemas that clients are to see."""
    schemas = document["components"]["schemas"]
    names = {name: NAMES.get(name, name) for name in schemas}
    for name in schemas:
        if (page := _PAGE.fullmatch(name)) is not None:
            names[name] = f"{NAMES.get(page[1], page[1])}Page"
    text = json.dumps(document)
    for old, new in names.items():
        text = text.replace(f'"#/components/schemas/{old}"', f'"#/components/schemas/{new}"')
    document = json.loads(text)
    renamed: dict[str, Any] = {}
    for old, schema in document["components"]["schemas"].items():
        known = renamed.setdefault(names[old], schema)
        if known | {"title": ""} != schema | {"title": ""}:
            raise ValueError(f"two schemas would be {names[old]!r}: name one otherwise in NAMES")
    document["components"]["schemas"] = dict(sorted(renamed.items()))
    return document


def _title(schema: Any, name: str) -> None:
    """Name a schema, and those in it that are not named elsewhere, as a client's type."""
    if not isinstance(schema, dict):
        return
    schema.pop("title", None)
    if "$ref" not in schema and (schema.get("type") == "object" or "enum" in schema):
        schema["title"] = name
    for field, one in schema.get("properties", {}).items():
        _title(one, name + "".join(part.capitalize() for part in re.split(r"\W|_", field)))
    for key in ("anyOf", "oneOf", "allOf"):
        for one in schema.get(key, ()):
            _title(one, name)
    _title(schema.get("items"), f"{name}Item")
    _title(schema.get("additionalProperties"), f"{name}Value")


def text_of(document: Document) -> str:
    """As it is written to a file."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def install(app: FastAPI) -> None:
    """Serve this document instead of FastAPI's own."""
    app.openapi = partial(describe, app)  # type: ignore[method-assign]

    @cache
    def text() -> bytes:
        return bytes(JSONResponse(app.openapi()).body)

    def document(request: Request) -> Response:  # no coroutine: a thread makes it
        return Response(text(), media_type=_JSON)

    app.router.add_route(PATH, document, include_in_schema=False)


def operations(document: Document) -> Iterator[tuple[str, str, Operation]]:
    """Path, method and operation, as they stand."""
    for path, methods in document["paths"].items():
        for method in _METHODS:
            if method in methods:
                yield path, method, methods[method]


def _complete(operation: Operation, path: str, method: str, schemas: Mapping[str, Any]) -> None:
    parameters = operation.get("parameters", [])
    if "description" in operation:
        operation["description"] = _markdown(operation["description"])
    if operation["operationId"] in TAGGED and method == "get":
        operation["parameters"] = parameters = [*parameters, *_conditional(parameters)]
        operation["responses"].setdefault("304", {"description": "It is what you have."})
    for parameter in parameters:
        _complete_parameter(parameter, schemas)
    if body := operation.get("requestBody"):
        body.setdefault("description", f"{operation['summary']}: what is asked for.")
        for kind, media in body["content"].items():
            _each_schema(media.get("schema", {}), _plain)
            if media["schema"].get("type") == "string":
                file = {"minLength": 1} if kind == _JSON else {"minLength": 1, "format": "binary"}
                media["schema"] |= file
            if "example" not in media and "examples" not in media:
                media["example"] = example_of(media["schema"], schemas)
    answers = operation["responses"]
    for status, answer in answers.items():
        content = answer.get("content", {})
        if status.isdigit() and int(status) >= 400 and _PROBLEM in str(content.get(_JSON)):
            content[PROBLEM_JSON] = content.pop(_JSON)
    for status, answer in documented(*_usual(operation)).items():
        # A form of its own, as health's, is an endpoint's to say.
        answers.setdefault(str(status), answer)
    if _open(operation):
        # `documented` gives these to every endpoint; of open ones, a body may hold a password.
        kept = {"401", "403", "422"} if "requestBody" in operation else _usual_names(operation)
        for status in {"401", "403", "422"} - kept:
            answers.pop(status, None)
    operation["responses"] = dict(sorted(answers.items()))
    for status, answer in operation["responses"].items():
        _complete_answer(operation, path, status, answer, schemas)


def _conditional(parameters: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The header that every answer with a tag may be asked by."""
    if any(one["name"].lower() == "if-none-match" for one in parameters):
        return []
    schema = {"type": "string", "maxLength": 2000}
    return [{"name": "If-None-Match", "in": "header", "required": False, "schema": schema}]


def _open(operation: Operation) -> bool:
    return not operation.get("security")


def _usual(operation: Operation) -> set[int]:
    """Statuses that follow from what an operation takes."""
    usual = {429, 503}
    if not _open(operation):
        usual |= {401, 403}
    if any(one["name"] == "X-Organisation-Id" for one in operation.get("parameters", ())):
        usual |= {404}
    if operation.get("parameters") or operation.get("requestBody"):
        usual |= {422}
    if operation.get("requestBody"):
        usual |= {400, 408, 413, 415}
    return usual


def _usual_names(operation: Operation) -> set[str]:
    return {str(status) for status in _usual(operation)}


def _complete_parameter(parameter: dict[str, Any], schemas: Mapping[str, Any]) -> None:
    schema = parameter["schema"]
    if "anyOf" in schema:
        # What may be left out is null in Python, but nobody can send null in an address.
        options = [one for one in schema["anyOf"] if one.get("type") != "null"]
        if len(options) == 1:
            del schema["anyOf"]
            schema.update(options[0] | schema)
        else:
            schema["anyOf"] = options
    _each_schema(schema, _plain)
    name = parameter["name"]
    schema.update(TAKEN.get(name.lower(), {}).get(schema.get("type", ""), {}))
    described = schema.pop("description", None) or parameter.get("description")
    if described := described or PARAMETERS.get(name.lower()):
        parameter["description"] = _markdown(described)
    if "example" not in parameter and "examples" not in parameter:
        parameter["example"] = example_of(schema, schemas, name)
    schema.pop("examples", None)
    schema.pop("title", None)  # its name with spaces


def _complete_answer(
    operation: Operation, path: str, status: str, answer: dict[str, Any], schemas: Mapping[str, Any]
) -> None:
    if answer["description"] == "Successful Response":
        answer["description"] = f"{operation['summary']}: the answer."
    for kind, media in answer.get("content", {}).items():
        media.pop("itemSchema", None)  # a word of OpenAPI 3.2
        for key, said in CONTENT.get(kind, {}).items():
            media.setdefault(key, said)
        _each_schema(media.get("schema", {}), _plain)
        if "example" in media or "examples" in media:
            continue
        if kind == PROBLEM_JSON:
            media["example"] = problem_example(operation, path, int(status))
        elif media.get("schema"):
            media["example"] = example_of(media["schema"], schemas)
        elif kind == _JSON:
            media.update(schema={"type": "object"}, example={"asyncapi": "3.0.0"})
    headers = answer.setdefault("headers", {})
    for name, header in HEADERS.items():
        if header["statuses"](operation, status):
            headers.setdefault(name, {"$ref": f"#/components/headers/{name}"})


def _each_schema(schema: Any, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a schema and those in it."""
    if isinstance(schema, list):
        for one in schema:
            _each_schema(one, change)
    elif isinstance(schema, dict):
        change(schema)
        for key in ("items", "anyOf", "oneOf", "allOf", "prefixItems", "additionalProperties"):
            _each_schema(schema.get(key), change)
        for field in schema.get("properties", {}).values():
            _each_schema(field, change)


def _plain(schema: dict[str, Any]) -> None:
    """A schema in the words of the document: names instead of a pattern of names, Markdown."""
    if (found := _ALTERNATIVES.match(str(schema.get("pattern", "")))) is not None:
        del schema["pattern"]
        schema["enum"] = found[1].split("|")
    if len(keys := schema.get("patternProperties", {})) == 1 and "propertyNames" not in schema:
        # Pydantic's words for a map allow any value under a key of another form.
        [(pattern, values)] = keys.items()
        del schema["patternProperties"]
        schema |= {"propertyNames": {"pattern": pattern}, "additionalProperties": values}
    if isinstance(schema.get("description"), str):
        schema["description"] = _markdown(schema["description"])


def _precise(schema: dict[str, Any]) -> None:
    """What is taken, said as narrowly as it is checked."""
    for name, field in schema.get("properties", {}).items():
        form = TAKEN.get(name) or TAKEN.get(f"{schema.get('title')}.{name}")
        if form is not None:
            _each_schema(field, partial(_narrow, form))


def _narrow(forms: Mapping[str, Any], schema: dict[str, Any]) -> None:
    schema.update(forms.get(schema.get("type", ""), {}))


def _markdown(text: str) -> str:
    return text.replace("``", "`")
