"""Istio's control plane: its namespace, the CRDs (chart `base`), then istiod (chart `istiod`).

istiod counts as ready when its validation webhook has answered, not when its pod runs.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal, NotRequired, TypedDict

from pulumi import (
    ComponentResource,
    ResourceHook,
    ResourceHookArgs,
    ResourceOptions,
)
from pulumi_kubernetes.core.v1 import Namespace
from pulumi_kubernetes.helm.v3 import Release

from components.helm_record import repeatable
from components.kinds import (
    DEFAULT_REVISION,
    ROOT_NAMESPACE,
    ChartSource,
    ClusterAccess,
    Distribution,
    Profile,
    helm_release,
    stack_namespace,
)

__all__ = [
    "BaseValues",
    "ChartSource",
    "ControlPlane",
    "ControlPlaneArgs",
    "IstiodValues",
    "OutboundTrafficPolicy",
    "Profile",
    "Revision",
    "TraceCollector",
    "ask_validation_webhook",
    "base_values",
    "istiod_values",
    "wait_until_validating",
]

_RELEASE_HUB = "registry.istio.io/release"
_TRACE_SAMPLING = "PILOT_TRACE_SAMPLING"
_DROP_KEEP_POLICY = "components/drop_keep_policy.sh"
_WEBHOOK_DEADLINE_S = 60.0

# `validation.istio.io` in chart base, `rev.validation.istio.io` in chart istiod. Its name is asked
# for because another product's webhook may refuse the question as well.
_REFUSED = re.compile(r'admission webhook "([^"]+\.)?validation\.istio\.io" denied')


class OutboundTrafficPolicy(StrEnum):
    """What a sidecar does with traffic to a host that the mesh does not know."""

    ALLOW_ANY = "ALLOW_ANY"
    """Passes it on as it is."""

    REGISTRY_ONLY = "REGISTRY_ONLY"
    """Blocks it: only services of the cluster and ServiceEntries are reached."""


class _Validation(TypedDict):
    validationFailurePolicy: Literal["Fail"]


class _Collector(TypedDict):
    service: str
    port: int


class _Provider(TypedDict):
    name: str
    opentelemetry: NotRequired[_Collector]
    envoyOtelAls: NotRequired[_Collector]
    skywalking: NotRequired[_Collector]


class _MeshConfig(TypedDict):
    outboundTrafficPolicy: dict[Literal["mode"], str]
    extensionProviders: NotRequired[list[_Provider]]


class _Pilot(TypedDict, total=False):
    traceSampling: float
    env: dict[str, str]


class _Images(TypedDict, total=False):
    hub: str
    tag: str


class BaseValues(TypedDict):
    """Values of chart `base` (`manifests/charts/base/values.yaml`)."""

    profile: NotRequired[str]
    base: _Validation


# functional, because `global` is a word of Python's
IstiodValues = TypedDict(
    "IstiodValues",
    {
        "profile": NotRequired[str],
        "base": _Validation,
        "meshConfig": _MeshConfig,
        "telemetry": dict[Literal["enabled"], bool],
        "pilot": NotRequired[_Pilot],
        "global": NotRequired[_Images],
        "revision": NotRequired[str],
    },
)
"""Values of chart `istiod` (`manifests/charts/istio-control/istio-discovery/values.yaml`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceCollector:
    """Where proxies can send traces, if a Telemetry tells them to."""

    provider: str
    """Its name in meshConfig.extensionProviders, by which a Telemetry asks for it."""

    host: str
    """The full name of a Service, NAME.NAMESPACE.svc.cluster.local."""

    port: int
    """The Service's port that takes OTLP over gRPC, 1 to 65535."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Revision:
    """An istiod beside the default one, for the pods that ask for it by name."""

    name: str
    """What the label `istio.io/rev` of those namespaces or pods says: a DNS label."""

    version: str
    """Its Istio release, X.Y.Z."""

    image_tag: str | None = None
    """Tag of its images; None = the chart's, for a folder `version`."""

    def __post_init__(self) -> None:
        """Refuse what is the default istiod's.

        Raises:
            ValueError: It has the default istiod's name.
        """
        if self.name in {"", DEFAULT_REVISION}:
            raise ValueError(f"name is {self.name!r}, which is the default istiod's")


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlPlaneArgs:
    """What an operator may choose about Istio's control plane."""

    istio: Distribution
    """Which Istio, from which charts."""

    access: ClusterAccess
    """How the webhook is asked whether it answers."""

    stack: str
    """Name of the stack, written on the namespace."""

    image_hub: str | None = None
    """Registry and path of Istio's images; None = the chart's, for a folder Istio's releases."""

    image_tag: str | None = None
    """Tag of Istio's images; None = the chart's, for a folder `version`."""

    trace_sampling: float | None = None
    """Percentage of requests that are traced, 0 to 100; None = the profile's choice."""

    trace_collector: TraceCollector | None = None
    """A tracing provider that must be there, beside the profile's; one of its name is replaced."""

    outbound_traffic_policy: OutboundTrafficPolicy = OutboundTrafficPolicy.ALLOW_ANY
    """What happens to traffic that leaves the mesh."""

    telemetry: bool = True
    """Whether the proxies measure Istio's standard metrics."""

    istiod_env: Mapping[str, str] = field(default_factory=dict)
    """Environment of istiod (https://istio.io/latest/docs/reference/commands/pilot-discovery/)."""

    revisions: tuple[Revision, ...] = ()
    """Istiods beside the default one, which they share everything else with."""

    keep_crds: bool = True
    """Whether Istio's CRDs, and with them everybody's Istio objects, survive a destroy."""

    protect: bool = False
    """Whether Pulumi refuses to delete the namespace and the release with the CRDs."""

    def __post_init__(self) -> None:
        """Refuse what the charts would take in silence.

        Raises:
            ValueError: trace_sampling is out of its range, or istiod_env repeats it.
        """
        if self.trace_sampling is not None and not 0 <= self.trace_sampling <= 100:  # noqa: PLR2004
            raise ValueError(f"trace_sampling is {self.trace_sampling}; expected 0 to 100")
        if _TRACE_SAMPLING in self.istiod_env:
            # the chart writes that variable itself and the Deployment would hold it twice
            raise ValueError(f"istiod_env has {_TRACE_SAMPLING}; use trace_sampling")


def base_values(args: ControlPlaneArgs) -> BaseValues:
    """Values of chart `base` for these arguments."""
    # istiod turns the webhooks from Ignore to Fail once it is up, which would be drift for ever.
    # Charts that know this value exist since 1.28.6, 1.29.2 and 1.30.0 (istio/istio#59367).
    values: BaseValues = {"base": {"validationFailurePolicy": "Fail"}}
    if args.istio.profile.chart_value is not None:
        values["profile"] = args.istio.profile.chart_value
    return values


def istiod_values(args: ControlPlaneArgs, revision: Revision | None = None) -> IstiodValues:
    """Values of chart `istiod` for these arguments; what is not chosen is left to the profile.

    Args:
        args: What all istiods share, and the default one's version.
        revision: The istiod beside the default one that they are for; None: the default one.
    """
    mesh: _MeshConfig = {"outboundTrafficPolicy": {"mode": args.outbound_traffic_policy.value}}
    theirs = _DEMO_PROVIDERS if args.istio.profile is Profile.DEMO else ()
    if args.trace_collector is not None:
        ours = _provider(args.trace_collector)
        if ours not in theirs:
            # a list replaces the profile's: what is in there must be said again
            others = [one for one in theirs if one["name"] != ours["name"]]
            mesh["extensionProviders"] = [*others, ours]

    # Under `pilot` and not beside it, though the chart takes both: a profile's `pilot` wins over
    # what stands beside it (templates/zzy_descope_legacy.yaml).
    pilot: _Pilot = {}
    env = dict(args.istiod_env)
    if args.trace_sampling is not None:
        pilot["traceSampling"] = args.trace_sampling
        if args.trace_sampling == 0:
            # the chart takes 0 for "not set", and istiod's own default is 1 percent
            env[_TRACE_SAMPLING] = "0"
    if env:
        pilot["env"] = env

    images: _Images = {}
    if args.istio.charts.is_folder:
        # the charts of Istio's source tree name a test build that moves
        images = {"hub": _RELEASE_HUB, "tag": (revision or args.istio).version}
    if args.image_hub is not None:
        images["hub"] = args.image_hub
    # not the default one's tag for all: a revision is there to run another version
    tag = revision.image_tag if revision else args.image_tag
    if tag is not None:
        images["tag"] = tag

    values: IstiodValues = {
        "base": {"validationFailurePolicy": "Fail"},
        "meshConfig": mesh,
        "telemetry": {"enabled": args.telemetry},
    }
    if args.istio.profile.chart_value is not None:
        values["profile"] = args.istio.profile.chart_value
    if pilot:
        values["pilot"] = pilot
    if images:
        values["global"] = images
    if revision:
        values["revision"] = revision.name
    return values


def _provider(collector: TraceCollector) -> _Provider:
    return {
        "name": collector.provider,
        "opentelemetry": {"service": collector.host, "port": collector.port},
    }


# meshConfig.extensionProviders of the charts' files/profile-demo.yaml
_OTEL: _Collector = {
    "service": "opentelemetry-collector.observability.svc.cluster.local",
    "port": 4317,
}
_DEMO_PROVIDERS: tuple[_Provider, ...] = (
    {"name": "otel", "envoyOtelAls": _OTEL},
    {
        "name": "skywalking",
        "skywalking": {"service": "tracing.istio-system.svc.cluster.local", "port": 11800},
    },
    {"name": "otel-tracing", "opentelemetry": _OTEL},
    {
        "name": "jaeger",
        "opentelemetry": {
            "service": "jaeger-collector.istio-system.svc.cluster.local",
            "port": 4317,
        },
    },
)


def ask_validation_webhook(access: ClusterAccess) -> Callable[[], str]:
    """Prepare a question that only Istio's webhook refuses: a Gateway without servers.

    It is a server-side dry run, so nothing is written whatever the answer.

    Returns:
        A function that asks once and returns the API server's answer in words.
    """
    # only a real update asks; previews and tests are spared the import
    from kubernetes import client, config  # noqa: PLC0415
    from kubernetes.client.exceptions import ApiException  # noqa: PLC0415
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    connection = config.new_client_from_config(  # type: ignore[no-untyped-call]  # its own gap
        config_file=access.kubeconfig or None, context=access.context
    )
    api = client.CustomObjectsApi(connection)
    question = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "does-istiod-answer", "namespace": ROOT_NAMESPACE},
        "spec": {"servers": []},
    }

    def ask() -> str:
        try:
            api.create_namespaced_custom_object(
                "networking.istio.io",
                "v1",
                ROOT_NAMESPACE,
                "gateways",
                question,
                dry_run="All",
                _request_timeout=15,
            )
        except ApiException as refusal:
            return _message(refusal.body) or str(refusal.reason)
        except HTTPError as failure:
            return str(failure)
        return "accepted a Gateway without servers"

    return ask


def _message(body: str | None) -> str:
    """The sentence inside the API server's Status object, which comes as JSON."""
    try:
        return str(json.loads(body or "")["message"])
    except (ValueError, LookupError, TypeError):
        return body or ""


def wait_until_validating(
    ask: Callable[[], str],
    *,
    kubectl: str = "kubectl",
    deadline_s: float = _WEBHOOK_DEADLINE_S,
    pause_s: float = 0.1,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until Istio's validation webhook refuses what it must refuse.

    Args:
        ask: Asks once and returns the API server's answer in words.
        kubectl: How a command that talks to this cluster begins, for the error's advice.
        deadline_s: Seconds after which to give up; the question is asked at least once.
        pause_s: Seconds between two questions.
        now: A clock, in seconds.
        sleep: Waits for some seconds.

    Raises:
        TimeoutError: No refusal within the deadline.
    """
    end = now() + deadline_s
    while not _REFUSED.search(answer := ask()):
        if now() >= end:
            raise TimeoutError(
                f"istiod runs, but its validation webhook did not answer within {deadline_s:.0f} s,"
                f" so no Istio object can be created yet. The API server's last answer: {answer}\n"
                f"See `{kubectl} -n {ROOT_NAMESPACE} logs deployment/istiod`, then run the update "
                "again."
            )
        sleep(pause_s)


def _newest(args: ControlPlaneArgs) -> str:
    """The version of the CRDs: the newest istiod's, whose fields the older ones do not read."""
    versions = [args.istio.version, *(one.version for one in args.revisions)]
    return max(versions, key=lambda version: [int(part) for part in re.findall(r"\d+", version)])


class ControlPlane(ComponentResource):
    """`service-mesh:control_plane:ControlPlane`: istio-system, the CRDs, then istiod.

    Whatever depends on this component is created after istiod has answered its webhook.
    """

    namespace: str
    """The control plane's namespace, and Istio's root namespace."""

    root: Namespace
    """The same as a resource: what is in it and is no part of the mesh waits for it alone."""

    istiod: Release
    """istiod; ready when its validation webhook has answered."""

    def __init__(
        self, name: str, args: ControlPlaneArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("service-mesh:control_plane:ControlPlane", name, {}, opts)
        self.namespace = ROOT_NAMESPACE
        self.root = stack_namespace(
            f"{name}-namespace",
            ROOT_NAMESPACE,
            stack=args.stack,
            parent=self,
            protect=args.protect,
        )
        again = repeatable(f"{name}-repeatable", args.access)
        base = helm_release(
            f"{name}-base",
            name="istio-base",
            chart="base",
            istio=replace(args.istio, version=_newest(args)),
            values=base_values(args),
            before=again,
            postrender=None if args.keep_crds else _DROP_KEEP_POLICY,
            parent=self,
            after=[self.root],
            protect=args.protect,
        )

        async def webhooks_answer(_: ResourceHookArgs) -> None:
            # in a thread: the engine's other requests go through this event loop
            ask = await asyncio.to_thread(ask_validation_webhook, args.access)
            await asyncio.to_thread(wait_until_validating, ask, kubectl=args.access.kubectl())

        answering = ResourceHook(f"{name}-webhooks-answer", webhooks_answer)
        self.istiod = helm_release(
            f"{name}-istiod",
            name="istiod",
            chart="istiod",
            istio=args.istio,
            values=istiod_values(args),
            before=again,
            ready=answering,
            parent=self,
            after=[base],
        )
        for revision in args.revisions:
            helm_release(
                f"{name}-istiod-{revision.name}",
                name=f"istiod-{revision.name}",
                chart="istiod",
                istio=replace(args.istio, version=revision.version),
                values=istiod_values(args, revision),
                before=again,
                parent=self,
                # which makes the certificate authority that they share, and whose webhook has the
                # objects of this program validated
                after=[self.istiod],
            )
        self.register_outputs(
            {
                "namespace": self.namespace,
                "version": args.istio.version,
                "profile": args.istio.profile.value,
            }
        )
