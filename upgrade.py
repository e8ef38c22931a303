"""No change of istiods leaves proxies without one: refused before anything is registered.

Which istiods run is read from the cluster once, and whose proxies are whose only where there are,
or will be, istiods beside the default one.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi

from components.cluster import Cluster
from components.control_plane import Revision
from components.kinds import DEFAULT_REVISION, ROOT_NAMESPACE, ClusterAccess

_LABEL = "istio.io/rev"
_VERSION = re.compile(r"1\.([1-9]\d*)\.\d+")
"""Istio's releases. 1.0.0 is none of them: the charts of its source tree say that."""

_LINES = 20
"""Lines that name pods; the rest is counted."""

Object = dict[str, Any]


class UpgradeError(pulumi.RunError):
    """A change of istiods that Istio does not support, or that leaves proxies alone.

    A `RunError`: Pulumi prints its message and no traceback.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class Istiods:
    """The istiods that are declared."""

    version: str
    """The default one's Istio release."""

    revisions: tuple[Revision, ...]
    """Those beside it."""

    namespace: str
    """The mesh namespace."""

    namespace_revision: str | None
    """Which of them injects its pods; None: the default one."""

    @property
    def versions(self) -> dict[str, str]:
        """Releases, by revision."""
        return {DEFAULT_REVISION: self.version} | {one.name: one.version for one in self.revisions}

    @property
    def of_namespace(self) -> str:
        """The revision that injects the namespace's pods."""
        return self.namespace_revision or DEFAULT_REVISION


@dataclass(frozen=True, kw_only=True, slots=True)
class _Proxy:
    """A pod with a proxy."""

    namespace: str
    pod: str
    revision: str
    """Of the istiod that injected it, which it asks until it is deleted."""


def installed(cluster: Cluster) -> dict[str, str | None]:
    """Releases of the istiods that are there, by revision; None: nobody can tell which.

    Raises:
        ClusterError: They may not be read, or the API server does not answer.
    """
    found: dict[str, str | None] = {}
    for item in cluster.objects("deployments.apps", namespace=ROOT_NAMESPACE):
        labels = item["metadata"].get("labels") or {}
        if labels.get("app") == "istiod":
            found[labels.get(_LABEL, DEFAULT_REVISION)] = _release(item, labels)
    return found


def check(
    cluster: Cluster, access: ClusterAccess, declared: Istiods, there: Mapping[str, str | None]
) -> None:
    """Make sure that every istiod can become what is declared, or can go.

    Pods of the mesh namespace that have not gone over to its istiod yet are a warning.

    Args:
        cluster: Where.
        access: The same, for the commands of an error.
        declared: The istiods that are declared.
        there: What `installed` has found.

    Raises:
        UpgradeError: An istiod would skip a minor release or go back to an older one, or one goes
            that proxies or namespaces still need.
        ClusterError: Pods or namespaces cannot be read.
    """
    problems = [
        problem
        for revision, version in declared.versions.items()
        if (problem := _step(declared, revision, there.get(revision), version))
    ]
    gone = [revision for revision in there if revision not in declared.versions]
    if gone or declared.revisions:
        proxies = _proxies(cluster.objects("pods"))
        labelled = _labelled(cluster.objects("namespaces")) if gone else {}
        for revision in gone:
            problems += _removal(
                access,
                declared,
                revision,
                version=there[revision],
                proxies=proxies,
                labelled=labelled,
            )
        if not problems:
            _warn(access, declared, proxies)
    if problems:
        raise UpgradeError("\n\n".join(problems))


def outputs(declared: Istiods, *, gateways: bool) -> dict[str, str]:
    """What each istiod serves, in words, by revision."""
    serves: dict[str, list[str]] = {revision: [] for revision in declared.versions}
    serves[declared.of_namespace].append(f"namespace {declared.namespace}")
    if gateways:
        serves[DEFAULT_REVISION].append("gateways")
    return {
        revision: f"{declared.versions[revision]}: {', '.join(what) or 'nothing of this stack'}"
        for revision, what in serves.items()
    }


def _release(deployment: Object, labels: Mapping[str, str]) -> str | None:
    containers = deployment["spec"]["template"]["spec"]["containers"]
    tags = [one["image"].rpartition(":")[2] for one in containers if one["name"] == "discovery"]
    # a tag may be anything; the chart's version is not what runs where the tag says another
    said = (_VERSION.match(text) for text in (*tags, labels.get("app.kubernetes.io/version", "")))
    return next((found[0] for found in said if found), None)


def _step(declared: Istiods, revision: str, now: str | None, version: str) -> str | None:
    """What is wrong with a change of one istiod's release; None: nothing."""
    if now is None:
        return None
    before, after = _minor(now), _minor(version)
    if 0 <= after - before <= 1:
        return None
    key, option = "istioVersion", ""
    if revision != DEFAULT_REVISION:
        index = [one.name for one in declared.revisions].index(revision)
        key, option = f"revisions[{index}].version", "--path "
    command = f"pulumi config set {option}{shlex.quote(key)}"
    said = f"1.{before}.Z or 1.{before + 1}.Z: the istiod that runs is {now}"
    if after > before:
        said += ", and Istio goes up one minor release at a time"
        steps = [f"{command} 1.{before + 1}.0 && pulumi up, restart the proxies, then the next one"]
    else:
        said += ", and its proxies would be newer than their istiod, which Istio does not support"
        steps = [
            f"{command} {now}",
            f"and for pods that need {version} an istiod beside it: {_add(declared, version)}",
        ]
    return _problem(f'{key} is "{version}"', said, [], steps)


def _minor(version: str) -> int:
    return int(version.split(".")[1])


def _add(declared: Istiods, version: str, name: str | None = None) -> str:
    """The commands that declare one more istiod."""
    path = f"revisions[{len(declared.revisions)}]"
    return (
        f"pulumi config set --path '{path}.name' {name or version.replace('.', '-')} && "
        f"pulumi config set --path '{path}.version' {version}"
    )


def _proxies(pods: Sequence[Object]) -> list[_Proxy]:
    """The proxies that ask an istiod: of pods that live, and stay."""
    found = []
    for pod in pods:
        meta = pod["metadata"]
        # the annotation and not the label, which istiod's own pods have too
        revision = (meta.get("annotations") or {}).get(_LABEL)
        ended = (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}
        if revision and not ended and "deletionTimestamp" not in meta:
            found.append(_Proxy(namespace=meta["namespace"], pod=meta["name"], revision=revision))
    return sorted(found, key=lambda one: (one.namespace, one.pod))


def _labelled(namespaces: Sequence[Object]) -> dict[str, str]:
    """Revisions that namespaces ask for, by namespace."""
    labels = {one["metadata"]["name"]: one["metadata"].get("labels") or {} for one in namespaces}
    return {name: said[_LABEL] for name, said in labels.items() if _LABEL in said}


def _removal(
    access: ClusterAccess,
    declared: Istiods,
    revision: str,
    *,
    version: str | None,
    proxies: Sequence[_Proxy],
    labelled: Mapping[str, str],
) -> list[str]:
    """What is wrong with taking an istiod away; empty: nothing."""
    attached = [one for one in proxies if one.revision == revision]
    # the mesh namespace itself is labelled anew before an istiod is taken away
    asking = [
        name for name, said in labelled.items() if said == revision and name != declared.namespace
    ]
    if not attached and not asking:
        return []
    lines = [*_names(attached), *(f"namespace {name}: {_LABEL}={revision}" for name in asking)]
    steps = [
        f"{_add(declared, version or 'X.Y.Z', revision)} && pulumi up",
        *(
            f"{access.kubectl()} label namespace {name} {_LABEL}- istio-injection=enabled"
            for name in asking
        ),
        *_restarts(access, attached),
        "wait until that is done, then run this again without it",
    ]
    allowed = (
        f"what leaves no proxy without its istiod; {revision} still has {len(attached)}, and "
        f"{len(asking)} other namespaces ask for it"
    )
    return [_problem(f"revisions is without {revision}", allowed, lines, steps)]


def _warn(access: ClusterAccess, declared: Istiods, proxies: Sequence[_Proxy]) -> None:
    wanted = declared.of_namespace
    here = [one for one in proxies if one.namespace == declared.namespace]
    if late := [one for one in here if one.revision != wanted]:
        [restart] = _restarts(access, late)
        lines = "".join(f"\n  {line}" for line in _names(late))
        pulumi.log.warn(
            f"namespace {declared.namespace} belongs to istiod {wanted}, and {len(late)} of its "
            f"{len(here)} proxies still ask another until they are restarted:{lines}\n"
            f"  {restart}"
        )


def _names(proxies: Sequence[_Proxy]) -> list[str]:
    shown = [f"{one.namespace}/{one.pod}: {one.revision}" for one in proxies[:_LINES]]
    return [*shown, *([f"and {len(proxies) - _LINES} more"] if len(proxies) > _LINES else [])]


def _restarts(access: ClusterAccess, proxies: Sequence[_Proxy]) -> list[str]:
    return [
        f"{access.kubectl()} -n {namespace} rollout restart deployment"
        for namespace in sorted({one.namespace for one in proxies})
    ]


def _problem(heading: str, allowed: str, lines: Sequence[str], steps: Sequence[str]) -> str:
    listed = "".join(f"\n           {line}" for line in lines)
    fix = "\n           ".join(steps)
    return f"{heading}\n  allowed: {allowed}{':' if lines else ''}{listed}\n  fix:     {fix}"
