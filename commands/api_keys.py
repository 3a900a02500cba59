"""API keys: which rule answers which command."""

from __future__ import annotations

from commands.handler import Handler
from domain import api_keys
from domain.access import Role

_ADMIN = frozenset({Role.ADMIN})


def key_stream(key_id: str) -> str:
    """The stream of an API key."""
    return api_keys.STREAM.format(key_id=key_id)


HANDLERS = (
    Handler(
        command=api_keys.IssueApiKey,
        roles=_ADMIN,
        stream=lambda command: key_stream(command.key_id),
        decider=api_keys.API_KEYS,
        decide=lambda command, actor, key: api_keys.issue(key, command, actor),
        creates=True,
    ),
    Handler(
        command=api_keys.RevokeApiKey,
        roles=_ADMIN,
        stream=lambda command: key_stream(command.key_id),
        decider=api_keys.API_KEYS,
        decide=lambda command, actor, key: api_keys.revoke(key, command, actor),
    ),
)
