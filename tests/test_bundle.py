"""Evidence bundles: whole, checked offline by a program of its own, every lie found and named."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from chainlytics import verifier
from chainlytics.application import Application, application
from chainlytics.cli import app as cli
from chainlytics.cli.bundle import verifier_program
from chainlytics.cli.console import CliError
from chainlytics.verifier import Verified, verify_bundle
from domain.access import Role
from domain.catalogue import TOPICS, decode
from domain.decisions import DecisionMade
from domain.models import DeployModel, Measurement, RecordMeasurement, RollBackModel
from domain.models import Role as ModelRole
from domain.orders import AllocateOrder, DeliverOrder, OrderLine, PlaceOrder, ShipOrder
from domain.people import ErasePerson, Recipient
from domain.policies import SetPolicy
from domain.reviews import ConfirmDecision, ContestDecision, OverrideDecision
from eventstore.seals.proofs import NotSealed, Proofs
from eventstore.seals.sealer import Sealer
from eventstore.seals.signing import key_of, rotate
from ml.bundle import Bundles, ModelGone, NoSuchDecision
from ml.calibration import Calibration
from ml.replay import NotAnswered
from readmodels.database import ReadModels
from tests.archiving import archive, dropped, held
from tests.serving import assert_problem, serving_here, until
from tests.world import (
    NOW,
    ORGANISATION,
    a_year,
    another_model,
    company,
    context,
    copied,
    decidable_orders,
    deployed_model,
    request,
)

THEIRS = UUID("00000000-0000-0000-0000-0000000000bb")
REASON = "the <b>truck</b> & its driver are free"
#: Without what a decision that failed does not have.
CHECKS = (
    *("archive", "manifest", "proof", "checkpoint", "stream", "events", "story", "lineage"),
    *("governance", "people", "choice", "model", "day", "replay"),
)
Files = dict[str, bytes]
MEASURED = Measurement(
    from_position=0,
    to_position=1,
    decisions=0,
    outcomes=0,
    overridden=0,
    accuracy=None,
    brier=None,
    calibration_error=None,
    estimated_accuracy=None,
    estimated_brier=None,
    psi={},
    ks={},
)


@dataclass(frozen=True)
class World:
    """A company whose decisions are sealed: d-1 was overridden and came true, d-2 was contested and
    decided anew, d-3 has nothing that is allowed and a person, d-4 failed, d-5 has no answer."""

    url: str
    key: Path
    folder: Path
    log: str
    redecision: str

    def seal(self) -> None:
        Sealer(self.url, lambda: key_of(self.key), "decisions.DecisionRequested.").seal()

    def make(self, name: str, organisation_id: UUID = ORGANISATION, **options: Any) -> bytes:
        async def work() -> bytes:
            async with company(self.url) as app:
                await app.projector.catch_up()
                bundles = Bundles(app.log, app.artifacts, verifier_program())
                read = ReadModels(app.log, organisation_id)
                return await bundles.make(read, organisation_id, name, made_at=NOW, **options)

        return asyncio.run(work())

    def bundle(self, name: str) -> Path:
        """The bundle of a decision, made once."""
        file = self.folder / f"{name}.zip"
        if not file.exists():
            file.write_bytes(self.make(name))
        return file

    def files(self, name: str) -> Files:
        with zipfile.ZipFile(self.bundle(name)) as archive:
            return {one: archive.read(one) for one in archive.namelist()}

    def check(self, files: Files, **options: Any) -> Verified:
        """What the verifier finds of other files."""
        return verify_bundle(packed(files, self.folder / "changed.zip"), self.log, **options)


@pytest.fixture(scope="module")
def world(database: str, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("bundles")
    key = folder / "seal.key"

    async def begin() -> None:
        async with company(database) as app:
            await a_year(app)
            champion = await deployed_model(app)
            shadow = await another_model(app)
            for measured in (champion.registration.model_hash, shadow):
                await app.bus.execute(
                    RecordMeasurement(
                        model_hash=measured, measurement=MEASURED, limits=(), measured_at=NOW
                    ),
                    context(),
                )
            await app.bus.execute(
                DeployModel(model_hash=shadow, role=ModelRole.SHADOW, deployed_at=NOW), context()
            )
            for least, most in ((0.5, None), (0.999, 0)):
                policy = SetPolicy(
                    kind="fulfilment",
                    minimum_confidence=least,
                    four_eyes_above_minor=most,
                    set_at=NOW,
                )
                await app.bus.execute(policy, context("boss"))
            await app.consumer.catch_up()

    async def fill(orders: list[str]) -> str:
        async with application(database, pool_size=4, master=lambda: b"m" * 32) as app:
            await request(app, "d-1", orders[0])
            await request(app, "d-2", orders[1])
            await place(app, "O-erased", "erased@example.org")
            await place(app, "O-person", "grace@example.org", after="O-erased")
            await request(app, "d-3", "O-person")
            orphan = placed("O-orphan", None, site_id="S-404")
            await app.bus.execute(orphan, context())
            await request(app, "d-4", "O-orphan")
            theirs = placed("O-theirs", None)
            await app.bus.execute(theirs, context("them", THEIRS))
            await app.consumer.catch_up()
            made = await decision(app, "d-1")
            other = next(
                one.option
                for one in made.candidates
                if not one.rejected and one.option != made.option
            )
            for command, actor in (
                (
                    OverrideDecision(
                        decision_id="d-1", option=other, reason=REASON, overridden_at=NOW
                    ),
                    "ana",
                ),
                (ConfirmDecision(decision_id="d-1", confirmed_at=NOW), "ben"),
                (
                    AllocateOrder(
                        order_id=orders[0],
                        site_id=other["site_id"],
                        service_level=other["service_level"],
                        vehicle_id=other.get("vehicle_id"),
                        decision_id="d-1",
                        allocated_at=NOW,
                    ),
                    "ops",
                ),
                (ShipOrder(order_id=orders[0], shipped_at=NOW + timedelta(hours=5)), "ops"),
                (DeliverOrder(order_id=orders[0], delivered_at=NOW + timedelta(days=2)), "ops"),
                (ContestDecision(decision_id="d-2", reason="too dear", contested_at=NOW), "cat"),
            ):
                await app.bus.execute(command, context(actor))
            await app.consumer.catch_up()
            return next(
                str(body["decision_id"])
                for one in await app.log.after(0, 10**6)
                if one.topic.startswith("decisions.DecisionRequested.")
                for body in [json.loads(one.state)]
                if body["redecides"] == "d-2"
            )

    asyncio.run(begin())
    orders = asyncio.run(decidable_orders(database))
    redecision = asyncio.run(fill(orders))
    found = World(database, key, folder, verifier_origin(key), redecision)
    found.seal()

    async def ask() -> None:
        async with company(database) as app:
            await request(app, "d-5", orders[2])

    asyncio.run(ask())
    return found


def verifier_origin(key: Path) -> str:
    first = key_of(key).public_key().public_bytes_raw()
    return "chainlytics/" + hashlib.sha256(first).hexdigest()[:32]


def placed(order_id: str, recipient: Recipient | None, *, site_id: str | None = None) -> PlaceOrder:
    line = OrderLine(line_no=1, sku="A", quantity=Decimal(1), unit_price_minor=9, site_id=site_id)
    return PlaceOrder(
        order_id=order_id,
        customer_id="C-1",
        currency="EUR",
        region="BE",
        lines=(line,),
        placed_at=NOW,
        promised_at=NOW + timedelta(days=3),
        recipient=recipient,
    )


async def place(app: Application, order_id: str, email: str, after: str | None = None) -> None:
    """Place an order for somebody; erase the recipient of another one before."""
    if after is not None:
        events = await app.log.after(0, 10**6)
        person = next(
            body["person"]
            for one in events
            if one.topic.startswith("orders.OrderPlaced.")
            for body in [json.loads(one.state)]
            if body["order_id"] == after
        )
        await app.bus.execute(ErasePerson(person=person, erased_at=NOW), context("dpo"))
    recipient = Recipient(person_id=f"P-{order_id}", name="Grace Hopper", email=email)
    await app.bus.execute(placed(order_id, recipient), context())


async def decision(app: Application, name: str) -> DecisionMade:
    for one in await app.log.after(0, 10**6):
        if one.topic == TOPICS[DecisionMade]:
            event = decode(one.topic, one.state)
            if isinstance(event, DecisionMade) and event.decision_id == name:
                return event
    raise LookupError(name)


def packed(files: Files, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(name, files[name])
    return target


def failed(found: Verified) -> dict[str, str]:
    """What does not hold, and why."""
    return {one.what: one.detail for one in found.checks if one.result == "FAILED"}


def with_manifest(files: Files) -> Files:
    """As a careful liar does it: the manifest fits."""
    told = json.loads(files["manifest.json"])
    told["files"] = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        for name, content in files.items()
        if name != "manifest.json"
    }
    return files | {"manifest.json": json.dumps(told).encode()}


def edited(files: Files, name: str, edit: Callable[[Any], object]) -> Files:
    """One JSON file changed, the manifest with it."""
    told = json.loads(files[name])
    edit(told)
    return with_manifest(files | {name: json.dumps(told).encode()})


# what holds


def test_a_bundle_holds_replay_and_all(world: World) -> None:
    found = verify_bundle(world.bundle("d-1"), world.log)
    assert [(one.result, one.what) for one in found.checks] == [("ok", one) for one in CHECKS]
    told = {one.what: one.detail for one in found.checks}
    assert "the same to the bit" in told["replay"]
    assert "1 shadow" in told["replay"]
    assert told["people"] == "as far as the rows here show: 2 had to agree, ana, ben did"
    assert "proposed by planner" in told["governance"]
    assert "approved by boss" in told["governance"]
    assert told["lineage"].endswith("are here")
    says = "\n".join(found.says)
    assert "planner asked for decision d-1" in says
    assert "DecisionOverridden by ana: option {" in says
    assert f'reason "{REASON}"' in says
    assert "occurred false, followed false" in says


def test_what_people_wrote_does_not_look_like_a_check() -> None:
    forged = Verified([], ["9: ana asked\nok      replay: trust me \x1b[2J"])
    assert verifier.as_text(forged).count("\n") == 4
    assert r"asked\nok      replay: trust me \x1b[2J" in verifier.as_text(forged)


def test_what_is_in_it(world: World) -> None:
    files = world.files("d-1")
    events = [json.loads(content) for name, content in files.items() if name.startswith("events/")]
    topics = {one["topic"].split(".")[1] for one in events}
    assert topics >= {
        *("DecisionRequested", "DecisionMade", "DecisionExplained", "DecisionShadowed"),
        *("DecisionReferred", "DecisionOverridden", "DecisionConfirmed", "DecisionOutcomeRecorded"),
        *("OrderPlaced", "OrderAllocated", "OrderShipped", "OrderDelivered", "PolicySet"),
        *("ModelRegistered", "ModelApproved", "ModelDeployed", "ModelMeasured"),
        "VehicleRegistered",
    }
    assert {one["organisation_id"] for one in events} == {str(ORGANISATION)}
    story = json.loads(files["decision.json"])
    assert story["request"]["asked_as"] == {
        "command": "RequestDecision",
        "roles": ["admin", "service"],
    }
    assert story["left_out"] == []
    chosen = story["candidates"][story["made"]["chosen"]]
    feature = next(one for one in chosen["features"] if one["name"] == "slack_days")
    assert feature["lineage"].keys() >= {"order", "site", "lane_service"}
    assert feature["sentence"].endswith("the risk")
    assert {one["code"] for one in story["constraints"]} >= {"site.closed", "stock.not_enough"}
    assert len([name for name in files if name.startswith("model/")]) == 2
    assert files["model-card.md"].startswith(b"# Model card: fulfilment")
    assert set(json.loads(files["schemas.json"])) == {one["topic"] for one in events}
    assert files["verifier.py"] == verifier_program()
    assert "--origin" in files["README.txt"].decode()
    assert json.loads(files["manifest.json"])["made_at"] == "2026-01-01T00:00:00+00:00"


def test_twice_is_the_same_bytes(world: World) -> None:
    assert world.make("d-1") == world.bundle("d-1").read_bytes()


def test_without_its_day_no_other_request_is_shown(world: World) -> None:
    file = world.folder / "alone.zip"
    file.write_bytes(world.make("d-1", day=False))
    found = verify_bundle(file, world.log)
    assert [one.what for one in found.checks] == [one for one in CHECKS if one != "day"]
    assert not found.failed
    assert b"d-4" not in b"".join(zipfile.ZipFile(file).read(n) for n in ("proof.json",))
    day = json.loads(world.files("d-1")["day.json"])
    assert day["count"] == 5  # d-5 is asked for behind the signed head


def test_a_contested_decision_has_the_one_that_answers_it(world: World) -> None:
    found = verify_bundle(world.bundle("d-2"), world.log)
    assert failed(found) == {}
    story = json.loads(world.files("d-2")["decision.json"])
    assert story["redecided_by"] == [world.redecision]
    assert [one["event"] for one in story["reviews"]] == ["DecisionContested"]
    answer = verify_bundle(world.bundle(world.redecision), world.log)
    assert failed(answer) == {}
    files = world.files(world.redecision)
    assert json.loads(files["decision.json"])["request"]["redecides"] == "d-2"
    page = files["index.html"].decode()
    assert "It answers the contested decision d-2" in page


def test_a_failed_decision_has_a_bundle_too(world: World) -> None:
    found = verify_bundle(world.bundle("d-4"), world.log)
    assert [one.what for one in found.checks] == [
        *("archive", "manifest", "proof", "checkpoint", "stream", "events", "story", "day")
    ]
    assert not found.failed
    assert not found.skipped
    assert json.loads(world.files("d-4")["decision.json"])["failure"]["code"]
    assert "Nothing was decided" in world.files("d-4")["index.html"].decode()


def test_a_role_by_a_rollback_is_told_by_the_other_models_stream(world: World) -> None:
    """Which is whole, too."""
    rows = rows_of(world.files("d-1")).values()
    champion, other = (
        next(
            one["data"]["model_hash"]
            for one in rows
            if one["topic"].startswith("models.ModelDeployed.") and one["data"]["role"] == role
        )
        for role in ("champion", "shadow")
    )
    with copied(world.url) as copy:

        async def back() -> None:
            async with company(copy) as app:
                await app.bus.execute(DeployModel(model_hash=other, deployed_at=NOW), context())
                rollback = RollBackModel(
                    model_hash=other, to=champion, reason="worse", rolled_back_at=NOW
                )
                await app.bus.execute(rollback, context("boss"))
                await request(app, "d-6", "O-person")
                await app.consumer.catch_up()

        asyncio.run(back())
        theirs = replace(world, url=copy)
        theirs.seal()
        file = world.folder / "rolled-back.zip"
        file.write_bytes(theirs.make("d-6"))
    found = verify_bundle(file, world.log)
    assert failed(found) == {}
    with zipfile.ZipFile(file) as archive:
        story = json.loads(archive.read("decision.json"))
    assert story["governance"]["role"]["event"] == "ModelRolledBack"
    assert story["made"]["model_hash"] == champion


def test_nothing_personal_is_in_the_clear(world: World) -> None:
    found = verify_bundle(world.bundle("d-3"), world.log)
    assert failed(found) == {}
    files = world.files("d-3")
    everything = b"".join(files.values())
    assert b"Grace" not in everything
    assert b"grace@" not in everything
    assert b"p1." in everything
    assert "personal (encrypted)" in files["index.html"].decode()
    story = json.loads(files["decision.json"])
    assert story["made"]["chosen"] is None  # nothing is allowed: no site has stock


def test_an_erased_person_is_told_as_such(world: World) -> None:
    """The erasure is asked for behind the decision, so the next head has it."""

    async def erase() -> None:
        async with application(world.url, pool_size=4, master=lambda: b"m" * 32) as app:
            [person] = {
                body["person"]
                for one in await app.log.after(0, 10**6)
                if one.topic.startswith("orders.OrderPlaced.")
                for body in [json.loads(one.state)]
                if body["order_id"] == "O-person"
            }
            assert isinstance(person, str)
            await app.bus.execute(ErasePerson(person=person, erased_at=NOW), context("dpo"))

    world.bundle("d-3")
    asyncio.run(erase())
    world.seal()
    file = world.folder / "erased.zip"
    file.write_bytes(world.make("d-3"))
    found = verify_bundle(file, world.log)
    assert failed(found) == {}
    with zipfile.ZipFile(file) as archive:
        page = archive.read("index.html").decode()
    assert "personal (erased)" in page
    assert "was erased" in page


# the program alone


def alone(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The verifier as an auditor runs it: a file of its own, nothing of ours on the path."""
    program = tmp_path / "verifier.py"
    shutil.copy(verifier.__file__, program)
    return subprocess.run(
        [sys.executable, "-I", *words],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_program_needs_nothing_of_ours(world: World, tmp_path: Path) -> None:
    shutil.copy(world.bundle("d-1"), tmp_path / "b.zip")
    done = alone(tmp_path, "verifier.py", "b.zip", "--origin", world.log)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok      ") == len(CHECKS)
    assert done.stdout.strip().endswith("holds")
    script = "import sys; sys.path.insert(0, '.'); import verifier; print(sorted(sys.modules))"
    done = alone(tmp_path, "-c", script)
    ours = ("ml", "domain", "eventstore", "commands", "projections", "chainlytics", "cryptography")
    assert not any(f"'{name}'" in done.stdout for name in ours)


def test_without_xgboost_all_is_checked_but_the_replay(world: World, tmp_path: Path) -> None:
    shutil.copy(world.bundle("d-1"), tmp_path / "b.zip")
    bare = ("-S", "verifier.py", "b.zip")  # no packages but the standard library
    done = alone(tmp_path, *bare, "--origin", world.log)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "skipped replay: No module named 'numpy': pip install numpy xgboost==" in done.stdout
    assert done.stdout.strip().endswith("holds, but not all of it was checked")
    done = alone(tmp_path, *bare, "--no-replay", "--json")
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert (told["holds"], told["complete"]) == (True, True)
    assert [one["what"] for one in told["checks"]] == list(CHECKS[:-1])


def test_another_version_of_the_library_is_said(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xgboost.__version__", "9.9.9")
    [replay] = verify_bundle(world.bundle("d-1"), world.log).checks[-1:]
    assert replay.result == "ok"
    assert "the same within 1e-06, other library version (3." in replay.detail


@given(
    knots=st.lists(st.floats(0, 1), min_size=1, max_size=8, unique=True),
    shares=st.lists(st.floats(0.001, 0.999), min_size=8, max_size=8),
    probability=st.floats(0, 1),
)
def test_calibration_by_hand_is_the_same_to_the_bit(
    knots: list[float], shares: list[float], probability: float
) -> None:
    scores, levels = sorted(knots), sorted(shares[: len(knots)])
    [expected] = Calibration(tuple(scores), tuple(levels))([probability]).tolist()
    assert verifier.calibrated(scores, levels, probability) == expected


# what does not hold


def of_candidate(number: int, edit: Callable[[dict[str, Any]], object]) -> Callable[[Any], object]:
    return lambda story: edit(story["candidates"][number])


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (of_candidate(0, lambda c: c["features"][0].update(value=9.5)), r"\[0\]: value is '9.5'"),
        (of_candidate(0, lambda c: c["features"][0].update(contribution=0.0)), "contribution"),
        (of_candidate(0, lambda c: c["features"][0].update(name="luck")), "name is 'luck'"),
        (of_candidate(0, lambda c: c["features"].pop()), "features: 18 are told, the rows have 19"),
        (of_candidate(1, lambda c: c.update(risk=0.0)), r"candidates\[1\]: risk is '0.0'"),
        (of_candidate(1, lambda c: c.update(cost_minor=1)), "cost_minor is '1'"),
        (of_candidate(1, lambda c: c.update(rejected=["a.b"])), "rejected"),
        (of_candidate(1, lambda c: c["option"].update(site_id="S-9")), "site_id is 'S-9'"),
        (of_candidate(1, lambda c: c["lineage"].update(site=1)), "lineage: site is '1'"),
        (of_candidate(1, lambda c: c.update(good=True)), "good is not in the rows"),
        (lambda story: story["candidates"].pop(), "candidates: .* are told"),
        (lambda story: story["made"].update(chosen=0), "made: chosen is '0'"),
        (lambda story: story["made"].update(model_hash="0" * 64), "no row registers|model_hash"),
        (lambda story: story["made"]["weights"].update(risk_minor=1), "risk_minor is '1'"),
        (lambda story: story["explanation"].update(summary="Trust me"), "summary is 'Trust me'"),
        (lambda story: story["explanation"]["reasons"].pop(), "reasons: 4 are told"),
        (lambda story: story["request"].update(actor="nobody"), "request: actor is 'nobody'"),
        (lambda story: story["reviews"].pop(0), "reviews: 1 are told, the rows have 2"),
        (lambda story: story["reviews"][0].update(reason="-"), "reason is '-'"),
        (lambda story: story["outcome"].update(occurred=True), "occurred is 'True'"),
        (lambda story: story.update(referral=None), "referral is 'None'"),
        (lambda story: story["governance"]["approved"].update(actor="x"), "approved: actor"),
        (lambda story: story["constraints"][0].update(broken_by=[0]), "site.closed is broken by"),
        (
            lambda story: story.update(constraints=story["constraints"][:1]),
            "leaves out constraints",
        ),
        (lambda story: story.pop("shadows"), "shadows is missing"),
        (lambda story: story.update(subject_id="O-1"), "subject_id is 'O-1'"),
    ],
)
def test_a_lie_in_the_story_is_named(
    world: World, edit: Callable[[Any], object], told: str
) -> None:
    found = failed(world.check(edited(world.files("d-1"), "decision.json", edit), replay=False))
    assert found.keys() - {"lineage"} == {"story"}
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(found["story"])


def lines(found: Verified, result: str) -> list[str]:
    """What the verifier prints as a note, or as another result."""
    told = verifier.as_text(found).splitlines()
    return [one.removeprefix(f"{result:<8}") for one in told if one.startswith(f"{result:<8}")]


def rows_of(files: Files) -> dict[int, Any]:
    """The readable events by position."""
    told = [json.loads(content) for name, content in files.items() if name.startswith("events/")]
    return {one["position"]: one for one in sorted(told, key=lambda one: one["position"])}


def test_what_is_not_proved_is_said(world: World) -> None:
    found = verify_bundle(world.bundle("d-1"), world.log)
    notes = lines(found, "note")
    assert notes == found.not_proved == verifier.as_json(found)["not_proved"]
    last = [one for one in rows_of(world.files("d-1")).values() if one["stream"] == "decisions/d-1"]
    version, position = last[-1]["version"], last[-1]["position"]
    behind = f"behind version {version}, position {position}"
    assert notes[0] == f"not excluded: later events of decision d-1 {behind}"
    assert "policies of fulfilment that were left out behind version 2" in notes[1]
    assert "or of models that are not here" in notes[2]
    assert (
        "not checked: index.html, model-card.md, explanation/waterfall.svg, schemas.json, "
        "README.txt, verifier.py" in notes
    )
    assert "explanation" not in "".join(lines(verify_bundle(world.bundle("d-4")), "note"))
    file = world.folder / "no-day.zip"
    file.write_bytes(world.make("d-1", day=False))
    assert "not excluded: other decisions requested on that day" in lines(
        verify_bundle(file), "note"
    )


def test_a_bundle_that_ends_before_people_took_over_says_where_it_ends(world: World) -> None:
    """Every row of it is true: no proof can tell. So nothing is said that only a whole one says."""
    files = world.files("d-1")
    rows = rows_of(files)
    referred = next(at for at, one in rows.items() if ".DecisionReferred." in one["topic"])
    gone = {
        at
        for at, one in rows.items()
        if (one["stream"] == "decisions/d-1" and at >= referred)
        or one["topic"].startswith("policies.")
    }
    kept = {name: content for name, content in files.items() if name != "index.html"}
    for position in gone:
        del kept[f"events/{position}.json"]
    kept["index.html"] = b"<p>The model decided, and nobody had anything to say.</p>"

    def hide(proof: Any) -> None:
        proof["events"] = [one for one in proof["events"] if one["position"] not in gone]

    def lie(story: Any) -> None:
        story.update(referral=None, reviews=[], outcome=None)
        story["governance"]["policy"] = None

    forged = edited(edited(kept, "proof.json", hide), "decision.json", lie)
    found = world.check(forged, replay=False)
    assert failed(found) == {}
    told = {one.what: one.detail for one in found.checks}
    assert told["people"].startswith("as far as the rows here show: nobody had to agree")
    last = max(rows.keys() - gone, key=lambda at: (rows[at]["stream"] == "decisions/d-1", at))
    notes = lines(found, "note")
    version = rows[last]["version"]
    assert notes[0].endswith(f"events of decision d-1 behind version {version}, position {last}")
    assert notes[1] == "not excluded: policies of fulfilment that were left out (none is here)"
    assert any(one.startswith("not checked: index.html") for one in notes)


@pytest.mark.parametrize("name", ["policies/fulfilment", "models/"])
def test_a_gap_in_a_stream_of_policies_or_models_is_named(world: World, name: str) -> None:
    """The first policy asked for less than the second: without it, it looks as if there were no
    other."""
    files = world.files("d-1")
    at, version = next(
        (at, one["version"])
        for at, one in rows_of(files).items()
        if one["stream"].startswith(name) and ".ModelRegistered." not in one["topic"]
    )
    kept = {one: content for one, content in files.items() if one != f"events/{at}.json"}

    def hide(proof: Any) -> None:
        proof["events"] = [one for one in proof["events"] if one["position"] != at]

    found = failed(world.check(edited(kept, "proof.json", hide), replay=False))
    assert found["stream"].startswith(f"version {version} of the stream of position ")


def test_a_day_that_is_not_over_is_said(world: World) -> None:
    """Whatever period the proof names: it ends where the signed log ends."""
    files = world.files("d-1")
    [recorded] = [
        line.split(" ")[1]
        for line in files["checkpoint.txt"].decode().splitlines()
        if line.startswith("recorded ")
    ]
    for to in (None, "2100-01-01T00:00:00+00:00"):
        told = files if to is None else edited(files, "day.json", lambda one: one.update(to=to))  # noqa: B023
        found = world.check(told, replay=False)
        assert failed(found) == {}
        [day] = [one.detail for one in found.checks if one.what == "day"]
        assert f"up to {recorded}, where the signed log ends: the day was not over yet" in day
        assert any(one.endswith(f"on that day, behind {recorded}") for one in found.not_proved)
    asked = json.loads(files["decision.json"])["request"]["recorded_at"]
    part = edited(files, "day.json", lambda one: one.update({"from": asked}))
    assert failed(world.check(part, replay=False)).keys() == {"day"}


def test_a_model_is_not_loaded_where_anything_is_wrong(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(verifier, "_Scored", never)
    files = world.files("d-1")
    model = next(name for name in files if name.startswith("model/"))
    found = world.check(with_manifest(files | {model: b"{}"}))
    assert [one.result for one in found.checks if one.what == "replay"] == ["skipped"]
    found = world.check(with_manifest(files | {f"model/{hashlib.sha256(b'x').hexdigest()}": b"x"}))
    assert "scored nothing here" in failed(found)["model"]
    assert verifier.exit_code(found) == 1


def test_whose_log_it_is_stands_in_the_answer(world: World) -> None:
    proof = world.folder / "proof.json"
    proof.write_bytes(world.files("d-1")["proof.json"])
    for file in (world.bundle("d-4"), proof):
        for asked in (world.log, None):
            found = verifier.verify(file, asked)
            told = verifier.as_json(found)
            assert (told["origin"], told["origin_checked"]) == (world.log, asked is not None)
            assert verifier.exit_code(found) == 0
        other = verifier.as_json(verifier.verify(file, "chainlytics/" + "0" * 32))
        assert (other["origin"], other["origin_checked"], other["holds"]) == (None, False, False)


def test_a_feature_said_to_come_from_elsewhere(world: World) -> None:
    def edit(story: Any) -> None:
        story["candidates"][0]["features"][0]["lineage"] = {"order": 1}

    found = failed(world.check(edited(world.files("d-1"), "decision.json", edit), replay=False))
    assert found.keys() == {"lineage"}
    assert "does not come from" in found["lineage"]


def test_a_changed_byte_of_a_row_is_named(world: World) -> None:
    proof = json.loads(world.files("d-1")["proof.json"])
    for number in (0, len(proof["events"]) - 1):
        position = proof["events"][number]["position"]

        def edit(told: Any, number: int = number) -> None:
            row = bytearray(base64.b64decode(told["events"][number]["row"]))
            row[-3] ^= 1
            told["events"][number]["row"] = base64.b64encode(row).decode()

        found = failed(world.check(edited(world.files("d-1"), "proof.json", edit)))
        assert found == {"proof": f"the event at position {position} is not in the log as signed"}


def test_swapped_rows_are_named(world: World) -> None:
    def swap(told: Any) -> None:
        one, other = told["events"][3], told["events"][4]
        one["row"], other["row"] = other["row"], one["row"]

    def swap_whole(told: Any) -> None:
        told["events"][3], told["events"][4] = told["events"][4], told["events"][3]

    found = failed(world.check(edited(world.files("d-1"), "proof.json", swap)))
    assert "the row said to be at" in found["proof"]
    found = failed(world.check(edited(world.files("d-1"), "proof.json", swap_whole)))
    assert found == {"proof": "the rows are not in the order of the log, or one is there twice"}


def without(files: Files, *topics: str) -> Files:
    """A bundle that hides events: their rows and readable forms are gone, the manifest fits."""
    gone = {
        json.loads(content)["position"]
        for name, content in files.items()
        if name.startswith("events/") and json.loads(content)["topic"].split(".")[1] in topics
    }
    assert gone
    kept = dict(files)
    for position in gone:
        del kept[f"events/{position}.json"]

    def edit(proof: Any) -> None:
        proof["events"] = [one for one in proof["events"] if one["position"] not in gone]

    return edited(kept, "proof.json", edit)


@pytest.mark.parametrize(
    ("topic", "check", "told"),
    [
        ("DecisionOverridden", "stream", "events of decision d-1 are missing"),
        ("DecisionReferred", "stream", "events of decision d-1 are missing"),
        ("ModelMeasured", "stream", "(models.ModelDeployed.v2) is missing"),
        ("DecisionRequested", "stream", "events of decision d-1 are missing"),
        ("ModelApproved", "governance", "no rows show who proposed, approved and deployed"),
        ("ModelDeployed", "governance", "no rows show who proposed, approved and deployed"),
        ("ModelRegistered", "story", "no row registers the model"),
        ("PolicySet", "people", "2 persons were asked to agree, by the policy it is 0"),
        ("VehicleRegistered", "lineage", "events that features come from are missing"),
    ],
)
def test_a_hidden_event_is_missed(world: World, topic: str, check: str, told: str) -> None:
    found = failed(world.check(without(world.files("d-1"), topic), replay=False))
    assert told in found[check]


def test_changed_model_bytes_are_named(world: World) -> None:
    files = world.files("d-1")
    model = json.loads(files["decision.json"])["made"]["model_hash"]
    content = bytearray(files[f"model/{model}"])
    content[len(content) // 2] ^= 1
    found = failed(world.check(with_manifest(files | {f"model/{model}": bytes(content)})))
    assert found["model"] == f"model/{model} does not hold the bytes that its name says"
    [other] = [name for name in files if name.startswith("model/") and model not in name]
    found = failed(world.check(with_manifest(files | {f"model/{model}": files[other]})))
    assert found["model"] == f"model/{model} does not hold the bytes that its name says"
    gone = {name: content for name, content in files.items() if name != f"model/{model}"}
    found = failed(world.check(with_manifest(gone)))
    assert found["model"] == f"the model that decided is not there: {model}"


def test_a_changed_checkpoint_is_named(world: World) -> None:
    files = world.files("d-1")
    note = files["checkpoint.txt"].decode()
    size = note.splitlines()[1]
    other = note.replace(f"\n{size}\n", f"\n{int(size) + 1}\n")
    found = failed(world.check(with_manifest(files | {"checkpoint.txt": other.encode()})))
    assert found == {"checkpoint": "checkpoint.txt is not the signed head of the proof"}
    found = failed(
        world.check(edited(files, "proof.json", lambda told: told.update(checkpoint=other)))
    )
    assert found == {"proof": "none of the log's keys signed the checkpoint"}


def test_another_log_is_named(world: World) -> None:
    files = world.files("d-1")
    name = "chainlytics/" + "0" * 32
    found = failed(verify_bundle(world.bundle("d-1"), name))
    assert found["proof"] == f"the checkpoint is of the log {world.log}, not of {name}"
    told = edited(files, "manifest.json", lambda one: one.update(origin=name))
    assert "the manifest names another log" in failed(world.check(told))["proof"]


@pytest.mark.parametrize(
    ("change", "check", "told"),
    [
        (lambda files: files.pop("README.txt"), "manifest", "not there: README.txt"),
        (lambda files: files.update(more=b"x"), "archive", "'more' is no name of a file"),
        (lambda files: files.update({"events/01.json": b"{}"}), "archive", "'events/01.json' is"),
        (
            lambda files: files.update({"events/1.json": b"{}"}),
            "manifest",
            "not named in the manifest: events/1.json",
        ),
        (
            lambda files: files.update({"index.html": files["index.html"] + b" "}),
            "manifest",
            "index.html is not the file that the manifest names",
        ),
        (lambda files: files.pop("manifest.json"), "manifest", "manifest.json is not there"),
        (lambda files: files.update({"../x": b""}), "archive", "'../x' is no name of a file"),
        (lambda files: files.update({"/etc/x": b""}), "archive", "'/etc/x' is no name"),
        (lambda files: files.update({"a/../b": b""}), "archive", "'a/../b' is no name"),
    ],
)
def test_other_files_are_named(
    world: World, change: Callable[[Files], object], check: str, told: str
) -> None:
    files = world.files("d-1")
    change(files)
    found = failed(world.check(files, replay=False))
    assert told in found[check]


def test_a_lie_about_an_event_is_named(world: World) -> None:
    name = next(one for one in world.files("d-1") if one.startswith("events/"))

    def check(edit: Callable[[Any], object]) -> str:
        found = failed(world.check(edited(world.files("d-1"), name, edit), replay=False))
        assert found.keys() == {"events"}
        return str(found["events"])

    assert "actor is 'me'" in check(lambda one: one.update(actor="me"))
    assert "the stream that the row names" in check(lambda one: one.update(stream="orders/O-1"))
    assert "data" in check(lambda one: one["data"].update(more=1))


def test_a_damaged_archive_is_named(world: World, tmp_path: Path) -> None:
    content = world.bundle("d-1").read_bytes()
    file = tmp_path / "b.zip"
    for damaged in (content[: len(content) // 2], content[:-10], content[1000:], b"PK", b""):
        file.write_bytes(damaged)
        found = verifier.verify(file, world.log)
        assert found.failed
        assert not any(one.result == "ok" for one in found.checks)
    with zipfile.ZipFile(world.bundle("d-1")) as archive:
        one = archive.getinfo("index.html")
    flipped = bytearray(content)
    flipped[one.header_offset + 30 + len(one.filename) + one.compress_size // 2] ^= 0xFF
    file.write_bytes(bytes(flipped))
    assert "archive" in failed(verify_bundle(file, world.log))
    with zipfile.ZipFile(world.bundle("d-1")) as archive:
        listed = archive.namelist()
    shutil.copy(world.bundle("d-1"), file)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(file, "a") as archive:
        archive.writestr(listed[0], b"another")
    assert failed(verify_bundle(file, world.log))["archive"] == f"{listed[0]!r} is in it twice"


def test_every_byte_of_the_archive_is_of_a_file(world: World, tmp_path: Path) -> None:
    content = world.bundle("d-4").read_bytes()
    file = tmp_path / "b.zip"
    file.write_bytes(content)
    listed = int.from_bytes(content[-6:-2], "little")  # where the list of files begins
    junk = b"#!/bin/sh\n"
    later = (listed + len(junk)).to_bytes(4, "little")
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()

    def added(**options: Any) -> bytes:
        """The same files, one of them with something beside it, or all with a comment."""
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
            target.comment = options.get("behind", b"")
            for name in names:
                entry = zipfile.ZipInfo(name)
                entry.extra = options.get("extra", b"")
                entry.comment = options.get("comment", b"")
                target.writestr(entry, world.files("d-4")[name])
        return file.read_bytes()

    assert failed(world.check(world.files("d-4"))) == {}
    for changed in (
        junk + content,
        content + junk,
        content + content,
        content[:listed] + junk + content[listed:],
        content[:listed] + junk + content[listed:-6] + later + content[-2:],
        added(behind=junk),
        added(extra=b"\x99\x99\x02\x00hi"),
        added(comment=junk),
        b"PK\5\6" + bytes(18),  # no file at all
    ):
        file.write_bytes(changed)
        found = verify_bundle(file, world.log)
        assert failed(found).keys() == {"archive"}, changed[:60]
        assert not any(one.result == "ok" for one in found.checks)
    file.write_bytes(added())
    assert not verify_bundle(file, world.log).failed


def test_an_archive_that_would_fill_the_memory_is_not_read(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier, "_MOST_BYTES", 10_000)
    assert "more than" in failed(verify_bundle(world.bundle("d-1"), world.log))["archive"]
    monkeypatch.setattr(verifier, "_MOST_FILES", 3)
    assert "more than 3 files" in failed(verify_bundle(world.bundle("d-1"), world.log))["archive"]


def test_an_event_of_another_organisation_is_named(world: World) -> None:
    """Even with a good proof of it."""

    async def proof() -> tuple[int, Any]:
        async with company(world.url) as app:
            theirs = next(
                one.position
                for one in await app.log.after(0, 10**6)
                if one.organisation_id == THEIRS
            )
            mine = json.loads(world.files("d-1")["proof.json"])
            size = int(mine["checkpoint"].splitlines()[1])
            positions = sorted([theirs, *(one["position"] for one in mine["events"])])
            return theirs, await Proofs(app.log).inclusion(positions, size)

    theirs, told = asyncio.run(proof())
    files = with_manifest(world.files("d-1") | {"proof.json": json.dumps(told).encode()})
    assert failed(world.check(files)) == {"proof": f"position {theirs} is of another organisation"}


def test_a_request_hidden_from_the_day_is_missed(world: World) -> None:
    def hide(told: Any) -> None:
        told["rows"].pop(1)
        told["count"] -= 1

    found = failed(world.check(edited(world.files("d-1"), "day.json", hide), replay=False))
    assert found.keys() == {"day"}


# what there is no bundle of


def test_there_is_no_bundle_of_what_is_not_known(world: World) -> None:
    with pytest.raises(NoSuchDecision, match="'d-404' is not known"):
        world.make("d-404")
    with pytest.raises(NoSuchDecision, match="'d-1' is not known"):
        world.make("d-1", THEIRS)
    with pytest.raises(NotAnswered, match="'d-5' is not answered yet"):
        world.make("d-5")


@contextmanager
def unsealed(world: World) -> Iterator[None]:
    """A database that no head is signed in, for a while."""
    with psycopg.connect(world.url, autocommit=True) as connection:
        connection.execute("ALTER TABLE seal_heads RENAME TO kept_heads")
        connection.execute("CREATE TABLE seal_heads (LIKE kept_heads INCLUDING ALL)")
        try:
            yield
        finally:
            connection.execute("DROP TABLE seal_heads")
            connection.execute("ALTER TABLE kept_heads RENAME TO seal_heads")


def test_what_is_not_sealed_yet_has_to_wait(world: World) -> None:
    with unsealed(world), pytest.raises(NotSealed, match="nothing is sealed yet"):
        world.make("d-1")

    async def answer() -> None:
        async with company(world.url) as app:
            await app.consumer.catch_up()

    asyncio.run(answer())
    with pytest.raises(NotSealed, match=r"'d-5' goes on at position .* try again"):
        world.make("d-5")


def test_a_new_key_signs_and_the_name_stays(world: World) -> None:
    with psycopg.connect(world.url) as connection:
        rotate(connection, world.key)
    world.seal()
    found = verify_bundle(world.bundle("d-5"), world.log)
    assert failed(found) == {}
    proof = json.loads(world.files("d-5")["proof.json"])
    assert len(proof["keys"]) == 2

    def forge(told: Any) -> None:
        told["keys"][1]["endorsement"] = None

    found = world.check(edited(world.files("d-5"), "proof.json", forge))
    assert failed(found) == {"proof": "key 1 is not vouched for by the one before it"}


@contextmanager
def a_damaged_model(world: World, damage: str) -> Iterator[str]:
    """The model of d-1 is changed or gone from where models are stored, for a while."""
    name = json.loads(world.files("d-1")["decision.json"])["made"]["model_hash"]
    with psycopg.connect(world.url, autocommit=True) as connection:
        row = connection.execute(
            "SELECT content FROM artifacts WHERE hash = %s", (name,)
        ).fetchone()
        assert row is not None
        connection.execute(damage, (name,))
        try:
            yield name
        finally:
            connection.execute("DELETE FROM artifacts WHERE hash = %s", (name,))
            connection.execute(
                "INSERT INTO artifacts (hash, content) VALUES (%s, %b)", (name, *row)
            )


GONE = "DELETE FROM artifacts WHERE hash = %s"
CHANGED = "UPDATE artifacts SET content = content || 'x' WHERE hash = %s"


@pytest.mark.parametrize(("damage", "told"), [(GONE, "not stored any more"), (CHANGED, "other")])
def test_without_its_model_there_is_no_bundle(world: World, damage: str, told: str) -> None:
    with a_damaged_model(world, damage) as name, pytest.raises(ModelGone, match=told) as error:
        world.make("d-1")
    assert name in str(error.value)


def test_a_decision_in_the_archive_has_the_same_bundle(world: World, tmp_path: Path) -> None:
    """Its events, those that its features come from, and the day are read from dropped segments."""
    with copied(world.url) as copy:

        async def catch_up() -> None:
            async with company(copy) as app:
                await app.projector.catch_up()
                await app.consumer.catch_up()

        asyncio.run(catch_up())
        theirs, before = replace(world, url=copy), held(copy)
        expected = theirs.make("d-2")
        size = int(world.files("d-2")["checkpoint.txt"].decode().splitlines()[1])
        [*_, last] = archive(copy, tmp_path, positions=size // 10).write()  # nearly all of it
        request = json.loads(world.files("d-2")["decision.json"])["request"]["position"]
        assert request < last.last
        dropped(copy)
        assert held(copy) < before // 2
        assert theirs.make("d-2") == expected


# the page


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text, self.open, self.links, self.ids = "", list[str](), list[str](), set[str]()
        self.tags = set[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in ("meta", "br", "rect", "line", "path", "circle"):
            self.open.append(tag)
        named = dict(attrs)
        self.links += [value for name in ("href", "src") if (value := named.get(name))]
        self.ids |= {value for value in [named.get("id")] if value}

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "br", "rect", "line", "path", "circle"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("name", ["d-1", "d-2", "d-3", "d-4"])
def test_the_page_is_whole_and_needs_no_other_place(world: World, name: str) -> None:
    files = world.files(name)
    page = files["index.html"].decode()
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    assert not reader.tags & {"script", "link", "img", "iframe", "form"}
    for link in reader.links:
        assert link.removeprefix("#") in reader.ids if link.startswith("#") else link in files
    positions = {one.removeprefix("events/").removesuffix(".json") for one in files}
    assert {one[1:] for one in reader.ids if one.startswith("p")} <= positions


def test_the_page_tells_the_story(world: World) -> None:
    reader = _Reader()
    reader.feed(world.files("d-1")["index.html"].decode())
    for told in (
        "People chose otherwise:",
        REASON,  # as people wrote it: nothing of it is markup
        "planner (admin, service)",
        "did not come true",
        "two persons above 0 minor units",
        "was allocated",
        "python verifier.py BUNDLE.zip",
        "The page itself is not signed",
    ):
        assert told in reader.text, told


# over HTTP and at the command line; the server decides and seals, so these come last


def test_it_is_given_out_over_http(world: World, tmp_path: Path) -> None:
    with serving_here(world.url, tmp_path) as (served, _):
        with served.client(Role.AUDITOR) as auditor:

            def ask() -> bytes | None:
                answer = auditor.get("/decisions/d-1/bundle", params={"day": False})
                return answer.content if answer.status_code == 200 else None

            content = until(ask)
            answer = auditor.get("/decisions/d-1/bundle")
            assert answer.headers["content-type"] == "application/zip"
            assert 'filename="d-1-evidence.zip"' in answer.headers["content-disposition"]
            assert_problem(auditor.get("/decisions/d-404/bundle"), 404, "not-found")
            with a_damaged_model(world, GONE) as name:
                told = assert_problem(auditor.get("/decisions/d-1/bundle"), 503)
            assert told["detail"].startswith(f"the model {name} is not stored any more")
        file = tmp_path / "b.zip"
        file.write_bytes(content)
        assert failed(verify_bundle(file, world.log)) == {}
        for role in (Role.VIEWER, Role.ANALYST, Role.SERVICE):
            with served.client(role) as other:
                assert_problem(other.get("/decisions/d-1/bundle"), 403, "forbidden")
        with served.client(organisation_id=THEIRS) as them:
            assert_problem(them.get("/decisions/d-1/bundle"), 404, "not-found")


def test_it_is_written_and_checked_at_the_command_line(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", world.url)
    monkeypatch.setenv("CHAINLYTICS_HOME", str(tmp_path))
    monkeypatch.setenv("CHAINLYTICS_ORGANISATION", str(ORGANISATION))
    monkeypatch.chdir(tmp_path)

    def say(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(cli, ["audit", *words])
        assert done.exit_code == code, (words, done.output, done.exception)
        return done.output

    def refused(*words: str) -> str:
        with pytest.raises(CliError) as error:
            CliRunner().invoke(cli, ["audit", *words], catch_exceptions=False)
        return str(error.value)

    assert "audit verify-bundle d-1-evidence.zip" in say("bundle", "d-1")
    assert "is there already" in refused("bundle", "d-1")
    written = json.loads(say("bundle", "d-1", "--force", "--no-day", "--json"))
    assert (tmp_path / "d-1-evidence.zip").stat().st_size == written["bytes"]
    checked = say("verify-bundle", "d-1-evidence.zip", "--origin", world.log)
    assert "ok      replay: " in checked
    assert "note    not excluded: later events of decision d-1 behind version" in checked
    assert "without --origin" in say("verify-bundle", "d-1-evidence.zip", "--no-replay")
    other = say("verify-bundle", "d-1-evidence.zip", "--origin", "chainlytics/" + "0" * 32, code=1)
    assert "FAILED  proof" in other
    assert refused("bundle", "d-404") == "decision 'd-404' is not known"
    with a_damaged_model(world, CHANGED) as name:
        assert refused("bundle", "d-1", "--out", "b.zip").startswith(f"the model {name} is stored")
