"""Reviews: people confirm, override and contest; the model's own decision stays as it was."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import reduce
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from domain import decisions, reviews
from domain.decisions import (
    Candidate,
    DecisionConfirmed,
    DecisionContested,
    DecisionExplained,
    DecisionFailed,
    DecisionMade,
    DecisionNotRedecided,
    DecisionOutcomeRecorded,
    DecisionOverridden,
    DecisionReferred,
    DecisionRequested,
    KeepDecision,
    RecordOutcome,
    Stage,
    Weights,
)
from domain.errors import Refused
from domain.reviews import ConfirmDecision, ContestDecision, OverrideDecision
from domain.values import Command, Event
from tests.spec import Given, given, problems

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HASH = "a" * 64
WEIGHTS = Weights(risk_minor=3000)
NAMES = {"decision_id": "D-1", "kind": "fulfilment", "subject_id": "O-1"}
BEST, NEXT, CLOSED = {"site_id": "S-1"}, {"site_id": "S-2"}, {"site_id": "S-3"}


def candidate(option: dict[str, str], *rejected: str) -> Candidate:
    return Candidate(
        option=option,
        features="AAAAAA==",
        lineage={},
        margin=-1.0,
        probability=0.25,
        risk=0.25,
        cost_minor=500,
        carbon_g=0,
        objective=1.0,
        rejected=rejected,
    )


requested = DecisionRequested(
    **NAMES, weights=WEIGHTS, priority=7, deadline=None, redecides=None, requested_at=NOON
)
made = DecisionMade(
    **NAMES,
    as_of=41,
    role="champion",
    model_hash=HASH,
    schema_hash="b" * 64,
    code="c" * 64,
    libraries={},
    weights=WEIGHTS,
    candidates=(candidate(BEST), candidate(NEXT), candidate(CLOSED, "site.closed", "stock.none")),
    chosen=0,
    option=BEST,
    probability=0.25,
    foretold=0.25,
    risk=0.125,
    confidence=0.75,
    value_minor=100,
    currency="EUR",
)
none_allowed = made.model_copy(
    update={
        "candidates": (candidate(CLOSED, "site.closed"),),
        "chosen": None,
        "option": {},
        "probability": None,
        "foretold": None,
        "risk": None,
        "confidence": None,
    }
)
explained = DecisionExplained(
    **NAMES, contributions=(), summary="S-1", reasons=(), rejections=(), runner_up=None
)
failed = DecisionFailed(**NAMES, code="decision.no_model", detail="none")
closed = DecisionOutcomeRecorded(
    **NAMES,
    model_hash=HASH,
    probability=0.25,
    foretold=0.25,
    occurred=False,
    followed=True,
    cost_minor=None,
    known_at=None,
)
contested = DecisionContested(
    **NAMES,
    reason="too dear",
    contested_by="ana",
    redecide=True,
    weights=WEIGHTS,
    priority=7,
    contested_at=NOON,
)

CONFIRM = ConfirmDecision(decision_id="D-1", confirmed_at=NOON)
OVERRIDE = OverrideDecision(decision_id="D-1", option=NEXT, reason="nearer", overridden_at=NOON)
CONTEST = ContestDecision(decision_id="D-1", reason="too dear", contested_at=NOON)
OUTCOME = RecordOutcome(decision_id="D-1", occurred=False, followed=True, known_at=None)


def referred(approvals: int) -> DecisionReferred:
    return DecisionReferred(**NAMES, model_hash=HASH, approvals=approvals, reasons=())


def confirmed(by: str, left: int, option: dict[str, str] = BEST) -> DecisionConfirmed:
    return DecisionConfirmed(
        **NAMES,
        model_hash=HASH,
        option=option,
        confirmed_by=by,
        approvals_left=left,
        confirmed_at=NOON,
    )


def overridden(
    by: str, left: int, option: dict[str, str] = NEXT, first: bool = True
) -> DecisionOverridden:
    return DecisionOverridden(
        **NAMES,
        model_hash=HASH,
        decided=BEST,
        option=option,
        reason="nearer",
        overridden_by=by,
        first=first,
        approvals_left=left,
        overridden_at=NOON,
    )


def decided(*more: Event) -> Given:
    return given(requested, made, explained, *more)


# confirm


def test_one_person_confirms_what_was_referred() -> None:
    decided(referred(1)).when(CONFIRM, "ana").then(confirmed("ana", 0))


def test_four_eyes_are_of_two_persons() -> None:
    decided(referred(2)).when(CONFIRM, "ana").then(confirmed("ana", 1))
    once = decided(referred(2), confirmed("ana", 1))
    once.when(CONFIRM, "ana").refused("decision.needs_another_person", actor="ana")
    once.when(CONFIRM, "ben").then(confirmed("ben", 0))


@pytest.mark.parametrize("before", [[], [confirmed("ana", 1)]])
@pytest.mark.parametrize("command", [CONFIRM, OVERRIDE])
def test_a_key_is_neither_pair_of_four_eyes(before: list[Event], command: Command) -> None:
    referred_to_two = decided(referred(2), *before)
    referred_to_two.when(command, "key:K-1").refused("decision.needs_a_person", actor="key:K-1")


def test_a_key_agrees_where_one_is_enough() -> None:
    decided(referred(1)).when(CONFIRM, "key:K-1").then(confirmed("key:K-1", 0))


@pytest.mark.parametrize(
    ("history", "code"),
    [
        ([], "decision.unknown"),
        ([requested], "decision.not_referred"),
        ([requested, failed], "decision.not_referred"),
        ([requested, made, explained], "decision.not_referred"),
        ([requested, made, explained, referred(1), confirmed("ana", 0)], "decision.not_referred"),
        ([requested, made, explained, overridden("ana", 0)], "decision.not_referred"),
        ([requested, made, explained, referred(1), contested], "decision.not_referred"),
        ([requested, made, explained, referred(1), closed], "decision.not_referred"),
    ],
)
def test_only_what_waits_for_people_is_confirmed(history: list[Event], code: str) -> None:
    given(*history).when(CONFIRM, "cleo").refused(code, decision_id="D-1")


def test_nothing_is_not_confirmed() -> None:
    given(requested, none_allowed, explained, referred(1)).when(CONFIRM).refused(
        "decision.nothing_to_confirm", decision_id="D-1"
    )


# override


@pytest.mark.parametrize("before", [[], [referred(1)], [referred(1), confirmed("ben", 0)]])
def test_a_person_chooses_another_allowed_option(before: list[Event]) -> None:
    decided(*before).when(OVERRIDE, "ana").then(overridden("ana", 0))


def test_an_overridden_decision_is_overridden_again_and_back() -> None:
    back = OVERRIDE.model_copy(update={"option": BEST})
    again = overridden("ana", 0, BEST, first=False)
    decided(overridden("ana", 0)).when(back, "ana").then(again)
    decided(overridden("ana", 0), again).when(OVERRIDE, "ben").then(
        overridden("ben", 0, first=False)
    )


@pytest.mark.parametrize(
    ("option", "code", "told"),
    [
        ({"site_id": "S-9"}, "decision.no_such_option", {"option": "site_id=S-9"}),
        (BEST | {"vehicle_id": "V-1"}, "decision.no_such_option", {}),
        (CLOSED, "decision.option_rejected", {"breaks": "site.closed, stock.none"}),
        (BEST, "decision.same_option", {"option": "site_id=S-1"}),
    ],
)
def test_an_option_that_is_not_there_or_not_allowed_or_no_other_is_refused(
    option: dict[str, str], code: str, told: dict[str, str]
) -> None:
    command = OVERRIDE.model_copy(update={"option": option})
    for before in ([], [referred(1)], [referred(2)]):
        decided(*before).when(command).refused(code, decision_id="D-1", **told)


def test_what_was_overridden_to_is_no_other_option() -> None:
    decided(overridden("ana", 0)).when(OVERRIDE, "ben").refused("decision.same_option")


@pytest.mark.parametrize(
    ("history", "code"),
    [
        ([], "decision.unknown"),
        ([requested], "decision.not_made"),
        ([requested, failed], "decision.not_made"),
        ([requested, made, explained, contested], "decision.not_made"),
        ([requested, made, explained, closed], "decision.not_made"),
    ],
)
def test_only_what_stands_is_overridden(history: list[Event], code: str) -> None:
    given(*history).when(OVERRIDE).refused(code, decision_id="D-1")


def test_an_override_of_four_eyes_waits_for_a_second_person() -> None:
    decided(referred(2)).when(OVERRIDE, "ana").then(overridden("ana", 1))
    waits = decided(referred(2), overridden("ana", 1))
    waits.when(CONFIRM, "ana").refused("decision.needs_another_person", actor="ana")
    waits.when(CONFIRM, "ben").then(confirmed("ben", 0, NEXT))


def test_who_agreed_to_the_former_option_has_not_agreed_to_the_other() -> None:
    """Ben's override takes Ana's yes away; she may say yes to the other option."""
    changed = decided(referred(2), confirmed("ana", 1), overridden("ben", 1))
    changed.when(CONFIRM, "ben").refused("decision.needs_another_person", actor="ben")
    changed.when(CONFIRM, "ana").then(confirmed("ana", 0, NEXT))


def test_a_settled_four_eyes_decision_needs_two_persons_again_when_it_is_overridden() -> None:
    settled = decided(referred(2), confirmed("ana", 1), confirmed("ben", 0))
    settled.when(OVERRIDE, "ana").then(overridden("ana", 1))
    decided(referred(2), confirmed("ana", 1), confirmed("ben", 0), overridden("ana", 1)).when(
        CONFIRM, "ben"
    ).then(confirmed("ben", 0, NEXT))


# contest


@pytest.mark.parametrize(
    "before",
    [
        [made, explained],
        [made, explained, referred(2)],
        [made, explained, referred(2), confirmed("ana", 1)],
        [made, explained, referred(1), confirmed("ana", 0)],
        [made, explained, overridden("ana", 0)],
        [made, explained, closed],
        [failed],
    ],
)
def test_an_answered_decision_is_contested_with_its_weights_and_priority(
    before: list[Event],
) -> None:
    given(requested, *before).when(CONTEST, "ana").then(contested)


def test_who_contests_may_name_other_weights_or_want_no_new_decision() -> None:
    other = Weights(cost=0.5)
    decided().when(CONTEST.model_copy(update={"weights": other}), "ana").then(
        contested.model_copy(update={"weights": other})
    )
    decided().when(CONTEST.model_copy(update={"redecide": False}), "ben").then(
        contested.model_copy(update={"redecide": False, "contested_by": "ben"})
    )


@pytest.mark.parametrize(
    ("history", "code"),
    [
        ([], "decision.unknown"),
        ([requested], "decision.not_made"),
        ([requested, made, explained, contested], "decision.already_contested"),
        ([requested, failed, contested], "decision.already_contested"),
        ([requested, made, explained, closed, contested], "decision.already_contested"),
    ],
)
def test_a_decision_is_contested_once(history: list[Event], code: str) -> None:
    given(*history).when(CONTEST, "ben").refused(code, decision_id="D-1")


def kept(stage: Stage) -> DecisionNotRedecided:
    return DecisionNotRedecided(**NAMES, stage=stage, code="order.unknown", detail="there is none")


def test_what_could_not_be_made_anew_is_contested_and_reviewed_again() -> None:
    decided(contested, kept(Stage.MADE)).when(CONTEST, "ana").then(contested)
    decided(contested, kept(Stage.MADE)).when(OVERRIDE, "ana").then(overridden("ana", 0))
    # Who agreed before has agreed.
    waits = decided(referred(2), confirmed("ana", 1), contested, kept(Stage.REFERRED))
    waits.when(CONFIRM, "ana").refused("decision.needs_another_person", actor="ana")
    waits.when(CONFIRM, "ben").then(confirmed("ben", 0))
    # An override stays one: another one is not the first.
    back = OVERRIDE.model_copy(update={"option": BEST})
    decided(overridden("ana", 0), contested, kept(Stage.OVERRIDDEN)).when(back, "ana").then(
        overridden("ana", 0, BEST, first=False)
    )


@pytest.mark.parametrize("before", [[made, explained, closed], [failed]], ids=["closed", "failed"])
def test_contesting_what_is_closed_or_failed_gives_it_no_outcome(before: list[Event]) -> None:
    given(requested, *before, contested).when(OUTCOME).refused("decision.not_made")


# what a command may hold


@pytest.mark.parametrize(
    ("command", "fields", "field", "rule"),
    [
        (OVERRIDE, {"option": {}}, "option", "at least 1 item"),
        (OVERRIDE, {"option": {f"n{n}": "v" for n in range(11)}}, "option", "at most 10 items"),
        (OVERRIDE, {"option": {"site_id": "a\0"}}, "option.site_id", "U+0000"),
        (OVERRIDE, {"reason": ""}, "reason", "at least 1 character"),
        (OVERRIDE, {"reason": "x" * 501}, "reason", "at most 500 characters"),
        (CONTEST, {"reason": ""}, "reason", "at least 1 character"),
        (CONTEST, {"weights": {"risk_minor": -1}}, "weights.risk_minor", "greater than or equal"),
        (CONFIRM, {"confirmed_at": "2026-03-01T12:00:00"}, "confirmed_at", "timezone"),
        (CONFIRM, {"confirmed_by": "ana"}, "confirmed_by", "Extra inputs"),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(
    command: Command, fields: dict[str, Any], field: str, rule: str
) -> None:
    right = command.model_dump()
    assert problems(type(command), **right) == ""
    told = problems(type(command), **(right | fields))
    assert field in told
    assert rule in told


# any order of any reviews

PEOPLE = st.sampled_from(["ana", "ben", "cleo"])
OPTIONS = st.sampled_from([BEST, NEXT, CLOSED, {"site_id": "S-9"}])


class Reviewing(RuleBasedStateMachine):
    """People do what they like; what the rules let through keeps what was promised."""

    @initialize(
        approvals=st.integers(0, 3), allowed=st.lists(st.booleans(), min_size=3, max_size=3)
    )
    def decide(self, approvals: int, allowed: list[bool]) -> None:
        """Three candidates, some of them allowed, for so many people."""
        self.needed = approvals
        options = (BEST, NEXT, CLOSED)
        self.allowed = [option for option, so in zip(options, allowed, strict=True) if so]
        self.decided = self.allowed[0] if self.allowed else {}
        candidates = tuple(
            candidate(option, *([] if option in self.allowed else ["rule.broken"]))
            for option in options
        )
        answer = made.model_copy(update={"candidates": candidates, "option": self.decided})
        refers = [referred(approvals)] if approvals else []
        self.events: list[Event] = [requested, answer, explained, *refers]
        #: Who agreed to what holds now.
        self.agreed: list[str] = []

    @property
    def state(self) -> decisions.Decision:
        """What the rules see: only what is on the log."""
        return reduce(decisions.evolve, self.events, decisions.Decision())

    def take(self, rule_: Any, command: Command, actor: str) -> Sequence[Event]:
        """The command's events; none where it is refused."""
        try:
            events: Sequence[Event] = rule_(self.state, command, actor)
        except Refused:
            return ()
        self.events += events
        return events

    @rule(actor=PEOPLE)
    def confirm(self, actor: str) -> None:
        before = self.state
        if self.take(reviews.confirm, CONFIRM, actor):
            assert before.stage is Stage.REFERRED
            assert actor not in self.agreed
            self.agreed.append(actor)

    @rule(actor=PEOPLE, option=OPTIONS)
    def override(self, actor: str, option: dict[str, str]) -> None:
        before = self.state
        if self.take(reviews.override, OVERRIDE.model_copy(update={"option": option}), actor):
            assert option in self.allowed
            told = [one for one in self.events if isinstance(one, DecisionOverridden)]
            assert [one.first for one in told] == [True, *[False] * (len(told) - 1)]
            assert option != before.option
            self.agreed = [actor]

    @rule(actor=PEOPLE)
    def contest(self, actor: str) -> None:
        before = self.state.stage
        if self.take(reviews.contest, CONTEST, actor):
            assert before not in (Stage.CONTESTED, Stage.REQUESTED, Stage.UNKNOWN)
            self.before_contest = before

    @rule()
    def keep(self) -> None:
        before = self.state.stage
        command = KeepDecision(decision_id="D-1", code="order.unknown", detail="there is none")
        if self.take(lambda decision, one, _: decisions.keep(decision, one), command, ""):
            assert before is Stage.CONTESTED
            assert self.state.stage is self.before_contest

    @invariant()
    def the_option_is_allowed_and_the_models_own_stays(self) -> None:
        assert self.state.option in [*self.allowed, self.decided]
        assert self.state.decided == self.decided
        assert self.state.foretold == made.foretold

    @invariant()
    def nobody_counts_twice(self) -> None:
        assert list(self.state.approved_by) == self.agreed
        assert len(set(self.agreed)) == len(self.agreed)

    @invariant()
    def it_is_settled_when_enough_have_agreed(self) -> None:
        stage = self.state.stage
        if stage in (Stage.CONFIRMED, Stage.OVERRIDDEN):
            assert len(self.agreed) >= max(self.needed, 1)
            assert (stage is Stage.CONFIRMED) == (self.state.option == self.decided)
        if stage is Stage.REFERRED:
            assert len(self.agreed) < self.needed
        left = [one.approvals_left for one in self.events if hasattr(one, "approvals_left")]
        if left:
            assert left[-1] == max(self.needed - len(self.agreed), 0)


TestReviewing = Reviewing.TestCase
TestReviewing.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
