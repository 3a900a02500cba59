"""The container files say what the code does: docker-compose.yml, the image, what watches it."""

from __future__ import annotations

import json
import re
import tomllib
from itertools import takewhile
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from api.tokens import Issuer
from chainlytics.cli import app
from chainlytics.health import Pulse
from chainlytics.settings import Settings
from domain.access import Role
from eventstore.kafka.jars import VERSION as KAFKA
from readmodels.access import QUERIES
from tests.serving import SECRET, order, post
from tests.test_health import asked
from tests.test_projection_status import api_alone

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
#: Our own processes that run for ever, and what each needs to be there before it.
OURS = {
    "api": {"postgres"},
    "relay": {"postgres", "kafka"},
    "projector": {"postgres", "kafka", "relay"},
    "consumer": {"postgres", "kafka", "relay"},
    "intake": {"postgres", "kafka"},
    "webhooks": {"postgres"},
    "tasks": {"postgres"},
}
OTHERS = {
    "postgres": "pgvector/pgvector",
    "kafka": "apache/kafka",
    "prometheus": "prom/prometheus",
    "grafana": "grafana/grafana",
}
ONE_SHOT = {"scrape-token"}
SECRETS = (
    "POSTGRES_PASSWORD",
    "CHAINLYTICS_TOKEN_SECRET",
    "CHAINLYTICS_MASTER_KEY",
    "CHAINLYTICS_SEAL_KEY",
    "GRAFANA_ADMIN_PASSWORD",
)
#: Names that a process of ours reads.
SETTINGS = {
    str(field.validation_alias or f"CHAINLYTICS_{name.upper()}")
    for name, field in Settings.model_fields.items()
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARD = json.loads((GRAFANA / "dashboards" / "chainlytics.json").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text(encoding="utf-8"))
SCRAPES = {
    job["job_name"]: job
    for job in yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))[
        "scrape_configs"
    ]
}


# docker-compose.yml


def test_the_services_of_the_system_are_there_with_pinned_images() -> None:
    assert set(SERVICES) == OURS.keys() | OTHERS.keys() | ONE_SHOT
    for name, service in SERVICES.items():
        image, _, tag = service["image"].rpartition(":")
        assert image == OTHERS.get(name, "chainlytics")
        assert re.fullmatch(r"v?\d+(\.\d+)+(-pg\d+)?", tag), service["image"]
    assert SERVICES["kafka"]["image"].endswith(f":{KAFKA}"), "what the tests prove is what runs"


@pytest.mark.parametrize("name", sorted(OURS.keys() | ONE_SHOT))
def test_every_command_and_its_options_exist(name: str) -> None:
    command = SERVICES[name]["command"]
    words = list(takewhile(lambda word: not word.startswith("-"), command))
    help_of_it = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200"})
    assert help_of_it.exit_code == 0, help_of_it.output
    for option in [word for word in command if word.startswith("--")]:
        assert re.search(rf"{option}\b", re.sub(r"\x1b\[[0-9;]*m", "", help_of_it.output)), option


def test_a_service_starts_after_what_it_needs() -> None:
    for name, needed in OURS.items():
        conditions = {
            other: one["condition"] for other, one in SERVICES[name]["depends_on"].items()
        }
        assert conditions == dict.fromkeys(needed, "service_healthy"), name
    assert SERVICES["prometheus"]["depends_on"] == {
        "scrape-token": {"condition": "service_completed_successfully"},
        "api": {"condition": "service_healthy"},
    }
    for service in SERVICES.values():
        assert service.get("depends_on", {}).keys() <= SERVICES.keys()


def test_everything_that_runs_for_ever_is_checked_bounded_and_hardened() -> None:
    for name, service in SERVICES.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        if name in ONE_SHOT:
            assert service["restart"] == "no"
            continue
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] == "CMD", name
        limits = service["deploy"]["resources"]["limits"]
        assert limits.keys() == {"cpus", "memory"}, name
        if name not in ("postgres", "kafka"):
            assert service["read_only"] is True, name


def test_a_process_of_ours_is_asked_on_its_health_port() -> None:
    for name in OURS:
        service = SERVICES[name]
        assert service["environment"]["CHAINLYTICS_HEALTH_HOST"] == "0.0.0.0"
        port = service["environment"]["CHAINLYTICS_HEALTH_PORT"]
        assert f"http://127.0.0.1:{port}/health/ready" in service["healthcheck"]["test"][-1]


def test_every_variable_exists_and_keys_are_with_who_needs_them() -> None:
    who: dict[str, set[str]] = {}
    for name in OURS.keys() | ONE_SHOT:
        for variable in SERVICES[name]["environment"]:
            assert variable in SETTINGS, (name, variable)
            who.setdefault(variable, set()).add(name)
    assert who["CHAINLYTICS_TRANSPORT"] == set(OURS)
    assert who["DATABASE_URL"] == set(OURS)
    assert who["CHAINLYTICS_TOKEN_SECRET"] == {"api", "intake", "scrape-token"}
    assert who["CHAINLYTICS_MASTER_KEY"] == {"api", "intake", "webhooks", "tasks"}
    assert who["CHAINLYTICS_SEAL_KEY"] == {"projector"}
    for variable in ("CHAINLYTICS_IDENTITY_PROVIDERS", "CHAINLYTICS_IDENTITY_LOCAL"):
        assert who[variable] == {"api", "intake"}, "whoever takes tokens believes the same"
    assert who["CHAINLYTICS_MAIL"] == who["CHAINLYTICS_IDENTITY_REGISTRATION"] == {"api"}
    assert who["CHAINLYTICS_WEBHOOK_PRIVATE_ADDRESSES"] >= {"api", "webhooks"}
    assert who["CHAINLYTICS_TASKS_AT_ONCE"] == {"tasks"}


def test_every_setting_of_the_example_reaches_who_reads_it() -> None:
    """But where the API listens in its container, and a key for one command only."""
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    names = set(re.findall(r"^([A-Z_]+)=", example, re.MULTILINE)) & SETTINGS
    given = {variable for name in OURS for variable in SERVICES[name]["environment"]}
    elsewhere = {"CHAINLYTICS_HOST", "CHAINLYTICS_PORT", "CHAINLYTICS_MASTER_KEY_OLD"}
    assert names - given == elsewhere


def test_a_filled_in_environment_makes_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the defaults of docker-compose.yml, where a secret is all that was filled in."""
    for name in OURS:
        for variable, value in SERVICES[name]["environment"].items():
            monkeypatch.setenv(variable, _resolved(str(value)))
        settings = Settings()
        cluster = settings.cluster()
        assert settings.transport == "kafka"
        assert cluster is not None
        assert cluster.brokers == ("kafka:9092",)
        assert settings.health_port == 9464
        assert settings.database_url is not None
        assert "@postgres:5432/" in settings.database_url


def _resolved(value: str) -> str:
    """As docker compose does it: the innermost names first."""
    key = "A" * 43 + "="  # 32 bytes in base64
    pattern = re.compile(r"\$\{(\w+)(?::([-?])([^${}]*))?\}")
    while found := pattern.search(value):
        name, kind, more = found.groups()
        value = value.replace(found[0], (more or "") if kind == "-" else key)
        assert kind in ("-", "?"), name
    return value


def test_ports_are_published_on_loopback_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) == 5
    assert all(re.match(r"127\.0\.0\.1:\$\{\w+:-\d+\}:\d+$", port) for port in published)
    assert all("network_mode" not in service for service in SERVICES.values())


def test_no_secret_has_a_default() -> None:
    for name in SECRETS:
        uses = re.findall(rf"\$\{{{name}([^}}]*)\}}", TEXT)
        assert uses
        assert all(use.startswith(":?") for use in uses)
    for line in TEXT.splitlines():
        if re.match(r"\s*\w*(PASSWORD|SECRET|_KEY)\w*:", line):
            assert re.search(r": \$\{\w+(:\?|:-\})", line), line
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    given = dict(re.findall(r"^([A-Z_]+)=(.*)$", example, re.MULTILINE))
    assert [given[name] for name in SECRETS] == [""] * len(SECRETS)
    assert given["CHAINLYTICS_KAFKA_PASSWORD"] == ""
    grafana = SERVICES["grafana"]["environment"]
    assert grafana["GF_AUTH_ANONYMOUS_ENABLED"] == grafana["GF_USERS_ALLOW_SIGN_UP"] == "false"


def test_every_volume_is_declared_and_every_file_there() -> None:
    used = set()
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).is_dir(), source
                assert volume.endswith(":ro"), volume
            else:
                used.add(source)
    assert used == COMPOSE["volumes"].keys()


def test_every_name_in_the_example_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    names = re.findall(r"^([A-Z_]+)=", example, re.MULTILINE)
    for name in names:
        assert f"${{{name}" in TEXT or name in SETTINGS, name
        monkeypatch.setenv(name, "")
    assert Settings().database_url is None  # an empty value is none
    assert set(re.findall(r"\$\{([A-Z_]+)", TEXT)) <= set(names)
    assert {name for name in SETTINGS if "KAFKA" in name or "HEALTH" in name} <= set(names)


# The image


def test_the_image_copies_every_package_and_checks_a_path_that_exists() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    packages = set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert packages == set(re.findall(r"^COPY (\w+) \1$", dockerfile, re.MULTILINE))
    tools = {path.parent.name for path in ROOT.glob("*/__init__.py")} - packages
    assert tools == {"benchmarks", "clients"}, "what is neither is of the system"
    assert "USER chainlytics" in dockerfile
    assert "/api/v1/health" in dockerfile
    # A fresh volume takes over who owns its folder in the image.
    for folder in ("/archive", "/var/lib/chainlytics", "/run/scrape"):
        assert re.search(rf"install --directory .*{folder}\b", dockerfile), folder


def test_the_image_can_send_traces_and_errors_and_reach_an_archive() -> None:
    """It is made of the lock, which is that of the extra ``dev``."""
    extras = {
        name: {re.split(r"[^\w-]", one)[0] for one in requirements}
        for name, requirements in PROJECT["project"]["optional-dependencies"].items()
    }
    wanted = extras["otel"] | extras["sentry"] | extras["s3"]
    assert len(wanted) == 4
    assert wanted <= extras["dev"]
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert wanted <= set(re.findall(r"^([\w-]+)(?:\[[\w,-]+\])?==", lock, re.MULTILINE))
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "--require-hashes -r requirements.lock" in dockerfile


# The token that Prometheus asks with


def test_a_token_is_written_for_its_owner_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAINLYTICS_TOKEN_SECRET", SECRET)
    command = list(SERVICES["scrape-token"]["command"])
    file = tmp_path / Path(command[-1]).name
    file.write_text("an older one", encoding="ascii")
    done = CliRunner().invoke(app, [*command[:-1], str(file)])
    assert done.exit_code == 0, done.output
    assert done.output == ""
    assert file.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in tmp_path.iterdir()] == [file.name]
    found = Issuer(SECRET).verify(file.read_text(encoding="ascii"))
    assert found.actor == "prometheus"
    assert found.roles == {Role.VIEWER}
    assert Role.VIEWER in QUERIES["metrics.read"]


def test_a_token_that_cannot_be_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAINLYTICS_TOKEN_SECRET", SECRET)
    done = CliRunner().invoke(app, ["token", "--out", str(tmp_path / "none" / "token")])
    assert done.exit_code == 1
    assert "cannot be written: No such file or directory" in str(done.exception)


# Prometheus and Grafana


@pytest.fixture(scope="module")
def served_metrics(database: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Every metric that is really served, and its labels: by the API, and by a process."""
    with api_alone(database, tmp_path_factory.mktemp("home")) as (served, _):
        with psycopg.connect(database, autocommit=True) as sql:
            sql.execute("INSERT INTO relay (epoch, lanes) VALUES (gen_random_uuid(), 2)")
            sql.execute("INSERT INTO relay_lanes (lane) VALUES (0), (1)")
            sql.execute("UPDATE projections SET rate = 1")
            sql.execute("""INSERT INTO projection_rebuilds (name, fingerprint, position)
                SELECT name, '', 0 FROM projections""")
        with served.client() as client:
            post(client, "/orders", order("O-1"))
        with served.client(Role.VIEWER) as client:
            texts = [client.get(f"{served.url}/metrics").text]
    with asked(Pulse()) as process:
        texts.append(process.get("/metrics").text)
    found: dict[str, set[str]] = {"up": set()}
    for text in texts:
        for family in text_string_to_metric_families(text):
            found.setdefault(family.name, set())
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions() -> dict[str, str]:
    """What is asked of Prometheus, by where it stands."""
    rules = {
        f"alert {rule['alert']}": rule["expr"]
        for group in ALERTS["groups"]
        for rule in group["rules"]
    }
    panels = {
        f"panel {panel['title']} {target['refId']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    }
    return rules | panels


@pytest.mark.parametrize("where", expressions())
def test_every_metric_and_label_that_is_asked_for_is_served(
    where: str, served_metrics: dict[str, set[str]]
) -> None:
    text = expressions()[where]
    without_labels = re.sub(r"\{[^}]*\}|\b(by|on) \([^)]*\)|\[[^\]]*\]", "", text)
    names = set(re.findall(r"\b[a-z]\w*_\w+\b(?!\()|\bup\b", without_labels))
    assert names
    assert names <= served_metrics.keys(), names - served_metrics.keys()
    labels = {"job", "service"}.union(  # Prometheus' own, and ours
        *(served_metrics[name] for name in names)
    )
    asked_for = set(re.findall(r"(\w+)=", text))
    for group in re.findall(r"\bby \(([^)]*)\)", text):
        asked_for |= {label.strip() for label in group.split(",")}
    assert asked_for <= labels


def test_alerts_say_what_is_wrong_and_tell_of_what_must_be_told() -> None:
    rules = [rule for group in ALERTS["groups"] for rule in group["rules"]]
    for rule in rules:
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("warning", "critical")
    asked_for = " ".join(rule["expr"] for rule in rules)
    for metric in (
        "chainlytics_relay_up",
        "chainlytics_relay_behind_seconds",
        "chainlytics_projection_up",
        "chainlytics_projection_behind_seconds",
        "chainlytics_projection_lane_behind_seconds",
        "chainlytics_projection_dead_letters",
        "chainlytics_webhook_up",
        "chainlytics_webhook_behind_seconds",
        'chainlytics_webhook_deliveries{state="dead"}',
        "chainlytics_task_waiting_seconds",
    ):
        assert metric in asked_for
    for name in OURS.keys() - {"api"}:
        assert f'absent(up{{service="{name}"}})' in asked_for


def test_prometheus_asks_who_is_there_with_the_token_that_is_made() -> None:
    api = SCRAPES["chainlytics-api"]
    assert api["authorization"]["credentials_file"] == SERVICES["scrape-token"]["command"][-1]
    assert api["static_configs"] == [{"targets": ["api:8000"]}]
    assert SERVICES["api"]["command"][-1] == "8000"
    for name in ("scrape-token", "prometheus"):
        assert SERVICES[name]["user"] == "65534:65534"
        assert any(one.startswith("scrape-token:/run/scrape") for one in SERVICES[name]["volumes"])
    [found] = SCRAPES["chainlytics-processes"]["dns_sd_configs"]
    assert set(found["names"]) == set(OURS)
    assert str(found["port"]) == SERVICES["api"]["environment"]["CHAINLYTICS_HEALTH_PORT"]


def test_grafana_finds_its_data_source_and_its_dashboards() -> None:
    folder = GRAFANA / "provisioning"
    [source] = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    [provider] = yaml.safe_load((folder / "dashboards" / "chainlytics.yml").read_text())[
        "providers"
    ]
    mounts = dict(volume.split(":")[:2][::-1] for volume in SERVICES["grafana"]["volumes"])
    assert mounts[provider["options"]["path"]] == "./deploy/grafana/dashboards"
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (GRAFANA / "dashboards" / Path(home).name).is_file()
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in DASHBOARD["panels"]:
        asks = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert asks == [{"type": source["type"], "uid": source["uid"]}] * len(asks)
