"""What holds of the evaluator whatever it is given."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.tlscheck_objects import (
    CLIENT,
    ROOT,
    WEB,
    Object,
    dr,
    entry,
    for_app,
    judge,
    obj,
    pa,
    pod,
    sidecar,
    svc,
)
from tlscheck import Effective, MeshConfig, Row, World, evaluate
from tlscheck.evaluate import rows, summary, warnings
from tlscheck.model import TLS_MODE
from tlscheck.world import GROUPS, TEMPLATES

SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
KEYS = st.sampled_from(
    [
        *("metadata", "name", "namespace", "labels", "annotations", "spec", "status", "template"),
        *("selector", "matchLabels", "mtls", "mode", "portLevelMtls", "host", "hosts", "tls"),
        *("trafficPolicy", "portLevelSettings", "port", "number", "subsets", "exportTo", "items"),
        *("ports", "targetPort", "endpoints", "addresses", "containers", "egress", "http", "route"),
        *("creationTimestamp", "workloadSelector", "clusterIP", "kind", "apiVersion", "8080"),
    ]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.datetimes(timezones=st.just(UTC)),
    st.dates(),
    st.sampled_from(["STRICT", "*", "~/*", "a/b/c", "8080", "None", "istio", ROOT]),
)
TREES = st.recursive(
    SCALARS,
    lambda deeper: st.lists(deeper, max_size=3) | st.dictionaries(KEYS, deeper, max_size=5),
    max_leaves=25,
)
KINDS = st.sampled_from([*GROUPS, *TEMPLATES, "List", "PodList", "Unknown"])
GARBAGE = st.one_of(
    TREES,
    st.fixed_dictionaries(
        {"kind": KINDS},
        optional={
            "metadata": TREES
            | st.fixed_dictionaries({"name": SCALARS}, optional={"labels": TREES}),
            "spec": TREES,
            "items": TREES,
            "status": TREES,
        },
    ),
)

NAMESPACES = st.sampled_from(["a", "b", ROOT])
MODES = st.sampled_from([None, "STRICT", "PERMISSIVE", "DISABLE", "UNSET"])
TLS = st.sampled_from([None, "DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"])
AGES = st.integers(0, 2)
EXPORTS = st.sampled_from([[], ["*"], ["."], ["a"], ["a", "b"]])
HOSTS = st.sampled_from(["x", "y", "*", "*.local", "x.a.svc.cluster.local", "e.example"])
PODS = st.builds(
    lambda ns, app, n, proxy: pod(f"{ns}/{app}{n}", proxy, labels={"app": app}),
    NAMESPACES,
    st.sampled_from("xy"),
    AGES,
    st.sampled_from(["sidecar", "sidecar", "none", "ambient", "gateway", "grpc", "waypoint"]),
)
SERVICES = st.builds(
    lambda ns, app, name, ip, to: svc(
        f"{ns}/{app}", name=name, clusterIP=ip, notes={"networking.istio.io/exportTo": to}
    ),
    NAMESPACES,
    st.sampled_from("xy"),
    st.sampled_from(["http", "tcp", "any"]),
    st.sampled_from(["10.0.0.1", "None"]),
    st.sampled_from(["*", "*", ".", "a"]),
)
POLICIES = st.builds(
    lambda ns, n, mode, age, app, port: pa(
        f"{ns}/{n}",
        mode,
        age=age,
        **({"selector": for_app(app)} if app else {}),
        portLevelMtls={8080: {"mode": port}} if port else {},
    ),
    NAMESPACES,
    st.sampled_from("pqr"),
    MODES,
    AGES,
    st.sampled_from([None, "x", "y"]),
    MODES,
)
RULES = st.builds(
    lambda ns, n, host, mode, age, export, app, own: dr(
        f"{ns}/{n}",
        host,
        mode,
        age=age,
        exportTo=export,
        **({"workloadSelector": for_app(app)} if app else {}),
        subsets=[
            {
                "name": "s",
                "labels": {"app": "x"},
                "trafficPolicy": {"tls": {"mode": own}} if own else {},
            }
        ],
    ),
    NAMESPACES,
    st.sampled_from("def"),
    HOSTS,
    TLS,
    AGES,
    EXPORTS,
    st.sampled_from([None, None, "x"]),
    TLS,
)
ENTRIES = st.builds(
    lambda ns, export, where: entry(
        f"{ns}/e", "e.example", resolution="DNS", exportTo=export, location=where
    ),
    NAMESPACES,
    EXPORTS,
    st.sampled_from(["MESH_INTERNAL", "MESH_EXTERNAL"]),
)
SIDECARS = st.builds(
    lambda ns, host, mode: sidecar(f"{ns}/s", host, outboundTrafficPolicy={"mode": mode}),
    NAMESPACES,
    st.sampled_from(["*/*", "./*", "a/*", "~/*", "*/x.a.svc.cluster.local", "*/*.cluster.local"]),
    st.sampled_from(["ALLOW_ANY", "REGISTRY_ONLY"]),
)
OBJECTS = st.one_of(PODS, PODS, SERVICES, SERVICES, POLICIES, RULES, ENTRIES, SIDECARS)
WORLDS = st.lists(
    OBJECTS,
    max_size=25,
    unique_by=lambda o: (o["kind"], o["metadata"]["namespace"], o["metadata"]["name"]),
)


@SETTINGS
@given(st.lists(GARBAGE, max_size=6))
def test_nothing_makes_it_raise(objects: list[Any]) -> None:
    evaluate([*objects, *WEB, CLIENT], MeshConfig())
    list(summary(World.parse([*objects, *WEB, CLIENT], MeshConfig())))


@SETTINGS
@given(TREES)
def test_no_mesh_config_makes_it_raise(config: Any) -> None:
    MeshConfig.parse(config)


@SETTINGS
@given(WORLDS, st.booleans())
def test_a_row_is_ok_unless_it_is_a_conflict(objects: list[Object], ambient: bool) -> None:  # noqa: FBT001
    for row in judge(*objects, ambient=ambient):
        assert row.ok == (row.effective is not Effective.CONFLICT)
        assert row.why
        assert row.reason


@SETTINGS
@given(st.data(), WORLDS)
def test_the_order_of_the_objects_does_not_matter(
    data: st.DataObject, objects: list[Object]
) -> None:
    mixed = data.draw(st.permutations(objects))

    assert evaluate(objects, MeshConfig()) == evaluate(mixed, MeshConfig())


@SETTINGS
@given(st.data())
def test_the_order_of_objects_of_one_name_does_not_matter(data: st.DataObject) -> None:
    objects = data.draw(st.lists(OBJECTS | GARBAGE, max_size=12))
    mixed = data.draw(st.permutations(objects))

    assert evaluate(objects, MeshConfig()) == evaluate(mixed, MeshConfig())


@SETTINGS
@given(WORLDS)
def test_an_object_of_an_unrelated_namespace_changes_no_row(objects: list[Object]) -> None:
    before = judge(*objects)
    far = [pa("far/p", "STRICT"), dr("far/d", "*", "DISABLE"), sidecar("far/s", "~/*")]

    assert judge(*objects, *far) == before


PLACES = (("a", "INTERNAL"), ("b", "EXTERNAL"))
CLIENTS = [pod(f"{ns}/{ns}{n}") for ns in ("a", "b", "c", ROOT) for n in "12"]
SERVERS = [o for ns in ("a", "b") for o in (pod(f"{ns}/x"), svc(f"{ns}/x"))]
INFLUENCES: list[list[Object]] = [
    [],
    [dr("a/d", "*", "DISABLE")],
    [dr("a/d", "*.b.svc.cluster.local", "DISABLE")],
    [dr("a/d", "x", "DISABLE", exportTo=["."])],
    [dr("a/d", "x", "DISABLE", exportTo=["b"])],
    [dr("a/d", "x.b.svc.cluster.local", "DISABLE")],
    [dr("a/d", "x.b.svc.cluster.local", "DISABLE", workloadSelector=for_app("a1"))],
    [dr(f"{ROOT}/d", "*", "DISABLE", exportTo=["c"])],
    [dr(f"{ROOT}/d", "*", "DISABLE", exportTo=["."])],
    [sidecar("a/s", "./*")],
    [sidecar(f"{ROOT}/s", "./*")],
    [sidecar("a/s", "*/x.b.svc.cluster.local")],
    [sidecar("a/s", "*/*", "~b/*")],
    [obj("Sidecar", "a/s", {"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}})],
    [svc("a/y", notes={"networking.istio.io/exportTo": "."}), pod("a/y")],
    [entry(f"{ns}/e", "e.example", location=f"MESH_{where}") for ns, where in PLACES],
    [svc("c/alias", type="ExternalName", externalName="x.a.svc.cluster.local")],
    [pod("c/z", notes={"traffic.sidecar.istio.io/excludeOutboundPorts": "80"})],
]


@pytest.mark.parametrize("influence", INFLUENCES)
def test_the_summary_parts_clients_that_are_answered_otherwise(influence: list[Object]) -> None:
    objects = [*CLIENTS, *SERVERS, *influence]
    assert_the_summary_says_what_the_rows_say(World.parse(objects, MeshConfig()))


@SETTINGS
@given(WORLDS, st.booleans())
def test_the_summary_says_what_the_rows_say(objects: list[Object], ambient: bool) -> None:  # noqa: FBT001
    assert_the_summary_says_what_the_rows_say(World.parse(objects, MeshConfig(ambient=ambient)))


def assert_the_summary_says_what_the_rows_say(world: World) -> None:
    folded: Counter[tuple[object, ...]] = Counter()
    for line in summary(world):
        for client in line.clients:
            folded[client, line.host, line.port, line.subset] += 1
            for row in rows(world, client, line.host, line.port):
                if row.subset == line.subset:
                    assert row.effective in line.effective
                    assert row.client in line.client
                    assert row.server in line.server
    every = {(row.client_name, row.host, row.port, row.subset) for row in rows(world)}
    assert set(folded) >= every
    assert set(folded.values()) <= {1}


def behind_web(number: int, **traits: Any) -> Object:
    labels = {"app": "web", "n": str(number), **traits.pop("labels", {})}
    return pod(f"srv/w{number}", labels=labels, **traits)


TRAITS: list[Object] = [
    {},
    {"tag": None},
    {"tag": None, "proxy": "none"},
    {"proxy": "ambient"},
    {"proxy": "gateway"},
    {"proxy": "grpc"},
    {"proxy": "grpc", "tag": None},
    {"labels": {"networking.istio.io/tunnel": "http"}, "tag": None},
    {"labels": {"networking.istio.io/tunnel": "http"}},
    {"notes": {"traffic.sidecar.istio.io/excludeInboundPorts": "8080"}},
    {"labels": {"mode": "disable"}},
    {"labels": {"mode": "strict"}},
    {"labels": {"mode": "port"}},
    {
        "labels": {"mode": "disable"},
        "notes": {"traffic.sidecar.istio.io/excludeInboundPorts": "8080"},
    },
]
UNLIKE = [behind_web(number, **traits) for number, traits in enumerate(TRAITS)]
"""Endpoints of one service, no two of them alike."""


def of_mode(mode: str, **spec: Any) -> Object:
    return pa(f"srv/{mode}", selector={"matchLabels": {"mode": mode}}, **spec)


OF_MODES = [
    of_mode("disable", mtls={"mode": "DISABLE"}),
    of_mode("strict", mtls={"mode": "STRICT"}),
    of_mode("port", portLevelMtls={"8080": {"mode": "DISABLE"}}),
]


@pytest.mark.parametrize("rule", [[], [dr("srv/web", "web.srv.svc.cluster.local", "ISTIO_MUTUAL")]])
@pytest.mark.parametrize("client", ["sidecar", "ambient", "none", "gateway", "waypoint", "grpc"])
def test_an_endpoint_is_answered_as_if_it_were_the_only_one(
    client: str, rule: list[Object]
) -> None:
    around = [svc("srv/web"), pod("cli/c", client), *OF_MODES, *rule]
    every = judge(*UNLIKE, *around, ambient=True)
    together = {r.server_name: r for r in every if r.client_name == "cli/c"}
    for one in UNLIKE:
        (alone,) = (r for r in judge(one, *around, ambient=True) if r.client_name == "cli/c")
        assert together[alone.server_name] == alone


def test_rows_of_one_client_host_and_port_are_those_of_all() -> None:
    world = World.parse([*WEB, CLIENT, svc("srv/other")], MeshConfig())
    every = list(rows(world))

    for client, host in product(world.clients(), world.services()):
        some: list[Row] = [r for r in every if (r.client_name, r.host) == (client, host)]
        assert list(rows(world, client, host, 80)) == some
    assert list(rows(world, "no/body")) == []
    assert list(rows(world, "cli/c", "no.host")) == []
    assert list(rows(world, port=81)) == []


# Refusals: what is wrong is said and left out


def cyclic() -> Object:
    given: Object = {"kind": "List"}
    given["items"] = [given, *WEB]
    spec: Object = {"selector": {}}
    spec["selector"]["matchLabels"] = spec
    given["items"].append({"kind": "PeerAuthentication", "metadata": {"name": "p"}, "spec": spec})
    policy: Object = {"tls": {"mode": "DISABLE"}}
    policy["portLevelSettings"] = [{"port": {"number": 80}, **policy}, policy]
    given["items"].append(dr("srv/d", "web", trafficPolicy=policy))
    return given


def test_a_list_that_holds_itself_is_opened_once() -> None:
    assert {row.server_name for row in judge(cyclic(), CLIENT)} == {"srv/web"}


def test_a_policy_that_holds_itself_is_read_once() -> None:
    policy: Object = {}
    policy["portLevelSettings"] = [policy]
    policy["port"] = {"number": 80}

    assert judge(*WEB, dr("srv/d", "web", trafficPolicy=policy), CLIENT)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (pa("srv/p", "STRICCT"), "unknown mode 'STRICCT': taken as not set"),
        (dr("srv/d", "web", "TLS"), "unknown mode 'TLS': taken as not set"),
        ({"kind": "Pod", "metadata": None}, "has no name: ignored"),
    ],
)
def test_an_object_that_cannot_be_read_is_named(broken: Object, said: str) -> None:
    world = World.parse([broken, *WEB, CLIENT], MeshConfig())

    assert said in [warning.text for warning in warnings(world) if warning.code == "INVALID_OBJECT"]
    assert next(rows(world, "cli/c")).effective is Effective.ISTIO_MUTUAL


def test_kinds_of_no_interest_are_counted() -> None:
    foreign = {"apiVersion": "serving.knative.dev/v1", **svc("srv/other")}
    world = World.parse([obj("Secret", "a/b"), obj("Secret", "a/c"), foreign, *WEB], MeshConfig())

    assert world.ignored == {"Secret": 2, "Service": 1}
    assert world.services() == ["web.srv.svc.cluster.local"]


def test_two_objects_of_one_name_are_warned_of_and_one_is_used() -> None:
    given = [pa("srv/p", "STRICT"), pa("srv/p", "DISABLE")]
    found = [evaluate([*order, *WEB, CLIENT], MeshConfig()) for order in (given, given[::-1])]

    assert found[0] == found[1]
    assert [w.code for w in found[0].warnings] == ["DUPLICATE_OBJECT"]


def test_the_same_object_twice_is_no_matter() -> None:
    assert evaluate([*WEB, *WEB, CLIENT], MeshConfig()).warnings == ()


def test_timestamps_sort_as_written_or_as_yaml_reads_them() -> None:
    old, new = pa("srv/b", "STRICT"), pa("srv/a", "DISABLE")
    old["metadata"]["creationTimestamp"] = "2026-01-01T01:30:00+02:00"
    new["metadata"]["creationTimestamp"] = datetime(2026, 1, 1, tzinfo=UTC)

    assert judge(old, new, *WEB, CLIENT)[0].server_rule == "srv/b"


def test_mesh_config_is_read_as_istio_writes_it() -> None:
    given: Object = {"rootNamespace": "mesh", "enableAutoMtls": False, "domain": "here"}
    found = MeshConfig.parse(given)

    assert (found.root_namespace, found.enable_auto_mtls, found.domain) == ("mesh", False, "here")
    assert MeshConfig.parse({}) == MeshConfig()
    assert MeshConfig.parse({}, ambient=True).ambient
    assert not MeshConfig.parse(
        {"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}
    ).outbound_allow_any
    assert TLS_MODE in WEB[0]["metadata"]["labels"]
