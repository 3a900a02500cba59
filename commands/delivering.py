"""Delivers events to webhooks: behind the log, at least once, each stream in its order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import structlog
from psycopg import AsyncConnection

from commands.bus import Bus
from commands.context import Context
from commands.webhook_messages import Webhooks, message
from domain import catalogue
from domain.access import Role
from domain.errors import Refused
from domain.values import Command
from domain.webhooks import EVENTS, NEVER_SENT, PauseWebhook, WebhookRegistered
from eventstore import Log
from eventstore.archive.cold import Cold
from eventstore.ids import named_id
from eventstore.log import Connection, StoredEvent, read_after
from eventstore.subscription import Bell, read_page
from eventstore.webhooks import queue
from eventstore.webhooks.queue import Due, Endpoint, Key, New, Tried
from eventstore.webhooks.secrets import sweep
from eventstore.webhooks.sending import Outcome

ACTOR = "webhook-deliverer"
_MINUTE, _HOUR = timedelta(minutes=1), timedelta(hours=1)
#: How long a delivery waits after each attempt that failed, as the Standard Webhooks specification
#: recommends; three days in all. Behind the last one it is a dead letter.
SCHEDULE = (
    timedelta(seconds=5),
    *(5 * _MINUTE, 30 * _MINUTE),
    *(hours * _HOUR for hours in (2, 5, 10, 14, 20, 24)),
)
#: A webhook that took nothing for so long, though it was tried, is paused.
GIVE_UP_AFTER = timedelta(days=5)
#: How long is remembered what was delivered.
KEEP = timedelta(days=30)
#: Failures in a row before a webhook as a whole is asked less often, and how seldom at the most.
_PATIENT_FOR = 5
_LONGEST_REST = 5 * _MINUTE
_TOPICS = [
    topic
    for topic in (*catalogue.TYPES, *catalogue.UPCASTERS)
    if catalogue.type_of(topic) in EVENTS
]
_BATCH = 500
_FAR = 100_000  # positions looked at in one statement where only a few are of interest
_STRETCH = 10_000  # positions before it is written down how far that is
_SENDING = 200  # requests at once, of all webhooks
_PRUNE_EVERY = 10 * _MINUTE
_log = structlog.get_logger(__name__)


class Deliverer:
    """Follows the log and tells webhooks.

    One process delivers at a time; others stand by until its connection is gone. A webhook has a
    task of its own, so one that is slow holds up nobody else.

    Args:
        url: libpq connection string.
        log: where events are read.
        bus: takes the command that pauses a webhook.
        webhooks: what sends.
        schedule: how long a delivery waits after each failure.
        give_up_after: a webhook that took nothing for so long is paused.
        at_once: requests to one webhook at once, each of another stream.
        poll_s: look at least that often for what is due.
        keep: how long is remembered what was delivered.
    """

    def __init__(
        self,
        url: str,
        log: Log,
        bus: Bus,
        webhooks: Webhooks,
        *,
        schedule: Sequence[timedelta] = SCHEDULE,
        give_up_after: timedelta = GIVE_UP_AFTER,
        at_once: int = 8,
        poll_s: float = 1.0,
        keep: timedelta = KEEP,
    ) -> None:
        self._url = url
        self.log = log
        self._bus = bus
        self.webhooks = webhooks
        self._schedule = schedule
        self._give_up_after = give_up_after
        self.at_once = at_once
        self._poll_s = poll_s
        self.keep = keep
        self._sending = asyncio.Semaphore(_SENDING)

    async def run(self) -> None:
        """Deliver for ever; survives a restart of the database by itself."""
        async with Bell(self._url, poll_s=self._poll_s) as bell:
            while True:
                try:
                    async with await AsyncConnection.connect(
                        self._url, autocommit=True, connect_timeout=5
                    ) as connection:
                        while not await queue.lease(connection):  # noqa: ASYNC110 - others' lock
                            await asyncio.sleep(self._poll_s)
                        await _Leading(self, connection).run(bell)
                except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                    _log.warning("delivering again", error=str(error).strip())
                    await asyncio.sleep(0.5)
                except Exception:
                    _log.exception("webhooks stopped, trying again")
                    await asyncio.sleep(2.0)

    async def outcomes(self, endpoint: Endpoint, batch: Sequence[Due]) -> list[tuple[Due, Outcome]]:
        """Send what is due; what came of each."""
        now = datetime.now(UTC)
        signers = await self.webhooks.secrets.signers(
            *endpoint.key,
            endpoint.secret_id,
            endpoint.former_secret_id,
            endpoint.former_until,
            now,
        )
        events = await self.log.at([one.position for one in batch])
        sent = [self._send(endpoint, one, events.get(one.position), signers) for one in batch]
        return list(zip(batch, await asyncio.gather(*sent), strict=True))

    async def _send(
        self, endpoint: Endpoint, due: Due, event: StoredEvent | None, signers: Sequence[bytes]
    ) -> Outcome:
        try:
            if not signers:
                raise ValueError("its secret is not there")
            if event is None or event.event_id != due.event_id:
                raise ValueError("its event is not on the log")
            body = message(event)
        except ValueError as error:
            return Outcome(datetime.now(UTC), 0, None, f"it was not sent: {error}"[:300])
        async with self._sending:
            return await self.webhooks.sender.send(endpoint.url, str(event.event_id), body, signers)

    def again_in(self, due: Due, outcome: Outcome) -> timedelta | None:
        """How long a delivery waits that was not taken; None: it is given up."""
        if outcome.taken:
            return None
        if due.step >= len(self._schedule):
            return _MINUTE if outcome.gone else None
        wait = self._schedule[due.step] * random.uniform(1.0, 1.2)
        return max(wait, outcome.retry_after or timedelta())

    def rest(self, endpoint: Endpoint, outcomes: Sequence[Outcome]) -> timedelta:
        """How long a webhook as a whole is left alone: what it asked for, or longer the longer it
        fails."""
        asked = [one.retry_after for one in outcomes if one.overloaded and one.retry_after]
        failures = endpoint.failures + len(outcomes) - _PATIENT_FOR
        if failures < 0 or not self._schedule or any(one.taken for one in outcomes):
            return max(asked, default=timedelta())
        rest = min(self._schedule[min(failures, len(self._schedule) - 1)], _LONGEST_REST)
        return max(rest * random.uniform(1.0, 1.2), *asked, timedelta())

    async def pause(self, endpoint: Endpoint, reason: str, cause: str) -> None:
        """Pause a webhook, once for a cause."""
        command: Command = PauseWebhook(
            webhook_id=endpoint.webhook_id, reason=reason, paused_at=datetime.now(UTC)
        )
        named = f"webhook {endpoint.webhook_id} paused: {cause}"
        context = Context(
            organisation_id=endpoint.organisation_id,
            actor=ACTOR,
            roles=frozenset({Role.SERVICE}),
            command_id=named_id(endpoint.organisation_id, named),
            digest=named.encode(),
        )
        try:
            await self._bus.execute(command, context)
        except Refused as refusal:  # somebody else has paused or removed it
            _log.info("webhook not paused", webhook_id=endpoint.webhook_id, code=refusal.code)

    def is_hopeless(self, since: datetime, outcomes: Sequence[Outcome]) -> bool:
        """Whether a webhook that fails since then is to be paused, not having taken these."""
        late = datetime.now(UTC) - since > self._give_up_after
        return late and not any(one.taken for one in outcomes)


class _Leading:
    """The work of the process that holds the lease, on the connection that holds it: who lost the
    connection writes nothing any more."""

    def __init__(self, deliverer: Deliverer, connection: Connection) -> None:
        self._deliverer = deliverer
        self._connection = connection
        self._turn = asyncio.Lock()  # one transaction at a time on the one connection
        self._cold = Cold()
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        #: Looked at up to here, where the last stretch held nothing to be written down.
        self._reached: dict[Key, int] = {}
        self._pruned_at: datetime | None = None

    async def run(self, bell: Bell) -> None:
        """Follow the log, take in what is to be sent, and have each webhook's task send it."""
        try:
            while True:
                mark = bell.mark()
                to, more = await self._follow()
                more |= await self._take_in(to)
                if not more:
                    await self._clean()
                async with self._turn:
                    ready = await queue.ready(self._connection)
                for key in ready:
                    task = self._tasks.get(key)
                    if task is None or task.done():
                        self._tasks[key] = asyncio.create_task(
                            self._serve(key), name=f"webhook {key[1]}"
                        )
                if not more:
                    await bell.wait(mark)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _follow(self) -> tuple[int, bool]:
        """Take in what happened to webhooks themselves; up to where, and whether there is more."""
        connection = self._connection
        async with self._turn, connection.transaction():
            position = await queue.followed(connection)
            page = await read_page(
                connection, position, _BATCH, topics=_TOPICS, window=_FAR, cold=self._cold
            )
            first: dict[Key, int] = {}
            for stored in page.events:
                event: Any = catalogue.decode(stored.topic, stored.state)
                key = (stored.organisation_id, event.webhook_id)
                if isinstance(event, WebhookRegistered) or key not in first:
                    first[key] = stored.position
            for key, registered in first.items():
                await self._put(key, registered)
            if page.events or page.position - position >= _STRETCH:
                await queue.set_followed(connection, page.position)
        return page.position, page.more

    async def _put(self, key: Key, registered: int) -> None:
        """Have a webhook as its events say; where it is new, from its registration on."""
        organisation_id, webhook_id = key
        deliverer = self._deliverer
        webhook = await deliverer.webhooks.state(deliverer.log, organisation_id, webhook_id)
        if webhook.removed or webhook.url is None:
            await queue.remove(self._connection, key)
            return
        former = webhook.former_secret_id
        endpoint = Endpoint(
            organisation_id=organisation_id,
            webhook_id=webhook_id,
            url=webhook.url,
            events=webhook.events,
            secret_id=UUID(webhook.secret_id),
            former_secret_id=None if former is None else UUID(former),
            former_until=webhook.former_until,
            position=registered,
            failures=0,
            failing_since=None,
        )
        await queue.put(self._connection, endpoint, paused=webhook.paused)

    async def _take_in(self, to: int) -> bool:
        """Look at the log for webhooks that are behind ``to``, those at one position together;
        whether there is more."""
        connection, more = self._connection, False
        async with self._turn:
            behind: dict[int, list[Endpoint]] = {}
            for one in await queue.with_room(connection):
                start = max(one.position, self._reached.get(one.key, 0))
                if start < to:
                    behind.setdefault(start, []).append(one)
            for start, endpoints in behind.items():
                found = await read_after(connection, start, _BATCH, self._cold)
                events = [event for event in found if event.position <= to]
                end = events[-1].position if len(found) == _BATCH and events else to
                new = [
                    New(
                        endpoint.organisation_id,
                        endpoint.webhook_id,
                        event.position,
                        event.event_id,
                        event.stream_id,
                        _name(event.topic),
                    )
                    for endpoint in endpoints
                    for event in events
                    if _is_told(endpoint, event)
                ]
                told = {(one.organisation_id, one.webhook_id) for one in new}
                reached = [
                    (*endpoint.key, end)
                    for endpoint in endpoints
                    if endpoint.key in told or end - endpoint.position >= _STRETCH
                ]
                async with connection.transaction():
                    await queue.take_in(connection, new, reached)
                self._reached |= {endpoint.key: end for endpoint in endpoints}
                more |= end < to
        return more

    async def _serve(self, key: Key) -> None:
        """Send what is due for one webhook, until nothing is."""
        try:
            while True:
                async with self._turn:
                    found = await queue.due(self._connection, key, self._deliverer.at_once)
                if found is None:
                    return
                await self._settle(*found)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            _log.warning("webhook waits", webhook_id=key[1], error=str(error).strip())
            await asyncio.sleep(1.0)
        except Exception:
            _log.exception("webhook failed, trying again", webhook_id=key[1])
            await asyncio.sleep(5.0)

    async def _settle(self, endpoint: Endpoint, batch: Sequence[Due]) -> None:
        deliverer = self._deliverer
        sent = await deliverer.outcomes(endpoint, batch)
        outcomes = [outcome for _, outcome in sent]
        gone = next((due for due, outcome in sent if outcome.gone), None)
        rest = deliverer.rest(endpoint, outcomes)
        since = endpoint.failing_since
        if gone is not None:
            cause = f"gone {gone.event_id} {gone.attempts}"
            await deliverer.pause(endpoint, "the receiver answered 410 Gone", cause)
            rest = max(rest, _MINUTE)  # by then the event is taken in
        elif since is not None and deliverer.is_hopeless(since, outcomes):
            reason = f"it has taken nothing since {since:%Y-%m-%d %H:%M} UTC, though it was tried"
            await deliverer.pause(endpoint, reason, f"failing {since.isoformat()}")
            rest = max(rest, _MINUTE)
        tried = [Tried(due, outcome, deliverer.again_in(due, outcome)) for due, outcome in sent]
        async with self._turn, self._connection.transaction():
            await queue.settle(self._connection, endpoint.key, tried, rest)

    async def _clean(self) -> None:
        """Forget what is old, now and then; all that happened to webhooks is taken in before."""
        now = datetime.now(UTC)
        if self._pruned_at is not None and now - self._pruned_at < _PRUNE_EVERY:
            return
        self._pruned_at = now
        async with self._turn:
            await sweep(self._connection)
            await queue.prune(self._connection, self._deliverer.keep)


def _name(topic: str) -> str:
    """An event's present name."""
    kind = catalogue.type_of(topic)
    return kind.__name__ if kind else topic


def _is_told(endpoint: Endpoint, event: StoredEvent) -> bool:
    """Whether a webhook is told of an event."""
    if event.organisation_id != endpoint.organisation_id:
        return False
    area = catalogue.area_of(event.topic)
    if area in NEVER_SENT:
        return False
    names = endpoint.events
    return not names or area in names or _name(event.topic) in names
