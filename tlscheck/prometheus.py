"""What Prometheus has counted of a connection: requests and TCP connections, and how they came.

Istio's standard metrics (https://istio.io/latest/docs/reference/config/metrics/) name workloads,
not pods, ports or subsets: what is seen belongs to every connection between two workloads, and only
what none of these may carry is a disagreement. The server's proxy tells how a connection came
(`connection_security_policy`), the client's only that there was one. A client without a proxy, and
one that speaks plaintext TCP, is `unknown` to the server.
"""

from __future__ import annotations

import http.client
import json
import math
import re
import subprocess
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from tlscheck.advice import Facts
from tlscheck.documents import BadInputError, items, mapping, printable
from tlscheck.evaluate import rows
from tlscheck.model import Proxy
from tlscheck.rows import Client, Effective, Row, Server, Warning
from tlscheck.world import World

Json = dict[str, Any]
Ask = Callable[[str], bytes]
"""The answer of Prometheus' API to a path."""
Pair = tuple[str, str]
"""Workloads of the client and of the server, `namespace/name` each."""
Counts = dict[str, dict[str, int]]
"""How many, by what is counted and by policy."""

TIMEOUT_S = 30
MAX_BYTES = 64 * 1024 * 1024
"""Of one answer: some 200,000 pairs of workloads."""
SERVICE, PORT = "prometheus", 9090
METRICS = {
    "requests": "istio_requests_total",
    "connections": "istio_tcp_connections_opened_total",
}
SIDES = {"reporter", "connection_security_policy"}
ENDS = tuple(
    f"{end}_workload{part}" for end in ("source", "destination") for part in ("_namespace", "")
)
MUTUAL, NONE, UNKNOWN = "mutual_tls", "none", "unknown"
CARRIES: Mapping[Effective, frozenset[str]] = {
    Effective.ISTIO_MUTUAL: frozenset({MUTUAL}),
    Effective.HBONE: frozenset({MUTUAL}),
    Effective.PLAINTEXT: frozenset({NONE}),
    # TLS that ends behind the proxy is none to it
    Effective.SIMPLE: frozenset({NONE}),
    Effective.MUTUAL: frozenset({MUTUAL, NONE}),
    Effective.CONFLICT: frozenset(),
}
"""What may be seen of a connection that is as the objects say."""

UNITS = {"y": 31_536_000, "w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}
DURATION = re.compile("".join(rf"(?:(\d{{1,9}}){unit})?" for unit in UNITS), re.ASCII)
SHORTEST_S, LONGEST_S = 60, 10 * UNITS["y"]


def seconds(since: str) -> int:
    """The length of a window in Prometheus' words, e.g. `90m` or `1d12h`.

    Raises:
        BadInputError: It is none, or of no use.
    """
    found = DURATION.fullmatch(since)
    counted = found.groups(0) if since and found else ()
    length = sum(int(n) * unit for n, unit in zip(counted, UNITS.values(), strict=False))
    if not SHORTEST_S <= length <= LONGEST_S:
        raise BadInputError(
            f"--since {printable(since)}: write a duration from 1m to 10y, e.g. 30m, 6h or 1d12h"
        )
    return length


# --- how Prometheus is reached --------------------------------------------------------------------


class _Stay(urllib.request.HTTPRedirectHandler):
    """Where Prometheus redirects its API, a login page stands before it."""

    def redirect_request(self, *_: object) -> None:
        """Follow none."""


def over_http(address: str) -> Ask:
    """Ask at an address, which may have a path prefix.

    Raises:
        BadInputError: It is no such address.
    """
    shown = printable(address)
    try:
        given = urlsplit(address)
        usable = given.scheme in ("http", "https") and given.hostname and given.port != 0
    except ValueError:
        usable = None
    if not usable or given.query or given.fragment or not address.isprintable() or " " in address:
        raise BadInputError(
            f"--prometheus {shown}: write its address, e.g. http://127.0.0.1:9090 or "
            "https://metrics.example.com/prometheus"
        )
    if "@" in given.netloc:
        # every user of this machine can read the arguments of a process
        raise BadInputError("--prometheus takes no password; use --observe, or a local tunnel")
    opener = urllib.request.build_opener(_Stay)

    def ask(path: str) -> bytes:
        try:
            request = urllib.request.Request(address.rstrip("/") + path)  # noqa: S310 # checked above
            with opener.open(request, timeout=TIMEOUT_S) as answer:
                return bytes(answer.read(MAX_BYTES + 1))
        except urllib.error.HTTPError as error:
            with error:
                raise BadInputError(f"{shown}: {_refusal(error)}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = printable(getattr(error, "reason", error)) or type(error).__name__
            raise BadInputError(f"{shown}: Prometheus does not answer: {why}") from error

    return ask


def _refusal(error: urllib.error.HTTPError) -> str:
    if error.code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return (
            f"HTTP {error.code}: it asks for a login, which tlscheck has none for; use --observe, "
            "or a local tunnel to Prometheus itself"
        )
    if error.code < HTTPStatus.BAD_REQUEST:
        return f"HTTP {error.code}: it redirects elsewhere; give the address of Prometheus itself"
    try:
        said = mapping(json.loads(error.read(MAX_BYTES))).get("error")
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        said = None
    if said:
        return f"Prometheus says: {printable(said)}"
    hint = "; no Prometheus there, or a path prefix is missing" * (
        error.code == HTTPStatus.NOT_FOUND
    )
    return f"HTTP {error.code}{hint}"


def over_kubectl(world: World, objects: Iterable[Json], words: Sequence[str]) -> Ask:
    """Ask the Prometheus of the cluster, through the API server's proxy to its Service.

    `kubectl port-forward` would be a process to watch, a local port, and the right to reach every
    port of a pod; this is one GET, needs `get` of services/proxy, and works wherever kubectl does.

    Raises:
        BadInputError: There is no such Service, or one cannot be chosen.
    """
    found = set()
    for item in objects:
        meta, ports = mapping(item.get("metadata")), items(mapping(item.get("spec")).get("ports"))
        serves = any(mapping(port).get("port") == PORT for port in ports)
        if item.get("kind") == "Service" and meta.get("name") == SERVICE and serves:
            found.add(str(meta.get("namespace")))
    namespaces = found & {world.mesh.root_namespace} or found
    if len(namespaces) != 1:
        where = f"in {', '.join(sorted(namespaces))}" if namespaces else "nowhere"
        raise BadInputError(
            f"--observe looks for one Service {SERVICE} with port {PORT}, in "
            f"{printable(world.mesh.root_namespace)} or anywhere: it is {printable(where)}; "
            "give an address with --prometheus"
        )
    (namespace,) = namespaces
    proxied = f"/api/v1/namespaces/{quote(namespace)}/services/{SERVICE}:{PORT}/proxy"

    def ask(path: str) -> bytes:
        try:
            done = _run(["kubectl", *words, "get", "--raw", proxied + path])
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BadInputError(
                f"Service {printable(namespace)}/{SERVICE}: no answer ({type(error).__name__})"
            ) from error
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise BadInputError(
                f"Service {printable(namespace)}/{SERVICE}: kubectl: {printable(lines[-1])}; "
                "--observe needs its pod to be ready and `get` of services/proxy, or give "
                "an address with --prometheus"
            )
        return done.stdout

    return ask


def _run(argv: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(argv, capture_output=True, timeout=TIMEOUT_S, check=False)


def _now() -> datetime:
    return datetime.now(UTC)


# --- what is asked --------------------------------------------------------------------------------


def query(metric: str, since: str) -> str:
    """How many there were in the window, by pair of workloads, by reporter and policy."""
    # TLS that meets a plaintext port is counted as a bad request (DPE): none of the connection came
    series = f'{metric}{{reporter=~"source|destination", response_flags!="DPE"}}'
    counted = (
        # one request is a series of one value, in which `increase` alone would see nothing
        f"(last_over_time({series}[{since}]) unless {series} offset {since})"
        f" or increase({series}[{since}])"
        # of too few samples to tell: that it is there
        f" or 0 * last_over_time({series}[{since}])"
    )
    return f"sum by ({', '.join(sorted({*SIDES, *ENDS}))}) ({counted})"


def _result(ask: Ask, expression: str, notes: list[str]) -> list[tuple[Json, int]]:
    """Labels and values of an instant query's answer.

    Raises:
        BadInputError: It is not what Prometheus answers.
    """
    body = ask(f"/api/v1/query?{urlencode({'query': expression})}")
    if len(body) > MAX_BYTES:
        raise BadInputError(f"Prometheus' answer has more than {MAX_BYTES} bytes")
    try:
        answer = mapping(json.loads(body))
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"not Prometheus: its answer is not JSON ({error})") from error
    if answer.get("status") != "success":
        said = answer.get("error") or f"status {answer.get('status')}"
        raise BadInputError(f"Prometheus says: {printable(said)}")
    data = mapping(answer.get("data"))
    if data.get("resultType") != "vector" or not isinstance(data.get("result"), list):
        raise BadInputError("not Prometheus: its answer is no vector")
    notes += [printable(said) for said in items(answer.get("warnings")) if said]
    try:
        # one at a time: an answer of Prometheus may have NaN, nothing else may
        return [(mapping(one["metric"]), _whole(one["value"][1])) for one in data["result"]]
    except (TypeError, KeyError, IndexError, ValueError, AttributeError) as error:
        raise BadInputError("not Prometheus: a sample without labels or value") from error


def _whole(value: object) -> int:
    """A count; what `increase` extrapolates to less than one was still something."""
    found = float(str(value))
    return math.ceil(found) if math.isfinite(found) and found > 0 else 0


# --- what is made of it ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What was counted of a connection's two workloads."""

    pair: Pair | None
    """None where the server is no workload that Istio's metrics name."""
    words: str
    """`mutual_tls`, `none`, both, or why neither."""
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """As the server's proxy counted, by what and by policy."""
    sent: int = 0
    """As the client's proxy counted."""
    agrees: bool | None = None
    """Whether this connection may carry what was seen; None where that cannot be told, because
    nothing was seen or because another one between these workloads may."""
    stranger: bool = False
    """The server is STRICT and took plaintext of somebody else."""

    @property
    def trouble(self) -> bool:
        """Whether something was seen that the objects rule out."""
        return self.stranger or self.agrees is False

    @property
    def text(self) -> str:
        """In a few words."""
        own = ", disagrees" if self.agrees is False else ""
        return self.words + own + ", STRICT took plaintext" * self.stranger

    def as_json(self) -> Json:
        """For machines."""
        counts = {what: self.counts.get(what, {}) for what in METRICS}
        found: Json = {"agrees": self.agrees, "seen": self.words, **counts}
        return {
            "agrees": False if self.trouble else self.agrees,
            "traffic": {**found, "sent": self.sent, "plaintext_to_strict": self.stranger},
        }


@dataclass(kw_only=True)
class Traffic:
    """What Prometheus counted between the workloads of a mesh."""

    world: World
    facts: Facts
    since: str
    """Length of the window."""
    notes: list[str] = field(default_factory=list)
    """What Prometheus itself remarks."""
    came: dict[Pair, Counts] = field(default_factory=dict)
    """As the servers' proxies counted."""
    sent: dict[Pair, Counts] = field(default_factory=dict)
    """As the clients' proxies counted."""
    metrics: int = 0
    """Series that there were."""
    whole: bool = True
    """Whether Prometheus was there when the window began."""
    began: datetime = field(default_factory=_now)
    """When that was."""
    _names: dict[str, str] = field(default_factory=dict)
    _members: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _plain: dict[str, Counts] = field(default_factory=dict)
    """Plaintext by server, from clients that are none of the objects."""
    _hosts: dict[str, set[str]] = field(default_factory=dict)
    _explained: dict[Pair, frozenset[str]] = field(default_factory=dict)

    def read(self, ask: Ask) -> None:
        """Ask once per metric.

        Raises:
            BadInputError: Prometheus cannot be asked, or does not answer as it does.
        """
        self.began = _now() - timedelta(seconds=seconds(self.since))
        for workload in self.world.workloads:
            name = self._named(workload.name)
            self._names[workload.name] = name
            self._members[name].append(workload.name)
        for what, metric in METRICS.items():
            for labels, count in _result(ask, query(metric, self.since), self.notes):
                self.metrics += 1
                if count:
                    self._count(labels, what, count)
        for (source, server), counts in self.came.items():
            if source not in self._members:
                for what, by_policy in counts.items():
                    _add(self._plain.setdefault(server, {}), what, NONE, by_policy.get(NONE, 0))
        self.whole = not self.came or bool(
            _result(ask, f"count(up offset {self.since})", self.notes)
        )

    def _count(self, labels: Json, what: str, count: int) -> None:
        place, source, there, server = (str(labels.get(key) or UNKNOWN) for key in ENDS)
        pair = (UNKNOWN if source == UNKNOWN else f"{place}/{source}"), f"{there}/{server}"
        kept = self.came if labels.get("reporter") == "destination" else self.sent
        policy = str(labels.get("connection_security_policy") or UNKNOWN)
        _add(kept.setdefault(pair, {}), what, policy, count)

    def observe(self, row: Row) -> Seen:
        """What was seen of a connection, and whether it may be."""
        source, server = self._names.get(row.client_name), self._names.get(row.server_name)
        if source is None or server is None:
            return Seen(pair=None, words="-")
        pair = source, server
        counts, sent = self.came.get(pair, {}), _total(self.sent.get(pair, {}))
        stranger = row.server is Server.STRICT and self._plaintext_to_strict(server)
        policies = _policies(counts)
        known = policies & {MUTUAL, NONE}
        agrees = None
        if known and known <= CARRIES[row.effective]:
            agrees = True
        elif known and not known <= self._may_carry(pair):
            agrees = False
        return Seen(
            pair=pair,
            words=" + ".join(sorted(policies)) or self._silence(row, server, sent),
            counts=counts,
            sent=sent,
            agrees=agrees,
            stranger=stranger,
        )

    def _silence(self, row: Row, server: str, sent: int) -> str:
        """What it means that the server's proxy counted nothing of this client."""
        if not self.metrics:
            return "no metrics"
        nameless = _policies(self.came.get((UNKNOWN, server), {})) & CARRIES[row.effective]
        if nameless:
            return f"unknown client: {' + '.join(sorted(nameless))}"
        if sent:
            return "client only"
        uncounted = row.client is Client.NO_PROXY and row.server is Server.NO_PROXY
        return "-" if uncounted else "no traffic"

    def tell(self, row: Row) -> Iterator[str]:
        """The same in sentences."""
        seen = self.observe(row)
        if seen.pair is None or not self.metrics:
            return
        source, server = seen.pair
        said = _sentence(seen.counts)
        if not said:
            said = seen.words
            if seen.sent:
                said = f"{seen.sent} by the client's proxy, which does not know how they came"
        yield f"{source} -> {server} {self._window}: {said}"
        if plain := _sentence(self._plain.get(server, {})):
            yield f"others -> {server} {self._window}: {plain}"

    def warnings(self, judged: Iterable[Row]) -> list[Warning]:
        """What is seen and cannot be, plaintext that no connection stands for, what is missing."""
        found = [
            Warning(code="PROMETHEUS_REMARK", subject="Prometheus", text=said)
            for said in dict.fromkeys(self.notes)
        ]
        if not self.metrics:
            text = (
                f"has no {' and no '.join(METRICS.values())} {self._window}: it scrapes no proxy "
                "that keeps Istio's metrics, so nothing is known of the traffic"
            )
            return [*found, Warning(code="PROMETHEUS_EMPTY", subject="Prometheus", text=text)]
        if not self.whole:
            text = (
                f"has no samples from the beginning of {self.since}: what the proxies counted "
                "before counts, too"
            )
            found.append(Warning(code="PROMETHEUS_YOUNG", subject="Prometheus", text=text))
        differing: dict[Pair, list[Row]] = {}
        servers: dict[str, None] = {}
        for row in judged:
            seen = self.observe(row)
            if seen.pair is not None:
                servers[seen.pair[1]] = None
                if seen.agrees is False:
                    differing.setdefault(seen.pair, []).append(row)
        for (source, server), entries in differing.items():
            row = entries[0]
            more = f" (and {len(entries) - 1} more)" if len(entries) > 1 else ""
            text = (
                f"took {_sentence(self.came[source, server])} of {source} {self._window}; for "
                f"{row.host}:{row.port}{more} the objects say {row.effective}. {self._causes}"
            )
            found.append(Warning(code="TRAFFIC_DISAGREES", subject=f"Workload {server}", text=text))
        for server in servers:
            if not (plain := _sentence(self._plain.get(server, {}))):
                continue
            strict = self._plaintext_to_strict(server)
            rule = f"and is STRICT. {self._causes}" if strict else "and may: it is not STRICT"
            text = f"took {plain} {self._window} of {self._strangers(server)}, {rule}"
            code = "TRAFFIC_DISAGREES" if strict else "PLAINTEXT_SEEN"
            found.append(Warning(code=code, subject=f"Workload {server}", text=text))
        return found

    @property
    def _window(self) -> str:
        return f"since {self.began:%Y-%m-%dT%H:%M:%SZ}"

    @property
    def _causes(self) -> str:
        return (
            "Calls by a pod's address, an EnvoyFilter, a proxy that istiod does not reach, or "
            "rules that have changed since: ask again with a shorter --since"
        )

    def _strangers(self, server: str) -> str:
        names = sorted(
            "clients that do not say who they are" if source == UNKNOWN else source
            for (source, to), counts in self.came.items()
            if to == server and source not in self._members and NONE in _policies(counts)
        )
        return ", ".join(names)

    def _plaintext_to_strict(self, server: str) -> bool:
        """Whether plaintext came in from elsewhere, though every port is STRICT."""
        if not _total(self._plain.get(server, {})):
            return False
        modes = set()
        for name in self._members[server]:
            workload = self.world.by_name[name]
            if workload.proxy in (Proxy.SIDECAR, Proxy.AMBIENT):
                composed = self.world.policies.composed(workload)
                modes |= {composed.mode, *(mode for mode, _ in composed.ports.values())}
        return modes == {Server.STRICT}

    def _may_carry(self, pair: Pair) -> frozenset[str]:
        """What the connections between two workloads may carry, all ports and subsets together."""
        if pair not in self._explained:
            if not self._hosts:
                self._index()
            source, server = pair
            servers = set(self._members[server])
            hosts = {host for name in servers for host in self._hosts.get(name, ())}
            self._explained[pair] = frozenset(
                policy
                for client in self._members[source]
                for host in hosts
                for row in rows(self.world, client, host)
                if row.server_name in servers
                for policy in CARRIES[row.effective]
            )
        return self._explained[pair]

    def _index(self) -> None:
        for service in self.world.every_service():
            aliased = self.world.aliased(service)
            for port in aliased.ports:
                for endpoint in self.world.endpoints(aliased, port):
                    self._hosts.setdefault(endpoint.workload.name, set()).add(service.host)

    def _named(self, name: str) -> str:
        """What Istio's metrics call a workload: as its proxy is told, else as istiod derives it."""
        namespace, _, pod = name.partition("/")
        item = mapping(self.facts.workloads.get(name))
        meta, spec = mapping(item.get("metadata")), mapping(item.get("spec"))
        for part in ("containers", "initContainers"):
            for container in map(mapping, items(spec.get(part))):
                for variable in map(mapping, items(container.get("env"))):
                    if variable.get("name") == "ISTIO_META_WORKLOAD_NAME" and variable.get("value"):
                        return f"{namespace}/{variable['value']}"
        if given := mapping(meta.get("labels")).get("service.istio.io/workload-name"):
            return f"{namespace}/{given}"
        owner = mapping(next(iter(items(meta.get("ownerReferences"))), None))
        found = self.facts.owners.get(name, pod)
        if owner.get("kind") == "Job":  # of a CronJob
            found = re.sub(r"-\d{8,10}$", "", found)
        return f"{namespace}/{found}"


def _add(counts: Counts, what: str, policy: str, count: int) -> None:
    if count:
        by_policy = counts.setdefault(what, {})
        by_policy[policy] = by_policy.get(policy, 0) + count


def _total(counts: Counts) -> int:
    return sum(sum(by_policy.values()) for by_policy in counts.values())


def _policies(counts: Counts) -> set[str]:
    return {policy for by_policy in counts.values() for policy in by_policy}


def _sentence(counts: Mapping[str, Mapping[str, int]]) -> str:
    """`12 requests (mutual_tls), 1 connection (none)`."""
    return ", ".join(
        f"{count} {what if count > 1 else what[:-1]} ({policy})"
        for what, by_policy in counts.items()
        for policy, count in sorted(by_policy.items())
    )
