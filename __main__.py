"""Istio, Bookinfo, mutual TLS and what shows them: settings in, components wired, outputs out.

What waits for what between components is written here and nowhere else.
"""

from __future__ import annotations

import pulumi

import rollout
import rules
import upgrade
from components import bookinfo, gateway
from components.cluster import connect
from components.control_plane import ControlPlane, ControlPlaneArgs, TraceCollector
from components.kinds import ROOT_NAMESPACE, ClusterAccess, Distribution
from components.mesh_namespace import MeshNamespace, MeshNamespaceArgs
from components.mtls import MutualTls, MutualTlsArgs
from components.observability import (
    OTLP_GRPC_PORT,
    TRACING_PROVIDER,
    MeshTelemetry,
    MeshTelemetryArgs,
    Observability,
    ObservabilityArgs,
    Part,
    collector_host,
)
from components.revision_tag import RevisionTag, RevisionTagArgs
from settings import Settings

settings = Settings.load()
stack = f"{pulumi.get_project()}/{pulumi.get_stack()}"
access = ClusterAccess(kubeconfig=settings.kubeconfig, context=settings.kube_context)
cluster = connect(access)
cluster.check_control_plane(stack=stack)
istiods = upgrade.Istiods(
    stack=stack,
    version=settings.istio_version,
    image_tag=settings.image_tag,
    revisions=settings.revisions,
    tags=settings.revision_tags,
    namespace=settings.namespace,
    namespace_revision=settings.namespace_revision,
    gateway_revision=settings.gateway_revision,
)
running = upgrade.installed(cluster)
upgrade.check(cluster, access, istiods, running)
cluster.check_namespace(
    settings.namespace,
    adopt=settings.adopt_namespace,
    stack=stack,
    revision=settings.namespace_revision,
    revisions={*running.versions, *running.own_tags(stack), *istiods.versions, *istiods.tags},
)
if settings.observability and settings.observability_namespace != ROOT_NAMESPACE:
    cluster.check_own_namespace(
        "observabilityNamespace", settings.observability_namespace, stack=stack
    )
mutual_tls = MutualTlsArgs(
    mode=settings.mtls_mode,
    scope=settings.mtls_scope,
    namespace=settings.namespace,
    stack=stack,
    exceptions=settings.mtls_exceptions,
    permissive_until=settings.mtls_permissive_until,
)
rollout.check(
    cluster,
    access,
    mutual_tls,
    named=settings.mtls_cut_off,
    observers=[settings.observability_namespace],
)
provider = cluster.provider("cluster")


def after(*components: pulumi.Resource) -> pulumi.ResourceOptions:
    """Options of a component that waits for others, and is deleted before them."""
    return pulumi.ResourceOptions(provider=provider, depends_on=list(components))


istio = Distribution(
    version=settings.istio_version,
    charts=settings.chart_source,
    profile=settings.profile,
    timeout_s=settings.timeout_s,
)
traced = Part.JAEGER in settings.observability
control_plane = ControlPlane(
    "istio",
    ControlPlaneArgs(
        istio=istio,
        access=access,
        stack=stack,
        image_hub=settings.image_hub,
        image_tag=settings.image_tag,
        trace_sampling=settings.trace_sampling,
        trace_collector=TraceCollector(
            provider=TRACING_PROVIDER,
            host=collector_host(settings.observability_namespace),
            port=OTLP_GRPC_PORT,
        )
        if traced
        else None,
        outbound_traffic_policy=settings.outbound_traffic_policy,
        telemetry=settings.telemetry,
        istiod_env=settings.istiod_env,
        revisions=settings.revisions,
        keep_crds=settings.keep_crds,
        protect=settings.production,
    ),
    after(),
)
tags = {
    tag: RevisionTag(
        f"tag-{tag}",
        RevisionTagArgs(tag=tag, revision=revision, stack=stack),
        after(control_plane),
    )
    for tag, revision in settings.revision_tags.items()
}


def asked(revision: str | None) -> list[pulumi.Resource]:
    """What must be there before a label that asks for a revision or a tag."""
    return [control_plane, *(one for tag, one in tags.items() if tag == revision)]


namespace = MeshNamespace(
    "mesh",
    MeshNamespaceArgs(
        namespace=settings.namespace,
        stack=stack,
        revision=settings.namespace_revision,
        adopt=settings.adopt_namespace,
        protect=settings.production,
    ),
    # others may make pods in an adopted one, and with the label they need istiod to be there; a
    # revision's label does nothing without it
    after(*asked(settings.namespace_revision))
    if settings.adopt_namespace or settings.namespace_revision
    else after(),
)
ingress = None
if settings.ingress_gateway:
    ingress = gateway.Gateway(
        "ingress",
        gateway.GatewayArgs(
            direction=gateway.Direction.INGRESS,
            istio=istio,
            access=access,
            service_type=settings.gateway_service_type,
            revision=settings.gateway_revision,
        ),
        after(*asked(settings.gateway_revision)),
    )
egress = None
if settings.egress_gateway:
    egress = gateway.Gateway(
        "egress",
        gateway.GatewayArgs(
            direction=gateway.Direction.EGRESS,
            istio=istio,
            access=access,
            revision=settings.gateway_revision,
        ),
        after(*asked(settings.gateway_revision)),
    )
mtls = MutualTls("mtls", mutual_tls, after(control_plane, namespace))
calls = rules.declare(
    settings, ingress=ingress, egress=egress, opts=after(control_plane, namespace)
)
if settings.bookinfo:
    bookinfo.Bookinfo(
        "bookinfo",
        bookinfo.BookinfoArgs(
            namespace=namespace.namespace,
            ingress=bookinfo.Ingress(selector=ingress.selector, port=ingress.http_port)
            if ingress
            else None,
            replicas=settings.replicas,
            istiod=[control_plane],
        ),
        after(namespace),
    )
    pulumi.export("calls", calls)
    kubectl = access.kubectl()
    pulumi.export(
        "productpage",
        ingress.how_to_open(kubectl, bookinfo.PAGE)
        if ingress
        else bookinfo.how_to_open(namespace.namespace, kubectl),
    )
if traced or settings.access_log is not None:
    MeshTelemetry(
        "telemetry",
        MeshTelemetryArgs(
            tracing=TRACING_PROVIDER if traced else None, access_log=settings.access_log
        ),
        after(control_plane),
    )
if settings.observability:
    observability = Observability(
        "observability",
        ObservabilityArgs(
            parts=settings.observability,
            stack=stack,
            namespace=settings.observability_namespace,
            prometheus_retention=settings.prometheus_retention,
            prometheus_storage=settings.prometheus_storage,
            kiali_auth=settings.kiali_auth,
            grafana_admin_password=settings.grafana_admin_password,
            protect=settings.production,
        ),
        # no sidecars: what shows the mesh need not wait for it
        after(control_plane.root),
    )
    pulumi.export("observability", {part.value: url for part, url in observability.urls.items()})
pulumi.export("istioVersion", settings.istio_version)
if settings.revisions or settings.revision_tags:
    gateways = ingress is not None or egress is not None
    pulumi.export("revisions", upgrade.outputs(istiods, gateways=gateways))
pulumi.export("profile", settings.profile.value)
pulumi.export("kubeContext", settings.kube_context)
pulumi.export("controlPlaneNamespace", control_plane.namespace)
pulumi.export("mtls", mtls.modes)
# what policy/ goes by: a policy pack does not see settings
pulumi.export("production", settings.production)
