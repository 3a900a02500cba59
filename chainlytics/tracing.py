"""Traces by OpenTelemetry: one for each request, from the request through its command, its events,
the read models and the decisions that follow. Imported only where a deployment asks for it.

The trace is the correlation id, which every event carries, as a number. The span of a command and
of an event follows from its id, so other processes know their parent, and the log needs no column
for it. Whether a trace is kept follows from its id as well: all processes keep the same ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from functools import wraps
from hashlib import blake2b
from secrets import randbits
from time import time_ns
from typing import ParamSpec
from uuid import UUID, uuid4

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from chainlytics import __version__
from eventstore.group import event_id_of
from eventstore.spans import Commanded, Followed, Stored

_log = structlog.get_logger(__name__)
P = ParamSpec("P")
Attributes = Mapping[str, str | int | Sequence[str]]

_TRACES = "/v1/traces"
_KEPT = TraceFlags(TraceFlags.SAMPLED)
#: The last seven bytes of a trace id are random, those of a uuid too; its first are not all.
_RANDOM_BITS = 56
#: So many spans come of one batch at most, and so many of a batch's events are linked to it.
_OF_A_BATCH = 500
_LINKS = 100
#: How long the last spans are waited for when a process ends, in milliseconds.
_FLUSH_MS = 3_000
_PARENT = re.compile(r"^[0-9a-f]{2}-[0-9a-f]{32}-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}$")
#: The span of the request that is answered in this task.
_REQUEST: ContextVar[int] = ContextVar("request_span", default=0)


def _harmless(method: Callable[P, None]) -> Callable[P, None]:
    """Who works is not to fail because somebody watches."""

    @wraps(method)
    def told(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(*args, **kwargs)
        except Exception:
            _log.warning("a trace is incomplete", told_of=method.__name__, exc_info=True)

    return told


def span_of(id_: UUID, what: str) -> int:
    """The span of a command, an event or what an event led to: it follows from the id."""
    return int.from_bytes(blake2b(id_.bytes, digest_size=8, person=what.encode()).digest()) or 1


class Tracing:
    """Sends spans to an OpenTelemetry collector, by OTLP over HTTP.

    Args:
        endpoint: the collector's address; ``/v1/traces`` is put behind it if it is not there.
        headers: are sent along, an API key say.
        service: the service's name.
        environment: which deployment it is.
        part: which part of the system this process is.
        ratio: the share of traces that is kept, from 0 to 1.
        consumers: actors that send commands because of events, and tell of it by ``handled``.
        every_ms: spans are sent so often.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        headers: Mapping[str, str] | None = None,
        service: str = "chainlytics",
        environment: str = "production",
        part: str = "",
        ratio: float = 1.0,
        consumers: frozenset[str] = frozenset(),
        every_ms: int = 2_000,
    ) -> None:
        url = endpoint.rstrip("/")
        exporter = OTLPSpanExporter(
            url if url.endswith(_TRACES) else url + _TRACES, headers=headers, timeout=5
        )
        self._processor = BatchSpanProcessor(exporter, schedule_delay_millis=every_ms)
        self._resource = Resource.create(
            {
                "service.name": service,
                "service.version": __version__,
                "service.instance.id": str(uuid4()),
                "deployment.environment.name": environment,
                "chainlytics.part": part,
            }
        )
        self._scope = InstrumentationScope("chainlytics", __version__)
        self._least = round((1 - ratio) * 2**_RANDOM_BITS)
        self._consumers = consumers

    def close(self) -> None:
        """Send what is left; blocks, for some seconds at most."""
        self._processor.force_flush(_FLUSH_MS)
        self._processor.shutdown()  # type: ignore[no-untyped-call]

    def entered(self) -> int:
        """A request begins in this task; its span."""
        span = randbits(64) or 1
        _REQUEST.set(span)
        return span

    @_harmless
    def request(
        self, span: int, correlation_id: UUID, traceparent: str, name: str, status: int, began: int
    ) -> None:
        """A request ended."""
        if not self._keeps(correlation_id):
            return
        method, _, route = name.partition(" ")
        sent = _PARENT.match(traceparent)
        self._end(
            name,
            correlation_id,
            span,
            int(sent[1], 16) if sent else 0,
            began,
            {
                "http.request.method": method,
                "http.route": route,
                "http.response.status_code": status,
            },
            kind=SpanKind.SERVER,
            failed=status >= 500,
            remote=True,
        )

    @_harmless
    def commands(self, commands: Sequence[Commanded], began: int) -> None:
        """Commands were run."""
        request = _REQUEST.get()
        kept = [one for one in commands if self._keeps(one.correlation_id)]
        for one in kept[:_OF_A_BATCH]:
            if one.causation_id is None:
                parent = request
            elif one.actor in self._consumers:
                parent = span_of(one.command_id, "cause")
            else:
                parent = span_of(one.causation_id, "event")
            # A retry stores nothing, and is another span than the first run, in one trace maybe.
            first = one.outcome == "accepted"
            self._end(
                one.name,
                one.correlation_id,
                span_of(one.command_id, "command") if first else randbits(64) or 1,
                parent,
                began,
                {"chainlytics.command": one.name, "chainlytics.outcome": one.outcome},
                failed=one.outcome in ("failed", "unavailable"),
            )

    @_harmless
    def appended(self, stored: Iterable[Stored], began: int) -> None:
        """A group was committed."""
        ended = time_ns()
        group = SpanContext(randbits(128) or 1, randbits(64) or 1, is_remote=False)
        group = SpanContext(group.trace_id, group.span_id, is_remote=False, trace_flags=_KEPT)
        links: list[Link] = []
        entries = events = told = 0
        for one in stored:
            entry = one.entry
            entries += 1
            events += len(entry.events)
            if told >= _OF_A_BATCH or not self._keeps(entry.correlation_id):
                continue
            for index, event in enumerate(entry.events):
                told += 1
                context = self._end(
                    event.topic,
                    entry.correlation_id,
                    span_of(event_id_of(entry.command_id, index), "event"),
                    span_of(entry.command_id, "command"),
                    one.since,
                    {
                        "chainlytics.event": event.topic,
                        "chainlytics.position": one.position - len(entry.events) + 1 + index,
                    },
                    kind=SpanKind.PRODUCER,
                    ended=ended,
                    links=[Link(group)],
                )
                links.append(Link(context))
        if links:
            about = {"chainlytics.commands": entries, "chainlytics.events": events}
            self._batch("append", group, links, began, ended, about)

    @_harmless
    def handled(self, by: str, events: Sequence[Followed], began: int, **about: str) -> None:
        """A batch of events was worked on."""
        ended = time_ns()
        kept = [one for one in events if self._keeps(one.correlation_id)][-_OF_A_BATCH:]
        if not kept:
            return
        more = {f"chainlytics.{name}": value for name, value in about.items()}
        batch = SpanContext(
            randbits(128) or 1, randbits(64) or 1, is_remote=False, trace_flags=_KEPT
        )
        links = []
        for one in kept:
            leads_to = one.leads_to
            context = self._end(
                by,
                one.correlation_id,
                randbits(64) or 1 if leads_to is None else span_of(leads_to, "cause"),
                span_of(one.event_id, "event"),
                began,
                {"chainlytics.event": one.topic, "chainlytics.position": one.position, **more},
                kind=SpanKind.CONSUMER,
                ended=ended,
                links=[Link(batch)],
                remote=True,
            )
            links.append(Link(context))
        shared: Attributes = {"chainlytics.events": len(events), **more}
        self._batch(f"{by} batch", batch, links, began, ended, shared)

    def _keeps(self, correlation_id: UUID) -> bool:
        number = correlation_id.int
        return number & (2**_RANDOM_BITS - 1) >= self._least and number != 0

    def _batch(
        self,
        name: str,
        context: SpanContext,
        links: Sequence[Link],
        began: int,
        ended: int,
        attributes: Attributes,
    ) -> None:
        """A trace of its own for what many requests shared."""
        self._send(name, context, None, began, ended, attributes, SpanKind.INTERNAL, links, False)

    def _end(
        self,
        name: str,
        trace: UUID,
        span: int,
        parent: int,
        began: int,
        attributes: Attributes,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        ended: int | None = None,
        links: Sequence[Link] = (),
        failed: bool = False,
        remote: bool = False,
    ) -> SpanContext:
        context = SpanContext(trace.int, span, is_remote=False, trace_flags=_KEPT)
        above = (
            SpanContext(trace.int, parent, is_remote=remote, trace_flags=_KEPT) if parent else None
        )
        self._send(name, context, above, began, ended or time_ns(), attributes, kind, links, failed)
        return context

    def _send(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        began: int,
        ended: int,
        attributes: Attributes,
        kind: SpanKind,
        links: Sequence[Link],
        failed: bool,
    ) -> None:
        self._processor.on_end(
            ReadableSpan(
                name,
                context=context,
                parent=parent,
                resource=self._resource,
                attributes=attributes,
                links=links[:_LINKS],
                kind=kind,
                status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
                start_time=began,
                end_time=ended,
                instrumentation_scope=self._scope,
            )
        )
