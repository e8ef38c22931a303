"""What the settings of traffic and access accept, and what they say of everything else.

What Istio would make of fields taken together is `components.traffic`'s: here it is seen that it is
asked, and that its answer arrives.
"""

from __future__ import annotations

from typing import Any

import pytest

from components.access_policy import AccessMode
from components.traffic import (
    AbRoute,
    Canary,
    CircuitBreaker,
    EgressArgs,
    EgressHost,
    EgressTls,
    Fault,
    HostTraffic,
    MatchBy,
    Mirror,
    Retries,
    TrafficArgs,
)
from settings import SettingsError
from tests.unit.conftest import Load

CANARY = {"service": "reviews", "stable": "v1", "canary": "v3", "weight": 10}
USER = {"service": "reviews", "version": "v2", "user": "jason"}
FAULT = {"service": "ratings", "percent": 10, "delay": "2s"}
HOST = {"host": "www.example.com", "port": 443, "tls": "originate"}


def without(item: dict[str, Any], field: str) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key != field}


# What loads


def test_nothing_is_said_unless_asked_for(load: Load) -> None:
    settings = load()
    assert settings.authorization_policy is AccessMode.OFF
    assert (settings.network_policy, settings.production) == (False, False)
    assert (settings.traffic, settings.egress_hosts) == ((), ())


def test_a_host_of_mutual_tls_alone_is_the_rule_that_it_was(load: Load) -> None:
    assert load(mtlsHosts=["reviews"]).traffic == (
        HostTraffic(host="reviews", versions=("v1", "v2", "v3"), mtls=True),
    )


def test_everything_said_of_a_service_comes_together(load: Load) -> None:
    settings = load(
        mtlsHosts=["reviews"],
        canary=CANARY,
        abRoutes=[
            USER,
            {"service": "reviews", "version": "v2", "header": "x-group", "value": "beta"},
            {"service": "reviews", "version": "v2", "cookie": "group", "value": "beta"},
        ],
        resilience=[
            {
                "service": "reviews",
                "attempts": 3,
                "perTryTimeout": "500ms",
                "retryOn": "5xx,reset",
                "timeout": "2s",
                "maxConnections": 10,
                "maxPendingRequests": 5,
                "consecutiveErrors": 3,
                "ejectionTime": "30s",
            }
        ],
        faults=[
            {"service": "reviews", "percent": 10, "delay": "2s"},
            {"service": "reviews", "percent": "0.5", "abortStatus": 503, "user": "jason"},
        ],
    )
    (found,) = settings.traffic
    assert found == HostTraffic(
        host="reviews",
        versions=("v1", "v2", "v3"),
        mtls=True,
        canary=Canary(stable="v1", canary="v3", weight=10),
        ab=(
            AbRoute(version="v2", by=MatchBy.USER, value="jason"),
            AbRoute(version="v2", by=MatchBy.HEADER, name="x-group", value="beta"),
            AbRoute(version="v2", by=MatchBy.COOKIE, name="group", value="beta"),
        ),
        retries=Retries(attempts=3, per_try_timeout="500ms", retry_on="5xx,reset"),
        timeout="2s",
        faults=(
            Fault(percent=10, delay="2s"),
            Fault(percent=0.5, abort_status=503, user="jason"),
        ),
        circuit_breaker=CircuitBreaker(
            max_connections=10,
            max_pending_requests=5,
            consecutive_errors=3,
            ejection_time="30s",
        ),
    )
    TrafficArgs(namespace="bookinfo", hosts=settings.traffic)


def test_a_mirror_copies_all_requests_unless_told_a_percent(load: Load) -> None:
    for percent, expected in (({}, 100), ({"percent": "12.5"}, 12.5), ({"percent": 1}, 1)):
        item = {"service": "reviews", "version": "v2", **percent}
        settings = load(canary=CANARY, mirror=[item])
        assert settings.traffic[0].mirror == Mirror(version="v2", percent=expected)


def test_hosts_come_in_one_order_and_each_once(load: Load) -> None:
    settings = load(
        mtlsHosts=["ratings"], canary=CANARY, faults=[FAULT, {**FAULT, "service": "details"}]
    )
    assert [one.host for one in settings.traffic] == ["ratings", "reviews", "details"]


def test_a_service_that_cannot_use_mutual_tls_is_not_told_to(load: Load) -> None:
    exception = {"selector": {"app": "ratings"}, "mode": "DISABLE", "reason": "a legacy client"}
    found = load(faults=[FAULT], canary=CANARY, mtlsExceptions=[exception]).traffic
    assert {one.host: one.mtls for one in found} == {"reviews": True, "ratings": False}
    assert not load(faults=[FAULT], mtlsMode="DISABLE").traffic[0].mtls


def test_of_ones_own_services_names_versions_and_sidecars_are_not_known(load: Load) -> None:
    settings = load(
        bookinfo=False, canary={**CANARY, "service": "shop", "stable": "blue", "canary": "green"}
    )
    (found,) = settings.traffic
    assert (found.host, found.versions, found.mtls) == ("shop", (), False)


def test_faults_are_for_stacks_that_are_not_marked_production(load: Load) -> None:
    assert load(faults=[FAULT]).traffic[0].faults
    assert load(production=True, canary=CANARY).production


def test_what_would_do_nothing_behind_the_ingress_gateway_is_refused(load: Load) -> None:
    with pytest.raises(SettingsError, match="productpage is called through the ingress gateway"):
        load(resilience=[{"service": "productpage", "timeout": "2s"}])
    (host,) = load(resilience=[{"service": "productpage", "maxConnections": 9}]).traffic
    assert host.gateway_only


def test_hosts_outside_load(load: Load) -> None:
    items = [HOST, {"host": "a.example.com", "port": 80, "tls": "none", "address": "192.0.2.1"}]
    settings = load(profile="demo", egressHosts=items)
    assert settings.egress_hosts == (
        EgressHost(host="www.example.com", port=443, tls=EgressTls.ORIGINATE),
        EgressHost(host="a.example.com", port=80, tls=EgressTls.NONE, address="192.0.2.1"),
    )
    EgressArgs(hosts=settings.egress_hosts, gateway_selector={"a": "b"}, gateway_service="c")


# What is refused

BAD: dict[str, tuple[dict[str, Any], str, str, str]] = {
    # id: stack, key, part of what is allowed or wrong, part of the command
    "canary-that-is-a-list": (
        {"canary": [CANARY]},
        "canary is",
        "an object {service, stable, canary, weight}",
        "pulumi config rm canary && pulumi config set --path canary.service reviews",
    ),
    "canary-of-no-service": (
        {"canary": {**CANARY, "service": "review"}},
        'canary.service is "review"',
        "a service of Bookinfo: details, ratings, reviews, productpage",
        "pulumi config set --path canary.service reviews",
    ),
    "canary-of-a-service-that-is-no-name": (
        {"bookinfo": False, "canary": {**CANARY, "service": "a.b"}},
        'canary.service is "a.b"',
        "the name of a service in the namespace",
        "pulumi config set --path canary.service NAME",
    ),
    "canary-version-that-nobody-deployed": (
        {"canary": {**CANARY, "canary": "v4"}},
        'canary.canary is "v4"',
        "a version of reviews: v1, v2, v3",
        "pulumi config set --path canary.canary v",
    ),
    "canary-without-a-stable-version": (
        {"canary": without(CANARY, "stable")},
        "canary.stable is not set",
        "a version of reviews: v1, v2, v3",
        "pulumi config set --path canary.stable v1",
    ),
    "canary-with-more-than-all-requests": (
        {"canary": {**CANARY, "weight": 101}},
        "canary.weight is 101",
        "a whole number from 0 to 100",
        "pulumi config set --path canary.weight 10",
    ),
    "canary-with-a-share-of-a-request": (
        {"canary": {**CANARY, "weight": "12.5"}},
        'canary.weight is "12.5"',
        "a whole number from 0 to 100",
        "pulumi config set --path canary.weight 10",
    ),
    "canary-with-an-unknown-field": (
        {"canary": {**CANARY, "wieght": 1}},
        "canary.wieght is 1",
        "did you mean weight?",
        "pulumi config rm --path canary.wieght && pulumi config set --path canary.weight 1",
    ),
    "canary-of-one-version": (
        {"canary": {**CANARY, "canary": "v1"}},
        "canary is",
        "stable and canary of reviews are the same version",
        "pulumi config rm canary",
    ),
    "route-that-matches-nothing": (
        {"abRoutes": [without(USER, "user")]},
        "abRoutes[0] is",
        "exactly one of header, cookie and user",
        "pulumi config set --path 'abRoutes[0].user' jason",
    ),
    "route-that-matches-two-things": (
        {"abRoutes": [{**USER, "header": "x-a", "value": "b"}]},
        "abRoutes[0] is",
        "exactly one of header, cookie and user",
        "pulumi config rm --path 'abRoutes[0].user'",
    ),
    "route-of-a-user-with-a-value": (
        {"abRoutes": [{**USER, "value": "b"}]},
        'abRoutes[0].value is "b"',
        "left out: the user is the value",
        "pulumi config rm --path 'abRoutes[0].value'",
    ),
    "route-of-a-header-without-a-value": (
        {"abRoutes": [{"service": "reviews", "version": "v2", "header": "x-a"}]},
        "abRoutes[0].value is not set",
        "what the header must be",
        "pulumi config set --path 'abRoutes[0].value' VALUE",
    ),
    "route-that-is-never-reached": (
        {"abRoutes": [USER, {**USER, "version": "v3"}]},
        "abRoutes is",
        "the route to v3 is never reached",
        "pulumi config rm abRoutes",
    ),
    "mirror-twice": (
        {"canary": CANARY, "mirror": [{"service": "reviews", "version": "v2"}] * 2},
        'mirror[1].service is "reviews"',
        "every service once",
        "pulumi config rm --path 'mirror[1]'",
    ),
    "mirror-of-nothing": (
        {"canary": CANARY, "mirror": [{"service": "reviews", "version": "v2", "percent": 0}]},
        "mirror[0].percent is 0",
        "a number above 0, up to 100",
        "pulumi config set --path 'mirror[0].percent' 10",
    ),
    "resilience-that-says-nothing": (
        {"resilience": [{"service": "reviews"}]},
        "resilience[0] is",
        "at least one of attempts, perTryTimeout",
        "pulumi config rm --path 'resilience[0]'",
    ),
    "resilience-with-a-time-that-is-none": (
        {"resilience": [{"service": "reviews", "timeout": 2}]},
        "resilience[0].timeout is 2",
        'such as "500ms", "2s" or "1m30s"',
        "pulumi config set --path 'resilience[0].timeout' 2s",
    ),
    "resilience-with-a-time-for-no-attempts": (
        {"resilience": [{"service": "reviews", "perTryTimeout": "1s"}]},
        "resilience[0].attempts is not set",
        "a whole number from 0 to 10",
        "pulumi config set --path 'resilience[0].attempts' 2",
    ),
    "resilience-with-no-connections": (
        {"resilience": [{"service": "reviews", "maxConnections": 0}]},
        "resilience[0].maxConnections is 0",
        "a whole number, 1 or more",
        "pulumi config rm --path 'resilience[0].maxConnections'",
    ),
    "resilience-with-an-attempt-longer-than-the-request": (
        {
            "resilience": [
                {"service": "reviews", "attempts": 1, "perTryTimeout": "3s", "timeout": "2s"}
            ]
        },
        "resilience is",
        "longer than its timeout 2s",
        "pulumi config rm resilience",
    ),
    "fault-that-does-nothing": (
        {"faults": [without(FAULT, "delay")]},
        "faults[0] is",
        "exactly one of delay and abortStatus",
        "pulumi config set --path 'faults[0].delay' 2s",
    ),
    "fault-that-delays-and-aborts": (
        {"faults": [{**FAULT, "abortStatus": 503}]},
        "faults[0] is",
        "exactly one of delay and abortStatus",
        "pulumi config rm --path 'faults[0].abortStatus'",
    ),
    "fault-without-a-share": (
        {"faults": [without(FAULT, "percent")]},
        "faults[0].percent is not set",
        "a number above 0, up to 100",
        "pulumi config set --path 'faults[0].percent' 10",
    ),
    "fault-with-a-status-that-is-none": (
        {"faults": [{**without(FAULT, "delay"), "abortStatus": 42}]},
        "faults[0].abortStatus is 42",
        "a whole number from 200 to 599",
        "pulumi config rm --path 'faults[0].abortStatus'",
    ),
    "fault-in-production": (
        {"production": True, "faults": [FAULT]},
        "faults is",
        "none in a stack that is marked production",
        "pulumi config rm faults",
    ),
    "fault-that-is-a-word": (
        {"faults": ["delay"]},
        'faults[0] is "delay"',
        "{service, percent, delay, abortStatus, user}",
        "pulumi config rm --path 'faults[0]'",
    ),
    "host-outside-without-a-gateway": (
        {"egressHosts": [HOST]},
        'egressHosts is ["www.example.com"]',
        "none without the egress gateway",
        "pulumi config set profile demo, or pulumi config rm egressHosts",
    ),
    "host-outside-on-no-port": (
        {"profile": "demo", "egressHosts": [{**HOST, "port": 0}]},
        "egressHosts[0].port is 0",
        "a whole number from 1 to 65535",
        "pulumi config set --path 'egressHosts[0].port' 443",
    ),
    "host-outside-with-no-tls": (
        {"profile": "demo", "egressHosts": [{**HOST, "tls": "passthru"}]},
        'egressHosts[0].tls is "passthru"',
        "none, passthrough, originate",
        "pulumi config set --path 'egressHosts[0].tls' passthrough",
    ),
    "host-outside-that-is-inside": (
        {"profile": "demo", "egressHosts": [{**HOST, "host": "a.b.svc.cluster.local"}]},
        "egressHosts is",
        "is a service of the cluster",
        "pulumi config rm egressHosts",
    ),
    "access-policy-without-a-graph": (
        {"bookinfo": False, "authorizationPolicy": "enforce"},
        'authorizationPolicy is "enforce"',
        "off without Bookinfo",
        "pulumi config set authorizationPolicy off",
    ),
    "network-policy-without-a-graph": (
        {"bookinfo": False, "networkPolicy": True},
        'networkPolicy is "true"',
        "false without Bookinfo",
        "pulumi config set networkPolicy false",
    ),
    "access-policy-without-identities": (
        {"mtlsMode": "DISABLE", "authorizationPolicy": "dry-run"},
        'authorizationPolicy is "dry-run"',
        "without it nobody has an identity",
        "pulumi config set mtlsMode STRICT, or pulumi config set authorizationPolicy off",
    ),
    "access-policy-where-one-service-has-no-identities": (
        {
            "authorizationPolicy": "enforce",
            "mtlsExceptions": [
                {"selector": {"app": "ratings"}, "mode": "DISABLE", "reason": "a legacy client"}
            ],
        },
        'authorizationPolicy is "enforce"',
        "while ratings cannot use mutual TLS",
        "pulumi config rm mtlsExceptions, or pulumi config set authorizationPolicy off",
    ),
}


@pytest.mark.parametrize(("stack", "key", "what", "command"), BAD.values(), ids=BAD.keys())
def test_a_bad_setting_is_refused_with_one_clear_message(
    load: Load, stack: dict[str, Any], key: str, what: str, command: str
) -> None:
    with pytest.raises(SettingsError) as refusal:
        load(**stack)
    head, problem = str(refusal.value).split("\n\n")
    assert head == "1 setting cannot be used:"
    is_now, allows, fix = problem.splitlines()
    assert is_now.startswith(key)
    assert allows.startswith(("  allowed: ", "  problem: "))
    assert what in allows
    assert fix.startswith("  fix:     ")
    assert command in fix


def test_a_fault_is_not_blamed_for_a_misspelt_production(load: Load) -> None:
    with pytest.raises(SettingsError) as refusal:
        load(production="yes", faults=[FAULT])
    assert [one.key for one in refusal.value.problems] == ["production"]


def test_a_service_is_not_judged_as_bookinfos_when_that_is_misspelt(load: Load) -> None:
    with pytest.raises(SettingsError) as refusal:
        load(bookinfo="yes", canary={**CANARY, "service": "shop"}, authorizationPolicy="enforce")
    assert [one.key for one in refusal.value.problems] == ["bookinfo"]
