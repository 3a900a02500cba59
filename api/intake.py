"""Commands by Kafka, the second way in: the same commands, rules, tokens and answers as over HTTP.

A message of the topic ``commands`` (its form: ``api/messages.py``) is a command. What a poll brings
goes through the bus in one append; the answers go to the topic ``replies``. A message that cannot
become a command, or that fails here again and again, becomes a dead letter and holds up nobody
behind it. Offsets are stored when answers and dead letters are with the brokers: whoever is cut
off before takes the messages in again, and the commands' ids make one command of each.

A database that is away is nobody's poison: the messages wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import NamedTuple

import psycopg
import structlog
from fastapi.exceptions import RequestValidationError
from kafka.errors import KafkaError
from starlette.exceptions import HTTPException

from api.authorisation import NoSuchOrganisation, OrganisationNeeded
from api.commands import checked
from api.dependencies import Dependencies
from api.errors import told_of
from api.messages import Read, Verified, answer, read
from api.tokens import InvalidToken
from commands import Forbidden, Result, TooMuchContention
from commands.context import Sent
from domain.errors import Refused
from eventstore import CommandReused, LogUnavailable, Receipt
from eventstore.archive.object_store import ArchiveUnavailable
from eventstore.attempts import Attempt
from eventstore.kafka.cluster import Cluster
from eventstore.kafka.inbox import Inbox, Message, Outgoing
from eventstore.kafka.letters import COMMANDS, DEAD, REPLIES, dead_letter
from eventstore.kafka.topics import LARGEST, WrongPartitions, ensure_topics
from eventstore.persons.keys import WrongMasterKey

CONSUMER = "intake"
#: Nothing is wrong with the command: it waits until what it needs is back.
AWAY = (
    LogUnavailable,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    WrongMasterKey,
    ArchiveUnavailable,
)
#: Answers that the sender can do something about, or must live with.
ANSWERED = (
    Refused,
    Forbidden,
    CommandReused,
    TooMuchContention,
    InvalidToken,
    NoSuchOrganisation,
    OrganisationNeeded,
)
_WAITS_S = (0.1, 0.5, 2.0)  # before a command that failed here is tried again
#: Long enough for one command's tries; the group gives up a member that does not ask for five
#: minutes.
_PATIENCE_S = 60.0
_MOST_PAUSE_S = 5.0
_DAY_MS = 24 * 60 * 60 * 1000
#: Commands hold tokens and personal data in plain words, so unlike events they are not kept for
#: ever.
_KEPT_MS = {COMMANDS: 7 * _DAY_MS, REPLIES: 7 * _DAY_MS, DEAD: 30 * _DAY_MS}
_log = structlog.get_logger(__name__)


class Settled(NamedTuple):
    """A message and what became of it."""

    read: Read
    result: Receipt | Exception


async def keep_taken_in(
    cluster: Cluster, deps: Dependencies, *, lanes: int, replication: int | None = None
) -> None:
    """Take commands in until cancelled, through outages of the brokers and of the database.

    Args:
        cluster: where the topics are; those that are missing are made.
        deps: what commands work with.
        lanes: partitions of a topic that is made.
        replication: copies of each; None: the brokers' default.
    """
    while True:
        try:
            await asyncio.to_thread(make_topics, cluster, lanes, replication)
            async with Inbox(cluster, CONSUMER, cluster.topic(COMMANDS), deps.log) as inbox:
                await Intake(cluster, deps, inbox).run()
        except Exception as error:
            known = isinstance(error, (KafkaError, OSError, *AWAY))
            _log.warning("the intake starts again", error=repr(error), exc_info=not known)
            await asyncio.sleep(1)


def make_topics(cluster: Cluster, lanes: int, replication: int | None) -> None:
    """Create the topics of commands that are missing. Blocks.

    Raises:
        KafkaError: the brokers cannot be reached, or refused.
    """
    for name, kept in _KEPT_MS.items():
        configs = {"retention.ms": str(kept), "cleanup.policy": "delete"}
        if name == DEAD:
            # The largest command that the brokers take fits in with our headers on it.
            configs["max.message.bytes"] = str(LARGEST)
        try:
            ensure_topics(cluster, [cluster.topic(name)], lanes, replication, kept=configs)
        except WrongPartitions as error:
            # Commands know no lanes: any number will do.
            _log.info("topic of another number of partitions", topic=name, reason=str(error))


class Intake:
    """Takes in what an inbox brings.

    Args:
        cluster: what the topics are called.
        deps: what commands work with.
        inbox: brings messages and takes answers.
        waits_s: before a command that failed here is tried again; then it is a dead letter.
        patience_s: how long commands of one poll are tried one by one; the rest comes again.
    """

    def __init__(
        self,
        cluster: Cluster,
        deps: Dependencies,
        inbox: Inbox,
        *,
        waits_s: Sequence[float] = _WAITS_S,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._cluster, self._deps, self._inbox = cluster, deps, inbox
        self._waits_s, self._patience_s = waits_s, patience_s

    async def run(self) -> None:
        """Take in what comes, until cancelled.

        Raises:
            KafkaError: the inbox cannot go on.
        """
        failed = 0
        while True:
            try:
                await self.once()
                failed = 0
            except AWAY as error:
                failed += 1
                pause = min(0.1 * 2**failed, _MOST_PAUSE_S)
                _log.warning("commands wait", error=str(error).strip(), seconds=pause)
                await self._inbox.rewind()
                await asyncio.sleep(pause)

    async def once(self) -> list[Settled]:
        """Take in what one poll brings; what became of it. Nothing of it comes again.

        Raises:
            KafkaError: the inbox cannot go on.
            LogUnavailable, psycopg.OperationalError, ...: one of ``AWAY``; all of it comes again
                after a rewind.
        """
        messages = await self._inbox.poll()
        if not messages:
            return []
        settled = await self.settle(messages)
        # First the brokers have what there is to say, then the offsets move: cut off between the
        # two it is said twice, and never not at all (test_intake: stopped_before_the_offsets).
        await self._inbox.put([record for one in settled for record in self._records(one)])
        await self._inbox.done([one.read.message for one in settled])
        if len(settled) < len(messages):
            await self._inbox.rewind()
        return settled

    async def settle(self, messages: Sequence[Message]) -> list[Settled]:
        """Run messages in their order; all of them, or the first of them where patience ended."""
        deadline = monotonic() + self._patience_s
        tokens = await Verified.of(messages, self._deps.authorisation)
        reads = [read(message, tokens) for message in messages]
        results: dict[int, Receipt | Exception] = {}
        together: list[int] = []
        for number, one in enumerate(reads):
            if one.sent is None:
                assert one.error is not None
                results[number] = one.error
                self._noted(one)
            elif one.sent[2].check is None and one.sent[2].guard is None:
                together.append(number)
            else:
                # It looks at what those before it left.
                results |= await self._run(reads, together, deadline)
                together = []
                if len(results) < number or (results and monotonic() > deadline):
                    break
                results[number] = await self._alone(one)
        results |= await self._run(reads, together, deadline)
        settled: list[Settled] = []
        for number, one in enumerate(reads):
            if number not in results:
                break
            settled.append(Settled(one, results[number]))
        return settled

    async def _run(
        self, reads: Sequence[Read], numbers: Sequence[int], deadline: float
    ) -> dict[int, Receipt | Exception]:
        """Run commands in one append; where that fails, one by one."""
        if not numbers:
            return {}
        try:
            results: list[Result] = await self._deps.bus.execute_many(
                [_sent(reads[number]) for number in numbers]
            )
            return dict(zip(numbers, results, strict=True))
        except AWAY:
            raise
        except Exception as error:
            _log.warning("commands are taken one by one", of=len(numbers), error=repr(error))
        found: dict[int, Receipt | Exception] = {}
        for number in numbers:
            if found and monotonic() > deadline:
                break
            found[number] = await self._alone(reads[number])
        return found

    async def _alone(self, one: Read) -> Receipt | Exception:
        """Run one command, a few times if it fails by no fault of its sender's."""
        assert one.sent is not None
        command, context, post = one.sent
        for wait in (*self._waits_s, None):
            try:
                await checked(post.check, self._deps, command, context, post.guard)
                return await self._deps.bus.execute(command, context)
            except AWAY:
                raise
            except (Refused, Forbidden, CommandReused) as error:
                return error
            except Exception as error:
                if wait is None:
                    return error
            await asyncio.sleep(wait)
        raise AssertionError("the last try returns")

    def _records(self, one: Settled) -> list[Outgoing]:
        """The answer to a message, and the dead letter that it becomes."""
        said, result = one
        try:
            answers = [answer(self._cluster, said, result)] if said.can_be_answered else []
        except Exception as error:  # nobody foresaw it, and it must not hold up the others
            result = error
            answers = [answer(self._cluster, said, result)]
        if isinstance(result, Receipt) or not is_poison(said, result):
            return answers
        told, message = told_of(result), said.message
        reason = message.unreadable or f"{told.code}: {told.detail}"
        foreseen = isinstance(result, RequestValidationError | HTTPException)
        note = _log.warning if foreseen else _log.error
        note(
            "a command became a dead letter",
            partition=message.partition,
            offset=message.offset,
            command=said.command,
            reason=reason,
            exc_info=None if foreseen else result,
        )
        return [dead_letter(self._cluster, message, reason), *answers]

    def _noted(self, one: Read) -> None:
        """Note who was not let in; what is said of actor and organisation is not to be believed."""
        if isinstance(one.error, InvalidToken):
            self._deps.attempts.note(
                Attempt(
                    *(None, "", ()),
                    *(f"kafka {one.command}".strip(), ""),
                    *("unauthenticated", "unauthenticated"),
                    one.correlation_id,
                )
            )


def is_poison(read: Read, error: Exception) -> bool:
    """Whether a message becomes a dead letter: it says nothing that can be run, or fails here."""
    return not read.can_be_answered or not isinstance(error, ANSWERED)


def _sent(one: Read) -> Sent:
    assert one.sent is not None
    command, context, _ = one.sent
    return command, context
