"""Which witness an address means."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from eventstore.witnesses.file import FileWitness
from eventstore.witnesses.http import HttpWitness
from eventstore.witnesses.witness import Witness

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_BROKER = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\]):([0-9]{1,5})")


class BadWitness(ValueError):
    """An address that is none of a witness; the message says why."""


def witnesses_of(addresses: str) -> list[Witness]:
    """The witnesses of addresses with spaces between them; nothing is opened yet.

    Raises:
        BadWitness: one of them is none, or is named twice.
    """
    found = [_witness(address) for address in addresses.split()]
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise BadWitness(f"{name} is named twice")
    return found


def _witness(address: str) -> Witness:
    try:
        parts = urlsplit(address)
        make = _KINDS[parts.scheme]
    except (KeyError, ValueError):
        raise BadWitness(
            f"{_shown(address)} is no witness: file:///path, http://, https:// or "
            "kafka://host:port/topic"
        ) from None
    if parts.query or parts.fragment:
        raise BadWitness(f"{_shown(address)}: a witness has neither ? nor # in its address")
    return make(parts, _shown(address))


def _file(parts: SplitResult, shown: str) -> Witness:
    path = Path(unquote(parts.path))
    if parts.netloc not in ("", "localhost") or not path.is_absolute() or parts.path.endswith("/"):
        raise BadWitness(f"{shown}: a file is named by its whole path, file:///path")
    return FileWitness(path)


def _http(parts: SplitResult, shown: str) -> Witness:
    try:
        there = bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is no number
        there = False
    if not there:
        raise BadWitness(f"{shown}: it has no host, or a port that cannot be")
    return HttpWitness(parts.geturl())


def _kafka(parts: SplitResult, shown: str) -> Witness:
    from eventstore.witnesses.kafka import KafkaWitness  # who has none need not wait for its import

    brokers, topic = parts.netloc.split(","), parts.path.removeprefix("/")
    if not all(_is_broker(one) for one in brokers) or not _TOPIC.fullmatch(topic):
        raise BadWitness(f"{shown}: Kafka is named as kafka://host:port,host:port/topic")
    return KafkaWitness(brokers, topic)


def _is_broker(text: str) -> bool:
    match = _BROKER.fullmatch(text)
    return match is not None and 0 < int(match[2]) < 1 << 16


def _shown(address: str) -> str:
    """The address without what may be a password."""
    return re.sub(r"//[^/]*@", "//", address)


_KINDS: dict[str, Callable[[SplitResult, str], Witness]] = {
    "file": _file,
    "http": _http,
    "https": _http,
    "kafka": _kafka,
}
