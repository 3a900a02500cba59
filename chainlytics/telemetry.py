"""Logs: one JSON object a line, with the correlation id of the request that led to it."""

from __future__ import annotations

import logging
import sys

import structlog


def configure_logs(level: str = "INFO", *, pretty: bool = False) -> None:
    """Send structured logs to standard error; ``pretty`` for people at a terminal.

    Raises:
        ValueError: the level is not one of logging's names.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"log level {level!r}: must be one of DEBUG, INFO, WARNING, ERROR")
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if pretty else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
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
