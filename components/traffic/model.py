"""What may be asked for of the traffic to a service, and what of it would not work.

One `HostTraffic` says everything about one service; in `http` it becomes one VirtualService and one
DestinationRule. All of it is done by the proxy of the client, so it needs a client with a sidecar;
what comes in through a gateway follows the gateway's own VirtualService.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Final

USER_HEADER: Final = "end-user"
"""Request header in which Bookinfo's services pass on who is logged in."""

RETRY_ON: Final = "connect-failure,refused-stream,gateway-error"
"""When a request is sent again unless said otherwise: it did not arrive, or 502, 503 or 504.

Istio's own default leaves an application's 503 alone, because what answered it may have acted.
"""

_RETRY_ON = (
    *("5xx", "gateway-error", "reset", "reset-before-request", "connect-failure"),
    *("retriable-4xx", "refused-stream", "retriable-status-codes", "envoy-ratelimited"),
    *("cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"),
)
"""Of Envoy's conditions those that Istio's webhook accepts and that need no further field."""

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_COOKIE_VALUE = re.compile(r"[!#-+\--:<-\[\]-~]+")
_NOT_HEADERS = frozenset({"uri", "scheme", "method", "authority"})
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_ALL = 100


class MatchBy(StrEnum):
    """By what of a request an A/B route recognises it.

    https://istio.io/latest/docs/reference/config/networking/virtual-service/#HTTPMatchRequest
    """

    HEADER = "header"
    """A request header with exactly that value."""

    COOKIE = "cookie"
    """A cookie with exactly that value, wherever it stands among others."""

    USER = "user"
    """The header `end-user`, as Bookinfo sends it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Canary:
    """A new version that gets a share of the requests; the rest goes to the stable one."""

    stable: str
    """Value of the label `version` of the pods that get the rest."""

    canary: str
    """Value of the label `version` of the new version's pods."""

    weight: int
    """Percent of the requests that go to the canary, 0 to 100. With 0 it is only set up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AbRoute:
    """Requests that one version answers, and no other; it answers no others either."""

    version: str
    """Value of the label `version`."""

    by: MatchBy
    """What is looked at."""

    name: str = ""
    """Name of the header or the cookie; "" for a user."""

    value: str
    """What it must be, exactly."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes two routes match the same requests: header, cookie in it, value."""
        match self.by:
            case MatchBy.COOKIE:
                return "cookie", self.name, self.value
            case MatchBy.USER:
                return USER_HEADER, "", self.value
            case MatchBy.HEADER:
                return self.name.lower(), "", self.value


@dataclass(frozen=True, kw_only=True, slots=True)
class Mirror:
    """A version that gets a copy of requests; its answers are thrown away."""

    version: str
    """Value of the label `version`."""

    percent: float = 100.0
    """Percent of the requests that are copied, above 0 to 100."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retries:
    """How often a request that failed is sent again, to another endpoint where there is one.

    https://istio.io/latest/docs/reference/config/networking/virtual-service/#HTTPRetry
    """

    attempts: int
    """At most so many after the first, 0 to 10; without `Retries` it is Istio's default, 2."""

    per_try_timeout: str | None = None
    """Longest wait for each answer, e.g. "500ms". None: the request's own timeout."""

    retry_on: str = RETRY_ON
    """Conditions, Envoy's names or status codes, with commas between them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A failure made on purpose, in the proxies of the clients: exactly one of delay and abort.

    It comes before the timeout and the retries of the same service, so neither helps its callers;
    it tests those who call the caller.
    https://istio.io/latest/docs/reference/config/networking/virtual-service/#HTTPFaultInjection
    """

    percent: float
    """Percent of the requests, above 0 to 100."""

    delay: str | None = None
    """How long they are held up, e.g. "2s"."""

    abort_status: int | None = None
    """The HTTP status they get instead of an answer, 200 to 599."""

    user: str | None = None
    """Whose requests; None: everybody's. A user's own fault replaces everybody's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CircuitBreaker:
    """What each client's proxy does not do to a service that is in trouble.

    https://istio.io/latest/docs/reference/config/networking/destination-rule/#TrafficPolicy
    """

    max_connections: int | None = None
    """Connections of one client, at least 1. More requests wait."""

    max_pending_requests: int | None = None
    """Requests of one client that wait for a connection, at least 1. More get a 503 at once."""

    consecutive_errors: int | None = None
    """5xx or resets in a row after which an endpoint gets no requests for a while, at least 1."""

    ejection_time: str | None = None
    """For how long, times how often it has happened; None: Istio's 30s."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HostTraffic:
    """Everything about the requests to one service."""

    host: str
    """Name of the Service, in the namespace of `TrafficArgs`."""

    versions: tuple[str, ...] = ()
    """Values of the label `version` among its pods; () where they are not known."""

    mtls: bool = True
    """Whether its clients are told to use mutual TLS, whatever they would find out."""

    canary: Canary | None = None
    ab: tuple[AbRoute, ...] = ()
    """In the order in which they are tried; the first that fits counts. The canary comes after."""

    mirror: Mirror | None = None
    retries: Retries | None = None
    timeout: str | None = None
    """Longest wait for an answer, all attempts together, e.g. "2s"; then 504. None: no limit."""

    faults: tuple[Fault, ...] = ()
    """At most one for everybody and one for each user."""

    circuit_breaker: CircuitBreaker | None = None

    gateway_only: bool = False
    """Whether nobody in the mesh calls it: then only the circuit breaker would do anything."""

    def named_versions(self) -> tuple[str, ...]:
        """Versions that some route names, each once."""
        found = [self.canary.stable, self.canary.canary] if self.canary else []
        found += [one.version for one in self.ab]
        found += [self.mirror.version] if self.mirror else []
        return tuple(dict.fromkeys(found))

    def rest(self) -> tuple[str, ...]:
        """Without a canary: the versions that no A/B route and no mirror has for itself."""
        named = self.named_versions()
        return tuple(one for one in self.versions if one not in named)


def milliseconds(duration: str) -> float | None:
    """How long a duration like "500ms", "2s" or "1m30s" is; None where it is none.

    Istio's resolution is 1 ms, and 0 is refused by its webhook.
    """
    if not _DURATION.fullmatch(duration):
        return None
    total = sum(float(n) * _MS[unit] for n, unit in _DURATION_PART.findall(duration))
    return total if total >= 1 else None


def problems(hosts: Sequence[HostTraffic], *, production: bool) -> list[str]:
    """Say what would not work as it reads; [] when all is well.

    Each begins with the setting it is about: canary, abRoutes, mirror, resilience or faults.

    Args:
        hosts: all services that have something said about them.
        production: whether the stack is marked so; then nothing may fail on purpose.
    """
    found = [
        f"{name}: said {count} times, and one VirtualService for it would win over the others"
        for name, count in Counter(one.host for one in hosts).items()
        if count > 1
    ]
    for one in hosts:
        found += _unseen(one)
        found += _versions(one)
        found += _canary(one)
        found += _ab(one)
        found += _mirror(one)
        found += _resilience(one)
        found += _faults(one, production=production)
    return found


def _unseen(one: HostTraffic) -> Iterator[str]:
    if not one.gateway_only:
        return
    for setting, said in (
        ("canary", one.canary),
        ("abRoutes", one.ab),
        ("mirror", one.mirror),
        ("resilience", one.retries or one.timeout),
        ("faults", one.faults),
    ):
        if said:
            yield (
                f"{setting}: {one.host} is called through the ingress gateway only, whose own"
                " VirtualService leads there: nothing of this would happen"
            )


def _versions(one: HostTraffic) -> Iterator[str]:
    asked = [("canary", v) for v in (one.canary.stable, one.canary.canary)] if one.canary else []
    asked += [("abRoutes", route.version) for route in one.ab]
    asked += [("mirror", one.mirror.version)] if one.mirror else []
    for setting, version in dict.fromkeys(asked):
        if one.versions and version not in one.versions:
            near = difflib.get_close_matches(version, one.versions, n=1, cutoff=0.4)
            there = f"there are {', '.join(one.versions)}"
            hint = f"did you mean {near[0]}? {there.capitalize()}" if near else there
            yield f"{setting}: {one.host} has no version {version!r}: {hint}"


def _canary(one: HostTraffic) -> Iterator[str]:
    if one.canary is None:
        return
    if one.canary.stable == one.canary.canary:
        yield f"canary: stable and canary of {one.host} are the same version {one.canary.stable!r}"
    if not 0 <= one.canary.weight <= _ALL:
        yield f"canary: weight {one.canary.weight} of {one.host} is not 0 to 100 percent"


def _ab(one: HostTraffic) -> Iterator[str]:
    seen: dict[tuple[str, str, str], AbRoute] = {}
    for route in one.ab:
        what = f"{route.by.value} {route.name}".strip()
        first = seen.setdefault(route.key, route)
        if first is not route:
            yield (
                f"abRoutes: {what} {route.value!r} of {one.host} goes to {first.version} already:"
                f" the route to {route.version} is never reached"
            )
        if route.by is MatchBy.USER and route.name:
            yield f"abRoutes: a user of {one.host} has no name beside its value {route.value!r}"
        if route.by is not MatchBy.USER and not _NAME.fullmatch(route.name):
            yield f"abRoutes: {route.name!r} of {one.host} is no name of a {route.by.value}"
        if route.by is MatchBy.HEADER and route.name.lower() in _NOT_HEADERS:
            yield f"abRoutes: Istio does not look at {route.name!r} of {one.host} among headers"
        cookie = route.by is MatchBy.COOKIE
        if not route.value.strip() or (cookie and not _COOKIE_VALUE.fullmatch(route.value)):
            yield f"abRoutes: {route.value!r} of {one.host} is no value of a {route.by.value}"
    if (one.ab or one.mirror) and one.canary is None and not one.rest():
        setting = "abRoutes" if one.ab else "mirror"
        why = "no version is left for" if one.versions else "nothing says which version gets"
        yield (
            f"{setting}: {why} the other requests to {one.host}: say so with canary"
            " (stable gets them, weight 0)"
        )


def _mirror(one: HostTraffic) -> Iterator[str]:
    if one.mirror is None:
        return
    if not 0 < one.mirror.percent <= _ALL:
        yield f"mirror: percent {one.mirror.percent:g} of {one.host} is not above 0 to 100"
    live = {route.version for route in one.ab}
    if one.canary:
        live |= {one.canary.stable} if one.canary.weight < _ALL else set()
        live |= {one.canary.canary} if one.canary.weight > 0 else set()
    if one.mirror.version in live:
        yield (
            f"mirror: {one.mirror.version} of {one.host} answers requests itself and would get"
            " these twice"
        )


def _durations(one: HostTraffic) -> Iterator[tuple[str, str, str]]:
    if one.timeout is not None:
        yield "resilience", "timeout", one.timeout
    if one.retries and one.retries.per_try_timeout is not None:
        yield "resilience", "perTryTimeout", one.retries.per_try_timeout
    if one.circuit_breaker and one.circuit_breaker.ejection_time is not None:
        yield "resilience", "ejectionTime", one.circuit_breaker.ejection_time
    for fault in one.faults:
        if fault.delay is not None:
            yield "faults", "delay", fault.delay


def _resilience(one: HostTraffic) -> Iterator[str]:
    for setting, key, duration in _durations(one):
        if milliseconds(duration) is None:
            allowed = 'a duration of 1ms or more, such as "500ms", "2s" or "1m30s"'
            yield f"{setting}: {key} {duration!r} of {one.host} is not {allowed}"
    if one.retries:
        yield from _retries(one.host, one.retries, one.timeout)
    breaker = one.circuit_breaker
    if breaker is None:
        return
    for key, count in (
        ("maxConnections", breaker.max_connections),
        ("maxPendingRequests", breaker.max_pending_requests),
        ("consecutiveErrors", breaker.consecutive_errors),
    ):
        if count is not None and count < 1:
            yield f"resilience: {key} {count} of {one.host} is not 1 or more"
    if breaker.ejection_time is not None and breaker.consecutive_errors is None:
        yield f"resilience: ejectionTime of {one.host} does nothing without consecutiveErrors"


def _retries(host: str, retries: Retries, timeout: str | None) -> Iterator[str]:
    most = 10
    if not 0 <= retries.attempts <= most:
        yield f"resilience: attempts {retries.attempts} of {host} is not 0 to {most}"
    tuned = retries.per_try_timeout is not None or retries.retry_on != RETRY_ON
    if retries.attempts == 0 and tuned:
        yield f"resilience: perTryTimeout and retryOn of {host} mean nothing with attempts 0"
    for condition in retries.retry_on.split(","):
        if condition not in _RETRY_ON and not _is_status(condition):
            near = difflib.get_close_matches(condition, _RETRY_ON, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_RETRY_ON)}"
            yield f"resilience: retryOn {condition!r} of {host} is no condition: {hint}"
    if timeout is None or retries.per_try_timeout is None:
        return
    whole, each = milliseconds(timeout), milliseconds(retries.per_try_timeout)
    if whole is not None and each is not None and each > whole:
        yield (
            f"resilience: perTryTimeout {retries.per_try_timeout} of {host} is longer than its"
            f" timeout {timeout}, which ends all attempts together"
        )


def _is_status(text: str) -> bool:
    return text.isdecimal() and int(text) in set(HTTPStatus)


def _faults(one: HostTraffic, *, production: bool) -> Iterator[str]:
    if production and one.faults:
        yield f"faults: none in a stack that is marked production, and {one.host} has one"
    for user, count in Counter(fault.user for fault in one.faults).items():
        if count > 1:
            whom = "everybody" if user is None else user
            yield f"faults: {count} for {whom} of {one.host}, and only the first would happen"
    for fault in one.faults:
        if (fault.delay is None) == (fault.abort_status is None):
            yield f"faults: a fault of {one.host} is either delay or abortStatus"
        if fault.user is not None and not fault.user.strip():
            yield f"faults: {fault.user!r} of {one.host} is no user"
        if not 0 < fault.percent <= _ALL:
            yield f"faults: percent {fault.percent:g} of {one.host} is not above 0 to 100"
        status = fault.abort_status
        if status is not None and not 200 <= status <= 599:  # noqa: PLR2004 what Envoy can answer
            yield f"faults: abortStatus {status} of {one.host} is not 200 to 599"
