"""The proof: for each edge of Bookinfo a request that went through, and a refusal that happened."""

from __future__ import annotations

import json
import secrets
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from lab.playground import GET, Answer, Playground, namespace, peer_authentication, workload

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

EDGES = (
    ("productpage", "details", "/details/0"),
    ("productpage", "reviews", "/reviews/0"),
    ("reviews", "ratings", "/ratings/0"),
)
"""Who calls whom in Bookinfo, and what it asks for."""

_PROBE = "plaintext-probe"
"""The pod without a sidecar, and the beginning of its namespace's name."""

_PORT = 9080


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """One edge, as it was seen."""

    client: str
    server: str

    answer: Answer
    """What the client got."""

    plaintext: Answer
    """What a pod without a sidecar got from the same server."""

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
        return (
            self.configured == "ISTIO_MUTUAL"
            and self.encrypted
            and (not self.strict or self.refused)
        )


def prove(
    play: Playground, outputs: Mapping[str, Any], url: str, rows: list[dict[str, Any]]
) -> Iterator[Proof]:
    """Send the requests.

    Args:
        play: the cluster.
        outputs: the stack's.
        url: Bookinfo's page.
        rows: what tlscheck says of the cluster, as its JSON has it.
    """
    (where,) = [name for name in outputs["mtls"] if name != outputs["controlPlaneNamespace"]]
    mode: str = outputs["mtls"][where]
    # a name of its own: the last run's namespace may still be on its way out
    plainland = f"{_PROBE}-{secrets.token_hex(3)}"
    play.apply(namespace(plainland, injected=False), *workload(_PROBE, plainland))
    try:
        play.ready(plainland, _PROBE)
        plain = {
            server: play.get(
                plainland, f"deployment/{_PROBE}", f"http://{server}.{where}:{_PORT}/health"
            )
            for server in ("productpage", "details", "reviews", "ratings")
        }
    finally:
        play.kubectl("delete", "namespace", plainland, "--wait=false")

    def proof(client: str, pod: str, server: str, answer: Answer) -> Proof:
        return Proof(
            client=client,
            server=server,
            answer=answer,
            plaintext=plain[server],
            # an exception is in the words of the stack's output: "STRICT, except app=ratings ..."
            strict=mode.startswith("STRICT") and f"app={server} " not in f"{mode} ",
            configured=_configured(rows, pod, f"{server}.{where}."),
        )

    gateway = play.pods("istio-system", "istio=ingressgateway")[0]["metadata"]["name"]
    yield proof("ingress gateway", f"istio-system/{gateway}", "productpage", _from_outside(url))
    for client, server, path in EDGES:
        for pod in play.pods(where, f"app={client}"):
            name, labels = pod["metadata"]["name"], pod["metadata"]["labels"]
            target = f"http://{server}:{_PORT}{path}"
            text = play.kubectl("-n", where, "exec", name, "-c", client, "--", *GET, target)
            shown = f"{client} {labels['version']}"
            yield proof(shown, f"{where}/{name}", server, Answer.parse(text))


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
            "✅" if one.ok else "❌",
        )
        for one in proofs
    ]
    widths = [max(len(row[i]) for row in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in lines
    )


def _plaintext(proof: Proof) -> str:
    """What became of the attempt without a certificate."""
    if proof.plaintext.error is None:
        return "accepted"
    return f"{'refused' if proof.refused else 'not answered'} ({proof.plaintext.error})"


def _identity(uri: str | None) -> str:
    """`ns/bookinfo/sa/x` of `spiffe://cluster.local/ns/bookinfo/sa/x`."""
    return (uri or "none seen").removeprefix("spiffe://cluster.local/")


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
            listener = play.on_node(
                *(sys.executable, "-m", "lab.wire", server["status"]["podIP"], "2", secret)
            )
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
