"""The Kubernetes manifests: built, held against Kubernetes' own schemas, and against the code."""

from __future__ import annotations

import re
import shutil
import subprocess
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

from chainlytics.cli import app
from chainlytics.settings import Settings
from eventstore.webhooks.addresses import kind_of
from ml.catalogue import FEATURE_TABLES
from projections.catalogue import TABLES
from tests.kustomization import Manifest, build, key, load
from tests.test_deploy import SECRETS, SETTINGS

ROOT = Path(__file__).resolve().parent.parent / "deploy" / "kubernetes"
VERSIONS = ("1.31", "1.37")
FOLDERS = ("base", "overlays/production", "overlays/trial")
BUILT = {folder: build(ROOT / folder) for folder in FOLDERS}
PROCESSES = {"api", "relay", "projector", "consumer", "intake", "webhooks", "tasks"}
CASES = [
    pytest.param(folder, manifest, id=f"{folder} {' '.join(key(manifest))}")
    for folder, manifests in BUILT.items()
    for manifest in manifests
]
#: Which secret holds what, and who is given it; None: all of them.
SECRETS_OF: dict[str, tuple[set[str], set[str] | None]] = {
    "chainlytics-database": ({"DATABASE_URL"}, None),
    "chainlytics-kafka": ({"CHAINLYTICS_KAFKA_USERNAME", "CHAINLYTICS_KAFKA_PASSWORD"}, None),
    "chainlytics-tokens": ({"CHAINLYTICS_TOKEN_SECRET"}, {"api", "intake"}),
    "chainlytics-personal": (
        {"CHAINLYTICS_MASTER_KEY"},
        {"api", "intake", "webhooks", "tasks"},
    ),
    "chainlytics-seal": ({"CHAINLYTICS_SEAL_KEY"}, {"projector"}),
    "chainlytics-identity": ({"CHAINLYTICS_IDENTITY_PROVIDERS"}, {"api", "intake"}),
    "chainlytics-mail": ({"CHAINLYTICS_MAIL"}, {"api"}),
    "chainlytics-telemetry": ({"CHAINLYTICS_OTLP_HEADERS", "CHAINLYTICS_SENTRY_DSN"}, None),
}
#: Secrets without which a deployment works too.
OPTIONAL = {
    *("chainlytics-kafka", "chainlytics-identity", "chainlytics-mail", "chainlytics-telemetry"),
}
#: Who may go where on the internet, beside what all may; ports by who.
INTERNET = {"webhooks": {443, 8443}, "api": {443, 465, 587, 8443}, "intake": {443}}


def named(folder: str, kind: str) -> dict[str, Manifest]:
    return {
        manifest["metadata"]["name"]: manifest
        for manifest in BUILT[folder]
        if manifest["kind"] == kind
    }


def pod(deployment: Manifest) -> dict[str, Any]:
    found: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return found


def container(deployment: Manifest) -> dict[str, Any]:
    [found] = pod(deployment)["containers"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(("folder", "manifest"), CASES)
@pytest.mark.parametrize("version", VERSIONS)
def test_each_manifest_is_one_of_kubernetes(version: str, folder: str, manifest: Manifest) -> None:
    """Strictly: a misspelt field is none."""
    assert kubernetes_validate.validate(manifest, version, strict=True) == version


def test_the_schemas_can_say_no() -> None:
    wrong = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "x"},
        "spec": {"prots": []},
    }
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not here to compare with")
def test_kubectl_builds_the_same(folder: str) -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(ROOT / folder)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    theirs = {key(one): _sorted(one) for one in yaml.safe_load_all(done.stdout)}
    assert {key(one): _sorted(one) for one in BUILT[folder]} == theirs


def _sorted(value: Any) -> Any:
    """Without the order of lists, which is not always the same."""
    if isinstance(value, dict):
        return {field: _sorted(one) for field, one in sorted(value.items())}
    return sorted(map(_sorted, value), key=repr) if isinstance(value, list) else value


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_process_runs_a_command_that_exists(folder: str) -> None:
    deployments = named(folder, "Deployment")
    assert deployments.keys() == PROCESSES
    for name, deployment in deployments.items():
        done = CliRunner().invoke(app, [*container(deployment)["args"], "--help"])
        assert done.exit_code == 0, done.output
        selector = deployment["spec"]["selector"]["matchLabels"]
        assert selector == deployment["spec"]["template"]["metadata"]["labels"]
        assert selector["app.kubernetes.io/component"] == name


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_setting_and_secret_exists_and_goes_to_who_needs_it(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = named(folder, "ConfigMap")["chainlytics"]["data"]
    assert config.keys() <= SETTINGS
    assert not config.keys() & set(SECRETS)
    identity = named(folder, "ConfigMap")["chainlytics-identity"]["data"]
    assert identity.keys() == {
        name
        for name in SETTINGS
        if re.match(r"CHAINLYTICS_(IDENTITY|MAIL)", name)
        and all(name not in keys for keys, _ in SECRETS_OF.values())
    }
    given: dict[str, set[str]] = {name: set() for name in SECRETS_OF}
    read: dict[str, set[str]] = {"chainlytics": set(), "chainlytics-identity": set()}
    for name, deployment in named(folder, "Deployment").items():
        for source in container(deployment)["envFrom"]:
            [(kind, reference)] = source.items()
            if kind == "configMapRef":
                read[reference["name"]].add(name)
            else:
                assert reference.get("optional", False) is (reference["name"] in OPTIONAL)
                given[reference["name"]].add(name)
        for variable in container(deployment).get("env", []):
            [(kind, reference)] = variable["valueFrom"].items()
            assert variable["name"] == reference["key"]
            if kind == "configMapKeyRef":
                assert reference["key"] in named(folder, "ConfigMap")[reference["name"]]["data"]
                read[f"{reference['name']} {reference['key']}"] = {name}
                continue
            assert kind == "secretKeyRef"
            assert reference.get("optional", False) is (reference["name"] in OPTIONAL)
            assert reference["key"] in SECRETS_OF[reference["name"]][0]
            given[reference["name"]].add(name)
    assert read == {
        "chainlytics": PROCESSES,
        "chainlytics-identity": {"api"},
        # Whoever takes tokens in believes the same ones.
        "chainlytics-identity CHAINLYTICS_IDENTITY_LOCAL": {"intake"},
    }
    for name, (keys, who) in SECRETS_OF.items():
        assert given[name] == (who or PROCESSES), name
        assert keys <= SETTINGS
    for name, value in config.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CHAINLYTICS_KAFKA_USERNAME", "somebody")
    monkeypatch.setenv("CHAINLYTICS_KAFKA_PASSWORD", "something")
    settings = Settings()
    assert settings.transport == "kafka"
    assert settings.cluster() is not None
    for name, value in identity.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DATABASE_URL", "postgresql://somebody@postgres.invalid/chainlytics")
    assert Settings().registration is False


@pytest.mark.parametrize("folder", FOLDERS)
def test_probes_ask_the_health_port(folder: str) -> None:
    config = named(folder, "ConfigMap")["chainlytics"]["data"]
    assert config["CHAINLYTICS_HEALTH_HOST"] == "0.0.0.0"
    for name, deployment in named(folder, "Deployment").items():
        one = container(deployment)
        ports = {port["name"]: str(port["containerPort"]) for port in one["ports"]}
        assert ports["health"] == config["CHAINLYTICS_HEALTH_PORT"]
        for probe, path in (
            ("startupProbe", "/health/ready"),
            ("livenessProbe", "/health/live"),
            ("readinessProbe", "/health/live" if name == "api" else "/health/ready"),
        ):
            assert one[probe]["httpGet"] == {"path": path, "port": "health"}, (name, probe)
            assert one[probe]["timeoutSeconds"] >= 5
    service = named(folder, "Service")["api"]["spec"]
    api = named(folder, "Deployment")["api"]
    assert service["selector"] == api["spec"]["selector"]["matchLabels"]
    assert {port["name"]: str(port["containerPort"]) for port in container(api)["ports"]}[
        service["ports"][0]["targetPort"]
    ] == config["CHAINLYTICS_PORT"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_pods_may_do_little(folder: str) -> None:
    """As the namespace's own policy, `restricted`, demands, and more."""
    account = named(folder, "ServiceAccount")["chainlytics"]
    assert account["automountServiceAccountToken"] is False
    dockerfile = (ROOT.parent.parent / "Dockerfile").read_text(encoding="utf-8")
    for name, deployment in named(folder, "Deployment").items():
        assert pod(deployment)["serviceAccountName"] == "chainlytics"
        assert pod(deployment)["automountServiceAccountToken"] is False
        context = pod(deployment)["securityContext"]
        assert context["runAsNonRoot"] is True
        assert f"--uid {context['runAsUser']} " in dockerfile
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        one = container(deployment)
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert one["resources"]["requests"].keys() == {"cpu", "memory"}, name
        assert "memory" in one["resources"]["limits"], name
        mounts = {mount["name"] for mount in one["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod(deployment)["volumes"]}
        assert ":" in one["image"]
        assert not one["image"].endswith(":latest")


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_network_is_closed_but_for_what_is_named(folder: str) -> None:
    policies = {name: one["spec"] for name, one in named(folder, "NetworkPolicy").items()}
    assert policies.pop("nothing") == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert all(one["podSelector"]["matchLabels"] for one in policies.values())
    assert all("from" in rule for one in policies.values() for rule in one.get("ingress", []))
    assert all("ports" in rule for one in policies.values() for rule in one.get("egress", []))


def test_only_who_must_goes_to_the_internet_and_to_public_addresses_by_https() -> None:
    policies = {name: one["spec"] for name, one in named("base", "NetworkPolicy").items()}
    found: dict[str, set[int]] = {name: set() for name in PROCESSES}
    for policy in (one for name, one in policies.items() if name not in ("nothing", "out")):
        for rule in policy.get("egress", []):
            ports = {port["port"] for port in rule["ports"]}
            for name in _selected(policy["podSelector"]):
                found[name] |= ports
            if ports & {443, 8443}:
                allowed = [block["ipBlock"] for block in rule["to"]]
                for address in NOT_PUBLIC:
                    assert kind_of(ip_address(address)), address
                    assert not any(_holds(block, address) for block in allowed), address
                for address in ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"):
                    assert any(_holds(block, address) for block in allowed), address
    assert {name: ports for name, ports in found.items() if ports} == INTERNET
    everybody = {port["port"] for rule in policies["out"]["egress"] for port in rule["ports"]}
    assert everybody == {53, 5432, 9092}


#: What webhooks refuse themselves (eventstore/webhooks/addresses.py), once more by the network.
NOT_PUBLIC = (
    *("10.1.2.3", "172.16.0.1", "192.168.1.1", "127.0.0.1", "169.254.169.254", "100.64.0.1"),
    *("0.0.0.0", "224.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.0.192", "168.63.129.16"),
    *("192.0.2.1", "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.175.48.1", "198.51.100.1"),
    *("203.0.113.1", "2001::1", "2001:db8::1", "2002::1", "2620:4f:8000::1", "3fff::1"),
    *(
        "::1",
        "fe80::1",
        "fd00:ec2::254",
        "fc00::1",
        "ff02::1",
        "::ffff:10.1.2.3",
        "64:ff9b::a01:203",
    ),
)


def _holds(block: dict[str, Any], address: str) -> bool:
    one = ip_address(address)
    inside = [ip_network(each) for each in (block["cidr"], *block.get("except", ()))]
    assert all(other.version == inside[0].version for other in inside)
    return one in inside[0] and not any(one in other for other in inside[1:])


def _selected(selector: dict[str, Any]) -> set[str]:
    """The processes that a policy is about, by their labels."""
    labels = {
        name: one["spec"]["template"]["metadata"]["labels"]
        for name, one in named("base", "Deployment").items()
    }
    return {
        name
        for name, mine in labels.items()
        if selector["matchLabels"].items() <= mine.items()
        and all(
            (one["operator"], mine.get(one["key"]) in one["values"]) == ("In", True)
            for one in selector.get("matchExpressions", [])
        )
    }


@pytest.mark.parametrize("folder", FOLDERS)
def test_there_are_never_more_workers_than_lanes(folder: str) -> None:
    lanes = int(named(folder, "ConfigMap")["chainlytics"]["data"]["CHAINLYTICS_KAFKA_LANES"])
    scalers = named(folder, "HorizontalPodAutoscaler")
    assert scalers.keys() == {"api", "projector", "consumer"}
    for name, scaler in scalers.items():
        assert scaler["spec"]["scaleTargetRef"]["name"] == name
        assert "replicas" not in named(folder, "Deployment")[name]["spec"], "two would set it"
        [metric] = scaler["spec"]["metrics"]
        if name == "api":
            assert metric["resource"]["name"] == "cpu"
        else:
            assert metric["external"]["metric"]["name"] == f"chainlytics_{name}_lane_behind_seconds"
            assert scaler["spec"]["maxReplicas"] == lanes
    for name in ("relay", "intake"):
        assert 1 <= named(folder, "Deployment")[name]["spec"]["replicas"] <= lanes
    for name in ("webhooks", "tasks"):
        replicas = named(folder, "Deployment")[name]["spec"]["replicas"]
        assert replicas == (1 if folder.endswith("trial") else 2), name
    budgets = named(folder, "PodDisruptionBudget")
    assert budgets.keys() == PROCESSES
    for name, budget in budgets.items():
        labels = budget["spec"]["selector"]["matchLabels"]
        assert labels == named(folder, "Deployment")[name]["spec"]["selector"]["matchLabels"]


def test_no_secret_stands_in_the_tree() -> None:
    for path in ROOT.rglob("*.yaml"):
        for manifest in load(path):
            assert manifest.get("kind") != "Secret", path
    external = {
        one["metadata"]["name"]: one for one in load(ROOT / "examples/external-secrets.yaml")
    }
    assert {
        name: {entry["secretKey"] for entry in one["spec"]["data"]}
        for name, one in external.items()
    } == {name: keys for name, (keys, _) in SECRETS_OF.items()}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, (keys, _) in SECRETS_OF.items():
        for one in keys | {name}:
            assert one in readme, one


def test_the_adapter_makes_the_metrics_of_the_autoscalers() -> None:
    [adapter] = load(ROOT / "examples/prometheus-adapter.yaml")
    rules = {rule["name"]["as"]: rule for rule in adapter["rules"]["external"]}
    wanted = {
        metric["external"]["metric"]["name"]
        for scaler in named("base", "HorizontalPodAutoscaler").values()
        for metric in scaler["spec"]["metrics"]
        if metric["type"] == "External"
    }
    assert rules.keys() == wanted
    series = "chainlytics_projection_lane_behind_seconds"
    tables = {"projector": set(TABLES), "consumer": {table.name for table in FEATURE_TABLES}}
    everything = tables["projector"] | tables["consumer"]
    for name, rule in rules.items():
        assert rule["seriesQuery"] == series
        found = re.fullmatch(
            rf'max\({series}\{{projection(=~|!~)"([^"]*)"\}}\)', rule["metricsQuery"]
        )
        assert found is not None
        of_them = {one for one in everything if re.fullmatch(found[2], one)}
        who = name.split("_")[1]
        assert (of_them if found[1] == "=~" else everything - of_them) == tables[who]


def test_what_prometheus_is_to_ask_in_a_cluster_is_there() -> None:
    [said] = load(ROOT / "examples/prometheus.yaml")
    ports = {
        port["name"]
        for deployment in named("base", "Deployment").values()
        for port in container(deployment)["ports"]
    }
    for job in said["scrape_configs"]:
        [kept] = [one for one in job["relabel_configs"] if one.get("action") == "keep"]
        assert kept["regex"] in ports
    ours = yaml.safe_load((ROOT.parent / "prometheus" / "prometheus.yml").read_text("utf-8"))
    names = [job["job_name"] for job in said["scrape_configs"]]
    assert names == [job["job_name"] for job in ours["scrape_configs"]]
