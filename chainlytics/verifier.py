#!/usr/bin/env python3
"""Checks proofs and evidence bundles of a Chainlytics log, offline: one file of Python.

    python verifier.py FILE [--origin chainlytics/...] [--no-replay] [--json]

FILE is a proof (JSON) as `chainlytics audit proof` and the API give it, or an evidence bundle (zip)
of `chainlytics audit bundle`. Nothing in it is believed but by hashes (RFC 6962) and Ed25519
signatures (RFC 8032). What you must know from elsewhere is the log's name (--origin): it follows
from the log's first key. Nothing of the system that is checked is imported: keep a copy of this
file of your own.

The standard library is enough for all of it but one thing: to make a bundle's decision again, numpy
and xgboost have to be there, and only a bundle of which all else holds gets that far. Without
--origin a bundle may be of a log that anybody made up, model included. Exit code: 0 all holds; 1
something does not; 3 what was checked holds, but something was skipped. What a file cannot prove is
said too: lines that begin with "note".
"""

from __future__ import annotations

import argparse
import base64
import bisect
import contextlib
import hashlib
import json
import math
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, NamedTuple
from uuid import UUID, uuid5

DECISION_REQUESTED = "decisions.DecisionRequested."
#: What a list of decisions rests on beside its hashes.
_TREE_OF_ALL = (
    "not excluded: requests that whoever sealed the log left out of its organisation's tree; "
    "`chainlytics audit verify` holds that tree against the whole log"
)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class NotProved(Exception):
    """A proof that does not hold; the message says where."""


#: What reading something of another form ends with.
_MALFORMED = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    struct.error,
)


@contextlib.contextmanager
def _formed() -> Iterator[None]:
    """What has not the form that it should have is not proved."""
    try:
        yield
    except _MALFORMED as error:
        raise NotProved(f"the proof has not the form of one: {error!r:.200}") from error


# Ed25519, RFC 8032, section 5.1.7, in the plainest form: slow (some ms), and short enough to read

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_Point = tuple[int, int, int, int]


def _add(a: _Point, b: _Point) -> _Point:
    x, y = (a[1] - a[0]) * (b[1] - b[0]) % _P, (a[1] + a[0]) * (b[1] + b[0]) % _P
    z, t = 2 * a[3] * b[3] * _D % _P, 2 * a[2] * b[2] % _P
    e, f, g, h = y - x, t - z, t + z, y + x
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _times(number: int, point: _Point) -> _Point:
    found: _Point = (0, 1, 1, 0)
    while number:
        if number & 1:
            found = _add(found, point)
        point, number = _add(point, point), number >> 1
    return found


def _point(data: bytes) -> _Point | None:
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (1 << 255) - 1
    if y >= _P:
        return None
    squared = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(squared, (_P + 3) // 8, _P)
    if (x * x - squared) % _P:
        x = x * pow(2, (_P - 1) // 4, _P) % _P
    if (x * x - squared) % _P or (x == 0 and sign):
        return None
    x = _P - x if x & 1 != sign else x
    return (x, y, 1, x * y % _P)


_BASE_Y = 4 * pow(5, -1, _P) % _P
_BASE = _point(_BASE_Y.to_bytes(32, "little"))


def signature_holds(key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether an Ed25519 signature (64 bytes) of a message is by a public key (32 bytes)."""
    if len(key) != 32 or len(signature) != 64:
        return False
    public, nonce = _point(key), _point(signature[:32])
    scalar = int.from_bytes(signature[32:], "little")
    if public is None or nonce is None or _BASE is None or scalar >= _L:
        return False
    hashed = hashlib.sha512(signature[:32] + key + message).digest()
    challenge = int.from_bytes(hashed, "little") % _L
    left, right = _times(scalar, _BASE), _add(nonce, _times(challenge, public))
    return (left[0] * right[2] - right[0] * left[2]) % _P == 0 and (
        left[1] * right[2] - right[1] * left[2]
    ) % _P == 0


# hashes and proofs, RFC 6962


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf (section 2.1)."""
    return hashlib.sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two subtrees (section 2.1)."""
    return hashlib.sha256(b"\1" + left + right).digest()


def root_by_inclusion(leaf: bytes, number: int, size: int, path: list[bytes]) -> bytes:
    """The head that a leaf's path leads to (RFC 9162, section 2.1.3.2).

    Raises:
        NotProved: the path has not the length that the leaf's place asks for.
    """
    if not 0 <= number < size:
        raise NotProved(f"leaf {number} is not in a tree of {size}")
    found, last = leaf, size - 1
    for step in path:
        if last == 0:
            raise NotProved("the path is too long")
        if number & 1 or number == last:
            found = node_hash(step, found)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            found = node_hash(found, step)
        number, last = number >> 1, last >> 1
    if last:
        raise NotProved("the path is too short")
    return found


def check_consistency(
    old: int, old_root: bytes, new: int, new_root: bytes, path: list[bytes]
) -> None:
    """That the smaller tree is the beginning of the larger one (RFC 9162, section 2.1.4.2).

    Raises:
        NotProved: it is not.
    """
    if not 0 < old <= new:
        raise NotProved(f"a log of {old} events is not the beginning of one of {new}")
    if old == new:
        if path or old_root != new_root:
            raise NotProved("two heads over the same number of events differ")
        return
    steps = [old_root, *path] if old & (old - 1) == 0 else list(path)
    number, last = old - 1, new - 1
    while number & 1:
        number, last = number >> 1, last >> 1
    if not steps:
        raise NotProved("the path is too short")
    first = second = steps[0]
    for step in steps[1:]:
        if last == 0:
            raise NotProved("the path is too long")
        if number & 1 or number == last:
            first, second = node_hash(step, first), node_hash(step, second)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            second = node_hash(second, step)
        number, last = number >> 1, last >> 1
    if last:
        raise NotProved("the path is too short")
    if first != old_root:
        raise NotProved("the path does not lead to the earlier head: the log was changed")
    if second != new_root:
        raise NotProved("the path does not lead to the later head: the log was changed")


def root_by_run(leaves: list[bytes], first: int, size: int, beside: list[bytes]) -> bytes:
    """The head of a tree from a run of its leaf hashes, the first of them number ``first``, and the
    heads of the subtrees beside them, left ones first.

    Raises:
        NotProved: there are too many or too few of those.
    """
    end, rest = first + len(leaves), list(beside)
    if not 0 <= first <= end <= size:
        raise NotProved(f"leaves {first} to {end} are not in a tree of {size}")

    def head(low: int, high: int) -> bytes:
        if high <= first or low >= end:
            if not rest:
                raise NotProved("hashes beside the run are missing")
            return rest.pop(0)
        if high - low == 1:
            return leaves[low - first]
        middle = low + (1 << (high - low - 1).bit_length() - 1)
        left = head(low, middle)
        return node_hash(left, head(middle, high))

    found = head(0, size) if size else hashlib.sha256(b"").digest()
    if rest:
        raise NotProved("there are more hashes beside the run than the tree has")
    return found


# what is signed


class Head(NamedTuple):
    """A signed head: how many events the log has, their RFC 6962 head, and further lines."""

    origin: str
    size: int
    root: bytes
    lines: dict[str, list[str]]

    @property
    def recorded(self) -> datetime:
        """When the last of the events was recorded: nothing is proved of what came later.

        Raises:
            NotProved: the head does not say.
        """
        return _moment(" ".join(self.lines.get("recorded", [])))


class Key(NamedTuple):
    """A public key of the log, and the size of the smallest head that it signs: there the key
    before it ends."""

    public_key: bytes
    from_size: int


_ORIGIN = re.compile(r"chainlytics/[0-9a-f]{32}")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_SIGNATURE = re.compile(r"\u2014 \S+ \S+")


@_formed()
def trusted_keys(told: list[dict[str, Any]], origin: str) -> list[Key]:
    """The log's public keys: the first one gives the log its name, each vouches for the next and
    for where that one begins.

    Raises:
        NotProved: the first is not of this name, or one is vouched for by nobody.
    """
    keys = [Key(_bytes(one["key"]), _number(one["from_size"])) for one in told]
    if not keys or "chainlytics/" + hashlib.sha256(keys[0].public_key).hexdigest()[:32] != origin:
        raise NotProved(f"the first key is not the one that gives the log its name, {origin}")
    for number in range(1, len(keys)):
        before, (key, from_size) = keys[number - 1], keys[number]
        vouched = told[number]["endorsement"]
        message = b"chainlytics key endorsement v2\n" + key + from_size.to_bytes(8, "big")
        if vouched is None or not signature_holds(before.public_key, _bytes(vouched), message):
            raise NotProved(f"key {number} is not vouched for by the one before it")
        if from_size < before.from_size:
            raise NotProved(f"key {number} begins before the one before it")
    return keys


@_formed()
def open_checkpoint(note: str, told: list[dict[str, Any]], origin: str | None = None) -> Head:
    """What a signed note says, checked.

    Raises:
        NotProved: it is none, of another log, or not signed by that of its keys which signs heads
            of this size.
    """
    if not isinstance(note, str):
        raise NotProved("the checkpoint is not a text")
    body, blank, signatures = note.partition("\n\n")
    lines = body.split("\n")
    if not blank or len(lines) < 3 or "" in lines:
        raise NotProved("the checkpoint has not the form of a signed note")
    name, size, root, *more = lines
    if not _ORIGIN.fullmatch(name) or not _SIZE.fullmatch(size) or len(_bytes(root)) != 32:
        raise NotProved("the checkpoint does not begin with a log's name, a size and a root")
    if origin is not None and name != origin:
        raise NotProved(f"the checkpoint is of the log {name}, not of {origin}")
    words = [line.split(" ") for line in more]
    head = Head(name, int(size), _bytes(root), {one[0]: one[1:] for one in words})
    if len(head.lines) != len(words):
        raise NotProved("the checkpoint has a line twice")
    keys = trusted_keys(told, name)
    signed = signatures.removesuffix("\n").split("\n")
    if wrong := [line for line in signed if not _SIGNATURE.fullmatch(line)]:
        raise NotProved(f"{wrong[0][:60]!r} is not a signature line of a checkpoint")
    for _, signer, value in (line.split(" ") for line in signed):
        if signer != name or (number := _signer(keys, name, body, _bytes(value))) is None:
            continue
        end = keys[number + 1].from_size if number + 1 < len(keys) else head.size
        if not keys[number].from_size <= head.size <= end:
            raise NotProved(
                f"key {number} signed the checkpoint, which had no say over {head.size} events"
            )
        return head
    raise NotProved("none of the log's keys signed the checkpoint")


def _signer(keys: list[Key], name: str, body: str, signature: bytes) -> int | None:
    """Which of the keys made a signature; its first four bytes are the hash of that key."""
    for number, (key, _) in enumerate(keys):
        hashed = hashlib.sha256(name.encode() + b"\n\1" + key).digest()[:4]
        if signature[:4] == hashed and signature_holds(key, signature[4:], (body + "\n").encode()):
            return number
    return None


# what is in a row


class Row(NamedTuple):
    """An event as it stands in the log."""

    position: int
    stream_id: UUID
    version: int
    event_id: UUID
    organisation_id: UUID
    recorded_at: datetime
    correlation_id: UUID
    causation_id: UUID | None
    actor: str
    topic: str
    state: bytes


def read_row(data: bytes) -> Row:
    """A row as it is hashed: PostgreSQL's COPY format, eleven fields, each behind its length.

    Raises:
        NotProved: it has another form.
    """
    fields: list[bytes | None] = []
    try:
        (count,) = struct.unpack_from("!h", data)
        at = 2
        for _ in range(count):
            (length,) = struct.unpack_from("!i", data, at)
            at += 4
            fields.append(None if length < 0 else data[at : at + length])
            at += max(0, length)
        if at != len(data) or count != 11:
            raise NotProved("a row has not the form of an event")
        position, stream, version, event, organisation, moment, correlation, cause, *rest = fields
        actor, topic, state = (one or b"" for one in rest)
        return Row(
            int.from_bytes(position or b"", "big", signed=True),
            UUID(bytes=stream),
            int.from_bytes(version or b"", "big", signed=True),
            UUID(bytes=event),
            UUID(bytes=organisation),
            _EPOCH + timedelta(microseconds=int.from_bytes(moment or b"", "big", signed=True)),
            UUID(bytes=correlation),
            None if cause is None else UUID(bytes=cause),
            actor.decode(),
            topic.decode(),
            state,
        )
    except (struct.error, ValueError, TypeError, OverflowError) as error:
        raise NotProved(f"a row has not the form of an event: {error}") from error


# the kinds of proof


@_formed()
def check_inclusion(proof: dict[str, Any], origin: str | None = None) -> tuple[Head, list[Row]]:
    """That events are in the log. Returns the signed head and the events.

    Raises:
        NotProved: they are not, or there is none.
    """
    head = open_checkpoint(proof["checkpoint"], proof["keys"], origin)
    found = []
    for one in proof["events"]:
        data = _bytes(one["row"])
        row = read_row(data)
        if row.position != _number(one["position"]):
            raise NotProved(f"the row said to be at {one['position']} says {row.position}")
        path = [_bytes(step) for step in one["path"]]
        if root_by_inclusion(leaf_hash(data), row.position - 1, head.size, path) != head.root:
            raise NotProved(f"the event at position {row.position} is not in the log as signed")
        found.append(row)
    if not found:
        raise NotProved("the proof holds no event")
    return head, found


@_formed()
def check_growth(proof: dict[str, Any], origin: str | None = None) -> tuple[Head, Head]:
    """That one signed head is the past of another. Returns both.

    Raises:
        NotProved: it is not.
    """
    old = open_checkpoint(proof["old_checkpoint"], proof["keys"], origin)
    new = open_checkpoint(proof["checkpoint"], proof["keys"], old.origin)
    path = [_bytes(step) for step in proof["path"]]
    check_consistency(old.size, old.root, new.size, new.root, path)
    return old, new


@_formed()
def check_decisions(proof: dict[str, Any], origin: str | None = None) -> tuple[Head, list[Row]]:
    """That a list of decision requests is all of an organisation's in a period, as far as the
    signed log reaches: up to the head's ``recorded``. Returns the signed head and the requests.

    Raises:
        NotProved: it is not.
    """
    head = open_checkpoint(proof["checkpoint"], proof["keys"], origin)
    organisation = UUID(proof["organisation_id"])
    start, end = _moment(proof["from"]), _moment(proof["to"])
    if start >= end:
        raise NotProved(f"from {start.isoformat()} to {end.isoformat()} is no period")
    if start > head.recorded:
        raise NotProved(f"the signed log ends before {start.isoformat()}")
    data = [_bytes(one) for one in proof["rows"]]
    rows = [read_row(one) for one in data]
    first, size = _number(proof["first"]), _number(proof["tree_size"])
    beside = [_bytes(one) for one in proof["beside"]]
    root = root_by_run([leaf_hash(one) for one in data], first, size, beside)
    member = leaf_hash(organisation.bytes + size.to_bytes(8, "big") + root)
    path = [_bytes(one) for one in proof["member_path"]]
    place, members = _number(proof["member"]), _number(proof["members"])
    count, told = head.lines["decisions"]
    if count != str(members) or _bytes(told) != root_by_inclusion(member, place, members, path):
        raise NotProved("the organisation's decisions are not what the signed head says")
    for row in rows:
        if row.organisation_id != organisation or not row.topic.startswith(DECISION_REQUESTED):
            raise NotProved(f"position {row.position} is not a decision request of {organisation}")
    inside = [row for row in rows if start <= row.recorded_at < end]
    if first > 0 and not (rows and rows[0].recorded_at < start):
        raise NotProved("nothing shows that no decision lies before the first one")
    if first + len(rows) < size and not (rows and rows[-1].recorded_at >= end):
        raise NotProved("nothing shows that no decision lies behind the last one")
    positions = [row.position for row in rows]
    times = [row.recorded_at for row in rows]
    if positions != sorted(set(positions)) or times != sorted(times):
        raise NotProved("the decisions are not in the order of the log")
    if len(inside) != _number(proof["count"]):
        raise NotProved(f"{len(inside)} decisions are proved, the proof says {proof['count']}")
    return head, inside


def _period(proof: dict[str, Any], head: Head) -> str:
    """The part of a period that a proof is about: it ends where the signed log ends."""
    start, end = _moment(proof["from"]), _moment(proof["to"])
    if end <= head.recorded:
        return f"from {start.isoformat()} to {end.isoformat()}"
    return f"from {start.isoformat()} up to {head.recorded.isoformat()}, where the signed log ends"


def _bytes(text: Any) -> bytes:
    if not isinstance(text, str):
        raise NotProved(f"{str(text)[:40]!r} is not base64")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise NotProved(f"{text[:40]!r} is not base64") from error


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise NotProved(f"{str(value)[:40]!r} is not a number of something")
    return value


def _moment(text: Any) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise NotProved(f"{str(text)[:40]!r} is no moment") from error
    if found.tzinfo is None:
        raise NotProved(f"{text[:40]!r} has no time zone")
    return found.astimezone(UTC)


def check(proof: dict[str, Any], origin: str | None = None) -> str:
    """Check a proof of any kind; what it proves, in a sentence.

    Raises:
        NotProved: it does not hold.
    """
    return _checked(proof, origin)[1]


@_formed()
def _checked(proof: dict[str, Any], origin: str | None) -> tuple[Head, str]:
    """The signed head that a proof leads to, and what it proves."""
    kind = proof["proof"]
    if kind == "inclusion":
        head, rows = check_inclusion(proof, origin)
        told = ", ".join(f"{row.position} ({row.topic})" for row in rows[:5])
        more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
        return head, f"in the log of {head.size} events: position {told}{more}"
    if kind == "consistency":
        old, head = check_growth(proof, origin)
        return head, f"the log of {head.size} events begins with the one of {old.size}"
    if kind == "decisions":
        head, rows = check_decisions(proof, origin)
        return head, (
            f"{len(rows)} decisions were requested {_period(proof, head)}, and no other, in the "
            f"log of {head.size} events"
        )
    raise NotProved(f"{str(kind)[:40]!r} is not a kind of proof")


# an evidence bundle: a zip whose rows are proved, and whose other files must agree with them

BUNDLE = "chainlytics evidence bundle v1"
_MOST_FILES, _MOST_BYTES = 60_000, 2**30
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
#: A file's header in a zip, and what ends one; in the list between them, a file has 46 bytes.
_LOCAL, _END = struct.Struct("<4s5H3L2H"), struct.Struct("<4s4H2LH")
#: Files that no row says anything of: words for people, and programs.
_UNCHECKED = (
    "index.html",
    "model-card.md",
    "explanation/waterfall.svg",
    "schemas.json",
    "README.txt",
    "verifier.py",
)
_CHECKED = ("manifest.json", "proof.json", "checkpoint.txt", "day.json", "decision.json")
#: What a bundle may hold.
_FILE = re.compile(
    "|".join(map(re.escape, _UNCHECKED + _CHECKED))
    + r"|events/[1-9][0-9]{0,18}\.json|model/[0-9a-f]{64}"
)
#: The role of a decision that no model made.
_RULE = "rule_based"
_ADDITIVITY = 1e-4  # float32 values, summed in another order
#: What a replay by another version of the library may differ by.
TOLERANCE = 1e-6
#: Fields of readable files that the log does not hold: words, and who had which roles.
_WORDS = frozenset({"asked_as", "constraints", "left_out", "lineage", "sentence", "stream"})
#: The forms of events that are read here, by name.
_FORMS = {
    "decisions.DecisionRequested": 2,
    "decisions.DecisionMade": 2,
    "decisions.DecisionOutcomeRecorded": 2,
    "models.ModelDeployed": 2,
}


class Skipped(Exception):
    """A check that cannot be made here; the message says why."""


class _NothingToCheck(Exception):
    """A check of what a decision like this does not have."""


class Check(NamedTuple):
    """One thing that was checked. ``result``: ok, FAILED or skipped."""

    result: str
    what: str
    detail: str


@dataclass
class Verified:
    """What was found.

    ``says``: what the proved rows of a bundle say, in sentences. ``not_proved``: what does not
    follow from the file, even where all of it holds. ``origin``: the log that the signed head is
    of; ``origin_checked``: it is the one that was asked for.
    """

    checks: list[Check] = field(default_factory=list)
    says: list[str] = field(default_factory=list)
    not_proved: list[str] = field(default_factory=list)
    origin: str | None = None
    origin_checked: bool = False

    @property
    def failed(self) -> bool:
        """Whether anything does not hold."""
        return any(one.result == "FAILED" for one in self.checks)

    @property
    def skipped(self) -> bool:
        """Whether anything could not be checked."""
        return any(one.result == "skipped" for one in self.checks)


def verify_bundle(path: Path, origin: str | None = None, *, replay: bool = True) -> Verified:
    """Check an evidence bundle.

    Args:
        path: the zip file.
        origin: the log's name, from a source that is trusted.
        replay: score the decision again too, which needs numpy and xgboost. That comes last, and
            only where all else holds: a model that no row names is not loaded.
    """
    found = Verified()

    def check(what: str, work: Callable[[], str]) -> None:
        try:
            found.checks.append(Check("ok", what, work()))
        except _NothingToCheck:
            pass
        except Skipped as reason:
            found.checks.append(Check("skipped", what, str(reason)))
        except NotProved as error:
            found.checks.append(Check("FAILED", what, str(error)))
        except _MALFORMED as error:
            found.checks.append(
                Check("FAILED", what, f"it has not the form that it has: {error!r:.200}")
            )

    files: dict[str, bytes] = {}
    check("archive", lambda: _read_archive(path, files))
    check("manifest", lambda: _check_manifest(files))
    rows: list[Row] = []
    check("proof", lambda: _check_rows(files, rows, origin))
    if not rows:
        return found
    case = _Case(files, rows)
    found.origin, found.origin_checked = case.origin, origin is not None
    check("checkpoint", case.checkpoint)
    check("stream", case.stream)
    check("events", case.events)
    check("story", case.story)
    check("lineage", case.lineage)
    check("governance", case.governance)
    check("people", case.people)
    check("choice", case.choice)
    check("model", case.model)
    if "day.json" in files:
        check("day", lambda: case.day(origin))
    if replay and found.failed:
        check("replay", _not_made_again)
    elif replay:
        check("replay", case.replay)
    with contextlib.suppress(NotProved, Skipped, *_MALFORMED):
        found.says.extend(case.says())
    with contextlib.suppress(NotProved, Skipped, *_MALFORMED):
        found.not_proved.extend(case.not_proved())
    return found


def _not_made_again() -> str:
    raise Skipped("the decision is not made again from what does not hold")


def _read_archive(path: Path, files: dict[str, bytes]) -> str:
    """Read all files of a zip into memory; nothing is ever unpacked to a disk. Every byte of the
    zip has to be one that this program reads, so that no other program finds more in it."""
    read: dict[str, bytes] = {}
    try:
        with path.open("rb") as raw, zipfile.ZipFile(raw) as archive:
            entries = sorted(archive.infolist(), key=lambda one: one.header_offset)
            if len(entries) > _MOST_FILES or sum(one.file_size for one in entries) > _MOST_BYTES:
                raise NotProved(f"it has more than {_MOST_FILES} files, or more than 1 GiB in them")
            end = 0
            for one in entries:
                name = one.orig_filename
                if name in read:
                    raise NotProved(f"{name!r} is in it twice")
                if not _FILE.fullmatch(name):
                    raise NotProved(f"{name!r} is no name of a file of a bundle")
                end = _end_of(raw, one, end)
                with archive.open(one) as opened:
                    content = opened.read(one.file_size + 1)
                if len(content) != one.file_size:
                    raise NotProved(f"{name!r} is not of the size that the archive says")
                read[name] = content
            listed = sum(46 + len(one.orig_filename) for one in entries)
            last = (b"PK\5\6", 0, 0, len(entries), len(entries), listed, end, 0)
            raw.seek(end + listed)
            if raw.read(_END.size + 1) != _END.pack(*last):
                raise NotProved("there is something between or behind the files of the archive")
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise NotProved(f"the archive is not whole: {error}") from error
    if not read:
        raise NotProved("there is nothing in it")
    files.update(read)
    return f"{len(files)} files, {sum(map(len, files.values())):,} bytes"


def _end_of(raw: IO[bytes], one: zipfile.ZipInfo, begin: int) -> int:
    """Where a packed file ends that has to begin at ``begin``, with the header that it is listed
    with and nothing else."""
    name = one.orig_filename
    raw.seek(one.header_offset)
    header = _LOCAL.unpack(raw.read(_LOCAL.size))
    flags, packing, sizes = header[2], header[3], header[6:]
    if one.compress_type not in _PACKED or one.flag_bits or flags or packing != one.compress_type:
        raise NotProved(f"{name!r} is encrypted or packed in another way")
    expected = (one.CRC, one.compress_size, one.file_size, len(name), 0)
    if one.header_offset != begin or sizes != expected or one.extra or one.comment:
        raise NotProved(f"there is something before {name!r} or beside it in the archive")
    return begin + _LOCAL.size + len(name) + one.compress_size


def _check_manifest(files: dict[str, bytes]) -> str:
    """That the archive has the files that its manifest names, with these bytes, and no other."""
    if not files:
        raise Skipped("nothing could be read")
    told = _json(files, "manifest.json")
    if told["format"] != BUNDLE:
        raise NotProved(f"it is of the form {told['format']!r}, this program reads {BUNDLE!r}")
    names, listed = files.keys() - {"manifest.json"}, set(told["files"])
    if added := sorted(names - listed):
        raise NotProved(f"not named in the manifest: {', '.join(added[:5])}")
    if missing := sorted(listed - names):
        raise NotProved(f"named in the manifest and not there: {', '.join(missing[:5])}")
    for name, one in told["files"].items():
        content = files[name]
        if hashlib.sha256(content).hexdigest() != one["sha256"] or len(content) != one["size"]:
            raise NotProved(f"{name} is not the file that the manifest names")
    return f"{len(listed)} files are as it names them (it is not signed: the rows are what counts)"


def _check_rows(files: dict[str, bytes], rows: list[Row], origin: str | None) -> str:
    """That all events of the bundle are under the signed head, and of the one organisation."""
    if not files:
        raise Skipped("nothing could be read")
    told, proof = _json(files, "manifest.json"), _json(files, "proof.json")
    head, found = check_inclusion(proof, origin)
    if (told["origin"], told["log_size"]) != (head.origin, head.size):
        raise NotProved(f"the manifest names another log than {head.origin} of {head.size} events")
    positions = [row.position for row in found]
    if positions != sorted(set(positions)):
        raise NotProved("the rows are not in the order of the log, or one is there twice")
    for row in found:
        if str(row.organisation_id) != told["organisation_id"]:
            raise NotProved(f"position {row.position} is of another organisation")
    if not isinstance(told["decision_id"], str):
        raise NotProved("the manifest names no decision")
    rows.extend(found)
    return f"{len(rows)} events are in the log {head.origin} of {head.size:,} events, as signed"


class _Case:
    """What the proved rows of a bundle say, and whether the other files say the same."""

    def __init__(self, files: dict[str, bytes], rows: list[Row]) -> None:
        self._files, self._rows = files, rows
        self._told: dict[str, Any] = _json(files, "manifest.json")
        self._organisation = rows[0].organisation_id
        self._id = str(self._told["decision_id"])
        #: Up to when requests of the decision's day are proved, where the day was not over.
        self._day_until: datetime | None = None
        self._own = self._stream(f"decisions/{self._id}")
        self._at = {row.position: row for row in rows}

    @property
    def origin(self) -> str:
        """The name of the log that the rows are of."""
        return str(self._told["origin"])

    def _stream(self, name: str) -> list[Row]:
        id_ = uuid5(self._organisation, name)
        return sorted((row for row in self._rows if row.stream_id == id_), key=lambda r: r.version)

    def _events(self, rows: list[Row], *names: str) -> list[tuple[Row, dict[str, Any]]]:
        """Those of some rows that are events of these names, in their stored form."""
        found = []
        for row in rows:
            name, _, version = row.topic.rpartition(".v")
            if name in names:
                if int(version) != _FORMS.get(name, 1):
                    raise Skipped(f"position {row.position} is of a form unknown here: {row.topic}")
                found.append((row, json.loads(row.state)))
        return found

    def _one(self, *names: str) -> tuple[Row, dict[str, Any]] | None:
        """The decision's event of this name, or None."""
        return next(iter(self._events(self._own, *(f"decisions.{name}" for name in names))), None)

    def _answer(self) -> tuple[tuple[Row, dict[str, Any]], ...]:
        """Request, decision and explanation.

        Raises:
            _NothingToCheck: it failed.
        """
        request, made = self._one("DecisionRequested"), self._one("DecisionMade")
        explained, failed = self._one("DecisionExplained"), self._one("DecisionFailed")
        if request is None:
            raise NotProved(f"no row is the request of decision {self._id}")
        if failed is not None:
            raise _NothingToCheck
        if made is None or explained is None:
            raise NotProved(f"no row is the answer to decision {self._id}")
        return request, made, explained

    # the files beside the rows

    def checkpoint(self) -> str:
        """That the readable copy of the signed head is it."""
        note = _json(self._files, "proof.json")["checkpoint"]
        if self._files["checkpoint.txt"].decode() != note:
            raise NotProved("checkpoint.txt is not the signed head of the proof")
        return f"signed over {note.splitlines()[1]} events, {note.splitlines()[3]}"

    def stream(self) -> str:
        """That the events of the decision, and of every decision, model and policy that has a row
        here, are there from the first on, without a gap."""
        if [row.version for row in self._own] != list(range(1, len(self._own) + 1)):
            raise NotProved(f"events of decision {self._id} are missing")
        self._with_request()
        streams: dict[UUID, list[Row]] = {}
        for row in self._rows:
            if row.topic.startswith(_WHOLE):
                streams.setdefault(row.stream_id, []).append(row)
        for rows in streams.values():
            for version, row in enumerate(sorted(rows, key=lambda one: one.version), 1):
                if row.version != version:
                    raise NotProved(
                        f"version {version} of the stream of position {row.position} "
                        f"({row.topic}) is missing"
                    )
        return (
            f"all {len(self._own)} events of the decision up to its last one here; no gap in the "
            f"other streams of decisions, models and policies ({len(streams) - 1})"
        )

    def _with_request(self) -> None:
        if not self._own or self._one("DecisionRequested") is None:
            raise NotProved(f"no row is the request of decision {self._id}")

    def events(self) -> str:
        """That each row has its readable form, and each of those a row."""
        names = {f"events/{row.position}.json" for row in self._rows}
        there = {name for name in self._files if name.startswith("events/")}
        if names != there:
            raise NotProved(f"events without their other form: {', '.join(sorted(names ^ there))}")
        for row in self._rows:
            name = f"events/{row.position}.json"
            found = _json(self._files, name)
            _agree(readable(row), found, name)
            if "stream" in found and uuid5(self._organisation, found["stream"]) != row.stream_id:
                raise NotProved(f"{name}: {found['stream']!r} is not the stream that the row names")
        return f"{len(self._rows)} readable events say what their rows say"

    def story(self) -> str:
        """That the decision's readable story is what the rows say."""
        _agree(self._story(), _json(self._files, "decision.json"), "decision.json")
        rules = _json(self._files, "decision.json")["constraints"]
        made = self._one("DecisionMade")
        candidates = [] if made is None else made[1]["candidates"]
        broken = {code for one in candidates for code in one["rejected"]}
        for rule in rules:
            by = [n for n, one in enumerate(candidates) if rule["code"] in one["rejected"]]
            if rule["broken_by"] != by:
                raise NotProved(f"decision.json: {rule['code']} is broken by {by} on the log")
        if left := broken - {rule["code"] for rule in rules}:
            raise NotProved(f"decision.json leaves out constraints: {', '.join(sorted(left))}")
        return "request, candidates, features, explanation, reviews and outcome are as in the rows"

    def _story(self) -> dict[str, Any]:
        """What decision.json has to say, from the rows."""
        request = self._one("DecisionRequested")
        if request is None:
            raise NotProved(f"no row is the request of decision {self._id}")
        made, explained = self._one("DecisionMade"), self._one("DecisionExplained")
        names = [f"decisions.Decision{one}" for one in ("Confirmed", "Overridden", "Contested")]
        names.append("decisions.DecisionNotRedecided")
        every = self._events(self._rows, "decisions.DecisionRequested")
        again = [body["decision_id"] for _, body in every if body["redecides"] == self._id]
        body = request[1]
        story: dict[str, Any] = {
            "decision_id": self._id,
            "organisation_id": str(self._organisation),
            "kind": body["kind"],
            "subject_id": body["subject_id"],
            "request": _told(request),
            "made": None,
            "candidates": [],
            "explanation": None,
            "referral": _told(self._one("DecisionReferred")),
            "shadows": [_told(one) for one in self._events(self._own, _SHADOWED)],
            "failure": _told(self._one("DecisionFailed")),
            "reviews": [_told(one) for one in self._events(self._own, *names)],
            "outcome": _told(self._one("DecisionOutcomeRecorded")),
            "redecided_by": again,
            "governance": self._governance(),
        }
        if made is not None and explained is not None:
            head = _told(made) or {}
            candidates = head.pop("candidates")
            words = _told(explained) or {}
            contributions = words.pop("contributions")
            features = self._features(head)
            story |= {"made": head, "explanation": words}
            story["candidates"] = [
                _candidate(n, one, contributions[n], features, chosen=n == head["chosen"])
                for n, one in enumerate(candidates)
            ]
        return story

    def _features(self, made: Mapping[str, Any]) -> list[str]:
        """The names of what a model sees, as it was registered; of a rule, as it is declared."""
        if made.get("role") == _RULE:
            declared = _json(self._files, f"model/{made['model_hash']}")
            return [str(name) for name in declared["features"]]
        return self._registered(made["model_hash"])

    def _registered(self, model_hash: str) -> list[str]:
        registered = self._events(self._stream(f"models/{model_hash}"), "models.ModelRegistered")
        if not registered:
            raise NotProved(f"no row registers the model {model_hash[:12]}")
        names: list[str] = registered[0][1]["training"]["features"]
        return names

    # what the rows must fulfil

    def lineage(self) -> str:
        """That what the features come from was on the log before the request, and is here."""
        request, made, _ = self._answer()
        as_of = made[1]["as_of"]
        if as_of != request[0].position:
            raise NotProved(f"decided as of {as_of}, requested at {request[0].position}")
        if made[0].position <= as_of or made[0].recorded_at < request[0].recorded_at:
            raise NotProved("the answer stands before its request")
        every = {at for one in made[1]["candidates"] for at in one["lineage"].values()}
        if late := [at for at in every if at > as_of]:
            raise NotProved(f"a feature comes from position {late[0]}, behind the request: {as_of}")
        here = len(every & self._at.keys())
        shown = _json(self._files, "decision.json")["candidates"]
        for one, candidate in zip(shown, made[1]["candidates"], strict=True):
            for feature in one["features"]:
                if not feature["lineage"].items() <= candidate["lineage"].items():
                    raise NotProved(f"{feature['name']} does not come from {feature['lineage']}")
        if here < len(every) and not _json(self._files, "decision.json")["left_out"]:
            raise NotProved(f"{len(every) - here} events that features come from are missing")
        return f"{len(every)} positions behind the features, all before {as_of}; {here} are here"

    def _governance(self) -> dict[str, Any]:
        """Who proposed and approved the model, what gave it its role, and the policy then."""
        empty = {"registered": None, "approved": None, "role": None, "policy": None}
        request, made = self._one("DecisionRequested"), self._one("DecisionMade")
        if request is None or made is None:
            return empty
        as_of, kind, hash_ = request[0].position, made[1]["kind"], made[1]["model_hash"]
        before = [row for row in self._rows if row.position <= as_of]
        life = [row for row in self._stream(f"models/{hash_}") if row.position <= as_of]
        given = [
            one
            for one in self._events(before, "models.ModelDeployed", "models.ModelRolledBack")
            if one[1]["kind"] == kind and _given(one[1]) == (made[1]["role"], hash_)
        ]
        policies = [row for row in self._stream(f"policies/{kind}") if row.position <= as_of]
        return {
            "registered": _last(self._events(life, "models.ModelRegistered")),
            "approved": _last(self._events(life, "models.ModelApproved")),
            "role": _last(given),
            "policy": _last(self._events(policies, "policies.PolicySet")),
        }

    def governance(self) -> str:
        """That two persons stand behind the model, and that it had its role when it decided."""
        _, (_, made), _ = self._answer()
        if made["role"] == _RULE:
            return self._no_champion(made)
        found, short = self._governance(), made["model_hash"][:12]
        registered, approved, role = found["registered"], found["approved"], found["role"]
        if registered is None or approved is None or role is None:
            raise NotProved(f"no rows show who proposed, approved and deployed model {short}")
        if registered["registered_by"] == approved["approved_by"]:
            raise NotProved(f"{approved['approved_by']} approved the own proposal")
        kind, positions = made["kind"], made["as_of"]
        for row, body in self._events(
            [row for row in self._rows if role["position"] < row.position <= positions],
            "models.ModelDeployed",
            "models.ModelRolledBack",
        ):
            if body["kind"] == kind and _given(body)[0] == made["role"]:
                raise NotProved(f"another model was {made['role']} from position {row.position} on")
        ended = ("models.ModelStopped", "models.ModelWithdrawn", "models.ModelRetired")
        life = [
            row for row in self._stream(f"models/{made['model_hash']}") if row.position <= positions
        ]
        last = self._events(life, *ended, "models.ModelResumed", "models.ModelDeployed")[-1:]
        if last and last[0][0].topic.startswith(ended):
            raise NotProved(f"{last[0][0].topic} at position {last[0][0].position} ended its role")
        return (
            f"model {short}: proposed by {registered['registered_by']} "
            f"({registered['position']}), approved by {approved['approved_by']} "
            f"({approved['position']}), {made['role']} since {role['position']}"
        )

    def _no_champion(self, made: Mapping[str, Any]) -> str:
        """That no model was champion when the rule decided, as far as the rows here show."""
        before = [row for row in self._rows if row.position <= made["as_of"]]
        given = [
            one
            for one in self._events(before, "models.ModelDeployed", "models.ModelRolledBack")
            if one[1]["kind"] == made["kind"] and _given(one[1])[0] == "champion"
        ]
        told = f"rule {made['model_hash'][:12]}, rule-based"
        if not given:
            return f"{told}: no row here gives a model the role of champion"
        champion = _given(given[-1][1])[1]
        life = [row for row in self._stream(f"models/{champion}") if row.position <= made["as_of"]]
        ended = ("models.ModelWithdrawn", "models.ModelRetired", "models.ModelRolledBack")
        since = given[-1][0].position
        later = [
            row
            for row, body in self._events(life, *ended, "models.ModelDeployed")
            if row.position > since and (row.topic.startswith(ended) or body["role"] != "champion")
        ]
        if not later:
            raise NotProved(f"model {champion[:12]} was champion, and a rule decided")
        return f"{told}: the champion {champion[:12]} was out since {later[0].position}"

    def people(self) -> str:
        """That people took what was theirs to take, each in the own name."""
        _, (_, made), _ = self._answer()
        policy = self._governance()["policy"] or {}
        low = made["confidence"] is None or made["confidence"] < policy.get("minimum_confidence", 0)
        most, stake = policy.get("four_eyes_above_minor"), made["value_minor"]
        needed = 2 if most is not None and (stake is None or stake > most) else int(low)
        referred = self._one("DecisionReferred")
        told = 0 if referred is None else referred[1]["approvals"]
        if told != needed:
            raise NotProved(f"{told} persons were asked to agree, by the policy it is {needed}")
        agreed: list[str] = []
        names = ("decisions.DecisionConfirmed", "decisions.DecisionOverridden")
        for row, body in self._events(self._own, *names):
            by = body.get("confirmed_by", body.get("overridden_by"))
            if by != row.actor:
                raise NotProved(f"position {row.position} is of {row.actor} and says {by}")
            agreed = [] if "overridden_by" in body else agreed
            if by in agreed:
                raise NotProved(f"{by} agreed twice")
            agreed.append(by)
        said = f"{needed} had to agree" if needed else "nobody had to agree"
        return f"as far as the rows here show: {said}, {', '.join(agreed) or 'nobody'} did"

    def choice(self) -> str:
        """That the choice follows from the candidates' own numbers by the weights asked for."""
        (_, asked), (_, made), (_, words) = self._answer()
        weights, candidates = made["weights"], made["candidates"]
        if weights != asked["weights"]:
            raise NotProved(f"weighed by {weights}, asked for were {asked['weights']}")
        for number, one in enumerate(candidates):
            value = (
                weights["cost"] * one["cost_minor"]
                + weights["risk_minor"] * one["risk"]
                + weights["carbon_minor_per_kg"] * one["carbon_g"] / 1000
            )
            if value != one["objective"]:
                told = f"{one['objective']} on the log, {value} by the weights"
                raise NotProved(f"objective of candidate {number}: {told}")
        ranked = sorted(
            range(len(candidates)),
            key=lambda n: (bool(candidates[n]["rejected"]), candidates[n]["objective"], n),
        )
        best = None if candidates[ranked[0]]["rejected"] else ranked[0]
        if made["chosen"] != best:
            raise NotProved(f"chosen was {made['chosen']}, by the numbers it is {best}")
        if best is not None:
            mine = candidates[best]
            own = (mine["option"], mine["probability"], mine["risk"])
            if own != (made["option"], made["probability"], made["risk"]):
                raise NotProved("what is told of the choice is not what the candidate has")
            if made["confidence"] != max(made["foretold"], 1 - made["foretold"]):
                raise NotProved("the confidence does not follow from the foretold risk")
        runner = words["runner_up"]
        if runner is not None and runner["candidate"] != ranked[1]:
            raise NotProved(f"runner-up is {runner['candidate']}, by the numbers {ranked[1]}")
        broken = {code for one in candidates for code in one["rejected"]}
        if {one["code"] for one in words["rejections"]} != broken:
            raise NotProved("the rejections told are not the constraints that were broken")
        for number, text in enumerate(words["contributions"]):
            error = abs(math.fsum(_floats(text)) - candidates[number]["margin"])
            if not error <= _ADDITIVITY:
                raise NotProved(f"SHAP values of candidate {number} miss its margin by {error:.2g}")
        told = "none is allowed" if best is None else f"candidate {best} is the best allowed one"
        return f"of {len(candidates)} candidates {told}; SHAP values sum to every margin"

    def model(self) -> str:
        """That the models here are the bytes that the log names."""
        names = {name for name in self._files if name.startswith("model/")}
        for name in sorted(names):
            if hashlib.sha256(self._files[name]).hexdigest() != name.removeprefix("model/"):
                raise NotProved(f"{name} does not hold the bytes that its name says")
        scored = self._events(self._own, "decisions.DecisionMade", _SHADOWED)
        wanted = {f"model/{body['model_hash']}" for _, body in scored}
        if more := sorted(names - wanted):
            raise NotProved(f"{more[0]} scored nothing here")
        _, (_, made), _ = self._answer()
        if f"model/{made['model_hash']}" not in names:
            raise NotProved(f"the model that decided is not there: {made['model_hash']}")
        if missing := sorted(wanted - names):
            raise NotProved(f"{missing[0]}, which scored too, is not there")
        return f"{made['model_hash']} decided, its {len(names)} artifacts have their hashes"

    def day(self, origin: str | None) -> str:
        """That the decision is among all decisions requested on its day (UTC), as far as the day
        was over under the signed head."""
        proof = _json(self._files, "day.json")
        head, rows = check_decisions(proof, origin)
        mine = self._one("DecisionRequested")
        if mine is None or mine[0] not in rows or head.origin != self.origin:
            raise NotProved("the decision is not among those of its day, or of another log")
        first = mine[0].recorded_at.replace(hour=0, minute=0, second=0, microsecond=0)
        after, end = first + timedelta(days=1), _moment(proof["to"])
        if _moment(proof["from"]) > first or end < min(after, head.recorded):
            raise NotProved("day.json is about a part of the decision's day")
        told = f"one of {len(rows)} decisions requested {_period(proof, head)}"
        if head.recorded >= after:
            return told
        self._day_until = head.recorded
        return f"{told}: the day was not over yet under that head"

    # the decision, made again

    def replay(self) -> str:
        """That the models give the same numbers again from the same features."""
        _, (_, made), (_, words) = self._answer()
        if made["role"] == _RULE:
            raise Skipped("a rule decided: its code stands in its declaration, no model is loaded")
        content = self._files[f"model/{made['model_hash']}"]
        scored = _Scored(content, self._features(made), made["libraries"])
        candidates = made["candidates"]
        again = scored.numbers([one["features"] for one in candidates], shap=True)
        for number, one in enumerate(candidates):
            margin, probability, risk, shap = (column[number] for column in again)
            scored.same(f"margin of candidate {number}", [one["margin"]], [margin])
            scored.same(f"probability of candidate {number}", [one["probability"]], [probability])
            contributions = _floats(words["contributions"][number])
            scored.same(f"SHAP values of candidate {number}", contributions, shap)
            # An option bears all of the calibrated risk, or a share of it, which no event tells.
            if not (one["risk"] == risk or 0 <= one["risk"] < risk + scored.tolerance):
                raise NotProved(f"risk of candidate {number}: {one['risk']} on the log, {risk} now")
            if number == made["chosen"]:
                scored.same("foretold risk of the choice", [made["foretold"]], [risk])
        shadows = self._events(self._own, _SHADOWED)
        for _, told in shadows:
            shadow = _Scored(
                self._files[f"model/{told['model_hash']}"],
                self._registered(told["model_hash"]),
                made["libraries"],
            )
            margins = shadow.numbers([one["features"] for one in candidates], shap=False)[0]
            scored.same("margins of the shadow", _floats(told["margins"]), margins)
        beside = f", {len(shadows)} shadow" if shadows else ""
        return f"{len(candidates)} candidates{beside}: {scored.verdict}"

    def not_proved(self) -> list[str]:
        """What does not follow from the bundle, even where all of it holds."""
        found = [f"not excluded: later events of decision {self._id} {_behind(self._own)}"]
        made = self._one("DecisionMade")
        if made is not None:
            kind, hash_ = made[1]["kind"], made[1]["model_hash"]
            every = {at for one in made[1]["candidates"] for at in one["lineage"].values()}
            found += [
                f"not excluded: policies of {kind} that were left out "
                f"{_behind(self._stream(f'policies/{kind}'))}",
                f"not excluded: changes of roles that were left out, of model {hash_[:12]} "
                f"{_behind(self._stream(f'models/{hash_}'))}, or of models that are not here",
            ]
            if left := len(every - self._at.keys()):
                found.append(f"not here: {left} events that features come from")
        if "day.json" not in self._files:
            found.append("not excluded: other decisions requested on that day")
        else:
            found.append(_TREE_OF_ALL)
        if self._day_until is not None:
            later = self._day_until.isoformat()
            found.append(f"not excluded: decisions requested on that day, behind {later}")
        files = [name for name in _UNCHECKED if name in self._files]
        found.append(f"not checked: {', '.join(files)}")
        found.append(
            "not checked: words in decision.json and events/ that no row has "
            f"({', '.join(sorted(_WORDS - {'lineage', 'stream'}))})"
        )
        return found

    def says(self) -> list[str]:
        """What the rows say, for people."""
        request, made = self._one("DecisionRequested"), self._one("DecisionMade")
        if request is None:
            return []
        row, body = request
        found = [
            f"{row.position}: {row.actor} asked for decision {self._id} ({body['kind']}) on "
            f"{body['subject_id']}, {row.recorded_at.isoformat()}"
        ]
        words = self._one("DecisionExplained")
        if made is not None and words is not None:
            what = "rule-based, rule" if made[1].get("role") == _RULE else "model"
            model = f"{what} {made[1]['model_hash'][:12]}"
            found.append(f"{made[0].position}: {words[1]['summary']} ({model})")
        for row in self._own:
            name = row.topic.split(".")[1]
            if name not in ("DecisionRequested", "DecisionMade", "DecisionExplained"):
                event = json.loads(row.state)
                parts = ("detail", "option", "reason", "approvals", "occurred", "followed")
                told = ", ".join(
                    f"{part} {json.dumps(event[part])}" for part in parts if part in event
                )
                found.append(f"{row.position}: {name} by {row.actor}: {told}")
        return found


def _behind(rows: list[Row]) -> str:
    """Where the rows of a stream end."""
    if not rows:
        return "(none is here)"
    return f"behind version {rows[-1].version}, position {rows[-1].position}"


_SHADOWED = "decisions.DecisionShadowed"
#: What begins the topics of streams of which no event may be left out before the last one.
_WHOLE = ("decisions.", "models.", "policies.")


class _Scored:
    """A model that scores again, and how near it has to come."""

    def __init__(self, content: bytes, features: list[str], libraries: dict[str, str]) -> None:
        try:
            import numpy
            import xgboost
        except (ImportError, OSError) as error:
            wanted = libraries.get("xgboost", "")
            raise Skipped(
                f"{error}: pip install numpy xgboost=={wanted} "
                "(or xgboost-cpu) and check again; all that is told above is checked"
            ) from error
        self._numpy, self._xgboost, self._features = numpy, xgboost, features
        xgboost.set_config(verbosity=0)
        self._booster = xgboost.Booster({"nthread": 1})
        try:
            self._booster.load_model(bytearray(content))
        except xgboost.core.XGBoostError as error:
            raise NotProved(f"the artifact is no model: {str(error).splitlines()[0]}") from error
        if self._booster.feature_names != features:
            raise NotProved("the model was trained on other features than the log says")
        config = json.loads(self._booster.save_config())
        base = str(config["learner"]["learner_model_param"]["base_score"])
        then, now = libraries["xgboost"], str(xgboost.__version__)
        self._same = then == now
        if base != self._booster.attr("chainlytics_base_score"):
            raise Skipped(f"xgboost {now} reads another base score than the model has: use {then}")
        self.tolerance = 0.0 if self._same else TOLERANCE
        self.verdict = (
            f"the same to the bit (xgboost {now})"
            if self._same
            else f"the same within {TOLERANCE:g}, other library version ({then} then, {now} now)"
        )

    def numbers(self, encoded: list[str], *, shap: bool) -> tuple[list[Any], ...]:
        """Margins, probabilities, calibrated risks and SHAP values of each row of features."""
        data = b"".join(_bytes(one) for one in encoded)
        matrix = self._numpy.frombuffer(data, dtype="<f4").reshape(len(encoded), -1)
        frame = self._xgboost.DMatrix(matrix, feature_names=self._features, nthread=1)
        probabilities = self._booster.predict(frame).tolist()
        knots = json.loads(str(self._booster.attr("chainlytics_calibration")))
        return (
            self._booster.predict(frame, output_margin=True).tolist(),
            probabilities,
            [calibrated(knots["scores"], knots["shares"], one) for one in probabilities],
            self._booster.predict(frame, pred_contribs=True).tolist() if shap else [],
        )

    def same(self, what: str, then: list[float], now: list[float]) -> None:
        """
        Raises:
            NotProved: numbers differ by more than they may.
        """
        if len(then) != len(now):
            raise NotProved(f"{what}: {len(then)} numbers on the log, {len(now)} now")
        for old, new in zip(then, now, strict=True):
            if not (old == new or abs(old - new) <= self.tolerance * max(1.0, abs(old))):
                raise NotProved(f"{what}: {old} on the log, {new} now")


def calibrated(scores: list[float], shares: list[float], probability: float) -> float:
    """The share that was observed at a probability: linear between knots, flat outside of them."""
    wanted = min(max(probability, scores[0]), scores[-1])
    left = bisect.bisect_right(scores, wanted) - 1
    right = min(left + 1, len(scores) - 1)
    width = scores[right] - scores[left]
    part = (wanted - scores[left]) / (width if width > 0 else 1.0)
    rise = (shares[right] - shares[left]) * part
    return min(shares[left] + rise, shares[right])


def readable(row: Row) -> dict[str, Any]:
    """An event as a bundle tells it: the row's fields, and its state as JSON where it is such."""
    found: dict[str, Any] = {
        "position": row.position,
        "recorded_at": row.recorded_at.isoformat(),
        "topic": row.topic,
        "actor": row.actor,
        "stream_id": str(row.stream_id),
        "version": row.version,
        "event_id": str(row.event_id),
        "organisation_id": str(row.organisation_id),
        "correlation_id": str(row.correlation_id),
        "causation_id": None if row.causation_id is None else str(row.causation_id),
    }
    try:
        return found | {"data": json.loads(row.state)}
    except ValueError:
        return found | {"base64": base64.b64encode(row.state).decode()}


def _told(event: tuple[Row, dict[str, Any]] | None) -> dict[str, Any] | None:
    """An event of a decision's story: where it stands and what it says."""
    if event is None:
        return None
    row, body = event
    named = {"decision_id", "kind", "subject_id"}
    return {
        "event": row.topic.split(".")[1],
        "position": row.position,
        "recorded_at": row.recorded_at.isoformat(),
        "actor": row.actor,
        **{name: value for name, value in body.items() if name not in named},
    }


def _last(events: list[tuple[Row, dict[str, Any]]]) -> dict[str, Any] | None:
    return _told(events[-1]) if events else None


def _given(body: dict[str, Any]) -> tuple[str, str]:
    """The role that an event gives, and the model that it is given to."""
    return ("champion", body["to"]) if "to" in body else (body["role"], body["model_hash"])


def _candidate(
    number: int, one: dict[str, Any], contributions: str, names: list[str], *, chosen: bool
) -> dict[str, Any]:
    """A candidate with its numbers decoded."""
    *pushes, base = _floats(contributions)
    values = [None if math.isnan(value) else value for value in _floats(one["features"])]
    kept = {name: value for name, value in one.items() if name != "features"}
    return {
        "index": number,
        "chosen": chosen,
        **kept,
        "base": base,
        "features": [
            {"name": name, "value": value, "contribution": push}
            for name, value, push in zip(names, values, pushes, strict=True)
        ],
    }


def _floats(text: str) -> list[float]:
    data = _bytes(text)
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def _json(files: dict[str, bytes], name: str) -> Any:
    if name not in files:
        raise NotProved(f"{name} is not there")
    try:
        return json.loads(files[name])
    except ValueError as error:
        raise NotProved(f"{name} is no JSON: {error}") from error


def _agree(expected: Any, found: Any, where: str) -> None:
    """
    Raises:
        NotProved: a readable value is not what the rows say.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        for name in expected:
            if name not in found:
                raise NotProved(f"{where}: {name} is missing")
            _agree(expected[name], found[name], f"{where}: {name}")
        if more := sorted(found.keys() - expected.keys() - _WORDS):
            raise NotProved(f"{where}: {', '.join(more)} is not in the rows")
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            raise NotProved(f"{where}: {len(found)} are told, the rows have {len(expected)}")
        for number, (mine, other) in enumerate(zip(expected, found, strict=True)):
            _agree(mine, other, f"{where}[{number}]")
    elif type(expected) is not type(found) or expected != found:
        raise NotProved(f"{where} is {str(found)[:80]!r}, the rows say {str(expected)[:80]!r}")


# the command line


def main(arguments: list[str] | None = None) -> int:
    """Check a file; exit code 0 where all of it holds, 1 where not, 3 where a check was skipped."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="a proof (JSON) or an evidence bundle (zip)")
    parser.add_argument("--origin", help="the log's name, from a source that you trust")
    parser.add_argument("--no-replay", action="store_true", help="do not make the decision again")
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args(arguments)
    found = verify(asked.file, asked.origin, replay=not asked.no_replay)
    print(json.dumps(as_json(found), indent=2) if asked.json else as_text(found))
    if asked.origin is None and not asked.json:
        print("note: without --origin nothing says that this is the log you mean")
    return exit_code(found)


def verify(path: Path, origin: str | None = None, *, replay: bool = True) -> Verified:
    """Check a file, a proof or a bundle. Arguments as of ``verify_bundle``."""
    try:
        with path.open("rb") as opened:
            is_archive = opened.read(2) == b"PK"
        if is_archive:
            return verify_bundle(path, origin, replay=replay)
        with _formed():
            proof = json.loads(path.read_text(encoding="utf-8"))
        head, told = _checked(proof, origin)
    except (OSError, NotProved) as error:
        return Verified([Check("FAILED", "proof", str(error))])
    return Verified(
        [Check("ok", "proof", told)],
        not_proved=[_TREE_OF_ALL] if proof["proof"] == "decisions" else [],
        origin=head.origin,
        origin_checked=origin is not None,
    )


def as_json(found: Verified) -> dict[str, Any]:
    """What was found, for programs."""
    return {
        "holds": not found.failed,
        "complete": not found.skipped,
        "origin": found.origin,
        "origin_checked": found.origin_checked,
        "checks": [one._asdict() for one in found.checks],
        "says": found.says,
        "not_proved": found.not_proved,
    }


def as_text(found: Verified) -> str:
    """What was found, for people: a line for each check and for each thing that is not proved, then
    what the rows say."""
    lines = [f"{one.result:<8}{one.what}: {one.detail}" for one in found.checks]
    lines += [f"{'note':<8}{one}" for one in found.not_proved]
    if found.says:
        lines += ["", "what the log says, by position:", *(f"  {one}" for one in found.says), ""]
    skipped = ", but not all of it was checked" if found.skipped else ""
    lines.append("does not hold" if found.failed else f"holds{skipped}")
    # What people wrote is on some of these lines: it must not look like others.
    return "\n".join(
        "".join(one if one.isprintable() else repr(one)[1:-1] for one in line) for line in lines
    )


def exit_code(found: Verified) -> int:
    """0: all holds; 1: something does not; 3: something was skipped."""
    return 1 if found.failed else 3 if found.skipped else 0


if __name__ == "__main__":
    sys.exit(main())
