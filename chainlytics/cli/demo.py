"""The whole story on a year of orders: import, train, serve, decide, simulate, a day, replay."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, perf_counter
from typing import Annotated, Any
from uuid import uuid4

import httpx
import typer
from rich.markup import escape

from chainlytics.application import Application
from chainlytics.cli.console import CliError, bar, console, run, table
from chainlytics.cli.decision_views import show_decision, show_replay
from chainlytics.cli.demo_day import Day, simulate
from chainlytics.cli.frontend import Frontend
from chainlytics.cli.model_views import show_training
from chainlytics.cli.models import train_and_register
from chainlytics.settings import Settings
from commands.bulk import Progress, Sender, send_all
from commands.importer import import_directory
from commands.mapping import read_mapping, shipped_mappings
from commands.sample_year import sample_year
from ml.fulfilment import FULFILMENT
from ml.replay import replay
from projections.catalogue import TABLES

Times = dict[str, tuple[float, str]]


def demo(
    olist: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Olist's CSV files, instead of a made year."
        ),
    ] = None,
    orders: Annotated[
        int, typer.Option(min=500, max=200_000, help="Orders of the made year.")
    ] = 10_000,
    decisions: Annotated[int, typer.Option(min=1, max=500, help="Decisions to ask for.")] = 40,
    day: Annotated[
        bool, typer.Option(help="Simulate a week and live a day, with its tours, too.")
    ] = True,
) -> None:
    """Show the whole story on this machine. A second run starts from what is there."""
    started = perf_counter()
    times: Times = {}
    settings = Settings()
    if olist is not None:
        settings = settings.model_copy(update={"organisation": "olist"})

    async def story(app: Application, _: Settings) -> None:
        port = _free_port()
        with _server(settings, port) as process:
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}/api/v1", timeout=60
            ) as client:
                await _healthy(client, process)
                await _tell(app, settings, client, times, olist, orders, decisions, day)

    run(story, settings.organisation)
    table(
        "What it did",
        ("step", "seconds", ""),
        [(step, f"{seconds:.1f}", told) for step, (seconds, told) in times.items()],
    )
    console.print(
        f"all of it in {perf_counter() - started:.1f} s. Next: [bold]make serve[/], then /docs"
    )


async def _tell(
    app: Application,
    settings: Settings,
    client: httpx.AsyncClient,
    times: Times,
    olist: Path | None,
    orders: int,
    decisions: int,
    day: bool,
) -> None:
    planner, boss = (Frontend(client, settings, name) for name in ("planner", "boss"))
    console.rule("1. A year of orders, through the command path", align="left")
    start = perf_counter()
    sent = await (
        _send_year(app, settings, orders) if olist is None else _send_olist(app, settings, olist)
    )
    seconds = perf_counter() - start
    rate = f"{sent.total / seconds:,.0f} commands/s"
    times["import"] = (seconds, f"{sent.stored:,} stored, {sent.repeated:,} known before, {rate}")
    console.print(times["import"][1])

    start = perf_counter()
    head = await app.log.head()
    position = await _wait_until_read(client, planner, head)
    times["read models caught up"] = (perf_counter() - start, f"position {position:,}")

    console.rule("2. A model, trained from the log, approved by a second person", align="left")
    start = perf_counter()
    model_hash = await _champion(app, settings, planner, boss)
    times["train"] = (perf_counter() - start, f"model {model_hash[:12]}")

    console.rule("3. A frontend places an order and asks for decisions", align="left")
    start = perf_counter()
    decided = await _decide(planner, decisions)
    told = f"{len(decided)} decisions, {(perf_counter() - start) / len(decided) * 1000:.0f} ms each"
    times["decide over HTTP"] = (perf_counter() - start, told)
    shown = await _to_show(planner, decided)
    show_decision(shown["made"], shown["explained"])
    await _look_further(planner, settings, shown["decision_id"])

    if day:
        await _live_a_day(planner, settings, times)

    console.rule("6. An auditor replays every decision", align="left")
    start = perf_counter()
    with bar("replaying") as update:
        found = await replay(
            app.url, app.log, app.artifacts, settings.organisation_id, None, update
        )
    seconds = perf_counter() - start
    show_replay(found, seconds)
    same = sum(one.same for one in found)
    times["replay"] = (seconds, f"{same} of {len(found)} the same to the byte")
    if same != len(found):
        raise CliError("a decision is not the same as on the log")

    console.rule("7. An analyst rebuilds a read model beside the live one", align="left")
    start = perf_counter()
    with bar("rebuilding order_summary") as update:
        events = await app.projector.rebuild(TABLES["order_summary"], update)
    seconds = perf_counter() - start
    times["rebuild order_summary"] = (seconds, f"{events:,} events, {events / seconds:,.0f}/s")


async def _live_a_day(planner: Frontend, settings: Settings, times: Times) -> None:
    console.rule("4. A simulation: what if demand rose and a site were closed?", align="left")
    start = perf_counter()
    told = await simulate(planner, settings.home)
    times["simulate"] = (perf_counter() - start, told)

    console.rule("5. A day: orders, stock, tours, an alert", align="left")
    start = perf_counter()
    tours, alert = await Day(planner, settings.home).run()
    times["a day"] = (perf_counter() - start, f"{tours}; {alert}")


async def _send_year(app: Application, settings: Settings, orders: int) -> Progress:
    console.print(f"making a year of {orders:,} orders from a seed")
    year = await asyncio.to_thread(sample_year, orders=orders)
    with bar("sending commands") as update:
        return await send_all(
            app.bus,
            year.commands,
            Sender(year.name, settings.organisation_id, "sample-year"),
            total=len(year.commands),
            on_refusal=lambda keyed, code, detail: console.print(f"{keyed.key}: {code} {detail}"),
            on_progress=lambda progress: update(progress.done, progress.total),
        )


async def _send_olist(app: Application, settings: Settings, directory: Path) -> Progress:
    with bar("importing olist") as update:
        report = await import_directory(
            app.bus,
            read_mapping(shipped_mappings()["olist"]),
            directory,
            organisation_id=settings.organisation_id,
            actor="import",
            rejects=settings.home / "olist-rejects.csv",
            on_progress=lambda progress: update(progress.done, progress.total),
        )
    return report.progress


async def _wait_until_read(client: httpx.AsyncClient, user: Frontend, head: int) -> int:
    with bar("read models catch up") as update:
        while True:
            states = await user.get("/projections")
            position = min(state["position"] for state in states["items"])
            update(position, head)
            if position >= head:
                return int(position)
            await asyncio.sleep(0.2)


async def _champion(app: Application, settings: Settings, planner: Frontend, boss: Frontend) -> str:
    live = (await planner.get("/models/live", kind=FULFILMENT.name))["items"]
    for model in live:
        if model["role"] == "champion":
            console.print(f"model {model['model_hash'][:12]} is deployed already")
            return str(model["model_hash"])
    trained = await train_and_register(app, settings, FULFILMENT.name, "planner", quiet=False)
    show_training(trained)
    proposed = trained.registration
    model_hash = proposed.model_hash
    worse = proposed.metrics.fit_worse_than(proposed.baseline)
    await boss.post(f"/models/{model_hash}/approve", {"accept_worse": worse})
    await planner.post(f"/models/{model_hash}/deploy", {})
    approved = "approved by boss" + (" although worse than the baseline" if worse else "")
    console.print(f"model {model_hash[:12]}: registered by planner, {approved}, deployed")
    return model_hash


async def _decide(user: Frontend, count: int) -> list[str]:
    """Place an order like the latest one, ask for its decision and those of open orders."""
    latest = (await user.get("/orders", limit=1))["items"][0]
    like = await user.get(f"/orders/{latest['order_id']}")
    order_id = f"DEMO-{uuid4().hex[:8]}"
    placed = await user.post("/orders", _order_like(like, order_id))
    seen = await user.get(f"/orders/{order_id}", min_position=placed["position"])
    console.print(
        f"order {order_id} placed at log position {placed['position']:,}; "
        f"its summary reads «{seen['status']}» at once"
    )
    open_orders = (await user.get("/orders", status="placed", limit=100))["items"]
    subjects = [
        order_id,
        # An order whose lines were never recorded cannot be decided on.
        *(o["order_id"] for o in open_orders if o["order_id"] != order_id and o["lines"] > 0),
    ]
    decided = []
    for subject_id in subjects[:count]:
        # In the data's own time: what is promised, and when sites close, counts from there.
        body = {"subject_id": subject_id, "requested_at": like["placed"]["placed_at"]}
        asked = await user.post("/decisions", body)
        decided.append(asked["id"])
    for decision_id in decided:
        await _answered(user, decision_id)
    return decided


async def _to_show(user: Frontend, decided: list[str]) -> dict[str, Any]:
    """The first decision that chose something; the first of all where none did."""
    details = [await user.get(f"/decisions/{decision_id}") for decision_id in decided]
    return next((one for one in details if one["made"]["chosen"] is not None), details[0])


async def _look_further(user: Frontend, settings: Settings, decision_id: str) -> None:
    """What would have turned a decision, and its score as a picture."""
    turned = await user.get(f"/decisions/{decision_id}/counterfactual")
    console.print(f"[bold]What if[/]     {escape(turned['sentence'])}")
    picture = settings.home / "demo-waterfall.svg"
    picture.write_text(await user.get(f"/decisions/{decision_id}/explanation/waterfall.svg"))
    console.print(f"[bold]Picture[/]     {escape(str(picture))}\n")


def _order_like(like: dict[str, Any], order_id: str) -> dict[str, Any]:
    placed = like["placed"]
    names = ("customer_id", "currency", "region", "placed_at", "promised_at", "lines")
    return {name: placed[name] for name in names} | {"order_id": order_id}


async def _answered(user: Frontend, decision_id: str) -> None:
    give_up = monotonic() + 60
    while monotonic() < give_up:
        try:
            detail = await user.get(f"/decisions/{decision_id}")
        except CliError:  # not projected yet
            detail = {"explained": None, "failed": None}
        if detail["failed"] is not None:
            raise CliError(f"decision {decision_id} failed: {detail['failed']['detail']}")
        if detail["explained"] is not None:
            return
        await asyncio.sleep(0.02)
    raise CliError(f"decision {decision_id} was not answered within a minute")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _server(settings: Settings, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """``chainlytics serve`` as a process of its own, on the same database."""
    environment = os.environ | {"CHAINLYTICS_ORGANISATION": settings.organisation}
    log = settings.home / "demo-server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch(mode=0o600)
    log.chmod(0o600)  # the server prints a token
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "chainlytics", "serve", "--port", str(port)],
            env=environment,
            stdout=output,
            stderr=output,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def _healthy(client: httpx.AsyncClient, process: subprocess.Popen[bytes]) -> None:
    give_up = monotonic() + 60
    while monotonic() < give_up:
        if process.poll() is not None:
            raise CliError("the server ended early; see demo-server.log in the home folder")
        try:
            if (await client.get("/health")).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.1)
    raise CliError("the server did not become healthy within a minute")
