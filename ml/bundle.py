"""Evidence bundles: one decision's whole story in one archive, checked offline by
chainlytics/verifier.py.

What counts is proof.json: the rows of all events in the bundle, under a signed head. Everything
else can be derived from these rows, or is named by its hash in one of them, or is words.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any
from uuid import UUID

from commands import stream_id
from commands.decisions import decision_stream
from commands.models import model_stream
from domain import people, policies, schemas
from domain.decisions import (
    DecisionExplained,
    DecisionFailed,
    DecisionMade,
    DecisionRequested,
    DecisionShadowed,
)
from domain.models import (
    ModelApproved,
    ModelDeployed,
    ModelRegistered,
    ModelResumed,
    ModelRetired,
    ModelRolledBack,
    ModelStopped,
    ModelWithdrawn,
)
from eventstore import Log, StoredEvent
from eventstore.artifacts import ArtifactCorrupt, Artifacts
from eventstore.asked import Asked, asked_for
from eventstore.seals.checkpoint import parsed
from eventstore.seals.proofs import Document, NotSealed, Proofs
from ml.bundle_looks import README
from ml.bundle_page import page
from ml.bundle_story import Case, Told, readable, story, told
from ml.catalogue import KINDS
from ml.explaining import best, explain, waterfall_of
from ml.model_card import READS as _CARD_READS
from ml.model_card import card, story_of
from ml.replay import NotAnswered
from ml.weighing import rank
from readmodels.database import ReadModels
from readmodels.decisions import list_decisions
from readmodels.models import model_deployments

FORMAT = "chainlytics evidence bundle v1"
#: The read models that a bundle is found and told by.
READS = ("decision_list", *_CARD_READS)
#: Events of a subject's stream on either side of the request, and of a model's behind it.
MOST_OF_STREAM = 200
#: Events that features come from, beside those of the choice and the runner-up.
MOST_LINEAGE = 400
#: Requests of a day that are shown to prove that there were no others.
MOST_OF_DAY = 100
_LIFE = (
    ModelRegistered,
    ModelApproved,
    ModelDeployed,
    ModelRolledBack,
    ModelWithdrawn,
    ModelStopped,
    ModelResumed,
    ModelRetired,
)
_STILL = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip file can say


class NoSuchDecision(LookupError):
    """The organisation's log has no decision of that id."""


class ModelGone(Exception):
    """A model that scored a decision is not stored any more, or not as it was; the message says
    which."""


class Bundles:
    """Makes evidence bundles.

    Args:
        log: the log.
        artifacts: where models are stored.
        verifier: the program that checks bundles, of which each has a copy.
    """

    def __init__(self, log: Log, artifacts: Artifacts, verifier: bytes) -> None:
        self._log, self._artifacts, self._verifier = log, artifacts, verifier
        self._proofs = Proofs(log)

    async def make(
        self,
        read: ReadModels,
        organisation_id: UUID,
        decision_id: str,
        *,
        made_at: datetime,
        day: bool = True,
    ) -> bytes:
        """The bundle of a decision, a zip file: the same bytes while log, heads and the model's
        card are the same.

        Args:
            read: the organisation's read models; those of ``READS`` are asked.
            organisation_id: whose.
            decision_id: which.
            made_at: the time that the bundle says it was made at.
            day: prove too that the decision's day had no other requests than those shown, where
                they are no more than ``MOST_OF_DAY``.

        Raises:
            NoSuchDecision: the organisation has none of that id.
            NotAnswered: it has no answer yet.
            NotSealed: the newest signed head does not cover all of its events yet.
            ModelGone: a model that scored it is not stored any more, or not as it was.
        """
        gathering = _Gathering(self._log, read, organisation_id, decision_id)
        own = await gathering.own()
        head = await self._proofs.newest()
        case = await gathering.case(own, head.size)
        proof = await self._proofs.inclusion([one.position for one in case.events], head.size)
        files: dict[str, bytes] = {
            "proof.json": _json(proof),
            "checkpoint.txt": proof["checkpoint"].encode(),
            "verifier.py": self._verifier,
            "README.txt": README.encode(),
        }
        if day and (document := await self._day(organisation_id, case)) is not None:
            files["day.json"] = _json(document)
        for model_hash in _models(case):
            files[f"model/{model_hash}"] = await self._model(model_hash)
        if (found := await _card(read, case)) is not None:
            files["model-card.md"] = found.encode()
        manifest = {
            "format": FORMAT,
            "decision_id": decision_id,
            "organisation_id": str(organisation_id),
            "origin": parsed(proof["checkpoint"]).origin,
            "log_size": head.size,
            "made_at": made_at.astimezone(UTC).isoformat(),
        }
        # Pictures and packing take a while of pure computing: others go on meanwhile.
        return await asyncio.to_thread(_whole, files, case, manifest)

    async def _model(self, model_hash: str) -> bytes:
        try:
            return await self._artifacts.get(model_hash)
        except KeyError:
            reason = "is not stored any more"
        except ArtifactCorrupt:
            reason = "is stored with other bytes than those that decided"
        raise ModelGone(f"the model {model_hash} {reason}: without it there is no bundle")

    async def _day(self, organisation_id: UUID, case: Case) -> Document | None:
        """That the requests of the decision's day (UTC) were these, if they are few; as far as the
        day is under the signed head."""
        asked = case.request.stored.recorded_at.astimezone(UTC)
        start = datetime.combine(asked.date(), time(), UTC)
        try:
            found = await self._proofs.decisions(organisation_id, start, start + timedelta(days=1))
        except ValueError:  # too many for one proof
            return None
        return found if found["count"] <= MOST_OF_DAY else None


class _Gathering:
    """Finds the events that belong to a decision, up to the size of a signed head."""

    def __init__(self, log: Log, read: ReadModels, organisation_id: UUID, decision_id: str) -> None:
        self._log, self._read, self._size = log, read, 0
        self._organisation_id, self._decision_id = organisation_id, decision_id
        self._found: dict[int, Told] = {}
        self._left_out: list[str] = []

    async def case(self, own: Sequence[Told], size: int) -> Case:
        """The decision and what is around it, as far as the first ``size`` events have it.

        Raises:
            NotSealed: its own events go on behind them.
        """
        self._size = size
        if (last := own[-1].position) > size:
            raise NotSealed(
                f"decision {self._decision_id!r} goes on at position {last}, behind the signed "
                f"head over {size} events: it is sealed within seconds, try again then"
            )
        request = next(one for one in own if one.type is DecisionRequested)
        made = next((one for one in own if one.type is DecisionMade), None)
        kind = KINDS.get(request.body["kind"])
        self._take(own)
        reads = [] if kind is None else kind.subject.reads(request.body["subject_id"])
        for one in reads:
            await self._around(one.stream, request.position)
        if made is not None:
            await self._lineage(made)
            hashes = _models_of(own)
            hashes += await self._roles(request)
            for model_hash in dict.fromkeys(hashes):
                await self._life(model_hash, request.position)
        # From the first one on: a gap would leave open whether the policy was another one.
        policy = await self._stream(policies.STREAM.format(kind=request.body["kind"]))
        self._take(one for one in policy if one.position <= request.position)
        await self._related(request)
        await self._people()
        stream = decision_stream(self._decision_id)
        asked: Mapping[int, Asked] = await asked_for(self._log, stream, [o.stored for o in own])
        return Case(
            organisation_id=str(self._organisation_id),
            decision_id=self._decision_id,
            own=own,
            events=[self._found[position] for position in sorted(self._found)],
            asked=asked,
            kind=kind,
            left_out=tuple(self._left_out),
        )

    async def own(self) -> list[Told]:
        """The decision's own events, if it is answered. Raises as ``Bundles.make``."""
        stream = decision_stream(self._decision_id)
        found = await self._whole_stream(stream)
        if not found:
            raise NoSuchDecision(f"decision {self._decision_id!r} is not known")
        if not any(one.type in (DecisionMade, DecisionFailed) for one in found):
            raise NotAnswered(f"decision {self._decision_id!r} is not answered yet")
        return found

    def _take(self, some: Iterable[Told]) -> None:
        mine = str(self._organisation_id)
        for one in some:
            if one.position <= self._size and str(one.stored.organisation_id) == mine:
                self._found[one.position] = one

    async def _whole_stream(self, name: str) -> list[Told]:
        id_ = stream_id(self._organisation_id, name)
        events: Sequence[StoredEvent] = (await self._log.streams([id_])).get(id_, [])
        return [told(event) for event in events]

    async def _stream(self, name: str) -> list[Told]:
        """A stream's events as far as they are sealed."""
        return [one for one in await self._whole_stream(name) if one.position <= self._size]

    async def _around(self, name: str, position: int) -> None:
        """What a subject's stream has before and behind a position."""
        events = await self._stream(name)
        before = [one for one in events if one.position <= position]
        after = [one for one in events if one.position > position]
        kept = before[-MOST_OF_STREAM:] + after[:MOST_OF_STREAM]
        self._take(kept)
        if len(kept) < len(events):
            missing = len(events) - len(kept)
            self._left_out.append(f"{missing} events of the stream {name}, far from the request")

    async def _lineage(self, made: Told) -> None:
        """The events that features come from, those of the best candidates first."""
        candidates = made.body["candidates"]
        order = rank(
            [one["objective"] for one in candidates], [one["rejected"] for one in candidates]
        )
        wanted: dict[int, None] = {}
        for number, index in enumerate(order):
            own = dict.fromkeys(candidates[index]["lineage"].values())
            if number < 2 or len(wanted | own) <= MOST_LINEAGE:
                wanted |= own
        every = {at for one in candidates for at in one["lineage"].values()}
        if left := len(every - wanted.keys()):
            self._left_out.append(f"{left} events that features of worse candidates come from")
        found = await self._log.at(list(wanted))
        self._take(told(event) for event in found.values())

    async def _roles(self, request: Told) -> list[str]:
        """Take what gave each role of the kind to its model at the time; those models, and those
        whose streams tell of it."""
        roles: dict[str, tuple[int, str]] = {}
        cursor = None
        while True:
            page = await model_deployments(
                self._read, kind=request.body["kind"], cursor=cursor, limit=200
            )
            for one in page.items:
                if one.position <= request.position and one.role != "none":
                    roles.setdefault(one.role, (one.position, one.model_hash))
            cursor = page.next_cursor
            if cursor is None:
                break
        found = await self._log.at([position for position, _ in roles.values()])
        given = [told(event) for event in found.values()]
        self._take(given)
        return [
            *(model_hash for _, model_hash in roles.values()),
            *(one.body["model_hash"] for one in given),
        ]

    async def _life(self, model_hash: str, as_of: int) -> None:
        """Take a model's stream from its first event on, without a gap, so that nothing that ended
        its role can be missing: all up to the request, and what changed its life soon after."""
        events = await self._stream(model_stream(model_hash))
        before = [one for one in events if one.position <= as_of]
        after = events[len(before) :][:MOST_OF_STREAM]
        changed = [number for number, one in enumerate(after, 1) if one.type in _LIFE]
        self._take(before + after[: max(changed, default=0)])

    async def _related(self, request: Told) -> None:
        """The contested decision that this one answers, and those that answer this one."""
        names = [one] if (one := request.body["redecides"]) is not None else []
        again = await list_decisions(self._read, redecides=self._decision_id, limit=20)
        names += [one.decision_id for one in again.items]
        for name in names:
            self._take(await self._stream(decision_stream(name)))

    async def _people(self) -> None:
        """That somebody whose data is among the events was erased."""
        persons = {one.body.get("person") for one in self._found.values()}
        for person in sorted(one for one in persons if isinstance(one, str)):
            self._take(await self._stream(people.STREAM.format(person=person)))


def _models_of(own: Sequence[Told]) -> list[str]:
    """The models that scored a decision: the one that decided first, then shadows."""
    scored = [one for one in own if one.type in (DecisionMade, DecisionShadowed)]
    return [one.body["model_hash"] for one in scored]


def _models(case: Case) -> list[str]:
    return list(dict.fromkeys(_models_of(case.own)))


async def _card(read: ReadModels, case: Case) -> str | None:
    """The card of the model that decided, as it is now."""
    made = case.one(DecisionMade)
    found = None if made is None else await story_of(read, made.body["model_hash"])
    return None if found is None else card(found, case.kind)


def _whole(files: dict[str, bytes], case: Case, manifest: dict[str, Any]) -> bytes:
    """Write what is derived from the events, and pack it all."""
    topics = {one.stored.topic for one in case.events}
    known = schemas.released()
    files["schemas.json"] = _json({topic: known[topic] for topic in topics & known.keys()})
    for one in case.events:
        files[f"events/{one.position}.json"] = _json(readable(one))
    decision = story(case)
    files["decision.json"] = _json(decision)
    picture = _waterfall(case)
    if picture is not None:
        files["explanation/waterfall.svg"] = picture.encode()
    files["index.html"] = page(case, decision, manifest, picture).encode()
    listed = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        for name, content in files.items()
    }
    return _packed(files | {"manifest.json": _json(manifest | {"files": listed})})


def _waterfall(case: Case) -> str | None:
    made, explained = case.of(DecisionMade), case.of(DecisionExplained)
    if not made or not explained:
        return None
    body = made[0].body
    found = explain(
        body, explained[0].body, case.features, case.kind, candidate=best(body["candidates"])
    )
    return waterfall_of(found.subject_id, found.candidates[0])


def _packed(files: Mapping[str, bytes]) -> bytes:
    """A zip file that says nothing but names and bytes."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _STILL)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name], compresslevel=9)
    return target.getvalue()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
