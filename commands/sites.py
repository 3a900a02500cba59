"""Sites: which rule answers which command."""

from __future__ import annotations

from commands.handler import Handler
from domain import sites
from domain.access import OPERATE


def site_stream(site_id: str) -> str:
    """The stream of a site."""
    return sites.STREAM.format(site_id=site_id)


HANDLERS = (
    Handler(
        command=sites.OpenSite,
        roles=OPERATE,
        stream=lambda command: site_stream(command.site_id),
        decider=sites.SITES,
        decide=lambda command, _, site: sites.open_site(site, command),
        creates=True,
    ),
    Handler(
        command=sites.ChangeSite,
        roles=OPERATE,
        stream=lambda command: site_stream(command.site_id),
        decider=sites.SITES,
        decide=lambda command, _, site: sites.change_site(site, command),
    ),
    Handler(
        command=sites.CloseSite,
        roles=OPERATE,
        stream=lambda command: site_stream(command.site_id),
        decider=sites.SITES,
        decide=lambda command, _, site: sites.close_site(site, command),
    ),
    Handler(
        command=sites.ReopenSite,
        roles=OPERATE,
        stream=lambda command: site_stream(command.site_id),
        decider=sites.SITES,
        decide=lambda command, _, site: sites.reopen_site(site, command),
    ),
)
