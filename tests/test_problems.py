"""Every type of problem is on the list, and the list has no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from api import errors
from api.identity import failures
from api.problems import COMMON, RULES, markdown, problems
from commands.context import PRECONDITION_FAILED

ROOT = Path(__file__).resolve().parent.parent
_REFUSED = re.compile(r'\b[Rr]efused\(\s*"([a-z_]+\.[a-z_]+)"')
_ADDRESS = re.compile(r'AddressRefused\(\s*"([a-z_]+)"')
_OWN = re.compile(r'^    code = "([a-z]+(?:-[a-z]+)*)"', re.MULTILINE)
_TOLD = re.compile(r'(?:problem\(request, |Told\()(?:\d{3}|[a-z_.]+), "([a-z]+(?:-[a-z]+)*)"')


def sources() -> Iterator[str]:
    """The text of every module that may refuse something."""
    for floor in ("domain", "commands", "readmodels", "eventstore", "ml", "api", "chainlytics"):
        for file in sorted((ROOT / floor).rglob("*.py")):
            yield file.read_text(encoding="utf-8")


def test_every_rule_that_may_refuse_is_explained() -> None:
    found: set[str] = set()
    for text in sources():
        found |= set(_REFUSED.findall(text))
        found |= {f"webhook.{code}" for code in _ADDRESS.findall(text)}
    assert len(found) > 60
    assert found - RULES.keys() == set(), "say in api/problems.py what these mean"
    assert RULES.keys() - found == set(), "nobody refuses these any more"
    assert RULES.keys() >= errors.UNPROCESSABLE | errors.NOT_THIS_PERSON


def test_what_is_wrong_whatever_the_state_is_no_conflict() -> None:
    expected = {
        "api_key.expires_before_it_begins": 422,
        "decision.wrong_subject": 422,
        "invitation.expires_before_it_begins": 422,
        "person.cannot_be_encrypted": 503,
        "upload.no_room": 409,
    }
    assert {code: problems()[code][0] for code in expected} == expected


def test_every_other_problem_is_explained() -> None:
    found: dict[str, int | None] = {code: status for _, status, code, _ in errors._PLAIN}
    found |= dict.fromkeys(errors._HTTP_CODES.values())
    for text in sources():
        found |= dict.fromkeys(_OWN.findall(text)) | dict.fromkeys(_TOLD.findall(text))
    found |= {PRECONDITION_FAILED: 412}
    for kind in vars(failures).values():
        if isinstance(kind, type) and issubclass(kind, failures.IdentityFailure):
            found[kind.code] = kind.status
    for _, status, code, _ in errors._PLAIN:
        assert COMMON[code][0] == status
    assert found.keys() - COMMON.keys() == set(), "say in api/problems.py what these mean"


def test_the_page_is_the_table() -> None:
    page = (ROOT / "docs" / "problems.md").read_text(encoding="utf-8")
    assert page == markdown(), "python -m api.problems > docs/problems.md"
    assert all(said.endswith(".") for _, said in problems().values())
