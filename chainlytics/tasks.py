"""What tasks are done with, wired by the settings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from chainlytics import verifier
from chainlytics.application import application, archive_of, sealer_of
from chainlytics.settings import Settings
from eventstore.uploads import Uploads
from ml.job import OpenTools, Tools


def tools_of(url: str, settings: Settings) -> OpenTools:
    """Opens them: connections of their own, for the event loop of the thread that does a task."""

    program = Path(verifier.__file__).read_bytes()

    @asynccontextmanager
    async def open_tools() -> AsyncIterator[Tools]:
        async with application(
            url, pool_size=3, master=settings.personal_key, api_url=settings.api_database_url
        ) as app:
            yield Tools(
                url=url,
                log=app.log,
                bus=app.bus,
                artifacts=app.artifacts,
                uploads=Uploads(app.log),
                spool=settings.home / "imports",
                verifier=program,
                memberships=app.memberships,
                sealer=sealer_of(url, settings),
                archive=archive_of(url, settings),
            )

    return open_tools
