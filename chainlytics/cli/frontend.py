"""A user of the demo, who talks HTTP as a frontend would."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from time import monotonic
from typing import Any
from uuid import uuid4

import httpx

from api.tokens import Issuer
from chainlytics.cli.console import CliError, bar
from chainlytics.settings import Settings
from domain.access import Role

_PATIENCE_S = 120


class Frontend:
    """A user with a token, talking HTTP as a frontend would."""

    def __init__(self, client: httpx.AsyncClient, settings: Settings, actor: str) -> None:
        self._client = client
        bearer = Issuer(settings.issuer_secret()).issue(
            subject=actor,
            organisation_id=settings.organisation_id,
            roles=frozenset({Role.ADMIN}),
            ttl=timedelta(hours=1),
        )
        self._headers = {"Authorization": f"Bearer {bearer}"}

    async def post(self, path: str, body: dict[str, Any], key: str | None = None) -> Any:
        headers = self._headers | {"Idempotency-Key": key or str(uuid4())}
        return self._checked(await self._client.post(path, json=body, headers=headers))

    async def get(self, path: str, **query: Any) -> Any:
        return self._checked(await self._client.get(path, params=query, headers=self._headers))

    @staticmethod
    def _checked(response: httpx.Response) -> Any:
        if response.is_error:
            raise CliError(f"{response.request.url.path}: {response.status_code} {response.text}")
        return response.json() if "json" in response.headers["content-type"] else response.text

    async def done(self, task_id: str, what: str) -> dict[str, Any]:
        """A task that was asked for, when it is completed; shows how far it is.

        Raises:
            CliError: it failed, or is not done in two minutes.
        """
        give_up = monotonic() + _PATIENCE_S
        with bar(what) as update:
            while monotonic() < give_up:
                task: dict[str, Any] = await self.get(f"/tasks/{task_id}")
                update(task["done"] or 0, task["total"] or 1)
                if task["state"] == "completed":
                    return task
                if task["state"] in ("failed", "cancelled"):
                    raise CliError(f"{what}: {task['state']}: {task.get('reason')}")
                await asyncio.sleep(0.2)
        raise CliError(f"{what} took longer than {_PATIENCE_S} s")
