"""Accounts of the built-in provider over HTTP: from the first mail to the last session."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from argon2 import PasswordHasher
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from pydantic import SecretStr, ValidationError
from typer.testing import CliRunner

from api.identity.mail import Letter, MailNotSent, SmtpMail, SmtpServer, mail_of
from api.identity.passwords import Passwords, refused
from chainlytics.cli.accounts import app as accounts_cli
from chainlytics.cli.console import CliError
from chainlytics.cli.server import _Server, build_api, server_config
from chainlytics.settings import Settings
from eventstore import prepare_database
from eventstore.client_applications import ClientApplications
from tests.serving import API, NO_TLS, SECRET, Served, assert_problem, bearer, found, order, until
from tests.test_security import rows_of

PASSWORD = "three quiet herons wade"
SECOND = "seven loud magpies argue"
CODE = re.compile(r"[0-9A-Z]{5}(?:-[0-9A-Z]{5}){3}")


@dataclass
class Postbox:
    """What an SMTP server on loopback took."""

    port: int
    letters: list[EmailMessage] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)
    over_tls: list[bool] = field(default_factory=list)

    def to(self, address: str, subject: str) -> list[str]:
        """The texts of the letters to an address."""
        return [
            one.get_content().replace("\r\n", "\n")
            for one in list(self.letters)
            if one["To"] == address and subject in one["Subject"]
        ]

    def code(self, address: str, subject: str, number: int = 1) -> str:
        """The code of the letter of a number that an address was sent."""

        def ask() -> str | None:
            texts = self.to(address, subject)
            return texts[number - 1] if len(texts) >= number else None

        code = CODE.search(until(ask, 20))
        assert code is not None
        return code[0]


class _Taking:
    def __init__(self, box: Postbox) -> None:
        self._box = box

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        letter = message_from_bytes(envelope.original_content, policy=policy.default)
        assert isinstance(letter, EmailMessage)
        self._box.over_tls.append(session.ssl is not None)
        self._box.letters.append(letter)
        return "250 taken"

    async def handle_RCPT(  # noqa: N802
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        if address.startswith("nobody@"):
            return "550 there is no such box"
        envelope.rcpt_tos.append(address)
        return "250 ok"


@contextlib.contextmanager
def postbox(**options: Any) -> Iterator[Postbox]:
    """An SMTP server on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        box = Postbox(probe.getsockname()[1])

    def let_in(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        box.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=data.password == b"p:ss/word", handled=False)

    controller = Controller(
        _Taking(box), hostname="127.0.0.1", port=box.port, authenticator=let_in, **options
    )
    controller.start()
    try:
        yield box
    finally:
        controller.stop()


@contextlib.contextmanager
def serving(database: str, home: Path, **settings: Any) -> Iterator[tuple[Served, Settings]]:
    """The API alone, in a thread; nobody here needs read models."""
    prepare_database(database)
    made = Settings(home=home, token_secret=SECRET, **settings)
    app = build_api(made, database)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = server_config(app, log_level="critical")
        server = _Server(config, app)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            served = Served(f"http://127.0.0.1:{listener.getsockname()[1]}")
            with served.nobody() as client:
                until(lambda: True if _answers(client) else None)
            yield served, made
        finally:
            server.should_exit = True
            thread.join(timeout=30)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get(f"{API}/auth/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def box() -> Iterator[Postbox]:
    with postbox() as box:
        yield box


@pytest.fixture(scope="module")
def served(
    database: str, box: Postbox, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    with serving(
        database,
        tmp_path_factory.mktemp("home"),
        mail=SecretStr(f"smtp://127.0.0.1:{box.port}"),
        mail_from="Chainlytics <noreply@example.com>",
    ) as (served, _):
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(verify=NO_TLS, base_url=served.url + API, timeout=60) as client:
        yield client


@pytest.fixture
def email() -> str:
    return f"ada-{uuid4().hex[:8]}@example.com"


def post(client: httpx.Client, path: str, token: str | None = None, **body: str) -> httpx.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return client.post(f"/auth/{path}", json=body, headers=headers)


def mine(client: httpx.Client, path: str, token: str) -> httpx.Response:
    return client.get(path, headers={"Authorization": f"Bearer {token}"})


def signed_up(client: httpx.Client, box: Postbox, email: str, **more: str) -> dict[str, Any]:
    """Somebody with an account, signed in."""
    assert post(client, "register", email=email, password=PASSWORD, **more).status_code == 202
    code = box.code(email, "Confirm")
    body: dict[str, Any] = found(post(client, "verify", code=code, password=PASSWORD))
    return body


# --- the way of an account


def test_from_registering_to_a_new_password(
    client: httpx.Client, box: Postbox, email: str, database: str
) -> None:
    answer = post(client, "register", email=email.upper(), password=PASSWORD, name="Ada Lovelace")
    assert answer.status_code == 202
    assert_problem(post(client, "login", email=email, password=PASSWORD), 401, "wrong-credentials")
    code = box.code(email, "Confirm")

    # Whoever has the code alone, or the password alone, does not get in.
    assert_problem(post(client, "verify", code=code, password=SECOND), 422, "wrong-code")
    wrong = "00000-00000-00000-00000"
    assert_problem(post(client, "verify", code=wrong, password=PASSWORD), 422, "wrong-code")
    typed = code.lower().replace("-", " ")
    answer = post(client, "verify", code=typed, password=PASSWORD)
    signed = found(answer)
    assert answer.headers["cache-control"] == "no-store"
    assert_problem(post(client, "verify", code=code, password=PASSWORD), 422, "wrong-code")

    me = found(mine(client, "/auth/me", signed["access_token"]))
    assert me["id"] == signed["account"]
    assert me["id"].startswith("local:")
    assert (me["email"], me["name"]) == (email, "Ada Lovelace")
    assert (me["roles"], me["organisations"]) == (None, [])

    refreshed = found(post(client, "refresh", refresh_token=signed["refresh_token"]))
    assert refreshed["refresh_token"] != signed["refresh_token"]
    again = found(post(client, "login", email=email.upper(), password=PASSWORD))
    sessions = found(mine(client, "/auth/sessions", again["access_token"]))
    assert [one["current"] for one in sessions] == [True, False]

    assert post(client, "password/reset-request", email=email).status_code == 202
    code = box.code(email, "Choose a new password")
    assert_problem(post(client, "password/reset", code=wrong, password=SECOND), 422, "wrong-code")
    same = assert_problem(post(client, "password/reset", code=code, password=email), 422)
    assert "e-mail address" in same["detail"]
    assert post(client, "password/reset", code=code, password=SECOND).status_code == 204
    assert_problem(post(client, "password/reset", code=code, password=PASSWORD), 422, "wrong-code")
    # All sessions have ended, and what was signed before is not believed any more.
    for token in (refreshed["access_token"], again["access_token"]):
        told = assert_problem(mine(client, "/auth/me", token), 401, "unauthenticated")
        assert "revoked" in told["detail"]
    for token in (refreshed["refresh_token"], again["refresh_token"]):
        assert_problem(post(client, "refresh", refresh_token=token), 401, "wrong-refresh-token")
    assert_problem(post(client, "login", email=email, password=PASSWORD), 401, "wrong-credentials")
    assert found(post(client, "login", email=email, password=SECOND))["token_type"] == "Bearer"
    until(lambda: box.to(email, "was changed") or None)

    with psycopg.connect(database) as connection:
        kept = connection.execute(
            "SELECT password_hash FROM identity.accounts WHERE email = %s", (email,)
        ).fetchone()
        assert kept is not None
        assert kept[0].startswith("$argon2id$v=19$m=19456,t=2,p=1$")
        for table in ("accounts", "codes", "refresh_tokens", "sessions", "revocations", "tries"):
            rows = str(connection.execute(f"SELECT * FROM identity.{table}".encode()).fetchall())
            for secret in (PASSWORD, SECOND, code, signed["refresh_token"], "eyJ"):
                assert secret not in rows
        (events,) = connection.execute("SELECT count(*) FROM events").fetchone() or (None,)
        assert events == 0, "accounts are no events"


def test_who_somebody_is_stands_with_the_accounts_alone(
    client: httpx.Client, box: Postbox, email: str, database: str
) -> None:
    """Address and name of whoever founds an organisation and works in it, in all tables."""
    name = f"Ada Nowhere {email[:12]}"
    token = signed_up(client, box, email, name=name)["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    founded = client.post("/organisations", json={"name": "Looms"}, headers=headers)
    assert founded.status_code == 201, founded.text
    headers["X-Organisation-Id"] = founded.json()["organisation_id"]
    placed = client.post("/orders", json=order("O-1"), headers=headers)
    assert placed.status_code == 201, placed.text
    made = client.post("/organisation/invitations", json={"roles": ["analyst"]}, headers=headers)
    assert made.status_code == 201, made.text
    # A trail of what was refused, too.
    assert client.get("/orders/none", headers=headers).status_code == 404
    assert client.get("/orders", headers={"Authorization": f"Bearer {token}x"}).status_code == 401
    found_in = {
        table.partition(".")[0]
        for table, row in rows_of(database)
        if any(one in row.lower() for one in (email, name.lower()))
    }
    assert found_in == {"identity"}


def test_a_refresh_token_that_comes_back_ends_the_session(
    client: httpx.Client, box: Postbox, email: str
) -> None:
    signed = signed_up(client, box, email)
    other = found(post(client, "login", email=email, password=PASSWORD))
    second = found(post(client, "refresh", refresh_token=signed["refresh_token"]))
    third = found(post(client, "refresh", refresh_token=second["refresh_token"]))
    assert mine(client, "/auth/me", third["access_token"]).status_code == 200
    # A thief, or the owner after one: nobody can tell, so both lose the session.
    stolen = post(client, "refresh", refresh_token=signed["refresh_token"])
    assert_problem(stolen, 401, "wrong-refresh-token")
    for one in (second, third):
        answer = post(client, "refresh", refresh_token=one["refresh_token"])
        assert_problem(answer, 401, "wrong-refresh-token")
        assert_problem(mine(client, "/auth/me", one["access_token"]), 401, "unauthenticated")
    # The other session is another family.
    assert found(post(client, "refresh", refresh_token=other["refresh_token"]))
    for wrong in ("x", "chr_" + "A" * 43, signed["access_token"][:200]):
        answer = post(client, "refresh", refresh_token=wrong)
        assert_problem(answer, 401, "wrong-refresh-token")


def test_of_refreshes_at_once_one_wins_at_the_most(
    client: httpx.Client, box: Postbox, email: str
) -> None:
    signed = signed_up(client, box, email)
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda _: post(client, "refresh", refresh_token=signed["refresh_token"]), range(8)
            )
        )
    won = [one.json() for one in answers if one.status_code == 200]
    assert len(won) == 1
    answer = post(client, "refresh", refresh_token=won[0]["refresh_token"])
    assert_problem(answer, 401, "wrong-refresh-token")


def test_logging_out_ends_the_session_at_once(
    client: httpx.Client, box: Postbox, email: str
) -> None:
    signed = signed_up(client, box, email)
    other = found(post(client, "login", email=email, password=PASSWORD))
    assert post(client, "logout", signed["access_token"]).status_code == 204
    assert_problem(mine(client, "/auth/me", signed["access_token"]), 401, "unauthenticated")
    assert_problem(post(client, "logout", signed["access_token"]), 401, "unauthenticated")
    answer = post(client, "refresh", refresh_token=signed["refresh_token"])
    assert_problem(answer, 401, "wrong-refresh-token")
    assert mine(client, "/auth/me", other["access_token"]).status_code == 200

    # An operator's token can be given back, too; a like one for somebody else stays good.
    token, stays = bearer(actor=f"o-{email}"), bearer(actor=f"p-{email}")
    assert post(client, "logout", token).status_code == 204
    assert_problem(mine(client, "/auth/me", token), 401, "unauthenticated")
    assert mine(client, "/auth/me", stays).status_code == 200
    assert_problem(client.post("/auth/logout"), 401, "unauthenticated")


def test_sessions_are_listed_and_ended_by_their_owner(
    client: httpx.Client, box: Postbox, email: str
) -> None:
    first = signed_up(client, box, email)
    second = found(post(client, "login", email=email, password=PASSWORD))
    stranger = signed_up(client, box, f"x{email}")
    sessions = found(mine(client, "/auth/sessions", second["access_token"]))
    assert len(sessions) == 2
    old = next(one["id"] for one in sessions if not one["current"])
    assert "httpx" in sessions[0]["client"]

    def end(session: str, token: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"}
        return client.delete(f"/auth/sessions/{session}", headers=headers)

    assert_problem(end(old, stranger["access_token"]), 404, "not-found")
    assert_problem(end(str(uuid4()), second["access_token"]), 404, "not-found")
    assert_problem(end(old, bearer()), 404, "not-found")
    assert end(old, second["access_token"]).status_code == 204
    assert_problem(end(old, second["access_token"]), 404, "not-found")
    assert_problem(mine(client, "/auth/me", first["access_token"]), 401, "unauthenticated")
    assert len(found(mine(client, "/auth/sessions", second["access_token"]))) == 1
    assert found(mine(client, "/auth/sessions", bearer())) == []


# --- what strangers learn


def test_nobody_learns_which_addresses_have_an_account(
    client: httpx.Client, box: Postbox, email: str
) -> None:
    signed_up(client, box, email)
    unknown = f"un-{email}"

    def told(path: str, address: str, **body: str) -> Any:
        answer = post(client, path, email=address, **body)
        known = answer.json() | {"correlation_id": ""}
        return answer.status_code, known, sorted(answer.headers.keys())

    for path, body in (
        ("register", {"password": SECOND}),
        ("login", {"password": SECOND}),
        ("password/reset-request", {}),
    ):
        assert told(path, email, **body) == told(path, unknown, **body)
    # It is said by mail alone, and a code goes out only where there is something to do.
    until(lambda: box.to(email, "account already") or None)
    box.code(email, "Choose a new password")
    box.code(unknown, "Confirm")
    assert box.to(unknown, "Choose") == []
    assert len(box.to(email, "Confirm")) == 1
    # Registering again has not touched the account.
    assert post(client, "login", email=email, password=PASSWORD).status_code == 200


def test_somebody_elses_registration_is_not_opened_by_a_click(
    client: httpx.Client, box: Postbox, email: str
) -> None:
    """A thief registers a victim's address first; the victim's own registration is beside it."""
    post(client, "register", email=email, password=SECOND)
    thiefs = box.code(email, "Confirm")
    post(client, "register", email=email, password=PASSWORD)
    code = box.code(email, "Confirm", 2)
    assert_problem(post(client, "verify", code=thiefs, password=PASSWORD), 422, "wrong-code")
    assert post(client, "verify", code=code, password=PASSWORD).status_code == 200
    assert_problem(post(client, "verify", code=thiefs, password=SECOND), 422, "wrong-code")
    assert_problem(post(client, "login", email=email, password=SECOND), 401, "wrong-credentials")


def test_a_code_is_gone_after_a_few_wrong_passwords(
    client: httpx.Client, box: Postbox, email: str
) -> None:
    post(client, "register", email=email, password=PASSWORD)
    code = box.code(email, "Confirm")
    for _ in range(5):
        assert_problem(post(client, "verify", code=code, password=SECOND), 422, "wrong-code")
    assert_problem(post(client, "verify", code=code, password=PASSWORD), 422, "wrong-code")


def test_a_code_expires(client: httpx.Client, box: Postbox, email: str, database: str) -> None:
    signed_up(client, box, email)
    post(client, "password/reset-request", email=email)
    code = box.code(email, "Choose")
    with psycopg.connect(database) as connection:
        connection.execute(
            "UPDATE identity.codes SET expires_at = now() WHERE email = %s", (email,)
        )
    assert_problem(post(client, "password/reset", code=code, password=SECOND), 422, "wrong-code")


def test_nobody_is_flooded_with_mail(client: httpx.Client, box: Postbox, email: str) -> None:
    signed_up(client, box, email)
    for _ in range(9):
        assert post(client, "password/reset-request", email=email).status_code == 202
    post(client, "register", email=email, password=PASSWORD)
    until(lambda: box.to(email, "account already") or None)  # letters go out in turn
    assert len(box.to(email, "Choose")) == 5


def test_guessing_is_slow_and_the_same_for_unknown_addresses(
    client: httpx.Client, box: Postbox, email: str, database: str
) -> None:
    signed_up(client, box, email)
    unknown = f"un-{email}"

    def guess(address: str) -> list[int]:
        with ThreadPoolExecutor(12) as pool:
            answers = list(
                pool.map(
                    lambda number: post(
                        client, "login", email=address, password=f"wrong guess {number}"
                    ),
                    range(12),
                )
            )
        for one in answers:
            if one.status_code == 429:
                assert_problem(one, 429, "too-many-tries")
                assert int(one.headers["retry-after"]) >= 1
        return sorted(one.status_code for one in answers)

    # Even a dozen at once get no more than the free ones and one with a wait behind it.
    for address in (email, unknown):
        codes = guess(address)
        assert codes.count(401) in (5, 6, 7), codes
        assert codes.count(429) == 12 - codes.count(401)
    with psycopg.connect(database) as connection:
        connection.execute(
            "UPDATE identity.tries SET times = 12, locked_until = clock_timestamp() - interval '1s'"
        )
    assert post(client, "login", email=email, password=SECOND).status_code == 401
    locked = post(client, "login", email=email, password=PASSWORD)
    assert_problem(locked, 429)  # the right one waits, too
    assert 60 < int(locked.headers["retry-after"]) <= 129
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE identity.tries SET locked_until = clock_timestamp()")
    assert post(client, "login", email=email, password=PASSWORD).status_code == 200
    with psycopg.connect(database) as connection:  # a right one wipes the slate clean
        (left,) = connection.execute(
            "SELECT count(*) FROM identity.tries WHERE address = sha256(%s::bytea)",
            (email.encode(),),
        ).fetchone() or (None,)
    assert left == 0
    # Forgetting a password is no way round, and no trap: whoever can read mail is let in at once.
    guess(email)
    post(client, "password/reset-request", email=email)
    code = box.code(email, "Choose")
    assert post(client, "password/reset", code=code, password=SECOND).status_code == 204
    assert post(client, "login", email=email, password=SECOND).status_code == 200


# --- bad input


@pytest.mark.parametrize(
    ("password", "rule"),
    [
        ("short", "at least 12"),
        ("x" * 257, "at most 256"),
        ("ada@example.com", "e-mail address"),
        ("ADA@example.com", "e-mail address"),
        ("aaaaaaaaaaaaaaaa", "different characters"),
        ("123456789012", "row"),
        ("qwertyuiopasdf", "row"),
        ("password12345", "everybody"),
        ("Passwort!!!!", "everybody"),
    ],
)
def test_bad_passwords_are_refused_and_never_repeated(
    client: httpx.Client, password: str, rule: str
) -> None:
    answer = post(client, "register", email="ada@example.com", password=password)
    body = assert_problem(answer, 422, "invalid")
    assert body["errors"][0]["field"] == "body.password"
    assert rule in body["errors"][0]["rule"]
    assert "value" not in body["errors"][0]
    if "example.com" not in password:
        assert password not in answer.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("register", {"email": "ada", "password": PASSWORD}),
        ("register", {"email": "a\nb@example.com", "password": PASSWORD}),
        ("register", {"email": "a@example.com\r\nBcc: b@example.com", "password": PASSWORD}),
        ("register", {"email": "a\x00@example.com", "password": PASSWORD}),
        ("register", {"email": "a@example.com", "password": PASSWORD, "role": "admin"}),
        ("register", {"email": "a@example.com", "password": PASSWORD, "name": "A\nda"}),
        ("register", {"password": PASSWORD}),
        ("login", {"email": "ada", "password": "x"}),
        ("login", {"email": "a@example.com", "password": ""}),
        ("login", {"email": ["a@example.com"], "password": "x"}),
        ("refresh", {"refresh_token": ""}),
        ("refresh", {}),
        ("verify", {"code": "1", "password": PASSWORD}),
        ("password/reset", {"code": "00000-00000-00000-00000", "password": "short"}),
    ],
)
def test_bad_bodies_name_field_and_rule(
    client: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    told = assert_problem(client.post(f"/auth/{path}", json=body), 422, "invalid")
    assert told["errors"][0]["field"].startswith("body")


def test_password_rules_let_good_ones_through() -> None:
    for password in (
        PASSWORD,
        "päßwörter sind lang",
        "correct horse 12 batteries",
        "パスワードは長いほうがいいです",
    ):
        assert refused(password, "ada@example.com") is None


def test_passwords_are_equal_however_they_are_composed_and_cost_grows() -> None:
    async def story() -> None:
        cheap = Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        passwords = Passwords()
        kept = await cheap.hash("vergnügt am See é")
        assert await passwords.matches("vergnügt am See e\u0301", kept)
        assert not await passwords.matches("vergnugt am See e", kept)
        assert not await passwords.matches("anything", None)
        assert not await passwords.matches("anything", "none")
        assert passwords.outdated(kept)
        assert not passwords.outdated(await passwords.hash(PASSWORD))

    asyncio.run(story())


def test_a_hash_of_another_cost_is_made_anew(
    client: httpx.Client, box: Postbox, email: str, database: str
) -> None:
    signed_up(client, box, email)
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "UPDATE identity.accounts SET password_hash = %s WHERE email = %s", (cheap, email)
        )
        assert post(client, "login", email=email, password=PASSWORD).status_code == 200
        row = connection.execute(
            "SELECT password_hash FROM identity.accounts WHERE email = %s", (email,)
        ).fetchone()
    assert row is not None
    assert "m=19456" in row[0]
    assert post(client, "login", email=email, password=PASSWORD).status_code == 200


# --- profile and preferences


def test_profile_and_preferences_are_ones_own(
    client: httpx.Client, box: Postbox, email: str
) -> None:
    token = signed_up(client, box, email, name="Ada")["access_token"]
    ada, other = {"Authorization": f"Bearer {token}"}, {"Authorization": f"Bearer {bearer()}"}

    shown = found(client.get("/users/profile", headers=ada))
    assert (shown["name"], shown["email"], shown["locale"]) == ("Ada", email, None)
    profile = {"name": "Ada Lovelace", "locale": "en-GB", "time_zone": "Europe/London"}
    assert profile.items() <= found(client.put("/users/profile", json=profile, headers=ada)).items()
    assert profile.items() <= found(client.get("/users/profile", headers=ada)).items()
    assert found(client.get("/users/profile", headers=other))["name"] is None

    assert found(client.get("/users/preferences", headers=ada)) == {}
    likes = {"theme": "dark", "columns": ["order_id", {"deep": [1, 2.5, None, True]}]}
    assert found(client.put("/users/preferences", json=likes, headers=ada)) == likes
    assert found(client.get("/users/preferences", headers=ada)) == likes
    assert found(client.get("/users/preferences", headers=other)) == {}

    for path in ("/users/profile", "/users/preferences"):
        assert_problem(client.get(path), 401, "unauthenticated")
        assert_problem(client.put(path, json={}), 401, "unauthenticated")
    for wrong in ({"role": "admin"}, {"name": ""}, {"locale": "x"}, {"time_zone": "../etc"}):
        assert_problem(client.put("/users/profile", json=wrong, headers=ada), 422, "invalid")
    deep: Any = "x"
    for _ in range(20):
        deep = [deep]
    for bad in ({"a": "x" * 17_000}, {"a": deep}, {"a": "\x00"}, {"\x00": 1}, [1]):
        assert_problem(client.put("/users/preferences", json=bad, headers=ada), 422, "invalid")
    for raw in (b'{"a": NaN}', b'{"a": 1e999}', b'{"a": "\\ud800"}'):
        answer = client.put(
            "/users/preferences",
            content=raw,
            headers=ada | {"Content-Type": "application/json"},
        )
        assert_problem(answer, 422, "invalid")
    assert found(client.get("/users/preferences", headers=ada)) == likes


# --- what the settings offer


def test_health_tells_what_there_is(client: httpx.Client) -> None:
    told = found(client.get("/auth/health"))
    assert told == {
        "status": "ok",
        "providers": [
            {"name": "operator", "kind": "operator", "available": True},
            {"name": "local", "kind": "local", "available": True},
        ],
        "registration": "open",
        "mail": True,
    }


def test_a_closed_server_takes_no_registrations(database: str, tmp_path: Path) -> None:
    with (
        serving(database, tmp_path, database_url=database, identity_registration="closed") as (
            served,
            _,
        ),
        httpx.Client(verify=NO_TLS, base_url=served.url + API) as client,
    ):
        answer = post(client, "register", email="ada@example.com", password=PASSWORD)
        assert_problem(answer, 404, "not-offered")
        answer = post(client, "password/reset-request", email="ada@example.com")
        assert_problem(answer, 503, "mail-not-set-up")
        told = found(client.get("/auth/health"))
        assert (told["registration"], told["mail"]) == ("closed", False)


def test_a_server_without_accounts_of_its_own(database: str, tmp_path: Path) -> None:
    providers = [
        {
            "kind": "oidc",
            "name": "acme",
            "issuer": "http://127.0.0.1:9",  # nobody listens there
            "audience": ["chainlytics"],
        }
    ]
    with (
        serving(database, tmp_path, identity_local=False, identity_providers=providers) as (
            served,
            _,
        ),
        httpx.Client(verify=NO_TLS, base_url=served.url + API) as client,
    ):
        for path, body in (
            ("register", {"email": "ada@example.com", "password": PASSWORD}),
            ("login", {"email": "ada@example.com", "password": PASSWORD}),
            ("refresh", {"refresh_token": "x"}),
        ):
            assert_problem(post(client, path, **body), 404, "not-offered")
        told = found(client.get("/auth/health"))
        assert told["status"] == "degraded"
        assert {"name": "acme", "kind": "oidc", "available": False} in told["providers"]
        assert mine(client, "/auth/me", bearer()).status_code == 200


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"mail": "smtpx://host"}, "CHAINLYTICS_MAIL must be"),
        ({"mail": "smtp://user@host"}, "both a user and a password"),
        ({"mail": "smtp://host:port"}, "CHAINLYTICS_MAIL must be"),
        ({"mail": "smtps://u:hidden-word@host/path"}, "CHAINLYTICS_MAIL must be"),
        ({"mail_from": "a\nBcc: b"}, "mail_from"),
        ({"identity_frontend": "http://app.example.com"}, "https"),
        ({"identity_registration": "open", "database_url": "postgresql://x"}, "CHAINLYTICS_MAIL"),
    ],
)
def test_wrong_settings_are_told_without_their_secrets(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(**settings)
    assert told in str(caught.value)
    assert "hidden-word" not in str(caught.value)


# --- mail


@dataclass
class Certificate:
    """A certificate for localhost that nobody but this test knows."""

    file: Path
    context: ssl.SSLContext


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    file, keyfile = folder / "cert.pem", folder / "key.pem"
    file.write_bytes(made.public_bytes(Encoding.PEM))
    keyfile.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, keyfile)
    return Certificate(file, context)


LETTER = Letter("ada@example.com", "Grüße", "Schöne Grüße\nvon hier\n")


def test_mail_goes_out_over_starttls_with_a_login(certificate: Certificate) -> None:
    with postbox(tls_context=certificate.context, require_starttls=True) as box:
        mail = mail_of(
            f"smtp://us%40r:p%3Ass%2Fword@localhost:{box.port}",
            "noreply@example.com",
            certificate.file,
        )
        asyncio.run(mail.send(LETTER))
        assert box.logins == [("us@r", "p:ss/word")]
        assert box.over_tls == [True]
        assert box.to("ada@example.com", "Grüße") == [LETTER.text]
        assert box.letters[0]["From"] == "noreply@example.com"
        # A certificate that nobody vouches for ends it before anything is said.
        doubting = SmtpMail(SmtpServer("localhost", box.port, False), "noreply@example.com")
        with pytest.raises(MailNotSent, match="CERTIFICATE_VERIFY_FAILED"):
            asyncio.run(doubting.send(LETTER))
        wrong = mail_of(
            f"smtp://us:wrong@localhost:{box.port}", "noreply@example.com", certificate.file
        )
        with pytest.raises(MailNotSent, match="user or password") as caught:
            asyncio.run(wrong.send(LETTER))
        assert caught.value.for_good
        assert len(box.letters) == 1


def test_mail_goes_out_over_tls(certificate: Certificate) -> None:
    with postbox(ssl_context=certificate.context) as box:
        mail = mail_of(f"smtps://localhost:{box.port}", "noreply@example.com", certificate.file)
        asyncio.run(mail.send(LETTER))
        assert box.to("ada@example.com", "Grüße") == [LETTER.text]


def test_mail_that_is_not_taken_is_told(box: Postbox) -> None:
    mail = mail_of(f"smtp://127.0.0.1:{box.port}", "noreply@example.com")
    with pytest.raises(MailNotSent) as caught:
        asyncio.run(mail.send(LETTER._replace(to="nobody@example.com")))
    assert caught.value.for_good
    nowhere = mail_of("smtp://127.0.0.1:9", "noreply@example.com")
    with pytest.raises(MailNotSent) as caught:
        asyncio.run(nowhere.send(LETTER))
    assert not caught.value.for_good


def test_the_console_shows_mail(capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(mail_of("console", "noreply@example.com").send(LETTER))
    assert "Schöne Grüße" in capsys.readouterr().err


# --- operators


def test_operators_look_after_accounts(
    client: httpx.Client,
    box: Postbox,
    email: str,
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("CHAINLYTICS_HOME", str(tmp_path))

    def told(*arguments: str) -> str:
        answer = CliRunner().invoke(accounts_cli, arguments)
        assert answer.exit_code == 0, answer.exception
        return answer.output

    def mistaken(*arguments: str) -> str:
        answer = CliRunner().invoke(accounts_cli, arguments)
        assert isinstance(answer.exception, CliError), answer.output
        return str(answer.exception)

    signed = signed_up(client, box, email)
    assert email in told("list", "--json")
    told("disable", email)
    until(
        lambda: True if mine(client, "/auth/me", signed["access_token"]).is_client_error else None
    )
    for answer in (
        post(client, "login", email=email, password=PASSWORD),
        post(client, "refresh", refresh_token=signed["refresh_token"]),
    ):
        assert answer.status_code == 401
    told("enable", email)
    assert post(client, "login", email=email, password=PASSWORD).status_code == 200

    code = CODE.search(told("add", f"new-{email}", "--name", "New"))
    assert code is not None
    assert post(client, "password/reset", code=code[0], password=SECOND).status_code == 204
    assert post(client, "login", email=f"new-{email}", password=SECOND).status_code == 200
    assert "already" in mistaken("add", f"new-{email}")
    assert "@-sign" in mistaken("add", "no address")

    # Of another provider's accounts there is a profile to forget.
    with httpx.Client(
        verify=NO_TLS, headers={"Authorization": f"Bearer {bearer(actor='ext-1')}"}
    ) as external:
        profile = f"{client.base_url}users/profile"
        assert external.put(profile, json={"name": "Eve"}).status_code == 200
        told("remove", "ext-1", "--yes")
        assert found(external.get(profile))["name"] is None

    # A file of their own holds the accounts, and only its owner reads it.
    file = tmp_path / "accounts.backup"
    told("backup", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    assert "there already" in mistaken("backup", str(file))
    told("remove", email, "--yes")
    assert post(client, "login", email=email, password=PASSWORD).status_code == 401
    assert "no account" in mistaken("remove", email, "--yes")
    assert "there are accounts" in mistaken("restore", str(file))
    assert "does not hold accounts" in mistaken("restore", __file__, "--replace", "--yes")
    signed = found(post(client, "login", email=f"new-{email}", password=SECOND))
    told("restore", str(file), "--replace", "--yes")
    assert post(client, "login", email=email, password=PASSWORD).status_code == 200
    # Nobody goes on with a session from before.
    answer = post(client, "refresh", refresh_token=signed["refresh_token"])
    assert_problem(answer, 401, "wrong-refresh-token")
    until(
        lambda: True if mine(client, "/auth/me", signed["access_token"]).is_client_error else None
    )
    assert len(told("list").splitlines()) > 2


def test_a_backup_of_the_log_says_that_accounts_are_not_in_it(
    client: httpx.Client, box: Postbox, email: str, database: str, tmp_path: Path
) -> None:
    signed_up(client, box, email)
    answer = subprocess.run(
        [sys.executable, "-m", "chainlytics", "db", "backup", str(tmp_path / "log.backup")],
        env={
            "PATH": "/usr/bin:/bin",
            "DATABASE_URL": database,
            "CHAINLYTICS_HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "accounts with a password are not in it" in answer.stdout
    with psycopg.connect(database) as connection:
        applications = ClientApplications.for_server(connection)
    contents = subprocess.run(
        [applications.folder / "pg_restore", "--file=-", tmp_path / "log.backup"],
        capture_output=True,
        timeout=60,
        check=True,
    ).stdout
    assert b"COPY public.events" in contents
    for secret in (email.encode(), b"argon2id", b"identity"):
        assert secret not in contents
