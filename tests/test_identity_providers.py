"""Tokens of every provider: what is believed, and every way in which one is not."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from psycopg_pool import AsyncConnectionPool
from pydantic import SecretStr, ValidationError

from api.identity.account import Account
from api.identity.authenticator import Authenticator
from api.identity.configuration import Nhost, Oidc, Supabase
from api.identity.jwks import Jwks, KeysUnavailable, Pace
from api.identity.local import LocalTokens
from api.identity.operator import Operator
from api.identity.providers import Foreign
from api.identity.revocations import Revocations, token_revoked
from api.identity.schema import prepare_identity
from api.tokens import InvalidToken, Issuer
from chainlytics.settings import Settings
from domain.access import Role
from eventstore import Log
from eventstore.log import Connection
from tests.issuing import IssuerServer, Keyed, ec_key, ed_key, good, issuer_server, rsa_key
from tests.patience import PATIENCE_S

SECRET = "the deployment's token secret, long enough"
SHARED = "a secret that a project shares with us, long enough"
ORGANISATION = uuid4()
HASURA = "https://hasura.io/jwt/claims"
SUPABASE = "https://project.supabase.co/auth/v1"

RSA = rsa_key()
EC = ec_key()
ED = ed_key()


@asynccontextmanager
async def revocations_of(database: str) -> AsyncIterator[Revocations]:
    pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
        database, min_size=1, max_size=4, open=False, kwargs={"autocommit": True}
    )
    async with pool:
        log = Log(pool)
        await prepare_identity(log)
        async with Revocations(log, database) as revocations:
            yield revocations


@pytest.fixture
def issuer() -> Iterator[IssuerServer]:
    with issuer_server() as server:
        server.keys = [RSA.jwk(), EC.jwk(), ED.jwk()]
        yield server


def oidc(issuer: IssuerServer, **more: Any) -> Oidc:
    return Oidc.model_validate(
        {"kind": "oidc", "name": "acme", "issuer": issuer.url, "audience": ["chainlytics"]} | more
    )


NHOST = Nhost(kind="nhost", name="nhost", secret=SecretStr(SHARED))
SUPA = Supabase(kind="supabase", name="supabase", issuer=SUPABASE, secret=SecretStr(SHARED))


class Believer:
    """Asks an authenticator of these providers, on one loop, without a database."""

    def __init__(self, *providers: Any) -> None:
        nothing: Any = frozenset()
        self._authenticator = Authenticator(providers, nothing)

    async def ask(self, token: str) -> Account:
        return await self._authenticator.authenticate(token)

    def __call__(self, token: str) -> Account:
        return asyncio.run(self.ask(token))


def refuses(believer: Believer, token: str, why: str) -> None:
    with pytest.raises(InvalidToken, match=why):
        believer(token)


def acme(issuer: IssuerServer, **changes: Any) -> dict[str, Any]:
    return good(iss=issuer.url, aud="chainlytics", **changes)


def nhost(hasura: Any = None, **changes: Any) -> dict[str, Any]:
    own = {
        "x-hasura-allowed-roles": ["user", "admin"],
        "x-hasura-default-role": "admin",
        "x-hasura-user-id": "0cc1d8f2-6ab7-4a79-b9c5-4a5c2a0c3b11",
        "x-hasura-user-is-anonymous": "false",
        "x-hasura-organisation-id": str(ORGANISATION),
    }
    told = own | hasura if isinstance(hasura, dict) else (hasura or own)
    return good(
        **{
            "iss": "hasura-auth",
            "sub": "0cc1d8f2-6ab7-4a79-b9c5-4a5c2a0c3b11",
            HASURA: told,
        }
        | changes
    )


def supabase(**changes: Any) -> dict[str, Any]:
    return good(
        **{
            "iss": SUPABASE,
            "sub": "5ee4a0f2-11f5-4df5-9f0b-df0a9d0b0a01",
            "aud": "authenticated",
            "role": "authenticated",
            "email": "ada@example.com",
            "app_metadata": {"provider": "email", "organisation_id": str(ORGANISATION)},
            "user_metadata": {"name": "Root", "email_verified": True, "roles": ["admin"]},
            "is_anonymous": False,
        }
        | changes
    )


def shared(claims: dict[str, Any], secret: str = SHARED, **header: Any) -> str:
    return jwt.encode(claims, secret, algorithm="HS256", headers=header)


def part(value: object) -> str:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def forged(header: object, claims: object, key: bytes) -> str:
    """Any header over any claims, with a right HMAC of the two."""
    said = f"{part(header)}.{part(claims)}"
    return f"{said}.{part(hmac.digest(key, said.encode(), hashlib.sha256))}"


# --- who is believed


@pytest.mark.parametrize("key", [RSA, EC, ED], ids=lambda key: key.algorithm)
def test_a_token_of_an_oidc_issuer_is_believed(issuer: IssuerServer, key: Keyed) -> None:
    claims = acme(
        issuer,
        name="Ada",
        email="ada@example.com",
        email_verified=True,
        organisation_id=str(ORGANISATION),
        roles=["admin"],
    )
    account = Believer(Foreign(oidc(issuer)))(key.sign(claims))
    assert account.id == "acme:auth0|ada"
    assert account.email == "ada@example.com"
    assert account.name == "Ada"
    assert account.organisation_id == ORGANISATION
    assert account.expires_at == datetime.fromtimestamp(claims["exp"], UTC)
    assert account.roles is None, "what a stranger's token says of roles is not believed"


def test_an_address_that_is_not_verified_is_not_believed(issuer: IssuerServer) -> None:
    believer = Believer(Foreign(oidc(issuer)))
    for verified in (False, ..., "yes", 1):
        token = RSA.sign(acme(issuer, email="boss@example.com", email_verified=verified))
        assert believer(token).email is None
    assert Believer(Foreign(SUPA))(shared(supabase())).email is None
    confirming = SUPA.model_copy(update={"confirms_email": True})
    assert Believer(Foreign(confirming))(shared(supabase())).email == "ada@example.com"


def test_tokens_of_nhost_and_supabase_are_believed_by_secret() -> None:
    believer = Believer(Foreign(NHOST), Foreign(SUPA))
    found = believer(shared(nhost()))
    assert found.id == "nhost:0cc1d8f2-6ab7-4a79-b9c5-4a5c2a0c3b11"
    assert (found.organisation_id, found.roles) == (ORGANISATION, None)
    assert believer(shared(nhost(json.dumps({"x-hasura-user-id": nhost()["sub"]})))).id == found.id
    found = believer(shared(supabase()))
    assert found.id == "supabase:5ee4a0f2-11f5-4df5-9f0b-df0a9d0b0a01"
    assert (found.organisation_id, found.roles, found.name) == (ORGANISATION, None, None)


def test_tokens_of_nhost_and_supabase_are_believed_by_public_keys(issuer: IssuerServer) -> None:
    keys = f"{issuer.url}/keys"
    believer = Believer(
        Foreign(Nhost(kind="nhost", name="nhost", jwks_url=keys)),
        Foreign(Supabase(kind="supabase", name="supabase", issuer=SUPABASE, jwks_url=keys)),
    )
    assert believer(RSA.sign(nhost())).provider == "nhost"
    assert believer(EC.sign(supabase())).provider == "supabase"
    refuses(believer, shared(nhost()), "key")


def test_operator_tokens_alone_carry_roles() -> None:
    token = Issuer(SECRET).issue(
        subject="ada",
        organisation_id=ORGANISATION,
        roles=frozenset({Role.ADMIN}),
        ttl=timedelta(hours=1),
    )
    account = Believer(Operator(Issuer(SECRET)), LocalTokens(SECRET))(token)
    assert (account.provider, account.id) == ("operator", "ada")
    assert account.roles == frozenset({Role.ADMIN})


# --- who is not: signatures and algorithms


def test_an_unsigned_token_is_refused(issuer: IssuerServer) -> None:
    believer = Believer(
        Foreign(oidc(issuer)), Foreign(NHOST), Operator(Issuer(SECRET)), LocalTokens(SECRET)
    )
    for claims in (
        acme(issuer),
        nhost(),
        good(iss="chainlytics-identity", aud="chainlytics-api", sid=str(uuid4())),
        good(iss="chainlytics-dev", aud="chainlytics", org=str(ORGANISATION), roles=["admin"]),
    ):
        for name in ("none", "None", "NONE", "nOnE", ""):
            header = {"alg": name, "kid": "rsa-1"}
            refuses(believer, f"{part(header)}.{part(claims)}.", "not valid|not a JSON")
            refuses(believer, forged(header, claims, b"x"), "not valid|not a JSON")
        refuses(believer, f"{part({'kid': 'rsa-1'})}.{part(claims)}.", "not valid|not a JSON")


def test_a_public_key_is_no_shared_secret(issuer: IssuerServer) -> None:
    """The classic: the public key, in every form that it is written in, as an HMAC secret."""
    believer = Believer(Foreign(oidc(issuer)))
    public = RSA.private.public_key()
    forms = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        json.dumps(RSA.jwk()).encode(),
        base64.urlsafe_b64decode(RSA.jwk()["n"] + "=="),
    ]
    forms += [forms[0].rstrip(), forms[1].rstrip()]
    for form in forms:
        for name in ("HS256", "RS256"):
            token = forged({"alg": name, "kid": "rsa-1"}, acme(issuer), form)
            refuses(believer, token, "not valid")


def test_an_algorithm_of_another_kind_is_refused(issuer: IssuerServer) -> None:
    issuer.keys = [RSA.jwk(), rsa_key("only-ps", "PS256").jwk()]
    believer = Believer(Foreign(oidc(issuer)))
    # RSA.private signs rightly, with an algorithm that its owner does not use it with.
    other = jwt.encode(acme(issuer), RSA.private, algorithm="RS512", headers={"kid": "rsa-1"})
    refuses(believer, other, "alg")
    refuses(believer, Keyed("rsa-1", "ES256", EC.private).sign(acme(issuer)), "alg")
    strict = Believer(Foreign(oidc(issuer, algorithms=["ES256"])))
    with pytest.raises(KeysUnavailable):
        strict(RSA.sign(acme(issuer)))


def test_a_secret_does_not_verify_public_key_tokens_nor_the_reverse() -> None:
    believer = Believer(Foreign(NHOST))
    refuses(believer, RSA.sign(nhost()), "alg")
    for algorithm in ("HS384",):
        refuses(believer, jwt.encode(nhost(), SHARED, algorithm=algorithm), "alg")
    refuses(believer, shared(nhost(), secret=SHARED + "x"), "Signature")


def test_a_token_of_a_stranger_or_a_changed_one_is_refused(issuer: IssuerServer) -> None:
    believer = Believer(Foreign(oidc(issuer)))
    refuses(believer, rsa_key("rsa-1").sign(acme(issuer)), "Signature")
    head, body, signature = RSA.sign(acme(issuer)).split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    refuses(believer, f"{head}.{part(claims | {'sub': 'boss'})}.{signature}", "Signature")
    for broken in ("", "x", "a.b", "a.b.c", "a.b.c.d", head, f"{head}.{body}", "é" * 40):
        refuses(believer, broken, "cannot be read|can be read")
    refuses(believer, "a" * 20_000, "longer")
    refuses(believer, forged({"alg": "HS256"}, [1, 2], b"x"), "can be read")
    deep = part(("[" * 100_000).encode())[:12_000]
    refuses(believer, f"{head}.{deep}.{signature}", "can be read")


# --- who is not: keys


def test_key_ids_play_no_tricks(issuer: IssuerServer) -> None:
    believer = Believer(Foreign(oidc(issuer)))
    for kid in ("", "../../dev/null", "' OR 1=1 --", "rsa-1\x00", "x" * 5000, "unknown"):
        refuses(believer, RSA.sign(acme(issuer), kid=kid), "key")
    # Of several keys none is meant where none is named.
    refuses(believer, Keyed(None, "RS256", RSA.private).sign(acme(issuer)), "key")
    issuer.keys = [RSA.jwk()]
    believer = Believer(Foreign(oidc(issuer)))
    assert believer(Keyed(None, "RS256", RSA.private).sign(acme(issuer))).subject == "auth0|ada"
    for odd in (7, ["rsa-1"], {"a": 1}, True):
        refuses(believer, forged({"alg": "RS256", "kid": odd}, acme(issuer), b"x"), "read|key id")


def test_a_token_cannot_bring_its_own_key(issuer: IssuerServer) -> None:
    thief = rsa_key("thief")
    with issuer_server() as other:
        other.keys = [thief.jwk()]
        believer = Believer(Foreign(oidc(issuer)))
        token = thief.sign(
            acme(issuer), jku=f"{other.url}/keys", x5u=f"{other.url}/keys", jwk=thief.jwk()
        )
        refuses(believer, token, "key")
        refuses(believer, thief.sign(acme(issuer), kid="rsa-1", jwk=thief.jwk()), "Signature")
        assert other.asked == []
    refuses(believer, RSA.sign(acme(issuer), crit=["mine"], mine=True), "read|crit|critical")


def test_keys_that_are_none_are_passed_over(issuer: IssuerServer) -> None:
    weak = rsa_key("weak", bits=1024)
    oct_ = {"kty": "oct", "k": part(SHARED.encode()), "kid": "oct", "alg": "HS256", "use": "sig"}
    encrypting = rsa_key("enc")
    issuer.keys = [
        *(weak.jwk(), oct_, encrypting.jwk(use="enc"), encrypting.jwk(key_ops=["encrypt"])),
        *({"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"}, {"kid": 7}, {}),
        RSA.jwk(),
    ]
    believer = Believer(Foreign(oidc(issuer)))
    assert believer(RSA.sign(acme(issuer))).subject == "auth0|ada"
    refuses(believer, weak.sign(acme(issuer)), "key")
    refuses(believer, encrypting.sign(acme(issuer)), "key")
    refuses(believer, shared(acme(issuer), kid="oct"), "key")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_new_key_is_fetched_once_and_invented_ones_flood_nobody(issuer: IssuerServer) -> None:
    clock, pace = Clock(), Pace(lifetime_s=600, between_s=30, stale_s=3600, patience_s=30)
    keys = Jwks(
        f"{issuer.url}/keys", issuer=None, algorithms=("RS256", "ES256"), pace=pace, clock=clock
    )

    async def story() -> None:
        issuer.keys = [RSA.jwk()]
        await asyncio.gather(*(keys.keys("rsa-1") for _ in range(20)))
        assert len(issuer.asked) == 1

        issuer.keys = [EC.jwk()]  # it signs with another one now, and took the first one back
        with pytest.raises(InvalidToken):
            await keys.keys("ec-1")  # asked just now
        clock.now += 31
        assert await keys.keys("ec-1")
        with pytest.raises(InvalidToken):
            await keys.keys("rsa-1")
        assert len(issuer.asked) == 2

        clock.now += 31
        for number in range(50):
            with pytest.raises(InvalidToken):
                await keys.keys(f"invented-{number}")
        assert len(issuer.asked) == 3

        clock.now += 601  # old keys are looked at again by themselves
        await keys.keys("ec-1")
        assert len(issuer.asked) == 4

    asyncio.run(story())


def test_while_the_issuer_is_away_its_last_keys_are_used(issuer: IssuerServer) -> None:
    clock, pace = Clock(), Pace(lifetime_s=600, between_s=30, stale_s=3600, patience_s=30)
    keys = Jwks(None, issuer=issuer.url, algorithms=("RS256",), pace=pace, clock=clock)

    async def story() -> None:
        issuer.status = 503
        with pytest.raises(KeysUnavailable):
            await keys.keys("rsa-1")
        assert not await keys.available()
        issuer.status = 200
        clock.now += 31
        assert await keys.keys("rsa-1")
        assert await keys.available()
        for wrong in ({"status": 500}, {"status": 302}, {"body": b"<html>"}, {"body": b"[]"}):
            vars(issuer).update(wrong)
            clock.now += 601
            asked = len(issuer.asked)
            assert await keys.keys("rsa-1")
            assert len(issuer.asked) > asked, "it was asked again"
            vars(issuer).update(status=200, body=None)
        issuer.body = json.dumps({"keys": [RSA.jwk()], "x": "y" * 300_000}).encode()
        clock.now += 601
        assert await keys.keys("rsa-1")
        # It was away for so long that a key may have been taken back meanwhile.
        clock.now += 3601
        with pytest.raises(KeysUnavailable):
            await keys.keys("rsa-1")
        assert not await keys.available()

    asyncio.run(story())


def test_nobody_waits_for_an_issuer_that_does_not_answer(issuer: IssuerServer) -> None:
    clock, pace = Clock(), Pace(lifetime_s=600, between_s=30, stale_s=3600, patience_s=0.01)
    keys = Jwks(f"{issuer.url}/keys", issuer=None, algorithms=("RS256",), pace=pace, clock=clock)

    async def story() -> None:
        assert await keys.keys("rsa-1")
        with issuer.silence():
            clock.now += 601
            first = await keys.keys("rsa-1")  # while the request for newer ones is under way
            assert len(first) == 1
            assert await keys.available()
        assert len(issuer.asked) == 2

    asyncio.run(story())


def test_a_discovery_document_of_another_issuer_is_refused(issuer: IssuerServer) -> None:
    for wrong in (
        {"issuer": "https://elsewhere.example.org"},
        {"issuer": issuer.url + "/"},
        {"jwks_uri": "http://keys.example.org/keys"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": 7},
    ):
        issuer.says, issuer.asked = wrong, []
        with pytest.raises(KeysUnavailable):
            Believer(Foreign(oidc(issuer)))(RSA.sign(acme(issuer)))
        assert issuer.asked == ["/.well-known/openid-configuration"]


# --- who is not: claims


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"exp": timedelta(seconds=-1)}, "expired"),
        ({"exp": timedelta(days=-365)}, "expired"),
        ({"exp": ...}, "exp"),
        ({"exp": "tomorrow"}, "not valid"),
        ({"exp": 1e300}, "calendar|not valid"),
        ({"exp": None}, "exp|not valid"),
        ({"nbf": timedelta(minutes=5)}, "nbf|not yet"),
        ({"iat": timedelta(minutes=5)}, "iat|not yet"),
        ({"aud": "another"}, "[Aa]udience"),
        ({"aud": ["another", "chainlytics2"]}, "[Aa]udience"),
        ({"aud": ...}, "aud"),
        ({"aud": ""}, "[Aa]udience|aud"),
        ({"aud": {"chainlytics": 1}}, "aud|not valid"),
        ({"sub": ...}, "sub"),
        ({"sub": ""}, "sub"),
        ({"sub": 7}, "sub"),
        ({"sub": "a\x00b"}, "sub"),
        ({"sub": "x" * 201}, "sub"),
        ({"sub": " ada"}, "sub"),
        ({"organisation_id": "acme"}, "organisation"),
        ({"organisation_id": 7}, "organisation"),
    ],
)
def test_a_token_that_is_not_for_now_or_not_for_us_is_refused(
    issuer: IssuerServer, changes: dict[str, Any], why: str
) -> None:
    believer = Believer(Foreign(oidc(issuer)))
    assert believer(RSA.sign(acme(issuer))).provider == "acme"
    refuses(believer, RSA.sign(good(**{"iss": issuer.url, "aud": "chainlytics"} | changes)), why)


def test_a_token_of_another_issuer_is_refused(issuer: IssuerServer) -> None:
    believer = Believer(Foreign(oidc(issuer)), Foreign(NHOST), LocalTokens(SECRET))
    for wrong in (issuer.url + "/", "https://elsewhere.example.org", "", None, 7, [issuer.url]):
        token = RSA.sign(good(aud="chainlytics")) if wrong is None else None
        claims = good(aud="chainlytics", iss=wrong)
        token = token or f"{part({'alg': 'RS256', 'kid': 'rsa-1'})}.{part(claims)}.AAAA"
        refuses(believer, token, "no issuer that is known|can be read")
    # A provider's good signature is nothing under another one's name.
    refuses(believer, RSA.sign(nhost()), "alg")
    refuses(believer, shared(acme(issuer)), "alg|key")
    refuses(believer, shared(good(iss="chainlytics-identity", aud="chainlytics-api")), "Signature")


def test_our_own_kinds_of_token_are_not_each_other() -> None:
    believer = Believer(Operator(Issuer(SECRET)), LocalTokens(SECRET))
    # The very claims of the one, signed with the key of the other.
    session, _ = LocalTokens(SECRET).issue(uuid4(), uuid4(), email="ada@example.com")
    assert believer(session).roles is None
    inside = jwt.decode(session, options={"verify_signature": False})
    refuses(believer, jwt.encode(inside, SECRET, algorithm="HS256"), "Signature")
    with pytest.raises(InvalidToken):
        Issuer(SECRET).verify(session)
    operator = good(
        iss="chainlytics-dev", aud="chainlytics", org=str(ORGANISATION), roles=["admin"]
    )
    assert believer(jwt.encode(operator, SECRET, algorithm="HS256")).roles == frozenset(
        {Role.ADMIN}
    )
    wrong = operator | {"iss": "chainlytics-identity", "aud": "chainlytics-api"}
    refuses(believer, jwt.encode(wrong, SECRET, algorithm="HS256"), "Signature")


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        (nhost(**{HASURA: ...}), "claims"),
        (nhost("[]"), "claims"),
        (nhost("not JSON"), "claims"),
        (nhost({"x-hasura-user-id": ""}), "user-id"),
        (nhost({"x-hasura-user-id": "another"}), "differ"),
        (nhost({"x-hasura-user-is-anonymous": "true"}), "anonymous"),
        (nhost({"x-hasura-organisation-id": "acme"}), "organisation"),
        (supabase(role="anon"), "role"),
        (supabase(role="service_role"), "role"),
        (supabase(role=...), "role"),
        (supabase(aud="anon"), "[Aa]udience"),
        (supabase(aud=...), "aud"),
        (supabase(is_anonymous=True), "anonymous"),
        (supabase(app_metadata={"organisation_id": "acme"}), "organisation"),
        (supabase(sub=...), "sub"),
    ],
)
def test_what_nhost_and_supabase_do_not_vouch_for_is_refused(
    claims: dict[str, Any], why: str
) -> None:
    # They were made when the tests were collected, which may be long ago.
    fresh = {name: value for name, value in good().items() if name in ("iat", "nbf", "exp")}
    refuses(Believer(Foreign(NHOST), Foreign(SUPA)), shared(claims | fresh), why)


def test_a_provider_without_an_issuer_takes_only_tokens_without_one() -> None:
    quiet = Nhost(kind="nhost", name="quiet", issuer=None, secret=SecretStr(SHARED))
    believer = Believer(Foreign(quiet), LocalTokens(SECRET))
    assert believer(shared(nhost(iss=...))).provider == "quiet"
    refuses(believer, shared(nhost()), "no issuer")


# --- revoked


def test_a_token_that_was_given_back_is_refused_everywhere(database: str) -> None:
    async def story() -> None:
        async with revocations_of(database) as here, revocations_of(database) as there:
            first = Authenticator([Foreign(NHOST), LocalTokens(SECRET)], here)
            second = Authenticator([Foreign(NHOST), LocalTokens(SECRET)], there)
            token, other = shared(nhost()), shared(nhost(jti="another"))
            assert (await second.authenticate(token)).provider == "nhost"
            await first.revoke(token)
            with pytest.raises(InvalidToken, match="revoked"):
                await first.authenticate(token)
            async with asyncio.timeout(PATIENCE_S):
                while token_revoked(token) not in there:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            with pytest.raises(InvalidToken, match="revoked"):
                await second.authenticate(token)
            assert (await second.authenticate(other)).provider == "nhost"

            session = uuid4()
            mine, _ = LocalTokens(SECRET).issue(uuid4(), session, email="ada@example.com")
            twin, _ = LocalTokens(SECRET).issue(uuid4(), session, email="ada@example.com")
            assert (await first.authenticate(twin)).provider == "local"
            await first.revoke(mine)
            for one in (mine, twin):
                with pytest.raises(InvalidToken, match="revoked"):
                    await first.authenticate(one)
            with pytest.raises(InvalidToken):
                await first.revoke(mine)

        # Who starts later knows it too.
        async with revocations_of(database) as late:
            with pytest.raises(InvalidToken, match="revoked"):
                await Authenticator([Foreign(NHOST)], late).authenticate(token)

    asyncio.run(story())


def test_a_revoked_token_with_another_good_signature_is_refused(
    database: str, issuer: IssuerServer
) -> None:
    """Of an ECDSA signature (r, s), (r, -s) verifies as well, and nobody needs the key for it."""
    token = EC.sign(acme(issuer))
    said, _, signature = token.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    twin = f"{said}.{part(raw[:32] + (order - int.from_bytes(raw[32:])).to_bytes(32))}"

    async def story() -> None:
        async with revocations_of(database) as revocations:
            authenticator = Authenticator([Foreign(oidc(issuer))], revocations)
            assert (await authenticator.authenticate(twin)).subject == "auth0|ada"
            await authenticator.revoke(token)
            with pytest.raises(InvalidToken, match="revoked"):
                await authenticator.authenticate(twin)

    asyncio.run(story())


# --- settings


@pytest.mark.parametrize(
    ("providers", "told"),
    [
        ("{", "not JSON"),
        ("{}", "JSON list"),
        ('[{"kind": "saml"}]', "saml"),
        ('[{"kind": "oidc", "name": "a", "issuer": "https://a.example.org"}]', "audience"),
        (
            '[{"kind": "oidc", "name": "a", "issuer": "http://a.example.org", "audience": ["x"]}]',
            "https",
        ),
        (
            '[{"kind": "oidc", "name": "local", "issuer": "https://a.org", "audience": ["x"]}]',
            "taken",
        ),
        (
            '[{"kind": "oidc", "name": "a", "issuer": "https://a.org", "audience": ["x"], '
            '"algorithms": ["HS256"]}]',
            "algorithms",
        ),
        ('[{"kind": "nhost", "name": "a", "secret": "short"}]', "32 characters"),
        ('[{"kind": "nhost", "name": "a"}]', "either secret"),
        (
            '[{"kind": "nhost", "name": "a", "jwks_url": "https://a.org/k", "issuer": '
            '"chainlytics-dev"}]',
            "Chainlytics itself",
        ),
        (
            '[{"kind": "nhost", "name": "a", "jwks_url": "https://a.org/k"}, '
            '{"kind": "nhost", "name": "b", "jwks_url": "https://b.org/k"}]',
            "two providers have the issuer 'hasura-auth'",
        ),
    ],
)
def test_settings_that_are_wrong_are_told(
    providers: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAINLYTICS_IDENTITY_PROVIDERS", providers)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert told in str(caught.value)


def test_several_providers_at_once_by_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "CHAINLYTICS_IDENTITY_PROVIDERS",
        json.dumps(
            [
                {"kind": "nhost", "name": "nhost", "secret": SHARED},
                {"kind": "supabase", "name": "sb", "issuer": SUPABASE, "secret": SHARED},
                {"kind": "oidc", "name": "a", "issuer": "https://a.org", "audience": ["x"]},
                {"kind": "oidc", "name": "b", "issuer": "https://b.org", "audience": ["x"]},
            ]
        ),
    )
    settings = Settings()
    assert [one.name for one in settings.identity_providers] == ["nhost", "sb", "a", "b"]
    assert SHARED not in repr(settings)


def test_the_id_of_an_account_names_its_provider() -> None:
    assert Account("nhost", "1", None).id != Account("supabase", "1", None).id
    assert isinstance(Account("nhost", "1", None, organisation_id=UUID(int=1)).id, str)
