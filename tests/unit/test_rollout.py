"""What is declared about mutual TLS, held against what runs: who would be cut off, and by what."""

from __future__ import annotations

import datetime
from typing import Any, cast

import pytest

import rollout
from components.cluster import Cluster
from components.kinds import ClusterAccess
from components.mtls import MtlsException, MtlsMode, MtlsScope, MutualTlsArgs, policies
from tests.unit.tlscheck_objects import ROOT, Object, dr, obj, pa, pod, svc
from tlscheck.sources import KINDS

STACK = "service-mesh/test"
ACCESS = ClusterAccess(kubeconfig="", context="test")
ISTIO = obj("ConfigMap", f"{ROOT}/istio")
WEB = (pod("shop/web"), svc("shop/web"))
CRON = pod("old/cron", "none")
SOON = datetime.date(2999, 1, 1)


class Live:
    """A cluster with these objects."""

    def __init__(self, *objects: Object, istio: bool = True) -> None:
        self.there = objects
        self.istio = istio
        self.asked: list[str] = []

    def config_map(self, namespace: str, name: str) -> Object | None:
        assert (namespace, name) == (ROOT, "istio")
        return ISTIO if self.istio else None

    def objects(self, *resources: str, namespace: str | None = None) -> list[Object]:
        self.asked += resources
        kinds = [resource.partition(".")[0] for resource in resources]
        return [
            one
            for one in self.there
            if f"{one['kind'].lower()}s".replace("ys", "ies") in kinds
            and namespace in (None, one["metadata"].get("namespace"))
        ]


def args(mode: str = "STRICT", **changes: Any) -> MutualTlsArgs:
    given = {"mode": MtlsMode(mode), "scope": MtlsScope.MESH, "namespace": "shop", "stack": STACK}
    return MutualTlsArgs(**{**given, **changes})


def check(live: Live, mtls: MutualTlsArgs, *named: str) -> None:
    rollout.check(cast("Cluster", live), ACCESS, mtls, named=named, observers=["watch"])


def refusal(live: Live, mtls: MutualTlsArgs, *named: str) -> str:
    with pytest.raises(rollout.RolloutError) as error:
        check(live, mtls, *named)
    return str(error.value)


def own(mtls: MutualTlsArgs) -> list[Object]:
    """The policies that the stack has made of these arguments."""
    return [
        obj(
            "PeerAuthentication",
            f"{one.namespace}/{one.name}",
            cast("Object", one.spec),
            annotations=dict(one.annotations),
            creationTimestamp="2026-01-01T00:00:00Z",
        )
        for one in policies(mtls)
    ]


def exception(mode: str = "PERMISSIVE") -> MtlsException:
    return MtlsException(
        selector=(("app", "web"),), port=None, mode=MtlsMode(mode), reason="a test's reason"
    )


# who is cut off


def test_strict_is_refused_with_who_why_and_what_to_do() -> None:
    said = refusal(Live(*WEB, CRON, *own(args("PERMISSIVE"))), args())

    assert said.splitlines() == [
        'mtlsMode is "STRICT"',
        "  allowed: what fails no call that works now; 1 would fail:",
        "           old/cron -> web.shop:80: the client has no proxy",
        "  fix:     kubectl --context test label namespace old istio-injection=enabled && "
        "kubectl --context test -n old rollout restart deployment",
        "           or stay for a while: pulumi config set mtlsMode PERMISSIVE && "
        "pulumi config set mtlsPermissiveUntil YYYY-MM-DD",
        "           or name calls that may fail: "
        "pulumi config set --path 'mtlsCutOff[0]' 'old/cron:*'",
    ]


def test_strict_is_refused_from_disable_and_over_a_policy_made_before_policies_said_whose() -> None:
    for before in ([pa(f"{ROOT}/default", "PERMISSIVE")], own(args("DISABLE"))):
        assert "old/cron -> web.shop:80" in refusal(Live(*WEB, CRON, *before), args())


def test_what_is_named_may_be_cut_off_and_the_rest_may_not() -> None:
    live = Live(*WEB, CRON, pod("other/job", "none"), *own(args("PERMISSIVE")))

    said = refusal(live, args(), "old/*:*")

    assert "other/job" in said
    assert "old/cron" not in said
    assert "mtlsCutOff[1]" in said
    check(live, args(), "old/*:web.shop:80", "other/job:*")


def test_a_rule_that_says_plaintext_is_named() -> None:
    rule = dr("shop/web", "web", "DISABLE")
    live = Live(*WEB, pod("cli/c"), rule, *own(args("PERMISSIVE")))

    said = refusal(live, args())

    assert "cli/c -> web.shop:80: DestinationRule shop/web sets tls" in said
    assert "kubectl --context test -n shop delete destinationrule web" in said


def test_the_mode_of_a_namespace_cuts_nobody_off_elsewhere() -> None:
    stage = own(args("PERMISSIVE"))
    live = Live(*WEB, pod("cli/c"), CRON, pod("more/api"), svc("more/api"), *stage)

    said = refusal(live, args(scope=MtlsScope.NAMESPACE))

    assert "web.shop" in said
    assert "api.more" not in said
    assert "old/cron -> api.more:80, web.shop:80: the client has no proxy" in refusal(live, args())


def test_the_end_of_an_exception_is_refused_like_a_mode() -> None:
    live = Live(*WEB, CRON, *own(args(exceptions=(exception(),))))

    said = refusal(live, args())

    assert said.startswith("mtlsExceptions is 0 exceptions\n")
    assert "old/cron -> web.shop:80" in said
    assert "leave the exception" in said
    check(live, args(exceptions=(exception(),)))


def test_an_exception_of_somebody_else_stays_and_counts() -> None:
    theirs = pa("shop/theirs", "PERMISSIVE", selector={"matchLabels": {"app": "web"}})

    check(Live(*WEB, CRON, theirs, *own(args("PERMISSIVE"))), args())


@pytest.mark.parametrize(("theirs", "refused"), [(0, False), (2, True)])
def test_of_two_policies_in_one_place_the_older_counts(theirs: int, *, refused: bool) -> None:
    """As istiod does; a policy that is updated keeps its age, and a new one is the youngest."""
    other = pa(f"{ROOT}/a", "PERMISSIVE", age=theirs)
    [mine] = own(args("PERMISSIVE"))
    mine["metadata"]["creationTimestamp"] = "2026-01-01T00:00:01Z"

    if refused:
        assert "old/cron" in refusal(Live(*WEB, CRON, mine, other), args())
    else:
        check(Live(*WEB, CRON, mine, other), args())
    check(Live(*WEB, CRON, other), args())


def test_a_policy_of_a_stack_that_now_reaches_less_far_is_gone() -> None:
    """Else the mesh's PERMISSIVE would seem to hold where it is taken away."""
    live = Live(*WEB, pod("cli/c"), *own(args("DISABLE")), dr("shop/web", "web", "ISTIO_MUTUAL"))

    check(live, args("PERMISSIVE", scope=MtlsScope.NAMESPACE))


def test_disable_is_refused_where_clients_are_told_to_use_mutual_tls() -> None:
    live = Live(*WEB, pod("cli/c"), dr("shop/web", "web", "ISTIO_MUTUAL"), *own(args()))

    said = refusal(live, args("DISABLE"))

    assert said.startswith('mtlsMode is "DISABLE"')
    assert "cli/c -> web.shop:80" in said


def test_an_error_of_a_big_mesh_stays_readable() -> None:
    clients = [
        made
        for n in range(30)
        for made in (pod(f"ns-{n}/web"), svc(f"ns-{n}/web"), dr(f"ns-{n}/web", "web", "DISABLE"))
    ]

    lines = refusal(Live(*clients, *own(args("PERMISSIVE"))), args()).splitlines()

    assert sum(" -> " in line for line in lines) == 20
    assert any(line.strip() == "and 10 more" for line in lines)


# who is not


def test_clients_that_call_no_application_do_not_count_and_that_is_said() -> None:
    agents = [
        pod("kube-system/agent", "none"),
        pod(f"{ROOT}/kiali", "none"),
        pod("watch/p", "none"),
        *own(args("PERMISSIVE")),
    ]

    check(Live(*WEB, *agents), args())
    said = refusal(Live(*WEB, *agents, CRON), args())
    assert "agent" not in said
    assert "calls from kube-* and from what runs beside istiod are not counted" in said


def test_a_gateway_counts_though_it_is_beside_the_control_plane() -> None:
    gateway = pod(f"{ROOT}/ingress", "gateway")

    rule = dr("shop/web", "web", "DISABLE")
    said = refusal(Live(*WEB, gateway, rule, *own(args("PERMISSIVE"))), args())

    assert f"{ROOT}/ingress -> web.shop:80" in said


def test_pods_that_have_ended_do_not_count() -> None:
    for phase in ("Succeeded", "Failed"):
        ended = {**CRON, "status": {"phase": phase}}
        check(Live(*WEB, ended, *own(args("PERMISSIVE"))), args())


@pytest.mark.parametrize("mode", ["STRICT", "PERMISSIVE"])
def test_what_is_as_declared_is_not_looked_at_further(mode: str) -> None:
    live = Live(*WEB, CRON, *own(args(mode)))

    check(live, args(mode))

    assert live.asked == ["peerauthentications.security.istio.io"]


def test_a_last_day_alone_is_no_change() -> None:
    live = Live(*WEB, CRON, *own(args("PERMISSIVE")))

    check(live, args("PERMISSIVE", permissive_until=SOON))

    assert len(live.asked) == 1


def test_the_way_back_is_open() -> None:
    live = Live(*WEB, CRON, *own(args()))

    check(live, args("PERMISSIVE"))

    assert sorted(live.asked) == sorted(KINDS)


def test_strict_everywhere_has_nothing_to_lose_by_a_stricter_exception() -> None:
    check(Live(*WEB, CRON, *own(args())), args(exceptions=(exception("DISABLE"),)))


def test_a_cluster_without_istio_is_asked_for_the_namespaces_pods_alone() -> None:
    live = Live(*WEB, CRON, istio=False)

    check(live, args())
    check(Live(CRON, istio=False), args("PERMISSIVE"))

    assert live.asked == ["pods"]


@pytest.mark.parametrize("theirs", [(), (pa("old/theirs", "PERMISSIVE"),)])
def test_a_first_update_can_be_run_again_whoever_else_is_in_the_cluster(
    theirs: tuple[Object, ...],
) -> None:
    """One that was interrupted has made istiod and pods, and no policy yet."""
    live = Live(*WEB, CRON, *theirs)

    check(live, args())

    assert live.asked == ["peerauthentications.security.istio.io", "pods"]


# pods that are older than the namespace's label


@pytest.mark.parametrize("istio", [True, False])
def test_strict_waits_for_the_pods_of_an_adopted_namespace(*, istio: bool) -> None:
    live = Live(pod("shop/late", "none"), *own(args("PERMISSIVE")), istio=istio)

    said = refusal(live, args(), "*:*")

    assert said.startswith('mtlsMode is "STRICT"')
    assert "\n           shop/late\n" in said
    assert "kubectl --context test -n shop rollout restart deployment" in said
    assert ("pulumi config set mtlsMode PERMISSIVE && pulumi up" in said) is not istio


def test_pods_that_never_get_a_sidecar_are_not_waited_for() -> None:
    opted_out = pod("shop/a", "none", labels={"sidecar.istio.io/inject": "false"})
    by_note = pod("shop/b", "none", notes={"sidecar.istio.io/inject": "false"})
    networked = pod("shop/c", "none")
    networked["spec"]["hostNetwork"] = True
    ended = {**pod("shop/d", "none"), "status": {"phase": "Succeeded"}}

    check(
        Live(opted_out, by_note, networked, ended, pod("old/e", "none"), *own(args("PERMISSIVE"))),
        args(),
    )


def test_a_namespace_that_is_strict_already_waits_for_nobody() -> None:
    live = Live(pod("shop/late", "none"), *own(args()))

    check(live, args(exceptions=(exception(),)))
