"""Configurations that do not mean what they seem to (section 12)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tlscheck.model import (
    MODE,
    TLS_MODE,
    DestinationRule,
    Policy,
    Proxy,
    Tls,
    Workload,
    host_matches,
)
from tlscheck.rows import Server, Warning
from tlscheck.world import World

Found = Iterator[tuple[str, str, str]]
"""Code, subject, text."""


def find_warnings(world: World) -> list[Warning]:
    """Return every warning once, in a fixed order."""
    found = {
        item
        for look in (_server_policies, _port_keys, _rules, _merges, _endpoints, _workloads, _mesh)
        for item in look(world)
    }
    every = [*world.problems, *(Warning(code=c, subject=s, text=t) for c, s, t in found)]
    return sorted(every, key=lambda warning: (warning.code, warning.subject, warning.text))


def _server_policies(world: World) -> Found:
    policies, root = world.policies, world.mesh.root_namespace
    for policy in policies.useless:
        yield (
            "PA_SELECTOR_IN_ROOT",
            policy.meta.subject,
            "a policy with a selector in the root namespace is ignored for every pod; move it to "
            "the pods' namespace",
        )
    for namespace, wide in policies.wide.items():
        for policy in wide:
            if policy.ports:
                yield (
                    "PA_PORTS_WITHOUT_SELECTOR",
                    policy.meta.subject,
                    "portLevelMtls counts only in a policy with a selector outside the root "
                    "namespace; it is ignored here",
                )
        for policy in wide[1:]:
            yield (
                "PA_SHADOWED",
                policy.meta.subject,
                f"dropped as a whole: {wide[0].meta.key} of the same scope is older; keep one "
                f"policy for {'the mesh' if namespace == root else 'the namespace'}",
            )
    used = {policies.chosen(workload) for workload in (*world.workloads, *world.machines)}
    for narrow in policies.narrow.values():
        for policy in narrow:
            selected = world.selecting(policy.meta.namespace, policy.selector or {})
            if selected and policy not in used:
                older = policies.chosen(selected[0])
                yield (
                    "PA_SHADOWED",
                    policy.meta.subject,
                    f"dropped as a whole: {older.meta.key if older else 'another policy'} selects "
                    "the same pods and is older",
                )
            above = policies.namespace_mode(policy.meta.namespace)
            if above[0] is Server.DISABLE and "STRICT" in (policy.mode, *policy.ports.values()):
                yield (
                    "DISABLE_OVER_STRICT",
                    policy.meta.subject,
                    f"{above[1]} is DISABLE, so clients send plaintext by default and STRICT here "
                    "refuses it; set ISTIO_MUTUAL in a DestinationRule or lift DISABLE",
                )


def _port_keys(world: World) -> Found:
    numbers: dict[Workload, set[int]] = defaultdict(set)
    targets: dict[Workload, set[int]] = defaultdict(set)
    for service in world.every_service():
        for port in service.ports:
            for endpoint in world.endpoints(service, port):
                numbers[endpoint.workload].add(port.number)
                targets[endpoint.workload].add(endpoint.port)
    for workload, of_services in numbers.items():
        policy = world.policies.chosen(workload)
        for key in policy.ports if policy else ():
            if policy and key in of_services - targets[workload]:
                yield (
                    "PA_PORT_IS_SERVICE_PORT",
                    policy.meta.subject,
                    f"portLevelMtls counts container ports; {key} is a service's port and no "
                    f"container port of {workload.name}",
                )


def _all_tls(rule: DestinationRule) -> Iterator[Tls]:
    policies: list[Policy | None] = [rule.policy, *(subset.policy for subset in rule.subsets)]
    for policy in policies:
        for part in (policy, *policy.ports.values()) if policy else ():
            if part.tls:
                yield part.tls


def _rules(world: World) -> Found:
    domain, root = world.mesh.domain, world.mesh.root_namespace
    proxied = {w.namespace for w in world.workloads if w.proxy not in (Proxy.NONE, Proxy.AMBIENT)}
    for rule in world.destination_rules:
        host, own, subject = rule.host, rule.meta.namespace, rule.meta.subject
        longer = f"{host}.{domain}" if host.endswith(".svc") else f"{host}.svc.{domain}"
        exact = host in world.by_host
        if "." in rule.written_host and not exact and longer in world.by_host:
            yield (
                "DR_DOTTED_HOST",
                subject,
                f"a host with a dot is taken literally: {host} matches nothing; write {longer}",
            )
        homes = {s.namespace for s in world.by_host.get(host, ())}
        if host.startswith("*"):
            homes = {s.namespace for s in world.every_service() if host_matches(s.host, host)}
        private = rule.export_to in ({"."}, {own})
        private = private or (not rule.export_to and "." in world.mesh.destination_rule_export_to)
        near = not rule.export_to or bool(rule.export_to & {"*", ".", own})
        reached = (own in proxied and near and (own != root or private)) or (
            not private and (own == root or own in homes)
        )
        if homes and not reached:
            yield (
                "DR_REACHES_NO_CLIENT",
                subject,
                "a client looks in its own namespace, the service's and the root namespace only; "
                "no client gets this rule",
            )
        for tls in _all_tls(rule):
            if tls.mode not in ("SIMPLE", "MUTUAL"):
                continue
            yield (
                "UNKNOWABLE_APP_TLS",
                subject,
                f"{tls.mode}: whether the application at the other end serves TLS, and whether it "
                "trusts the certificates, is not in the objects",
            )
            if tls.credential and not tls.credential.startswith("configmap://"):
                if rule.selector is None:
                    yield (
                        "CREDENTIAL_WITHOUT_SELECTOR",
                        subject,
                        "sidecars skip tls with credentialName in a rule without workloadSelector "
                        "and send plaintext",
                    )
            elif tls.mode == "MUTUAL" and not tls.has_files:
                yield (
                    "MUTUAL_WITHOUT_CERTIFICATE",
                    subject,
                    "MUTUAL needs clientCertificate and privateKey, or credentialName; without "
                    "them plaintext is sent",
                )


def _merges(world: World) -> Found:
    for hosts in (*world.rules.local.values(), *world.rules.exported.values()):
        for entries in (*hosts.exact.values(), *hosts.wild.values()):
            for entry in entries:
                for member in entry.members:
                    if member.policy and member.meta.key != entry.owner and any(_all_tls(member)):
                        yield (
                            "DR_TLS_LOST",
                            member.meta.subject,
                            f"merged with {entry.owner}, whose trafficPolicy is kept whole: "
                            "the tls here is dropped",
                        )


def _endpoints(world: World) -> Found:
    for service in world.every_service():
        for port in service.ports:
            every = world.endpoints(service, port)
            tags = {endpoint.workload.tag for endpoint in every}
            if service.passthrough and not service.external and {"istio", "disabled"} <= tags:
                yield (
                    "HEADLESS_MIXED",
                    service.meta.subject,
                    "one endpoint without a sidecar makes clients send plaintext to all of them",
                )
            for endpoint in every:
                kept = world.policies.server(endpoint.workload, endpoint.port)[2]
                if kept and endpoint.workload.tag == "istio":
                    yield (
                        "EXCLUDED_PORT_AUTO_MTLS",
                        endpoint.workload.meta.subject,
                        f"port {endpoint.port} is kept from the sidecar but automatic mTLS does "
                        "not know: set tls DISABLE for it in a DestinationRule, or DISABLE in a "
                        "PeerAuthentication's portLevelMtls",
                    )
        if service.waypoint:
            yield (
                "UNKNOWABLE_WAYPOINT",
                service.meta.subject,
                "ambient clients go through a waypoint; what it does with the call is not judged",
            )


def _workloads(world: World) -> Found:
    for workload in world.workloads:
        subject, own = workload.meta.subject, world.namespaces.get(workload.namespace, {})
        notes = workload.annotations
        if workload.proxy is Proxy.NONE and workload.tag == "istio":
            yield (
                "TLS_MODE_LABEL_WITHOUT_PROXY",
                subject,
                f"label {TLS_MODE} makes clients send mTLS, and no proxy ends it; remove it",
            )
        if workload.proxy is Proxy.SIDECAR and workload.tag != "istio":
            yield (
                "PROXY_WITHOUT_TLS_MODE_LABEL",
                subject,
                f"without the label {TLS_MODE}: istio clients send plaintext to this sidecar",
            )
        wanted = own.get("istio-injection") == "enabled" or own.get(MODE) == "ambient"
        if workload.proxy is Proxy.NONE and wanted and not workload.template:
            yield (
                "POD_OUTSIDE_MESH",
                subject,
                "its namespace is enrolled but the pod has neither sidecar nor ztunnel; opted out, "
                "or made before the namespace was labelled",
            )
        if workload.proxy is Proxy.AMBIENT:
            yield from _ambient(world, workload)
        strict = world.policies.composed(workload).mode is Server.STRICT
        if notes.get("sidecar.istio.io/rewriteAppHTTPProbers") == "false" and strict:
            yield (
                "PROBES_REFUSED",
                subject,
                "probes are not rewritten and come as plaintext, which STRICT refuses",
            )
        if notes.get("sidecar.istio.io/interceptionMode") == "NONE":
            yield (
                "UNKNOWABLE_INTERCEPTION",
                subject,
                "interceptionMode NONE: whether the application speaks through its sidecar is not "
                "in the objects; taken not to",
            )
        if any("IPRanges" in key for key in notes):
            yield (
                "UNKNOWABLE_ADDRESS",
                subject,
                "outbound capture goes by address: services without a known clusterIP are taken "
                "to be captured unless nothing is",
            )
        if workload.own_certificates:
            yield (
                "UNKNOWABLE_CERTIFICATES",
                subject,
                "its proxy has certificate files of its own, taken to chain to the mesh's root",
            )
        if workload.proxy is Proxy.PROXYLESS:
            yield (
                "UNKNOWABLE_PROXYLESS",
                subject,
                "whether the application uses xDS credentials is not in the objects; taken to",
            )


def _ambient(world: World, workload: Workload) -> Found:
    policies = world.policies
    modes = [policies.namespace_mode(workload.namespace)]
    if own := policies.chosen(workload):
        modes += [(Server(m), own.meta.key) for m in (own.mode, *own.ports.values()) if m]
    for mode, key in modes:
        if mode is Server.DISABLE and key:
            yield (
                "PA_DISABLE_IN_AMBIENT",
                f"PeerAuthentication {key}",
                "ztunnel cannot turn mTLS off: DISABLE means PERMISSIVE there",
            )
    if own and policies.unenforced(workload):
        yield (
            "AMBIENT_POLICY_UNENFORCED",
            own.meta.subject,
            "mesh STRICT, namespace UNSET and a PERMISSIVE port here: istiod never makes the "
            "policy, so ztunnel enforces nothing on any port; set a mode on the namespace",
        )
    for policy in policies.wide.get(policies.root, ()):
        if policy.selector is not None and workload.namespace != policies.root:
            yield (
                "MESH_POLICY_SKIPS_AMBIENT",
                policy.meta.subject,
                "`selector: {}` keeps a mesh policy from ambient pods; leave the selector out",
            )


def _mesh(world: World) -> Found:
    for sidecar in world.sidecars:
        if sidecar.ingress_tls:
            yield (
                "SIDECAR_INGRESS_TLS",
                sidecar.meta.subject,
                "ingress tls counts only with ENABLE_TLS_ON_SIDECAR_INGRESS and mode DISABLE; "
                "taken not to count",
            )
    for meta in world.envoy_filters:
        yield (
            "UNKNOWABLE_ENVOY_FILTER",
            meta.subject,
            "an EnvoyFilter may change any of this; it is not looked into",
        )
    networks = {
        workload.labels["topology.istio.io/network"]
        for workload in (*world.workloads, *world.machines)
        if "topology.istio.io/network" in workload.labels
    }
    if len(networks) > 1:
        yield (
            "UNKNOWABLE_NETWORKS",
            f"Networks {', '.join(sorted(networks))}",
            "calls between networks pass gateways that need mTLS: endpoints without it are dropped",
        )
    ambient = any(workload.proxy is Proxy.AMBIENT for workload in world.workloads)
    sidecars = any(workload.proxy is Proxy.SIDECAR for workload in world.workloads)
    if ambient and sidecars and not world.mesh.ambient:
        yield (
            "AMBIENT_NOT_ENABLED",
            "MeshConfig",
            "there are ambient pods, but istiod is taken to run without ambient, so sidecars send "
            "them plaintext; say --ambient if it does not",
        )
