"""Clients: which rule answers which command."""

from __future__ import annotations

from commands.handler import Handler, Read
from commands.sites import site_stream
from domain import clients, sites
from domain.access import OPERATE


def client_stream(client_id: str) -> str:
    """The stream of a client."""
    return clients.STREAM.format(client_id=client_id)


def _default_site(command: clients.RegisterClient | clients.ChangeClient) -> list[Read]:
    if command.default_site_id is None:
        return []
    return [Read(site_stream(command.default_site_id), sites.SITES)]


HANDLERS = (
    Handler(
        command=clients.RegisterClient,
        roles=OPERATE,
        stream=lambda command: client_stream(command.client_id),
        decider=clients.CLIENTS,
        decide=lambda command, _, client, site=None: clients.register(client, command, site),
        reads=_default_site,
        creates=True,
    ),
    Handler(
        command=clients.ChangeClient,
        roles=OPERATE,
        stream=lambda command: client_stream(command.client_id),
        decider=clients.CLIENTS,
        decide=lambda command, _, client, site=None: clients.change(client, command, site),
        reads=_default_site,
    ),
    Handler(
        command=clients.RetireClient,
        roles=OPERATE,
        stream=lambda command: client_stream(command.client_id),
        decider=clients.CLIENTS,
        decide=lambda command, _, client: clients.retire(client, command),
    ),
    Handler(
        command=clients.ReinstateClient,
        roles=OPERATE,
        stream=lambda command: client_stream(command.client_id),
        decider=clients.CLIENTS,
        decide=lambda command, _, client: clients.reinstate(client, command),
    ),
)
