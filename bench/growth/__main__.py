"""A mesh of as many workloads as the setting `workloads` says: each calls the next one.

Each has its account, Service, Deployment, DestinationRule, AuthorizationPolicy and NetworkPolicy,
and every tenth an exception from STRICT.
"""

import sys
from itertools import pairwise
from pathlib import Path

import pulumi

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the folder that holds components/
from components.access_policy import AccessMode, AccessPolicy, AccessPolicyArgs
from components.application import Application, ApplicationArgs, Workload
from components.call_graph import Call, CallGraph, Operation, Service
from components.cluster import connect
from components.kinds import ClusterAccess
from components.mesh_namespace import MeshNamespace, MeshNamespaceArgs
from components.mtls import MtlsException, MtlsMode, MtlsScope, MutualTls, MutualTlsArgs
from components.network_policy import NetworkPolicies, NetworkPoliciesArgs
from components.traffic import HostTraffic, Traffic, TrafficArgs

_EXCEPTED = 10
_PORT = 8080

config, stack = pulumi.Config(), pulumi.get_project()
access = ClusterAccess(
    kubeconfig=config.require("kubeconfig"), context=config.require("kubeContext")
)
names = [f"app-{number}" for number in range(config.require_int("workloads"))]
graph = CallGraph(
    namespace=stack,
    services=tuple(Service(name=name, port=_PORT, account=name) for name in names),
    calls=tuple(
        Call(client=client, server=server, operations=(Operation(methods=("GET",)),))
        for client, server in pairwise(names)
    ),
    gateway=None,
)
exceptions = tuple(
    MtlsException(
        selector=(("app", name),), port=_PORT, mode=MtlsMode.PERMISSIVE, reason="measured"
    )
    for name in names[::_EXCEPTED]
)

on = pulumi.ResourceOptions(provider=connect(access).provider("cluster"))
space = MeshNamespace("mesh", MeshNamespaceArgs(namespace=stack, stack=stack), on)
after = pulumi.ResourceOptions(provider=on.provider, depends_on=[space])
mtls = MutualTlsArgs(
    mode=MtlsMode.STRICT,
    scope=MtlsScope.NAMESPACE,
    namespace=stack,
    stack=stack,
    exceptions=exceptions,
)
MutualTls("mtls", mtls, after)
hosts = tuple(HostTraffic(host=name, versions=("v1",)) for name in names)
Traffic("traffic", TrafficArgs(namespace=stack, hosts=hosts), after)
AccessPolicy("access", AccessPolicyArgs(graph=graph, mode=AccessMode.ENFORCE), after)
NetworkPolicies("network", NetworkPoliciesArgs(graph=graph, prometheus_namespace=None), after)
rows = tuple(Workload(app=name, version="v1", image="pause", port=_PORT) for name in names)
Application("app", ApplicationArgs(namespace=stack, workloads=rows), after)
