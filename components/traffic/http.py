"""From what is asked for of a service to the specs of its VirtualService and DestinationRule.

The first route that fits a request is the only one that counts, so the order is fixed: users with a
fault of their own, then the A/B routes, then everybody else, by weight. Retries, timeout and mirror
stand on every route; a fault for everybody on all but those of users with their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from components.istio_api import (
    ConnectionPool,
    Destination,
    DestinationRuleSpec,
    HttpFault,
    HttpMatch,
    HttpRetries,
    HttpRoute,
    OutlierDetection,
    Route,
    StringMatch,
    TrafficPolicy,
    VirtualServiceSpec,
)
from components.traffic.model import (
    USER_HEADER,
    AbRoute,
    CircuitBreaker,
    Fault,
    HostTraffic,
    MatchBy,
    Retries,
)

_ALL = 100


def virtual_service(one: HostTraffic) -> VirtualServiceSpec | None:
    """Specification of the service's VirtualService; None where Istio's own routing is enough."""
    routes = http_routes(one)
    if routes == [{"route": [{"destination": {"host": one.host}}]}]:
        return None
    return {"hosts": [one.host], "http": routes}


def http_routes(one: HostTraffic) -> list[HttpRoute]:
    """The routes, in the order in which Istio tries them."""
    everybodys = next((fault for fault in one.faults if fault.user is None), None)
    return [
        *(
            _route(one, target, fault, headers)
            for fault in one.faults
            if fault.user is not None
            for headers, target in _of_user(one, fault.user)
        ),
        *(_route(one, [_to(one, ab.version)], everybodys, _header(ab)) for ab in one.ab),
        _route(one, _default(one), everybodys, {}),
    ]


def destination_rule(one: HostTraffic) -> DestinationRuleSpec | None:
    """Specification of the service's DestinationRule; None where there is nothing to say.

    Mutual TLS, pool and outlier detection stand above the subsets, and all subsets inherit them.
    """
    policy: TrafficPolicy = _circuit_breaker(one.circuit_breaker) if one.circuit_breaker else {}
    if one.mtls:
        policy["tls"] = {"mode": "ISTIO_MUTUAL"}
    spec: DestinationRuleSpec = {"host": one.host}
    if policy:
        spec["trafficPolicy"] = policy
    if versions := one.versions or one.named_versions():
        spec["subsets"] = [{"name": v, "labels": {"version": v}} for v in versions]
    return spec if policy or one.named_versions() else None


def _of_user(one: HostTraffic, user: str) -> Iterator[tuple[dict[str, StringMatch], list[Route]]]:
    """Where a user's requests go without his fault: with it they go there too."""
    himself: dict[str, StringMatch] = {USER_HEADER: {"exact": user}}
    for ab in one.ab:
        header = _header(ab)
        if USER_HEADER not in header:
            yield {**himself, **header}, [_to(one, ab.version)]
        elif header == himself:
            yield himself, [_to(one, ab.version)]
            return
    yield himself, _default(one)


def _route(
    one: HostTraffic,
    target: Sequence[Route],
    fault: Fault | None,
    headers: dict[str, StringMatch],
) -> HttpRoute:
    route: HttpRoute = {"route": list(target)}
    if headers:
        match: HttpMatch = {"headers": headers}
        route["match"] = [match]
    if fault:
        route["fault"] = _fault(fault)
    if one.retries:
        route["retries"] = _retries(one.retries)
    if one.timeout is not None:
        route["timeout"] = one.timeout
    if one.mirror:
        route["mirror"] = _destination(one, one.mirror.version)
        route["mirrorPercentage"] = {"value": one.mirror.percent}
    return route


def _default(one: HostTraffic) -> list[Route]:
    """Where requests go that nothing singles out."""
    if one.canary:
        weight = one.canary.weight
        return [
            _to(one, one.canary.stable, _ALL - weight),
            # also with 0: from one step to the next only numbers change
            _to(one, one.canary.canary, weight),
        ]
    if not one.named_versions():
        return [{"destination": {"host": one.host}}]
    rest = one.rest()
    if len(rest) == 1:
        return [_to(one, rest[0])]
    share, left = divmod(_ALL, len(rest))
    return [_to(one, version, share + (n < left)) for n, version in enumerate(rest)]


def _to(one: HostTraffic, version: str, weight: int | None = None) -> Route:
    route: Route = {"destination": _destination(one, version)}
    if weight is not None:
        route["weight"] = weight
    return route


def _destination(one: HostTraffic, version: str) -> Destination:
    return {"host": one.host, "subset": version}


def _header(ab: AbRoute) -> dict[str, StringMatch]:
    header, cookie, value = ab.key
    if ab.by is not MatchBy.COOKIE:
        return {header: {"exact": value}}
    # one header carries all cookies, in any order
    pair = f"{re.escape(cookie)}={re.escape(value)}"
    return {header: {"regex": rf"(.*;\s*)?{pair}(\s*;.*)?"}}


def _fault(fault: Fault) -> HttpFault:
    if fault.delay is not None:
        return {"delay": {"percentage": {"value": fault.percent}, "fixedDelay": fault.delay}}
    if fault.abort_status is not None:
        return {"abort": {"percentage": {"value": fault.percent}, "httpStatus": fault.abort_status}}
    return {}


def _retries(retries: Retries) -> HttpRetries:
    spec: HttpRetries = {"attempts": retries.attempts}
    if retries.attempts == 0:
        # with a condition beside it Istio's webhook refuses it
        return spec
    if retries.per_try_timeout is not None:
        spec["perTryTimeout"] = retries.per_try_timeout
    spec["retryOn"] = retries.retry_on
    return spec


def _circuit_breaker(breaker: CircuitBreaker) -> TrafficPolicy:
    policy: TrafficPolicy = {}
    pool: ConnectionPool = {}
    if breaker.max_connections is not None:
        pool["tcp"] = {"maxConnections": breaker.max_connections}
    if breaker.max_pending_requests is not None:
        pool["http"] = {"http1MaxPendingRequests": breaker.max_pending_requests}
    if pool:
        policy["connectionPool"] = pool
    if breaker.consecutive_errors is not None:
        outlier: OutlierDetection = {
            "consecutive5xxErrors": breaker.consecutive_errors,
            # ejection itself is immediate; this is how exactly its end is kept
            "interval": "1s",
            # Envoy's 10 percent would eject none of fewer than ten endpoints
            "maxEjectionPercent": _ALL,
        }
        if breaker.ejection_time is not None:
            outlier["baseEjectionTime"] = breaker.ejection_time
        policy["outlierDetection"] = outlier
    return policy
