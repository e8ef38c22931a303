"""No change of istiods leaves proxies without one: refused before anything is registered.

Which istiods run, and which tags point to them, is read from the cluster once. Of the proxies those
of the mesh namespace are looked at, and all of them where an istiod or a tag goes, where an istiod
goes to another minor release, or where there are istiods beside the default one.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pulumi

from components.cluster import Cluster
from components.control_plane import Revision
from components.gateway import Direction
from components.kinds import DEFAULT_REVISION, ROOT_NAMESPACE, STACK_ANNOTATION, ClusterAccess

_LABEL, _TAG = "istio.io/rev", "istio.io/tag"
_VERSION = re.compile(r"1\.([1-9]\d*)\.\d+")
"""Istio's releases. 1.0.0 is none of them: the charts of its source tree say that."""

_LINES = 20
"""Lines that name pods; the rest is counted."""

Object = dict[str, Any]
_Field = Literal["revision", "release", "asked"]


class UpgradeError(pulumi.RunError):
    """A change of istiods that Istio does not support, or that leaves proxies alone.

    A `RunError`: Pulumi prints its message and no traceback.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class Istiods:
    """The istiods that are declared."""

    stack: str
    """Name of the stack, as written on the tags that it makes."""

    version: str
    """The default one's Istio release."""

    image_tag: str | None
    """Tag of the default one's images; None: its release's."""

    revisions: tuple[Revision, ...]
    """Those beside it."""

    tags: Mapping[str, str]
    """Revisions, by the tags that point to them."""

    namespace: str
    """The mesh namespace."""

    namespace_revision: str | None
    """Which of them injects its pods, by revision or tag; None: the default one."""

    gateway_revision: str | None
    """Which of them injects the gateways' pods, likewise."""

    @property
    def versions(self) -> dict[str, str]:
        """Releases, by revision."""
        return {DEFAULT_REVISION: self.version} | {one.name: one.version for one in self.revisions}

    @property
    def proxies(self) -> dict[str, str | None]:
        """Releases of the proxies that they inject, by revision; None: nobody can tell which."""
        tags = {DEFAULT_REVISION: self.image_tag}
        tags |= {one.name: one.image_tag for one in self.revisions}
        return {
            revision: _release(tags[revision] or version)
            for revision, version in self.versions.items()
        }

    @property
    def of_namespace(self) -> str:
        """The revision that injects the namespace's pods."""
        return self._revision(self.namespace_revision)

    @property
    def of_gateways(self) -> str:
        """The revision that injects the gateways' pods."""
        return self._revision(self.gateway_revision)

    def _revision(self, asked: str | None) -> str:
        return self.tags.get(asked, asked) if asked else DEFAULT_REVISION


@dataclass(frozen=True, kw_only=True, slots=True)
class Tag:
    """A revision tag that is there."""

    revision: str
    """Which istiod it points to."""

    stack: str | None
    """The stack that made it; None: somebody else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """The istiods that are there."""

    versions: Mapping[str, str | None]
    """Their releases, by revision; None: nobody can tell which."""

    tags: Mapping[str, Tag]
    """The tags that point to them, by name."""

    def own_tags(self, stack: str) -> set[str]:
        """Names of the tags that a stack made."""
        return {name for name, tag in self.tags.items() if tag.stack == stack}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Proxy:
    """A pod with a proxy."""

    namespace: str
    pod: str
    revision: str
    """Of the istiod that injected it, which it asks until it is deleted."""

    asked: str | None
    """The revision or tag of its own label."""

    release: str | None
    """Of its image; None: nobody can tell which."""

    gateway: str | None
    """Its Deployment, if it is a gateway of this program."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Change:
    """What an update would do to the istiods, and whom it meets."""

    access: ClusterAccess
    declared: Istiods
    there: Running
    proxies: Sequence[_Proxy]
    labelled: Mapping[str, str] = field(default_factory=dict)
    """Revisions and tags that namespaces ask for, by namespace."""


def installed(cluster: Cluster) -> Running:
    """The istiods that are there, and the tags that point to them.

    Raises:
        ClusterError: They may not be read, or the API server does not answer.
    """
    versions: dict[str, str | None] = {}
    for item in cluster.objects("deployments.apps", namespace=ROOT_NAMESPACE):
        labels = item["metadata"].get("labels") or {}
        if labels.get("app") == "istiod":
            # the chart's version is not what runs where the image's tag says another
            versions[labels.get(_LABEL, DEFAULT_REVISION)] = _image_release(
                item["spec"]["template"]["spec"], "discovery"
            ) or _release(labels.get("app.kubernetes.io/version", ""))
    tags = {}
    for item in cluster.objects("mutatingwebhookconfigurations.admissionregistration.k8s.io"):
        meta = item["metadata"]
        labels = meta.get("labels") or {}
        if _TAG in labels:
            stack = (meta.get("annotations") or {}).get(STACK_ANNOTATION)
            revision = labels.get(_LABEL, DEFAULT_REVISION)
            tags[labels[_TAG]] = Tag(revision=revision, stack=stack)
    return Running(versions=versions, tags=tags)


def check(cluster: Cluster, access: ClusterAccess, declared: Istiods, there: Running) -> None:
    """Make sure that every istiod and every tag can become what is declared, or can go.

    Proxies of this program that have not gone over to their istiod, or its release, are a warning.

    Args:
        cluster: Where.
        access: The same, for the commands of an error.
        declared: The istiods that are declared.
        there: What `installed` has found.

    Raises:
        UpgradeError: An istiod would skip a minor release, go back to an older one or leave proxies
            too far behind; one goes that proxies, namespaces or tags of others still need, or a tag
            goes that others ask for; a tag is somebody else's.
        ClusterError: Pods or namespaces cannot be read.
    """
    gone = [revision for revision in there.versions if revision not in declared.versions]
    lost = sorted(there.own_tags(declared.stack) - declared.tags.keys())
    onward = [
        revision
        for revision, version in declared.versions.items()
        if (now := there.versions.get(revision)) and _minor(now) != _minor(version)
    ]
    everywhere = gone or lost or onward or declared.revisions
    pods = cluster.objects("pods", namespace=None if everywhere else declared.namespace)
    change = _Change(
        access=access,
        declared=declared,
        there=there,
        proxies=_proxies(pods),
        labelled=_labelled(cluster.objects("namespaces")) if gone or lost else {},
    )
    problems = [
        *(_step(change, revision) or _left_behind(change, revision) for revision in onward),
        *(_taken(change, tag) for tag in declared.tags),
        *(_tag_removal(change, tag) for tag in lost),
        *(_removal(change, revision) for revision in gone),
    ]
    if found := [problem for problem in problems if problem]:
        raise UpgradeError("\n\n".join(found))
    _warn(change)


def outputs(declared: Istiods, *, gateways: bool) -> dict[str, str]:
    """What each istiod serves, in words, by revision."""
    serves: dict[str, list[str]] = {revision: [] for revision in declared.versions}
    for tag, revision in declared.tags.items():
        serves[revision].append(f"tag {tag}")
    serves[declared.of_namespace].append(f"namespace {declared.namespace}")
    if gateways:
        serves[declared.of_gateways].append("gateways")
    return {
        revision: f"{declared.versions[revision]}: {', '.join(what) or 'nothing of this stack'}"
        for revision, what in serves.items()
    }


def _release(tag: str) -> str | None:
    """Istio's release in an image's tag, which may be anything."""
    found = _VERSION.match(tag)
    return found[0] if found else None


def _image_release(spec: Object, container: str) -> str | None:
    """The release of a container of a pod, which is an init container if it is a native sidecar."""
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    images = [one["image"].partition("@")[0] for one in containers if one["name"] == container]
    return next((_release(image.rpartition(":")[2]) for image in images), None)


def _minor(version: str) -> int:
    return int(version.split(".")[1])


def _parts(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def _setting(declared: Istiods, revision: str) -> tuple[str, str]:
    """The setting of an istiod's release, and the command that sets it."""
    if revision == DEFAULT_REVISION:
        return "istioVersion", "pulumi config set istioVersion"
    index = [one.name for one in declared.revisions].index(revision)
    key = f"revisions[{index}].version"
    return key, f"pulumi config set --path {shlex.quote(key)}"


def _step(change: _Change, revision: str) -> str | None:
    """What is wrong with a change of one istiod's minor release; None: nothing."""
    version, now = change.declared.versions[revision], change.there.versions[revision] or ""
    before, after = _minor(now), _minor(version)
    if after == before + 1:
        return None
    key, command = _setting(change.declared, revision)
    said = f"1.{before}.Z or 1.{before + 1}.Z: the istiod that runs is {now}"
    if after > before:
        said += ", and Istio goes up one minor release at a time"
        steps = [f"{command} 1.{before + 1}.0 && pulumi up, restart the proxies, then the next one"]
    else:
        said += ", and its proxies would be newer than their istiod, which Istio does not support"
        beside = _add(change.declared, version)
        steps = [
            f"{command} {now}",
            f"and for pods that need {version} an istiod beside it: {beside}",
        ]
    return _problem(f'{key} is "{version}"', said, [], steps)


def _left_behind(change: _Change, revision: str) -> str | None:
    """Whom an istiod's next minor release would leave two releases behind; None: nobody."""
    version, now = change.declared.versions[revision], change.there.versions[revision] or ""
    late = [
        one
        for one in change.proxies
        if one.revision == revision and one.release and _minor(one.release) < _minor(version) - 1
    ]
    if not late:
        return None
    allowed = (
        f"1.{_minor(now)}.Z while {len(late)} proxies are older than that: Istio supports proxies "
        "that are one minor release behind their istiod"
    )
    steps = [
        *_restarts(change.access, late),
        "wait until that is done, then run this again",
    ]
    key, _ = _setting(change.declared, revision)
    return _problem(f'{key} is "{version}"', allowed, _names(late, "release"), steps)


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
        # the annotation and not the label, which istiod's own pods have too and may say a tag
        revision = (meta.get("annotations") or {}).get(_LABEL)
        ended = (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}
        if revision and not ended and "deletionTimestamp" not in meta:
            labels = meta.get("labels") or {}
            direction = labels.get("istio")
            ours = meta["namespace"] == ROOT_NAMESPACE and direction in set(Direction)
            found.append(
                _Proxy(
                    namespace=meta["namespace"],
                    pod=meta["name"],
                    revision=revision,
                    asked=labels.get(_LABEL),
                    release=_image_release(pod.get("spec") or {}, "istio-proxy"),
                    gateway=f"istio-{direction}" if ours else None,
                )
            )
    return sorted(found, key=lambda one: (one.namespace, one.pod))


def _labelled(namespaces: Sequence[Object]) -> dict[str, str]:
    """Revisions and tags that namespaces ask for, by namespace."""
    labels = {one["metadata"]["name"]: one["metadata"].get("labels") or {} for one in namespaces}
    return {name: said[_LABEL] for name, said in labels.items() if _LABEL in said}


def _asking(change: _Change, label: str) -> list[str]:
    """Namespaces that ask for a revision or a tag, but for the mesh namespace.

    That one is labelled anew before an istiod or a tag is taken away.
    """
    own = change.declared.namespace
    return [name for name, said in change.labelled.items() if said == label and name != own]


def _taken(change: _Change, tag: str) -> str | None:
    """What is wrong with a declared tag; None: nothing."""
    found = change.there.tags.get(tag)
    if found is None or found.stack == change.declared.stack:
        return None
    return _problem(
        f"revisionTags has {tag}",
        f"a tag that does not exist yet; this one points to {found.revision} and was made by "
        f"{found.stack or 'somebody else'}",
        [],
        [
            f"pulumi config rm --path revisionTags.{tag}, and another name for it, or "
            f"{_istioctl(change, f'tag remove {tag}')}"
        ],
    )


def _tag_removal(change: _Change, tag: str) -> str | None:
    """What is wrong with taking a tag away; None: nothing."""
    asking = _asking(change, tag)
    # the gateways are labelled anew before
    pods = [one for one in change.proxies if one.asked == tag and not one.gateway]
    if not asking and not pods:
        return None
    revision = change.there.tags[tag].revision
    kubectl = change.access.kubectl()
    return _problem(
        f"revisionTags is without {tag}",
        "what nobody else asks for: new pods would be born without a proxy",
        [
            *(f"namespace {name}: {_LABEL}={tag}" for name in asking),
            *_names(pods, "asked"),
        ],
        [
            f"pulumi config set --path revisionTags.{tag} {revision}",
            *(
                f"{kubectl} label namespace {name} {_LABEL}={revision} --overwrite"
                for name in asking
            ),
            *(["the same label in the templates of these pods"] if pods else []),
            "then run this again without it",
        ],
    )


def _removal(change: _Change, revision: str) -> str | None:
    """What is wrong with taking an istiod away; None: nothing."""
    access, declared = change.access, change.declared
    attached = [one for one in change.proxies if one.revision == revision]
    asking = _asking(change, revision)
    # this stack's own are moved before an istiod is taken away, or go
    tags = [
        name
        for name, tag in change.there.tags.items()
        if tag.revision == revision and tag.stack != declared.stack
    ]
    if not (attached or asking or tags):
        return None
    lines = [
        *_names(attached, "revision"),
        *(f"namespace {name}: {_LABEL}={revision}" for name in asking),
        *(f"tag {name}: {', '.join(_asking(change, name)) or 'no namespace'}" for name in tags),
    ]
    version = change.there.versions[revision] or "X.Y.Z"
    steps = [
        f"{_add(declared, version, revision)} && pulumi up",
        *(
            f"{access.kubectl()} label namespace {name} {_LABEL}- istio-injection=enabled"
            for name in asking
        ),
        *(
            _istioctl(change, f"tag set {name} --revision {DEFAULT_REVISION} --overwrite")
            for name in tags
        ),
        *_restarts(access, attached),
        "wait until that is done, then run this again without it",
    ]
    allowed = (
        f"what leaves no proxy without its istiod; {revision} still has {len(attached)}, and "
        f"{len(asking)} other namespaces ask for it"
    )
    if tags:
        allowed += ", and tags of others point to it"
    return _problem(f"revisions is without {revision}", allowed, lines, steps)


def _warn(change: _Change) -> None:
    """Name the proxies that wait for a restart."""
    declared = change.declared
    here = [one for one in change.proxies if one.namespace == declared.namespace]
    owner = f"namespace {declared.namespace} belongs to istiod {declared.of_namespace}"
    _warn_of(change, declared.of_namespace, f"{owner}, and {{}} of its", here)
    # those with another label are restarted by the update that changes it, and those without one by
    # another release of their chart, which is that of the default istiod
    gateways = [one for one in change.proxies if one.gateway and one.asked]
    ready = [one for one in gateways if one.asked == declared.gateway_revision]
    owner = f"the gateways belong to istiod {declared.of_gateways}"
    _warn_of(change, declared.of_gateways, f"{owner}, and {{}} of their", ready)


def _warn_of(change: _Change, wanted: str, heading: str, proxies: Sequence[_Proxy]) -> None:
    release = change.declared.proxies[wanted]
    late = [one for one in proxies if one.revision != wanted]
    older = [
        one
        for one in proxies
        if one.revision == wanted
        and (one.release and release)
        and _parts(one.release) < _parts(release)
    ]
    waiting: list[tuple[list[_Proxy], _Field, str]] = [
        (late, "revision", "still ask another"),
        (older, "release", f"are older than {release}"),
    ]
    for found, what, said in waiting:
        if found:
            lines = [*_names(found, what), *_restarts(change.access, found)]
            pulumi.log.warn(
                f"{heading.format(len(found))} {len(proxies)} proxies {said} until they are "
                "restarted:" + "".join(f"\n  {line}" for line in lines)
            )


def _names(proxies: Sequence[_Proxy], what: _Field) -> list[str]:
    """The first of these proxies, with what is to be known of each."""
    shown = [f"{one.namespace}/{one.pod}: {getattr(one, what)}" for one in proxies[:_LINES]]
    return [*shown, *([f"and {len(proxies) - _LINES} more"] if len(proxies) > _LINES else [])]


def _restarts(access: ClusterAccess, proxies: Sequence[_Proxy]) -> list[str]:
    which: dict[str, set[str]] = {}
    for one in proxies:
        which.setdefault(one.namespace, set()).add(one.gateway or "")
    return [
        # beside the gateways there are istiods, which need none
        f"{access.kubectl()} -n {namespace} rollout restart deployment "
        f"{' '.join(sorted(names - {''}))}".rstrip()
        for namespace, names in sorted(which.items())
    ]


def _istioctl(change: _Change, words: str) -> str:
    return f"istioctl {words} {change.access.kubectl().partition(' ')[2]}"


def _problem(heading: str, allowed: str, lines: Sequence[str], steps: Sequence[str]) -> str:
    listed = "".join(f"\n           {line}" for line in lines)
    fix = "\n           ".join(steps)
    return f"{heading}\n  allowed: {allowed}{':' if lines else ''}{listed}\n  fix:     {fix}"
