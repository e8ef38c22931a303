"""Bookinfo against the facts of upstream's manifests, and the generic application it is made of.

The facts are restated from samples/bookinfo/platform/kube/bookinfo.yaml and
samples/bookinfo/networking/bookinfo-gateway.yaml of istio/istio (images 1.20.3).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pulumi
import pytest
from pulumi_kubernetes.core.v1 import ConfigMap

from components.application import Application, ApplicationArgs, Workload
from components.bookinfo import (
    Bookinfo,
    BookinfoArgs,
    Ingress,
    call_graph,
    how_to_open,
    versions,
    virtual_service_spec,
)
from components.call_graph import INGRESS, Gateway
from tests.unit.conftest import Deploy, Deployed, Registered

# upstream's facts

APPS = ["details", "ratings", "reviews", "productpage"]
DEPLOYMENTS = [
    "details-v1",
    "ratings-v1",
    "reviews-v1",
    "reviews-v2",
    "reviews-v3",
    "productpage-v1",
]
IMAGES = "registry.istio.io/release/examples-bookinfo-"
TMP = {"name": "tmp", "mountPath": "/tmp"}


def upstream_service(app: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": app, "labels": {"app": app, "service": app}},
        "spec": {"ports": [{"port": 9080, "name": "http"}], "selector": {"app": app}},
    }


def upstream_account(app: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": f"bookinfo-{app}", "labels": {"account": app}},
    }


def upstream_deployment(name: str) -> dict[str, Any]:
    app, version = name.split("-")
    labels = {"app": app, "version": version}
    container: dict[str, Any] = {
        "name": app,
        "image": f"{IMAGES}{name}:1.20.3",
        "imagePullPolicy": "IfNotPresent",
        "ports": [{"containerPort": 9080}],
    }
    pod: dict[str, Any] = {"serviceAccountName": f"bookinfo-{app}", "containers": [container]}
    template: dict[str, Any] = {"metadata": {"labels": labels}, "spec": pod}
    if app == "reviews":
        container["env"] = [{"name": "LOG_DIR", "value": "/tmp/logs"}]
        container["volumeMounts"] = [
            TMP,
            {"name": "wlp-output", "mountPath": "/opt/ibm/wlp/output"},
        ]
        pod["volumes"] = [{"name": "wlp-output", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]
    if app == "productpage":
        container["volumeMounts"] = [TMP]
        pod["volumes"] = [{"name": "tmp", "emptyDir": {}}]
        template["metadata"]["annotations"] = {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": "9080",
            "prometheus.io/path": "/metrics",
        }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
    }


UPSTREAM: list[dict[str, Any]] = [
    *[upstream_service(app) for app in APPS],
    *[upstream_account(app) for app in APPS],
    *[upstream_deployment(name) for name in DEPLOYMENTS],
    {
        "apiVersion": "networking.istio.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "bookinfo-gateway"},
        "spec": {
            "selector": {"istio": "ingressgateway"},
            "servers": [
                {"port": {"number": 8080, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}
            ],
        },
    },
    {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "bookinfo"},
        "spec": {
            "hosts": ["*"],
            "gateways": ["bookinfo-gateway"],
            "http": [
                {
                    "match": [
                        {"uri": {"exact": "/productpage"}},
                        {"uri": {"prefix": "/static"}},
                        {"uri": {"exact": "/login"}},
                        {"uri": {"exact": "/logout"}},
                        {"uri": {"prefix": "/api/v1/products"}},
                    ],
                    "route": [{"destination": {"host": "productpage", "port": {"number": 9080}}}],
                }
            ],
        },
    },
]

# what differs on purpose

DIFFERENCES = {
    "metadata.namespace": "upstream leaves it to `kubectl -n`",
    "metadata.annotations.pulumi.com/deletionPropagationPolicy": (
        "older providers wait ten minutes for an object that is gone when it is deleted in the "
        "foreground"
    ),
    "metadata.annotations.pulumi.com/skipAwait": (
        "of Services: the Deployments' readiness says more, and the wait costs ten seconds each"
    ),
    "spec.template.spec.containers[0].readinessProbe": (
        "without one a pod gets requests before it listens, and every rollout loses some"
    ),
    "spec.template.spec.containers[0].resources": (
        "a pod without requests is the first to be evicted, and one without a limit of memory "
        "takes its node along"
    ),
    "spec.template.spec.containers[0].securityContext": (
        "what upstream's bookinfo-psa.yaml has (its images run as users 1000 and 1001), and the "
        "seccomp profile that Pod Security's `restricted` wants too; not a read-only root "
        "filesystem, which nobody has promised for these images"
    ),
}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        # the order of volumes and the like means nothing
        named = all(isinstance(inner, dict) and "name" in inner for inner in value)
        ordered = sorted(value, key=lambda inner: str(inner["name"])) if named else value
        for index, inner in enumerate(ordered):
            yield from leaves(inner, f"{path}[{index}]")
    else:
        yield path, value


def bookinfo(deploy: Deploy, ingress: Ingress | None) -> Deployed:
    args = BookinfoArgs(namespace="shop", ingress=ingress)
    return deploy(lambda opts: Bookinfo("bookinfo", args, opts))


def by_kind_and_name(found: list[Registered]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (one.inputs["kind"], one.inputs["metadata"]["name"]): dict(one.inputs)
        for one in found
        if "kind" in one.inputs
    }


UPSTREAM_INGRESS = Ingress(selector={"istio": "ingressgateway"}, port=8080)


def test_the_objects_are_upstreams(deploy: Deploy) -> None:
    ours = by_kind_and_name(bookinfo(deploy, UPSTREAM_INGRESS).resources)

    assert ours.keys() == {(one["kind"], one["metadata"]["name"]) for one in UPSTREAM}


def test_every_field_is_upstreams_but_for_the_listed_differences(deploy: Deploy) -> None:
    ours = by_kind_and_name(bookinfo(deploy, UPSTREAM_INGRESS).resources)
    seen: set[str] = set()
    unexplained: list[str] = []
    for theirs in UPSTREAM:
        name = (theirs["kind"], theirs["metadata"]["name"])
        mine, wanted = dict(leaves(ours[name])), dict(leaves(theirs))
        for path in sorted(mine.keys() | wanted.keys()):
            if mine.get(path) == wanted.get(path):
                continue
            listed = [one for one in DIFFERENCES if path == one or path.startswith(f"{one}.")]
            seen.update(listed)
            if not listed or path in wanted:
                unexplained.append(f"{name} {path}: {mine.get(path)!r}, not {wanted.get(path)!r}")

    assert not unexplained
    assert seen == DIFFERENCES.keys(), "a listed difference is none"


def test_pods_are_as_restricted_as_their_images_bear(deploy: Deploy) -> None:
    for deployment in bookinfo(deploy, None).of_kind("Deployment"):
        [container] = deployment.inputs["spec"]["template"]["spec"]["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }


def test_memory_is_reserved_and_limited_and_cpu_is_not_limited(deploy: Deploy) -> None:
    for deployment in bookinfo(deploy, None).of_kind("Deployment"):
        [container] = deployment.inputs["spec"]["template"]["spec"]["containers"]
        requests = container["resources"]["requests"]
        limits = container["resources"]["limits"]
        assert requests.keys() == {"cpu", "memory"}
        assert limits.keys() == {"memory"}
        assert mebibytes(requests["memory"]) < mebibytes(limits["memory"])


def mebibytes(quantity: str) -> int:
    found = re.fullmatch(r"(\d+)Mi", quantity)
    assert found
    return int(found[1])


def test_the_gateway_listens_where_the_ingress_gateway_says(deploy: Deploy) -> None:
    deployed = bookinfo(deploy, Ingress(selector={"istio": "other"}, port=1234))

    spec = deployed.named("bookinfo-gateway").inputs["spec"]
    assert spec["selector"] == {"istio": "other"}
    assert spec["servers"][0]["port"]["number"] == 1234


def test_without_an_ingress_gateway_there_is_no_way_in(deploy: Deploy) -> None:
    deployed = bookinfo(deploy, None)

    assert not deployed.of_kind("Gateway")
    assert not deployed.of_kind("VirtualService")
    assert len(deployed.of_kind("Deployment")) == 6


def test_a_person_is_told_how_to_reach_productpage_itself() -> None:
    assert how_to_open("shop", "kubectl --context test") == (
        "kubectl --context test -n shop port-forward service/productpage 9080:9080"
        "  # then open http://127.0.0.1:9080/productpage"
    )


def test_versions_are_those_that_are_deployed() -> None:
    assert versions("reviews") == ("v1", "v2", "v3")
    assert versions("details") == ("v1",)
    assert versions("orders") == ()


# the call graph

GATEWAY = Gateway(
    namespace="istio-system", account="istio-ingressgateway", labels={"istio": "ingressgateway"}
)


def test_the_call_graph_is_that_of_the_page_and_nothing_else() -> None:
    graph = call_graph("shop", GATEWAY)

    assert {(call.client, call.server) for call in graph.calls} == {
        (INGRESS, "productpage"),
        ("productpage", "details"),
        ("productpage", "reviews"),
        ("reviews", "ratings"),
    }


def test_without_a_gateway_nobody_calls_productpage() -> None:
    graph = call_graph("shop", None)

    assert not graph.callers("productpage")
    assert len(graph.calls) == 3


def test_the_graphs_services_are_those_that_are_deployed(deploy: Deploy) -> None:
    deployed = bookinfo(deploy, None)

    ports = {
        (
            spec["template"]["metadata"]["labels"]["app"],
            spec["template"]["spec"]["serviceAccountName"],
        ): container["ports"][0]["containerPort"]
        for spec in (one.inputs["spec"] for one in deployed.of_kind("Deployment"))
        for container in spec["template"]["spec"]["containers"]
    }
    assert {(one.name, one.account): one.port for one in call_graph("shop", None).services} == ports


def test_the_gateway_may_ask_for_what_it_routes_and_for_nothing_else() -> None:
    [call] = call_graph("shop", GATEWAY).callers("productpage")
    allowed = {path.rstrip("*/") for one in call.operations for path in one.paths}
    routed = {
        path
        for match in virtual_service_spec()["http"][0]["match"]
        for path in match["uri"].values()
    }

    assert allowed == routed


# the generic application


def workload(app: str = "web", version: str = "v1", **changes: Any) -> Workload:
    return Workload(
        **{
            "app": app,
            "version": version,
            "image": f"registry.example/{app}:{version}",
            "port": 8080,
            **changes,
        }
    )


def application(deploy: Deploy, *workloads: Workload) -> Deployed:
    args = ApplicationArgs(namespace="shop", workloads=workloads)
    return deploy(lambda opts: Application("shop", args, opts))


def test_a_table_of_two_services_makes_their_objects(deploy: Deploy) -> None:
    deployed = application(deploy, workload("web"), workload("db", port=5432, protocol="tcp"))

    assert by_kind_and_name(deployed.resources).keys() == {
        ("ServiceAccount", "web"),
        ("Service", "web"),
        ("Deployment", "web-v1"),
        ("ServiceAccount", "db"),
        ("Service", "db"),
        ("Deployment", "db-v1"),
    }
    [port] = deployed.named("shop-db-service").inputs["spec"]["ports"]
    assert port == {"port": 5432, "name": "tcp"}, "Istio reads the protocol from the name"
    assert deployed.outputs[deployed.named("shop").urn] == {"services": {"web": 8080, "db": 5432}}


def test_versions_of_a_service_share_it_and_its_account(deploy: Deploy) -> None:
    deployed = application(deploy, workload(version="v1"), workload(version="v2"))

    assert len(deployed.of_kind("Service")) == len(deployed.of_kind("ServiceAccount")) == 1
    assert deployed.named("shop-web-service").inputs["spec"]["selector"] == {"app": "web"}
    for version in ("v1", "v2"):
        spec = deployed.named(f"shop-web-{version}").inputs["spec"]
        assert spec["selector"]["matchLabels"] == {"app": "web", "version": version}
        assert spec["template"]["spec"]["serviceAccountName"] == "web"


def test_pods_wait_for_what_they_are_told_and_services_do_not(deploy: Deploy) -> None:
    def build(opts: pulumi.ResourceOptions) -> None:
        mesh = pulumi.ComponentResource("service-mesh:test:Ready", "ready", {}, opts)
        ready = ConfigMap("ready-first", opts=pulumi.ResourceOptions(parent=mesh))
        mesh.register_outputs({})
        Application(
            "shop",
            ApplicationArgs(namespace="shop", workloads=(workload(),), pods_after=[ready]),
            opts,
        )

    deployed = deploy(build)

    assert "ready-first" in deployed.waits_for("shop-web-v1")
    assert "shop-web-account" in deployed.waits_for("shop-web-v1")
    for early in ("shop-web-service", "shop-web-account"):
        assert "ready-first" not in deployed.waits_for(early)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (workload(), "web v1 stands twice"),
        (workload(version="v2", port=9090), "differ in port or protocol"),
        (workload(version="v2", protocol="grpc"), "differ in port or protocol"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(second: Workload, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ApplicationArgs(namespace="shop", workloads=(workload(), second))
