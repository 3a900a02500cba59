"""Settings, from the environment (see .env.example)."""

from __future__ import annotations

import getpass
import os
import secrets
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def _default_home() -> Path:
    """Beside the sources in a checkout, otherwise where the system keeps a user's data."""
    root = Path(__file__).resolve().parent.parent
    if (root / "pyproject.toml").exists():
        return root / ".chainlytics"
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "chainlytics"


class Settings(BaseSettings):
    """What a deployment sets; every name has the prefix ``CHAINLYTICS_`` but ``DATABASE_URL``."""

    # An empty value, as in a copied .env.example, is none.
    model_config = SettingsConfigDict(
        env_prefix="CHAINLYTICS_", extra="ignore", env_ignore_empty=True
    )

    home: Path = Field(default_factory=_default_home)
    database_url: Annotated[str | None, Field(validation_alias="DATABASE_URL")] = None
    #: The server listens on loopback unless told otherwise.
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    organisation: str = "demo"
    #: Signs the development issuer's tokens; made and kept in ``home`` where it is not set.
    token_secret: Annotated[str | None, Field(min_length=32)] = None
    #: Days that the ids of accepted commands are remembered; a retry after that is a new command.
    #: 0 remembers them for ever.
    command_retention_days: Annotated[int, Field(ge=0, le=36_500)] = 400
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    pool_size: Annotated[int, Field(ge=1, le=500)] = 10

    @property
    def organisation_id(self) -> UUID:
        """The id of the organisation that the command line works for."""
        return organisation_id(self.organisation)

    @property
    def command_retention(self) -> timedelta | None:
        """How long the ids of accepted commands are remembered; None: for ever."""
        days = self.command_retention_days
        return timedelta(days=days) if days else None

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
