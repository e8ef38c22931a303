"""Mutual TLS: one policy for all, and exceptions that say why."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from components.mtls import (
    MtlsException,
    MtlsMode,
    MtlsScope,
    MutualTls,
    MutualTlsArgs,
    excepted,
    exception_name,
    exception_problems,
    policies,
)
from tests.unit.conftest import Deploy, Deployed, Registered

REVIEWS = (("app", "reviews"),)
RATINGS = (("app", "ratings"),)
WHY = "scraped by a Prometheus outside the mesh"
STACK = "service-mesh/test"
SOON, LATER = datetime.date(2999, 1, 1), datetime.date(2999, 12, 31)


def exception(
    selector: tuple[tuple[str, str], ...] = REVIEWS,
    *,
    port: int | None = None,
    mode: MtlsMode = MtlsMode.PERMISSIVE,
    reason: str = WHY,
    expires: datetime.date | None = None,
) -> MtlsException:
    return MtlsException(selector=selector, port=port, mode=mode, reason=reason, expires=expires)


def deploy_mtls(deploy: Deploy, **changes: Any) -> Deployed:
    return deploy(lambda opts: MutualTls("mtls", args(**changes), opts))


def args(**changes: Any) -> MutualTlsArgs:
    given = {"mode": MtlsMode.STRICT, "scope": MtlsScope.MESH, "namespace": "shop", "stack": STACK}
    return MutualTlsArgs(**{**given, **changes})


def where(resource: Registered) -> tuple[str, str]:
    return resource.inputs["metadata"]["namespace"], resource.inputs["metadata"]["name"]


@pytest.mark.parametrize("mode", list(MtlsMode))
@pytest.mark.parametrize(
    ("scope", "namespace"), [(MtlsScope.MESH, "istio-system"), (MtlsScope.NAMESPACE, "shop")]
)
def test_the_mode_is_one_policy_called_default(
    deploy: Deploy, mode: MtlsMode, scope: MtlsScope, namespace: str
) -> None:
    deployed = deploy_mtls(deploy, mode=mode, scope=scope)

    [policy] = deployed.of_kind("PeerAuthentication")
    assert where(policy) == (namespace, "default")
    assert policy.inputs["spec"] == {"mtls": {"mode": mode.value}}
    assert not deployed.of_kind("DestinationRule")


def test_an_exception_stands_in_the_workloads_namespace_with_its_reason(deploy: Deploy) -> None:
    deployed = deploy_mtls(deploy, exceptions=(exception(),))

    [policy] = [
        one
        for one in deployed.of_kind("PeerAuthentication")
        if one.inputs["metadata"]["name"] != "default"
    ]
    namespace, name = where(policy)
    assert namespace == "shop", "in the root namespace Istio ignores a policy with a selector"
    assert name == exception_name(REVIEWS)
    assert policy.inputs["spec"] == {
        "selector": {"matchLabels": {"app": "reviews"}},
        "mtls": {"mode": "PERMISSIVE"},
    }
    annotations = policy.inputs["metadata"]["annotations"]
    assert annotations["service-mesh/reason"] == f"app=reviews: {WHY}"


@pytest.mark.parametrize(
    ("days", "written"),
    [((LATER, SOON), "2999-01-01"), ((SOON, None), None), ((None,), None)],
    ids=["the-first", "not-of-all", "none"],
)
def test_one_policy_lasts_as_long_as_all_its_exceptions(
    deploy: Deploy, days: tuple[datetime.date | None, ...], written: str | None
) -> None:
    same = tuple(exception(port=80 + n, expires=day) for n, day in enumerate(days))
    deployed = deploy_mtls(deploy, exceptions=same)

    [policy] = [
        one
        for one in deployed.of_kind("PeerAuthentication")
        if one.inputs["metadata"]["name"] != "default"
    ]
    assert policy.inputs["metadata"]["annotations"].get("service-mesh/expires") == written


def test_a_port_exception_leaves_the_other_ports_on_the_inherited_mode() -> None:
    assert excepted([exception(port=9080)]) == {
        "selector": {"matchLabels": {"app": "reviews"}},
        "portLevelMtls": {"9080": {"mode": "PERMISSIVE"}},
    }, "a mode beside the port would be the mode of all other ports"


def test_exceptions_of_one_selector_become_one_policy(deploy: Deploy) -> None:
    both = (("app", "reviews"), ("version", "v1"))
    turned = (("version", "v1"), ("app", "reviews"))
    deployed = deploy_mtls(
        deploy,
        exceptions=(
            exception(both, port=9080, reason="first reason"),
            exception(turned, port=9090, mode=MtlsMode.DISABLE, reason="second reason"),
            exception(both, mode=MtlsMode.DISABLE, reason="third reason"),
        ),
    )

    [policy] = [
        one
        for one in deployed.of_kind("PeerAuthentication")
        if one.inputs["metadata"]["name"] != "default"
    ]
    assert policy.inputs["spec"] == {
        "selector": {"matchLabels": {"app": "reviews", "version": "v1"}},
        "mtls": {"mode": "DISABLE"},
        "portLevelMtls": {"9080": {"mode": "PERMISSIVE"}, "9090": {"mode": "DISABLE"}},
    }, "Istio obeys the oldest policy of a scope alone"
    assert policy.inputs["metadata"]["annotations"]["service-mesh/reason"] == (
        "app=reviews,version=v1 port 9080: first reason; "
        "app=reviews,version=v1 port 9090: second reason; "
        "app=reviews,version=v1: third reason"
    )


def test_names_of_policies_are_valid_readable_and_different() -> None:
    plain = exception_name(REVIEWS)
    assert plain.startswith("exception-app-reviews-")
    odd = {
        exception_name(selector)
        for selector in (
            (("app", "a_b"),),
            (("app", "a.b"),),
            (("app", "A-B"),),
            (("app-a", "b"),),
            (("app.kubernetes.io/name", "x" * 63), ("y" * 63, "z" * 63)),
        )
    }
    assert len(odd) == 5
    for name in odd:
        assert len(name) <= 63
        assert name.strip("abcdefghijklmnopqrstuvwxyz0123456789-") == ""
    assert exception_name((("a", "1"), ("b", "2"))) == exception_name((("b", "2"), ("a", "1")))


@pytest.mark.parametrize(
    ("exceptions", "problem"),
    [
        ((exception(()),), "without a selector"),
        ((exception(), exception(mode=MtlsMode.DISABLE)), "two exceptions for app=reviews"),
        ((exception(port=1), exception(port=1)), "two exceptions for app=reviews port 1"),
        # both pick version v1 of reviews
        ((exception(), exception((("version", "v1"),))), "may pick the same pod"),
        ((exception(), exception((*REVIEWS, ("version", "v1")))), "may pick the same pod"),
    ],
)
def test_exceptions_that_istio_would_not_apply_as_they_read_are_refused(
    exceptions: tuple[MtlsException, ...], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        args(exceptions=exceptions)


def test_a_stage_says_why_and_until_when_it_is_not_strict(deploy: Deploy) -> None:
    deployed = deploy_mtls(deploy, mode=MtlsMode.PERMISSIVE, permissive_until=LATER)

    annotations = deployed.named("mtls-default").inputs["metadata"]["annotations"]
    assert annotations["service-mesh/expires"] == "2999-12-31"
    assert "until every client has a sidecar" in annotations["service-mesh/reason"]
    forever = deploy_mtls(deploy, mode=MtlsMode.PERMISSIVE).named("mtls-default")
    assert "service-mesh/reason" not in forever.inputs["metadata"]["annotations"]


def test_a_last_day_is_for_permissive(deploy: Deploy) -> None:
    with pytest.raises(ValueError, match="the mode is STRICT"):
        deploy_mtls(deploy, permissive_until=LATER)


def test_every_policy_says_whose_it_is_and_is_the_one_that_was_announced(deploy: Deploy) -> None:
    exceptions = (exception(), exception(RATINGS, port=9080, expires=SOON))
    made = deploy_mtls(deploy, exceptions=exceptions).of_kind("PeerAuthentication")
    deployed = {where(one): one for one in made}

    announced = {(one.namespace, one.name): one for one in policies(args(exceptions=exceptions))}
    assert deployed.keys() == announced.keys()
    for key, other in announced.items():
        one = deployed[key]
        assert one.inputs["spec"] == other.spec
        assert one.inputs["metadata"]["annotations"].items() >= other.annotations.items()
        assert other.annotations["service-mesh/stack"] == STACK


def test_exceptions_that_exclude_each_other_are_fine() -> None:
    v1, v2 = (*REVIEWS, ("version", "v1")), (*REVIEWS, ("version", "v2"))

    assert exception_problems([exception(v1), exception(v2), exception(RATINGS)]) == []
    assert exception_problems([exception(port=1), exception(port=2), exception()]) == []


def test_outputs_tell_the_mode_of_each_namespace_and_its_exceptions(deploy: Deploy) -> None:
    mesh = deploy_mtls(deploy, exceptions=(exception(port=9080),))
    alone = deploy_mtls(deploy, scope=MtlsScope.NAMESPACE)

    assert mesh.outputs[mesh.named("mtls").urn]["modes"] == {
        "istio-system": "STRICT",
        "shop": f"STRICT, except app=reviews port 9080 PERMISSIVE ({WHY})",
    }
    assert alone.outputs[alone.named("mtls").urn]["modes"] == {
        "istio-system": "PERMISSIVE (Istio's default)",
        "shop": "STRICT",
    }
