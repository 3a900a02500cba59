"""The OpenAPI document: whole, right, and the committed one is today's; see `make contract`."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from referencing import Registry
from referencing.jsonschema import DRAFT202012
from typer.testing import CliRunner

from api.app import create_app
from api.commands import Post
from api.document_names import NAMES, TAGS
from api.documented import TAGGED
from api.examples import example_of
from api.methods import allowed
from api.openapi import operations, text_of
from chainlytics.cli import app as cli
from chainlytics.cli.openapi import _nothing, document

COMMITTED = Path(__file__).parents[1] / "docs" / "openapi.json"
BINARY = {
    "application/zip",
    "application/octet-stream",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
#: What may be asked without a token, and for what else than health and descriptions.
WITHOUT_TOKEN = ("/auth/", "/health", "/schemas", "/asyncapi.json")


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return document()


@pytest.fixture(scope="module")
def every(described: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    found = list(operations(described))
    assert len(found) > 100
    return found


def test_it_is_openapi_3_1(described: dict[str, Any]) -> None:
    assert described["openapi"] == "3.1.0"
    assert not list(OpenAPIV31SpecValidator(described).iter_errors())


def test_ids_are_unique_and_snake_case(every: list[tuple[str, str, dict[str, Any]]]) -> None:
    ids = [operation["operationId"] for _, _, operation in every]
    assert len(ids) == len(set(ids))
    assert [one for one in ids if not re.fullmatch(r"[a-z][a-z0-9_]*", one)] == []
    assert set(ids) >= TAGGED


def test_every_operation_says_what_it_does(
    described: dict[str, Any], every: list[tuple[str, str, dict[str, Any]]]
) -> None:
    tags = {tag["name"]: tag.get("description") for tag in described["tags"]}
    wanting = [
        operation["operationId"]
        for _, _, operation in every
        if not operation.get("summary")
        or operation["summary"].endswith(".")
        or not operation.get("description")
        or "``" in operation["description"]
        or len(operation.get("tags", ())) != 1
        or not tags[operation["tags"][0]]
    ]
    assert wanting == []
    assert tags.keys() <= TAGS.keys()


def test_every_parameter_is_explained(every: list[tuple[str, str, dict[str, Any]]]) -> None:
    wanting = [
        f"{operation['operationId']} {parameter['name']}"
        for _, _, operation in every
        for parameter in operation.get("parameters", ())
        if not parameter.get("description") or "example" not in parameter
    ]
    assert wanting == []


def test_every_operation_names_its_errors(every: list[tuple[str, str, dict[str, Any]]]) -> None:
    for path, _, operation in every:
        answers = operation["responses"]
        assert {"429", "503"} <= answers.keys(), path
        assert any(status.startswith("2") for status in answers), path
        if operation.get("security"):
            assert {"401", "403"} <= answers.keys(), path
        else:
            assert any(part in path for part in WITHOUT_TOKEN), path
        if operation.get("parameters"):
            assert "422" in answers, path
        if "requestBody" in operation:
            assert {"400", "408", "413", "415", "422"} <= answers.keys(), path


#: How an endpoint sets a header, and which one that is.
SET = {
    "ETag": re.compile(r'\btagged\(|"ETag"'),
    "Location": re.compile(r'"Location"'),
    "Retry-After": re.compile(r'\.headers\["Retry-After"\]'),
}


def code_of(endpoint: Any) -> str:
    """An endpoint's code, with that of the answer that a command of its own kind has."""
    post = inspect.getclosurevars(endpoint).nonlocals.get("post")
    own = post.answer if isinstance(post, Post) and post.answer is not None else None
    return "".join(map(inspect.getsource, [endpoint, *([own] if own else [])]))


def test_headers_that_endpoints_set_are_described(described: dict[str, Any]) -> None:
    app = create_app(_nothing, version="0")
    wanting, looked_at = [], dict.fromkeys(SET, 0)
    tags: set[str] = set()
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        if not isinstance(route, APIRoute) or not route.include_in_schema:
            continue
        code = code_of(route.endpoint)
        for method in map(str.lower, route.methods or ()):
            if method == "get" and SET["ETag"].search(code):
                tags.add(described["paths"][context.path][method]["operationId"])
            answers = described["paths"][context.path][method]["responses"]
            good = next(answer for status, answer in answers.items() if status.startswith("2"))
            for name, sets in SET.items():
                if sets.search(code):
                    looked_at[name] += 1
                    if name not in good.get("headers", {}):
                        wanting.append(f"{name} of {method} {context.path}")
    assert wanting == []
    # Schemas and the AsyncAPI document are tagged by what their texts are hashed to.
    assert tags | {"get_asyncapi", "list_schemas", "get_schema"} == TAGGED
    assert looked_at["ETag"] > 50
    assert looked_at["Location"] > 5
    assert looked_at["Retry-After"] > 5


def media(
    every: list[tuple[str, str, dict[str, Any]]],
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Where it stands, its type, and each body and answer."""
    for _, _, operation in every:
        places = {"body": operation.get("requestBody", {}), **operation["responses"]}
        for place, said in places.items():
            for kind, one in said.get("content", {}).items():
                yield f"{operation['operationId']} {place} {kind}", kind, one


def test_every_example_is_as_its_schema_says(
    described: dict[str, Any], every: list[tuple[str, str, dict[str, Any]]]
) -> None:
    registry: Registry[Any] = Registry().with_resource(
        "urn:document", DRAFT202012.create_resource(described)
    )

    def wrong(schema: Any, example: Any) -> list[str]:
        checker = Draft202012Validator(
            absolute(schema),
            registry=registry,
            format_checker=Draft202012Validator.FORMAT_CHECKER,
        )
        return [error.message for error in checker.iter_errors(example)]

    found = {}
    tried = 0
    for place, kind, one in media(every):
        assert "example" in one or "examples" in one or kind in BINARY, place
        examples = [named["value"] for named in one.get("examples", {}).values()]
        for example in [*examples, *([one["example"]] if "example" in one else [])]:
            tried += 1
            if errors := wrong(one["schema"], example):
                found[place] = errors
    for _, _, operation in every:
        for parameter in operation.get("parameters", ()):
            tried += 1
            if errors := wrong(parameter["schema"], parameter["example"]):
                found[f"{operation['operationId']} {parameter['name']}"] = errors
    assert found == {}
    assert tried > 1000


def absolute(schema: Any) -> Any:
    """The schema with references that are found from outside of the document."""
    if isinstance(schema, dict):
        return {
            key: f"urn:document{said}" if key == "$ref" else absolute(said)
            for key, said in schema.items()
        }
    return [absolute(one) for one in schema] if isinstance(schema, list) else schema


def test_errors_are_problems(every: list[tuple[str, str, dict[str, Any]]]) -> None:
    for path, _, operation in every:
        for status, answer in operation["responses"].items():
            if status < "400":
                continue
            [kind] = answer["content"]
            if kind == "application/json":
                # Health has the same form whether it is well or not.
                assert status == "503", path
                assert "health" in operation["tags"] or path.endswith("/health"), path
                continue
            assert kind == "application/problem+json", path
            example = answer["content"][kind]["example"]
            assert example["status"] == int(status), path
            assert example["type"] != "urn:chainlytics:problem:problem", (path, status)
            assert "X-Correlation-ID" in answer["headers"], path
            if status == "401":
                assert "WWW-Authenticate" in answer["headers"], path
            if status == "429":
                assert "Retry-After" in answer["headers"], path


def test_names_that_clients_read_well(described: dict[str, Any]) -> None:
    schemas = described["components"]["schemas"]
    assert [name for name in schemas if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", name)] == []
    assert set(NAMES.values()) <= schemas.keys(), "names in NAMES that nothing has any more"
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(described)))
    assert references <= schemas.keys()


def test_every_path_knows_its_methods() -> None:
    app = create_app(_nothing, version="0")
    assert allowed(app, "/api/v1/orders") == ["GET", "POST"]
    assert allowed(app, "/api/v1/orders/O-1") == ["GET"]
    assert allowed(app, "/api/v1/people/search") == ["POST"]
    assert allowed(app, "/api/v1/nothing") == []


@pytest.mark.parametrize(
    ("schema", "example"),
    [
        ({"type": "string", "enum": ["b", "a"]}, "b"),
        ({"type": "string", "examples": ["said"]}, "said"),
        ({"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 7}]}, 7),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.1}, 0.1),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [True, True]),
        ({"type": "object", "properties": {"sku": {"type": "string"}}}, {"sku": "SKU-001"}),
        ({"$ref": "#/components/schemas/Tree"}, {"name": "Berlin"}),
        ({"type": "string", "maxLength": 2}, "te"),
        ({"type": "object", "additionalProperties": {"type": "null"}}, {"name": None}),
    ],
)
def test_examples_follow_from_schemas(schema: dict[str, Any], example: Any) -> None:
    tree = {"type": "object", "properties": {"name": {"type": "string"}}}
    assert example_of(schema, {"Tree": tree}) == example


# what is committed


def test_the_committed_document_is_what_the_code_says(described: dict[str, Any]) -> None:
    assert COMMITTED.read_text(encoding="utf-8") == text_of(described), (
        "docs/openapi.json is not what the code says. Run\n"
        "    chainlytics openapi --out docs/openapi.json\n"
        "and commit it."
    )


def test_the_command_writes_and_compares(tmp_path: Path) -> None:
    file = tmp_path / "made" / "openapi.json"
    runner = CliRunner()
    assert runner.invoke(cli, ["openapi", "--out", str(file), "--check"]).exit_code == 1
    assert runner.invoke(cli, ["openapi", "--out", str(file)]).exit_code == 0
    assert runner.invoke(cli, ["openapi", "--out", str(file), "--check"]).exit_code == 0
    file.write_text("{}", encoding="utf-8")
    assert runner.invoke(cli, ["openapi", "--out", str(file), "--check"]).exit_code == 1
    assert runner.invoke(cli, ["openapi"]).output == text_of(document())
