"""What schemathesis cannot read from the document, and a check of our own."""

from __future__ import annotations

import re
from typing import Any

import schemathesis

from tests.world import ORGANISATION

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
#: The version that the document has for an example.
_EXAMPLE = '"7"'
#: What the ids of other organisations that are asked in begin with.
_FOREIGN = ("0", "f")
#: The log never becomes so long here.
_FAR = 1_000
#: Refused for who sends them: the operator's own tokens name no member who could subscribe, and a
#: header of 0 is sent as a good one where a body may be empty. And addresses of domains that are
#: reserved, which `format: email` does not know.
_NOT_ITSELF = ("subscriber", "header.If-Match", "body.email")
#: Headers that clients act on.
_SAID = ("etag", "location", "retry-after", "as-of-position", "www-authenticate", "link")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Wait for no position that will not come: that is 503 by design, after five seconds each. And
    ask in our own organisation: in any other there is nothing but 404, which some are left for. And
    name no version that few streams are at, or nearly every command would be answered by 412."""
    for values, name in ((case.query, "min_position"), (case.headers, "x-min-position")):
        given = (values or {}).get(name, "")
        if str(given).isdigit() and int(given) > _FAR:
            values[name] = str(_FAR) if isinstance(given, str) else _FAR
    chosen = (case.headers or {}).get("X-Organisation-Id")
    if _UUID.fullmatch(str(chosen)) and not str(chosen).startswith(_FOREIGN):
        case.headers["X-Organisation-Id"] = str(ORGANISATION)
    if _EXAMPLE in str((case.headers or {}).get("if-match")):
        del case.headers["if-match"]


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether a failure counts. To refuse what the schema allows does not where no schema says it:

    * the problem has a code of its own: the form was good, and what is there says no (a cursor of
      another query, a kind that there is not, another version than If-Match names);
    * it is a rule of our own on the body: over several fields, over all items of a list, of a check
      digit, a time zone's name, a password. Those begin with a small letter; pydantic's own, which
      are those of the document, with a capital.

    Nor does an undeclared method that another path has: `/people/search` is for POST, and read as
    `/people/{person}` for GET.
    """
    if type(failure).__name__ == "UnsupportedMethodResponse":
        paths = case.operation.schema.raw_schema["paths"]
        return not any(
            case.method.lower() in methods and re.fullmatch(re.sub(r"{\w+}", "[^/]+", path), sent)
            for sent in (case.formatted_path,)
            for path, methods in paths.items()
        )
    if type(failure).__name__ != "RejectedPositiveData" or response.status_code not in (412, 422):
        return True
    told = response.json()
    if told["type"] != "urn:chainlytics:problem:invalid":
        return False
    return any(
        error["field"] not in _NOT_ITSELF
        and (not error["field"].startswith("body") or error["rule"][:1].isupper())
        for error in told["errors"]
    )


@schemathesis.serializer("application/x-ndjson")
def lines(context: Any, value: Any) -> bytes:
    """What is sent as it is."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


@schemathesis.check
def documented_headers(context: Any, response: Any, case: Any) -> None:
    """Headers that clients act on are documented where they are sent."""
    responses = case.operation.definition.raw["responses"]
    answer = responses.get(str(response.status_code))
    if answer is not None:
        known = {name.lower() for name in answer.get("headers", {})}
        sent = {name for name in _SAID if name in response.headers}
        assert sent <= known, f"sent, but not documented: {', '.join(sorted(sent - known))}"
