"""Sites as they stand."""

from __future__ import annotations

from polars import col, lit

from domain.sites import USUAL_KIND, SiteChanged, SiteClosed, SiteOpened, SiteReopened
from domain.values import Event
from projections.fold import first, last
from projections.table import Table

_EVENTS: tuple[type[Event], ...] = (SiteOpened, SiteChanged, SiteClosed, SiteReopened)

SITES = Table(
    name="sites",
    key=dict.fromkeys(_EVENTS, ("site_id",)),
    columns={
        "name": last({SiteOpened: "name", SiteChanged: "name"}),
        "region": last({SiteOpened: "region", SiteChanged: "region"}),
        "kind": last({SiteOpened: col("kind").fill_null(USUAL_KIND), SiteChanged: "kind"}),
        "daily_capacity": last({SiteOpened: "daily_capacity", SiteChanged: "daily_capacity"}),
        "version": last(dict.fromkeys(_EVENTS, "version")),
        "is_open": last({SiteOpened: lit(True), SiteClosed: lit(False), SiteReopened: lit(True)}),
        "opened_at": first({SiteOpened: "opened_at"}),
        "closed_at": last({SiteClosed: "closed_at"}),
        "close_reason": last({SiteClosed: "reason"}),
        # What may be cleared is read from here: a null leaves the value before.
        "described": last({SiteOpened: "state", SiteChanged: "state"}, json=True),
    },
)

TABLES = (SITES,)
