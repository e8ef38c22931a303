"""What is asked for of a service: one VirtualService, one DestinationRule, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from components.traffic import (
    AbRoute,
    Canary,
    CircuitBreaker,
    Fault,
    HostTraffic,
    MatchBy,
    Mirror,
    Retries,
    Traffic,
    TrafficArgs,
    problems,
)
from components.traffic.http import destination_rule, http_routes, virtual_service
from components.traffic.model import milliseconds
from tests.unit.conftest import Deploy

CANARY = Canary(stable="v1", canary="v2", weight=10)
JASON = AbRoute(version="v2", by=MatchBy.USER, value="jason")
BETA = AbRoute(version="v3", by=MatchBy.HEADER, name="X-Beta", value="yes")
DELAY = Fault(percent=50, delay="2s")
MTLS = {"tls": {"mode": "ISTIO_MUTUAL"}}


def reviews(**changes: Any) -> HostTraffic:
    return HostTraffic(**{"host": "reviews", "versions": ("v1", "v2", "v3"), **changes})


def targets(route: Any) -> list[tuple[str | None, int | None]]:
    return [(one["destination"].get("subset"), one.get("weight")) for one in route["route"]]


def matches(route: Any) -> dict[str, Any]:
    [match] = route.get("match", [{}])
    return dict(match.get("headers", {}))


# --- routes --------------------------------------------------------------------------------------


def test_a_service_of_which_nothing_is_said_has_no_virtual_service() -> None:
    assert virtual_service(reviews()) is None
    assert virtual_service(reviews(circuit_breaker=CircuitBreaker(max_connections=1))) is None


def test_a_canary_gets_its_weight_and_the_stable_version_the_rest() -> None:
    assert virtual_service(reviews(canary=CANARY)) == {
        "hosts": ["reviews"],
        "http": [
            {
                "route": [
                    {"destination": {"host": "reviews", "subset": "v1"}, "weight": 90},
                    {"destination": {"host": "reviews", "subset": "v2"}, "weight": 10},
                ]
            }
        ],
    }


def test_a_step_of_a_canary_changes_two_numbers_and_nothing_else() -> None:
    [before] = http_routes(reviews(canary=replace(CANARY, weight=0)))
    for weight in (1, 50, 100):
        [after] = http_routes(reviews(canary=replace(CANARY, weight=weight)))
        assert targets(after) == [("v1", 100 - weight), ("v2", weight)]
        for route in after["route"]:
            route.pop("weight")
        for route in before["route"]:
            route.pop("weight", None)
        assert after == before


def test_ab_routes_come_in_their_order_and_before_the_canary() -> None:
    routes = http_routes(reviews(ab=(BETA, JASON), canary=CANARY))

    assert [matches(one) for one in routes] == [
        {"x-beta": {"exact": "yes"}},
        {"end-user": {"exact": "jason"}},
        {},
    ]
    assert [targets(one) for one in routes] == [
        [("v3", None)],
        [("v2", None)],
        [("v1", 90), ("v2", 10)],
    ]


@pytest.mark.parametrize(
    ("changes", "rest"),
    [
        ({"ab": (JASON,)}, [("v1", 50), ("v3", 50)]),
        ({"ab": (JASON, BETA)}, [("v1", None)]),
        ({"mirror": Mirror(version="v3")}, [("v1", 50), ("v2", 50)]),
        ({"mirror": Mirror(version="v3"), "ab": (JASON,)}, [("v1", None)]),
        (
            {"ab": (JASON,), "versions": ("v1", "v2", "v3", "v4")},
            [("v1", 34), ("v3", 33), ("v4", 33)],
        ),
    ],
)
def test_nobody_else_reaches_a_version_that_has_a_route_of_its_own(
    changes: dict[str, Any], rest: list[tuple[str, int | None]]
) -> None:
    assert problems([reviews(**changes)], production=False) == []
    assert targets(http_routes(reviews(**changes))[-1]) == rest


BETA_COOKIE = AbRoute(version="v2", by=MatchBy.COOKIE, name="beta", value="1.0")


def fits(cookies: str) -> bool:
    [first, _] = http_routes(reviews(ab=(BETA_COOKIE,)))
    # Envoy matches the whole value
    return bool(re.fullmatch(matches(first)["cookie"]["regex"], cookies))


@pytest.mark.parametrize(
    "cookies", ["beta=1.0", "a=b; beta=1.0", "beta=1.0; a=b", "a=b;beta=1.0;c=d"]
)
def test_a_cookie_is_found_among_others(cookies: str) -> None:
    assert fits(cookies)


@pytest.mark.parametrize(
    "cookies", ["beta=1x0", "beta=1.01", "alphabeta=1.0", "a=beta=1.0", "Beta=1.0", ""]
)
def test_a_cookie_is_not_found_in_others(cookies: str) -> None:
    assert not fits(cookies)


def test_retries_timeout_mirror_and_everybodys_fault_stand_on_every_route() -> None:
    routes = http_routes(
        reviews(
            ab=(JASON,),
            canary=replace(CANARY, stable="v1", weight=0),
            mirror=Mirror(version="v3", percent=25),
            retries=Retries(attempts=3, per_try_timeout="500ms"),
            timeout="2s",
            faults=(DELAY,),
        )
    )
    assert len(routes) == 2
    for route in routes:
        assert route["timeout"] == "2s"
        assert route["retries"] == {
            "attempts": 3,
            "perTryTimeout": "500ms",
            "retryOn": "connect-failure,refused-stream,gateway-error",
        }
        assert route["mirror"] == {"host": "reviews", "subset": "v3"}
        assert route["mirrorPercentage"] == {"value": 25}
        assert route["fault"] == {"delay": {"percentage": {"value": 50}, "fixedDelay": "2s"}}


def test_no_retries_are_said_without_conditions() -> None:
    [route] = http_routes(reviews(retries=Retries(attempts=0)))
    assert route["retries"] == {"attempts": 0}, "istiod refuses a condition beside it"


def test_a_users_fault_goes_wherever_he_goes_and_to_nobody_else() -> None:
    fault = Fault(percent=100, abort_status=503, user="jason")
    routes = http_routes(reviews(ab=(BETA, JASON), canary=CANARY, faults=(fault,)))

    jason, beta = {"end-user": {"exact": "jason"}}, {"x-beta": {"exact": "yes"}}
    assert [(matches(one), targets(one), "fault" in one) for one in routes] == [
        ({**jason, **beta}, [("v3", None)], True),
        (jason, [("v2", None)], True),
        (beta, [("v3", None)], False),
        (jason, [("v2", None)], False),
        ({}, [("v1", 90), ("v2", 10)], False),
    ]


def test_a_users_fault_leaves_the_routes_of_other_users_alone() -> None:
    fault = Fault(percent=100, abort_status=503, user="ann")
    routes = http_routes(reviews(ab=(JASON,), canary=CANARY, faults=(fault,)))

    assert [(matches(one), targets(one)) for one in routes] == [
        ({"end-user": {"exact": "ann"}}, [("v1", 90), ("v2", 10)]),
        ({"end-user": {"exact": "jason"}}, [("v2", None)]),
        ({}, [("v1", 90), ("v2", 10)]),
    ]


def test_a_users_own_fault_replaces_everybodys() -> None:
    own = Fault(percent=100, abort_status=503, user="jason")
    first, last = http_routes(reviews(faults=(DELAY, own)))

    assert first["fault"] == {"abort": {"percentage": {"value": 100}, "httpStatus": 503}}
    assert matches(last) == {}
    assert "delay" in last["fault"]


# --- DestinationRule -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"canary": CANARY},
        {"ab": (JASON,)},
        {"mirror": Mirror(version="v2")},
        {"circuit_breaker": CircuitBreaker(max_connections=1, consecutive_errors=5)},
        {"timeout": "2s"},
        {"faults": (DELAY,)},
    ],
)
def test_no_feature_takes_mutual_tls_away(changes: dict[str, Any]) -> None:
    rule = destination_rule(reviews(**changes))

    assert rule is not None
    assert rule["trafficPolicy"]["tls"] == MTLS["tls"]
    for subset in rule["subsets"]:
        assert "trafficPolicy" not in subset, "a subset's own policy would replace the host's"


def test_a_host_of_mutual_tls_alone_gets_a_subset_for_each_version() -> None:
    assert destination_rule(reviews(versions=("v1", "v2"))) == {
        "host": "reviews",
        "trafficPolicy": MTLS,
        "subsets": [
            {"name": "v1", "labels": {"version": "v1"}},
            {"name": "v2", "labels": {"version": "v2"}},
        ],
    }


def test_of_unknown_versions_those_that_are_named_are_subsets() -> None:
    assert destination_rule(HostTraffic(host="orders")) == {"host": "orders", "trafficPolicy": MTLS}
    rule = destination_rule(HostTraffic(host="orders", canary=CANARY, ab=(JASON,), mtls=False))
    assert rule is not None
    assert "trafficPolicy" not in rule, "the mesh finds out by itself whether there is mutual TLS"
    assert [one["name"] for one in rule["subsets"]] == ["v1", "v2"]


def test_without_anything_to_say_to_clients_there_is_no_rule() -> None:
    assert destination_rule(reviews(mtls=False, timeout="2s")) is None


def test_a_circuit_breaker_may_eject_every_endpoint_of_a_small_service() -> None:
    breaker = CircuitBreaker(
        max_connections=10, max_pending_requests=5, consecutive_errors=3, ejection_time="15s"
    )
    rule = destination_rule(reviews(circuit_breaker=breaker))

    assert rule is not None
    assert rule["trafficPolicy"] == {
        "connectionPool": {
            "tcp": {"maxConnections": 10},
            "http": {"http1MaxPendingRequests": 5},
        },
        "outlierDetection": {
            "consecutive5xxErrors": 3,
            "interval": "1s",
            "maxEjectionPercent": 100,
            "baseEjectionTime": "15s",
        },
        **MTLS,
    }


@pytest.mark.parametrize(
    ("breaker", "key"),
    [
        (CircuitBreaker(max_connections=1), "connectionPool"),
        (CircuitBreaker(max_pending_requests=1), "connectionPool"),
        (CircuitBreaker(consecutive_errors=1), "outlierDetection"),
    ],
)
def test_what_a_circuit_breaker_does_not_say_stays_istios(
    breaker: CircuitBreaker, key: str
) -> None:
    rule = destination_rule(reviews(circuit_breaker=breaker))
    assert rule is not None
    assert rule["trafficPolicy"].keys() == {key, "tls"}


# --- what is refused -----------------------------------------------------------------------------

MOST = reviews(
    ab=(JASON,),
    canary=replace(CANARY, weight=0),
    mirror=Mirror(version="v3"),
    retries=Retries(attempts=10, per_try_timeout="1s", retry_on="503,reset"),
    timeout="1s",
    faults=(DELAY, Fault(percent=0.5, abort_status=599, user="ann")),
    circuit_breaker=CircuitBreaker(consecutive_errors=1, ejection_time="1m30s"),
)


def test_everything_together_is_fine() -> None:
    assert problems([MOST, reviews(host="ratings")], production=False) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"canary": replace(CANARY, weight=-1)}, "canary: weight -1 of reviews is not 0 to 100"),
        ({"canary": replace(CANARY, weight=101)}, "canary: weight 101 of reviews"),
        ({"canary": replace(CANARY, canary="v1")}, "canary: .* are the same version 'v1'"),
        (
            {"canary": replace(CANARY, canary="v22")},
            "canary: reviews has no version 'v22': did you mean v2\\? There are v1, v2, v3",
        ),
        ({"ab": (replace(JASON, version="x"),)}, "abRoutes: .* 'x': there are v1, v2, v3"),
        ({"mirror": Mirror(version="v9")}, "mirror: reviews has no version 'v9': did you mean"),
        ({"ab": (JASON, replace(JASON, version="v3"))}, "route to v3 is never reached"),
        (
            {
                "ab": (
                    JASON,
                    AbRoute(version="v3", by=MatchBy.HEADER, name="End-User", value="jason"),
                )
            },
            "abRoutes: header End-User 'jason' of reviews goes to v2 already",
        ),
        ({"ab": (replace(JASON, name="jason"),)}, "abRoutes: a user of reviews has no name"),
        ({"ab": (replace(JASON, value=" "),)}, "abRoutes: ' ' of reviews is no value of a user"),
        ({"ab": (replace(BETA, name=""),)}, "abRoutes: '' of reviews is no name of a header"),
        ({"ab": (replace(BETA, name="a b"),)}, "is no name of a header"),
        ({"ab": (replace(BETA, name="URI"),)}, "Istio does not look at 'URI'"),
        (
            {"ab": (replace(BETA, by=MatchBy.COOKIE, value="a;b"),)},
            "'a;b' of reviews is no value of a cookie",
        ),
        (
            {"ab": (JASON,), "versions": ("v2",)},
            "abRoutes: no version is left for the other requests to reviews: say so with canary",
        ),
        ({"ab": (JASON,), "versions": ()}, "abRoutes: nothing says which version gets the other"),
        ({"mirror": Mirror(version="v1"), "versions": ("v1",)}, "mirror: no version is left"),
        ({"mirror": Mirror(version="v1", percent=0)}, "mirror: percent 0 of reviews"),
        ({"mirror": Mirror(version="v1", percent=100.5)}, "mirror: percent 100.5 of reviews"),
        ({"mirror": Mirror(version="v2"), "ab": (JASON,)}, "mirror: v2 .* get these twice"),
        ({"mirror": Mirror(version="v1"), "canary": CANARY}, "mirror: v1 .* get these twice"),
        ({"mirror": Mirror(version="v2"), "canary": CANARY}, "mirror: v2 .* get these twice"),
        ({"timeout": "2"}, "resilience: timeout '2' of reviews is not a duration"),
        ({"timeout": "0s"}, "resilience: timeout '0s'"),
        ({"timeout": "-1s"}, "resilience: timeout '-1s'"),
        (
            {"retries": Retries(attempts=1, per_try_timeout="fast")},
            "resilience: perTryTimeout 'fast'",
        ),
        (
            {"timeout": "1s", "retries": Retries(attempts=1, per_try_timeout="1100ms")},
            "resilience: perTryTimeout 1100ms of reviews is longer than its timeout 1s",
        ),
        ({"retries": Retries(attempts=-1)}, "resilience: attempts -1"),
        ({"retries": Retries(attempts=11)}, "resilience: attempts 11 of reviews is not 0 to 10"),
        (
            {"retries": Retries(attempts=0, per_try_timeout="1s")},
            "resilience: perTryTimeout and retryOn of reviews mean nothing with attempts 0",
        ),
        ({"retries": Retries(attempts=1, retry_on="5x")}, "retryOn '5x' .* did you mean 5xx"),
        ({"retries": Retries(attempts=1, retry_on="799")}, "retryOn '799'"),
        ({"retries": Retries(attempts=1, retry_on="")}, "retryOn ''"),
        ({"circuit_breaker": CircuitBreaker(max_connections=0)}, "resilience: maxConnections 0"),
        (
            {"circuit_breaker": CircuitBreaker(max_pending_requests=0)},
            "resilience: maxPendingRequests 0",
        ),
        ({"circuit_breaker": CircuitBreaker(consecutive_errors=0)}, "consecutiveErrors 0"),
        ({"circuit_breaker": CircuitBreaker(ejection_time="5s")}, "does nothing without"),
        (
            {"circuit_breaker": CircuitBreaker(consecutive_errors=1, ejection_time="5")},
            "resilience: ejectionTime '5'",
        ),
        ({"faults": (Fault(percent=1),)}, "faults: a fault of reviews is either delay or abort"),
        (
            {"faults": (Fault(percent=1, delay="1s", abort_status=500),)},
            "faults: a fault of reviews is either delay or abortStatus",
        ),
        ({"faults": (replace(DELAY, percent=0),)}, "faults: percent 0 of reviews"),
        ({"faults": (replace(DELAY, percent=101),)}, "faults: percent 101 of reviews"),
        ({"faults": (replace(DELAY, delay="1 s"),)}, "faults: delay '1 s'"),
        ({"faults": (replace(DELAY, user=""),)}, "faults: '' of reviews is no user"),
        ({"faults": (Fault(percent=1, abort_status=199),)}, "faults: abortStatus 199"),
        ({"faults": (Fault(percent=1, abort_status=600),)}, "faults: abortStatus 600"),
        ({"faults": (DELAY, DELAY)}, "faults: 2 for everybody of reviews"),
        ({"faults": (replace(DELAY, user="ann"),) * 2}, "faults: 2 for ann of reviews"),
    ],
)
def test_what_would_not_work_as_it_reads_is_refused(changes: dict[str, Any], problem: str) -> None:
    found = problems([reviews(**changes)], production=False)

    assert len(found) == 1, found
    assert re.search(problem, found[0]), found[0]


def test_a_canary_of_weight_0_can_be_mirrored_first() -> None:
    one = reviews(canary=replace(CANARY, weight=0), mirror=Mirror(version="v2"))
    assert problems([one], production=False) == []


def test_nothing_fails_on_purpose_in_production() -> None:
    [found] = problems([reviews(faults=(DELAY,)), reviews(host="ratings")], production=True)
    assert found.startswith("faults: none in a stack that is marked production, and reviews")


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"canary": CANARY}, "canary"),
        ({"ab": (JASON,)}, "abRoutes"),
        ({"mirror": Mirror(version="v2")}, "mirror"),
        ({"retries": Retries(attempts=0)}, "resilience"),
        ({"timeout": "2s"}, "resilience"),
        ({"faults": (DELAY,)}, "faults"),
    ],
)
def test_what_would_never_happen_behind_a_gateway_is_refused(
    changes: dict[str, Any], setting: str
) -> None:
    [found] = problems([reviews(gateway_only=True, **changes)], production=False)
    assert found.startswith(f"{setting}: reviews is called through the ingress gateway only")


def test_a_circuit_breaker_works_behind_a_gateway_too() -> None:
    one = reviews(gateway_only=True, circuit_breaker=CircuitBreaker(max_connections=1))
    assert problems([one], production=False) == []


def test_a_service_is_said_once() -> None:
    [found] = problems([reviews(), reviews(timeout="1s")], production=False)
    assert found == "reviews: said 2 times, and one VirtualService for it would win over the others"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("500ms", 500),
        ("2s", 2000),
        ("0.5s", 500),
        ("1m30s", 90_000),
        ("1h", 3_600_000),
        ("0.5ms", None),
        ("0s", None),
        ("5", None),
        ("1d", None),
        ("s", None),
        ("", None),
    ],
)
def test_durations_are_read_as_istio_reads_them(text: str, expected: float | None) -> None:
    assert milliseconds(text) == expected


# --- component -----------------------------------------------------------------------------------


def args(*hosts: HostTraffic) -> TrafficArgs:
    return TrafficArgs(namespace="shop", hosts=hosts)


def test_a_service_has_one_of_each_under_its_name_and_the_subsets_come_first(
    deploy: Deploy,
) -> None:
    deployed = deploy(lambda opts: Traffic("traffic", args(MOST), opts))

    [routes] = deployed.of_kind("VirtualService")
    [rule] = deployed.of_kind("DestinationRule")
    for one in (routes, rule):
        assert one.inputs["metadata"]["name"] == "reviews"
        assert one.inputs["metadata"]["namespace"] == "shop"
    assert rule.name in deployed.waits_for(routes.name)
    assert routes.inputs["spec"] == virtual_service(MOST)
    assert rule.inputs["spec"] == destination_rule(MOST)


def test_a_rule_that_was_mutual_tls_own_is_taken_over(deploy: Deploy) -> None:
    deployed = deploy(lambda opts: Traffic("traffic", args(reviews()), opts))

    [rule] = deployed.of_kind("DestinationRule")
    [alias] = rule.aliases
    assert 'name: "mtls-reviews"' in alias
    assert "service-mesh:mtls:MutualTls::mtls" in alias


def test_problems_stop_the_component() -> None:
    with pytest.raises(ValueError, match=r"canary: weight 120 of reviews.*; faults: percent 0"):
        args(reviews(canary=replace(CANARY, weight=120), faults=(replace(DELAY, percent=0),)))
