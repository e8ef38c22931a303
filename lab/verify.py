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

    @property
    def encrypted(self) -> bool:
        """The server saw a certificate of the mesh."""
        return self.answer.peer.get("URI", "").startswith("spiffe://")

    @property
    def ok(self) -> bool:
        """As it should be: mutual TLS and, under STRICT, nothing else."""
        return self.encrypted and (not self.strict or self.plaintext.error is not None)


def prove(play: Playground, outputs: Mapping[str, Any], url: str) -> Iterator[Proof]:
    """Send the requests; `outputs` are the stack's, `url` is Bookinfo's page."""
    (where,) = [name for name in outputs["mtls"] if name != outputs["controlPlaneNamespace"]]
    strict = outputs["mtls"][where].startswith("STRICT")
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

    def proof(client: str, server: str, answer: Answer) -> Proof:
        return Proof(
            client=client, server=server, answer=answer, plaintext=plain[server], strict=strict
        )

    yield proof("ingress gateway", "productpage", _from_outside(url))
    for client, server, path in EDGES:
        for pod in play.pods(where, f"app={client}"):
            name, labels = pod["metadata"]["name"], pod["metadata"]["labels"]
            target = f"http://{server}:{_PORT}{path}"
            text = play.kubectl("-n", where, "exec", name, "-c", client, "--", *GET, target)
            yield proof(f"{client} {labels['version']}", server, Answer.parse(text))


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
    rows = [
        ("CLIENT", "SERVER", "STATUS", "CLIENT'S IDENTITY", "SERVER'S IDENTITY", "PLAINTEXT", "")
    ]
    rows += [
        (
            one.client,
            one.server,
            str(one.answer.status or one.answer.error),
            _identity(one.answer.peer.get("URI")),
            _identity(one.answer.peer.get("By")),
            f"refused ({one.plaintext.error})" if one.plaintext.error else "accepted",
            "✅" if one.ok else "❌",
        )
        for one in proofs
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


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
