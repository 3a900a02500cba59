"""Forecasts: how many pieces of an SKU will be asked for at a site, day by day.

A forecast is a fact about what was foretold, never changed; the next one follows it in the stream
of its stock. What a replay needs is in the event: the log position that its series ends with, the
hash of the series, and of what foretold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Self

from pydantic import Field, model_validator

from domain.decider import Decider
from domain.errors import Refused
from domain.models import Hash
from domain.sites import Site, must_be_known
from domain.values import Command, Event, Id, UtcTime, Words

#: Days that can be foretold at once.
MOST_DAYS = 90
#: The method of a forecast that no model made.
RULE_BASED = "rule-based"
#: A piece count as it is foretold.
_Pieces = Annotated[float, Field(ge=0, le=1e12)]
_Days = Annotated[tuple[_Pieces, ...], Field(min_length=1, max_length=MOST_DAYS)]


class RecordForecast(Command):
    """Put a forecast that was made on the log.

    ``from_day``: the first day that is foretold. ``as_of``: the newest log position of its series.
    ``method``: ``rule-based``, or the hash of the model; ``model_hash`` is then that of the rule's
    declaration, or the model's. ``technique``: how the values came about. ``input_hash``: SHA-256
    of the series. ``values``: mean demand of each day; 80 % of what comes lies between ``low`` and
    ``high``. ``scale``: what errors are measured by, the mean absolute error of the weekly naive
    forecast within the series; None: not defined.
    """

    site_id: Id
    sku: Id
    from_day: date
    as_of: Annotated[int, Field(ge=1)]
    method: Annotated[str, Field(pattern=r"^(rule-based|[0-9a-f]{64})$")]
    model_hash: Hash
    technique: Id
    input_hash: Hash
    history_days: Annotated[int, Field(ge=1)]
    values: _Days
    low: _Days
    high: _Days
    total: _Pieces
    total_low: _Pieces
    total_high: _Pieces
    scale: Annotated[float, Field(gt=0)] | None
    sentence: Words
    made_at: UtcTime

    @model_validator(mode="after")
    def _each_day_has_its_interval(self) -> Self:
        if not len(self.values) == len(self.low) == len(self.high):
            raise ValueError("values, low, high: one of each for every day")
        if any(not a <= b <= c for a, b, c in zip(self.low, self.values, self.high, strict=True)):
            raise ValueError("values: each lies between its low and its high")
        return self


class ForecastMade(Event):
    """How many pieces will be asked for. The fields are those of ``RecordForecast``."""

    site_id: str
    sku: str
    from_day: date
    horizon_days: int
    as_of: int
    method: str
    model_hash: str
    technique: str
    input_hash: str
    history_days: int
    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    total: float
    total_low: float
    total_high: float
    scale: float | None
    sentence: str
    made_by: str
    made_at: datetime


EVENTS: tuple[type[Event], ...] = (ForecastMade,)

#: The stream that an event belongs to, by its fields.
STREAM = "forecasts/{site_id}/{sku}"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {
    ForecastMade: "{horizon_days} days of {sku} at site {site_id} from {from_day} on were foretold "
    "({method}): {total} pieces",
}


@dataclass(frozen=True, slots=True)
class Foretold:
    """What the rules need to know of a stock's forecasts: the last one, without who and when."""

    last: ForecastMade | None = None


def evolve(foretold: Foretold, event: Event) -> Foretold:
    """The forecasts after one more."""
    return Foretold(event) if isinstance(event, ForecastMade) else foretold


FORECASTS = Decider(initial=Foretold(), evolve=evolve)


def record(foretold: Foretold, command: RecordForecast, actor: str, site: Site) -> Sequence[Event]:
    """Record a forecast; the same one again says nothing new. One that knows less than the last one
    does not follow it, unless it looks from an earlier day."""
    must_be_known(site, command.site_id)
    made = ForecastMade(**command.model_dump(), horizon_days=len(command.values), made_by=actor)
    last = foretold.last
    newer = last is not None and command.from_day >= last.from_day
    if last is not None and newer and last.as_of > command.as_of:
        raise Refused(
            "forecast.knows_less",
            site_id=command.site_id,
            sku=command.sku,
            as_of=command.as_of,
            last_as_of=last.as_of,
        )
    if last is not None and _said(last) == _said(made):
        return []
    return [made]


def _said(made: ForecastMade) -> ForecastMade:
    return made.model_copy(update={"made_by": "", "made_at": None})
