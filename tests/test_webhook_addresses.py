"""Where webhooks may go: public addresses and no others, and to the very ones that were checked."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from chainlytics.settings import Settings
from domain.access import Role
from eventstore.webhooks.addresses import Addresses, AddressRefused, kind_of, networks
from eventstore.webhooks.sending import Outcome, Sender
from tests.serving import Served, assert_problem, get, post, serving_here, until
from tests.webhooking import HERE, Got, receiving

REFUSED = {
    "0.0.0.0": "this network's own",
    "0.1.2.3": "this network's own",
    "10.0.0.1": "private",
    "10.255.255.255": "private",
    "100.64.0.1": "shared by a carrier's customers",
    "100.100.100.200": "shared by a carrier's customers",  # Alibaba's metadata
    "127.0.0.1": "loopback",
    "127.255.0.1": "loopback",
    "168.63.129.16": "a cloud's own",  # Azure's
    "169.254.169.254": "link-local",  # metadata of most clouds
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.0.0.192": "reserved",  # Oracle's metadata
    "192.0.2.1": "for documentation",
    "192.88.99.1": "reserved",
    "192.168.0.1": "private",
    "198.18.0.1": "for benchmarks",
    "198.51.100.1": "for documentation",
    "203.0.113.1": "for documentation",
    "224.0.0.1": "multicast",
    "239.255.255.255": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "reserved",
    "::": "unspecified",
    "::1": "loopback",
    "::7f00:1": "reserved",  # IPv4 in IPv6, as it once was
    "::ffff:127.0.0.1": "IPv4 in IPv6",
    "::ffff:8.8.8.8": "IPv4 in IPv6",
    "64:ff9b::7f00:1": "IPv4 by NAT64",
    "64:ff9b:1::1": "IPv4 by NAT64",
    "100::1": "reserved",
    "2001::1": "reserved or tunnelled",  # Teredo
    "2001:db8::1": "for documentation",
    "2002:7f00:1::": "IPv4 in IPv6",  # 6to4
    "3fff::1": "for documentation",
    "5f00::1": "reserved",
    "fc00::1": "private",
    "fd00:ec2::254": "private",  # Amazon's metadata
    "fe80::1": "link-local",
    "fe80::1%1": "link-local",
    "fec0::1": "private",
    "ff02::1": "multicast",
}
PUBLIC = ["1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.32.0.1", "192.0.1.1",
          "198.20.0.1", "223.255.255.255", "2606:4700:4700::1111", "2a00:1450::1"]  # fmt: skip


def answering(*answers: Sequence[str]) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    """A name server that gives one answer after the other, the last one for ever."""
    left = list(answers)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return left.pop(0) if len(left) > 1 else left[0]

    return resolve


def checked(url: str, *answers: Sequence[str], allowed: str = "") -> list[str]:
    return asyncio.run(Addresses(networks(allowed), answering(*answers)).of(url))


@pytest.mark.parametrize("address", REFUSED)
def test_what_is_not_public_is_refused(address: str) -> None:
    assert kind_of(ip_address(address)) == REFUSED[address]
    with pytest.raises(AddressRefused, match=REFUSED[address]) as caught:
        checked("https://example.org/", [address])
    assert caught.value.code == "address_not_allowed"
    # The name's address is not told: it may be our network's.
    assert address not in str(caught.value) + str(caught.value.context)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_is_called_by_https_on_its_usual_ports(address: str) -> None:
    assert checked("https://example.org/", [address]) == [address]
    assert checked("https://example.org:8443/", [address]) == [address]
    with pytest.raises(AddressRefused) as plain:
        checked("http://example.org/", [address])
    assert plain.value.code == "https_needed"
    for port in (22, 25, 80, 5432, 8080):
        with pytest.raises(AddressRefused) as other:
            checked(f"https://example.org:{port}/", [address])
        assert other.value.code == "port_not_allowed"


def test_one_address_that_is_not_allowed_spoils_them_all() -> None:
    with pytest.raises(AddressRefused, match="loopback"):
        checked("https://example.org/", ["1.1.1.1", "127.0.0.1"])


def test_what_the_operator_allows_may_be_plain_and_on_any_port() -> None:
    assert checked("http://erp:9000/", ["10.1.2.3"], allowed="10.1.0.0/16, fd00::/8")
    assert checked("http://erp:9000/", ["fd00::1"], allowed="10.1.0.0/16 fd00::/8")
    with pytest.raises(AddressRefused, match="private"):
        checked("http://erp:9000/", ["10.2.2.3"], allowed="10.1.0.0/16")
    with pytest.raises(AddressRefused, match="IPv4 in IPv6"):
        checked("http://erp:9000/", ["::ffff:10.1.2.3"], allowed="10.1.0.0/16")
    # Beside a public address the rules of public ones hold.
    with pytest.raises(AddressRefused, match="https"):
        checked("http://erp:9000/", ["10.1.2.3", "1.1.1.1"], allowed="10.1.0.0/16")


@pytest.mark.parametrize(
    "host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost", "[::1]", "0"]
)
def test_other_ways_to_write_an_address_lead_to_the_same(host: str) -> None:
    """By the system's own resolver."""
    with pytest.raises(AddressRefused) as caught:
        asyncio.run(Addresses().of(f"https://{host}/"))
    assert caught.value.code == "address_not_allowed"


def test_a_name_without_address_is_told_so() -> None:
    """In the log alone: by its code it is as one that is not allowed."""
    with pytest.raises(AddressRefused, match="has no address") as caught:
        checked("https://example.org/", [])
    assert caught.value.code == "address_not_allowed"
    with pytest.raises(AddressRefused, match="has no address") as caught:
        asyncio.run(Addresses().of("https://no-such-host.invalid/"))
    assert caught.value.code == "address_not_allowed"


@pytest.mark.parametrize("words", ["10.0.0.1/8", "ten", "10.0.0.0/33"])
def test_a_wrong_network_is_refused_at_the_start(words: str) -> None:
    with pytest.raises(ValueError, match="webhook_private_addresses"):
        Settings(webhook_private_addresses=words)


def sent(sender: Sender, url: str) -> Outcome:
    return asyncio.run(sender.send(url, str(uuid4()), b"{}", [b"x" * 32]))


def test_a_name_that_answers_differently_the_second_time_is_refused_then() -> None:
    """It was fine at registration; the request never leaves."""
    with receiving() as receiver:
        port = int(receiver.url.split(":")[2].split("/")[0])
        addresses = Addresses(networks("127.0.0.2/32"), answering(["127.0.0.2"], ["127.0.0.1"]))
        url = f"http://rebinding.example:{port}/hooks"
        assert asyncio.run(addresses.of(url)) == ["127.0.0.2"]
        outcome = sent(Sender(addresses), url)
        assert outcome.error == "rebinding.example has an address that is loopback"
        assert receiver.got == []


def test_the_request_goes_to_the_address_that_was_checked() -> None:
    """The name is asked once: what it would say next does not matter."""
    with receiving(address="127.0.0.2") as right:
        port = int(right.url.split(":")[2].split("/")[0])
        asked = answering(["127.0.0.2"], ["127.0.0.1"], ["127.0.0.1"])
        sender = Sender(Addresses(networks("127.0.0.2/32"), asked))
        assert sent(sender, f"http://rebinding.example:{port}/hooks").taken
        [got] = right.got
        assert got.host == f"rebinding.example:{port}"


def test_the_first_address_that_answers_is_taken() -> None:
    with receiving(address="127.0.0.2") as receiver:
        port = int(receiver.url.split(":")[2].split("/")[0])
        asked = answering(["127.0.0.3", "127.0.0.2"])
        assert sent(Sender(Addresses(networks(HERE), asked)), f"http://two:{port}/").taken


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    with receiving() as inside:

        def redirect(_: Got) -> tuple[int, dict[str, str]]:
            return status, {"Location": inside.url}

        with receiving(redirect) as receiver:
            outcome = sent(Sender(Addresses(networks(HERE))), receiver.url)
        assert (outcome.status_code, outcome.taken) == (status, False)
        assert inside.got == []


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as proxy, receiving() as receiver:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert sent(Sender(Addresses(networks(HERE))), receiver.url).taken
        assert (len(receiver.got), proxy.got) == (1, [])


def test_a_receiver_that_does_not_answer_is_given_up_in_time() -> None:
    with receiving() as receiver:
        receiver.open.clear()
        outcome = sent(Sender(Addresses(networks(HERE)), patience_s=0.3), receiver.url)
        assert outcome.error == "it did not answer within 0.3 seconds"
        assert outcome.status_code is None


def test_nobody_listening_is_an_outcome() -> None:
    with receiving() as receiver:
        url = receiver.url
    outcome = sent(Sender(Addresses(networks(HERE))), url)
    assert outcome.error is not None
    assert outcome.error.startswith("ConnectError")


def test_an_answer_without_end_is_not_read() -> None:
    """Its head says all that is asked for."""

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
        except OSError:
            writer.close()

    async def work() -> Outcome:
        server = await asyncio.start_server(endless, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            sender = Sender(Addresses(networks(HERE)))
            return await sender.send(f"http://127.0.0.1:{port}/", "m", b"{}", [b"x"])

    assert asyncio.run(work()).taken


@pytest.mark.parametrize(
    ("said", "wait"),
    [
        ("120", timedelta(seconds=120)),
        ("0", timedelta()),
        ("99999999999", timedelta(hours=24)),
        ("-5", None),
        ("soon", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", timedelta()),
    ],
)
def test_retry_after_is_understood(said: str, wait: timedelta | None) -> None:
    with receiving(lambda _: (503, {"Retry-After": said})) as receiver:
        outcome = sent(Sender(Addresses(networks(HERE))), receiver.url)
    assert outcome.retry_after == wait
    assert outcome.overloaded


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a server of this name needs, and what its callers need."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    own, private = folder / "cert.pem", folder / "key.pem"
    own.write_bytes(made.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(own, private)
    return server, ssl.create_default_context(cafile=str(own))


def test_tls_is_verified_for_the_name_though_the_address_is_connected_to(tmp_path: Path) -> None:
    server, trusting = certificate(tmp_path, "hooks.example")
    names: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: names.append(name)
    with receiving(tls=server) as receiver:
        port = int(receiver.url.split(":")[2].split("/")[0])
        addresses = Addresses(networks(HERE), answering(["127.0.0.1"]))
        sender = Sender(addresses, tls=trusting)
        assert sent(sender, f"https://hooks.example:{port}/").taken
        assert names == ["hooks.example"]
        assert receiver.got[0].host == f"hooks.example:{port}"
        other = sent(sender, f"https://other.example:{port}/")
        assert other.error is not None
        assert "Hostname mismatch" in other.error
        untrusting = sent(Sender(addresses), f"https://hooks.example:{port}/")
        assert untrusting.error is not None
        assert "certificate verify failed" in untrusting.error
        assert len(receiver.got) == 1


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHAINLYTICS_WEBHOOK_PRIVATE_ADDRESSES", "127.0.0.1/32")
        with serving_here(database, tmp_path_factory.mktemp("home")) as (found, _):
            yield found


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://10.0.0.1/", "webhook.address_not_allowed"),
        ("https://[::1]/", "webhook.address_not_allowed"),
        ("http://169.254.169.254/latest/meta-data", "webhook.address_not_allowed"),
        ("http://1.1.1.1/", "webhook.https_needed"),
        ("https://1.1.1.1:25/", "webhook.port_not_allowed"),
        ("https://no-such-host.invalid/", "webhook.address_not_allowed"),
    ],
)
def test_what_may_not_be_called_is_refused_at_registration(
    served: Served, url: str, code: str
) -> None:
    with served.client(organisation_id=uuid4()) as client:
        body = {"webhook_id": "w", "url": url}
        assert_problem(client.post("/webhooks", json=body), 422, code)
        wrong = {"webhook_id": "w", "url": "https://a:b@example.org/"}
        problem = assert_problem(client.post("/webhooks", json=wrong), 422, "invalid")
        assert "user or password" in problem["detail"]
        assert get(client, "/webhooks")["items"] == []


def test_nobody_learns_our_hosts_by_registering_them(served: Served) -> None:
    """A host inside and one that there is not are answered alike; and nobody asks for a name who
    may not register it."""
    names = ("10.0.0.1", "no-such-host.invalid", "1.1.1.1")
    with served.client(organisation_id=uuid4()) as client:
        told = []
        for name in names[:2]:
            answer = client.post("/webhooks", json={"webhook_id": "w", "url": f"https://{name}/"})
            problem = assert_problem(answer, 422, "webhook.address_not_allowed")
            told.append(json.dumps(problem | {"correlation_id": ""}).replace(name, "NAME"))
        assert told[0] == told[1]
        issue = {"name": "k", "roles": ["admin"], "scopes": ["orders.list"]}
        key = client.post("/organisation/api-keys", json=issue).json()["key"]
        bearer = {"Authorization": f"Bearer {key}"}
        for path, more in (("/webhooks/w", {}), ("/webhooks", {"webhook_id": "w"})):
            for name in names:
                body = {"url": f"https://{name}/"} | more
                answer = client.post(path, json=body, headers=bearer)
                assert_problem(answer, 403, "forbidden")

        def denied() -> bool | None:
            lines = get(client, "/audit/commands", limit=100)["items"]
            found = Counter(
                {
                    one["command"]: one["times"]
                    for one in lines
                    if one["result"] == "denied" and one["actor"].startswith("key:")
                }
            )
            if found.total() < 6:
                return None
            assert found == {"ChangeWebhook": 3, "RegisterWebhook": 3}  # each once
            return True

        until(denied)


def test_a_secret_is_shown_again_to_who_was_shown_it_only(served: Served) -> None:
    organisation = uuid4()
    body = {"webhook_id": "w", "url": "https://1.1.1.1/"}
    key = {"Idempotency-Key": "1"}
    with (
        served.client(organisation_id=organisation, actor="ana") as ana,
        served.client(organisation_id=organisation, actor="ben") as ben,
    ):
        made = ana.post("/webhooks", json=body, headers=key).json()
        answer = ben.post("/webhooks", json=body, headers=key)
        assert_problem(answer, 409, "webhook.already_registered")
        rotated = ana.post("/webhooks/w/secret", json={}, headers={"Idempotency-Key": "2"}).json()
        other = ben.post("/webhooks/w/secret", json={}, headers={"Idempotency-Key": "2"}).json()
        assert other["repeated"] is False
        assert len({made["secret"], rotated["secret"], other["secret"]}) == 3
        again = ana.post("/webhooks/w/secret", json={}, headers={"Idempotency-Key": "2"}).json()
        assert (again["secret"], again["repeated"]) == (rotated["secret"], True)


def test_the_whole_story_over_http(served: Served) -> None:
    """Registered, told, tested, changed, rotated, removed; the secret is shown once."""
    organisation = uuid4()
    with receiving() as receiver, served.client(organisation_id=organisation) as client:
        body = {"webhook_id": "erp", "url": receiver.url, "events": ["policies"]}
        key = {"Idempotency-Key": "first"}
        made = client.post("/webhooks", json=body, headers=key)
        assert made.status_code == 201, made.text
        secret = made.json()["secret"]
        assert secret.startswith("whsec_")
        again = client.post("/webhooks", json=body, headers=key).json()
        assert (again["secret"], again["repeated"]) == (secret, True)
        assert_problem(client.post("/webhooks", json=body), 409, "webhook.already_registered")
        misspelt = body | {"webhook_id": "other", "events": ["policy"]}
        assert_problem(client.post("/webhooks", json=misspelt), 422, "webhook.unknown_event")

        position = made.json()["position"]
        [listed] = get(client, "/webhooks", min_position=position)["items"]
        assert listed == get(client, "/webhooks/erp")
        assert (listed["url"], listed["events"]) == (receiver.url, ["policies"])
        assert "whsec" not in str(listed)

        post(client, "/policies/fulfilment/stop", {"reason": "strike"})
        until(lambda: receiver.got or None)
        assert receiver.got[0].verified(secret)["type"] == "policies.KindStopped.v1"
        tested = client.post("/webhooks/erp/test").json()
        assert (tested["taken"], tested["status_code"]) == (True, 204)
        assert receiver.got[1].verified(secret)["type"] == "webhook.test"

        rotated = post(client, "/webhooks/erp/secret", {"grace_hours": 1})
        post(client, "/policies/fulfilment/resume", {})
        until(lambda: receiver.got[2:] or None)
        assert receiver.got[2].verified(secret) == receiver.got[2].verified(rotated["secret"])

        def delivered() -> bool | None:
            rows = get(client, "/webhooks/erp/deliveries", limit=1)
            if rows["items"][0]["status"] != "delivered" or rows["next_cursor"] is None:
                return None
            further = get(client, "/webhooks/erp/deliveries", cursor=rows["next_cursor"])
            assert [one["event"] for one in further["items"]] == ["KindStopped"]
            return True

        until(delivered)
        sent_at = get(client, "/webhooks/erp/deliveries")["items"][0]["position"]
        [attempt] = get(client, f"/webhooks/erp/deliveries/{sent_at}/attempts")
        assert attempt["status_code"] == 204
        assert get(client, "/webhooks/erp/backlog")["pending"] == 0
        assert get(client, "/webhooks/erp/dead-letters")["items"] == []
        assert client.post("/webhooks/erp/dead-letters/replay").json() == {"count": 0}
        assert_problem(client.post("/webhooks/erp/dead-letters/7/replay"), 404, "not-found")

        with served.client(organisation_id=uuid4()) as stranger:
            assert_problem(stranger.get("/webhooks/erp"), 404, "not-found")
            assert_problem(stranger.get("/webhooks/erp/deliveries"), 404, "not-found")
            assert_problem(stranger.post("/webhooks/erp/test"), 404, "not-found")
            assert_problem(stranger.post("/webhooks/erp/pause", json={"reason": "x"}), 404)
        removed = post(client, "/webhooks/erp/remove", {})
        gone = client.get("/webhooks/erp", params={"min_position": removed["position"]})
        assert_problem(gone, 404, "not-found")


@pytest.mark.parametrize("role", [one for one in Role if one is not Role.ADMIN])
def test_others_than_admins_handle_nothing(served: Served, role: Role) -> None:
    organisation = uuid4()
    with served.client(role, organisation_id=organisation) as client:
        body = {"webhook_id": "w", "url": "https://1.1.1.1/"}
        assert_problem(client.post("/webhooks", json=body), 403, "forbidden")
        assert_problem(client.post("/webhooks/w/secret", json={}), 403, "forbidden")
        assert_problem(client.post("/webhooks/w/remove", json={}), 403, "forbidden")
        assert_problem(client.post("/webhooks/w/test"), 403, "forbidden")
        assert_problem(client.post("/webhooks/w/dead-letters/replay"), 403, "forbidden")
        if role is not Role.AUDITOR:
            assert_problem(client.get("/webhooks"), 403, "forbidden")
            assert_problem(client.get("/webhooks/w/deliveries"), 403, "forbidden")
