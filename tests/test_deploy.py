"""The container files say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from chainlytics.cli import app
from chainlytics.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]


def test_the_services_of_the_system_are_there() -> None:
    assert set(SERVICES) == {"postgres", "api", "projector", "consumer"}
    assert SERVICES["postgres"]["image"].startswith("pgvector/pgvector:")
    assert "healthcheck" in SERVICES["postgres"]


@pytest.mark.parametrize("name", ["api", "projector", "consumer"])
def test_every_command_exists_and_waits_for_the_database(name: str) -> None:
    service = SERVICES[name]
    done = CliRunner().invoke(app, [service["command"][0], "--help"])
    assert done.exit_code == 0, done.output
    assert service["depends_on"]["postgres"]["condition"] == "service_healthy"


def test_ports_are_published_on_loopback_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_no_secret_has_a_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    for name in (
        "POSTGRES_PASSWORD",
        "CHAINLYTICS_TOKEN_SECRET",
        "CHAINLYTICS_MASTER_KEY",
        "CHAINLYTICS_SEAL_KEY",
    ):
        uses = re.findall(rf"\$\{{{name}([^}}]*)\}}", text)
        assert uses
        assert all(use.startswith(":?") for use in uses)
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert re.findall(
        r"^(?:POSTGRES_PASSWORD|CHAINLYTICS_TOKEN_SECRET|CHAINLYTICS_MASTER_KEY|CHAINLYTICS_SEAL_KEY)=(.*)$",
        example,
        re.MULTILINE,
    ) == ["", "", "", ""]


def test_every_name_in_the_example_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    settings = {f"CHAINLYTICS_{name.upper()}" for name in Settings.model_fields} | {"DATABASE_URL"}
    for name in re.findall(r"^([A-Z_]+)=", example, re.MULTILINE):
        assert f"${{{name}" in text or name in settings, name
        monkeypatch.setenv(name, "")
    assert Settings().database_url is None  # an empty value is none


def test_the_image_copies_every_package_and_checks_a_path_that_exists() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"benchmarks", "tests"}
    assert packages == set(re.findall(r"^COPY (\w+) \1$", dockerfile, re.MULTILINE))
    assert "USER chainlytics" in dockerfile
    assert "/api/v1/health" in dockerfile
