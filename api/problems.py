"""Every type of problem that the API may answer with, and what it means.

``python -m api.problems`` prints docs/problems.md.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from api.errors import status_of
from domain.errors import Refused

#: What is the same for all endpoints: status and meaning.
COMMON: Mapping[str, tuple[int, str]] = {
    "archive-damaged": (503, "A file of the archive of older events is lost or damaged."),
    "archive-unavailable": (503, "The archive of older events does not answer."),
    "bad-as-of": (422, "`as_of` or `effective_at` is no moment of the past."),
    "bad-cursor": (422, "The cursor was not given by this list, sorted so."),
    "bad-request": (400, "The request cannot be read: broken JSON, or an origin not allowed."),
    "bad-sort": (422, "The list cannot be sorted like that; the detail names its columns."),
    "body-too-large": (413, "The body is larger than is allowed here."),
    "body-too-slow": (408, "The body did not arrive in time."),
    "busy": (503, "Too many people log in at this moment."),
    "conflict": (409, "Something else stands against it; the detail says what."),
    "forbidden": (403, "The roles, or the scopes of the key, do not allow it."),
    "idempotency-key-reused": (409, "The key came before with other words."),
    "invalid": (422, "Fields, parameters or headers break rules; `errors` names each."),
    "issuer-unavailable": (503, "The keys of the token's issuer cannot be fetched."),
    "json-not-utf-8": (400, "The JSON is of another encoding than UTF-8."),
    "json-too-deep": (400, "The JSON has too many levels."),
    "log-unavailable": (503, "The database did not answer; try again with the same key."),
    "mail-not-set-up": (503, "The server cannot send mail."),
    "method-not-allowed": (405, "The path has other methods; `Allow` names them."),
    "no-effective-time": (422, "The list does not know when things counted from."),
    "no-such-event": (404, "There is no such event in the organisation."),
    "not-found": (404, "There is nothing of that name in the organisation."),
    "not-offered": (404, "The server does not offer this."),
    "not-sealed": (409, "The log is not sealed that far yet."),
    "organisation-needed": (422, "Several organisations, or none: name one in X-Organisation-Id."),
    "password-refused": (422, "The new password is too weak, or known to others."),
    "past-not-foldable": (503, "The past cannot be told at this moment."),
    "precondition-failed": (412, "The stream is at another version than If-Match names."),
    "query-too-slow": (503, "The query took too long; ask for less."),
    "read-model-behind": (503, "The list has not come to `min_position` in time."),
    "read-model-diverged": (503, "The list belongs to a log that was restored; it is rebuilt."),
    "read-model-outdated": (503, "The list is being rebuilt for this version."),
    "service-unavailable": (503, "It cannot be had at this moment; the detail says why."),
    "too-busy": (503, "The process answers as many requests as it may."),
    "too-many-requests": (429, "More requests than are allowed; `Retry-After` says when."),
    "too-many-tries": (429, "Too many tries to log in with this address."),
    "too-much-contention": (409, "Others kept changing the same thing; try again."),
    "unauthenticated": (401, "There is no token, or it is not to be believed."),
    "unexpected": (500, "A fault of ours; it was logged under the correlation id."),
    "unprovable": (422, "What was asked cannot be proved like that."),
    "unsupported-media-type": (415, "The body is of another media type than is read here."),
    "wrong-case": (422, "A what-if names values that the decision does not have."),
    "wrong-code": (422, "The code is unknown, used or too old."),
    "wrong-credentials": (401, "There is no account with this address and password."),
    "wrong-master-key": (503, "Personal data cannot be encrypted here."),
    "wrong-refresh-token": (401, "The refresh token is not good any more."),
}
#: What rules refuse; the status follows from api/errors.py.
RULES: Mapping[str, str] = {
    "api_key.already_issued": "There is a key of that name.",
    "api_key.already_revoked": "The key was revoked before.",
    "api_key.expires_before_it_begins": "The key would end before it is issued.",
    "api_key.unknown": "There is no such key.",
    "decision.already_contested": "It was contested before.",
    "decision.already_requested": "There is a decision of that name.",
    "decision.answers_another_request": "It is a repetition of another decision.",
    "decision.needs_a_person": "Four eyes: an API key is neither pair.",
    "decision.needs_another_person": "Four eyes: somebody else has to agree.",
    "decision.no_such_option": "The decision has no such option.",
    "decision.not_made": "It is not made yet, or failed.",
    "decision.nothing_to_confirm": "Nobody was asked to confirm it.",
    "decision.option_rejected": "The option breaks a constraint.",
    "decision.same_option": "It is the option that was chosen.",
    "decision.schema_changed": "The model was trained for other features.",
    "decision.unknown": "There is no such decision.",
    "decision.unknown_kind": "There is no such kind of decision.",
    "decision.waits_for_people": "People have to decide on it first.",
    "decision.wrong_subject": "The kind decides on other things.",
    "import.no_such_mapping": "There is no such mapping.",
    "import.other_files": "The mapping reads other files.",
    "invitation.already_made": "There is an invitation of that name.",
    "invitation.expired": "The invitation is too old.",
    "invitation.expires_before_it_begins": "The invitation would end before it is made.",
    "invitation.unknown": "There is no such invitation.",
    "member.already_added": "That is a member already.",
    "member.unknown": "That is no member.",
    "model.already_approved": "It was approved before.",
    "model.already_registered": "It was registered before.",
    "model.already_stopped": "It is stopped already.",
    "model.needs_a_person": "A person has to approve it, not an API key.",
    "model.needs_second_person": "Somebody else than who registered it has to approve it.",
    "model.never_champion": "It never was the champion, so there is no going back to it.",
    "model.no_role": "It has no role that could end.",
    "model.not_approved": "It has to be approved first.",
    "model.not_champion": "It is not the champion.",
    "model.not_stopped": "It is not stopped.",
    "model.of_another_kind": "The models are of two kinds.",
    "model.retired": "It was retired for good.",
    "model.same_model": "That is the model itself.",
    "model.stopped": "It is stopped.",
    "model.unfit": "It cannot decide what is asked of it.",
    "model.unknown": "There is no such model.",
    "model.worse_than_baseline": "It is worse than the baseline; say that this is accepted.",
    "order.already_placed": "There is an order of that name.",
    "order.already_shipped": "It was shipped.",
    "order.line_sold_by_another_site": "A line is sold by another site.",
    "order.lines_not_known": "The order's lines are not known.",
    "order.no_such_line": "The order has no such line.",
    "order.not_allocated": "It has to be allocated first.",
    "order.not_shipped": "It has to be shipped first.",
    "order.unknown": "There is no such order.",
    "organisation.already_founded": "It was founded before.",
    "organisation.full": "It has as many members as it may.",
    "organisation.needs_a_person": "No API key may say who may do what.",
    "organisation.needs_an_account": "An operator's token acts for one organisation, and is no "
    "account: chainlytics members add.",
    "organisation.too_many": "The account belongs to as many organisations as it may found.",
    "organisation.too_many_invitations": "It has as many open invitations as it may.",
    "member.needs_invitation": "Members invite; only the operator adds an account without asking.",
    "organisation.needs_an_admin": "It would be left without an admin.",
    "person.already_erased": "The person was erased before.",
    "person.cannot_be_encrypted": "There is no key to encrypt personal data with.",
    "person.erased": "The person was erased; there is nothing to add to.",
    "person.unknown": "There is no such person.",
    "policy.already_stopped": "The kind is stopped already.",
    "policy.not_stopped": "The kind is not stopped.",
    "route.already_forbidden": "The route is forbidden already.",
    "route.not_forbidden": "The route is not forbidden.",
    "site.already_opened": "There is a site of that name.",
    "site.closed": "The site is closed.",
    "site.service_level_not_offered": "The site does not offer that service level.",
    "site.unknown": "There is no such site.",
    "stock.not_enough": "There is less on hand.",
    "task.already_finished": "The task is finished.",
    "task.already_requested": "There is a task of that name.",
    "task.cancelling": "The task is being cancelled.",
    "task.not_completed": "The task has no result yet, or none at all.",
    "task.not_yours": "Another worker has the task by now.",
    "task.of_somebody_else": "The task is somebody else's.",
    "task.unknown": "There is no such task.",
    "upload.no_room": "So much waits to be imported that this file has no room.",
    "upload.unknown": "There is no such file; it may be too old.",
    "vehicle.already_registered": "There is a vehicle of that name.",
    "vehicle.at_another_site": "The vehicle is at another site.",
    "vehicle.does_not_serve": "The vehicle is not for that service level or weight.",
    "vehicle.retired": "The vehicle was retired.",
    "vehicle.unknown": "There is no such vehicle.",
    "webhook.address_not_allowed": "The host has no address that is called.",
    "webhook.already_paused": "It is paused already.",
    "webhook.already_registered": "There is a webhook of that name.",
    "webhook.https_needed": "A public host is called by https.",
    "webhook.not_paused": "It is not paused.",
    "webhook.port_not_allowed": "The port is not one that is called.",
    "webhook.unknown": "There is no such webhook.",
    "webhook.unknown_event": "There is no such event.",
    "webhook.was_removed": "It was removed.",
}


def problems() -> dict[str, tuple[int, str]]:
    """Status and meaning of every type, by its code."""
    rules = {code: (int(status_of(Refused(code))), said) for code, said in RULES.items()}
    return dict(sorted({**COMMON, **rules}.items()))


def markdown() -> str:
    """The page of all problems."""
    lines = [
        "# Problems",
        "",
        "Every error is a problem (RFC 9457, `application/problem+json`). `type` is",
        "`urn:chainlytics:problem:` and one of the codes below, and stays what it is; `detail` is",
        "for people; `errors` names fields, rules and refused values; `context` has the values",
        "that a rule looked at; `correlation_id` is what operators find in their logs.",
        "",
        "Made by `python -m api.problems` from the table in api/problems.py.",
        "",
        "| code | status | what it means |",
        "|---|---|---|",
    ]
    lines += [f"| `{code}` | {status} | {said} |" for code, (status, said) in problems().items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
