"""What takes spans and reported errors over HTTP, as a collector does: real sockets on loopback."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True)
class Taken:
    """A request that came: path, headers in small letters, body as it was before it was packed."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Collector:
    """Keeps what comes."""

    url: str
    taken: list[Taken] = field(default_factory=list)

    def spans(self, trace_id: str | None = None) -> list[Span]:
        """The spans that came, of one trace or all."""
        found = []
        for one in list(self.taken):
            for resource in ExportTraceServiceRequest.FromString(one.body).resource_spans:
                for scope in resource.scope_spans:
                    found += scope.spans
        return [span for span in found if trace_id in (None, span.trace_id.hex())]


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """Take it."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        headers = {name.lower(): value for name, value in self.headers.items()}
        server = cast(_Server, self.server)
        server.collector.taken.append(Taken(self.path, headers, body))
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    collector: Collector


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.collector = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, name="collector")
    thread.start()
    try:
        yield server.collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
