"""Settings, from the environment (see .env.example)."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import secrets
import tempfile
from base64 import b64decode, b64encode
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from uuid import NAMESPACE_URL, UUID, uuid5

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from api.allowance import LIMITS, Limits, Rate
from api.identity.configuration import Address, Providers
from api.identity.mail import CONSOLE, Mail, mail_of
from domain.work import Kind
from eventstore.kafka.cluster import Cluster
from eventstore.retention import Retention
from eventstore.seals.signing import key_of, read_key
from eventstore.webhooks.addresses import networks
from eventstore.witnesses.addresses import witnesses_of

_KEY_BYTES = 32


def _default_home() -> Path:
    """Beside the sources in a checkout, otherwise where the system keeps a user's data."""
    root = Path(__file__).resolve().parent.parent
    if (root / "pyproject.toml").exists():
        return root / ".chainlytics"
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "chainlytics"


def _key_of(key: SecretStr) -> bytes:
    try:
        found = b64decode(key.get_secret_value(), validate=True)
    except ValueError:
        found = b""
    if len(found) != _KEY_BYTES:
        raise ValueError("must be 32 bytes in base64")
    return found


def _is_a_key(key: SecretStr | None) -> SecretStr | None:
    if key is not None:
        _key_of(key)
    return key


def _parted(value: Any) -> Any:
    """A list as the environment has it."""
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


Origin = Annotated[str, Field(pattern=r"^(\*|https?://[A-Za-z0-9.:\[\]-]{1,253})$")]


def headers_of(headers: SecretStr) -> dict[str, str]:
    """The headers of ``name=value,name=value``.

    Raises:
        ValueError: they are not written so. Their values are not told.
    """
    found: dict[str, str] = {}
    for one in headers.get_secret_value().split(","):
        if one.strip():
            name, equals, value = (part.strip() for part in one.partition("="))
            if not (equals and value and re.fullmatch(r"[A-Za-z0-9-]+", name)):
                raise ValueError("must be name=value, with commas between")
            found[name] = value
    return found


def _are_headers(headers: SecretStr) -> SecretStr:
    headers_of(headers)
    return headers


def kinds_of(text: str) -> dict[Kind, int]:
    """The kinds of tasks of ``training=1,simulation=2``, and so many of each.

    Raises:
        ValueError: it is not written so, or names a kind that there is not.
    """
    found: dict[Kind, int] = {}
    for one in text.split(","):
        if not one.strip():
            continue
        name, equals, number = (part.strip() for part in one.partition("="))
        known = {kind.value: kind for kind in Kind}
        if name not in known or not equals or not re.fullmatch(r"[1-9]\d?", number):
            raise ValueError(
                f"{one.strip()!r}: must be a kind and a number from 1 to 99, as training=1; kinds "
                f"are {', '.join(known)}"
            )
        found[known[name]] = int(number)
    return found


def _are_kinds(text: str) -> str:
    kinds_of(text)
    return text


def _is_a_dsn(dsn: SecretStr) -> SecretStr:
    if not re.fullmatch(r"https?://[^@\s/]+@[^@\s/]+(/\S*)?/\d+", dsn.get_secret_value()):
        raise ValueError("must be like https://key@host/1")
    return dsn


class Settings(BaseSettings):
    """What a deployment sets; every name has the prefix ``CHAINLYTICS_`` but ``DATABASE_URL``."""

    # An empty value, as in a copied .env.example, is none.
    model_config = SettingsConfigDict(
        env_prefix="CHAINLYTICS_",
        extra="ignore",
        env_ignore_empty=True,
        hide_input_in_errors=True,  # there are secrets among the values
    )

    home: Path = Field(default_factory=_default_home)
    database_url: Annotated[str | None, Field(validation_alias="DATABASE_URL")] = None
    #: Of a login for queries, where the owner of the database may not make one: a member of the
    #: role ``<owner>_api`` (docs/adr/0035).
    api_database_url: str | None = None
    #: The server listens on loopback unless told otherwise.
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    #: Where a worker's health is asked for, where it has a port for that.
    health_host: str = "127.0.0.1"
    health_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    organisation: str = "demo"
    #: Signs the development issuer's tokens; made and kept in ``home`` where it is not set.
    token_secret: Annotated[str | None, Field(min_length=32)] = None
    #: Wraps the keys that personal data is encrypted with: 32 bytes in base64; made and kept in
    #: ``home`` where it is not set. Without it all personal data is lost: no backup holds it.
    master_key: Annotated[SecretStr | None, AfterValidator(_is_a_key)] = None
    #: The one before, while keys are wrapped anew (``chainlytics people rewrap``).
    master_key_old: Annotated[SecretStr | None, AfterValidator(_is_a_key)] = None
    #: Days that the ids of accepted commands are remembered; a retry after that is a new command.
    #: 0 remembers them for ever.
    command_retention_days: Annotated[int, Field(ge=0, le=36_500)] = 400
    #: Days that is kept who did what, denied and refused attempts too. An accepted command's row is
    #: kept for the longer of this and ``command_retention_days``. 0: for ever.
    audit_retention_days: Annotated[int, Field(ge=0, le=36_500)] = 400
    #: Days that is kept who looked at whose personal data. 0: for ever.
    personal_access_retention_days: Annotated[int, Field(ge=0, le=36_500)] = 1096
    #: Signs the heads of the log: an Ed25519 private key, 32 bytes in base64; made and kept in
    #: ``home`` where it is not set and the server is embedded.
    seal_key: Annotated[SecretStr | None, AfterValidator(_is_a_key)] = None
    #: Seconds between two signed heads, where there is something new.
    seal_every_s: Annotated[float, Field(ge=0.1, le=86_400)] = 5
    #: Who is handed each signed head of the log: addresses with spaces between them, each
    #: file:///path, http(s)://... or kafka://host:port/topic.
    witnesses: str = ""
    #: Where sealed ranges of the log are archived: a folder, or a URL such as s3://bucket/prefix.
    #: Without it, ``archive`` in ``home`` with the embedded server, else nothing is archived.
    archive: str | None = None
    #: Positions of a whole segment of the archive.
    archive_positions: Annotated[int, Field(ge=100, le=2_000_000)] = 250_000
    #: How consumers get events: ``log`` reads them from the database, ``kafka`` takes them from
    #: topics, in groups that share the work (docs/scaling.md).
    transport: Literal["log", "kafka"] = "log"
    #: Some brokers of the Kafka cluster: ``host:port``, with commas between them.
    kafka_bootstrap_servers: Annotated[
        str | None, Field(validation_alias="KAFKA_BOOTSTRAP_SERVERS")
    ] = None
    #: The first part of the names of topics and consumer groups.
    kafka_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,60}$")] = "chainlytics"
    #: Partitions of each topic: so many consumers can share the work. Read when the relay first
    #: runs; ``chainlytics kafka lanes`` changes it later.
    kafka_lanes: Annotated[int, Field(ge=1, le=1000)] = 6
    #: Copies of each partition; the brokers' own default without it.
    kafka_replication: Annotated[int, Field(ge=1, le=15)] | None = None
    kafka_security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    kafka_username: str | None = None
    kafka_password: SecretStr | None = None
    #: Certificates of the authorities that the brokers' are checked with; the system's without it.
    kafka_cafile: Path | None = None
    #: Whose tokens are believed beside our own: a JSON list (docs/identity.md).
    identity_providers: Annotated[Providers, NoDecode] = ()
    #: Whether accounts of our own, with a password, are offered.
    identity_local: bool = True
    #: Whether anybody may register one. Without it, open with the embedded server and closed with a
    #: database of one's own.
    identity_registration: Literal["open", "closed"] | None = None
    #: Where the pages `/verify` and `/reset` are that mails lead to; without it mails hold a bare
    #: code.
    identity_frontend: Address | None = None
    #: How mail is sent: smtps://user:password@host:465, smtp://... with STARTTLS, or ``console``,
    #: which shows it to whoever runs the server. Without it, ``console`` with the embedded server,
    #: else there is none.
    mail: SecretStr | None = None
    mail_from: Annotated[str, Field(pattern=r"^[^\r\n]{3,254}$")] = "chainlytics@localhost"
    #: Certificates of the authorities that the mail server's is checked with; the system's without
    #: it.
    mail_cafile: Path | None = None
    #: Networks (CIDR, with commas or spaces between them) that webhooks may go to though they are
    #: not public; there plain http and any port are allowed too. None by default.
    webhook_private_addresses: str = ""
    #: Tasks (long work) that a worker does at the same time.
    tasks_at_once: Annotated[int, Field(ge=1, le=64)] = 1
    #: So many of a kind at the same time: ``training=1,simulation=2``. Those that are not named are
    #: bounded by ``tasks_at_once`` alone.
    tasks_at_once_of: Annotated[str, AfterValidator(_are_kinds)] = ""
    #: Bytes of one file that is uploaded to be imported.
    upload_bytes: Annotated[int, Field(ge=1_000, le=256 << 20)] = 32 << 20
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    #: Where traces are sent: an OpenTelemetry collector's OTLP address over HTTP, as
    #: http://host:4318. Without it requests are not followed.
    otlp_endpoint: Annotated[str, Field(pattern=r"^https?://[^\s/]+(/\S*)?$")] | None = None
    #: Sent along with traces: name=value, with commas between.
    otlp_headers: Annotated[SecretStr, AfterValidator(_are_headers)] = SecretStr("")
    otlp_service: Annotated[str, Field(min_length=1, max_length=100)] = "chainlytics"
    #: The share of requests that is followed, from 0 to 1; the same in all processes.
    otlp_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    #: Where unexpected errors are reported: a DSN of Sentry, or of what speaks as it does.
    sentry_dsn: Annotated[SecretStr, AfterValidator(_is_a_dsn)] | None = None
    #: Which deployment this is, in traces and reported errors.
    environment: Annotated[str, Field(min_length=1, max_length=64)] = "production"
    pool_size: Annotated[int, Field(ge=1, le=500)] = 10
    #: Requests a second that one identity may send to one process, and how many at once; 0 a
    #: second: no limit.
    rate_identity: Annotated[float, Field(ge=0, le=1e6)] = LIMITS.identity.per_second
    rate_identity_burst: Annotated[int, Field(ge=1, le=10_000_000)] = LIMITS.identity.burst
    #: The same for whoever shows no good credentials, by client address.
    rate_address: Annotated[float, Field(ge=0, le=1e6)] = LIMITS.address.per_second
    rate_address_burst: Annotated[int, Field(ge=1, le=10_000_000)] = LIMITS.address.burst
    #: Refused credentials, by client address.
    rate_failures: Annotated[float, Field(ge=0, le=1e6)] = LIMITS.failures.per_second
    rate_failures_burst: Annotated[int, Field(ge=1, le=10_000_000)] = LIMITS.failures.burst
    #: Requests that one process answers at the same time; 0: no limit.
    concurrent_requests: Annotated[int, Field(ge=0, le=1_000_000)] = LIMITS.concurrent
    #: How many of them one identity may have, or one address of whoever shows no good credentials;
    #: 0: a tenth, but 32 where that is less, and never more than half.
    concurrent_requests_per_caller: Annotated[int, Field(ge=0, le=1_000_000)] = LIMITS.per_caller
    #: Seconds that a request's body may take to arrive; 0: no limit.
    body_timeout_s: Annotated[float, Field(ge=0, le=3600)] = LIMITS.body_timeout_s
    #: Seconds that one query may keep the database; 0: no limit.
    query_timeout_s: Annotated[float, Field(ge=0, le=3600)] = 20
    #: Sites whose pages may ask the API, with commas between them: https://app.example.org; ``*``:
    #: every one. None without it.
    cors_origins: Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(_parted)] = ()
    #: Proxies before the API, as networks (10.0.0.0/8) with commas between them: they are believed
    #: when they say in X-Forwarded-For who asks.
    trusted_proxies: Annotated[
        tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_parted)
    ] = ()
    #: Live streams and WebSockets of one process at once; how many of them all of one organisation
    #: may have, and how many one user (in all its organisations) or service.
    live_connections: Annotated[int, Field(ge=0, le=100_000)] = 500
    live_connections_per_organisation: Annotated[int, Field(ge=1, le=100_000)] = 100
    live_connections_per_identity: Annotated[int, Field(ge=1, le=100_000)] = 20
    #: Seconds that a client may take for one message of a live stream before it is cut off.
    live_slow_s: Annotated[float, Field(ge=0.1, le=3600)] = 30
    #: Seconds of silence on a live stream after which its position is told.
    live_heartbeat_s: Annotated[float, Field(ge=0.1, le=3600)] = 15
    #: Seconds between two looks whether a live stream's token still allows it.
    live_recheck_s: Annotated[float, Field(ge=0.1, le=3600)] = 5

    @field_validator("witnesses")
    @classmethod
    def _are_witnesses(cls, addresses: str) -> str:
        witnesses_of(addresses)
        return addresses

    @model_validator(mode="after")
    def _identity_is_whole(self) -> Self:
        self.mail_adapter()
        if self.identity_registration == "open" and self.mail is None and self.database_url:
            raise ValueError(
                "registration that is open needs a way to send mail: set CHAINLYTICS_MAIL"
            )
        return self

    @field_validator("webhook_private_addresses")
    @classmethod
    def _are_networks(cls, words: str) -> str:
        networks(words)
        return words

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _are_brokers(cls, servers: str | None) -> str | None:
        if servers is not None:
            for one in _brokers(servers):
                host, _, port = one.rpartition(":")
                if not host or not port.isdigit():
                    raise ValueError(f"{one!r} is not host:port")
        return servers

    @model_validator(mode="after")
    def _kafka_is_whole(self) -> Self:
        if self.transport == "kafka" and self.kafka_bootstrap_servers is None:
            raise ValueError("transport kafka needs brokers: set KAFKA_BOOTSTRAP_SERVERS")
        if self.kafka_security.startswith("SASL") and not (
            self.kafka_username and self.kafka_password
        ):
            raise ValueError("SASL needs CHAINLYTICS_KAFKA_USERNAME and CHAINLYTICS_KAFKA_PASSWORD")
        return self

    def limits(self) -> Limits:
        """How much the API lets people ask."""
        return Limits(
            identity=Rate(self.rate_identity, self.rate_identity_burst),
            address=Rate(self.rate_address, self.rate_address_burst),
            failures=Rate(self.rate_failures, self.rate_failures_burst),
            concurrent=self.concurrent_requests,
            per_caller=self.concurrent_requests_per_caller,
            proxies=self.trusted_proxies,
            body_timeout_s=self.body_timeout_s,
        )

    def cluster(self) -> Cluster | None:
        """The Kafka cluster of the settings; None: they name none."""
        if self.kafka_bootstrap_servers is None:
            return None
        security: dict[str, Any] = {"security_protocol": self.kafka_security}
        if self.kafka_cafile is not None:
            security["ssl_cafile"] = str(self.kafka_cafile)
        if self.kafka_password is not None and self.kafka_security.startswith("SASL"):
            security |= {
                "sasl_mechanism": self.kafka_sasl_mechanism,
                "sasl_plain_username": self.kafka_username,
                "sasl_plain_password": self.kafka_password.get_secret_value(),
            }
        return Cluster(_brokers(self.kafka_bootstrap_servers), self.kafka_prefix, security)

    @property
    def registration(self) -> bool:
        """Whether anybody may register an account of our own."""
        if self.identity_registration is None:
            return self.database_url is None
        return self.identity_registration == "open"

    def tasks_of_kind(self) -> dict[Kind, int]:
        """So many tasks of a kind at the same time, of those that the settings name."""
        return kinds_of(self.tasks_at_once_of)

    def mail_adapter(self) -> Mail | None:
        """How mail is sent; None: there is no way.

        Raises:
            ValueError: the address names none, or there are no certificates in the file.
        """
        address = self.mail.get_secret_value() if self.mail is not None else None
        if address is None and self.database_url is None:
            address = CONSOLE
        if address is None:
            return None
        try:
            return mail_of(address, self.mail_from, self.mail_cafile)
        except ValueError as error:
            raise ValueError(f"CHAINLYTICS_MAIL {error}") from None
        except OSError as error:
            raise ValueError(f"CHAINLYTICS_MAIL_CAFILE {self.mail_cafile}: {error}") from None

    @property
    def archive_location(self) -> str | None:
        """Where the archive is; None: nobody says it, and a folder of this machine's would be out
        of reach for who uses the same database from another one."""
        if self.archive is None and self.database_url is None:
            return str(self.home / "archive")
        return self.archive

    @property
    def organisation_id(self) -> UUID:
        """The id of the organisation that the command line works for."""
        return organisation_id(self.organisation)

    @property
    def retention(self) -> Retention:
        """How long each class of record is kept."""
        return Retention(
            answers=_duration(self.command_retention_days),
            who_did_what=_duration(self.audit_retention_days),
            personal_access=_duration(self.personal_access_retention_days),
        )

    def personal_key(self) -> bytes:
        """The master key of personal data: from the settings, or a file only its owner reads.

        Raises:
            ValueError: the file holds no such key.
        """
        if self.master_key is not None:
            return _key_of(self.master_key)
        file = self.home / "master.key"
        if not file.exists():
            self.home.mkdir(parents=True, exist_ok=True)
            descriptor, made = tempfile.mkstemp(dir=self.home)  # 0600
            try:
                with os.fdopen(descriptor, "wb") as opened:
                    opened.write(b64encode(secrets.token_bytes(_KEY_BYTES)))
                    opened.flush()
                    os.fsync(descriptor)
                # Whole or not there; of several processes one makes it.
                with contextlib.suppress(FileExistsError):
                    os.link(made, file)
            finally:
                Path(made).unlink()
        try:
            return _key_of(SecretStr(file.read_text(encoding="ascii").strip()))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None

    def former_personal_key(self) -> bytes | None:
        """The master key before, where it is set."""
        return None if self.master_key_old is None else _key_of(self.master_key_old)

    @property
    def seal_key_file(self) -> Path:
        """Where the signing key is, if the settings do not hold it."""
        return self.home / "seal.key"

    def signing_key(self) -> Ed25519PrivateKey | None:
        """The key that signs the log's heads: from the settings, or a file only its owner reads.
        None where nobody gave one and it must not be made here: a database that others use too is
        sealed with a key that all of them have.

        Raises:
            WrongKey: the file holds no such key.
        """
        if self.seal_key is not None:
            return read_key(self.seal_key.get_secret_value())
        if self.database_url is not None and not self.seal_key_file.exists():
            return None
        return key_of(self.seal_key_file)

    def issuer_secret(self) -> str:
        """The development issuer's secret: from the settings, or a file only its owner reads."""
        if self.token_secret is not None:
            return self.token_secret
        file = self.home / "token.secret"
        self.home.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return file.read_text(encoding="ascii")
        with os.fdopen(descriptor, "w", encoding="ascii") as opened:
            secret = secrets.token_urlsafe(48)
            opened.write(secret)
        return secret


def _brokers(servers: str) -> tuple[str, ...]:
    return tuple(one.strip() for one in servers.split(",") if one.strip())


def _duration(days: int) -> timedelta | None:
    return timedelta(days=days) if days else None


def organisation_id(name: str) -> UUID:
    """An organisation's id: the uuid itself, or one that follows from a name."""
    try:
        return UUID(name)
    except ValueError:
        return uuid5(NAMESPACE_URL, f"chainlytics:organisation:{name}")


def operator() -> str:
    """Who sits at the command line, as an actor."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user may have no name
        return f"cli:{os.getuid()}"
