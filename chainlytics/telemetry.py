"""Logs: one JSON object a line, with the correlation id of the request that led to it. And, where
the settings ask for it, traces and reported errors; what those need is not even imported otherwise.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from chainlytics.settings import Settings, headers_of

if TYPE_CHECKING:
    from chainlytics.error_tracking import ErrorTracking
    from chainlytics.tracing import Tracing


def tracing_of(settings: Settings, part: str) -> Tracing | None:
    """What follows requests by the settings; None: nothing does. ``part``: of the system, which
    this is."""
    if settings.otlp_endpoint is None:
        return None
    from chainlytics.tracing import Tracing
    from ml.decisions import ACTOR

    return Tracing(
        settings.otlp_endpoint,
        headers=headers_of(settings.otlp_headers),
        service=settings.otlp_service,
        environment=settings.environment,
        part=part,
        ratio=settings.otlp_ratio,
        consumers=frozenset({ACTOR}),
    )


@contextmanager
def following(settings: Settings, part: str) -> Iterator[Tracing | None]:
    """As ``tracing_of``; what is left is sent at the end."""
    tracing = tracing_of(settings, part)
    try:
        yield tracing
    finally:
        if tracing is not None:
            tracing.close()


def error_tracking_of(settings: Settings) -> ErrorTracking | None:
    """What reports unexpected errors by the settings; None: nothing does."""
    if settings.sentry_dsn is None:
        return None
    from chainlytics.error_tracking import ErrorTracking

    return ErrorTracking(settings.sentry_dsn.get_secret_value(), environment=settings.environment)


def configure_logs(
    level: str = "INFO", *, pretty: bool = False, errors: ErrorTracking | None = None
) -> None:
    """Send structured logs to standard error; ``pretty`` for people at a terminal. ``errors``: is
    told of every error that is logged with its traceback.

    Raises:
        ValueError: the level is not one of logging's names.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"log level {level!r}: must be one of DEBUG, INFO, WARNING, ERROR")
    tracked: list[structlog.typing.Processor] = [] if errors is None else [errors.logged]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if pretty else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            *tracked,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        # Asked for each time: standard error may be another stream by then.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # psycopg tells of every cancelled query, Kafka's client of every broker that it cannot reach,
    # again and again; our own lines say what matters.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)
