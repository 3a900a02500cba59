"""Who may act for an organisation at this moment: folded from the log, and asked again each second.

No read model: those may be behind, rebuilt or stopped, and a right that was taken away must end.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from datetime import datetime
from time import monotonic
from typing import Any, NamedTuple
from uuid import UUID

from commands.api_keys import key_stream
from commands.context import Rights
from commands.handler import Stream, stream_id
from commands.states import States
from domain.access import KEY_ACTOR
from domain.api_keys import API_KEYS, ApiKey
from domain.catalogue import CATALOGUE
from domain.decider import Decider
from domain.organisations import ORGANISATIONS, STREAM, Organisation
from eventstore.streams import Streams

#: How old the answer to "may he?" may be, in seconds.
FRESH_S = 1.0
_MOST = 10_000
_KEYS = key_stream("")


class _Seen(NamedTuple):
    state: Any
    at: float


class Memberships:
    """The members and API keys of organisations, at most ``fresh_s`` seconds old.

    Args:
        streams: loads streams.
        fresh_s: seconds after which the log is asked again; 0 asks it each time.
    """

    def __init__(self, streams: Streams, *, fresh_s: float = FRESH_S) -> None:
        self._states = States(streams, CATALOGUE, size=_MOST, every=100)
        self._fresh_s = fresh_s
        self._seen: OrderedDict[UUID, _Seen] = OrderedDict()
        self._asked: dict[UUID, asyncio.Task[Any]] = {}

    async def of(self, organisation_id: UUID) -> Organisation:
        """Who belongs to an organisation; nobody, where there is none of this id.

        Raises:
            LogUnavailable: the database did not answer in time.
        """
        found: Organisation = await self._newest(organisation_id, STREAM, ORGANISATIONS)
        return found

    async def api_key(self, organisation_id: UUID, key_id: str) -> ApiKey:
        """An organisation's key; one without a digest, where there is none of this id.

        Raises:
            LogUnavailable: the database did not answer in time.
        """
        found: ApiKey = await self._newest(organisation_id, key_stream(key_id), API_KEYS)
        return found

    async def rights(self, organisation_id: UUID, actor: str, now: datetime) -> Rights | None:
        """What a member or a key may do here: nothing, where it is one no more. None: the actor
        never was one, as those are not whom the operator's tokens name.

        Raises:
            LogUnavailable: the database did not answer in time.
        """
        if actor.startswith(KEY_ACTOR):
            key = await self.api_key(organisation_id, actor.removeprefix(KEY_ACTOR))
            expired = key.expires_at is not None and key.expires_at <= now
            good = key.digest and not key.revoked and not expired
            return Rights(key.roles, key.scopes or None) if good else Rights()
        organisation = await self.of(organisation_id)
        if actor in organisation.members:
            return Rights(organisation.members[actor])
        return Rights() if actor in organisation.former else None

    def changed(self, organisation_id: UUID, stream: str) -> None:
        """A command of this process changed a stream: what was seen of it, or is being read, may
        be of before."""
        if stream != STREAM and not stream.startswith(_KEYS):
            return
        id_ = stream_id(organisation_id, stream)
        self._seen.pop(id_, None)
        self._asked.pop(id_, None)

    async def _newest(self, organisation_id: UUID, name: str, decider: Decider[Any]) -> Any:
        id_ = stream_id(organisation_id, name)
        seen = self._seen.get(id_)
        if seen is not None and monotonic() - seen.at < self._fresh_s:
            return seen.state
        # One question at a time for each stream, whoever asks; shielded, for one may leave.
        task = self._asked.get(id_)
        if task is None:
            task = asyncio.ensure_future(self._load(Stream(id_, name, decider)))
            self._asked[id_] = task
            task.add_done_callback(lambda done: self._answered(id_, done))
        return await asyncio.shield(task)

    async def _load(self, stream: Stream) -> Any:
        at = monotonic()  # what is committed from now on may be missing in the answer
        [known] = await self._states.load([stream])
        if self._asked.get(stream.id) is asyncio.current_task():
            self._seen[stream.id] = _Seen(known.state, at)
            self._seen.move_to_end(stream.id)
            if len(self._seen) > _MOST:
                self._seen.popitem(last=False)
        return known.state

    def _answered(self, id_: UUID, task: asyncio.Task[Any]) -> None:
        if self._asked.get(id_) is task:
            del self._asked[id_]
        if not task.cancelled():
            task.exception()  # told to whoever asked
