"""A history is whole and the same, page by page, wherever its events are."""

from __future__ import annotations

import asyncio
from pathlib import Path

from commands.products import product_stream
from domain.products import ChangeProduct, RegisterProduct
from readmodels.database import ReadModels
from readmodels.history import HistoryEntry, history
from readmodels.past import AsOf
from tests.archiving import archived, dropped, held
from tests.world import NOW, ORGANISATION, company, context

CHANGES = 12


async def _pages(read: ReadModels, sku: str, limit: int) -> list[HistoryEntry]:
    found: list[HistoryEntry] = []
    cursor: str | None = None
    while True:
        page = await history(read, product_stream(sku), cursor=cursor, limit=limit)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


def test_a_history_goes_through_the_archive(database: str, tmp_path: Path) -> None:
    async def write() -> None:
        async with company(database) as app:
            for sku in ("A", "B"):
                command = RegisterProduct(sku=sku, name=sku, registered_at=NOW)
                await app.bus.execute(command, context())
            for number in range(CHANGES):
                for sku in ("A", "B"):
                    change = ChangeProduct(sku=sku, name=f"{sku} {number}", changed_at=NOW)
                    await app.bus.execute(change, context())
            # What somebody has still to read is not dropped.
            await app.projector.catch_up()
            await app.consumer.catch_up()

    async def read() -> list[list[HistoryEntry]]:
        """By pages of each size, and as of the fifth event."""
        async with company(database) as app:
            now = ReadModels(app.log, ORGANISATION)
            pages = [await _pages(now, "A", limit) for limit in (1, 4, 100)]
            then = ReadModels(app.log, ORGANISATION, None, AsOf(pages[0][4].position))
            return [*pages, await _pages(then, "A", 2)]

    asyncio.run(write())
    before = asyncio.run(read())
    whole = before[0]
    assert before == [whole, whole, whole, whole[:5]]
    assert [entry.version for entry in whole] == list(range(1, CHANGES + 2))
    assert whole[-1].data is not None
    assert whole[-1].data["name"] == f"A {CHANGES - 1}"
    stored = held(database)
    archived(database, tmp_path, positions=5)
    dropped(database)
    assert held(database) < stored - CHANGES
    assert asyncio.run(read()) == before
