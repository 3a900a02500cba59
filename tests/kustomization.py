"""Builds a kustomization as `kubectl kustomize` does, as far as ours go, and refuses what it does
not know: so that manifests are tested where no kubectl is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]

_KNOWN = {"apiVersion", "kind", "namespace", "resources", "images", "patches"}
_CLUSTER_WIDE = {"Namespace"}
#: How elements of lists are found again; a list that is not named is replaced whole.
_MERGED_BY = {
    "containers": "name",
    "env": "name",
    "ports": "containerPort",
    "volumes": "name",
    "volumeMounts": "mountPath",
}


def build(folder: Path) -> list[Manifest]:
    """The manifests of a kustomization's folder.

    Raises:
        AssertionError: it holds something that is not known here.
    """
    text = (folder / "kustomization.yaml").read_text(encoding="utf-8")
    said: Manifest = yaml.safe_load(text)
    assert said.keys() <= _KNOWN, said.keys() - _KNOWN
    found: list[Manifest] = []
    for name in said["resources"]:
        path = (folder / name).resolve()
        found += build(path) if path.is_dir() else load(path)
    for patch in said.get("patches", []):
        found = _patched(found, patch, folder)
    for manifest in found:
        if "namespace" in said and manifest["kind"] not in _CLUSTER_WIDE:
            manifest["metadata"]["namespace"] = said["namespace"]
        for image in said.get("images", []):
            _rename_image(manifest, image)
    keys = [key(manifest) for manifest in found]
    assert len(set(keys)) == len(keys), "two manifests of one name"
    return found


def load(path: Path) -> list[Manifest]:
    """The manifests of a file."""
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]


def key(manifest: Manifest) -> tuple[str, str]:
    """What a manifest is called."""
    return manifest["kind"], manifest["metadata"]["name"]


def _patched(found: Iterable[Manifest], patch: Manifest, folder: Path) -> list[Manifest]:
    assert patch.keys() in ({"path", "target"}, {"patch", "target"}), patch
    target = patch["target"]
    assert target.keys() <= {"kind", "name"}, target
    text = patch["patch"] if "patch" in patch else (folder / patch["path"]).read_text("utf-8")
    change = yaml.safe_load(text)
    done, hits = [], 0
    for manifest in found:
        if manifest["kind"] == target["kind"] and re.fullmatch(
            target.get("name", ".*"), manifest["metadata"]["name"]
        ):
            hits += 1
            if isinstance(change, list):
                manifest = _operated(manifest, change)
            else:
                name = manifest["metadata"]["name"]
                manifest = _merged(manifest, change)
                manifest["metadata"]["name"] = name
        done.append(manifest)
    assert hits, f"nothing is patched by {target}"
    return done


def _merged(old: Any, new: Any, name: str = "") -> Any:
    """A strategic merge."""
    if isinstance(old, dict) and isinstance(new, dict):
        both = {field: _merged(old[field], new[field], field) for field in old.keys() & new.keys()}
        return deepcopy(old | new) | both
    by = _MERGED_BY.get(name)
    if by is None or not isinstance(old, list):
        return deepcopy(new)
    elements = {one[by]: one for one in old}
    for one in new:
        elements[one[by]] = _merged(elements[one[by]], one) if one[by] in elements else one
    return list(elements.values())


def _operated(manifest: Manifest, operations: list[Manifest]) -> Manifest:
    """JSON Patch."""
    manifest = deepcopy(manifest)
    for operation in operations:
        *way, last = operation["path"].strip("/").split("/")
        place: Any = manifest
        for step in way:
            place = place[int(step) if isinstance(place, list) else step]
        if isinstance(place, list):
            assert (operation["op"], last) == ("add", "-"), operation
            place.append(operation["value"])
        else:
            assert operation["op"] in ("add", "replace"), operation
            assert operation["op"] == "add" or last in place, operation
            place[last] = operation["value"]
    return manifest


def _rename_image(manifest: Manifest, image: Manifest) -> None:
    assert image.keys() == {"name", "newName", "newTag"}, image
    if manifest["kind"] == "Deployment":
        for container in manifest["spec"]["template"]["spec"]["containers"]:
            if container["image"].rpartition(":")[0] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"
