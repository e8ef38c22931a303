"""What running sidecars and gateways say of a connection, read through the API server.

As `istioctl proxy-config` does: `kubectl exec` of the agent in the proxy's own container, which
asks Envoy's admin interface. Nothing is installed or changed, and no key is asked for: Envoy blanks
them out of its answers, and nothing of its secrets is kept.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tlscheck.documents import items, mapping, printable
from tlscheck.envoy import NO_ENDPOINT, Config, outbound
from tlscheck.model import Proxy
from tlscheck.rows import Client, Row, Server, Warning
from tlscheck.world import World

Json = dict[str, Any]
Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[bytes]"]

TIMEOUT_S = 30
"""For one question to one proxy."""
AT_ONCE = 8
"""Proxies that are asked at the same time: each is a kubectl process here and a stream there."""
QUESTIONS = (
    "config_dump?include_eds",
    "certs",
    "clusters?format=json",
    "stats?filter=ssl.handshake",
)
"""What is asked of Envoy's admin interface."""
INBOUND = "listener.0.0.0.0_15006.ssl.handshake"
_WITH_CERTIFICATE = (Client.ISTIO_MUTUAL, Client.HBONE, Server.STRICT, Server.PERMISSIVE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """What a proxy proves its identity with."""

    identity: str
    """SPIFFE ID."""
    begins: str
    expires: str
    """RFC 3339."""

    def valid(self, now: datetime) -> bool:
        """Whether this moment lies between its two ends."""
        return _instant(self.begins) <= now < _instant(self.expires)


@dataclass(frozen=True, kw_only=True, slots=True)
class Witness:
    """What one proxy told."""

    config: Config
    certificate: Certificate | None
    connections: Mapping[tuple[str, str | None], tuple[int, int]]
    """Opened and failed, by cluster and address."""
    handshakes: Mapping[str, int]
    """Of TLS, by name of the counter; Istio's proxies keep them only where they are told to."""

    @classmethod
    def parse(cls, dump: object, certs: object, clusters: object, stats: str) -> Witness:
        """Take the answers to the four questions."""
        counted = (line.rpartition(": ") for line in stats.splitlines())
        return cls(
            config=Config.dumped(mapping(dump)),
            certificate=_certificate(mapping(certs)),
            connections=_connections(mapping(clusters)),
            handshakes={name: int(value) for name, _, value in counted if value.isdecimal()},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One end of a connection, as its proxy sees it."""

    pod: str
    expected: str
    """What the objects say."""
    mode: str | None
    """What the proxy has; None where it could not be asked."""
    certificate: Certificate | None = None
    valid: bool | None = None
    handshakes: int | None = None
    """TLS handshakes since the proxy started: of the client with this port and subset, of the
    server with everybody; None where the proxy does not count them."""
    connections: tuple[int, int] | None = None
    """To this endpoint since the proxy started, opened and failed."""

    @property
    def agrees(self) -> bool | None:
        """Whether it is as the objects say; None where it cannot be told."""
        return None if self.mode in (None, NO_ENDPOINT) else self.mode == self.expected

    @property
    def uncertified(self) -> bool:
        """Whether mutual TLS is meant and no certificate can be shown."""
        return self.mode in _WITH_CERTIFICATE and not self.valid

    def as_json(self) -> Json:
        """For machines."""
        identity = self.certificate and self.certificate.identity
        opened, failed = self.connections or (None, None)
        return {
            "mode": self.mode,
            "identity": identity,
            "expires": self.certificate and self.certificate.expires,
            "valid": self.valid,
            "handshakes": self.handshakes,
            **({"connections": opened, "failed": failed} if self.connections else {}),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """A connection as the proxies at its ends see it; None where an end has no proxy to ask."""

    client: Side | None
    server: Side | None

    @property
    def sides(self) -> list[tuple[str, Side]]:
        """The ends that have a proxy."""
        both = (("client", self.client), ("server", self.server))
        return [(name, side) for name, side in both if side is not None]

    @property
    def agrees(self) -> bool | None:
        """Whether every proxy says what the objects say; None where none was asked."""
        said = [side.agrees for _, side in self.sides]
        return False if False in said else None if None in said or not said else True

    @property
    def trouble(self) -> bool:
        """Whether a proxy says otherwise, or has no valid certificate for its mutual TLS."""
        return any(side.agrees is False or side.uncertified for _, side in self.sides)

    @property
    def text(self) -> str:
        """In a few words."""
        wrong = [f"{name} {side.mode}" for name, side in self.sides if side.agrees is False]
        wrong += [f"{name} without certificate" for name, side in self.sides if side.uncertified]
        unread = [name for name, side in self.sides if side.mode is None]
        ready = all(side.mode != NO_ENDPOINT for _, side in self.sides)
        if wrong:
            return ", ".join(wrong)
        if unread:
            return "not read" if len(unread) == len(self.sides) else f"{unread[0]} not read"
        return "-" if not self.sides else "agree" if ready else "no endpoint yet"

    def as_json(self) -> Json:
        """For machines."""
        return {"agrees": self.agrees, **{name: side.as_json() for name, side in self.sides}}


@dataclass(kw_only=True)
class Proxies:
    """The proxies of a live cluster that the chosen connections begin or end at."""

    world: World
    witnesses: dict[str, Witness] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    """Why a proxy was not asked, by pod."""

    def read(self, rows: Iterable[Row], words: Sequence[str], run: Run | None = None) -> None:
        """Ask every proxy at an end of these connections; `words` lead kubectl to the cluster."""
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 # start-up time

        ask, wanted = run or _run, set()
        for row in rows:
            wanted |= {end for end in (self._client(row), self._server(row)) if end}

        def one(pod: str) -> Witness | str:
            namespace, _, name = pod.partition("/")
            base = ["kubectl", *words, "-n", namespace, "exec", name, "-c", "istio-proxy", "--"]
            return _witness([*base, "pilot-agent", "request", "GET"], ask)

        order = sorted(wanted)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for pod, told in zip(order, pool.map(one, order), strict=True):
                if isinstance(told, str):
                    self.unread[pod] = told
                else:
                    self.witnesses[pod] = told

    def observe(self, row: Row) -> Observed:
        """What the proxies at the ends of a connection say of it."""
        cluster = outbound(row.host, row.port, row.subset)
        address, port = self._endpoint(row)
        client = server = None
        if pod := self._client(row):
            told = self.witnesses.get(pod)
            mode = told.config.client(cluster, address) if told else None
            counter, at = f"cluster.{cluster};.ssl.handshake", (cluster, address)
            client = self._side(pod, expected=row.client, mode=mode, counter=counter, at=at)
            port = (told.config.port(cluster, address) if told else None) or port
        if pod := self._server(row):
            told = self.witnesses.get(pod)
            mode = told.config.server(port) if told else None
            server = self._side(pod, expected=row.server, mode=mode, counter=INBOUND)
        return Observed(client=client, server=server)

    def warnings(self, rows: Iterable[Row]) -> list[Warning]:
        """What could not be read, what says otherwise, and which certificates are no use."""
        found = [
            Warning(code="PROXY_NOT_READ", subject=f"Pod {pod}", text=f"was not asked: {why}")
            for pod, why in self.unread.items()
        ]
        differing: dict[tuple[str, str], list[tuple[Row, Side]]] = {}
        useless: dict[str, Certificate | None] = {}
        for row in rows:
            for name, side in self.observe(row).sides:
                if side.agrees is False:
                    differing.setdefault((side.pod, name), []).append((row, side))
                if side.uncertified:
                    useless[side.pod] = side.certificate
        for (pod, name), entries in differing.items():
            row, side = entries[0]
            more = f" (and {len(entries) - 1} more)" if len(entries) > 1 else ""
            text = (
                f"as {name} of {row.host}:{row.port}{more} its proxy has {side.mode}, the objects "
                f"say {side.expected}: an EnvoyFilter, or a proxy that istiod does not reach"
            )
            found.append(Warning(code="PROXY_DISAGREES", subject=f"Pod {pod}", text=text))
        for pod, bad in useless.items():
            ends = f"{bad.identity}, {bad.begins} to {bad.expires}" if bad else "there is none"
            text = f"its proxy has no valid certificate for mutual TLS: {ends}"
            found.append(Warning(code="PROXY_CERTIFICATE", subject=f"Pod {pod}", text=text))
        return found

    def _side(
        self,
        pod: str,
        *,
        expected: str,
        mode: str | None,
        counter: str,
        at: tuple[str, str | None] | None = None,
    ) -> Side:
        told = self.witnesses.get(pod)
        if told is None:
            return Side(pod=pod, expected=expected, mode=None)
        return Side(
            pod=pod,
            expected=expected,
            mode=mode,
            certificate=told.certificate,
            valid=told.certificate is not None and told.certificate.valid(_now()),
            handshakes=told.handshakes.get(counter),
            connections=told.connections.get(at) if at else None,
        )

    def _client(self, row: Row) -> str | None:
        """The client's pod, if a proxy of its own decides what leaves it."""
        known = self.world.by_name.get(row.client_name)
        asked = known is not None and known.proxy in (Proxy.SIDECAR, Proxy.GATEWAY)
        return row.client_name if asked and row.client is not Client.NO_PROXY else None

    def _server(self, row: Row) -> str | None:
        """The server's pod, if a sidecar decides what comes in."""
        known = self.world.by_name.get(row.server_name)
        asked = known is not None and known.proxy is Proxy.SIDECAR
        return row.server_name if asked and row.server is not Server.NO_PROXY else None

    def _endpoint(self, row: Row) -> tuple[str | None, int]:
        """Address and container port behind a connection, as the objects have them."""
        for service in self.world.by_host.get(row.host, ()):
            for port in service.ports:
                for one in self.world.endpoints(self.world.aliased(service), port):
                    if port.number == row.port and one.workload.name == row.server_name:
                        return next(iter(one.workload.addresses), None), one.port
        kind, _, name = row.server_name.partition(":")
        return (name if kind in ("ep", "host") else None), 0


def _witness(base: Sequence[str], run: Run) -> Witness | str:
    """Ask one proxy; a text says why that failed."""
    answers = []
    for question in QUESTIONS:
        try:
            done = run([*base, question])
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"no answer ({type(error).__name__})"
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            return printable(lines[-1] if lines else f"exit code {done.returncode}")
        answers.append(done.stdout)
    try:
        dump, certs, clusters = map(json.loads, answers[:3])
    except ValueError as error:
        return f"its answer is not JSON: {error}"
    return Witness.parse(dump, certs, clusters, answers[3].decode(errors="replace"))


def _now() -> datetime:
    return datetime.now(UTC)


def _run(argv: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(argv, capture_output=True, timeout=TIMEOUT_S, check=False)


def _certificate(certs: Json) -> Certificate | None:
    """The workload's own: the one with a SPIFFE ID."""
    for entry in map(mapping, items(certs.get("certificates"))):
        for one in map(mapping, items(entry.get("cert_chain"))):
            for name in map(mapping, items(one.get("subject_alt_names"))):
                if str(name.get("uri")).startswith("spiffe://"):
                    return Certificate(
                        identity=str(name["uri"]),
                        begins=str(one.get("valid_from")),
                        expires=str(one.get("expiration_time")),
                    )
    return None


def _connections(clusters: Json) -> dict[tuple[str, str | None], tuple[int, int]]:
    found: dict[tuple[str, str | None], tuple[int, int]] = {}
    for cluster in map(mapping, items(clusters.get("cluster_statuses"))):
        for host in map(mapping, items(cluster.get("host_statuses"))):
            at = mapping(mapping(host.get("address")).get("socket_address")).get("address")
            # Envoy leaves the value of a counter out that stands at zero
            stats = {
                mapping(s).get("name"): mapping(s).get("value", 0) for s in items(host.get("stats"))
            }
            counted = int(stats.get("cx_total", 0)), int(stats.get("cx_connect_fail", 0))
            found[str(cluster.get("name")), str(at)] = counted
    return found


def _instant(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
