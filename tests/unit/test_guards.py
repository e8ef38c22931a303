"""Each rule of the policy pack: what it refuses, and what it lets pass."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from policy import guards
from policy.guards import RULES, Resource
from tests.unit import charts

GOLDEN = Path(__file__).with_name("golden") / "dev.yaml"
ISTIOD = "istio-control/istio-discovery"
TODAY = datetime.date(2026, 11, 23)


def resource(type_: str, props: dict[str, Any], *, name: str = "x", protect: bool = False) -> Any:
    return Resource(type=type_, name=name, urn=f"urn:{name}", props=props, protect=protect)


def istio(kind: str, spec: dict[str, Any], **metadata: Any) -> Any:
    group = "security" if kind == "PeerAuthentication" else "networking"
    meta = {"name": "x", "namespace": "shop", **metadata}
    return resource(f"kubernetes:{group}.istio.io/v1:{kind}", {"metadata": meta, "spec": spec})


def found(check: Any, *resources: Any, **arguments: Any) -> list[str]:
    return [finding.message for finding in check(list(resources), **arguments)]


# exceptions

WEAK = {
    "the-mode": {"mtls": {"mode": "PERMISSIVE"}},
    "no-tls": {"mtls": {"mode": "DISABLE"}},
    "a-port": {"mtls": {"mode": "STRICT"}, "portLevelMtls": {"8080": {"mode": "DISABLE"}}},
}
WHY = {"service-mesh/reason": "legacy probe", "service-mesh/expires": "2026-11-23"}


@pytest.mark.parametrize("spec", WEAK.values(), ids=WEAK)
@pytest.mark.parametrize(
    ("notes", "message"),
    [
        ({**WHY, "service-mesh/reason": " "}, "without the annotation service-mesh/reason"),
        ({"service-mesh/reason": "legacy probe"}, "without a date (YYYY-MM-DD)"),
        ({**WHY, "service-mesh/expires": "soon"}, "without a date (YYYY-MM-DD)"),
        ({**WHY, "service-mesh/expires": "2026-11-22"}, "until 2026-11-22, which is past"),
    ],
)
def test_plaintext_without_a_reason_and_a_day_to_come_is_refused(
    spec: dict[str, Any], notes: dict[str, str], message: str
) -> None:
    one = istio("PeerAuthentication", spec, annotations=notes)
    [said] = found(guards.exceptions_say_why, one, today=TODAY)
    assert message in said
    assert said.startswith("PeerAuthentication shop/x: ")


@pytest.mark.parametrize("spec", WEAK.values(), ids=WEAK)
def test_plaintext_with_a_reason_and_a_day_to_come_passes(spec: dict[str, Any]) -> None:
    assert not found(
        guards.exceptions_say_why, istio("PeerAuthentication", spec, annotations=WHY), today=TODAY
    )


def test_strict_needs_no_reason() -> None:
    one = istio("PeerAuthentication", {"mtls": {"mode": "STRICT"}})
    assert not found(guards.exceptions_say_why, one)


# namespaces


def namespace(
    name: str = "shop", labels: dict[str, str] | None = None, *, protect: bool = False
) -> Any:
    return resource(
        "kubernetes:core/v1:Namespace",
        {"metadata": {"name": name, "labels": labels or {}}},
        protect=protect,
    )


MESH = {"istio-injection": "enabled"}
OFF = {"istio-injection": "disabled", "istio.io/rev": "1-31"}


def peers(mode: str, where: str, selector: dict[str, Any] | None = None) -> Any:
    spec = {"mtls": {"mode": mode}, **({"selector": selector} if selector else {})}
    return istio("PeerAuthentication", spec, namespace=where)


@pytest.mark.parametrize(
    "policies",
    [
        [],
        [peers("STRICT", "elsewhere")],
        [peers("STRICT", "shop", {"matchLabels": {"app": "a"}})],
        [peers("PERMISSIVE", "istio-system")],
        [peers("STRICT", "istio-system"), peers("PERMISSIVE", "shop")],
    ],
    ids=["none", "another-namespace", "some-pods", "permissive", "weakened"],
)
def test_a_mesh_namespace_over_which_nothing_says_strict_is_refused(policies: list[Any]) -> None:
    [said] = found(guards.namespaces_are_strict, namespace("shop", MESH), *policies)
    assert "pods of shop get a sidecar" in said


@pytest.mark.parametrize(
    "policies",
    [
        [peers("STRICT", "istio-system")],
        [peers("STRICT", "shop")],
        [peers("STRICT", "istio-system"), peers("UNSET", "shop")],
    ],
    ids=["the-mesh", "itself", "inherited"],
)
def test_a_mesh_namespace_under_strict_passes(policies: list[Any]) -> None:
    assert not found(guards.namespaces_are_strict, namespace("shop", MESH), *policies)


def test_a_mesh_that_says_why_it_is_not_strict_yet_is_left_to_the_rule_for_exceptions() -> None:
    spec = {"mtls": {"mode": "PERMISSIVE"}}
    rollout = istio("PeerAuthentication", spec, namespace="istio-system", annotations=WHY)
    assert not found(guards.namespaces_are_strict, namespace("shop", MESH), rollout)


def test_a_namespace_outside_the_mesh_may_say_nothing() -> None:
    assert not found(guards.namespaces_are_strict, namespace())


# clients


def rule(host: str, policy: dict[str, Any], *, subset: bool = False) -> Any:
    spec = {"subsets": [{"name": "v1", "trafficPolicy": policy}]} if subset else {}
    return istio("DestinationRule", {"host": host, **(spec or {"trafficPolicy": policy})})


OUTSIDE = istio("ServiceEntry", {"hosts": ["api.example.com", "*.cloud.org"]})
CLAIMED = istio("ServiceEntry", {"hosts": ["pay.shop.svc.cluster.local", "pay.shop.svc", "pay"]})


@pytest.mark.parametrize(
    "host", ["pay", "pay.shop", "pay.shop.svc", "pay.shop.svc.cluster.local", "*", "*.local"]
)
@pytest.mark.parametrize("mode", ["DISABLE", "SIMPLE", "MUTUAL"])
def test_other_tls_than_istios_inside_the_mesh_is_refused(host: str, mode: str) -> None:
    tls = {"tls": {"mode": mode}}
    [said] = found(guards.clients_use_mutual_tls, OUTSIDE, CLAIMED, rule(host, tls))
    assert f"TLS {mode} to {host}" in said


@pytest.mark.parametrize("subset", [True, False])
@pytest.mark.parametrize(
    "policy",
    [
        {"tls": {"mode": "DISABLE"}},
        {"tls": {"sni": "x"}},
        {"portLevelSettings": [{"port": {"number": 80}, "tls": {"mode": "DISABLE"}}]},
    ],
)
def test_tls_off_is_found_wherever_it_is_said(policy: dict[str, Any], subset: bool) -> None:  # noqa: FBT001 a row of test data
    assert found(guards.clients_use_mutual_tls, rule("pay", policy, subset=subset))


def test_a_host_that_a_service_entry_puts_inside_is_inside() -> None:
    entry = istio("ServiceEntry", {"hosts": ["vm.example.com"], "location": "MESH_INTERNAL"})
    off = rule("vm.example.com", {"tls": {"mode": "DISABLE"}})
    assert found(guards.clients_use_mutual_tls, entry, off)


@pytest.mark.parametrize(
    "one",
    [
        rule("pay", {"tls": {"mode": "ISTIO_MUTUAL"}}),
        rule("pay", {"connectionPool": {"tcp": {"maxConnections": 1}}}),
        rule("api.example.com", {"tls": {"mode": "SIMPLE"}}),
        rule("eu.cloud.org", {"tls": {"mode": "DISABLE"}}),
    ],
    ids=["istios", "unsaid", "outside", "outside-by-wildcard"],
)
def test_istios_tls_inside_and_any_outside_pass(one: Any) -> None:
    assert not found(guards.clients_use_mutual_tls, OUTSIDE, one)


# workloads

CONTAINER: dict[str, Any] = {
    "name": "a",
    "image": "registry.example.com:5000/a:1.2",
    "resources": {"requests": {"cpu": "10m", "memory": "1Mi"}, "limits": {"memory": "2Mi"}},
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    },
}


def deployment(
    container: dict[str, Any] | None = None,
    pod: dict[str, Any] | None = None,
    *,
    where: str = "shop",
    replicas: float | None = None,
    init: bool = False,
    labels: dict[str, str] | None = None,
) -> Any:
    key = "initContainers" if init else "containers"
    template = {
        "metadata": {"labels": labels or {}},
        "spec": {**(pod or {}), key: [{**CONTAINER, **(container or {})}]},
    }
    spec = {"template": template, **({} if replicas is None else {"replicas": replicas})}
    return resource(
        "kubernetes:apps/v1:Deployment",
        {"metadata": {"name": "a", "namespace": where}, "spec": spec},
    )


NO_SIDECAR = {"sidecar.istio.io/inject": "false"}


@pytest.mark.parametrize(
    "spaces",
    [
        [],
        [namespace()],
        [namespace("other", MESH)],
        [namespace("shop", OFF)],
    ],
    ids=["unknown", "unlabelled", "another", "off"],
)
def test_a_workload_whose_namespace_does_not_inject_is_refused(spaces: list[Any]) -> None:
    [said] = found(guards.workloads_are_injected, *spaces, deployment())
    assert "shop is no namespace of the stack with istio-injection: enabled" in said


def test_a_workload_that_leaves_the_mesh_from_inside_is_refused() -> None:
    [said] = found(
        guards.workloads_are_injected, namespace("shop", MESH), deployment(labels=NO_SIDECAR)
    )
    assert "in the mesh namespace shop" in said


def test_a_cron_job_is_a_workload() -> None:
    template = {"spec": {"containers": [CONTAINER]}}
    job = resource(
        "kubernetes:batch/v1:CronJob",
        {
            "metadata": {"name": "a", "namespace": "shop"},
            "spec": {"jobTemplate": {"spec": {"template": template}}},
        },
    )
    assert found(guards.workloads_are_injected, job)
    assert not found(guards.workloads_are_injected, namespace("shop", MESH), job)


def test_injected_workloads_and_observers_pass() -> None:
    adopted = resource(
        "kubernetes:core/v1:NamespacePatch", {"metadata": {"name": "old", "labels": MESH}}
    )
    revision = namespace("new", {"istio.io/rev": "1-31"})
    assert not found(
        guards.workloads_are_injected,
        namespace("shop", MESH),
        adopted,
        revision,
        deployment(),
        deployment(where="old"),
        deployment(where="new"),
        deployment(where="observers", labels=NO_SIDECAR),
    )


# gateways

INGRESS = resource(
    "kubernetes:helm.sh/v3:Release",
    {"chart": ".lab/charts/gateway", "values": {"labels": {"istio": "ingressgateway"}}},
)


@pytest.mark.parametrize(
    "selector", [{}, {"istio": "other"}, {"app": "ingress"}], ids=["every", "another", "by-app"]
)
def test_a_gateway_in_somebody_elses_proxies_is_refused(selector: dict[str, str]) -> None:
    [said] = found(guards.gateways_are_ours, INGRESS, istio("Gateway", {"selector": selector}))
    assert "gateways of the stack: istio=ingressgateway" in said


def test_a_gateway_in_a_stack_without_gateways_is_refused() -> None:
    one = istio("Gateway", {"selector": {"istio": "ingressgateway"}})
    assert found(guards.gateways_are_ours, one)


def test_a_gateway_in_the_stacks_own_proxies_passes() -> None:
    one = istio("Gateway", {"selector": {"istio": "ingressgateway", "app": "x"}})
    assert not found(guards.gateways_are_ours, INGRESS, one)


# pods


@pytest.mark.parametrize("init", [True, False])
@pytest.mark.parametrize(
    "image", ["a", "a:latest", "registry.example.com:5000/a", "", "example.com/a:latest"]
)
def test_an_image_without_a_name_of_its_own_is_refused(image: str, init: bool) -> None:  # noqa: FBT001 same
    [said] = found(guards.images_are_named, deployment({"image": image}, init=init))
    assert f"image {image or 'missing'}" in said


@pytest.mark.parametrize("image", ["a:1", "example.com:5000/a:v1", "example.com/a@sha256:0a1b"])
def test_an_image_with_a_tag_or_a_digest_passes(image: str) -> None:
    assert not found(guards.images_are_named, deployment({"image": image}))


@pytest.mark.parametrize(
    ("said", "missing"),
    [
        ({}, "requests.cpu, requests.memory, limits.memory"),
        ({"requests": {"cpu": "1", "memory": "1Gi"}}, "limits.memory"),
        ({"requests": {"memory": "1Gi"}, "limits": {"memory": "1Gi"}}, "requests.cpu"),
    ],
)
def test_a_container_that_does_not_say_what_it_needs_is_refused(
    said: dict[str, Any], missing: str
) -> None:
    [message] = found(guards.resources_are_said, deployment({"resources": said}))
    assert message == f"Deployment shop/a: container a has no {missing}"


def test_a_container_that_says_what_it_needs_passes() -> None:
    assert not found(guards.resources_are_said, deployment())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"privileged": True}, "privileged is true"),
        ({"allowPrivilegeEscalation": None}, "allowPrivilegeEscalation is not false"),
        ({"runAsNonRoot": None}, "runAsNonRoot is not true"),
        ({"runAsNonRoot": False}, "runAsNonRoot is not true"),
        ({"runAsUser": 0}, "runAsUser is 0"),
        ({"capabilities": {"drop": ["NET_RAW"]}}, "capabilities.drop has no ALL"),
        ({"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}, "add has SYS_ADMIN"),
        ({"seccompProfile": None}, "seccompProfile is not RuntimeDefault"),
        ({"seccompProfile": {"type": "Unconfined"}}, "seccompProfile is not RuntimeDefault"),
    ],
)
def test_a_container_with_rights_it_does_not_need_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    context = {**CONTAINER["securityContext"], **changes}
    [said] = found(guards.pods_are_restricted, deployment({"securityContext": context}))
    assert message in said


@pytest.mark.parametrize(
    "pod",
    [
        {"hostNetwork": True},
        {"hostPID": True},
        {"hostIPC": True},
        {"volumes": [{"name": "root", "hostPath": {"path": "/"}}]},
    ],
)
def test_a_pod_that_shares_with_its_node_is_refused(pod: dict[str, Any]) -> None:
    [said] = found(guards.pods_are_restricted, deployment(pod=pod))
    assert "shares with its node" in said


def test_a_restricted_container_passes() -> None:
    assert not found(guards.pods_are_restricted, deployment())


def test_a_container_inherits_what_its_pod_says() -> None:
    own = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    shared = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert not found(
        guards.pods_are_restricted,
        deployment({"securityContext": own}, {"securityContext": shared}),
    )


# production

PRODUCTION = resource("pulumi:pulumi:Stack", {"production": True})
OTHER = resource("pulumi:pulumi:Stack", {"production": False})
FAULTY = istio("VirtualService", {"http": [{"route": []}, {"fault": {"abort": {}}}]})
CRDS = "kubernetes:helm.sh/v3:Release"
REWRITTEN = resource(CRDS, {"chart": "base", "postrender": "drop.sh"}, protect=True)
UNPROTECTED = resource(CRDS, {"chart": "base"})


def release(values: dict[str, Any], chart: str = ".lab/charts/istiod") -> Any:
    return resource(CRDS, {"chart": chart, "values": values})


def noisy(notes: dict[str, str]) -> Any:
    one = deployment()
    one.props["spec"]["template"]["metadata"]["annotations"] = notes
    return one


def env(name: str, value: str) -> Any:
    return release({"pilot": {"env": {name: value}}})


DEBUGGED = {
    "proxy": (noisy({"sidecar.istio.io/logLevel": "debug"}), "sidecar.istio.io/logLevel is debug"),
    "a-part": (
        noisy({"sidecar.istio.io/componentLogLevel": "misc:error,rbac:Trace"}),
        "componentLogLevel is misc:error,rbac:Trace",
    ),
    "agent": (noisy({"sidecar.istio.io/agentLogLevel": "dns:debug"}), "agentLogLevel is dns:debug"),
    "gateway": (
        release({"podAnnotations": {"sidecar.istio.io/logLevel": "trace"}}, chart="gateway"),
        "sidecar.istio.io/logLevel is trace",
    ),
    "istiod": (
        release({"global": {"logging": {"level": "default:info,ads:debug"}}}),
        "global.logging.level is default:info,ads:debug",
    ),
    "all-proxies": (
        release({"global": {"proxy": {"logLevel": "debug"}}}),
        "global.proxy.logLevel is debug",
    ),
    "a-part-of-all": (
        release({"global": {"proxy": {"componentLogLevel": "http:debug"}}}),
        "global.proxy.componentLogLevel is http:debug",
    ),
    "admin": (env("UNSAFE_ENABLE_ADMIN_ENDPOINTS", "true"), "ADMIN_ENDPOINTS is true"),
    "assertions": (env("UNSAFE_PILOT_ENABLE_RUNTIME_ASSERTIONS", "T"), "ASSERTIONS is T"),
    "anybody": (env("ENABLE_DEBUG_ENDPOINT_AUTH", "0"), "ENDPOINT_AUTH is 0"),
    "beside-pilot": (
        release({"env": {"UNSAFE_ENABLE_ADMIN_ENDPOINTS": True}}),
        "ADMIN_ENDPOINTS is True",
    ),
}

CARELESS = {
    **{
        f"debug-{name}": (guards.nothing_is_debugged, one, f"{message} in production")
        for name, (one, message) in DEBUGGED.items()
    },
    "a-fault": (guards.nothing_fails_on_purpose, FAULTY, "a fault in a production stack"),
    "one-replica": (guards.nobody_is_alone, deployment(replicas=1.0), "1 replica of 2 or more"),
    "unsaid-replicas": (guards.nobody_is_alone, deployment(), "1 replica of 2 or more"),
    "crds-go": (guards.crds_stay, REWRITTEN, "drop.sh rewrites the CRDs' chart"),
    "crds-unprotected": (guards.what_must_stay_is_protected, UNPROTECTED, "not protected"),
    "namespace-unprotected": (guards.what_must_stay_is_protected, namespace(), "not protected"),
}


@pytest.mark.parametrize(("check", "one", "message"), CARELESS.values(), ids=CARELESS)
def test_what_is_careless_is_refused_in_production(check: Any, one: Any, message: str) -> None:
    [said] = found(check, PRODUCTION, one)
    assert message in said


@pytest.mark.parametrize(("check", "one", "message"), CARELESS.values(), ids=CARELESS)
def test_what_is_careless_passes_elsewhere(check: Any, one: Any, message: str) -> None:  # noqa: ARG001 of the table
    assert not found(check, OTHER, one)
    assert not found(check, one)


CAREFUL = {
    "no-fault": (
        guards.nothing_fails_on_purpose,
        istio("VirtualService", {"http": [{"route": []}]}),
    ),
    "two-replicas": (guards.nobody_is_alone, deployment(replicas=2.0)),
    "quiet-pods": (
        guards.nothing_is_debugged,
        noisy({"sidecar.istio.io/logLevel": "warning", "note": "debug"}),
    ),
    "a-scope-of-that-name": (
        guards.nothing_is_debugged,
        release({"global": {"logging": {"level": "default:info,debugging:warn"}}}),
    ),
    "doors-shut": (guards.nothing_is_debugged, env("UNSAFE_ENABLE_ADMIN_ENDPOINTS", "false")),
    "asked-who": (guards.nothing_is_debugged, env("ENABLE_DEBUG_ENDPOINT_AUTH", "true")),
    "other-variables": (guards.nothing_is_debugged, env("PILOT_ENABLE_ALPN_FILTER", "true")),
    "no-values": (guards.nothing_is_debugged, UNPROTECTED),
    "an-observer": (guards.nobody_is_alone, deployment(replicas=1.0, labels=NO_SIDECAR)),
    "crds-kept": (guards.crds_stay, UNPROTECTED),
    "crds-protected": (guards.what_must_stay_is_protected, REWRITTEN),
    "namespace-protected": (guards.what_must_stay_is_protected, namespace(protect=True)),
}


@pytest.mark.parametrize(("check", "one"), CAREFUL.values(), ids=CAREFUL)
def test_what_is_careful_passes_in_production(check: Any, one: Any) -> None:
    assert not found(check, PRODUCTION, one)


@pytest.mark.parametrize("annotation", guards._LOG_LEVELS)
def test_the_annotations_about_logs_are_those_that_istiod_reads(annotation: str) -> None:
    template = charts.FOLDER / ISTIOD / "files" / "injection-template.yaml"
    assert f"`{annotation}`" in template.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", ["logging.level", "proxy.logLevel", "proxy.componentLogLevel"])
def test_the_values_about_logs_are_those_of_chart_istiod(path: str) -> None:
    part, _, key = path.partition(".")
    assert key in charts.defaults(ISTIOD)["global"][part]
    loud = release({"global": {part: {key: "debug"}}})
    [said] = found(guards.nothing_is_debugged, PRODUCTION, loud)
    assert f"global.{path} is debug" in said


# all of them


def test_the_recorded_dev_stack_breaks_no_rule() -> None:
    recorded = yaml.safe_load(GOLDEN.read_text(encoding="utf-8"))
    stack = [resource(one["type"], one["inputs"], name=one["name"]) for one in recorded]
    assert {rule.name: found(rule.check, *stack) for rule in RULES} == {
        rule.name: [] for rule in RULES
    }


def test_every_rule_has_a_name_of_its_own() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
