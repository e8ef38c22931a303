"""Mutual TLS: what the proxies accept, who is excepted and why. What clients send is `traffic`.

Istio applies the narrowest PeerAuthentication that fits a pod, and of several in one scope the
oldest as a whole; nothing is merged. So all exceptions of one selector become one object here, and
selectors that may pick the same pod are refused.
"""

from __future__ import annotations

import datetime
import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pulumi import ComponentResource, ResourceOptions

from components.istio_api import (
    PeerAuthentication,
    PeerAuthenticationSpec,
    PeerMutualTls,
)
from components.kinds import ROOT_NAMESPACE, STACK_ANNOTATION, child

_REASON_ANNOTATION = "service-mesh/reason"
_EXPIRES_ANNOTATION = "service-mesh/expires"
_STAGE = "staged roll-out: plaintext is taken until every client has a sidecar, then STRICT"


class MtlsMode(StrEnum):
    """What a workload's proxy accepts.

    https://istio.io/latest/docs/reference/config/security/peer_authentication/
    """

    STRICT = "STRICT"
    """Mutual TLS only."""

    PERMISSIVE = "PERMISSIVE"
    """Mutual TLS and plaintext: Istio's own default."""

    DISABLE = "DISABLE"
    """Plaintext only."""


class MtlsScope(StrEnum):
    """How far the mode reaches."""

    MESH = "mesh"
    """Every namespace that says nothing else."""

    NAMESPACE = "namespace"
    """The mesh namespace alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MtlsException:
    """Workloads, or one port of theirs, that accept something else than the rest, and why."""

    selector: tuple[tuple[str, str], ...]
    """Labels of the pods, at least one."""

    port: int | None
    """Container port, never the Service's; None: all ports of these pods."""

    mode: MtlsMode
    """What is accepted there. The ports that are not named keep the inherited mode."""

    reason: str
    """Why; written on the object, for whoever finds it in the cluster."""

    expires: datetime.date | None = None
    """The last day, in UTC, on which it is meant to be there; None: nobody has said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MutualTlsArgs:
    """What is enforced, where, and except for whom."""

    mode: MtlsMode
    """What is accepted."""

    scope: MtlsScope
    """Where."""

    namespace: str
    """The mesh namespace: exceptions are there."""

    stack: str
    """Name of the stack, written on every policy: whose it is."""

    exceptions: tuple[MtlsException, ...] = ()
    """Who accepts something else."""

    permissive_until: datetime.date | None = None
    """The last day, in UTC, on which PERMISSIVE is meant to be there; None: nobody has said."""

    def __post_init__(self) -> None:
        """Refuse exceptions that Istio would not apply as they read.

        Raises:
            ValueError: A selector is empty, an exception is repeated, two selectors may pick the
                same pod, or a last day is given for another mode than PERMISSIVE.
        """
        if self.permissive_until is not None and self.mode is not MtlsMode.PERMISSIVE:
            raise ValueError(f"permissive_until is for PERMISSIVE; the mode is {self.mode}")
        for problem in exception_problems(self.exceptions):
            raise ValueError(problem)


def exception_problems(exceptions: Sequence[MtlsException]) -> list[str]:
    """Say which exceptions Istio would not apply as they read, and why; [] when all is well."""
    problems = [
        f"an exception without a selector would replace the mode itself: {one.reason}"
        for one in exceptions
        if not one.selector
    ]
    for one, other in itertools.combinations(exceptions, 2):
        mine, others = dict(one.selector), dict(other.selector)
        if mine == others:
            if one.port == other.port:
                problems.append(f"two exceptions for {_where(one)}")
        elif all(mine[key] == others[key] for key in mine.keys() & others.keys()):
            problems.append(
                f"{_labels(one)} and {_labels(other)} may pick the same pod, and Istio applies only"
                " the older of the two; give both the same label with different values"
            )
    return problems


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """One PeerAuthentication, as it is declared."""

    name: str
    """Its name in Kubernetes."""

    namespace: str
    """Where it stands, and with that how far it reaches."""

    spec: PeerAuthenticationSpec
    """What it says."""

    annotations: Mapping[str, str]
    """Whose it is; where it takes plaintext also why and until when, as far as that is known."""


def policies(args: MutualTlsArgs) -> list[Policy]:
    """All PeerAuthentications: the policy `default`, and one for each selector."""
    whose = {STACK_ANNOTATION: args.stack}
    mesh = args.scope is MtlsScope.MESH
    until = args.permissive_until
    stage = {_REASON_ANNOTATION: _STAGE, _EXPIRES_ANNOTATION: until.isoformat()} if until else {}
    found = [
        Policy(
            name="default",
            namespace=ROOT_NAMESPACE if mesh else args.namespace,
            spec=mesh_wide(args.mode),
            annotations={**whose, **stage},
        )
    ]
    by_selector: dict[tuple[tuple[str, str], ...], list[MtlsException]] = {}
    for one in args.exceptions:
        by_selector.setdefault(tuple(sorted(one.selector)), []).append(one)
    for selector, same in by_selector.items():
        reasons = "; ".join(f"{_where(one)}: {one.reason}" for one in same)
        annotations = {**whose, _REASON_ANNOTATION: reasons}
        if last_day := expires(same):
            annotations[_EXPIRES_ANNOTATION] = last_day.isoformat()
        found.append(
            Policy(
                name=exception_name(selector),
                # in the root namespace Istio ignores a policy that has a selector
                namespace=args.namespace,
                spec=excepted(same),
                annotations=annotations,
            )
        )
    return found


def mesh_wide(mode: MtlsMode) -> PeerAuthenticationSpec:
    """Specification of the policy `default`, of a namespace or of the mesh."""
    return {"mtls": {"mode": mode.value}}


def excepted(exceptions: Sequence[MtlsException]) -> PeerAuthenticationSpec:
    """Specification of the one policy for exceptions that share a selector."""
    spec: PeerAuthenticationSpec = {"selector": {"matchLabels": dict(exceptions[0].selector)}}
    ports: dict[str, PeerMutualTls] = {}
    for one in exceptions:
        if one.port is None:
            spec["mtls"] = {"mode": one.mode.value}
        else:
            ports[str(one.port)] = {"mode": one.mode.value}
    if ports:
        spec["portLevelMtls"] = ports
    return spec


def expires(exceptions: Sequence[MtlsException]) -> datetime.date | None:
    """The first of their last days, as they are one object; None if one of them has none."""
    days = [one.expires for one in exceptions if one.expires is not None]
    return min(days) if len(days) == len(exceptions) else None


def exception_name(selector: tuple[tuple[str, str], ...]) -> str:
    """Name of the policy for a selector: readable, valid as a name, and unlike any other's."""
    pairs = sorted(selector)
    words = re.sub(r"[^a-z0-9]+", "-", "-".join(f"{k}-{v}" for k, v in pairs).lower())
    digest = hashlib.sha256(repr(pairs).encode()).hexdigest()[:8]
    return f"exception-{words[:40].strip('-')}-{digest}"


def summary(mode: MtlsMode, exceptions: Sequence[MtlsException]) -> str:
    """The mode in words, exceptions included, for a person."""
    if not exceptions:
        return mode.value
    return f"{mode.value}, except " + "; ".join(
        f"{_where(one)} {one.mode.value} ({one.reason})" for one in exceptions
    )


def _labels(one: MtlsException) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(one.selector))


def _where(one: MtlsException) -> str:
    return _labels(one) if one.port is None else f"{_labels(one)} port {one.port}"


class MutualTls(ComponentResource):
    """`service-mesh:mtls:MutualTls`: PeerAuthentications.

    istiod must be ready before: its webhook validates them.
    """

    modes: dict[str, str]
    """Per namespace: what its workloads accept, in words."""

    def __init__(self, name: str, args: MutualTlsArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("service-mesh:mtls:MutualTls", name, {}, opts)
        for policy in policies(args):
            PeerAuthentication(
                f"{name}-{policy.name}",
                name=policy.name,
                namespace=policy.namespace,
                spec=policy.spec,
                annotations=policy.annotations,
                opts=child(self),
            )
        mesh = args.scope is MtlsScope.MESH
        self.modes = {
            ROOT_NAMESPACE: args.mode.value if mesh else "PERMISSIVE (Istio's default)",
            args.namespace: summary(args.mode, args.exceptions),
        }
        self.register_outputs({"modes": self.modes})
