"""Receivers of webhooks: real HTTP servers on loopback that write down what they are sent."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar
from uuid import UUID, uuid4

from standardwebhooks import Webhook

from chainlytics.application import Application, application
from chainlytics.settings import Settings
from chainlytics.webhooks import webhooks_of
from commands import Context
from commands.delivering import Deliverer
from commands.webhook_messages import Webhooks
from domain.access import Role
from domain.inventory import ReceiveStock
from domain.sites import OpenSite
from domain.values import Command
from domain.webhooks import RegisterWebhook
from eventstore import Receipt, prepare_database
from eventstore.webhooks.signing import shown

T = TypeVar("T")
HERE = "127.0.0.0/8"
NOW = datetime(2026, 3, 1, tzinfo=UTC)
QUICK = tuple(timedelta(milliseconds=wait) for wait in (50, 50, 50))


@dataclass(frozen=True)
class Got:
    """A request that a receiver was sent."""

    path: str
    headers: dict[str, str]
    body: bytes
    host: str = ""

    @property
    def told(self) -> dict[str, Any]:
        """Its body."""
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def sku(self) -> str:
        """What of the goods it is about."""
        return str(self.told["data"]["sku"])

    @property
    def quantity(self) -> int:
        """How many of them came."""
        return int(Decimal(self.told["data"]["quantity"]))

    def verified(self, secret: str) -> dict[str, Any]:
        """Its body, if the receiver's library takes it as ours."""
        found: dict[str, Any] = Webhook(secret).verify(self.body, self.headers)
        return found


@dataclass
class Receiver:
    """What a receiver got, and how it answers."""

    answer: Callable[[Got], int | tuple[int, dict[str, str]]]
    url: str = ""
    got: list[Got] = field(default_factory=list)
    #: Held back until it is set.
    open: threading.Event = field(default_factory=threading.Event)

    def of(self, sku: str) -> list[int]:
        """The quantities of one SKU, in the order in which they came."""
        return [one.quantity for one in self.got if one.sku == sku]


@contextmanager
def receiving(
    answer: Callable[[Got], int | tuple[int, dict[str, str]]] = lambda _: 204,
    *,
    tls: ssl.SSLContext | None = None,
    address: str = "127.0.0.1",
) -> Iterator[Receiver]:
    """A receiver that answers as it is told."""
    receiver = Receiver(answer)
    receiver.open.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            body = self.rfile.read(length)
            if len(body) < length:
                return  # who was killed had not sent all of it
            headers = {name.lower(): value for name, value in self.headers.items()}
            got = Got(self.path, headers, body, headers["host"])
            receiver.got.append(got)
            receiver.open.wait(30)
            said = receiver.answer(got)
            status, more = said if isinstance(said, tuple) else (said, {})
            self.send_response(status)
            for name, value in more.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 100

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # who was killed has hung up

    server = Server((address, 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    scheme = "http" if tls is None else "https"
    receiver.url = f"{scheme}://{address}:{server.server_address[1]}/hooks"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.open.set()
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class House:
    """The application in a thread of its own, which goods come to."""

    url: str
    app: Application
    webhooks: Webhooks
    loop: asyncio.AbstractEventLoop
    settings: Settings
    organisation_id: UUID = field(default_factory=uuid4)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What some work comes to."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def send(self, command: Command, organisation_id: UUID | None = None) -> Receipt:
        """Send a command that must be taken."""
        own = organisation_id or self.organisation_id
        context = Context(organisation_id=own, actor="ana", roles=frozenset(Role))
        return self.run(self.app.bus.execute(command, context))

    def goods(self, sku: str, *quantities: int, organisation_id: UUID | None = None) -> None:
        """Some goods come, each an event of the SKU's stream."""
        for one in quantities:
            receive = ReceiveStock(site_id="S", sku=sku, quantity=Decimal(one), received_at=NOW)
            self.send(receive, organisation_id)

    def opened(self) -> House:
        """A site of an organisation of its own."""
        self.organisation_id = uuid4()
        self.send(OpenSite(site_id="S", opened_at=NOW))
        return self

    def register(
        self, receiver: str, webhook_id: str = "w", events: Sequence[str] = ("StockReceived",)
    ) -> str:
        """Register a webhook; its secret."""
        secret_id = uuid4()
        own = self.organisation_id
        self.run(self.webhooks.secrets.make(own, webhook_id, secret_id))
        self.send(
            RegisterWebhook(
                webhook_id=webhook_id,
                url=receiver,
                events=tuple(events),
                secret_id=str(secret_id),
                registered_at=NOW,
            )
        )
        return self.secret(secret_id, webhook_id)

    def secret(self, secret_id: UUID, webhook_id: str = "w") -> str:
        """A secret as the receiver has it."""
        found = self.run(self.webhooks.secrets.open(self.organisation_id, webhook_id, secret_id))
        assert found is not None
        return shown(found.secret)

    @contextmanager
    def delivering(self, **options: Any) -> Iterator[None]:
        """A deliverer that runs."""
        options = dict[str, Any](schedule=QUICK, poll_s=0.05) | options
        deliverer = Deliverer(self.url, self.app.log, self.app.bus, self.webhooks, **options)
        task = asyncio.run_coroutine_threadsafe(deliverer.run(), self.loop)
        try:
            yield
        finally:
            task.cancel()
            self.run(asyncio.sleep(0.1))


@contextmanager
def house(url: str, settings: Settings, **more: Any) -> Iterator[House]:
    """The application on a database."""
    prepare_database(url)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    opened = application(url, master=settings.personal_key)
    try:
        app = asyncio.run_coroutine_threadsafe(opened.__aenter__(), loop).result(60)
        asyncio.run_coroutine_threadsafe(app.projector.create(), loop).result(60)
        yield House(url, app, webhooks_of(app, settings), loop, settings)
        asyncio.run_coroutine_threadsafe(opened.__aexit__(None, None, None), loop).result(60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
