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
#: Fields whose rules no schema can say.
_DEEPER = (
    *("body", "body.password", "body.email", "body.gtin", "body.service_levels"),
    # Who sends it is the subscriber; the operator's own tokens name no member. And a header of 0
    # is sent as a good one where a body may be empty.
    *("subscriber", "header.If-Match"),
)
#: Rules over several fields, or over all items of a list, are told at the one that breaks them.
_SEVERAL = re.compile(
    r"body(\.\w+)*\.(always|break_window|centre|change|clear|closes|cron|days|delivery_window|destination|"
    r"disturbances(\.\w+)*|elasticity|ends_at|every_s|factor|files|forbids|full_mg_per_km|high|"
    r"line_sites|lines|low|model_hash|new_order_id|orders|packing_group|polygon|profiles|"
    r"promised_at|quiet_from|quiet_to|radius_m|share|site_id|scenario_id|kind|subject_ids|task|to_day|"
    r"to_position|to_s|unlimited|valid_until|values|vehicles|weights|window|work|opens|starts_at|"
    r"price_minor|cost_minor|currency|weight_g|volume_cm3|pack_size|quantity_step|credit_limit_minor|"
    r"max_level|reorder_point|safety_stock|unit_cost_minor|mode|vehicle_class|emission_class|fuel|"
    r"gross_weight_g|max_weight_g|max_volume_cm3|hazard_permits|cost_per_km_minor|cost_per_hour_minor|"
    r"fixed_cost_minor|hazard_class|un_number|tunnel_code|cost_minor|cancelled|digest|hour|zone)"
)
#: The same, wherever opening hours stand: their zones have names, their spans an order.
_HOURS = re.compile(r"body(\.\w+)*\.(zone|spans|spans\.\d+|opening_hours|hours)")
#: By Unicode's categories, of a user's name.
_READABLE = "must be readable text on one line"
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
    * it is a rule over the body as a whole: of several fields, or of all items of a list;
    * it is a password that is too simple, an address in a domain that is reserved, or a name with
      characters that nobody can read.

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
        error["field"] not in _DEEPER
        and not _HOURS.fullmatch(error["field"])
        and not _SEVERAL.fullmatch(error["field"])
        and not error["rule"].endswith(_READABLE)
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
