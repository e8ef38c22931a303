"""The whole program: its graph for the dev stack, what waits for what, and when it refuses."""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pulumi
import pytest
import yaml
from pulumi.runtime import rpc
from pulumi_kubernetes import Provider

import components.cluster
import upgrade
from components.kinds import ClusterAccess
from policy.guards import RULES, Resource
from tests.unit.conftest import PROJECT, Deployed, Run
from tests.unit.tlscheck_objects import pa, pod, svc

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).with_name("golden") / "dev.yaml"
REWRITE = os.environ.get("GOLDEN") == "write"

Program = Callable[..., Deployed]


class FakeCluster:
    """A cluster that is there and, but for `there`, empty."""

    there: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, access: ClusterAccess) -> None:
        self.access = access
        self.checked: list[object] = []
        self.revisions: tuple[str | None, set[str]] = (None, set())

    def config_map(self, namespace: str, name: str) -> dict[str, Any] | None:
        wanted = {"name": name, "namespace": namespace}
        return next((one for one in self.there if one["metadata"] == wanted), None)

    def objects(self, *resources: str, namespace: str | None = None) -> list[dict[str, Any]]:
        kinds = [resource.partition(".")[0].removesuffix("s") for resource in resources]
        return [
            one
            for one in self.there
            if one["kind"].lower() in kinds
            and namespace in (None, one["metadata"].get("namespace"))
        ]

    def check_control_plane(self, *, stack: str) -> None:
        self.checked.append(stack)

    def check_namespace(
        self,
        name: str,
        *,
        adopt: bool,
        stack: str,
        revision: str | None,
        revisions: Collection[str],
    ) -> None:
        self.checked.append((name, adopt, stack))
        self.revisions = revision, set(revisions)

    def check_own_namespace(self, setting: str, name: str, *, stack: str) -> None:
        self.checked.append((setting, name, stack))

    def provider(self, name: str) -> Provider:
        return Provider(name, context=self.access.context, kubeconfig=self.access.kubeconfig)


@pytest.fixture
def clusters(monkeypatch: pytest.MonkeyPatch) -> list[FakeCluster]:
    """The clusters the program connects to."""
    found: list[FakeCluster] = []

    def connect(access: ClusterAccess) -> FakeCluster:
        found.append(FakeCluster(access))
        return found[-1]

    monkeypatch.setattr(components.cluster, "connect", connect)
    return found


def stack_file(name: str = "dev") -> dict[str, str]:
    """A stack's own file as the CLI hands it to the program."""
    config = yaml.safe_load((ROOT / f"Pulumi.{name}.yaml").read_text(encoding="utf-8"))["config"]
    return {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in config.items()
    }


@pytest.fixture
def program(
    run_program: Run,
    clusters: list[FakeCluster],  # noqa: ARG001 asked for, so that no real one is looked for
    monkeypatch: pytest.MonkeyPatch,
) -> Program:
    """Run `__main__.py` with a stack's settings, some of them changed."""
    monkeypatch.chdir(ROOT)

    def run(*, file: str = "dev", secret: Sequence[str] = (), **changes: object) -> Deployed:
        changed = {
            f"{PROJECT}:{key}": value if isinstance(value, str) else json.dumps(value)
            for key, value in {"kubeContext": "test", **changes}.items()
        }

        def main() -> None:
            pulumi.runtime.set_all_config(
                {**stack_file(file), **changed}, [f"{PROJECT}:{key}" for key in secret]
            )
            runpy.run_path(str(ROOT / "__main__.py"))

        try:
            return run_program(main)
        finally:
            pulumi.runtime.set_all_config({}, [])

    return run


# the graph


def in_order(value: Any) -> Any:
    """The same with sorted keys: on the wire their order changes from run to run.

    Thousands of lines of a dashboard tell a reviewer nothing; its checksum stays.
    """
    if isinstance(value, dict):
        return {
            key: "a dashboard" if key.endswith(".json") else in_order(value[key])
            for key in sorted(value)
        }
    if isinstance(value, list):
        return [in_order(inner) for inner in value]
    return value


def without_secrets(value: Any) -> Any:
    """The same with everything that Pulumi was told to encrypt taken out."""
    if isinstance(value, Mapping):
        if rpc.is_rpc_secret(value):
            return "[secret]"
        return {key: without_secrets(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_secrets(inner) for inner in value]
    return value


def graph(deployed: Deployed) -> list[dict[str, Any]]:
    names = {one.urn: one.name for one in deployed.resources}
    return sorted(
        (
            {
                "name": one.name,
                "type": one.type,
                "parent": names.get(one.parent, "the stack"),
                "inputs": in_order(dict(one.inputs)),
                "dependencies": sorted(names[urn] for urn in one.dependencies),
            }
            for one in deployed.resources
        ),
        key=lambda one: str(one["name"]),
    )


def test_the_dev_stack_is_the_reviewed_one(program: Program) -> None:
    found = graph(program())

    if REWRITE:
        text = yaml.safe_dump(found, sort_keys=False, width=100)
        heading = "# Written by `make golden`; a difference is part of the review.\n"
        GOLDEN.write_text(heading + text, encoding="utf-8")
    reviewed = yaml.safe_load(GOLDEN.read_text(encoding="utf-8"))
    assert found == reviewed, "if this is meant: make golden"


def test_the_graph_names_no_path_of_this_machine(program: Program) -> None:
    text = json.dumps(graph(program()))

    assert str(ROOT) not in text
    assert str(Path.home()) not in text


# order

ISTIOD = "istio-istiod"


def test_everything_that_needs_istiod_waits_for_it(program: Program) -> None:
    deployed = program(mtlsExceptions=[EXCEPTION])

    need = [
        one.name
        for one in deployed.resources
        if "istio.io/" in one.type
        or (one.type.endswith(":Deployment") and one.name.startswith("bookinfo-"))
        or one.inputs.get("chart") == "gateway"
    ]
    # 6 Deployments, 2 gateways; Gateway, VirtualService, DestinationRule, 2 PeerAuthentications,
    # Telemetry
    assert len(need) == 14
    for name in need:
        assert ISTIOD in deployed.waits_for(name), f"{name} would be refused, or born without proxy"


def test_pods_and_istio_objects_wait_for_their_namespace(program: Program) -> None:
    deployed = program()

    for one in deployed.resources:
        inside = one.inputs.get("metadata", {}).get("namespace") == "bookinfo"
        if one.custom and inside:
            assert "mesh-namespace" in deployed.waits_for(one.name), one.name


def test_what_need_not_wait_does_not(program: Program) -> None:
    deployed = program()

    assert deployed.waits_for("mesh-namespace") == {"mesh"}
    for one in (*deployed.of_kind("Service"), *deployed.of_kind("ServiceAccount")):
        assert ISTIOD not in deployed.waits_for(one.name), one.name
    after_istiod = {
        "ingress-release": {"ingress"},
        "egress-release": {"egress"},
        "mtls-default": {"mtls", "mesh", "mesh-namespace"},
        "bookinfo-gateway": {"bookinfo", "mesh", "mesh-namespace"},
    }
    istio = {"istio", "istio-namespace", "istio-base", ISTIOD}
    for name, others in after_istiod.items():
        assert deployed.waits_for(name) == istio | others


def test_what_observes_the_mesh_waits_for_its_namespace_and_not_for_istio(program: Program) -> None:
    for namespace, waits in (
        ("istio-system", "istio-namespace"),
        ("watch", "observability-namespace"),
    ):
        deployed = program(observabilityNamespace=namespace)
        observers = [one for one in deployed.resources if one.name.startswith("observability-")]
        assert len([one for one in observers if one.type.endswith(":Deployment")]) == 4
        for one in observers:
            assert {"istio-base", ISTIOD}.isdisjoint(deployed.waits_for(one.name)), one.name
            if one.inputs.get("metadata", {}).get("namespace") == namespace:
                assert waits in deployed.waits_for(one.name), one.name


BESIDE = "istio-istiod-canary"
REVISION = {"name": "canary", "version": "1.31.1"}


def test_a_namespace_of_a_revision_waits_for_that_istiod(program: Program) -> None:
    moved = program(revisions=[REVISION], namespaceRevision="canary")
    beside = program(revisions=[REVISION])

    assert BESIDE in moved.waits_for("mesh-namespace"), "pods would be born without a sidecar"
    assert moved.named("mesh-namespace").inputs["metadata"]["labels"] == {"istio.io/rev": "canary"}
    assert beside.waits_for("mesh-namespace") == {"mesh"}
    for deployed in (moved, beside):
        assert ISTIOD in deployed.waits_for(BESIDE)


TAGGED = {"revisions": [REVISION], "revisionTags": {"stable": "canary", "spare": "default"}}


def test_what_asks_for_a_tag_waits_for_it_and_it_for_its_istiod(program: Program) -> None:
    deployed = program(**TAGGED, namespaceRevision="stable", gatewayRevision="stable")

    assert deployed.named("mesh-namespace").inputs["metadata"]["labels"] == {
        "istio.io/rev": "stable"
    }
    assert {BESIDE, ISTIOD} <= deployed.waits_for("tag-stable-webhook")
    # Bookinfo's pods by way of their namespace
    for name in ("mesh-namespace", "ingress-release", "egress-release", "bookinfo-app-details-v1"):
        waits = deployed.waits_for(name)
        assert "tag-stable-webhook" in waits, f"{name}: born without a proxy"
        assert "tag-spare-webhook" not in waits


def test_a_tag_that_moves_changes_itself_alone(program: Program) -> None:
    asking = {"namespaceRevision": "stable", "gatewayRevision": "stable"}
    before = graph(program(**TAGGED, **asking))
    after = graph(
        program(**{**TAGGED, "revisionTags": {"stable": "default", "spare": "default"}}, **asking)
    )

    changed = [was["name"] for was, now in zip(before, after, strict=True) if was != now]
    assert changed == ["tag-stable-webhook"]


def test_tags_are_an_output_without_revisions_too(program: Program) -> None:
    exports = program(revisionTags={"stable": "default"}, gatewayRevision="stable").exports

    assert exports["revisions"] == {"default": "1.31.1: tag stable, namespace bookinfo, gateways"}


def test_gateways_have_the_revision_that_is_asked_for(program: Program) -> None:
    without, moved = (
        program(revisions=[REVISION]),
        program(revisions=[REVISION], gatewayRevision="canary"),
    )

    for name in ("ingress-release", "egress-release"):
        values = moved.named(name).inputs["values"]
        assert values == {**without.named(name).inputs["values"], "revision": "canary"}
        assert BESIDE in moved.waits_for(name)


def test_the_cluster_is_told_of_the_stacks_own_tags(
    program: Program, clusters: list[FakeCluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    def there(name: str, stack: str) -> dict[str, Any]:
        meta = {
            "name": name,
            "labels": {"istio.io/tag": name, "istio.io/rev": "default"},
            "annotations": {"service-mesh/stack": stack},
        }
        return {"kind": "MutatingWebhookConfiguration", "metadata": meta}

    found = [there("old", f"{PROJECT}/dev"), there("theirs", "other/dev")]
    monkeypatch.setattr(FakeCluster, "there", found)
    program(revisionTags={"stable": "default"}, namespaceRevision="stable")

    assert clusters[0].revisions == ("stable", {"default", "stable", "old"})


def test_a_revision_is_one_more_release_and_one_more_output(program: Program) -> None:
    without, beside = program(), program(revisions=[REVISION])

    assert beside.names() - without.names() == {BESIDE}
    kept = [one for one in graph(beside) if one["name"] != BESIDE]
    # the same, but for what waits for all istiods
    assert [one["inputs"] for one in kept] == [one["inputs"] for one in graph(without)]
    assert beside.exports["revisions"] == {
        "default": "1.31.1: namespace bookinfo, gateways",
        "canary": "1.31.1: nothing of this stack",
    }
    assert "revisions" not in without.exports


def test_the_cluster_is_asked_about_revisions_before_anything_is_made(
    program: Program, clusters: list[FakeCluster]
) -> None:
    program(revisions=[REVISION], namespaceRevision="canary")

    assert clusters[0].revisions == ("canary", {"default", "canary"})


def test_a_revision_may_not_go_while_it_has_proxies(
    program: Program, clusters: list[FakeCluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = {"app": "istiod", "istio.io/rev": "canary"}
    containers = [{"name": "discovery", "image": "pilot:1.31.1"}]
    beside = {
        "kind": "Deployment",
        "metadata": {"name": "istiod-canary", "namespace": "istio-system", "labels": labels},
        "spec": {"template": {"spec": {"containers": containers}}},
    }
    proxy = {
        "kind": "Pod",
        "metadata": {
            "name": "web",
            "namespace": "bookinfo",
            "annotations": {"istio.io/rev": "canary"},
        },
    }
    monkeypatch.setattr(FakeCluster, "there", [beside, proxy])

    with pytest.raises(upgrade.UpgradeError, match="bookinfo/web: canary"):
        program()
    assert clusters


def test_only_helm_has_to_wait_for_what_it_made(program: Program) -> None:
    """Destroy goes the other way: nothing may stand on what is gone before it."""
    deployed = program()

    for name in ("istio-namespace", "istio-base", ISTIOD):
        above = deployed.waits_for(name)
        assert above <= {"istio", "istio-namespace", "istio-base"}, above


def test_every_deletion_of_pulumis_own_ends(program: Program) -> None:
    deployed = program()

    for one in deployed.resources:
        if one.custom and one.type.startswith("kubernetes:") and "Release" not in one.type:
            assert one.delete_timeout, f"{one.name} could hang for ten minutes"
            annotations = one.inputs["metadata"]["annotations"]
            assert annotations["pulumi.com/deletionPropagationPolicy"] == "background", one.name


# settings

EXCEPTION = {
    "selector": {"app": "ratings"},
    "port": 9080,
    "mode": "PERMISSIVE",
    "reason": "called by a job outside the mesh",
}


@pytest.mark.parametrize(
    ("changes", "releases"),
    [
        ({"profile": "default"}, {"istio-base", "istiod", "istio-ingressgateway"}),
        (
            {"profile": "demo"},
            {"istio-base", "istiod", "istio-ingressgateway", "istio-egressgateway"},
        ),
        (
            {"profile": "demo", "egressGateway": "disabled"},
            {"istio-base", "istiod", "istio-ingressgateway"},
        ),
        ({"profile": "minimal"}, {"istio-base", "istiod"}),
    ],
)
def test_a_profile_decides_which_charts_are_installed(
    program: Program, changes: dict[str, object], releases: set[str]
) -> None:
    assert program(**changes).releases().keys() == releases


def test_bookinfos_gateway_names_the_ingress_gateways_label_and_port(program: Program) -> None:
    deployed = program()

    values = deployed.releases()["istio-ingressgateway"].inputs["values"]
    spec = deployed.named("bookinfo-gateway").inputs["spec"]
    assert spec["selector"] == values["labels"]
    [server] = spec["servers"]
    assert server["port"]["number"] in [one["targetPort"] for one in values["service"]["ports"]]


def test_without_a_gateway_productpage_is_opened_directly(program: Program) -> None:
    deployed = program(profile="minimal")

    assert not deployed.of_kind("VirtualService")
    assert deployed.exports["productpage"].startswith(
        "kubectl --context test -n bookinfo port-forward service/productpage 9080:9080"
    )


def test_bookinfo_can_be_left_out(program: Program) -> None:
    deployed = program(bookinfo=False, mtlsHosts=["reviews"], observability=[])

    assert not deployed.of_kind("Deployment")
    assert "productpage" not in deployed.exports
    rule = deployed.named("traffic-reviews-rule").inputs["spec"]
    assert "subsets" not in rule, "somebody else's reviews has versions of its own"


def test_a_host_of_bookinfo_has_the_subsets_that_are_deployed(program: Program) -> None:
    rule = program().named("traffic-reviews-rule").inputs["spec"]

    assert [one["name"] for one in rule["subsets"]] == ["v1", "v2", "v3"]


def test_settings_reach_the_charts(program: Program) -> None:
    deployed = program(
        istioVersion="1.30.3",
        imageHub="registry.example/istio",
        imageTag="1.2.3",
        accessLog="off",
        traceSampling="12.5",
        outboundTrafficPolicy="REGISTRY_ONLY",
        telemetry=False,
        istiodEnv={"PILOT_ENABLE_ALPN_FILTER": "false"},
        timeoutSeconds=90,
        gatewayServiceType="LoadBalancer",
        keepCrds=True,
        observabilityNamespace="watch",
    )

    releases = deployed.releases()
    assert {one.inputs["version"] for one in releases.values()} == {"1.30.3"}
    assert {one.inputs["timeout"] for one in releases.values()} == {90}
    mesh = releases["istiod"].inputs["values"]["meshConfig"]
    assert mesh["extensionProviders"][-1] == {
        "name": "jaeger",
        "opentelemetry": {"service": "jaeger-collector.watch.svc.cluster.local", "port": 4317},
    }
    assert releases["istiod"].inputs["values"] == {
        "profile": "demo",
        "base": {"validationFailurePolicy": "Fail"},
        "global": {"hub": "registry.example/istio", "tag": "1.2.3"},
        "meshConfig": {
            "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"},
            "extensionProviders": mesh["extensionProviders"],
        },
        "telemetry": {"enabled": False},
        "pilot": {"traceSampling": 12.5, "env": {"PILOT_ENABLE_ALPN_FILTER": "false"}},
    }
    assert "postrender" not in releases["istio-base"].inputs
    types = {
        name: one.inputs["values"]["service"]["type"]
        for name, one in releases.items()
        if one.inputs["chart"] == "gateway"
    }
    assert types == {"istio-ingressgateway": "LoadBalancer", "istio-egressgateway": "ClusterIP"}


def test_settings_reach_the_mesh(program: Program) -> None:
    deployed = program(
        namespace="shop",
        mtlsMode="PERMISSIVE",
        mtlsScope="namespace",
        mtlsExceptions=[{**EXCEPTION, "mode": "STRICT"}],
        mtlsHosts=[],
    )

    policies = {
        (one.inputs["metadata"]["namespace"], one.inputs["metadata"]["name"].split("-")[0])
        for one in deployed.of_kind("PeerAuthentication")
    }
    assert policies == {("shop", "default"), ("shop", "exception")}
    assert deployed.named("mtls-default").inputs["spec"] == {"mtls": {"mode": "PERMISSIVE"}}
    assert deployed.exports["mtls"] == {
        "istio-system": "PERMISSIVE (Istio's default)",
        "shop": f"PERMISSIVE, except app=ratings port 9080 STRICT ({EXCEPTION['reason']})",
    }


@pytest.mark.parametrize(
    ("changes", "spec"),
    [
        ({"observability": []}, None),
        ({"observability": ["prometheus"]}, None),
        ({"observability": [], "accessLog": "stdout"}, {"accessLogging"}),
        ({"observability": ["jaeger"]}, {"tracing"}),
        ({"observability": ["jaeger"], "accessLog": "off"}, {"tracing", "accessLogging"}),
    ],
)
def test_a_telemetry_is_there_when_it_has_something_to_say(
    program: Program, changes: dict[str, object], spec: set[str] | None
) -> None:
    found = program(**changes).of_kind("Telemetry")

    assert [one.inputs["spec"].keys() for one in found] == ([] if spec is None else [spec])


def test_without_observers_nothing_of_theirs_is_there(program: Program) -> None:
    deployed = program(observability=[])

    assert not [one for one in deployed.resources if "observability" in one.type]
    assert not [one for one in deployed.resources if one.type.startswith("random:")]
    assert "observability" not in deployed.exports


# the setting's own, and one that is made up
@pytest.mark.parametrize("password", ["correct-horse", ""])
def test_no_secret_is_anywhere_but_in_secrets(program: Program, password: str) -> None:
    deployed = program(secret=["grafanaAdminPassword"], grafanaAdminPassword=password)

    [grafana] = [one for one in deployed.of_kind("Secret") if "grafana" in one.name]
    for sensitive in (
        password or "made up for observability-grafana-admin-password",
        "made up for observability-kiali-signing-key",
    ):
        for one in deployed.resources:
            if sensitive in json.dumps(one.inputs):
                assert sensitive not in json.dumps(without_secrets(one.inputs)), one.name
        assert sensitive not in json.dumps(deployed.exports)
        assert sensitive not in json.dumps(deployed.outputs)
    assert "correct-horse" in json.dumps(grafana.inputs) or not password


EVERYTHING: dict[str, Any] = {
    "authorizationPolicy": "enforce",
    "networkPolicy": True,
    "canary": {"service": "reviews", "stable": "v1", "canary": "v3", "weight": 10},
    "abRoutes": [{"service": "reviews", "version": "v2", "user": "jason"}],
    "resilience": [{"service": "ratings", "attempts": 3, "timeout": "2s"}],
    "faults": [{"service": "details", "percent": 50, "delay": "1s"}],
    "egressHosts": [{"host": "www.example.com", "port": 443, "tls": "originate"}],
}


def test_what_is_asked_for_of_calls_waits_for_istiod_and_the_namespace(program: Program) -> None:
    deployed = program(**EVERYTHING)

    made = {one.type.split(":")[-1] for one in deployed.resources}
    assert made >= {"AuthorizationPolicy", "NetworkPolicy", "VirtualService", "ServiceEntry"}
    for component in ("access", "network", "traffic", "outside"):
        assert {ISTIOD, "mesh-namespace"} <= deployed.waits_for(component), component


def test_everything_said_of_a_service_is_one_virtual_service_and_one_destination_rule(
    program: Program,
) -> None:
    deployed = program(**EVERYTHING)

    for kind, hosts in (
        ("VirtualService", {"reviews", "ratings", "details"}),
        ("DestinationRule", {"reviews", "ratings", "details"}),
    ):
        found = [
            one.inputs["metadata"]["name"]
            for one in deployed.of_kind(kind)
            if one.name.startswith("traffic-")
        ]
        assert sorted(found) == sorted(hosts), kind
    routes = deployed.named("traffic-reviews-routes").inputs["spec"]["http"]
    assert routes[0]["match"] == [{"headers": {"end-user": {"exact": "jason"}}}]
    assert [one["weight"] for one in routes[1]["route"]] == [90, 10]
    for rule in deployed.of_kind("DestinationRule"):
        if rule.name.startswith("traffic-"):
            assert rule.inputs["spec"]["trafficPolicy"]["tls"] == {"mode": "ISTIO_MUTUAL"}


def test_another_weight_changes_that_weight_and_nothing_else(program: Program) -> None:
    before, after = (
        {one["name"]: one for one in graph(program(**{**EVERYTHING, "canary": {**canary}}))}
        for canary in (
            EVERYTHING["canary"],
            {**EVERYTHING["canary"], "weight": 50},
        )
    )

    assert [name for name in before if before[name] != after[name]] == ["traffic-reviews-routes"]


def test_the_gateway_is_the_only_client_outside_the_namespace(program: Program) -> None:
    deployed = program(authorizationPolicy="enforce")

    policy = deployed.named("access-productpage").inputs["spec"]
    release = deployed.releases()["istio-ingressgateway"].inputs["name"]
    [source] = policy["rules"][0]["from"]
    assert source["source"]["principals"] == [f"cluster.local/ns/istio-system/sa/{release}"]
    assert deployed.named("access-reviews").inputs["spec"]["rules"][0]["from"] == [
        {"source": {"principals": ["cluster.local/ns/bookinfo/sa/bookinfo-productpage"]}}
    ]


def test_pods_may_reach_what_the_settings_give_them(program: Program) -> None:
    def reached(**changes: object) -> str:
        deployed = program(networkPolicy=True, **changes)
        return json.dumps(deployed.named("network-allow-mesh").inputs["spec"]["egress"])

    egress = EVERYTHING["egressHosts"]
    assert ('"jaeger"' in reached(), '"egressgateway"' in reached()) == (True, False)
    assert '"jaeger"' not in reached(observability=["prometheus"])
    assert '"egressgateway"' in reached(egressHosts=egress)


def test_prometheus_is_let_in_where_it_is(program: Program) -> None:
    def mesh(**changes: object) -> Mapping[str, Any]:
        deployed = program(networkPolicy=True, **changes)
        spec: Mapping[str, Any] = deployed.named("network-allow-mesh").inputs["spec"]
        return spec

    assert "watch" in json.dumps(mesh(observabilityNamespace="watch")["ingress"])
    assert "ingress" not in mesh(observability=["jaeger"])


def test_without_new_settings_there_is_nothing_new(program: Program) -> None:
    deployed = program(mtlsHosts=[])

    for kind in ("AuthorizationPolicy", "NetworkPolicy", "ServiceEntry", "DestinationRule"):
        assert not deployed.of_kind(kind), kind
    assert "traffic" not in deployed.names()


def test_an_adopted_namespace_is_never_owned(program: Program) -> None:
    deployed = program(namespace="default", adoptNamespace=True)

    assert [one.inputs["metadata"]["name"] for one in deployed.of_kind("Namespace")] == [
        "istio-system"
    ]
    pods = [one for one in deployed.of_kind("Deployment") if one.name.startswith("bookinfo-")]
    assert len(pods) == 6
    for one in pods:
        assert "mesh-label" in deployed.waits_for(one.name), "a pod before the label has no proxy"
    # and on destroy the label goes first: with it and without istiod no pod could be born
    assert ISTIOD in deployed.waits_for("mesh-label")


def test_outputs_are_what_a_person_wants_to_know(program: Program) -> None:
    assert program().exports == {
        "istioVersion": "1.31.1",
        "profile": "demo",
        "kubeContext": "test",
        "controlPlaneNamespace": "istio-system",
        "mtls": {"istio-system": "STRICT", "bookinfo": "STRICT"},
        "production": False,
        "calls": [
            {"client": "istio-system/istio-ingressgateway-*", "server": "productpage.bookinfo"},
            {"client": "bookinfo/productpage-*", "server": "details.bookinfo"},
            {"client": "bookinfo/productpage-*", "server": "reviews.bookinfo"},
            {"client": "bookinfo/reviews-*", "server": "ratings.bookinfo"},
        ],
        "observability": {
            "prometheus": "http://prometheus.istio-system.svc.cluster.local:9090",
            "grafana": "http://grafana.istio-system.svc.cluster.local:3000",
            "jaeger": "http://tracing.istio-system.svc.cluster.local",
            "kiali": "http://kiali.istio-system.svc.cluster.local:20001/kiali",
        },
        "productpage": (
            "kubectl --context test -n istio-system port-forward service/istio-ingressgateway "
            "8080:80  # then open http://127.0.0.1:8080/productpage"
        ),
    }


# the cluster


def test_the_cluster_is_looked_at_once_through_the_settings(
    program: Program, clusters: list[FakeCluster]
) -> None:
    program(kubeContext="other", kubeconfig="/k/config", namespace="default", adoptNamespace=True)

    [cluster] = clusters
    assert cluster.access == ClusterAccess(kubeconfig="/k/config", context="other")
    stack = "service-mesh/dev"
    assert cluster.checked == [stack, ("default", True, stack)]


def test_a_namespace_for_observers_is_looked_at_before_it_is_made(
    program: Program, clusters: list[FakeCluster]
) -> None:
    program(observabilityNamespace="watch")
    program(observabilityNamespace="watch", observability=[])

    asked = ("observabilityNamespace", "watch", "service-mesh/dev")
    assert [asked in cluster.checked for cluster in clusters] == [True, False]


def test_a_setting_that_cannot_be_used_registers_nothing(
    program: Program, clusters: list[FakeCluster]
) -> None:
    with pytest.raises(pulumi.RunError, match="STRICCT"):
        program(mtlsMode="STRICCT")

    assert not clusters, "without a cluster there is no provider, and no resource can be made"


def test_a_cluster_that_cannot_be_used_registers_nothing(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise components.cluster.ClusterError("a namespace of somebody else")

    monkeypatch.setattr(FakeCluster, "check_namespace", refuse)
    providers: list[str] = []
    monkeypatch.setattr(FakeCluster, "provider", lambda _, name: providers.append(name))

    with pytest.raises(pulumi.RunError, match="somebody else"):
        program()

    assert not providers, "without a provider no resource can be made"


MESH = {"kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"}}
STAGE = [MESH, pa("istio-system/default", "PERMISSIVE"), pod("bookinfo/web"), svc("bookinfo/web")]


def test_who_would_be_cut_off_registers_nothing_unless_named(
    program: Program, clusters: list[FakeCluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeCluster, "there", [*STAGE, pod("old/cron", "none")])
    monkeypatch.setattr(FakeCluster, "provider", lambda *_: pytest.fail("too late"))

    with pytest.raises(pulumi.RunError, match=r"old/cron -> web\.bookinfo:80"):
        program()

    assert len(clusters) == 1


def test_what_observes_the_mesh_is_not_cut_off_wherever_it_is(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeCluster, "there", [*STAGE, pod("watch/prometheus", "none")])

    assert program(observabilityNamespace="watch").named("mtls-default")
    with pytest.raises(pulumi.RunError, match="watch/prometheus"):
        program()
    assert program(mtlsCutOff=["watch/*:*"]).named("mtls-default")


# guard rails


def seen(deployed: Deployed) -> list[Resource]:
    """What a policy pack sees of a program."""
    outputs = Resource(type="pulumi:pulumi:Stack", name="stack", urn="", props=deployed.exports)
    return [
        outputs,
        *(
            Resource(
                type=one.type, name=one.name, urn=one.urn, props=one.inputs, protect=one.protect
            )
            for one in deployed.resources
        ),
    ]


def broken(deployed: Deployed) -> list[str]:
    """Names of the rules that are broken."""
    return [rule.name for rule in RULES if list(rule.check(seen(deployed)))]


def test_the_dev_stack_breaks_no_guard_rail(program: Program) -> None:
    assert broken(program()) == []


def test_the_production_stack_breaks_no_guard_rail(program: Program) -> None:
    deployed = program(file="prod")

    assert deployed.exports["production"] is True
    assert broken(deployed) == []


def test_no_way_of_using_the_program_well_breaks_a_guard_rail(program: Program) -> None:
    deployed = program(
        file="prod",
        profile="demo",
        observability=["prometheus", "grafana", "jaeger", "kiali"],
        observabilityNamespace="observers",
        mtlsScope="namespace",
        mtlsExceptions=[{**EXCEPTION, "expires": "2999-12-31"}],
        mtlsHosts=[],
        authorizationPolicy="off",
        egressHosts=[{"host": "api.example.com", "port": 443, "tls": "originate"}],
        prometheusStorage="10Gi",
    )

    assert broken(deployed) == []


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"mtlsMode": "PERMISSIVE"}, "namespaces-are-strict"),
        ({"replicas": 1}, "production-has-replicas"),
        ({"keepCrds": False}, "production-keeps-crds"),
    ],
)
def test_a_careless_production_setting_breaks_a_guard_rail(
    program: Program, changes: dict[str, object], rule: str
) -> None:
    assert rule in broken(program(file="prod", **changes))


def test_permissive_as_a_stage_keeps_to_the_guard_rails(program: Program) -> None:
    stage = {"mtlsMode": "PERMISSIVE", "mtlsPermissiveUntil": "2999-12-31"}

    for scope in ("mesh", "namespace"):
        assert broken(program(file="prod", mtlsScope=scope, **stage)) == []


def test_an_exception_without_a_last_day_breaks_a_guard_rail(program: Program) -> None:
    assert broken(program(mtlsExceptions=[EXCEPTION])) == ["exceptions-say-why"]


def test_production_protects_namespaces_and_crds_and_nothing_else(program: Program) -> None:
    deployed = program(file="prod", observability=["jaeger"], observabilityNamespace="observers")

    assert {one.name for one in deployed.resources if one.protect} == {
        "istio-base",
        "istio-namespace",
        "mesh-namespace",
        "observability-namespace",
    }


def test_a_stack_that_is_not_production_protects_nothing(program: Program) -> None:
    assert not [one.name for one in program().resources if one.protect]
