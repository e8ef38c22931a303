"""Istio's CRDs and root certificates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta

from doctor.certificate import blocks, not_after
from doctor.checks.cluster import MIN_KUBERNETES
from doctor.model import (
    ROOT_CONFIG_MAP,
    Check,
    Cluster,
    Finding,
    Phase,
    Severity,
    condition,
    minor,
    name,
    namespace,
    why,
)

CRDS = (
    *("trafficextensions.extensions.istio.io", "wasmplugins.extensions.istio.io"),
    *("destinationrules.networking.istio.io", "envoyfilters.networking.istio.io"),
    *("gateways.networking.istio.io", "proxyconfigs.networking.istio.io"),
    *("serviceentries.networking.istio.io", "sidecars.networking.istio.io"),
    *("virtualservices.networking.istio.io", "workloadentries.networking.istio.io"),
    *("workloadgroups.networking.istio.io", "authorizationpolicies.security.istio.io"),
    *("peerauthentications.security.istio.io", "requestauthentications.security.istio.io"),
    "telemetries.telemetry.istio.io",
)
"""What Istio 1.31's chart `base` installs. An older release may lack the first."""

_SOON = timedelta(days=60)
"""How long before its end a root certificate is warned of; `linkerd check` has the same."""

_INSTALLED = (Phase.INSTALLED,)


def _crds_there(cluster: Cluster) -> Iterator[Finding]:
    found = {name(one) for one in cluster.istio_crds}
    old = any((minor(version) or 0) < max(MIN_KUBERNETES) for version in cluster.istio_versions)
    base = tuple(cluster.reapply("istio-base", namespace(one)) for one in cluster.istiods[:1])
    for one in CRDS[1:] if old else CRDS:
        if one not in found:
            yield Finding(
                problem=f"CRD {one} is missing: objects of that kind can be neither made nor read",
                fix=base,
            )


def _crds_served(cluster: Cluster) -> Iterator[Finding]:
    for one in cluster.istio_crds:
        established = condition(one, "Established")
        if established.get("status") != "True":
            yield Finding(
                problem=f"CRD {name(one)} is not established: {why(established)}",
                fix=(cluster.command("describe", "crd", name(one)),),
            )


def _stored_versions(cluster: Cluster) -> Iterator[Finding]:
    for one in cluster.istio_crds:
        served = {version["name"] for version in one["spec"]["versions"]}
        lost = sorted(set(one.get("status", {}).get("storedVersions") or ()) - served)
        if lost:
            stored = next(v["name"] for v in one["spec"]["versions"] if v.get("storage"))
            patch = json.dumps({"status": {"storedVersions": [stored]}})
            words = ("patch", "crd", name(one), "--subresource=status", "--type=merge")
            yield Finding(
                problem=f"objects of CRD {name(one)} may be stored as {', '.join(lost)}, which it "
                "no longer has",
                fix=(cluster.command(*words, "--patch", patch),),
            )


def _root_certificates(cluster: Cluster) -> Iterator[Finding]:
    for where, left in _roots(cluster):
        if left <= timedelta():
            yield Finding(
                problem=f"Istio's root certificate in {where} ended {-left.days} days ago: every "
                "connection inside the mesh fails",
                fix=_new_root(cluster, where),
            )


def _root_certificates_soon(cluster: Cluster) -> Iterator[Finding]:
    for where, left in _roots(cluster):
        if timedelta() < left <= _SOON:
            yield Finding(
                problem=f"Istio's root certificate in {where} ends in {left.days} days",
                fix=_new_root(cluster, where),
            )


def _new_root(cluster: Cluster, where: str) -> tuple[str, ...]:
    # istiod makes a new one when it starts; one of your own is the Secret cacerts
    secret = ("delete", "secret", "istio-ca-secret", "--ignore-not-found")
    restart = ("rollout", "restart", "deployment", "--selector=app=istiod")
    return tuple(cluster.command("--namespace", where, *words) for words in (secret, restart))


def _roots(cluster: Cluster) -> Iterator[tuple[str, timedelta]]:
    """For each control plane its namespace, and how long its root certificate is good."""
    homes = {namespace(one) for one in cluster.istiods}
    for one in cluster.of("ConfigMap"):
        if name(one) == ROOT_CONFIG_MAP and namespace(one) in homes:
            ends = [not_after(pem) for pem in blocks(one.get("data", {}).get("root-cert.pem", ""))]
            if ends:
                # of several the newest counts: the old ones stay while proxies still have them
                yield namespace(one), max(ends) - cluster.now


def _no_root(cluster: Cluster) -> str | None:
    return None if any(_roots(cluster)) else f"no ConfigMap {ROOT_CONFIG_MAP} beside istiod"


CHECKS = (
    Check(
        id="crds-installed",
        category="CRDs",
        claim="Istio's CRDs are installed",
        run=_crds_there,
        needs=("CustomResourceDefinition",),
        phases=_INSTALLED,
    ),
    Check(
        id="crds-established",
        category="CRDs",
        claim="Istio's CRDs are established",
        run=_crds_served,
        needs=("CustomResourceDefinition",),
    ),
    Check(
        id="crds-stored",
        category="CRDs",
        claim="Istio's CRDs have every version that is stored",
        run=_stored_versions,
        severity=Severity.WARNING,
        needs=("CustomResourceDefinition",),
    ),
    Check(
        id="root-valid",
        category="certificates",
        claim="Istio's root certificate is valid",
        run=_root_certificates,
        needs=("ConfigMap",),
        phases=_INSTALLED,
        skip=_no_root,
    ),
    Check(
        id="root-lasts",
        category="certificates",
        claim=f"Istio's root certificate is valid for {_SOON.days} days more",
        run=_root_certificates_soon,
        severity=Severity.WARNING,
        needs=("ConfigMap",),
        phases=_INSTALLED,
        skip=_no_root,
    ),
)
