"""Rows of the cases spoken by real sidecars: what was answered, and what was on the wire.

A case's pods run on the lab's data plane, with the sidecar that the real injector gives those that
have one in the case. Each row is a request from its client's container; what that client's proxy
sent to the row's endpoint is read from the wire.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from http import HTTPStatus
from itertools import groupby
from typing import TYPE_CHECKING, Any

from lab.lifecycle import LabError, enter
from lab.paths import ROOT
from lab.playground import GET, Answer, Playground
from lab.stack import open_stack
from lab.truth.batch import ROOT_NAMESPACE, Batch, batches
from lab.truth.mesh import has_sidecar
from tlscheck import Client, Effective, MeshConfig, evaluate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.paths import LabPaths
    from lab.truth.batch import Object, Part
    from lab.truth.mesh import Istiod
    from tlscheck import Row

MTLS, TLS, CLEAR = "mutual TLS", "TLS", "cleartext"
"""What may be on a wire: with Istio's own protocol names in the ClientHello, without, or no TLS."""

_WIRE = {
    Client.ISTIO_MUTUAL: MTLS,
    Client.SIMPLE: TLS,
    Client.MUTUAL: TLS,
    Client.PLAINTEXT: CLEAR,
    Client.NO_PROXY: CLEAR,
}
_ASKED_AGAIN = 12
"""Requests of a row whose service has more endpoints than the row's: any of them may answer."""

_PYTHON = GET[4]
_INJECTED = "sidecar.istio.io/status"
_COUNTED = json.dumps({"proxyStatsMatcher": {"inclusionPrefixes": ["listener."]}})
"""By default a sidecar does not count handshakes."""

_AT_ONCE = 4
_MOST_SIDECARS = 14
"""Each takes three of the 128 inotify instances that a user has; there may be other labs."""
_ROUNDS = 4
_SETTLE_S = 2
_READY_WITHIN_S = 240
_AGED = ("PeerAuthentication", "DestinationRule")
_KINDS = frozenset({"Pod", "Service", "PeerAuthentication", "DestinationRule"})
_SUBSET = "x-subset"
"""Request header that chooses a subset."""

_ASK = """
import json, sys
from lab.apps.get import Ask, once
for url, headers in json.loads(sys.argv[1]):
    print(json.dumps(once(Ask(url, headers))), flush=True)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """What came of a row's requests."""

    wire: frozenset[str] = frozenset()
    """What the client's proxy sent to the endpoint."""

    answers: tuple[Answer, ...] = ()
    """Those of the endpoint itself."""

    errors: tuple[str, ...] = ()
    """How the others ended; a proxy's own answer is one of them."""

    certificate: bool = False
    """The endpoint's proxy got the client's certificate."""

    @property
    def ended_in_app(self) -> bool:
        """The application terminated TLS itself."""
        return any(json.loads(one.body)["tls"] for one in self.answers)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spoken:
    """One row, as `tlscheck` says and as it went."""

    case: str
    row: Row
    heard: Heard

    @property
    def problem(self) -> str | None:
        """What differs; None where nothing does."""
        heard, row = self.heard, self.row
        wire = " and ".join(sorted(heard.wire)) or "nothing"
        if heard.wire != {_WIRE[row.client]}:
            return f"{wire} on the wire, not {_WIRE[row.client]}"
        if row.effective is Effective.CONFLICT:
            return "it was answered" if heard.answers else None
        if not heard.answers:
            return "it was not answered"
        if heard.certificate != (row.effective is Effective.ISTIO_MUTUAL):
            return f"{'a' if heard.certificate else 'no'} client certificate was seen"
        if heard.ended_in_app != (row.effective is Effective.SIMPLE):
            return f"TLS {'ended' if heard.ended_in_app else 'did not end'} in the application"
        return None


def speakable(case: dict[str, Any]) -> bool:
    """Whether the lab can make a case real: sidecars, numbered ports, endpoints that are pods.

    What other kinds of objects do, and other root namespaces, istiod alone is asked.
    """
    mesh = case["mesh"]
    ports = (
        port.get("targetPort", 0)
        for one in case["objects"]
        if one["kind"] == "Service"
        for port in one["spec"]["ports"]
    )
    return (
        not mesh.get("ambient")
        and mesh.get("rootNamespace", ROOT_NAMESPACE) == ROOT_NAMESPACE
        and _KINDS.issuperset(one["kind"] for one in case["objects"])
        and all(isinstance(port, int) for port in ports)
        and any(_rows(case))
    )


def _rows(case: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (one for one in case.get("expect", []) if ":" not in one["to"])


def run(istiod: Istiod, paths: LabPaths, cases: list[dict[str, Any]]) -> list[Spoken]:
    """Speak every row that the cases name.

    Raises:
        LabError: pods did not start, or the lab has no data plane.
    """
    play = Playground(open_stack("dev", paths), paths)
    found: list[Spoken] = []
    every = batches([case for case in cases if speakable(case)])
    for batch in (few for one in every for few in at_once(one)):
        istiod.configure(batch.mesh)
        begun = time.monotonic()
        spoken = speak(play, paths, batch)
        names = " ".join(part.case["id"] for part in batch.parts)
        print(f"{names}  {len(spoken)} rows in {time.monotonic() - begun:.0f} s", flush=True)
        found += spoken
    return found


def at_once(batch: Batch) -> Iterator[Batch]:
    """The batch in parts that a machine's usual number of inotify instances is enough for."""
    parts: list[Part] = []
    for part in batch.parts:
        if _sidecars([*parts, part]) > _MOST_SIDECARS and parts:
            yield replace(batch, parts=parts)
            parts = []
        parts.append(part)
    yield replace(batch, parts=parts)


def _sidecars(parts: list[Part]) -> int:
    pods = (one for part in parts for one in part.objects if one["kind"] == "Pod")
    return sum(map(has_sidecar, pods))


def speak(play: Playground, paths: LabPaths, batch: Batch) -> list[Spoken]:
    """Make the pods of a batch real, speak its rows, and take everything away again.

    Raises:
        LabError: pods did not start, or the lab has no data plane.
    """
    objects = [_spoken(one) for one in batch.objects]
    rows = _chosen(batch, objects)
    live = _live(objects, [row for _, row in rows])
    found: dict[int, Spoken] = {}
    try:
        addresses = _load(play, live)
        with _Speaker(play, paths, objects, addresses, [row for _, row in rows]) as speaker:
            for _ in range(_ROUNDS):
                time.sleep(_SETTLE_S)  # endpoints and policies take a moment to reach every proxy
                left = [n for n in range(len(rows)) if n not in found or found[n].problem]
                for n, heard in speaker.heard(left).items():
                    found[n] = Spoken(case=rows[n][0], row=rows[n][1], heard=heard)
                if not any(one.problem for one in found.values()):
                    break
    finally:
        _unload(play, live)
    return [found[n] for n in sorted(found)]


def table(spoken: list[Spoken]) -> list[str]:
    """Lines to print: every row, and the sum."""
    lines: list[tuple[str, ...]] = [
        ("CASE", "CLIENT", "SERVER", "PORT", "SUBSET", "TLSCHECK", "ON THE WIRE", "OUTCOME", "")
    ]
    lines += [
        (
            *(one.case, one.row.client_name, one.row.server_name, str(one.row.port)),
            *(one.row.subset or "-", str(one.row.effective)),
            " and ".join(sorted(one.heard.wire)) or "nothing",
            _outcome(one.heard),
            f"❌ {one.problem}" if one.problem else "✅",
        )
        for one in spoken
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    differ = sum(one.problem is not None for one in spoken)
    return [
        *(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ),
        f"spoken {len(spoken)} rows: {len(spoken) - differ} agree, {differ} differ",
    ]


def _outcome(heard: Heard) -> str:
    if not heard.answers:
        return f"refused ({', '.join(sorted(set(heard.errors)))})"
    if heard.certificate:
        return "answered, certificate seen"
    return "answered by TLS of its own" if heard.ended_in_app else "answered"


def _spoken(item: Object) -> Object:
    """The object with what a case may leave open and a wire cannot."""
    found = copy.deepcopy(item)
    spec = found.get("spec", {})
    if found["kind"] == "Service" and spec.get("clusterIP") == "None":
        # its clients dial the pod itself, and there nothing makes one port of another
        for port in spec["ports"]:
            port["targetPort"] = port["port"]
    if found["kind"] == "DestinationRule":
        _trust(spec)
    return found


def _trust(value: Any) -> None:  # noqa: ANN401 (any JSON)
    """Let SIMPLE take any certificate: the applications' are signed by nobody."""
    if isinstance(value, dict):
        if value.get("mode") == "SIMPLE":
            value["insecureSkipVerify"] = True
        for one in value.values():
            _trust(one)
    elif isinstance(value, list):
        for one in value:
            _trust(one)


def _chosen(batch: Batch, objects: list[Object]) -> list[tuple[str, Row]]:
    """The rows that the cases name, under their names on the lab, as `tlscheck` judges them."""
    judged = {
        (row.client_name, row.server_name, row.host, row.port, row.subset): row
        for row in evaluate(objects, MeshConfig.parse(batch.mesh)).rows
    }
    return [
        (part.case["id"], judged[_key(part, row)])
        for part in batch.parts
        for row in _rows(part.case)
    ]


def _key(part: Part, row: dict[str, Any]) -> tuple[str, str, str, int, str | None]:
    names = part.names
    ends = names.pod(row["from"]), names.pod(row["to"])
    return (*ends, names.host(row["host"]), row["port"], row.get("subset"))


def _live(objects: list[Object], rows: list[Row]) -> list[Object]:
    """What is sent to the API server: pods last, so that they start with what is for them."""
    services = [one for one in objects if one["kind"] == "Service"]
    pods = [one for one in objects if one["kind"] == "Pod"]
    places = sorted({one["metadata"]["namespace"] for one in objects} - {ROOT_NAMESPACE})
    subsets: dict[str, list[str]] = {}
    for row in rows:
        if row.subset:
            subsets.setdefault(row.host, []).append(row.subset)
    certificate = _certificate()
    return [
        *(_object("v1", "Namespace", None, name) for name in places),
        *sorted((one for one in objects if one["kind"] in _AGED), key=_age),
        *services,
        *(_route(host, names) for host, names in subsets.items()),
        *(_account(one) for one in pods),
        *(_pod(one, _ports(one, services), certificate) for one in pods),
    ]


def _age(item: Object) -> tuple[str, str]:
    meta = item["metadata"]
    return meta.get("creationTimestamp", ""), meta["name"]


def _object(api: str, kind: str, namespace: str | None, name: str, **fields: Any) -> Object:  # noqa: ANN401
    place = {"namespace": namespace} if namespace else {}
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, **place}, **fields}


def _account(pod: Object) -> Object:
    """An account for each pod: its certificate tells which one it was."""
    meta = pod["metadata"]
    return _object("v1", "ServiceAccount", meta["namespace"], meta["name"])


def _route(host: str, subsets: list[str]) -> Object:
    """Let a request's header choose the subset."""
    http: list[Object] = [
        {
            "match": [{"headers": {_SUBSET: {"exact": name}}}],
            "route": [{"destination": {"host": host, "subset": name}}],
        }
        for name in subsets
    ]
    http.append({"route": [{"destination": {"host": host}}]})
    name, namespace = host.split(".")[:2]
    spec = {"hosts": [host], "http": http}
    return _object("networking.istio.io/v1", "VirtualService", namespace, name, spec=spec)


def _ports(pod: Object, services: list[Object]) -> list[int]:
    """The container ports that Services lead to."""
    return sorted(
        {
            _target(port)
            for one in services
            if one["metadata"]["namespace"] == pod["metadata"]["namespace"]
            and one["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
            for port in one["spec"]["ports"]
        }
    )


def _target(port: dict[str, Any]) -> int:
    return int(port.get("targetPort", port["port"]))


def _pod(pod: Object, ports: list[int], certificate: str) -> Object:
    """A pod of the case as somebody would write it, for the injector to see to."""
    meta = pod["metadata"]
    labels = {k: v for k, v in meta["labels"].items() if k != "security.istio.io/tlsMode"}
    annotations = {k: v for k, v in meta.get("annotations", {}).items() if k != _INJECTED}
    labels["sidecar.istio.io/inject"] = str(has_sidecar(pod)).lower()
    app: Object = {"name": "app", "image": "service-mesh.lab/client"}
    if ports:
        app |= {
            "image": "service-mesh.lab/echo",
            "command": [_PYTHON, "-S", "-m", "lab.apps.either", *map(str, ports)],
            "env": [{"name": "CERTIFICATE", "value": certificate}],
            "ports": [{"containerPort": port} for port in ports],
            "readinessProbe": {"httpGet": {"path": "/", "port": ports[0]}, "periodSeconds": 1},
        }
    sysctl = {"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}
    spec = {
        "serviceAccountName": meta["name"],
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"sysctls": [sysctl]},
        "containers": [app],
    }
    annotations["proxy.istio.io/config"] = _COUNTED
    found = _object("v1", "Pod", meta["namespace"], meta["name"], spec=spec)
    found["metadata"] |= {"labels": labels, "annotations": annotations}
    return found


def _certificate() -> str:
    """A certificate that nobody signed, and its key.

    Raises:
        LabError: there is no openssl, or it failed.
    """
    words = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1")
    try:
        done = subprocess.run(
            [*words, "-subj", "/CN=app", "-keyout", "-"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise LabError(f"openssl, for the applications' own certificate: {error}") from error
    return done.stdout


def _load(play: Playground, live: list[Object]) -> dict[str, str]:
    """Create the objects; returns pod -> address once all are ready."""
    for number, (_, same) in enumerate(groupby(live, key=_stamp)):
        if number:
            time.sleep(1.02 - time.time() % 1)  # ages are whole seconds
        items = [_without_stamp(one) for one in same]
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        play.kubectl("create", "-f", "-", stdin=text)
    wanted = {_name(one) for one in live if one["kind"] == "Pod"}
    deadline = time.monotonic() + _READY_WITHIN_S
    while True:
        pods = json.loads(play.kubectl("get", "pods", "-A", "-o", "json"))["items"]
        ready = {_name(one): one["status"]["podIP"] for one in pods if _ready(one)}
        if wanted <= ready.keys():
            return {name: ready[name] for name in wanted}
        if time.monotonic() > deadline:
            raise LabError(f"pods are not ready: {', '.join(sorted(wanted - ready.keys()))}")
        time.sleep(1)


def _unload(play: Playground, live: list[Object]) -> None:
    shared = [one for one in live if one["metadata"].get("namespace") == ROOT_NAMESPACE]
    if shared:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": shared})
        play.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=text)
    places = [one["metadata"]["name"] for one in live if one["kind"] == "Namespace"]
    play.kubectl("delete", "namespace", "--ignore-not-found", "--wait=false", *places)


def _stamp(item: Object) -> str:
    return str(item["metadata"].get("creationTimestamp", ""))


def _without_stamp(item: Object) -> Object:
    meta = {key: value for key, value in item["metadata"].items() if key != "creationTimestamp"}
    return {**item, "metadata": meta}


def _name(item: Object) -> str:
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"


def _ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


class _Speaker:
    """Sends the requests of rows, and keeps what was on the wires meanwhile."""

    def __init__(
        self,
        play: Playground,
        paths: LabPaths,
        objects: list[Object],
        addresses: dict[str, str],
        rows: list[Row],
    ) -> None:
        self._play = play
        self._addresses = addresses
        self._rows = rows
        self._round = 0
        self._services = {
            f"{meta['name']}.{meta['namespace']}.svc.cluster.local": one["spec"]
            for one in objects
            if one["kind"] == "Service"
            for meta in [one["metadata"]]
        }
        self._pods = [one for one in objects if one["kind"] == "Pod"]
        targets = {"{}:{}".format(*self._endpoint(row)) for row in rows}
        python = ("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "lab.truth.flows")
        self._listener = subprocess.Popen(
            [*enter(paths), *python, *sorted(targets)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()

    def __enter__(self) -> _Speaker:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.communicate()

    def _read(self) -> str:
        assert self._listener.stdout  # noqa: S101 (for the type checker)
        line = self._listener.stdout.readline()
        if not line:
            raise LabError("nobody listens on the lab's node")
        return line

    def heard(self, numbers: list[int]) -> dict[int, Heard]:
        """Speak some of the rows."""
        self._round += 1
        clients: dict[str, list[int]] = {}
        for number in numbers:
            clients.setdefault(self._rows[number].client_name, []).append(number)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            answers = pool.map(self._ask, clients, clients.values())
            asked = {number: found for one in answers for number, found in one.items()}
        assert self._listener.stdin  # noqa: S101 (for the type checker)
        print(file=self._listener.stdin, flush=True)
        flows: list[Object] = json.loads(self._read())
        return {number: self._judge(number, asked[number], flows) for number in numbers}

    def _ask(self, client: str, numbers: list[int]) -> dict[int, list[Answer]]:
        """Send one client's requests; answers by row."""
        asks = [(number, ask) for number in numbers for ask in self._requests(number)]
        namespace, _, pod = client.partition("/")
        words = (_PYTHON, "-S", "-c", _ASK, json.dumps([ask for _, ask in asks]))
        lines = self._play.execute(namespace, pod, *words).splitlines()
        found: dict[int, list[Answer]] = {number: [] for number in numbers}
        for (number, _), line in zip(asks, lines, strict=True):
            found[number].append(Answer.parse(line))
        return found

    def _requests(self, number: int) -> Iterator[tuple[str, dict[str, str]]]:
        row = self._rows[number]
        service = self._services[row.host]
        direct = service.get("clusterIP") == "None"
        # the DNS gives the addresses of a headless service's pods, and the client takes one
        host = self._addresses[row.server_name] if direct else row.host
        namespace = row.host.split(".")[1]
        others = [
            one
            for one in self._pods
            if one["metadata"]["namespace"] == namespace
            and service["selector"].items() <= one["metadata"]["labels"].items()
        ]
        headers = {_SUBSET: row.subset} if row.subset else {}
        for attempt in range(1 if direct or row.subset or len(others) == 1 else _ASKED_AGAIN):
            yield f"http://{host}:{row.port}/{self._said(number)}{attempt}", headers

    def _said(self, number: int) -> str:
        """How the names of a row's requests begin in this round."""
        return f"said-{number}-{self._round}-"

    def _endpoint(self, row: Row) -> tuple[str, int]:
        ports = self._services[row.host]["ports"]
        target = next(_target(one) for one in ports if one["port"] == row.port)
        return self._addresses[row.server_name], target

    def _judge(self, number: int, asked: list[Answer], flows: list[Object]) -> Heard:
        row = self._rows[number]
        pod = row.server_name.partition("/")[2]
        mine = [one for one in asked if _hostname(one) == pod]
        wire = {kind for one in flows if (kind := self._kind(number, one))}
        namespace, _, account = row.client_name.partition("/")
        identity = f"spiffe://cluster.local/ns/{namespace}/sa/{account}"
        certificate = any(one.peer.get("URI") == identity for one in mine)
        if mine and not certificate and wire == {MTLS} and not json.loads(mine[0].body)["tls"]:
            certificate = self._required(row.server_name)
        return Heard(
            wire=frozenset(wire),
            answers=tuple(mine),
            errors=tuple(str(one.error or one.status) for one in asked if not _hostname(one)),
            certificate=certificate,
        )

    def _kind(self, number: int, flow: Object) -> str | None:
        """What a connection carried of a row; None for one that was not for it."""
        row = self._rows[number]
        ends = self._addresses[row.client_name], *self._endpoint(row)
        if (flow["client"], flow["server"], flow["port"]) != ends:
            return None
        if not flow["tls"]:
            said = any(one.startswith(self._said(number)) for one in flow["said"])
            return CLEAR if said else None
        if not any(one.startswith("istio") for one in flow["alpn"]):
            return TLS
        cluster = f"outbound_.{row.port}_.{row.subset or ''}_.{row.host}"
        return MTLS if flow["sni"] == cluster else None

    def _required(self, server: str) -> bool:
        """Whether every client that a pod's proxy spoke TLS with had shown a certificate.

        On a port without HTTP there is no header to tell it.
        """
        namespace, _, pod = server.partition("/")
        words = ("exec", pod, "-c", "istio-proxy", "--", "pilot-agent", "request", "GET")
        text = self._play.kubectl(
            "-n", namespace, *words, "stats?filter=listener.0.0.0.0_15006.ssl"
        )
        counts = dict(line.rsplit(": ", 1) for line in text.splitlines() if ": " in line)
        prefix = "listener.0.0.0.0_15006.ssl."
        handshakes = int(counts.get(f"{prefix}handshake", "0"))
        return handshakes > 0 and counts.get(f"{prefix}no_certificate") == "0"


def _hostname(answer: Answer) -> str | None:
    """The pod whose application answered; None where a proxy did, or nobody."""
    if answer.status != HTTPStatus.OK:
        return None
    return str(json.loads(answer.body)["hostname"])
