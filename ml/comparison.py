"""What a backtest finds: counts, means and changes, summed up decision by decision."""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from domain.decisions import (
    Candidate,
    DecisionMade,
    DecisionOutcomeRecorded,
    RecordDecision,
    Weights,
)
from domain.models import Metrics
from ml.calibration import Bin, reliability
from ml.deciding import Answer, Instead
from ml.kind import Kind, Request
from ml.models import metrics
from ml.weighing import floats

#: Changed decisions that are listed: those with the most to gain.
MOST_CHANGES = 10_000
#: Values of a column that are told apart, the most frequent ones.
MOST_SEGMENTS = 12

Option = Mapping[str, str]
#: Names and values of an option; empty: none was allowed.
_Key = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over decisions: cost and objective in minor units, the foretold risk, carbon in kg."""

    cost_minor: float
    risk: float
    carbon_kg: float
    objective: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same decisions in three ways: ``recorded``: the choice of then as it was judged then;
    ``then`` and ``now``: the choice of then and that of now, both judged by the model and the
    weights of the backtest. Only ``then`` and ``now`` tell which is better."""

    recorded: Figures
    then: Figures
    now: Figures


@dataclass(frozen=True, slots=True)
class Swap:
    """So many decisions went from one option to another, or kept it. Empty: none was allowed."""

    then: Option
    now: Option
    count: int


@dataclass(frozen=True, slots=True)
class Change:
    """A decision that comes out differently.

    ``then_by_new``, ``now_by_new``: objectives of both choices by the model and weights of the
    backtest; ``then_by_old``, ``now_by_old``: by those that decided. None where an option is none,
    or was no candidate. ``currency``: of these amounts; None: not known.
    """

    decision_id: str
    subject_id: str
    position: int
    then: Option
    now: Option
    then_by_new: float | None
    now_by_new: float | None
    then_by_old: float | None
    now_by_old: float | None
    currency: str | None


@dataclass(frozen=True, slots=True)
class Part:
    """The decisions whose option of then (or the feature of it) has one value in one column."""

    column: str
    value: str
    decisions: int
    swapped: int
    comparison: Comparison


@dataclass(frozen=True, slots=True)
class Fit:
    """How foretold risks fit outcomes."""

    metrics: Metrics
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Decisions that were followed and whose outcome is known.

    ``then``, ``now``: the risks that were and that would have been foretold, for the ``same`` ones,
    whose choice stays; None where there are none. ``other``: those that would have been decided
    otherwise: how that would have turned out nobody knows.
    """

    same: int
    other: int
    then: Fit | None
    now: Fit | None


@dataclass(frozen=True, slots=True)
class Unseen:
    """Decisions on requests behind the cases that the backtest's model learned from."""

    compared: int
    swapped: int
    judged: int
    comparison: Comparison | None
    outcomes: Outcomes


@dataclass(frozen=True, slots=True)
class Backtest:
    """What a backtest found.

    ``compared``: decided then and now; ``unchanged`` and ``swapped`` sum to it. ``failed_then``,
    ``failed_now``: there was a reason instead of a decision (a request may be among both).
    ``judged``: compared ones for which both choices are candidates now: ``comparison`` and
    ``parts`` are means over them. ``referred`` and ``none_allowed``: shares of the compared ones,
    then and now. ``left_out``: changes beyond those that are listed. ``untold``: segments that the
    kind declares and that decisions do not tell. ``currencies``: of the compared ones (None: one
    that is not known). ``learned_to``: the log position up to which the model learned from cases;
    ``learned``: so many of the compared ones lie there, what the model foretells of them flatters
    it; ``unseen``: the others by themselves, where there are both.
    """

    kind: str
    from_position: int
    to_position: int
    model_hash: str | None
    weights: Weights | None
    compared: int
    failed_then: int
    failed_now: int
    unchanged: int
    swapped: int
    judged: int
    comparison: Comparison | None
    referred: tuple[float, float]
    none_allowed: tuple[float, float]
    swaps: tuple[Swap, ...]
    changes: tuple[Change, ...]
    left_out: int
    parts: tuple[Part, ...]
    untold: tuple[str, ...]
    outcomes: Outcomes
    currencies: tuple[str | None, ...]
    learned_to: int | None
    learned: int
    unseen: Unseen | None

    @property
    def currency(self) -> str | None:
        """The currency of all amounts; None where it is not known, or there are several."""
        return self.currencies[0] if len(self.currencies) == 1 else None


@dataclass(frozen=True, slots=True)
class Then:
    """What the log holds of a request's answer, and of what came of it."""

    made: DecisionMade | None
    referred: bool
    outcome: DecisionOutcomeRecorded | None


class _Sums:
    """Sums of what ``Comparison`` has the means of."""

    __slots__ = ("_sums", "decisions", "judged", "swapped")

    def __init__(self) -> None:
        self.decisions = self.swapped = self.judged = 0
        self._sums = np.zeros((3, 4))

    def count(self, swapped: bool) -> None:
        self.decisions += 1
        self.swapped += swapped

    def add(self, recorded: Candidate, then: Candidate, now: Candidate) -> None:
        self.judged += 1
        self._sums += [
            (one.cost_minor, one.risk, one.carbon_g / 1000, one.objective)
            for one in (recorded, then, now)
        ]

    def comparison(self) -> Comparison | None:
        if not self.judged:
            return None
        return Comparison(*(Figures(*row) for row in (self._sums / self.judged).tolist()))


class _Foretold:
    """Risks of then and now beside what occurred, of followed decisions whose choice stays."""

    def __init__(self) -> None:
        self._then, self._now, self._occurred = array("d"), array("d"), array("d")
        self._other = 0

    def take(self, outcome: DecisionOutcomeRecorded, then: float, now: float | None) -> None:
        """``now``: None where another option would have been chosen."""
        if outcome.occurred is None or not outcome.followed:
            return
        if now is None:
            self._other += 1
            return
        self._then.append(then)
        self._now.append(now)
        self._occurred.append(float(outcome.occurred))

    def result(self) -> Outcomes:
        truth = np.array(self._occurred)

        def fit(risks: array[float]) -> Fit | None:
            if not len(truth):
                return None
            return Fit(metrics(truth, np.array(risks)), tuple(reliability(risks, truth)))

        return Outcomes(len(truth), self._other, fit(self._then), fit(self._now))


class Comparer:
    """Counts and sums, as one decision after the other comes in.

    Args:
        kind: of the decisions.
        learned_to: the log position up to which the backtest's model learned; None: it has none,
            or that is not known.
    """

    def __init__(self, kind: Kind, learned_to: int | None = None) -> None:
        self._kind = kind
        self._learned_to = learned_to
        # Segments that the option names, or a feature of its own.
        names = dict.fromkeys((*kind.option, *kind.examples.segments))
        self._columns = [n for n in names if n in (*kind.option, *kind.feature_names)]
        self._untold = tuple(name for name in names if name not in self._columns)
        self._all, self._unseen = _Sums(), _Sums()
        self._currencies = set[str | None]()
        self._failed_then = self._failed_now = 0
        self._referred, self._none = [0, 0], [0, 0]
        self._swaps = Counter[tuple[_Key, _Key]]()
        self._parts: dict[tuple[str, str], _Sums] = {}
        self._changes: list[tuple[float, int, Change]] = []
        self._foretold, self._foretold_unseen = _Foretold(), _Foretold()

    def take(self, answer: Answer, then: Then) -> None:
        """One request: its answer of now and what the log holds."""
        command = answer.command
        self._failed_then += then.made is None
        self._failed_now += not isinstance(command, RecordDecision)
        if then.made is None or not isinstance(command, RecordDecision):
            return
        old, new = then.made, command.made
        swapped = old.option != new.option
        unseen = self._learned_to is not None and answer.request.position > self._learned_to
        sums = [self._all, self._unseen] if unseen else [self._all]
        self._currencies.add(old.currency)
        for number, (referred, made) in enumerate(
            ((then.referred, old), (command.referred is not None, new))
        ):
            self._referred[number] += referred
            self._none[number] += made.chosen is None
        self._swaps[_key(old.option), _key(new.option)] += 1
        sums += [
            self._parts.setdefault((column, value), _Sums())
            for column, value in self._segments(old)
        ]
        for one in sums:
            one.count(swapped)
        recorded, now = _chosen(old), _chosen(new)
        again = _find(new.candidates, old.option)
        if recorded is not None and again is not None and now is not None:
            for one in sums:
                one.add(recorded, again, now)
        if swapped:
            self._changed(answer.request, old, new)
        if then.outcome is not None and old.foretold is not None:
            stays = None if swapped else new.foretold
            self._foretold.take(then.outcome, old.foretold, stays)
            if unseen:
                self._foretold_unseen.take(then.outcome, old.foretold, stays)

    def _segments(self, made: DecisionMade) -> Iterator[tuple[str, str]]:
        chosen = _chosen(made)
        for column in self._columns:
            if column in self._kind.option:
                yield column, made.option.get(column, "none")
            elif chosen is not None:
                values = floats(chosen.features)
                yield column, f"{values[self._kind.feature_names.index(column)]:g}"

    def _changed(self, request: Request, old: DecisionMade, new: DecisionMade) -> None:
        by_new = [_objective(new.candidates, made.option) for made in (old, new)]
        by_old = [_objective(old.candidates, made.option) for made in (old, new)]
        change = Change(
            decision_id=old.decision_id,
            subject_id=old.subject_id,
            position=request.position,
            then=old.option,
            now=new.option,
            then_by_new=by_new[0],
            now_by_new=by_new[1],
            then_by_old=by_old[0],
            now_by_old=by_old[1],
            currency=old.currency,
        )
        gain = 0.0 if by_new[0] is None or by_new[1] is None else by_new[0] - by_new[1]
        # No two requests have one position, so changes themselves are never compared.
        heapq.heappush(self._changes, (gain, -request.position, change))
        if len(self._changes) > MOST_CHANGES:
            heapq.heappop(self._changes)

    def result(self, instead: Instead, from_position: int, to_position: int) -> Backtest:
        """What was found."""
        every, unseen = self._all, self._unseen
        learned = 0 if self._learned_to is None else every.decisions - unseen.decisions
        swaps = sorted(self._swaps.items(), key=lambda one: (-one[1], one[0]))
        listed = sorted(self._changes, key=lambda one: (-one[0], -one[1]))
        return Backtest(
            kind=self._kind.name,
            from_position=from_position,
            to_position=to_position,
            model_hash=instead.model_hash,
            weights=instead.weights,
            compared=every.decisions,
            failed_then=self._failed_then,
            failed_now=self._failed_now,
            unchanged=every.decisions - every.swapped,
            swapped=every.swapped,
            judged=every.judged,
            comparison=every.comparison(),
            referred=_shares(self._referred, every.decisions),
            none_allowed=_shares(self._none, every.decisions),
            swaps=tuple(Swap(dict(a), dict(b), count) for (a, b), count in swaps),
            changes=tuple(change for _, _, change in listed),
            left_out=every.swapped - len(listed),
            parts=tuple(self._found_parts()),
            untold=self._untold,
            outcomes=self._foretold.result(),
            currencies=tuple(sorted(self._currencies, key=lambda one: one or "")),
            learned_to=self._learned_to,
            learned=learned,
            unseen=self._found_unseen() if learned and unseen.decisions else None,
        )

    def _found_unseen(self) -> Unseen:
        sums = self._unseen
        return Unseen(
            compared=sums.decisions,
            swapped=sums.swapped,
            judged=sums.judged,
            comparison=sums.comparison(),
            outcomes=self._foretold_unseen.result(),
        )

    def _found_parts(self) -> Iterator[Part]:
        for column in self._columns:
            mine = [(value, sums) for (name, value), sums in self._parts.items() if name == column]
            mine.sort(key=lambda one: (-one[1].decisions, one[0]))
            for value, sums in mine[:MOST_SEGMENTS]:
                if (comparison := sums.comparison()) is not None:
                    yield Part(column, value, sums.decisions, sums.swapped, comparison)


def _key(option: Option) -> _Key:
    return tuple(option.items())


def _chosen(made: DecisionMade) -> Candidate | None:
    return None if made.chosen is None else made.candidates[made.chosen]


def _find(candidates: Sequence[Candidate], option: Option) -> Candidate | None:
    return next((one for one in candidates if option and one.option == option), None)


def _objective(candidates: Sequence[Candidate], option: Option) -> float | None:
    found = _find(candidates, option)
    return None if found is None else found.objective


def _shares(counts: Sequence[int], of: int) -> tuple[float, float]:
    then, now = (count / of if of else 0.0 for count in counts)
    return then, now
