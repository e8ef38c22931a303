"""Volumes of a pod as folders: what a kubelet writes before it starts the containers."""

from __future__ import annotations

import base64
import json
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from lab.node.api import Api, Json

_DEFAULT_TOKEN_SECONDS = 3600
_MAPS = ("metadata.labels", "metadata.annotations")

_REFRESH_AT = 0.8
"""Share of a token's life after which a kubelet asks for the next one."""


class NotYetError(Exception):
    """Something the pod mounts does not exist (yet): the pod waits, as on any node."""


class Volumes:
    """The volumes of one pod, written below one folder and kept up to date."""

    def __init__(self, api: Api, pod: Json, folder: Path) -> None:
        self._api = api
        self._pod = pod
        self._folder = folder
        self._token_due: dict[Path, float] = {}

    def path(self, volume: str) -> Path:
        """The folder of one volume."""
        return self._folder / volume

    async def write(self) -> None:
        """Write every volume, or bring it up to date.

        Raises:
            NotYetError: a ConfigMap or Secret that is not optional does not exist.
        """
        for volume in self._pod["spec"].get("volumes") or []:
            folder = self.path(volume["name"])
            folder.mkdir(parents=True, exist_ok=True)
            if "emptyDir" in volume:
                folder.chmod(0o777)
            else:
                await self._write_source(folder, volume)

    async def _write_source(self, folder: Path, source: Json) -> None:
        """Write one volume source, or one source of a projected volume."""
        if "configMap" in source:
            await self._write_data(folder, "configmaps", source["configMap"], "name")
        elif "secret" in source:
            key = "name" if "name" in source["secret"] else "secretName"
            await self._write_data(folder, "secrets", source["secret"], key)
        elif "downwardAPI" in source:
            for item in source["downwardAPI"].get("items") or []:
                if "fieldRef" in item:
                    value = field(self._pod, item["fieldRef"]["fieldPath"])
                    _replace(folder / item["path"], value.encode())
        elif "serviceAccountToken" in source:
            await self._write_token(folder, source["serviceAccountToken"])
        elif "projected" in source:
            for part in source["projected"].get("sources") or []:
                await self._write_source(folder, part)
        else:
            kinds = sorted(source.keys() - {"name"})
            raise NotYetError(f"the lab has no volumes of kind {', '.join(kinds)}")

    async def _write_data(self, folder: Path, plural: str, source: Json, key: str) -> None:
        namespace = self._pod["metadata"]["namespace"]
        found = await self._api.find(f"/api/v1/namespaces/{namespace}/{plural}/{source[key]}")
        if found is None:
            if source.get("optional"):
                return
            raise NotYetError(f"{plural[:-1]} {namespace}/{source[key]} not found")
        data = {name: text.encode() for name, text in (found.get("data") or {}).items()}
        if plural == "secrets":
            data = {name: base64.b64decode(text) for name, text in data.items()}
        data |= {n: base64.b64decode(t) for n, t in (found.get("binaryData") or {}).items()}
        wanted = source.get("items") or [{"key": name, "path": name} for name in data]
        for item in wanted:
            if item["key"] in data:
                _replace(folder / item["path"], data[item["key"]])
            elif not source.get("optional"):
                raise NotYetError(f"{plural[:-1]} {namespace}/{source[key]} has no {item['key']}")

    async def _write_token(self, folder: Path, source: Json) -> None:
        path = folder / source["path"]
        if time.monotonic() < self._token_due.get(path, 0):
            return
        meta, spec = self._pod["metadata"], self._pod["spec"]
        seconds = int(source.get("expirationSeconds") or _DEFAULT_TOKEN_SECONDS)
        bound = {"kind": "Pod", "apiVersion": "v1", "name": meta["name"], "uid": meta["uid"]}
        request = {"expirationSeconds": seconds, "boundObjectRef": bound}
        if source.get("audience"):
            request["audiences"] = [source["audience"]]
        account = spec.get("serviceAccountName") or "default"
        answer = await self._api.request(
            "POST",
            f"/api/v1/namespaces/{meta['namespace']}/serviceaccounts/{account}/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": request},
        )
        _replace(path, answer["status"]["token"].encode())
        self._token_due[path] = time.monotonic() + _REFRESH_AT * seconds


def field(pod: Json, path: str) -> str:
    """A pod's field as the downward API gives it: `metadata.labels`, `status.podIP`, ...

    Raises:
        KeyError: the pod has no such field.
    """
    name, _, key = path.partition("['")
    value: object = pod
    for part in name.split("."):
        value = value.get(part, {}) if isinstance(value, dict) else {}
    if key:
        value = value.get(key.removesuffix("']"), "") if isinstance(value, dict) else ""
    elif isinstance(value, dict) and name in _MAPS:
        pairs = sorted(value.items())
        return "\n".join(f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in pairs)
    if not isinstance(value, (str, int)):
        raise KeyError(path)
    return str(value)


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old or the new one; leave an equal one alone."""
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content)
    fresh.chmod(0o644)
    os.replace(fresh, path)  # noqa: PTH105 (Path.replace reads as str.replace here)
