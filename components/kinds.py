"""What several components share: Istio's own names, the choices, and how children are made.

This module makes nothing by itself and imports no other module of the program.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pulumi import CustomTimeouts, Resource, ResourceHook, ResourceHookBinding, ResourceOptions
from pulumi_kubernetes.core.v1 import Namespace
from pulumi_kubernetes.helm.v3 import Release, ReleaseArgs, RepositoryOptsArgs
from pulumi_kubernetes.meta.v1 import ObjectMetaArgs

ROOT_NAMESPACE = "istio-system"
"""Namespace of the control plane and Istio's root namespace: what stands there is mesh-wide."""

DEFAULT_REVISION = "default"
"""What Istio calls the istiod that has no revision: the one of `istio-injection: enabled`."""

STACK_ANNOTATION = "service-mesh/stack"
"""Annotation of a namespace that this program created; its value is the stack's name."""

# Older providers delete in the foreground, look once and then wait for a Deleted event that may
# have passed already, ten minutes for an object that is gone. Deleted in the background it is gone
# at the first look, and the garbage collector sees to what it owned.
_BACKGROUND = {"pulumi.com/deletionPropagationPolicy": "background"}

_CHART_FOLDERS = {"istiod": "istio-control/istio-discovery"}


class Profile(StrEnum):
    """Which parts of Istio are installed and how large they are.

    Names and meaning are istioctl's (`manifests/profiles` and `manifests/helm-profiles` of
    istio/istio). Helm's profiles are values only and cannot switch a part on or off, so the parts
    are told here.
    """

    DEFAULT = "default"
    """istiod and an ingress gateway, sized and scaled for production."""

    DEMO = "demo"
    """Everything small, with access logs, all requests traced, and an egress gateway."""

    MINIMAL = "minimal"
    """istiod alone."""

    @property
    def has_ingress(self) -> bool:
        """Whether the profile comes with an ingress gateway."""
        return self is not Profile.MINIMAL

    @property
    def has_egress(self) -> bool:
        """Whether the profile comes with an egress gateway."""
        return self is Profile.DEMO

    @property
    def chart_value(self) -> str | None:
        """What the charts' `profile` value must be; None where the charts have no such profile."""
        return self.value if self is Profile.DEMO else None


@dataclass(frozen=True, kw_only=True, slots=True)
class ChartSource:
    """Where Istio's Helm charts come from."""

    location: str
    """An https:// Helm repository, or a folder of charts (relative to the program's folder).

    A folder holds `base`, `istiod` and `gateway`, as the charts are published, or has the layout of
    Istio's source tree, `manifests/charts`, where istiod is `istio-control/istio-discovery`.
    """

    @property
    def is_folder(self) -> bool:
        """Whether the charts are read from a folder of this machine."""
        return not self.location.startswith("https://")

    def chart(self, name: str) -> str:
        """What Helm must be told to find a chart.

        Args:
            name: The chart's published name.

        Raises:
            FileNotFoundError: The source is a folder without that chart.
        """
        if not self.is_folder:
            return name
        for folder in (name, _CHART_FOLDERS.get(name, name)):
            if (Path(self.location) / folder / "Chart.yaml").is_file():
                return str(Path(self.location) / folder)
        raise FileNotFoundError(
            f"{self.location} has no chart {name}: neither {name}/Chart.yaml nor the layout of "
            "Istio's manifests/charts"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """Which Istio: what the control plane and its gateways must agree on."""

    version: str
    """Istio's release, e.g. "1.31.1": of the charts in a repository, of the images of a folder."""

    charts: ChartSource
    """Where the charts come from."""

    profile: Profile
    """Which parts and which sizes."""

    timeout_s: int = 300
    """Seconds Helm waits for each release, 30 to 3600. 300 is istioctl's own wait too."""

    def __post_init__(self) -> None:
        """Refuse a wait that is no wait.

        Raises:
            ValueError: timeout_s is out of its range.
        """
        if not 30 <= self.timeout_s <= 3600:  # noqa: PLR2004 the docstring's own figures
            raise ValueError(f"timeout_s is {self.timeout_s}; expected 30 to 3600")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterAccess:
    """How the program itself, not its provider, reaches the cluster."""

    kubeconfig: str
    """Path of the kubeconfig; "" = $KUBECONFIG, which may list several, else ~/.kube/config."""

    context: str
    """Name of the context in it. Never the current one silently."""

    def kubectl(self) -> str:
        """The beginning of a kubectl command that talks to this cluster, quoted for a shell."""
        words = ["kubectl"]
        if self.kubeconfig:
            words += ["--kubeconfig", self.kubeconfig]
        return shlex.join([*words, "--context", self.context])


def metadata(
    name: str,
    *,
    namespace: str | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> ObjectMetaArgs:
    """Metadata of an object that Pulumi itself, not Helm, creates and deletes."""
    return ObjectMetaArgs(
        name=name,
        namespace=namespace,
        labels=labels,
        annotations={**_BACKGROUND, **(annotations or {})},
    )


def child(parent: Resource, *, after: Sequence[Resource] = ()) -> ResourceOptions:
    """Options of a component's child.

    Args:
        parent: The component. Its provider and protection flow to the child.
        after: What must be ready before the child is created, and is deleted after it.
    """
    return ResourceOptions(
        parent=parent, depends_on=list(after), custom_timeouts=CustomTimeouts(delete="2m")
    )


def stack_namespace(
    resource_name: str,
    name: str,
    *,
    stack: str,
    parent: Resource,
    labels: Mapping[str, str] | None = None,
    protect: bool = False,
) -> Namespace:
    """A namespace that the stack creates and owns, and says so in an annotation.

    Args:
        resource_name: Name in Pulumi.
        name: Name in Kubernetes.
        stack: The owner, `project/stack`.
        parent: The component. Its provider and protection flow to the namespace.
        labels: Labels.
        protect: Refuse to delete it, whatever the parent says.
    """
    return Namespace(
        resource_name,
        metadata=metadata(name, labels=labels, annotations={STACK_ANNOTATION: stack}),
        opts=ResourceOptions(
            parent=parent,
            # longer than for other objects: it goes when everything inside has gone
            custom_timeouts=CustomTimeouts(delete="5m"),
            # None rather than False, which would take the parent's protection away
            protect=protect or None,
        ),
    )


def helm_release(
    resource_name: str,
    *,
    name: str,
    chart: str,
    istio: Distribution,
    values: Mapping[str, object],
    parent: Resource,
    before: ResourceHook,
    ready: ResourceHook | None = None,
    after: Sequence[Resource] = (),
    postrender: str | None = None,
    skip_await: bool = False,
    protect: bool = False,
) -> Release:
    """One Helm release in the root namespace.

    The release's name is fixed: Istio's chart of gateways derives labels from it, and Helm takes
    its kept CRDs back only under the same name.

    Args:
        resource_name: The resource's name in Pulumi.
        name: The release's name in Helm.
        chart: The chart's published name.
        istio: Where the chart comes from, its version, and how long Helm waits.
        values: Helm values; every key is sent as it is.
        parent: The component it belongs to.
        before: Called before creation and update. No release is without it: one that was killed
            while Helm installed it would stop the next update (`components/helm_record.py`).
        ready: Called after creation and update, which end when it does.
        after: What must be ready first.
        postrender: Program that rewrites the rendered manifests, relative to the program's folder.
        skip_await: Do not wait until the release's objects are ready.
        protect: Refuse to uninstall it.
    """
    source = istio.charts
    return Release(
        resource_name,
        ReleaseArgs(
            name=name,
            chart=source.chart(chart),
            # a folder is no repository, and its one version is the one it has
            version=None if source.is_folder else istio.version,
            repository_opts=None if source.is_folder else RepositoryOptsArgs(repo=source.location),
            namespace=ROOT_NAMESPACE,
            values=values,
            timeout=istio.timeout_s,
            postrender=postrender,
            # None rather than False: an input that says nothing is not shown in previews
            skip_await=True if skip_await else None,
        ),
        opts=ResourceOptions(
            parent=parent,
            depends_on=list(after),
            hooks=ResourceHookBinding(
                before_create=[before],
                before_update=[before],
                after_create=[ready] if ready else None,
                after_update=[ready] if ready else None,
            ),
            protect=protect or None,
        ),
    )
