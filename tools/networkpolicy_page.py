"""docs/networkpolicy-vs-mesh.md, made from the policies of Bookinfo's call graph.

`python -m tools.networkpolicy_page` prints it; with `--write` it goes where it belongs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import yaml

from components import bookinfo
from components.access_policy import ALLOW_NOTHING, access_specs
from components.call_graph import INGRESS, Call, CallGraph, Gateway, mermaid
from components.kinds import ROOT_NAMESPACE
from components.network_policy import (
    ALLOW_MESH,
    DEFAULT_DENY,
    NetworkPoliciesArgs,
    network_policy_specs,
)

PAGE = Path(__file__).parents[1] / "docs" / "networkpolicy-vs-mesh.md"

GRAPH: Final = bookinfo.call_graph(
    "bookinfo",
    Gateway(
        namespace=ROOT_NAMESPACE,
        account="istio-ingressgateway",
        labels={"istio": "ingressgateway"},
    ),
)
"""With the names that the program's defaults give."""

SHOWN: Final = ("productpage", "reviews")
"""The edge whose objects are shown whole."""

_POLICIES = NetworkPoliciesArgs(graph=GRAPH, prometheus_namespace=ROOT_NAMESPACE)

_SUBJECTS = (
    (
        "who may connect, by the pod's labels and its namespace's",
        "yes",
        "no: labels prove nothing",
        "",
    ),
    (
        "who calls, by an identity that a certificate proves",
        "no: whoever may set a pod's labels has its rights",
        "yes",
        "AuthorizationPolicy, PeerAuthentication",
    ),
    ("which port", "yes", "yes", "AuthorizationPolicy"),
    ("which method and path", "no", "yes, of HTTP and gRPC", "AuthorizationPolicy"),
    (
        "that nobody on the way reads or changes it",
        "no",
        "yes",
        "`mtlsMode`: PeerAuthentication, DestinationRule",
    ),
    ("that a failed request is sent again", "no", "yes", "`resilience`: VirtualService"),
    ("that a request fails on purpose", "no", "yes", "`faults`: VirtualService"),
    (
        "that somebody can see who called, how often, with what result",
        "no",
        "yes",
        "`observability`: metrics, traces, access logs",
    ),
    ("a rehearsal that refuses nothing and counts", "no", "yes", "`authorizationPolicy: dry-run`"),
    (
        "pods without a proxy, and protocols other than TCP",
        "yes",
        "no: the proxy is what enforces",
        "",
    ),
    (
        "what leaves a pod, against the will of a program in it",
        "yes",
        "no: the sidecar and the program share a network",
        "",
    ),
    (
        "an answer that says what happened",
        "no: most plugins drop the packets, and the client waits for its time-out",
        "yes: 403, `RBAC: access denied`",
        "",
    ),
)
"""What a rule may be about: NetworkPolicy, mesh, and where the mesh's part is switched on."""

_NEITHER = (
    "what a request means: whether this user may read that review is the application's business",
    "what is inside of an allowed request: neither reads bodies",
    "an allowed client that has been taken over: it keeps all of its edges, and only those",
    "how much: a quota or a price per client needs a rate limiter",
    "a call inside of one pod, which never leaves it",
)


def page() -> str:
    """The page as it must be."""
    return "\n".join(
        [
            "<!-- made by `python -m tools.networkpolicy_page --write`: change that, not this -->",
            "",
            "# NetworkPolicy and the mesh, on the same call graph",
            "",
            "Bookinfo declares who calls whom (`CALLS` in `components/bookinfo.py`). Two settings"
            " make two\nkinds of objects of it: `networkPolicy: true` NetworkPolicies, which the"
            " nodes enforce, and\n`authorizationPolicy: enforce` AuthorizationPolicies, which the"
            " servers' proxies enforce. Every\nobject on this page is what the program makes.",
            "",
            "## The graph, and how each call is protected",
            "",
            "```mermaid",
            mermaid(GRAPH, {(call.client, call.server): _protection(call) for call in GRAPH.calls}),
            "```",
            "",
            f"Nothing else is allowed. Under `enforce`, `{ALLOW_NOTHING}` refuses it with 403, and"
            " under\n`dry-run` it is counted; where NetworkPolicies are enforced,"
            f" `{DEFAULT_DENY}` drops its packets.",
            "",
            "## Edge by edge",
            "",
            *_edges(),
            "",
            "Both say who may call whom. The last column is an example of what only the mesh"
            " refuses: it reads\nthe request. On every edge it also refuses plain text, and a pod"
            " with the right labels but another\naccount; and it encrypts, counts, and can send"
            " again or fail on purpose.",
            "",
            "## One edge, both ways",
            "",
            *_one_edge(*SHOWN),
            "",
            "## What can be said at all",
            "",
            "| A rule about | NetworkPolicy | The mesh | Where it is switched on |",
            "|---|---|---|---|",
            *(f"| {' | '.join(row)} |" for row in _SUBJECTS),
            "",
            "Neither does:",
            "",
            *(f"- {one};" for one in _NEITHER[:-1]),
            f"- {_NEITHER[-1]}.",
            "",
            "So both: the NetworkPolicy holds where there is no proxy, or where somebody has got"
            " around it; the\nmesh says the rest.",
            "",
            "## What the mesh itself needs",
            "",
            "A default deny also cuts off the proxies. What they need is in one policy for all"
            " pods:",
            "",
            _yaml("networking.k8s.io/v1", "NetworkPolicy", ALLOW_MESH, _specs()[ALLOW_MESH]),
            "",
            *_ports(),
            "",
            "Shown is a stack with Prometheus. Jaeger's collector (4317) and, for `egressHosts`,"
            " the egress\ngateway (8080, 8443) are added where they are used.",
            "",
            "There is no rule for the kubelet's probes (15020, 15021): a pod's own node always"
            " reaches it. In\nambient mode it is other ports: 15008 beside that of every call,"
            " the probes' address\n169.254.7.127, and no istiod, which only ztunnel asks.",
            "",
            "NetworkPolicies need a network plugin that enforces them. The embedded lab has none:"
            " there they are\naccepted, kept and without effect. What the AuthorizationPolicies"
            " do is seen on it by\n`tests/e2e/test_access.py`, with real proxies.",
            "",
        ]
    )


def _specs() -> Mapping[str, Mapping[str, object]]:
    return network_policy_specs(_POLICIES)


def _name(service: str) -> str:
    return "ingress gateway" if service == INGRESS else service


def _requests(call: Call) -> list[str]:
    """What is allowed, a line an operation: `GET /productpage, /static/*`."""
    return [
        f"{' '.join(one.methods) or 'any method'} {', '.join(one.paths) or 'any path'}"
        for one in call.operations
    ] or ["any request"]


def _protection(call: Call) -> str:
    lines = [
        line
        for one in call.operations
        for line in (
            f"{' '.join(one.methods) or 'any method'} {path}" for path in one.paths or ("any path",)
        )
    ]
    return "\n".join(["mutual TLS", *(lines or ["any request"])])


def _selector(graph: CallGraph, client: str) -> str:
    if client != INGRESS or graph.gateway is None:
        return f"`app={client}`"
    labels = ", ".join(f"{key}={value}" for key, value in graph.gateway.labels.items())
    return f"`{labels}` in `{graph.gateway.namespace}`"


def _edges() -> Iterable[str]:
    yield (
        "| Call | NetworkPolicy: from pods | to port | AuthorizationPolicy: identity | requests |"
        " Refused by the mesh alone |"
    )
    yield "|---|---|---|---|---|---|"
    for call in GRAPH.calls:
        port = GRAPH.service(call.server).port
        cells = (
            f"{_name(call.client)} → {call.server}",
            _selector(GRAPH, call.client),
            f"TCP {port}",
            f"`{GRAPH.principal(call.client)}`",
            "<br/>".join(f"`{line}`" for line in _requests(call)),
            f"`{_unwanted(call)}`",
        )
        yield f"| {' | '.join(cells)} |"


def _unwanted(call: Call) -> str:
    """A request that the call's operations leave out."""
    one = call.operations[0]
    method = next(m for m in ("DELETE", "GET") if m not in one.methods)
    return f"{method} {one.paths[0].replace('*', '0')}"


def _one_edge(client: str, server: str) -> Iterable[str]:
    networks, accesses = _specs(), access_specs(GRAPH)
    yield f"`{client}` → `{server}`, as the server's side sees it:"
    yield ""
    yield "<table><tr><th>The node</th><th>The server's proxy</th></tr><tr><td>"
    yield ""
    yield _yaml("networking.k8s.io/v1", "NetworkPolicy", server, _only(networks[server], "Ingress"))
    yield ""
    yield "</td><td>"
    yield ""
    yield _yaml("security.istio.io/v1", "AuthorizationPolicy", server, accesses[server])
    yield ""
    yield "</td></tr></table>"
    yield ""
    yield (
        "A NetworkPolicy has a second end: the client must be let out. (An AuthorizationPolicy has"
        " none: the\nclient's own proxy could not be trusted to obey it.)"
    )
    yield ""
    yield _yaml("networking.k8s.io/v1", "NetworkPolicy", client, _only(networks[client], "Egress"))
    yield ""
    yield (
        "The NetworkPolicies are shown without their other direction, which is of other edges."
        " Each kind has\na policy that closes what is not opened:"
    )
    yield ""
    yield _yaml("networking.k8s.io/v1", "NetworkPolicy", DEFAULT_DENY, networks[DEFAULT_DENY])
    yield ""
    yield _yaml("security.istio.io/v1", "AuthorizationPolicy", ALLOW_NOTHING, {})


def _only(spec: Mapping[str, object], direction: str) -> Mapping[str, object]:
    key = direction.lower()
    return {"podSelector": spec["podSelector"], "policyTypes": [direction], key: spec[key]}


def _ports() -> Iterable[str]:
    yield "| Port | Direction | What for |"
    yield "|---|---|---|"
    yield "| 53 | out | names; kube-system's DNS |"
    yield "| 15012 | out | istiod: configuration and certificates, without which both grow old |"
    yield "| 15020 | in | Prometheus: the agent's metrics, with Envoy's and the application's |"
    yield "| 15090 | in | Prometheus: Envoy's own, of pods that ask not to be scraped |"


class _Dumper(yaml.SafeDumper):
    """Writes what stands there twice twice: an anchor explains nothing to a reader."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 the base class' signature
        return True


def _yaml(api_version: str, kind: str, name: str, spec: Mapping[str, object]) -> str:
    manifest = {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": GRAPH.namespace},
        "spec": spec,
    }
    text = yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, default_flow_style=False)
    return f"```yaml\n{text}```"


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")
