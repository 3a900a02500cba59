"""What a task may do: what whoever asked for it may do at that moment, and no more."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr

from chainlytics.application import Application
from chainlytics.settings import Settings
from chainlytics.tasks import tools_of
from commands import Context, stream_id
from commands.tasks import task_stream
from domain.access import Role
from domain.api_keys import IssueApiKey, RevokeApiKey
from domain.catalogue import decode
from domain.organisations import (
    AddMember,
    ChangeMemberRoles,
    FoundOrganisation,
    RemoveMember,
)
from domain.tasks import TaskRequested
from domain.values import Command
from domain.work import ImportFile, RequestImport, RequestReplay
from ml.job import CannotBeDone, Found, Job
from ml.task_work import do
from tests.serving import order
from tests.world import company

EVE, KEY = "local:eve", "key:K-1"
T = datetime(2026, 1, 1, tzinfo=UTC)
Report = Callable[[int, int, str], None]


def line(number: int, command: str, **fields: Any) -> dict[str, Any]:
    return {"key": str(number), "command": command, "fields": fields}


def placed(number: int) -> dict[str, Any]:
    return line(number, "PlaceOrder", **order(f"O-{number}", placed_at=T.isoformat()))


BOTH = [placed(1), line(2, "CancelOrder", order_id="O-1", reason="x", cancelled_at=T.isoformat())]


def quiet(*_: Any) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Home:
    """An organisation, and what tasks are done with."""

    app: Application
    organisation_id: UUID
    settings: Settings

    async def send(self, command: Command, actor: str = "ada", role: Role = Role.ADMIN) -> None:
        context = Context(self.organisation_id, actor, frozenset({role}))
        await self.app.bus.execute(command, context)

    async def issue(self, *scopes: str, expires_at: datetime | None = None) -> None:
        await self.send(
            IssueApiKey(
                key_id="K-1",
                name="erp",
                roles=(Role.SERVICE,),
                scopes=scopes,
                digest="a" * 64,
                expires_at=expires_at,
                issued_at=T,
            )
        )

    async def asked(self, command: Command, actor: str, role: Role) -> Job:
        await self.send(command, actor, role)
        own = stream_id(self.organisation_id, task_stream("T-1"))
        [event] = (await self.app.log.streams([own]))[own]
        requested = decode(event.topic, event.state)
        assert isinstance(requested, TaskRequested)
        return Job(self.organisation_id, event, 1, requested)

    async def importing(self, lines: list[dict[str, Any]], actor: str, role: Role) -> Job:
        async with tools_of(self.app.url, self.settings)() as tools:
            content = "\n".join(map(json.dumps, lines)).encode()

            upload = await tools.uploads.put(self.organisation_id, actor, io.BytesIO(content))
        file = ImportFile(name="commands.jsonl", upload_id=upload.upload_id)
        command = RequestImport(task_id="T-1", mapping="commands", files=(file,), requested_at=T)
        return await self.asked(command, actor, role)

    async def done(self, job: Job, report: Report = quiet) -> Found:
        async with tools_of(self.app.url, self.settings)() as tools:
            return await do(tools, job, report)

    async def gone(self, job: Job, report: Report = quiet) -> None:
        """The task ends for want of rights."""
        with pytest.raises(CannotBeDone) as error:
            await self.done(job, report)
        assert error.value.code == "task.requester_gone"

    async def orders(self) -> int:
        async with self.app.pool.connection() as connection:
            row = await (
                await connection.execute(
                    "SELECT count(*) FROM events WHERE organisation_id = %s AND topic LIKE %s",
                    (self.organisation_id, "orders.OrderPlaced%"),
                )
            ).fetchone()
        assert row is not None
        return int(row[0])


def run(database: str, folder: Path, story: Callable[[Home], Any]) -> None:
    """A story in an organisation of its own, in which Eve is a service."""

    async def main() -> None:
        async with company(database) as app:
            settings = Settings(home=folder, master_key=SecretStr(b64encode(b"k" * 32).decode()))
            home = Home(app, uuid4(), settings)
            await home.send(FoundOrganisation(name="x", founded_at=T), "local:ada")
            await home.send(AddMember(member=EVE, roles=(Role.SERVICE,), added_at=T))
            await story(home)

    asyncio.run(main())


def test_a_task_of_who_has_left_is_not_begun(database: str, tmp_path: Path) -> None:
    async def story(home: Home) -> None:
        job = await home.importing([placed(1)], EVE, Role.SERVICE)
        await home.send(RemoveMember(member=EVE, removed_at=T))
        await home.gone(job)
        assert await home.orders() == 0

    run(database, tmp_path, story)


def test_a_task_needs_the_role_that_asked_for_it(database: str, tmp_path: Path) -> None:
    async def story(home: Home) -> None:
        job = await home.importing([placed(1)], EVE, Role.SERVICE)
        await home.send(ChangeMemberRoles(member=EVE, roles=(Role.VIEWER,), changed_at=T))
        await home.gone(job)
        await home.send(ChangeMemberRoles(member=EVE, roles=(Role.ADMIN,), changed_at=T))
        assert (await home.done(job)).result["stored"] == 1

    run(database, tmp_path, story)


def test_an_import_ends_as_soon_as_its_member_has_left(database: str, tmp_path: Path) -> None:
    async def story(home: Home) -> None:
        job = await home.importing([placed(number) for number in range(3000)], EVE, Role.SERVICE)

        async def remove() -> None:
            async with company(database) as app:
                other = Home(app, home.organisation_id, home.settings)
                await other.send(RemoveMember(member=EVE, removed_at=T))

        def report(done: int, *_: Any) -> None:
            if done == 500:
                thread = Thread(target=lambda: asyncio.run(remove()))
                thread.start()
                thread.join()
                sleep(1.1)  # as long as a right may be believed in

        await home.gone(job, report)
        # What was on its way then is stored; a chunk is 500.
        assert 500 <= await home.orders() <= 1500

    run(database, tmp_path, story)


@pytest.mark.parametrize("how", ["revoked", "expired", "other scope"])
def test_a_task_of_a_key_ends_with_the_key(database: str, tmp_path: Path, how: str) -> None:
    async def story(home: Home) -> None:
        soon = datetime.now(UTC) + timedelta(seconds=1)
        await home.issue(
            "PlaceOrder" if how == "other scope" else "RequestImport",
            expires_at=soon if how == "expired" else None,
        )
        job = await home.importing([placed(1)], KEY, Role.SERVICE)
        if how == "revoked":
            await home.send(RevokeApiKey(key_id="K-1", revoked_at=T))
        elif how == "expired":
            await asyncio.sleep(max((soon - datetime.now(UTC)).total_seconds(), 0) + 0.05)
        await home.gone(job)
        assert await home.orders() == 0

    run(database, tmp_path, story)


def test_a_task_of_a_key_that_there_never_was_is_not_begun(database: str, tmp_path: Path) -> None:
    async def story(home: Home) -> None:
        await home.gone(await home.importing([placed(1)], "key:other", Role.SERVICE))

    run(database, tmp_path, story)


@pytest.mark.parametrize(
    ("scopes", "refused"),
    [
        (("RequestImport",), ["PlaceOrder", "CancelOrder"]),
        (("RequestImport", "PlaceOrder"), ["CancelOrder"]),
        ((), []),
    ],
)
def test_lines_are_sent_with_the_scopes_of_the_key(
    database: str, tmp_path: Path, scopes: tuple[str, ...], refused: list[str]
) -> None:
    async def story(home: Home) -> None:
        await home.issue(*scopes)
        found = await home.done(await home.importing(BOTH, KEY, Role.SERVICE))
        assert found.content is not None
        told = list(csv.DictReader(io.StringIO(found.content.decode())))
        assert [(one["command"], one["rule"]) for one in told] == [
            (name, "command.forbidden") for name in refused
        ]
        assert found.result["stored"] == len(BOTH) - len(refused)

    run(database, tmp_path, story)


def test_what_the_operator_asked_for_goes_on(database: str, tmp_path: Path) -> None:
    """Its tokens name somebody who never was a member."""

    async def story(home: Home) -> None:
        assert (await home.done(await home.importing(BOTH, "boss", Role.ADMIN))).result[
            "stored"
        ] == 2

    run(database, tmp_path, story)


def test_other_tasks_need_their_role_too(database: str, tmp_path: Path) -> None:
    async def story(home: Home) -> None:
        replay = RequestReplay(task_id="T-1", requested_at=T)
        await home.gone(await home.asked(replay, EVE, Role.AUDITOR))

    run(database, tmp_path, story)
