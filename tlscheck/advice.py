"""What to change so that a connection becomes mutual TLS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tlscheck.documents import items, mapping
from tlscheck.rows import Client, Effective, Row, Server
from tlscheck.why import REASONS

INJECT = "sidecar.istio.io/inject"
MADE_BY = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob")
EXCLUDED = "traffic.sidecar.istio.io/excludeInboundPorts"


class Facts:
    """The objects that an advice is made from."""

    def __init__(self, objects: Iterable[Mapping[str, Any]]) -> None:
        self.namespaces: dict[str, dict[str, Any]] = {}
        """Labels of each."""
        self.workloads: dict[str, Mapping[str, Any]] = {}
        """Pods, and what makes pods, by `namespace/name`."""
        self.owners: dict[str, str] = {}
        """The Deployment or the like of each pod."""
        self.tls_rules: set[str] = set()
        """DestinationRules that say something about tls."""
        for item in objects:
            kind, meta = item.get("kind"), mapping(item.get("metadata"))
            name, labels = str(meta.get("name")), mapping(meta.get("labels"))
            if kind == "DestinationRule" and "'tls'" in str(item.get("spec")):
                self.tls_rules.add(f"{meta.get('namespace') or 'default'}/{name}")
            if kind == "Namespace":
                self.namespaces[name] = labels
            if kind != "Pod" and kind not in MADE_BY:
                continue
            key = f"{meta.get('namespace') or 'default'}/{name}"
            if kind == "Pod" or key not in self.workloads:
                self.workloads[key] = item
            owner = next(iter(items(meta.get("ownerReferences"))), None)
            if kind == "Pod" and mapping(owner).get("name"):
                suffix = f"-{labels.get('pod-template-hash')}"
                self.owners[key] = str(mapping(owner)["name"]).removesuffix(suffix)

    def workload(self, name: str) -> str:
        """The Deployment or the like of a pod, `namespace/name`; a pod alone is its own."""
        owner = self.owners.get(name)
        return f"{name.partition('/')[0]}/{owner}" if owner else name

    def client_rule(self, row: Row) -> str:
        """The rule on the client's side, and whether it has a say."""
        if row.client is Client.NO_PROXY:
            return "no proxy sees the call"
        if not row.client_rule:
            return "no DestinationRule"
        mute = "" if row.client_rule in self.tls_rules else ", which says nothing of tls"
        return f"DestinationRule {row.client_rule}{mute}"

    def server_rule(self, row: Row) -> str:
        """The policy on the server's side."""
        if row.server is Server.NO_PROXY:
            return "no proxy stands before the port"
        return f"PeerAuthentication {row.server_rule}" if row.server_rule else "the default"

    def inject(self, name: str) -> str:
        """How the workload gets a proxy."""
        namespace, _, pod = name.partition("/")
        item = mapping(self.workloads.get(name))
        spec, meta = mapping(item.get("spec")), mapping(item.get("metadata"))
        if item.get("kind") != "Pod":
            made = mapping(mapping(mapping(spec.get("jobTemplate")).get("spec")) or spec)
            spec, meta = (
                mapping(mapping(made.get("template")).get(k)) for k in ("spec", "metadata")
            )
        if str(spec.get("hostNetwork")).lower() == "true":
            return f"take hostNetwork off {name}: such pods never get a proxy"
        for part in ("labels", "annotations"):
            if str(mapping(meta.get(part)).get(INJECT)).lower() == "false":
                return (
                    f"take {part[:-1]} {INJECT}=false off the pod template of {name}, and restart"
                )
        labels = self.namespaces.get(namespace, {})
        restart = f"kubectl -n {namespace} rollout restart {self._restartable(name) or pod}"
        if labels.get("istio.io/dataplane-mode") == "ambient":
            return f"let {name} into the ambient mesh (it opted out of its namespace's)"
        if labels.get("istio-injection") == "enabled" or labels.get("istio.io/rev"):
            return f"{restart} (the namespace is labelled, the pod has no proxy yet)"
        return f"kubectl label namespace {namespace} istio-injection=enabled && {restart}"

    def uncover(self, row: Row) -> str:
        """How the server's port gets a proxy in front of it."""
        item = self.workloads.get(row.server_name)
        if item is None and row.server_name.startswith("host:") and "svc" in row.host:
            return REMEDIES["NO_ENDPOINTS"].format(row=row)
        if item is None:
            return (
                f"{row.host} has no proxy of this mesh: tls.mode SIMPLE in a DestinationRule "
                "encrypts to it, ISTIO_MUTUAL needs a workload with a proxy"
            )
        meta, spec = mapping(item.get("metadata")), mapping(item.get("spec"))
        if "sidecar.istio.io/status" in mapping(meta.get("annotations")):
            if "security.istio.io/tlsMode" in mapping(meta.get("labels")):
                return f"take this port out of {EXCLUDED} of {row.server_name}"
            return f"{row.server_name} is no sidecar: its Gateway's servers[].tls.mode decides"
        agents = [
            c for c in items(spec.get("containers")) if mapping(c).get("name") == "istio-proxy"
        ]
        if agents:
            return f"{row.server_name} is a gateway: its Gateway's servers[].tls.mode decides"
        return self.inject(row.server_name)

    def _restartable(self, name: str) -> str:
        kind = str(mapping(self.workloads.get(name)).get("kind")).lower()
        if kind in ("deployment", "statefulset", "daemonset"):
            return f"{kind}/{name.rpartition('/')[2]}"
        owner = self.owners.get(name)
        return f"deployment/{owner}" if owner else "deployment"


def advise(row: Row, facts: Facts) -> list[str]:
    """Steps that make the connection mutual TLS; for one that is, what would hold it to that."""
    to_strict = (
        f"PeerAuthentication {row.server_rule} to STRICT: "
        f"{_kubectl('edit peerauthentication', row.server_rule)}"
        if row.server_rule
        else f"mtls.mode STRICT in a PeerAuthentication of {row.server_name.partition('/')[0]}"
    )
    if row.effective in (Effective.ISTIO_MUTUAL, Effective.HBONE):
        return [] if row.server is Server.STRICT else [f"none; to refuse plaintext set {to_strict}"]
    if row.client is Client.BLOCKED:
        return [f"let {row.client_name} see {row.host}: egress.hosts of its Sidecar, or exportTo"]
    causes = (code for code in REMEDIES if row.reason == code or REASONS.get(code, code) in row.why)
    remedy = REMEDIES.get(next(causes, ""), "").format(row=row)
    steps = [remedy or facts.inject(row.client_name)] if row.client is Client.NO_PROXY else []
    if row.server is Server.NO_PROXY:
        steps.append(facts.uncover(row))
    elif row.server is Server.DISABLE:
        steps.append(f"set {to_strict} (portLevelMtls too)")
    speaks = row.client_rule if row.client_rule in facts.tls_rules else None
    if speaks and row.client in (Client.PLAINTEXT, Client.SIMPLE, Client.MUTUAL):
        delete = _kubectl("delete destinationrule", speaks)
        steps.append(f"{delete}, or set its tls.mode (this port, this subset) to ISTIO_MUTUAL")
    elif speaks and row.client is Client.ISTIO_MUTUAL and row.server is Server.NO_PROXY:
        edit = _kubectl("edit destinationrule", speaks)
        steps.append(f"or, for plaintext that works, take tls out of it: {edit}")
    return steps or [remedy or MAKE_EXPLICIT.format(row=row)]


def _kubectl(verb: str, rule: str | None) -> str:
    namespace, _, name = str(rule).partition("/")
    return f"kubectl -n {namespace} {verb} {name}"


MAKE_EXPLICIT = "ask for it: a DestinationRule for {row.host} with tls.mode ISTIO_MUTUAL"
TUNNEL = "enrol {row.server_name}: label its namespace istio.io/dataplane-mode=ambient, and restart"
REMEDIES = {
    "AUTO_MTLS_OFF": f"set enableAutoMtls: true in the mesh's configuration, or {MAKE_EXPLICIT}",
    "EXCLUDED_OUTBOUND": "take this call out of the traffic.sidecar.istio.io annotations of "
    "{row.client_name}",
    "MESH_EXTERNAL": "set location: MESH_INTERNAL in its ServiceEntry if its endpoints have "
    f"sidecars, or {MAKE_EXPLICIT}",
    "NO_ENDPOINTS": "let the selector of {row.host} find pods: it finds none",
    "NOT_VISIBLE": "let {row.client_name} see {row.host}: egress.hosts of its Sidecar, or exportTo",
    "PASSTHROUGH_MIXED": "give every endpoint of {row.host} a sidecar: one without makes a "
    "headless service plaintext for all",
    "PROXYLESS": f"proxyless gRPC has no automatic mTLS; {MAKE_EXPLICIT}",
    "WAYPOINT_RAW": TUNNEL,
    "ZTUNNEL_RAW": TUNNEL,
}
"""By reason code, where neither a rule nor a missing proxy is to blame."""
