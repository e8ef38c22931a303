"""What the tests read of Istio's charts: `make charts` puts them into `.lab/charts`."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parents[2] / ".lab" / "charts"

_WRAPPER = "_internal_defaults_do_not_set"
"""Istio's charts keep their defaults under this key, so that a profile can go in between."""


# libyaml's, where PyYAML has it: 20,000 lines in a second instead of five
_FastLoader: type[yaml.CSafeLoader | yaml.SafeLoader] = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)


def _read(path: str) -> str:
    file = FOLDER / path
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: run `make charts`")
    return file.read_text(encoding="utf-8")


@functools.cache
def _load(path: str) -> Any:
    return yaml.safe_load(_read(path))


def defaults(chart: str) -> dict[str, Any]:
    """A chart's own values."""
    return dict(copy.deepcopy(_load(f"{chart}/values.yaml")[_WRAPPER]))


def profile(chart: str, name: str) -> dict[str, Any]:
    """A profile's values, as the chart carries them."""
    return dict(copy.deepcopy(_load(f"{chart}/files/profile-{name}.yaml")))


def schema(chart: str) -> dict[str, Any]:
    """A chart's JSON schema of values."""
    return dict(_load(f"{chart}/values.schema.json"))


@functools.cache
def templates(chart: str) -> str:
    """A chart's templates, in one text."""
    return "\n".join(
        file.read_text(encoding="utf-8")
        for file in sorted((FOLDER / chart / "templates").iterdir())
    )


def crds() -> str:
    """Istio's CRDs, as chart `base` carries them."""
    return _read("base/files/crd-all.gen.yaml")


@functools.cache
def _crd_versions() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"], version)
        for crd in yaml.load_all(crds(), Loader=_FastLoader)
        if crd
        for version in crd["spec"]["versions"]
    ]


def crd_schemas() -> dict[tuple[str, str], dict[str, Any]]:
    """The schema of every served Istio kind, by (apiVersion, kind)."""
    return {
        (api_version, kind): version["schema"]["openAPIV3Schema"]
        for api_version, kind, version in _crd_versions()
        if version["served"]
    }


def stored_versions() -> set[tuple[str, str]]:
    """The (apiVersion, kind) in which the API server keeps every Istio kind."""
    return {(api, kind) for api, kind, version in _crd_versions() if version["storage"]}


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Two trees of values as Helm merges them: maps key by key, everything else replaced."""
    result = copy.deepcopy(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result
