"""Reports unexpected errors to Sentry, or to what speaks as it does. Imported only where a
deployment asks for it.

What leaves the house is the kind of an error and where in the code it came about, with the
correlation id: no message, for it may quote what somebody sent; no request, no variables, no host.
All else is in the log under the same id.
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import MutableMapping
from time import monotonic
from types import TracebackType
from typing import Any

import sentry_sdk
from sentry_sdk.types import Event, Hint

from chainlytics import __version__

#: The same error is reported once in so many seconds; so many kinds are told apart.
_ONCE_IN_S = 60.0
_KINDS = 1_000
_FLUSH_S = 2.0
_TAGS = ("correlation_id", "event", "part")
_OF_A_FRAME = (
    *("filename", "function", "module", "lineno", "in_app"),
    *("pre_context", "context_line", "post_context"),
)
_OF_AN_EVENT = ("event_id", "timestamp", "level", "platform", "release", "environment", "sdk")


class ErrorTracking:
    """Sends errors in the background; what it cannot send is dropped.

    Args:
        dsn: where to, with the project's key.
        environment: which deployment it is.
    """

    def __init__(self, dsn: str, *, environment: str) -> None:
        self._client = sentry_sdk.Client(
            dsn=dsn,
            environment=environment,
            release=f"chainlytics@{__version__}",
            server_name="",
            default_integrations=False,
            auto_enabling_integrations=False,
            auto_session_tracking=False,
            send_client_reports=False,
            include_local_variables=False,
            max_request_body_size="never",
            max_breadcrumbs=0,
            shutdown_timeout=_FLUSH_S,
            before_send=scrubbed,
        )
        self._reported: dict[tuple[str, str, int], float] = {}
        atexit.register(self.close)

    def logged(
        self, logger: Any, method: str, line: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """A processor of structlog: reports a logged error that has a traceback."""
        if method in ("error", "critical", "exception") and (error := _error(line)) is not None:
            self.report(error, **{name: str(line[name]) for name in _TAGS if name in line})
        return line

    def report(self, error: BaseException, **tags: str) -> None:
        """Report an error, unless the same one was reported just now."""
        now = monotonic()
        key = (type(error).__qualname__, *_place(error.__traceback__))
        if now - self._reported.get(key, -_ONCE_IN_S) < _ONCE_IN_S:
            return
        while len(self._reported) >= _KINDS:
            del self._reported[next(iter(self._reported))]
        self._reported[key] = now
        event, hint = sentry_sdk.utils.event_from_exception(
            error, client_options=self._client.options
        )
        event["tags"] = dict(tags)
        self._client.capture_event(event, hint=hint)

    def close(self) -> None:
        """Send what is left, for two seconds at most."""
        self._client.close(timeout=_FLUSH_S)


def scrubbed(event: Event, hint: Hint) -> Event:
    """What of an event may leave: what is named here, and nothing else."""
    found: dict[str, Any] = {name: event[name] for name in _OF_AN_EVENT if name in event}  # type: ignore[literal-required]
    tags = event.get("tags") or {}
    found["tags"] = {name: value for name, value in dict(tags).items() if name in _TAGS}
    values = (event.get("exception") or {}).get("values") or []
    found["exception"] = {"values": [_scrubbed(one) for one in values]}
    return found  # type: ignore[return-value]


def _scrubbed(error: dict[str, Any]) -> dict[str, Any]:
    frames = (error.get("stacktrace") or {}).get("frames") or []
    kept = [{name: one[name] for name in _OF_A_FRAME if name in one} for one in frames]
    return {
        "type": error.get("type"),
        "module": error.get("module"),
        "stacktrace": {"frames": kept},
    }


def _error(line: MutableMapping[str, Any]) -> BaseException | None:
    found = line.get("exc_info")
    if isinstance(found, BaseException):
        return found
    if isinstance(found, tuple) and len(found) == 3:
        return found[1] if isinstance(found[1], BaseException) else None
    return sys.exc_info()[1] if found else None


def _place(trace: TracebackType | None) -> tuple[str, int]:
    """File and line where an error came about."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return ("", 0) if trace is None else (trace.tb_frame.f_code.co_filename, trace.tb_lineno)
