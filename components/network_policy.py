"""Which pods may open connections to which, enforced by the nodes: NetworkPolicies of a call graph.

The same graph as the access policy's, as far as layers 3 and 4 go. It needs a network plugin that
enforces NetworkPolicies; where there is none the API server takes them and nothing happens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NotRequired, TypedDict

from pulumi import ComponentResource, ResourceOptions
from pulumi_kubernetes.apiextensions import CustomResource

from components.call_graph import INGRESS, CallGraph
from components.kinds import ROOT_NAMESPACE, child, metadata

DEFAULT_DENY = "default-deny"
"""The policy that closes every pod of the namespace, in both directions."""

ALLOW_MESH = "allow-mesh"
"""The policy of what every pod of the namespace needs, whatever the graph says."""

# https://istio.io/latest/docs/ops/deployment/application-requirements/#ports-used-by-istio
_ISTIOD_XDS = 15012
_AGENT_METRICS = 15020
_ENVOY_METRICS = 15090
# https://istio.io/latest/docs/ambient/usage/networkpolicy/
_HBONE = 15008
_AMBIENT_PROBES = "169.254.7.127/32"

_DNS = 53
_NAMESPACE_LABEL = "kubernetes.io/metadata.name"


class LabelSelector(TypedDict, total=False):
    """Objects with all of these labels; empty: all."""

    matchLabels: dict[str, str]


class IpBlock(TypedDict):
    """Addresses."""

    cidr: str


class Peer(TypedDict, total=False):
    """Pods; without a namespaceSelector those of the policy's own namespace."""

    namespaceSelector: LabelSelector
    podSelector: LabelSelector
    ipBlock: IpBlock


class PolicyPort(TypedDict):
    """A port of the pod that is called, not of its Service."""

    protocol: str
    port: int


# functional, because `from` is a word of Python's
IngressRule = TypedDict("IngressRule", {"from": list[Peer], "ports": list[PolicyPort]})
"""Who may connect to which ports."""


class EgressRule(TypedDict):
    """What may be connected to."""

    to: list[Peer]
    ports: list[PolicyPort]


class NetworkPolicySpec(TypedDict):
    """https://kubernetes.io/docs/concepts/services-networking/network-policies/."""

    podSelector: LabelSelector
    policyTypes: list[str]
    ingress: NotRequired[list[IngressRule]]
    egress: NotRequired[list[EgressRule]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Destination:
    """Pods outside of the graph, such as a collector of traces or an egress gateway."""

    namespace: str
    """Where they are."""

    labels: Mapping[str, str]
    """Labels of the pods; none = all of the namespace."""

    ports: tuple[int, ...]
    """TCP ports of the pods, 1 to 65535."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkPoliciesArgs:
    """What is allowed."""

    graph: CallGraph
    """Who calls whom; its namespace is where the policies are and what they are about."""

    prometheus_namespace: str | None
    """Where the pods with the label `app: prometheus` are that read the proxies' metrics;
    None = nobody does."""

    ambient: bool = False
    """Whether the namespace is in ambient mode: calls come through ztunnel, on port 15008."""

    destinations: tuple[Destination, ...] = ()
    """What every pod of the namespace may connect to besides. The world is not among it."""


def network_policy_specs(args: NetworkPoliciesArgs) -> dict[str, NetworkPolicySpec]:
    """The policies, by name: one a service with calls, what the mesh needs, then the denial.

    There is no rule for the kubelet's probes of sidecars: traffic between a pod and its own node
    is always allowed.
    """
    specs: dict[str, NetworkPolicySpec] = {}
    for service in args.graph.services:
        spec: NetworkPolicySpec = {
            "podSelector": _labels({"app": service.name}),
            "policyTypes": [],
        }
        if callers := args.graph.callers(service.name):
            spec["policyTypes"].append("Ingress")
            spec["ingress"] = [
                {
                    "from": [_client(args.graph, call.client) for call in callers],
                    "ports": _call_ports(args, service.name),
                }
            ]
        if callees := args.graph.callees(service.name):
            spec["policyTypes"].append("Egress")
            spec["egress"] = [
                {
                    "to": [{"podSelector": _labels({"app": call.server})}],
                    "ports": _call_ports(args, call.server),
                }
                for call in callees
            ]
        if spec["policyTypes"]:
            specs[service.name] = spec
    specs[ALLOW_MESH] = _mesh(args)
    specs[DEFAULT_DENY] = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    return specs


def _mesh(args: NetworkPoliciesArgs) -> NetworkPolicySpec:
    ingress: list[IngressRule] = []
    egress: list[EgressRule] = [
        {
            "to": [_pods("kube-system", {"k8s-app": "kube-dns"})],
            "ports": [{"protocol": protocol, "port": _DNS} for protocol in ("UDP", "TCP")],
        }
    ]
    if args.ambient:
        # ztunnel asks istiod from its own pod, and gives the kubelet's probes this address
        ports = _tcp(*sorted({one.port for one in args.graph.services}))
        ingress.append({"from": [{"ipBlock": {"cidr": _AMBIENT_PROBES}}], "ports": ports})
    else:
        egress.append(
            {"to": [_pods(ROOT_NAMESPACE, {"app": "istiod"})], "ports": _tcp(_ISTIOD_XDS)}
        )
        if args.prometheus_namespace is not None:
            ingress.append(
                {
                    "from": [_pods(args.prometheus_namespace, {"app": "prometheus"})],
                    "ports": _tcp(_AGENT_METRICS, _ENVOY_METRICS),
                }
            )
    egress += [
        {"to": [_pods(one.namespace, one.labels)], "ports": _tcp(*one.ports)}
        for one in args.destinations
    ]
    spec: NetworkPolicySpec = {"podSelector": {}, "policyTypes": []}
    if ingress:
        spec["policyTypes"].append("Ingress")
        spec["ingress"] = ingress
    spec["policyTypes"].append("Egress")
    spec["egress"] = egress
    return spec


def _client(graph: CallGraph, client: str) -> Peer:
    if client == INGRESS and graph.gateway is not None:
        return _pods(graph.gateway.namespace, graph.gateway.labels)
    return {"podSelector": _labels({"app": client})}


def _call_ports(args: NetworkPoliciesArgs, server: str) -> list[PolicyPort]:
    port = args.graph.service(server).port
    return _tcp(port, _HBONE) if args.ambient else _tcp(port)


def _pods(namespace: str, labels: Mapping[str, str]) -> Peer:
    return {
        "namespaceSelector": _labels({_NAMESPACE_LABEL: namespace}),
        "podSelector": _labels(labels),
    }


def _labels(labels: Mapping[str, str]) -> LabelSelector:
    return {"matchLabels": dict(labels)} if labels else {}


def _tcp(*ports: int) -> list[PolicyPort]:
    return [{"protocol": "TCP", "port": port} for port in ports]


class NetworkPolicies(ComponentResource):
    """`service-mesh:network:NetworkPolicies`: the graph's NetworkPolicies."""

    policies: tuple[str, ...]
    """Their names."""

    def __init__(
        self, name: str, args: NetworkPoliciesArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("service-mesh:network:NetworkPolicies", name, {}, opts)
        specs = network_policy_specs(args)
        self.policies = tuple(specs)
        made: list[CustomResource] = []
        for policy, spec in specs.items():
            made.append(
                # not the SDK's own class, whose keys are no longer Kubernetes' own: the specs are
                # shown to people as well
                CustomResource(
                    f"{name}-{policy}",
                    api_version="networking.k8s.io/v1",
                    kind="NetworkPolicy",
                    metadata=metadata(policy, namespace=args.graph.namespace),
                    spec=spec,
                    # the denial comes after all that is allowed and goes before it
                    opts=child(self, after=made if policy == DEFAULT_DENY else ()),
                )
            )
        self.register_outputs({"policies": list(self.policies)})
