"""What browsers may do: which pages may ask us, and what our own page may load."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from api.errors import problem

#: What pages of other sites send us, and what they may read of our answers.
SENT = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "Last-Event-ID",
    "X-Correlation-ID",
    "X-Min-Position",
    "X-Organisation-Id",
    "traceparent",
)
READ = (
    "As-Of-Position",
    "ETag",
    "Link",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "X-Correlation-ID",
)
_INLINE = re.compile(r"<script>(.*?)</script>", re.DOTALL)


class Origins(CORSMiddleware):
    """Lets pages of some sites ask us. They show tokens, never cookies: no site may send those.

    Args:
        app: what they ask.
        origins: the sites, as ``https://app.example.org``; ``*``: every one.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=list(origins),
            allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=list(SENT),
            expose_headers=list(READ),
            allow_credentials=False,
            max_age=600,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Whether a page may ask; a refusal is a problem as any other."""
        answer = super().preflight_response(request_headers)
        if answer.status_code < 400:
            return answer
        request = Request({"type": "http", "headers": request_headers.raw, "state": {}})
        kept = {name: value for name, value in answer.headers.items() if name.startswith(("vary",))}
        told = bytes(answer.body).decode()
        return problem(request, answer.status_code, "bad-request", told, headers=kept)


def page_policy(html: str) -> str:
    """The Content-Security-Policy of a page of ours: scripts and styles from here, and the scripts
    that stand in it by their hash."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in _INLINE.findall(html)
    )
    return (
        f"default-src 'none'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
