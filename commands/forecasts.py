"""Forecasts: which rule answers which command."""

from __future__ import annotations

from commands.handler import Handler, Read
from commands.sites import site_stream
from domain import forecasts
from domain.access import SERVE
from domain.sites import SITES


def forecast_stream(site_id: str, sku: str) -> str:
    """The stream of a stock's forecasts."""
    return forecasts.STREAM.format(site_id=site_id, sku=sku)


#: Nobody makes a forecast up: who may ask for one is said by the query ``forecasts.make``.
HANDLERS: tuple[Handler, ...] = (
    Handler(
        command=forecasts.RecordForecast,
        roles=SERVE,
        stream=lambda command: forecast_stream(command.site_id, command.sku),
        decider=forecasts.FORECASTS,
        decide=lambda command, actor, foretold, site: forecasts.record(
            foretold, command, actor, site
        ),
        reads=lambda command: [Read(site_stream(command.site_id), SITES)],
    ),
)
