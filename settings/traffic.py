"""The settings of traffic: what is said about each service, and the hosts outside.

Each field is checked here, with the command that mends it; what is wrong with fields taken together
is found by `components.traffic`, which knows what Istio would make of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from components import bookinfo as sample
from components.traffic import (
    RETRY_ON,
    AbRoute,
    Canary,
    CircuitBreaker,
    EgressHost,
    EgressTls,
    Fault,
    HostTraffic,
    MatchBy,
    Mirror,
    Retries,
    egress_problems,
    problems,
)
from components.traffic.model import milliseconds
from settings.reader import (
    DNS_LABEL,
    HIGHEST_PORT,
    Reader,
    Where,
    nearest,
    remove_command,
    set_command,
)

_APPS = tuple(dict.fromkeys(row.app for row in sample.WORKLOADS))
_NUMBER = re.compile(r"\d{1,9}(\.\d{1,6})?", re.ASCII)
_MOST = 10**9

_CANARY = ("service", "stable", "canary", "weight")
_AB_ROUTE = ("service", "version", "header", "cookie", "user", "value")
_MIRROR = ("service", "version", "percent")
_RETRIES = ("attempts", "perTryTimeout", "retryOn")
_BREAKER = ("maxConnections", "maxPendingRequests", "consecutiveErrors", "ejectionTime")
_RESILIENCE = ("service", *_RETRIES, "timeout", *_BREAKER)
_FAULT = ("service", "percent", "delay", "abortStatus", "user")
_EGRESS = ("host", "port", "tls", "address")
_KEYS = ("canary", "abRoutes", "mirror", "resilience", "faults")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Item:
    """One object of a setting, and where it stands."""

    read: Reader
    where: Where
    fields: Mapping[str, object]
    bookinfo: bool

    def refuse(self, name: str, allowed: str, example: str | None) -> None:
        """Note a field; without an example it is one that may go."""
        path = (*self.where, name)
        fix = remove_command(path) if example is None else set_command(path, example)
        self.read.refuse(path, self.fields.get(name), allowed, fix)

    def says(self, *names: str) -> bool:
        """Whether any of the fields is there."""
        return any(self.fields.get(name) is not None for name in names)

    def text(self, name: str, allowed: str, example: str) -> str:
        """A text that must be there."""
        value = self.fields.get(name)
        if isinstance(value, str) and value.strip():
            return value
        self.refuse(name, allowed, example)
        return example

    def optional(self, name: str, allowed: str, example: str) -> str | None:
        """A text that may be left out."""
        return self.text(name, f"{allowed}, or left out", example) if self.says(name) else None

    def service(self) -> str:
        """The service that it is about."""
        value = self.fields.get("service")
        if self.bookinfo and value not in _APPS:
            near = nearest(value, _APPS, "reviews")
            self.refuse("service", f"a service of Bookinfo: {', '.join(_APPS)}", near)
        elif not isinstance(value, str) or not DNS_LABEL.fullmatch(value):
            self.refuse("service", "the name of a service in the namespace", "NAME")
        else:
            return value
        return _APPS[0]

    def version(self, name: str = "version") -> str:
        """A version of that service: the value of the label `version` of its pods."""
        value, service = self.fields.get(name), self.fields.get("service")
        there = sample.versions(str(service)) if self.bookinfo else ()
        allowed = "the label `version` of the service's pods"
        if there and value not in there:
            allowed = f"a version of {service}: {', '.join(there)}"
            self.refuse(name, allowed, nearest(value, there, there[0]))
            return there[0]
        return self.text(name, allowed, "v1")

    def percent(self) -> float:
        """Percent of requests, above 0: with none of them the object would say nothing."""
        value = self.fields.get("percent")
        # `config set --path` makes a text of a number with a point
        written = str(value) if type(value) in {int, float, str} else ""
        if _NUMBER.fullmatch(written) and 0 < float(written) <= 100:  # noqa: PLR2004 percent
            return float(written)
        self.refuse("percent", "a number above 0, up to 100", "10")
        return 100.0

    def whole(self, name: str, lowest: int, highest: int, example: int | None = None) -> int:
        """A whole number within bounds."""
        value = self.fields.get(name)
        if type(value) is int and lowest <= value <= highest:
            return value
        allowed = f"a whole number from {lowest} to {highest}"
        if highest == _MOST:
            allowed = f"a whole number, {lowest} or more"
        self.refuse(name, allowed, None if example is None else str(example))
        return lowest

    def count(self, name: str, lowest: int = 1, highest: int = _MOST) -> int | None:
        """A whole number that may be left out."""
        return self.whole(name, lowest, highest) if self.says(name) else None

    def duration(self, name: str) -> str | None:
        """A length of time that may be left out, as Istio writes it."""
        value = self.fields.get(name)
        if value is None or (isinstance(value, str) and milliseconds(value) is not None):
            return value
        self.refuse(name, 'a duration of 1 ms or more, such as "500ms", "2s" or "1m30s"', "2s")
        return None


class _OneAbRoute(NamedTuple):
    service: str
    route: AbRoute


def hosts(
    read: Reader,
    mtls_hosts: Sequence[str],
    *,
    bookinfo: bool,
    refusing: set[str],
    production: bool,
) -> tuple[HostTraffic, ...]:
    """Everything that the settings say of the traffic to services, a service once.

    Args:
        read: the stack's configuration.
        mtls_hosts: services whose clients are told to use mutual TLS in any case.
        bookinfo: whether the services are Bookinfo's, whose names and versions are known.
        refusing: services that cannot use it.
        production: whether nothing may fail on purpose.
    """
    bookinfo = bookinfo and read.sound("bookinfo")
    canary = _canary(read, bookinfo=bookinfo)
    routes = [_ab_route(one) for one in _items(read, "abRoutes", _AB_ROUTE, bookinfo=bookinfo)]
    mirrors = _by_service(read, "mirror", _MIRROR, bookinfo=bookinfo)
    resilience = _by_service(read, "resilience", _RESILIENCE, bookinfo=bookinfo)
    faults: dict[str, list[Fault]] = {}
    for one in _items(read, "faults", _FAULT, bookinfo=bookinfo):
        faults.setdefault(one.service(), []).append(_fault(one))

    named = [*mtls_hosts, *canary, *(one.service for one in routes)]
    found = []
    for host in dict.fromkeys([*named, *mirrors, *resilience, *faults]):
        tuned = resilience.get(host)
        found.append(
            HostTraffic(
                host=host,
                versions=sample.versions(host) if bookinfo else (),
                gateway_only=bookinfo and sample.gateway_only(host),
                # of somebody else's service it is not known whether all its pods have sidecars
                mtls=host in mtls_hosts or (bookinfo and host not in refusing),
                canary=canary.get(host),
                ab=tuple(one.route for one in routes if one.service == host),
                mirror=_mirror(mirrors[host]) if host in mirrors else None,
                retries=_retries(tuned) if tuned else None,
                timeout=tuned.duration("timeout") if tuned else None,
                faults=tuple(faults.get(host, ())),
                circuit_breaker=_circuit_breaker(tuned) if tuned else None,
            )
        )
    if read.sound(*_KEYS, "production", "bookinfo"):
        for problem in problems(found, production=production):
            key, _, what = problem.partition(": ")
            # names of hosts were said once each, so every problem begins with its setting
            read.report(key, what)
    return tuple(found)


def _items(
    read: Reader, key: str, known: tuple[str, ...], *, bookinfo: bool = False
) -> Iterator[_Item]:
    """The objects of a list."""
    shape = f"{{{', '.join(known)}}}"
    example = set_command((key, 0, known[0]), "NAME")
    for index, fields in enumerate(read.data(key, list, f"a list of {shape}", example)):
        where: Where = (key, index)
        if isinstance(fields, dict):
            yield _known(_Item(read=read, where=where, fields=fields, bookinfo=bookinfo), known)
        else:
            read.refuse(where, fields, shape, remove_command(where))


def _known(item: _Item, known: tuple[str, ...]) -> _Item:
    for name in sorted(item.fields.keys() - set(known)):
        item.read.refuse_unknown(item.where, name, item.fields[name], known)
    return item


def _by_service(
    read: Reader, key: str, known: tuple[str, ...], *, bookinfo: bool
) -> dict[str, _Item]:
    """The objects of a list that may have one for each service."""
    found: dict[str, _Item] = {}
    for item in _items(read, key, known, bookinfo=bookinfo):
        service = item.service()
        if found.setdefault(service, item) is not item and read.sound(key):
            read.refuse(
                (*item.where, "service"), service, "every service once", remove_command(item.where)
            )
    return found


def _canary(read: Reader, *, bookinfo: bool) -> dict[str, Canary]:
    example = set_command(("canary", "service"), "reviews")
    fields = read.data("canary", dict, f"an object {{{', '.join(_CANARY)}}}", example)
    if not fields:
        return {}
    item = _known(_Item(read=read, where=("canary",), fields=fields, bookinfo=bookinfo), _CANARY)
    return {
        item.service(): Canary(
            stable=item.version("stable"),
            canary=item.version("canary"),
            weight=item.whole("weight", 0, 100, 10),
        )
    }


def _ab_route(item: _Item) -> _OneAbRoute:
    asked = [by for by in MatchBy if item.says(by)]
    if len(asked) != 1:
        allowed = "exactly one of header, cookie and user"
        item.read.refuse(item.where, dict(item.fields), allowed, _one_of(item, asked))
    by = asked[0] if asked else MatchBy.USER
    what = "who, as the header end-user says it" if by is MatchBy.USER else f"name of the {by}"
    name = item.text(by, what, "jason") if asked else ""
    if by is MatchBy.USER:
        if item.says("value"):
            item.refuse("value", "left out: the user is the value", None)
        name, value = "", name
    else:
        value = item.text("value", f"what the {by} must be", "VALUE")
    return _OneAbRoute(
        service=item.service(),
        route=AbRoute(version=item.version(), by=by, name=name, value=value),
    )


def _one_of(item: _Item, asked: Sequence[MatchBy]) -> str:
    if not asked:
        return set_command((*item.where, MatchBy.USER), "jason")
    return " && ".join(remove_command((*item.where, by)) for by in asked[1:])


def _mirror(item: _Item) -> Mirror:
    percent = item.percent() if item.says("percent") else 100.0
    return Mirror(version=item.version(), percent=percent)


def _retries(item: _Item) -> Retries | None:
    if not item.says(*_RETRIES, "timeout", *_BREAKER):
        rest = ", ".join(_RESILIENCE[1:])
        item.read.refuse(
            item.where, dict(item.fields), f"at least one of {rest}", remove_command(item.where)
        )
    if not item.says(*_RETRIES):
        return None
    return Retries(
        attempts=item.whole("attempts", 0, 10, 2),
        per_try_timeout=item.duration("perTryTimeout"),
        retry_on=item.optional("retryOn", "conditions with commas between them", RETRY_ON)
        or RETRY_ON,
    )


def _circuit_breaker(item: _Item) -> CircuitBreaker | None:
    if not item.says(*_BREAKER):
        return None
    return CircuitBreaker(
        max_connections=item.count("maxConnections"),
        max_pending_requests=item.count("maxPendingRequests"),
        consecutive_errors=item.count("consecutiveErrors"),
        ejection_time=item.duration("ejectionTime"),
    )


def _fault(item: _Item) -> Fault:
    if item.says("delay") == item.says("abortStatus"):
        both = item.says("delay")
        fix = (
            remove_command((*item.where, "abortStatus"))
            if both
            else set_command((*item.where, "delay"), "2s")
        )
        allowed = "exactly one of delay and abortStatus"
        item.read.refuse(item.where, dict(item.fields), allowed, fix)
    return Fault(
        percent=item.percent(),
        delay=item.duration("delay"),
        abort_status=item.count("abortStatus", 200, 599),
        user=item.optional("user", "whose requests", "jason"),
    )


def egress_hosts(read: Reader, *, has_gateway: bool) -> tuple[EgressHost, ...]:
    """The hosts outside.

    Args:
        read: the stack's configuration.
        has_gateway: whether there is an egress gateway.
    """
    key = "egressHosts"
    found = tuple(
        EgressHost(
            host=one.text("host", "a full DNS name", "www.example.com"),
            port=one.whole("port", 1, HIGHEST_PORT, 443),
            tls=_egress_tls(one),
            address=one.optional("address", "an IP address or a DNS name", "192.0.2.1"),
        )
        for one in _items(read, key, _EGRESS)
    )
    if found and not has_gateway and read.sound("egressGateway", "profile"):
        allowed = "none without the egress gateway, through which they are reached"
        fix = f"{set_command(('profile',), 'demo')}, or {remove_command((key,))}"
        read.refuse(key, [one.host for one in found], allowed, fix)
    elif read.sound(key):
        for problem in egress_problems(found, has_gateway=True):
            read.report(key, problem.removeprefix(f"{key}: "))
    return found


def _egress_tls(item: _Item) -> EgressTls:
    value = item.fields.get("tls")
    if isinstance(value, str) and value in set(EgressTls):
        return EgressTls(value)
    item.refuse("tls", ", ".join(EgressTls), nearest(value, EgressTls, EgressTls.ORIGINATE))
    return EgressTls.ORIGINATE
