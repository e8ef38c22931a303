"""The rules of calls: how traffic goes, the way out, and who may call whom.

Settings in, components wired, as in `__main__`, which says what all of them wait for.
"""

from __future__ import annotations

import pulumi

from components import bookinfo, call_graph
from components.access_policy import AccessMode, AccessPolicy, AccessPolicyArgs
from components.gateway import Gateway
from components.kinds import ROOT_NAMESPACE
from components.network_policy import Destination, NetworkPolicies, NetworkPoliciesArgs
from components.observability import OTLP_GRPC_PORT, Part
from components.traffic import Egress, EgressArgs, Traffic, TrafficArgs
from settings import Settings

_GATEWAY_PORTS = (8080, 8443)
"""Where the egress gateway's pods listen."""


def declare(
    settings: Settings,
    *,
    ingress: Gateway | None,
    egress: Gateway | None,
    opts: pulumi.ResourceOptions,
) -> list[call_graph.Edge]:
    """Make the components that the settings ask for.

    Args:
        settings: What the operator chose.
        ingress: The ingress gateway, if there is one.
        egress: The egress gateway, if there is one.
        opts: Of each: its provider, and istiod and the namespace to wait for.

    Returns:
        The calls of the application, all of which must be mutual TLS.
    """
    if settings.traffic:
        traffic = TrafficArgs(
            namespace=settings.namespace, hosts=settings.traffic, production=settings.production
        )
        Traffic("traffic", traffic, opts)
    if egress and settings.egress_hosts:
        outside = EgressArgs(
            hosts=settings.egress_hosts,
            gateway_selector=egress.selector,
            gateway_service=egress.service,
        )
        Egress("outside", outside, opts)
    if not settings.bookinfo:
        return []
    graph = bookinfo.call_graph(settings.namespace, _client(ingress) if ingress else None)
    if settings.authorization_policy is not AccessMode.OFF:
        access = AccessPolicyArgs(graph=graph, mode=settings.authorization_policy)
        AccessPolicy("access", access, opts)
    if settings.network_policy:
        observers = settings.observability_namespace
        network = NetworkPoliciesArgs(
            graph=graph,
            prometheus_namespace=observers if Part.PROMETHEUS in settings.observability else None,
            destinations=tuple(_destinations(settings, egress)),
        )
        NetworkPolicies("network", network, opts)
    return call_graph.edges(graph)


def _client(ingress: Gateway) -> call_graph.Gateway:
    return call_graph.Gateway(
        namespace=ROOT_NAMESPACE, account=ingress.service, labels=ingress.selector
    )


def _destinations(settings: Settings, egress: Gateway | None) -> list[Destination]:
    """What every pod needs besides its calls: where its traces go, and the way out."""
    found = []
    if Part.JAEGER in settings.observability:
        found.append(
            Destination(
                namespace=settings.observability_namespace,
                labels={"app": "jaeger"},
                ports=(OTLP_GRPC_PORT,),
            )
        )
    if egress and settings.egress_hosts:
        found.append(
            Destination(namespace=ROOT_NAMESPACE, labels=egress.selector, ports=_GATEWAY_PORTS)
        )
    return found
