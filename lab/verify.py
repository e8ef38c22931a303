"""The proof: for each edge of Bookinfo a request that went through, and a refusal that happened.

On a cluster that is not the lab nothing is installed and nothing is sent: there the proxies at the
two ends of each edge are the witnesses (`tlscheck --proxies`).
"""

from __future__ import annotations

import json
import re
import secrets
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from lab.playground import GET, Answer, Playground, namespace, peer_authentication, workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

EDGES = (
    ("productpage", "details", "/details/0"),
    ("productpage", "reviews", "/reviews/0"),
    ("reviews", "ratings", "/ratings/0"),
)
"""Who calls whom in Bookinfo, and what it asks for."""

_PROBE = "plaintext-probe"
"""The pod without a sidecar, and the beginning of its namespace's name."""

_PORT = 9080

_SETTLED_WITHIN_S = 10
"""For all edges together: a setting that has just been made takes the proxies a moment."""

_AT_ONCE = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """One edge, as it was seen."""

    client: str
    server: str

    answer: Answer
    """What the client got."""

    plaintext: Answer
    """What a pod without a sidecar got from the same server."""

    wanted: bool
    """Whether it has to be mutual TLS."""

    strict: bool
    """Whether plaintext has to be refused."""

    configured: str
    """What tlscheck derives from the cluster's objects: ISTIO_MUTUAL, PLAINTEXT, ..."""

    @property
    def encrypted(self) -> bool:
        """The server saw a certificate of the mesh."""
        return self.answer.peer.get("URI", "").startswith("spiffe://")

    @property
    def refused(self) -> bool:
        """The server itself turned plaintext away; a wrong name or a time-out is no refusal."""
        error = self.plaintext.error or ""
        return error == "reset" or error.startswith("tls")

    @property
    def ok(self) -> bool:
        """As it should be: configured and seen as mutual TLS and, under STRICT, nothing else."""
        return not self.wanted or (
            self.configured == "ISTIO_MUTUAL"
            and self.encrypted
            and (not self.strict or self.refused)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Intent:
    """What the stack says of its application, in the words of its output `mtls`."""

    where: str
    """Namespace of the application."""

    mode: str
    """`STRICT`, or `STRICT, except app=ratings port 9080 DISABLE (reason)`."""

    @classmethod
    def of(cls, outputs: Mapping[str, Any]) -> Intent:
        """Read the stack's outputs."""
        (where,) = [name for name in outputs["mtls"] if name != outputs["controlPlaneNamespace"]]
        return cls(where=where, mode=outputs["mtls"][where])

    def strict(self, server: str) -> bool:
        """Whether the server has to refuse plaintext."""
        return self.mode.startswith("STRICT") and f"app={server} " not in f"{self.mode} "

    def wanted(self, server: str) -> bool:
        """Whether a call to the server has to be mutual TLS."""
        excepted = re.search(rf"\bapp={re.escape(server)}( port \d+)? (\w+)", self.mode)
        return (excepted[2] if excepted else self.mode) != "DISABLE"


def prove(
    play: Playground, outputs: Mapping[str, Any], url: str, rows: list[dict[str, Any]]
) -> list[Proof]:
    """Send the requests.

    Args:
        play: the cluster.
        outputs: the stack's.
        url: Bookinfo's page.
        rows: what tlscheck says of the cluster, as its JSON has it.
    """
    intent = Intent.of(outputs)
    where = intent.where
    # a name of its own: the last run's namespace may still be on its way out
    plainland = f"{_PROBE}-{secrets.token_hex(3)}"
    play.apply(namespace(plainland, injected=False), *workload(_PROBE, plainland))
    deadline = time.monotonic() + _SETTLED_WITHIN_S

    def asked(edge: _Edge) -> Answer:
        wanted = intent.wanted(edge.server)
        return _settled(edge.ask, lambda a: not wanted or "URI" in a.peer, deadline)

    def probed(server: str) -> Answer:
        target = f"http://{server}.{where}:{_PORT}/health"

        def ask() -> Answer:
            return play.get(plainland, f"deployment/{_PROBE}", target)

        strict = intent.strict(server)
        return _settled(ask, lambda a: not strict or a.error is not None, deadline)

    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            edges = list(_edges(play, where, url))
            answers = pool.map(asked, edges)
            play.ready(plainland, _PROBE)
            servers = sorted({edge.server for edge in edges})
            plain = dict(zip(servers, pool.map(probed, servers), strict=True))
    finally:
        play.kubectl("delete", "namespace", plainland, "--wait=false")
    return [
        Proof(
            client=edge.client,
            server=edge.server,
            answer=answer,
            plaintext=plain[edge.server],
            wanted=intent.wanted(edge.server),
            strict=intent.strict(edge.server),
            configured=_configured(rows, edge.pod, f"{edge.server}.{where}."),
        )
        for edge, answer in zip(edges, answers, strict=True)
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Edge:
    """Who calls whom, and how."""

    client: str
    pod: str
    server: str
    ask: Callable[[], Answer]


def _edges(play: Playground, where: str, url: str) -> Iterator[_Edge]:
    gateway = play.pods("istio-system", "istio=ingressgateway")[0]["metadata"]["name"]
    yield _Edge(
        client="ingress gateway",
        pod=f"istio-system/{gateway}",
        server="productpage",
        ask=partial(_from_outside, url),
    )
    for client, server, path in EDGES:
        for pod in play.pods(where, f"app={client}"):
            name, labels = pod["metadata"]["name"], pod["metadata"]["labels"]
            target = f"http://{server}:{_PORT}{path}"
            words = ("-n", where, "exec", name, "-c", client, "--", *GET, target)
            yield _Edge(
                client=f"{client} {labels['version']}",
                pod=f"{where}/{name}",
                server=server,
                ask=partial(_inside, play, words),
            )


def _inside(play: Playground, words: tuple[str, ...]) -> Answer:
    return Answer.parse(play.kubectl(*words))


def _settled(ask: Callable[[], Answer], good: Callable[[Answer], bool], deadline: float) -> Answer:
    """Ask until the answer is good, or the time is over."""
    while not good(answer := ask()) and time.monotonic() < deadline:
        time.sleep(0.3)
    return answer


def _configured(rows: list[dict[str, Any]], pod: str, host: str) -> str:
    """The one answer for all endpoints of a host, or MIXED."""
    found = {
        row["effective"] for row in rows if row["from"] == pod and row["host"].startswith(host)
    }
    return found.pop() if len(found) == 1 else "MIXED" if found else "UNKNOWN"


def _from_outside(url: str) -> Answer:
    """The page as a browser gets it."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 (the lab's own URL)
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Answer(status=response.status, error=None, headers=headers, body="")
    except (urllib.error.URLError, OSError) as error:
        return Answer(status=None, error=str(error), headers={}, body="")


def table(proofs: list[Proof]) -> str:
    """What was seen, a line an edge."""
    lines: list[tuple[str, ...]] = [
        (
            *("CLIENT", "SERVER", "STATUS", "CLIENT'S IDENTITY", "SERVER'S IDENTITY"),
            *("CONFIGURED", "PLAINTEXT", ""),
        )
    ]
    lines += [
        (
            one.client,
            one.server,
            str(one.answer.status or one.answer.error),
            _identity(one.answer.peer.get("URI")),
            _identity(one.answer.peer.get("By")),
            one.configured,
            _plaintext(one),
            _sign(wanted=one.wanted, ok=one.ok),
        )
        for one in proofs
    ]
    return _aligned(lines)


def _aligned(lines: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in lines
    )


def _sign(*, wanted: bool, ok: bool) -> str:
    return ("✅" if ok else "❌") if wanted else "not asked for"


def _plaintext(proof: Proof) -> str:
    """What became of the attempt without a certificate."""
    if proof.plaintext.error is None:
        return "accepted"
    return f"{'refused' if proof.refused else 'not answered'} ({proof.plaintext.error})"


def _identity(uri: str | None) -> str:
    """`ns/bookinfo/sa/x` of `spiffe://cluster.local/ns/bookinfo/sa/x`."""
    return (uri or "none seen").removeprefix("spiffe://cluster.local/")


@dataclass(frozen=True, kw_only=True, slots=True)
class Witnessed:
    """One edge, as the proxies at its ends tell of it."""

    row: dict[str, Any]
    """Of tlscheck's JSON, with `observed`."""

    wanted: bool
    """Whether it has to be mutual TLS."""

    @property
    def ok(self) -> bool:
        """Mutual TLS by the objects, and both proxies say so."""
        mutual = self.row["effective"] in {"ISTIO_MUTUAL", "HBONE"}
        return not self.wanted or (mutual and self.row["observed"]["agrees"] is True)


def witnessed(outputs: Mapping[str, Any], rows: list[dict[str, Any]]) -> list[Witnessed]:
    """The edges of the application: those of its call graph, else every one between two proxies.

    Args:
        outputs: the stack's.
        rows: what `tlscheck --proxies` says, as its JSON has it.
    """
    intent = Intent.of(outputs)
    calls = outputs.get("calls", [])
    found = []
    for row in rows:
        server, _, rest = row["host"].partition(".")
        if not rest.startswith(f"{intent.where}.") or "subset" in row:
            continue
        callers = [call["client"] for call in calls if call["server"] == f"{server}.{intent.where}"]
        if calls:
            meant = any(fnmatchcase(row["from"], caller) for caller in callers)
        else:
            meant = row["observed"].keys() >= {"client", "server"}
        if meant:
            found.append(Witnessed(row=row, wanted=intent.wanted(server)))
    return found


def witness_table(found: list[Witnessed]) -> str:
    """What the proxies say, a line an edge."""
    if not found:
        return "nothing to prove: no call between two proxies"
    heads = ("CLIENT", "SERVER", "CLIENT'S IDENTITY", "SERVER'S IDENTITY", "CONFIGURED")
    lines: list[tuple[str, ...]] = [(*heads, "PROXIES", "")]
    for one in found:
        row, seen = one.row, one.row["observed"]
        client, server = (seen.get(side, {}).get("identity") for side in ("client", "server"))
        says = {True: "agree", False: "disagree", None: "not read"}[seen["agrees"]]
        names = (row["from"], row["to"], _identity(client), _identity(server))
        lines.append((*names, row["effective"], says, _sign(wanted=one.wanted, ok=one.ok)))
    return _aligned(lines)


def sniff(play: Playground) -> Iterator[str]:
    """Listen to a pod of its own before and after STRICT, and say what was on the wire."""
    where, secret = "wire", "an-easily-recognised-secret"
    objects = [*workload("server", where, image="echo"), *workload("client", where)]
    play.apply(namespace(where, injected=True))
    play.apply(*objects, peer_authentication(where, "DISABLE"))
    try:
        play.ready(where, "server", "client")
        (server,) = play.pods(where, "app=server")
        url = f"http://server.{where}:8000/{secret}"
        for mode in ("DISABLE", "STRICT"):
            play.apply(peer_authentication(where, mode))
            _until(play, where, url, encrypted=mode == "STRICT")
            # the pods' own port: the sidecar's talk with istiod is TLS in any mode
            words = (server["status"]["podIP"], "2", secret, "--port", "8080")
            listener = play.on_node(sys.executable, "-m", "lab.wire", *words)
            assert listener.stdout is not None  # noqa: S101 (for the type checker)
            listener.stdout.readline()
            play.get(where, "deployment/client", url)
            seen = json.loads(listener.communicate()[0])
            yield (
                f"{mode:<8} {seen['tls']:>3} TLS records, "
                f"the request's secret in clear {seen['clear']} times"
            )
    finally:
        play.delete_namespaces([where])


def _until(play: Playground, where: str, url: str, *, encrypted: bool) -> None:
    """Wait until the proxies have the new mode."""
    for _ in range(50):
        answer = play.get(where, "deployment/client", url)
        if answer.status == HTTPStatus.OK and bool(answer.peer) == encrypted:
            return
