"""One test per rule, in the order of the rules: who has a proxy, server, client, join, ambient."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.tlscheck_objects import (
    CLIENT,
    MTLS,
    PLAIN,
    ROOT,
    WEB,
    Object,
    codes,
    dr,
    entry,
    for_app,
    judge,
    obj,
    pa,
    pod,
    sidecar,
    svc,
    told,
)

# Section 2: who has a proxy


def deployment(labels: Object | None = None, notes: Object | None = None, **spec: Any) -> Object:
    metadata = {"labels": {"app": "web", **(labels or {})}, "annotations": notes or {}}
    template = {"metadata": metadata, "spec": {"containers": [{"name": "app"}], **spec}}
    return obj("Deployment", "srv/web", {"template": template})


INJECT = "sidecar.istio.io/inject"


@pytest.mark.parametrize(
    ("namespace", "given", "injected"),
    [
        ({"istio-injection": "enabled"}, {}, True),
        ({"istio.io/rev": "stable"}, {}, True),
        ({}, {}, False),
        ({"istio-injection": "disabled", "istio.io/rev": "stable"}, {}, False),
        ({}, {"labels": {INJECT: "true"}}, True),
        ({}, {"labels": {"istio.io/rev": "stable"}}, True),
        ({"istio-injection": "enabled"}, {"labels": {INJECT: "false"}}, False),
        ({"istio-injection": "enabled"}, {"notes": {INJECT: "false"}}, False),
        (
            {"istio-injection": "enabled"},
            {"labels": {INJECT: "true"}, "notes": {INJECT: "false"}},
            True,
        ),
        ({"istio-injection": "disabled"}, {"labels": {INJECT: "true"}}, False),
        ({"istio-injection": "enabled"}, {"hostNetwork": True}, False),
    ],
)
def test_a_deployment_is_injected_as_the_webhook_would(
    namespace: Object, given: Object, *, injected: bool
) -> None:
    labelled = obj("Namespace", "default/srv", labels=namespace)

    row = told(judge(labelled, deployment(**given), svc("srv/web"), CLIENT))

    assert row == (MTLS if injected else "PLAINTEXT NO_PROXY PLAINTEXT")


def test_a_deployment_that_has_pods_is_its_pods() -> None:
    made = deployment()
    made["spec"]["selector"] = for_app("web")

    assert {row.server_name for row in judge(made, *WEB, CLIENT)} == {"srv/web"}


def test_the_tls_mode_label_alone_decides_what_clients_send() -> None:
    bare = pod("srv/web", tag=None)
    lying = pod("srv/liar", "none", labels={"security.istio.io/tlsMode": "istio"})
    odd = pod("srv/odd", tag="other")
    found = judge(bare, svc("srv/web"), lying, svc("srv/liar"), odd, svc("srv/odd"), CLIENT)

    assert told(found, server_name="srv/web") == PLAIN
    assert told(found, server_name="srv/liar") == "ISTIO_MUTUAL NO_PROXY CONFLICT"
    assert told(found, server_name="srv/odd") == PLAIN


def test_a_gateway_is_sent_plaintext_and_ruled_by_no_policy() -> None:
    found = judge(
        pa(f"{ROOT}/default", "STRICT"), pod("srv/web", "gateway"), svc("srv/web"), CLIENT
    )

    assert told(found) == "PLAINTEXT NO_PROXY PLAINTEXT"


@pytest.mark.parametrize(
    ("mode", "row"),
    [
        (None, "PLAINTEXT PERMISSIVE PLAINTEXT"),
        ("SIMPLE", "PLAINTEXT PERMISSIVE PLAINTEXT"),
        ("ISTIO_MUTUAL", MTLS),
    ],
)
def test_a_proxyless_client_heeds_istio_mutual_only(mode: str | None, row: str) -> None:
    rules = [dr("srv/web", "web", mode)]

    assert told(judge(*WEB, *rules, pod("cli/c", "grpc"))) == row


@pytest.mark.parametrize(
    ("tag", "mode", "row"),
    [
        ("istio", None, "ISTIO_MUTUAL STRICT ISTIO_MUTUAL"),
        (None, None, "PLAINTEXT DISABLE PLAINTEXT"),
        (None, "STRICT", "PLAINTEXT STRICT CONFLICT"),
        ("istio", "DISABLE", "PLAINTEXT DISABLE PLAINTEXT"),
    ],
)
def test_a_proxyless_server_takes_one_or_the_other(
    tag: str | None, mode: str | None, row: str
) -> None:
    server = pod("srv/web", "grpc", tag=tag), svc("srv/web", name="grpc")

    assert told(judge(*server, pa("srv/p", mode), CLIENT)) == row


def test_a_service_entry_endpoint_has_a_proxy_by_label_or_service_account() -> None:
    endpoints = [
        {"address": "10.0.0.1", "serviceAccount": "vm"},
        {"address": "10.0.0.2"},
        {"address": "10.0.0.3", "labels": {"security.istio.io/tlsMode": "istio"}},
        {
            "address": "10.0.0.4",
            "serviceAccount": "vm",
            "labels": {"security.istio.io/tlsMode": "disabled"},
        },
    ]
    where = {"resolution": "STATIC", "location": "MESH_INTERNAL"}
    found = judge(entry("srv/vm", "vm.example", endpoints=endpoints, **where), CLIENT)

    assert told(found, server_name="ep:10.0.0.1") == MTLS
    assert told(found, server_name="ep:10.0.0.2") == "PLAINTEXT NO_PROXY PLAINTEXT"
    assert told(found, server_name="ep:10.0.0.3") == MTLS
    assert told(found, server_name="ep:10.0.0.4") == "PLAINTEXT NO_PROXY PLAINTEXT"


def test_a_service_entry_selects_pods_and_workload_entries() -> None:
    machine = obj(
        "WorkloadEntry",
        "srv/vm",
        {"address": "10.0.0.1", "labels": {"app": "web"}, "serviceAccount": "vm"},
    )
    where = {"resolution": "STATIC", "location": "MESH_INTERNAL"}
    selecting = entry("srv/e", "e.example", workloadSelector={"labels": {"app": "web"}}, **where)
    strict = pa("srv/default", "STRICT")
    found = judge(selecting, pod("srv/web"), machine, strict, CLIENT)

    assert told(found, server_name="srv/web") == "ISTIO_MUTUAL STRICT ISTIO_MUTUAL"
    assert told(found, server_name="ep:10.0.0.1") == "ISTIO_MUTUAL STRICT ISTIO_MUTUAL"


def test_a_service_without_selector_leads_where_its_endpoint_slice_says() -> None:
    bare = svc("srv/db")
    del bare["spec"]["selector"]
    slices = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "db-x",
            "namespace": "srv",
            "labels": {"kubernetes.io/service-name": "db"},
        },
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [
            {"addresses": ["192.0.2.1"]},
            {"addresses": ["10.1.1.1"], "targetRef": {"kind": "Pod", "name": "web"}},
        ],
    }
    found = judge(bare, slices, pod("srv/web"), CLIENT)

    assert told(found, server_name="ep:192.0.2.1") == "PLAINTEXT NO_PROXY PLAINTEXT"
    assert told(found, server_name="srv/web") == MTLS


# Section 3: what the server accepts


def test_a_selector_without_labels_is_no_selector() -> None:
    empty: list[Object] = [{}, {"matchLabels": {}}]
    for selector in empty:
        found = judge(pa(f"{ROOT}/d", "STRICT", selector=selector), *WEB, pod("cli/c", "none"))
        assert told(found) == "NO_PROXY STRICT CONFLICT"


def test_the_policy_of_the_root_namespace_is_the_namespace_policy_there() -> None:
    root = pod(f"{ROOT}/web"), svc(f"{ROOT}/web")

    assert told(judge(pa(f"{ROOT}/d", "STRICT"), *root, CLIENT)) == (
        "ISTIO_MUTUAL STRICT ISTIO_MUTUAL"
    )


def test_of_two_workload_policies_the_older_wins_as_a_whole() -> None:
    old = pa("srv/z", age=1, selector=for_app("web"), portLevelMtls={9999: {"mode": "STRICT"}})
    new = pa("srv/a", "STRICT", age=2, selector=for_app("web"))

    assert told(judge(old, new, *WEB, CLIENT)) == MTLS


@pytest.mark.parametrize("selector", [None, for_app("web")])
def test_port_modes_count_only_with_a_selector(selector: Object | None) -> None:
    spec: Object = {"portLevelMtls": {"8080": {"mode": "STRICT"}}}
    spec |= {"selector": selector} if selector else {}
    found = judge(pa("srv/p", **spec), *WEB, pod("cli/c", "none"))

    assert told(found) == (
        "NO_PROXY STRICT CONFLICT" if selector else "NO_PROXY PERMISSIVE PLAINTEXT"
    )


def test_a_named_target_port_is_looked_up_in_the_pod() -> None:
    named = svc("srv/web", ports=[{"name": "http", "port": 80, "targetPort": "web"}])
    policy = pa("srv/p", selector=for_app("web"), portLevelMtls={"9000": {"mode": "DISABLE"}})
    found = judge(policy, named, pod("srv/web", ports={"web": 9000}), CLIENT)

    assert told(found) == "PLAINTEXT DISABLE PLAINTEXT"


# Section 4 and 8: what the listener does with bytes


@pytest.mark.parametrize(
    ("port", "effective"),
    [
        ({"name": "http-web"}, "CONFLICT"),
        ({"name": "grpc-web-x"}, "CONFLICT"),
        ({"name": "HTTP2"}, "CONFLICT"),
        ({"name": "https"}, "SIMPLE"),
        ({"name": "tcp-web"}, "SIMPLE"),
        ({"name": "web"}, "SIMPLE"),
        ({"name": "tcp", "appProtocol": "http"}, "CONFLICT"),
        ({"name": "http", "appProtocol": "kubernetes.io/wss"}, "SIMPLE"),
        ({"name": "http", "appProtocol": "kubernetes.io/h2c"}, "CONFLICT"),
        ({"name": "tcp", "appProtocol": "kubernetes.io/ws"}, "CONFLICT"),
        ({"name": "http", "appProtocol": "vendor/own"}, "SIMPLE"),
    ],
)
@pytest.mark.parametrize("mode", ["PERMISSIVE", "DISABLE"])
def test_foreign_tls_passes_where_the_port_is_not_http(
    port: Object, effective: str, mode: str
) -> None:
    service = svc("srv/web", ports=[{"port": 80, "targetPort": 8080, **port}])
    found = judge(pod("srv/web"), service, dr("srv/d", "web", "SIMPLE"), pa("srv/p", mode), CLIENT)

    assert told(found) == f"SIMPLE {mode} {effective}"


def test_udp_ports_are_left_out() -> None:
    assert (
        judge(pod("srv/web"), svc("srv/web", ports=[{"port": 53, "protocol": "UDP"}]), CLIENT) == []
    )


def test_foreign_tls_to_a_bare_pod_is_the_applications_business() -> None:
    found = judge(pod("srv/web", "none"), svc("srv/web"), dr("srv/d", "web", "SIMPLE"), CLIENT)

    assert told(found) == "SIMPLE NO_PROXY SIMPLE"


# Section 5: is the service visible

STRICT = pa(f"{ROOT}/default", "STRICT")


@pytest.mark.parametrize(
    ("hosts", "seen"),
    [
        (["srv/*"], True),
        (["*/*"], True),
        (["*/web.srv.svc.cluster.local"], True),
        (["*/*.srv.svc.cluster.local"], True),
        (["./*"], False),
        (["~/*"], False),
        (["other/*"], False),
        (["*/*", "~srv/*"], False),
        (["*/*", "~*/web.srv.svc.cluster.local"], False),
    ],
)
def test_a_sidecar_shows_its_clients_what_it_imports(hosts: list[str], *, seen: bool) -> None:
    found = judge(*WEB, STRICT, sidecar("cli/s", *hosts), CLIENT)

    assert told(found) == (
        "ISTIO_MUTUAL STRICT ISTIO_MUTUAL" if seen else "PLAINTEXT STRICT CONFLICT"
    )


def test_what_is_not_imported_is_blocked_under_registry_only() -> None:
    hidden = sidecar("cli/s", "./*", outboundTrafficPolicy={"mode": "REGISTRY_ONLY"})
    assert told(judge(*WEB, hidden, CLIENT)) == "BLOCKED PERMISSIVE CONFLICT"
    strict_mesh: Object = {"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}
    assert told(judge(*WEB, sidecar("cli/s", "./*"), CLIENT, **strict_mesh)) == (
        "BLOCKED PERMISSIVE CONFLICT"
    )
    allowing = sidecar("cli/s", "./*", outboundTrafficPolicy={"mode": "ALLOW_ANY"})
    assert told(judge(*WEB, allowing, CLIENT, **strict_mesh)) == PLAIN


def test_the_sidecar_with_a_matching_selector_comes_first_then_the_namespaces_then_roots() -> None:
    selecting = sidecar("cli/z", "srv/*", workloadSelector={"labels": {"app": "c"}})
    other = sidecar("cli/y", "~/*", workloadSelector={"labels": {"app": "x"}})
    namespace, root = sidecar("cli/a", "./*"), sidecar(f"{ROOT}/a", "~/*")

    assert told(judge(*WEB, selecting, other, namespace, root, CLIENT)) == MTLS
    assert told(judge(*WEB, other, namespace, root, CLIENT)) == PLAIN
    assert told(judge(*WEB, other, sidecar("cli/a", "srv/*"), root, CLIENT)) == MTLS
    assert told(judge(*WEB, root, CLIENT)) == PLAIN
    assert told(judge(*WEB, root, pod("cli/c", "gateway"))) == MTLS


def test_an_egress_listener_with_a_port_imports_that_port_only() -> None:
    two = [{"name": f"http-{p}", "port": p, "targetPort": 8080} for p in (80, 81)]
    one = obj("Sidecar", "cli/s", {"egress": [{"port": {"number": 81}, "hosts": ["*/*"]}]})
    found = judge(pod("srv/web"), svc("srv/web", ports=two), one, CLIENT)

    assert told(found, port=80) == PLAIN
    assert told(found, port=81) == MTLS


def test_an_imported_virtual_service_pulls_in_what_it_routes_to() -> None:
    route = obj(
        "VirtualService",
        "cli/v",
        {
            "hosts": ["shop"],
            "http": [{"route": [{"destination": {"host": "web.srv.svc.cluster.local"}}]}],
        },
    )

    assert told(judge(*WEB, sidecar("cli/s", "./*"), route, CLIENT)) == MTLS


@pytest.mark.parametrize(
    ("export", "seen"),
    [("*", True), ("cli", True), (".", False), ("other, more", False), ("~", False)],
)
def test_export_to_of_a_service_comes_first(export: str, *, seen: bool) -> None:
    hidden = svc("srv/web", notes={"networking.istio.io/exportTo": export})

    assert told(judge(pod("srv/web"), hidden, CLIENT)) == (MTLS if seen else PLAIN)


@pytest.mark.parametrize(
    ("notes", "row"),
    [
        ({"excludeOutboundPorts": "80,443"}, "NO_PROXY PERMISSIVE PLAINTEXT"),
        ({"excludeOutboundPorts": "443"}, MTLS),
        ({"excludeOutboundIPRanges": "10.0.0.0/8"}, "NO_PROXY PERMISSIVE PLAINTEXT"),
        ({"includeOutboundIPRanges": "192.168.0.0/16"}, "NO_PROXY PERMISSIVE PLAINTEXT"),
        ({"includeOutboundIPRanges": ""}, "NO_PROXY PERMISSIVE PLAINTEXT"),
        ({"includeOutboundIPRanges": "", "includeOutboundPorts": "80"}, MTLS),
        ({"includeOutboundIPRanges": "no address"}, "NO_PROXY PERMISSIVE PLAINTEXT"),
    ],
)
def test_calls_kept_from_the_clients_proxy_go_without_one(notes: Object, row: str) -> None:
    client = pod("cli/c", notes={f"traffic.sidecar.istio.io/{k}": v for k, v in notes.items()})

    assert told(judge(pod("srv/web"), svc("srv/web", clusterIP="10.1.2.3"), client)) == row


# Section 6: which DestinationRule


def test_a_dotted_short_host_matches_nothing() -> None:
    assert told(judge(*WEB, dr("srv/d", "web.srv", "DISABLE"), CLIENT)) == MTLS
    assert told(judge(*WEB, dr("cli/d", "web", "DISABLE"), CLIENT)) == MTLS
    assert told(judge(*WEB, dr("srv/d", "web", "DISABLE"), CLIENT)) == PLAIN


def test_a_wildcard_in_the_clients_namespace_beats_an_exact_host_later() -> None:
    near, exact = dr("cli/d", "*.svc.cluster.local", "DISABLE"), dr("srv/d", "web", "ISTIO_MUTUAL")

    assert told(judge(*WEB, near, exact, CLIENT)) == PLAIN


def test_inside_a_namespace_the_exact_host_wins_then_the_longest_wildcard() -> None:
    short, longer = dr("cli/a", "*.local", "DISABLE"), dr("cli/b", "*.cluster.local", "SIMPLE")
    exact = dr("cli/c", "web.srv.svc.cluster.local", "ISTIO_MUTUAL")

    assert told(judge(*WEB, short, longer, exact, CLIENT)) == MTLS
    assert told(judge(*WEB, short, longer, CLIENT)) == "SIMPLE PERMISSIVE CONFLICT"


def test_export_to_another_namespace_takes_a_rule_from_its_own() -> None:
    away = dr("srv/d", "web", "DISABLE", exportTo=["cli"])
    found = judge(*WEB, away, CLIENT, pod("srv/c"))

    assert told(found, server_name="srv/web") == PLAIN
    assert told(found, client="srv/c", server_name="srv/web") == MTLS


def test_an_exact_rule_that_is_not_exported_hides_the_wildcard_beside_it() -> None:
    hidden = dr("srv/a", "web", "DISABLE", exportTo=["other"])
    wide = dr("srv/b", "*.srv.svc.cluster.local", "DISABLE")
    root = dr(f"{ROOT}/r", "*.local", "SIMPLE")

    assert told(judge(*WEB, hidden, wide, CLIENT)) == MTLS
    assert told(judge(*WEB, hidden, wide, root, CLIENT)) == "SIMPLE PERMISSIVE CONFLICT"


def test_the_meshs_default_export_makes_rules_private() -> None:
    rule = dr("srv/d", "web", "DISABLE")

    assert told(judge(*WEB, rule, CLIENT, defaultDestinationRuleExportTo=["."])) == MTLS


def test_a_rule_with_a_workload_selector_is_for_its_own_namespaces_matching_clients() -> None:
    host = "web.srv.svc.cluster.local"
    mine = dr("cli/a", host, "DISABLE", age=9, workloadSelector=for_app("c"))
    rest = dr("cli/b", host, "SIMPLE")
    assert told(judge(*WEB, mine, rest, CLIENT)) == PLAIN
    assert (
        told(judge(*WEB, mine, rest, pod("cli/x")), client="cli/x") == "SIMPLE PERMISSIVE CONFLICT"
    )
    at_server = dr("srv/a", "web", "DISABLE", workloadSelector=for_app("c"))
    assert told(judge(*WEB, at_server, CLIENT)) == MTLS


def test_selector_rules_that_do_not_match_leave_the_client_without_any_rule() -> None:
    other = dr("cli/a", "web.srv.svc.cluster.local", "SIMPLE", workloadSelector=for_app("x"))

    assert told(judge(*WEB, other, dr("srv/d", "web", "DISABLE"), CLIENT)) == MTLS


def test_a_merge_keeps_the_oldest_policy_whole_and_unites_the_subsets() -> None:
    first = dr("srv/a", "web", age=1, trafficPolicy={"connectionPool": {}})
    subsets = [
        {"name": "s", "labels": {"app": "web"}, "trafficPolicy": {"tls": {"mode": "SIMPLE"}}}
    ]
    second = dr("srv/b", "web", "DISABLE", age=2, subsets=subsets)
    found = judge(*WEB, first, second, CLIENT)

    assert told(found) == MTLS
    assert told(found, subset="s") == "SIMPLE PERMISSIVE CONFLICT"
    assert [row.client_rule for row in found] == ["srv/a", "srv/b"]


def test_rules_of_different_export_are_kept_apart_and_the_newest_counts_at_home() -> None:
    old = dr("srv/a", "web", "SIMPLE", age=1, exportTo=["."])
    new = dr("srv/b", "web", "DISABLE", age=2)
    found = judge(*WEB, old, new, pod("srv/c"))

    assert told(found, client="srv/c", server_name="srv/web") == PLAIN


@pytest.mark.parametrize(("export", "row"), [(["."], PLAIN), ([".", "x"], PLAIN), (None, MTLS)])
def test_a_private_rule_fills_what_a_selector_rule_leaves_out(
    export: list[str] | None, row: str
) -> None:
    host = "web.srv.svc.cluster.local"
    selecting = dr("cli/a", host, age=9, workloadSelector=for_app("c"))
    given: Object = {"exportTo": export} if export else {}
    rest = dr("cli/b", host, "DISABLE", **given)

    assert told(judge(*WEB, selecting, rest, CLIENT)) == row


def test_rules_with_different_selectors_are_not_merged() -> None:
    host = "web.srv.svc.cluster.local"
    mine = dr("cli/a", host, workloadSelector=for_app("c"))
    other = dr("cli/b", host, "DISABLE", workloadSelector=for_app("x"))

    assert told(judge(*WEB, mine, other, CLIENT)) == MTLS


# Section 7: tls and automatic mTLS


def at_port(port: int, mode: str | None = None, **policy: Any) -> Object:
    tls: Object = {"tls": {"mode": mode}} if mode else {}
    return {"port": {"number": port}, **tls, **policy}


def test_a_port_entry_without_tls_resets_the_cluster_but_not_the_endpoints() -> None:
    def rule(mode: str) -> Object:
        policy = {"tls": {"mode": mode}, "portLevelSettings": [at_port(80, connectionPool={})]}
        return dr("srv/d", "web", trafficPolicy=policy)

    off = pa("srv/p", "DISABLE", selector=for_app("web"))
    bare = pod("srv/bare", "none", labels={"app": "web"})
    assert told(judge(*WEB, rule("DISABLE"), CLIENT)) == PLAIN
    found = judge(*WEB, rule("ISTIO_MUTUAL"), off, bare, CLIENT)
    assert told(found, server_name="srv/web") == "ISTIO_MUTUAL DISABLE CONFLICT"
    assert told(found, server_name="srv/bare") == "PLAINTEXT NO_PROXY PLAINTEXT"


@pytest.mark.parametrize(
    ("own", "row"),
    [
        (None, "SIMPLE PERMISSIVE CONFLICT"),
        ({}, "SIMPLE PERMISSIVE CONFLICT"),
        ({"tls": {"mode": "DISABLE"}}, PLAIN),
        ({"portLevelSettings": [at_port(80)]}, "PLAINTEXT PERMISSIVE PLAINTEXT"),
        ({"portLevelSettings": [at_port(80, "ISTIO_MUTUAL")]}, MTLS),
        ({"portLevelSettings": [at_port(8080, "DISABLE")]}, "SIMPLE PERMISSIVE CONFLICT"),
    ],
)
def test_a_subset_starts_from_the_rules_policy_for_the_port(own: Object | None, row: str) -> None:
    subset: Object = {"name": "s", "labels": {"app": "web"}}
    subset |= {} if own is None else {"trafficPolicy": own}
    policy = {"tls": {"mode": "DISABLE"}, "portLevelSettings": [at_port(80, "SIMPLE")]}

    assert (
        told(
            judge(*WEB, dr("srv/d", "web", trafficPolicy=policy, subsets=[subset]), CLIENT),
            subset="s",
        )
        == row
    )


def tls_rule(selector: Object | None = None, **tls: Any) -> Object:
    spec: Object = {"workloadSelector": selector} if selector else {}
    return dr("cli/d", "web.srv.svc.cluster.local", trafficPolicy={"tls": tls}, **spec)


FILES: Object = {"clientCertificate": "c", "privateKey": "k"}


@pytest.mark.parametrize(
    ("client", "rule", "sent"),
    [
        ("sidecar", tls_rule(mode="SIMPLE", credentialName="x"), "PLAINTEXT"),
        ("sidecar", tls_rule(mode="MUTUAL", credentialName="x"), "PLAINTEXT"),
        ("sidecar", tls_rule(mode="SIMPLE", credentialName="configmap://x"), "SIMPLE"),
        ("sidecar", tls_rule(for_app("c"), mode="SIMPLE", credentialName="x"), "SIMPLE"),
        ("gateway", tls_rule(mode="SIMPLE", credentialName="x"), "SIMPLE"),
        ("gateway", tls_rule(mode="MUTUAL", credentialName="x"), "MUTUAL"),
        ("sidecar", tls_rule(mode="MUTUAL"), "PLAINTEXT"),
        ("sidecar", tls_rule(mode="MUTUAL", **FILES), "MUTUAL"),
        ("sidecar", tls_rule(), "PLAINTEXT"),
    ],
)
def test_tls_that_names_certificates(client: str, rule: Object, sent: str) -> None:
    row = told(judge(pod("srv/web"), svc("srv/web", name="tcp"), rule, pod("cli/c", client)))

    assert row == f"{sent} PERMISSIVE {sent}"


def test_a_namespace_disable_means_plaintext_even_to_a_strict_workload() -> None:
    off, strict = pa("srv/a", "DISABLE"), pa("srv/b", "STRICT", selector=for_app("web"))

    assert told(judge(*WEB, off, strict, CLIENT)) == "PLAINTEXT STRICT CONFLICT"


def test_headless_reads_no_workload_policy() -> None:
    port = pa("srv/p", "STRICT", selector=for_app("web"), portLevelMtls={8080: {"mode": "DISABLE"}})
    found = judge(pod("srv/web"), svc("srv/web", clusterIP="None"), port, CLIENT)
    assert told(found) == "ISTIO_MUTUAL DISABLE CONFLICT"


def test_headless_is_judged_one_by_one_by_gateways_when_all_have_sidecars() -> None:
    off = pa("srv/p", "DISABLE", selector=for_app("web"))
    headless = svc("srv/web", clusterIP="None")

    assert told(judge(pod("srv/web"), headless, off, pod("cli/c", "gateway"))) == (
        "PLAINTEXT DISABLE PLAINTEXT"
    )


PASSTHROUGH: Object = {"loadBalancer": {"simple": "PASSTHROUGH"}}


@pytest.mark.parametrize(
    ("rule", "to_bare"),
    [
        (dr("srv/d", "web", trafficPolicy=PASSTHROUGH), "PLAINTEXT NO_PROXY PLAINTEXT"),
        (
            dr("srv/d", "web", trafficPolicy={"portLevelSettings": [at_port(80, **PASSTHROUGH)]}),
            "ISTIO_MUTUAL NO_PROXY CONFLICT",
        ),
    ],
)
def test_passthrough_load_balancing(rule: Object, to_bare: str) -> None:
    found = judge(*WEB, pod("srv/bare", "none", labels={"app": "web"}), rule, CLIENT)

    assert told(found, server_name="srv/bare") == to_bare


@pytest.mark.parametrize("own", [None, {"connectionPool": {}}])
def test_a_subset_inherits_passthrough_without_the_all_tagged_test(own: Object | None) -> None:
    subsets = [{"name": "s", "labels": {"app": "web"}, "trafficPolicy": own}]
    rule = dr("srv/d", "web", trafficPolicy=PASSTHROUGH, subsets=subsets)
    found = judge(*WEB, pod("srv/bare", "none", labels={"app": "web"}), rule, CLIENT)

    assert told(found, subset="s", server_name="srv/bare") == "ISTIO_MUTUAL NO_PROXY CONFLICT"


def test_a_subset_that_balances_otherwise_is_not_passthrough() -> None:
    own = {"loadBalancer": {"simple": "RANDOM"}}
    subsets = [{"name": "s", "labels": {"app": "web"}, "trafficPolicy": own}]
    rule = dr("srv/d", "web", trafficPolicy=PASSTHROUGH, subsets=subsets)
    found = judge(*WEB, pod("srv/bare", "none", labels={"app": "web"}), rule, CLIENT)

    assert told(found, subset="s", server_name="srv/bare") == "PLAINTEXT NO_PROXY PLAINTEXT"


def test_a_service_entry_without_resolution_or_endpoints_is_plaintext_unless_told() -> None:
    inside: Object = {"location": "MESH_INTERNAL", "resolution": "NONE"}
    given = entry("srv/e", "e.example", **inside)

    assert told(judge(given, CLIENT)) == "PLAINTEXT NO_PROXY PLAINTEXT"
    found = judge(given, dr("srv/d", "e.example", "ISTIO_MUTUAL"), CLIENT)
    assert told(found) == "ISTIO_MUTUAL NO_PROXY CONFLICT"


def test_an_external_entry_gets_no_automatic_mtls_even_to_sidecars() -> None:
    selecting: Object = {"resolution": "STATIC", "workloadSelector": {"labels": {"app": "web"}}}
    found = judge(entry("srv/e", "e.example", **selecting), pod("srv/web"), CLIENT)
    assert told(found) == PLAIN
    told_to = dr("srv/d", "e.example", "ISTIO_MUTUAL")
    assert (
        told(judge(entry("srv/e", "e.example", **selecting), pod("srv/web"), told_to, CLIENT))
        == MTLS
    )


def test_an_external_name_stands_for_the_service_it_names() -> None:
    alias = svc("srv/alias", type="ExternalName", externalName="web.srv.svc.cluster.local")
    outside = svc("srv/far", type="ExternalName", externalName="example.com")
    found = judge(*WEB, alias, outside, CLIENT)

    assert told(found, host="alias.srv.svc.cluster.local") == MTLS
    assert told(found, host="far.srv.svc.cluster.local") == "PLAINTEXT NO_PROXY PLAINTEXT"


def test_external_names_that_name_one_another_are_outside() -> None:
    names = [(f"srv/{a}", f"{b}.srv.svc.cluster.local") for a, b in ("ab", "ba")]
    circle = [svc(key, type="ExternalName", externalName=target) for key, target in names]

    assert {row.effective for row in judge(*circle, CLIENT)} == {"PLAINTEXT"}


def test_certificate_files_of_the_clients_proxy_take_the_place_of_istios() -> None:
    client = pod("cli/c")
    env = [{"name": "ISTIO_META_TLS_CLIENT_CERT_CHAIN", "value": "/c.pem"}]
    client["spec"]["containers"][1]["env"] = env

    assert told(judge(*WEB, client)) == "MUTUAL PERMISSIVE MUTUAL"


# Section 9: not intercepted on the server


@pytest.mark.parametrize(
    ("notes", "kept"),
    [
        ({"traffic.sidecar.istio.io/excludeInboundPorts": "9090, 8080"}, True),
        ({"traffic.sidecar.istio.io/includeInboundPorts": "9090"}, True),
        ({"traffic.sidecar.istio.io/includeInboundPorts": ""}, True),
        ({"traffic.sidecar.istio.io/includeInboundPorts": "*"}, False),
        ({"sidecar.istio.io/interceptionMode": "NONE"}, True),
        ({"sidecar.istio.io/interceptionMode": "TPROXY"}, False),
    ],
)
def test_a_port_kept_from_the_sidecar_still_gets_mtls(notes: Object, *, kept: bool) -> None:
    found = judge(STRICT, pod("srv/web", notes=notes), svc("srv/web"), CLIENT)

    assert told(found) == (
        "ISTIO_MUTUAL NO_PROXY CONFLICT" if kept else "ISTIO_MUTUAL STRICT ISTIO_MUTUAL"
    )


@pytest.mark.parametrize("remedy", ["rule", "policy"])
def test_disable_mends_a_port_kept_from_the_sidecar(remedy: str) -> None:
    server = pod("srv/web", notes={"traffic.sidecar.istio.io/excludeInboundPorts": "8080"})
    rule = dr("srv/d", "web", trafficPolicy={"portLevelSettings": [at_port(80, "DISABLE")]})
    policy = pa("srv/p", selector=for_app("web"), portLevelMtls={8080: {"mode": "DISABLE"}})
    found = judge(server, svc("srv/web"), rule if remedy == "rule" else policy, CLIENT)

    assert told(found) == "PLAINTEXT NO_PROXY PLAINTEXT"


# Section 10: ambient

AMBIENT = (pod("srv/web", "ambient"), svc("srv/web"))
ZTUNNEL = pod("cli/c", "ambient")
TUNNEL = {"networking.istio.io/tunnel": "http"}


def test_ztunnel_speaks_hbone_to_whoever_takes_it_and_raw_bytes_to_the_rest() -> None:
    strict = pa("srv/p", "STRICT")
    rule = dr("srv/d", "web", "DISABLE")
    able = pod("srv/web", labels=TUNNEL), svc("srv/web")

    assert told(judge(*AMBIENT, strict, rule, ZTUNNEL, ambient=True)) == "HBONE STRICT HBONE"
    assert told(judge(*able, strict, ZTUNNEL, ambient=True)) == "HBONE STRICT HBONE"
    assert (
        told(judge(*able, pa("srv/p", "DISABLE"), ZTUNNEL, ambient=True)) == "HBONE DISABLE HBONE"
    )
    assert told(judge(*WEB, strict, ZTUNNEL, ambient=True)) == "PLAINTEXT STRICT CONFLICT"
    assert told(judge(pod("srv/web", "none"), svc("srv/web"), ZTUNNEL)) == (
        "PLAINTEXT NO_PROXY PLAINTEXT"
    )


@pytest.mark.parametrize("mode", [None, "DISABLE", "ISTIO_MUTUAL", "SIMPLE"])
@pytest.mark.parametrize("client", ["sidecar", "gateway"])
def test_a_sidecar_or_gateway_sends_hbone_to_ambient_pods(mode: str | None, client: str) -> None:
    found = judge(*AMBIENT, dr("srv/d", "web", mode), pod("cli/c", client), ambient=True)

    assert told(found) == "HBONE PERMISSIVE HBONE"


def test_sidecars_keep_to_classic_mtls_among_themselves() -> None:
    able = pod("srv/web", labels=TUNNEL), svc("srv/web")

    assert told(judge(*able, pod("cli/c", labels=TUNNEL), ambient=True)) == MTLS


def test_without_ambient_in_istiod_sidecars_send_ambient_pods_plaintext() -> None:
    assert told(judge(*AMBIENT, CLIENT)) == PLAIN
    rule = dr("srv/d", "web", "ISTIO_MUTUAL")
    assert told(judge(*AMBIENT, rule, CLIENT)) == "ISTIO_MUTUAL PERMISSIVE CONFLICT"
    foreign = dr("srv/d", "web", "SIMPLE")
    assert told(judge(*AMBIENT, foreign, CLIENT)) == "SIMPLE PERMISSIVE SIMPLE"
    lost = dr("srv/d", "web", "MUTUAL")
    assert told(judge(*AMBIENT, lost, CLIENT, ambient=True)) == PLAIN


def test_a_headless_service_of_ambient_pods_is_plaintext_for_sidecars() -> None:
    headless = svc("srv/web", clusterIP="None")
    found = judge(AMBIENT[0], headless, pa("srv/p", "STRICT"), CLIENT, ambient=True)

    assert told(found) == "PLAINTEXT STRICT CONFLICT"


@pytest.mark.parametrize("mode", [None, "DISABLE", "ISTIO_MUTUAL"])
def test_a_waypoint_sends_hbone(mode: str | None) -> None:
    rule = dr("srv/d", "web", mode)

    assert told(judge(*AMBIENT, rule, pod("cli/c", "waypoint"))) == "HBONE PERMISSIVE HBONE"
    bare = pod("srv/web", "none"), svc("srv/web")
    assert told(judge(*bare, rule, pod("cli/c", "waypoint"))) == "PLAINTEXT NO_PROXY PLAINTEXT"


def test_a_waypoint_originates_tls_but_knows_no_rule_with_a_selector() -> None:
    bare = pod("srv/web", "none"), svc("srv/web")
    host = "web.srv.svc.cluster.local"
    selecting = dr("cli/d", host, "SIMPLE", workloadSelector=for_app("c"))

    assert told(judge(*bare, dr("srv/d", "web", "SIMPLE"), pod("cli/c", "waypoint"))) == (
        "SIMPLE NO_PROXY SIMPLE"
    )
    assert told(judge(*bare, selecting, pod("cli/c", "waypoint"))) == "PLAINTEXT NO_PROXY PLAINTEXT"


@pytest.mark.parametrize(
    ("namespace", "workload", "ports", "strict"),
    [
        (None, "STRICT", {"8080": "PERMISSIVE"}, False),
        (None, "STRICT", {"8080": "DISABLE"}, False),
        (None, "STRICT", {"9090": "DISABLE"}, True),
        (None, "PERMISSIVE", {"8080": "STRICT"}, True),
        (None, "DISABLE", {"9090": "STRICT"}, False),
        ("STRICT", None, {"8080": "PERMISSIVE"}, False),
        ("STRICT", None, {"8080": "DISABLE"}, True),
        ("STRICT", None, {"8080": "DISABLE", "9090": "PERMISSIVE"}, False),
        ("STRICT", "DISABLE", {}, False),
        ("STRICT", None, {}, True),
        (None, None, {"8080": "STRICT"}, True),
    ],
)
def test_what_ztunnel_enforces(
    namespace: str | None, workload: str | None, ports: Object, *, strict: bool
) -> None:
    own = pa(
        "srv/w",
        workload,
        selector=for_app("web"),
        portLevelMtls={port: {"mode": mode} for port, mode in ports.items()},
    )
    found = judge(*AMBIENT, pa("srv/n", namespace), own, pod("cli/c", "none"))

    assert told(found) == (
        "NO_PROXY STRICT CONFLICT" if strict else "NO_PROXY PERMISSIVE PLAINTEXT"
    )


def test_ztunnel_enforces_nothing_where_istiod_never_makes_the_policy() -> None:
    ports = {"8080": {"mode": "PERMISSIVE"}}
    own = pa("srv/w", selector=for_app("web"), portLevelMtls=ports)
    two = [{"name": "a", "port": 80, "targetPort": 8080}, {"name": "b", "port": 81}]
    given = STRICT, pa("srv/n"), own, AMBIENT[0], svc("srv/web", ports=two)

    assert told(judge(*given, pod("cli/c", "none")), port=81) == "NO_PROXY PERMISSIVE PLAINTEXT"
    assert ("AMBIENT_POLICY_UNENFORCED", "PeerAuthentication srv/w") in codes(*given)


def test_a_mesh_policy_with_an_empty_selector_skips_ambient_pods() -> None:
    mesh = pa(f"{ROOT}/d", "STRICT", selector={})

    assert told(judge(mesh, *AMBIENT, pod("cli/c", "none"))) == "NO_PROXY PERMISSIVE PLAINTEXT"
    assert ("MESH_POLICY_SKIPS_AMBIENT", f"PeerAuthentication {ROOT}/d") in codes(mesh, *AMBIENT)


@pytest.mark.parametrize(
    ("namespace", "given", "enrolled"),
    [
        ({"istio.io/dataplane-mode": "ambient"}, {}, True),
        (
            {"istio.io/dataplane-mode": "ambient"},
            {"labels": {"istio.io/dataplane-mode": "none"}},
            False,
        ),
        ({}, {"labels": {"istio.io/dataplane-mode": "ambient"}}, True),
        ({"istio.io/dataplane-mode": "ambient"}, {"hostNetwork": True}, False),
    ],
)
def test_a_deployment_is_enrolled_in_ambient_as_istio_cni_would(
    namespace: Object, given: Object, *, enrolled: bool
) -> None:
    labelled = obj("Namespace", "default/srv", labels=namespace)
    found = judge(labelled, deployment(**given), svc("srv/web"), ZTUNNEL, ambient=True)

    assert told(found) == ("HBONE PERMISSIVE HBONE" if enrolled else "PLAINTEXT NO_PROXY PLAINTEXT")


# Section 12: warnings

WARNED: list[tuple[str, str, list[Object]]] = [
    (
        "PA_SELECTOR_IN_ROOT",
        f"PeerAuthentication {ROOT}/p",
        [pa(f"{ROOT}/p", "STRICT", selector=for_app("web"))],
    ),
    (
        "PA_PORTS_WITHOUT_SELECTOR",
        "PeerAuthentication srv/p",
        [pa("srv/p", "STRICT", portLevelMtls={8080: {"mode": "DISABLE"}})],
    ),
    (
        "PA_PORT_IS_SERVICE_PORT",
        "PeerAuthentication srv/p",
        [*WEB, pa("srv/p", selector=for_app("web"), portLevelMtls={80: {"mode": "STRICT"}})],
    ),
    ("PA_SHADOWED", "PeerAuthentication srv/b", [pa("srv/a", age=1), pa("srv/b", age=2)]),
    (
        "PA_SHADOWED",
        "PeerAuthentication srv/b",
        [*WEB, *(pa(f"srv/{n}", age=a, selector=for_app("web")) for n, a in (("a", 1), ("b", 2)))],
    ),
    ("DR_DOTTED_HOST", "DestinationRule srv/d", [*WEB, dr("srv/d", "web.srv", "DISABLE")]),
    (
        "DR_REACHES_NO_CLIENT",
        "DestinationRule away/d",
        [*WEB, CLIENT, dr("away/d", "web.srv.svc.cluster.local", "DISABLE")],
    ),
    (
        "DR_TLS_LOST",
        "DestinationRule srv/b",
        [
            dr("srv/a", "web", age=1, trafficPolicy={"connectionPool": {}}),
            dr("srv/b", "web", "DISABLE", age=2),
        ],
    ),
    (
        "DISABLE_OVER_STRICT",
        "PeerAuthentication srv/b",
        [pa("srv/a", "DISABLE"), pa("srv/b", "STRICT", selector=for_app("web"))],
    ),
    (
        "EXCLUDED_PORT_AUTO_MTLS",
        "Pod srv/web",
        [
            pod("srv/web", notes={"traffic.sidecar.istio.io/excludeInboundPorts": "8080"}),
            svc("srv/web"),
        ],
    ),
    (
        "CREDENTIAL_WITHOUT_SELECTOR",
        "DestinationRule cli/d",
        [tls_rule(mode="SIMPLE", credentialName="x")],
    ),
    ("MUTUAL_WITHOUT_CERTIFICATE", "DestinationRule cli/d", [tls_rule(mode="MUTUAL")]),
    (
        "HEADLESS_MIXED",
        "Service srv/web",
        [WEB[0], pod("srv/b", "none", labels={"app": "web"}), svc("srv/web", clusterIP="None")],
    ),
    ("PA_DISABLE_IN_AMBIENT", "PeerAuthentication srv/p", [*AMBIENT, pa("srv/p", "DISABLE")]),
    (
        "TLS_MODE_LABEL_WITHOUT_PROXY",
        "Pod srv/web",
        [pod("srv/web", "none", labels={"security.istio.io/tlsMode": "istio"})],
    ),
    ("PROXY_WITHOUT_TLS_MODE_LABEL", "Pod srv/web", [pod("srv/web", tag=None)]),
    (
        "POD_OUTSIDE_MESH",
        "Pod srv/web",
        [
            obj("Namespace", "default/srv", labels={"istio-injection": "enabled"}),
            pod("srv/web", "none"),
        ],
    ),
    (
        "PROBES_REFUSED",
        "Pod srv/web",
        [STRICT, pod("srv/web", notes={"sidecar.istio.io/rewriteAppHTTPProbers": "false"})],
    ),
    (
        "SIDECAR_INGRESS_TLS",
        "Sidecar srv/s",
        [obj("Sidecar", "srv/s", {"ingress": [{"port": {}, "tls": {"mode": "SIMPLE"}}]})],
    ),
    ("AMBIENT_NOT_ENABLED", "MeshConfig", [*AMBIENT, CLIENT]),
    ("UNKNOWABLE_APP_TLS", "DestinationRule srv/d", [dr("srv/d", "web", "SIMPLE")]),
    ("UNKNOWABLE_ENVOY_FILTER", "EnvoyFilter srv/f", [obj("EnvoyFilter", "srv/f")]),
    (
        "UNKNOWABLE_INTERCEPTION",
        "Pod srv/web",
        [pod("srv/web", notes={"sidecar.istio.io/interceptionMode": "NONE"})],
    ),
    (
        "UNKNOWABLE_NETWORKS",
        "Networks n1, n2",
        [pod(f"srv/{n}", labels={"topology.istio.io/network": n}) for n in ("n1", "n2")],
    ),
]


@pytest.mark.parametrize(
    ("code", "subject", "objects"),
    WARNED,
    ids=[f"{code}-{i}" for i, (code, *_) in enumerate(WARNED)],
)
def test_a_configuration_that_misleads_is_warned_of(
    code: str, subject: str, objects: list[Object]
) -> None:
    assert (code, subject) in codes(*objects)


def test_a_plain_mesh_is_warned_of_nothing() -> None:
    assert codes(*WEB, CLIENT, STRICT, dr("srv/d", "web", "ISTIO_MUTUAL")) == set()
