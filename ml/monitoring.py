"""Measures models by their decisions on the log: drift, fit, and how often people decide otherwise;
raises alerts where the kind's policy sets a limit."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

import numpy as np

from commands import Bus, Context, stream_id
from commands.models import model_stream
from commands.policies import policy_stream
from domain import catalogue
from domain.access import Role
from domain.decisions import DecisionMade, DecisionOutcomeRecorded, DecisionOverridden
from domain.models import (
    Limit,
    Measurement,
    ModelMeasured,
    ModelRegistered,
    RecordMeasurement,
)
from domain.policies import PolicySet, SetPolicy
from domain.values import Event
from eventstore import Log
from eventstore.artifacts import ArtifactCorrupt, Artifacts
from eventstore.ids import named_id
from ml.calibration import calibration_error
from ml.catalogue import KINDS
from ml.drift import estimated_accuracy, estimated_brier, ks, psi
from ml.models import loaded
from ml.scoring import Matrix, ModelUnfit, Scorer
from ml.weighing import floats
from projections.frames import Frames
from projections.reading import LogReader

ACTOR = "model-monitor"
#: The name under which the drift of a model's scores is told.
SCORE = "score"
#: From so many on, drift, fit and overrides are watched.
LEAST_DECISIONS = 50
LEAST_OUTCOMES = 50
LEAST_TO_OVERRIDE = 20
#: What chance alone passes once in a thousand times: a chi-squared value of 9 degrees of freedom
#: (PSI in ten bins over 1 / n + 1 / m: Yurdakul & Naranjo 2020), the coefficient of the two-sample
#: Kolmogorov-Smirnov test, a normal value.
_CHI_SQUARED, _KOLMOGOROV, _NORMAL = 27.88, 1.95, 3.09
#: How often outcomes are drawn anew to see how far off a calibrated model seems by chance.
_DRAWS = 2000

_FIELDS: Mapping[type[Event], set[str]] = {
    DecisionMade: {"model_hash", "state"},
    DecisionOverridden: {"model_hash", "decision_id"},
    DecisionOutcomeRecorded: {"model_hash", "foretold", "occurred", "followed"},
}


class NotMeasurable(Exception):
    """A model that the organisation's log does not know."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A model's figures as they were put on the log, and what is watched of them.

    ``repeated``: the same stretch had been measured before; those figures stand.
    """

    organisation_id: UUID
    model_hash: str
    kind: str
    measurement: Measurement
    limits: tuple[Limit, ...]
    repeated: bool = False

    @property
    def passed(self) -> tuple[Limit, ...]:
        """What is past its threshold."""
        return tuple(one for one in self.limits if one.value > one.threshold)


@dataclass(frozen=True, slots=True)
class _Known:
    """What the log says of a model. ``measured``: the measurements so far."""

    registered: ModelRegistered
    policy: SetPolicy
    measured: Sequence[Measurement]


@dataclass(slots=True)
class _Stretch:
    """A model's decisions in a stretch of the log, and what came of them in it."""

    decisions: int = 0
    features: list[list[float]] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    risks: list[float] = field(default_factory=list)
    overridden: set[str] = field(default_factory=set)
    foretold: list[float] = field(default_factory=list)
    occurred: list[bool] = field(default_factory=list)


async def measure(
    url: str,
    log: Log,
    artifacts: Artifacts,
    bus: Bus,
    organisation_id: UUID,
    model_hash: str,
    from_position: int | None = None,
    to_position: int | None = None,
) -> Measured | None:
    """Measure a model over a stretch of the log (both ends included) and put the figures on it.

    The stretch begins behind the last measured one and ends with the log, unless told otherwise.
    None: the model has done nothing in it, and nothing is recorded. Measuring the same stretch
    again changes nothing.

    Raises:
        NotMeasurable: the organisation's log does not know the model.
    """
    known = await _known(log, organisation_id, model_hash)
    first = from_position
    if first is None:
        first = max((one.to_position for one in known.measured), default=0) + 1
    last = await log.head() if to_position is None else min(to_position, await log.head())
    found = await _read(url, organisation_id, model_hash, first, last)
    if not (found.decisions or found.overridden or found.foretold):
        return None
    reference = await _reference(artifacts, known.registered)
    measurement = await asyncio.to_thread(
        _measurement, known.registered, found, reference, first, last
    )
    rows = 0 if reference is None else len(reference)
    limits = await asyncio.to_thread(lambda: tuple(_limits(known, measurement, found, rows)))
    kind = known.registered.kind
    name = f"{model_hash}:{first}:{last}"
    receipt = await bus.execute(
        RecordMeasurement(
            model_hash=model_hash,
            measurement=measurement,
            limits=limits,
            measured_at=datetime.now(UTC),
        ),
        Context(
            organisation_id=organisation_id,
            actor=ACTOR,
            roles=frozenset({Role.SERVICE}),
            command_id=named_id(organisation_id, f"measurement:{name}"),
            # The time and the policy of now are no part of what is asked for.
            digest=hashlib.sha256(name.encode()).digest(),
        ),
    )
    return Measured(organisation_id, model_hash, kind, measurement, limits, receipt.repeated)


async def model_of(url: str, log: Log, organisation_id: UUID, start: str) -> str:
    """The only model of an organisation whose hash starts so.

    Raises:
        NotMeasurable: there is none, or there are several.
    """
    fields: Mapping[type[Event], set[str]] = {ModelRegistered: {"model_hash"}}
    known: set[str] = set()
    head, position = await log.head(), 0
    async with LogReader(url) as reader:
        while position < head:
            end = await reader.window_end(position, head)
            frames = await reader.frames(fields, position, end, organisation_id)
            for frame in frames.values():
                known |= set(frame["model_hash"])
            position = end
    found = [one for one in known if one.startswith(start)]
    if len(found) != 1:
        raise NotMeasurable(
            f"model {start!r}: {len(found)} models have a hash that starts so "
            "(chainlytics models list)"
        )
    return found[0]


async def _known(log: Log, organisation_id: UUID, model_hash: str) -> _Known:
    registered: ModelRegistered | None = None
    measured = []
    mine = stream_id(organisation_id, model_stream(model_hash))
    for one in (await log.streams([mine]))[mine]:
        match catalogue.decode(one.topic, one.state):
            case ModelRegistered() as event:
                registered = event
            case ModelMeasured() as event:
                measured.append(event.measurement)
    if registered is None:
        raise NotMeasurable(f"model {model_hash} is not registered")
    policies = stream_id(organisation_id, policy_stream(registered.kind))
    policy = SetPolicy(kind=registered.kind, set_at=registered.registered_at)
    for one in (await log.streams([policies]))[policies]:
        said = catalogue.decode(one.topic, one.state)
        if isinstance(said, PolicySet):
            policy = SetPolicy(**said.model_dump(exclude={"set_by"}))
    return _Known(registered, policy, measured)


async def _read(
    url: str, organisation_id: UUID, model_hash: str, first: int, last: int
) -> _Stretch:
    found = _Stretch()
    position = first - 1
    async with LogReader(url) as reader:
        while position < last:
            end = await reader.window_end(position, last)
            frames = await reader.frames(_FIELDS, position, end, organisation_id)
            await asyncio.to_thread(_take, found, frames, model_hash)
            position = end
    return found


def _take(found: _Stretch, frames: Frames, model_hash: str) -> None:
    for event, frame in frames.items():
        mine = frame.filter(frame["model_hash"] == model_hash)
        if event is DecisionMade:
            for state in mine["state"]:
                _take_decision(found, json.loads(state))
        elif event is DecisionOverridden:
            found.overridden |= set(mine["decision_id"])
        else:
            # Of what was done otherwise the model has foretold nothing.
            judged = mine.filter("followed").drop_nulls(["foretold", "occurred"])
            found.foretold += judged["foretold"].to_list()
            found.occurred += judged["occurred"].to_list()


def _take_decision(found: _Stretch, made: Mapping[str, object]) -> None:
    found.decisions += 1
    chosen, candidates, foretold = made["chosen"], made["candidates"], made["foretold"]
    if chosen is None:
        return
    assert isinstance(chosen, int)
    assert isinstance(candidates, list)
    assert isinstance(foretold, float)
    candidate = candidates[chosen]
    found.features.append(floats(candidate["features"]))
    found.margins.append(candidate["margin"])
    found.risks.append(foretold)


async def _reference(artifacts: Artifacts, registered: ModelRegistered) -> Matrix | None:
    """What the model learned from: its features, and its margins on them as the last column;
    without that where the model cannot be loaded, None where the rows were not kept."""
    training = registered.training
    if training.data_hash is None:
        return None
    try:
        rows = loaded(await artifacts.get(training.data_hash))[:, :-1]
    except (KeyError, ArtifactCorrupt):
        return None
    try:
        scorer = Scorer(await artifacts.get(registered.model_hash), training.features)
    except (KeyError, ArtifactCorrupt, ModelUnfit):
        return rows
    margins, _ = await asyncio.to_thread(scorer.risks, rows)
    return np.column_stack([rows, margins])


def _measurement(
    registered: ModelRegistered, found: _Stretch, reference: Matrix | None, first: int, last: int
) -> Measurement:
    drifts: dict[str, dict[str, float]] = {"psi": {}, "ks": {}}
    if reference is not None and found.features:
        now = np.column_stack([np.array(found.features, np.float32), found.margins])
        # The last name has no column where the model could not be loaded.
        names = (*registered.training.features, SCORE)
        for column, name in enumerate(names[: reference.shape[1]]):
            before, current = reference[:, column], now[:, column].astype(np.float32)
            drifts["psi"][name] = round(psi(before, current), 6)
            drifts["ks"][name] = round(ks(before, current), 6)
    foretold, occurred = np.array(found.foretold), np.array(found.occurred, float)
    known, made = len(foretold) > 0, len(found.risks) > 0
    return Measurement(
        from_position=first,
        to_position=last,
        decisions=found.decisions,
        outcomes=len(foretold),
        overridden=len(found.overridden),
        accuracy=float(((foretold >= 0.5) == (occurred == 1)).mean()) if known else None,
        brier=float(((foretold - occurred) ** 2).mean()) if known else None,
        calibration_error=calibration_error(foretold, occurred) if known else None,
        estimated_accuracy=estimated_accuracy(found.risks) if made else None,
        estimated_brier=estimated_brier(found.risks) if made else None,
        psi=drifts["psi"],
        ks=drifts["ks"],
    )


# what is watched


def _limits(known: _Known, measurement: Measurement, found: _Stretch, rows: int) -> Iterator[Limit]:
    """The policy's limits, each raised to what chance alone brings about in so few cases."""
    policy, decided = known.policy, len(found.features)
    if decided >= LEAST_DECISIONS and rows:
        together = 1 / decided + 1 / rows
        for measure, values, most, chance in (
            ("psi", measurement.psi, policy.max_psi, _CHI_SQUARED * together),
            ("ks", measurement.ks, policy.max_ks, _KOLMOGOROV * math.sqrt(together)),
        ):
            threshold = round(max(most, chance), 4)
            for name, value in values.items():
                if name in _of_the_world(known.registered.kind):
                    continue
                yield Limit(
                    measure=measure,
                    feature=name,
                    value=value,
                    threshold=threshold,
                    sentence=_drifted(measure, name, value, threshold, decided),
                )
    if measurement.outcomes >= LEAST_OUTCOMES:
        yield from _fit_limits(known, measurement, found)
    if measurement.decisions >= LEAST_TO_OVERRIDE:
        rate = measurement.overridden / measurement.decisions
        yield Limit(
            measure="override_rate",
            value=rate,
            threshold=policy.max_override_rate,
            sentence=f"People chose otherwise in {measurement.overridden:,} cases to "
            f"{measurement.decisions:,} decisions: {rate:.0%}, more than "
            f"{policy.max_override_rate:.0%}",
        )


def _of_the_world(kind: str) -> frozenset[str]:
    """The features of a kind that differ from a year's rows whenever one looks."""
    features = KINDS[kind].features if kind in KINDS else ()
    return frozenset(one.name for one in features if one.of_the_world)


def _drifted(measure: str, name: str, value: float, threshold: float, decided: int) -> str:
    what = "the score" if name == SCORE else name
    return (
        f"Drift: {what} of the last {decided:,} decisions is distributed unlike the training "
        f"rows: {measure.upper()} {value:.2f}, more than {threshold:.2f}"
    )


def _fit_limits(known: _Known, measurement: Measurement, found: _Stretch) -> Iterator[Limit]:
    policy, outcomes = known.policy, measurement.outcomes
    if (error := measurement.calibration_error) is not None:
        threshold = round(max(policy.max_calibration_error, _error_by_chance(found.foretold)), 4)
        yield Limit(
            measure="calibration_error",
            value=error,
            threshold=threshold,
            sentence=f"Calibration: the foretold risks of the last {outcomes:,} known outcomes are "
            f"{error:.1%} off on average, more than {threshold:.1%}",
        )
    before, now = known.registered.metrics.accuracy, measurement.accuracy
    if before is not None and now is not None:
        chance = _NORMAL * math.sqrt(before * (1 - before) / outcomes)
        threshold = round(max(policy.max_accuracy_drop, chance), 4)
        yield Limit(
            measure="accuracy_drop",
            value=before - now,
            threshold=threshold,
            sentence=f"Accuracy: {now:.1%} of the last {outcomes:,} known outcomes were foretold, "
            f"{before:.1%} in the test at training: a drop of {(before - now) * 100:.1f} points, "
            f"more than {threshold * 100:.1f}",
        )


def _error_by_chance(foretold: Sequence[float]) -> float:
    """The calibration error that a calibrated model passes once in a thousand times (consistency
    resampling, Bröcker & Smith 2007), from a fixed seed."""
    risks = np.array(foretold)
    generator = np.random.default_rng(7)
    errors = [
        calibration_error(risks, (generator.random(len(risks)) < risks).astype(float))
        for _ in range(_DRAWS)
    ]
    return float(np.quantile(errors, 0.999))
