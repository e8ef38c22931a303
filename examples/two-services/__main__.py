"""A frontend that calls a backend, in a mesh where nothing but mutual TLS is accepted."""

import sys
from pathlib import Path

import pulumi

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the folder that holds components/
from components.application import Application, ApplicationArgs, Workload
from components.cluster import connect
from components.control_plane import ControlPlane, ControlPlaneArgs
from components.kinds import ChartSource, ClusterAccess, Distribution, Profile
from components.mesh_namespace import MeshNamespace, MeshNamespaceArgs
from components.mtls import MtlsMode, MtlsScope, MutualTls, MutualTlsArgs

config, stack = pulumi.Config(), pulumi.get_project()
text = config.require
access = ClusterAccess(kubeconfig=text("kubeconfig"), context=text("kubeContext"))
charts = ChartSource(location=text("chartSource"))
istio = Distribution(version=text("istioVersion"), charts=charts, profile=Profile.MINIMAL)
cluster = connect(access)
cluster.check_control_plane(stack=stack)
on = pulumi.ResourceOptions(provider=cluster.provider("cluster"))

env, metrics = config.require_object("istiodEnv"), config.require_bool("telemetry")
mesh = ControlPlaneArgs(istio=istio, access=access, stack=stack, istiod_env=env, telemetry=metrics)
istiod = ControlPlane("istio", mesh, on)
shop = MeshNamespace("mesh", MeshNamespaceArgs(namespace="shop", stack=stack), on)
after = pulumi.ResourceOptions(provider=on.provider, depends_on=[istiod, shop])

strict = MutualTlsArgs(mode=MtlsMode.STRICT, scope=MtlsScope.MESH, namespace="shop", stack=stack)
MutualTls("mtls", strict, after)

podinfo = "ghcr.io/stefanprodan/podinfo:6.7.1"
calls = (("PODINFO_BACKEND_URL", "http://backend:9898/echo"),)
backend = Workload(app="backend", version="v1", image=podinfo, port=9898, user=100)
frontend = Workload(app="frontend", version="v1", image=podinfo, port=9898, user=100, env=calls)
Application("shop", ApplicationArgs(namespace="shop", workloads=(backend, frontend)), after)
