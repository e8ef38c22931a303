"""Who may call whom, enforced by the servers' proxies: AuthorizationPolicies from a call graph.

The identity is the one in the client's certificate, so it needs mutual TLS: in a call that came in
plain text there is none, and it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pulumi import ComponentResource, ResourceOptions

from components.call_graph import Call, CallGraph
from components.istio_api import (
    AllowedOperation,
    AuthorizationPolicy,
    AuthorizationPolicySpec,
    AuthorizationRule,
)
from components.kinds import child

ALLOW_NOTHING = "allow-nothing"
"""The policy that makes everything forbidden that another one does not allow; Istio's name for it.

https://istio.io/latest/docs/concepts/security/#allow-nothing-deny-all-and-allow-all-policy
"""

# https://istio.io/latest/docs/tasks/security/authorization/authz-dry-run/
_DRY_RUN = {"istio.io/dry-run": "true"}


class AccessMode(StrEnum):
    """What becomes of a call that the graph does not have."""

    OFF = "off"
    """It passes: there are no policies."""

    DRY_RUN = "dry-run"
    """It passes, and the server's proxy counts it (`shadow_denied` of its RBAC statistics)."""

    ENFORCE = "enforce"
    """It is refused: 403 and `RBAC: access denied` for HTTP, a reset for TCP."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AccessPolicyArgs:
    """What is allowed and how seriously it is meant."""

    graph: CallGraph
    """What is allowed; its namespace is where the policies are and what they are about."""

    mode: AccessMode
    """What becomes of everything else."""


def access_specs(graph: CallGraph) -> dict[str, AuthorizationPolicySpec]:
    """The policies of a graph, by name: one a server that somebody calls, then allow-nothing.

    All pods of the namespace are closed, those of no service of the graph too. The ports of the
    agent and of Envoy's metrics (15020, 15021, 15090) stay open: they do not pass the filters.
    """
    specs: dict[str, AuthorizationPolicySpec] = {}
    for service in graph.services:
        rules = [_rule(graph, call) for call in graph.callers(service.name)]
        if rules:
            specs[service.name] = {
                "selector": {"matchLabels": {"app": service.name}},
                "action": "ALLOW",
                "rules": rules,
            }
    specs[ALLOW_NOTHING] = {}
    return specs


def _rule(graph: CallGraph, call: Call) -> AuthorizationRule:
    ports = [str(graph.service(call.server).port)]
    operations: list[AllowedOperation] = []
    for one in call.operations:
        operation: AllowedOperation = {"ports": ports}
        # an empty list would be refused by istiod: any method, any path is no key
        if one.methods:
            operation["methods"] = list(one.methods)
        if one.paths:
            operation["paths"] = list(one.paths)
        operations.append(operation)
    return {
        "from": [{"source": {"principals": [graph.principal(call.client)]}}],
        "to": [{"operation": one} for one in operations or [{"ports": ports}]],
    }


class AccessPolicy(ComponentResource):
    """`service-mesh:access:AccessPolicy`: the graph's AuthorizationPolicies; none in mode off."""

    policies: dict[str, str]
    """What a policy is about, by its name: "productpage, reviews" may call."""

    def __init__(
        self, name: str, args: AccessPolicyArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("service-mesh:access:AccessPolicy", name, {}, opts)
        self.policies = {}
        made: list[AuthorizationPolicy] = []
        specs = {} if args.mode is AccessMode.OFF else access_specs(args.graph)
        for policy, spec in specs.items():
            made.append(
                AuthorizationPolicy(
                    f"{name}-{policy}",
                    name=policy,
                    namespace=args.graph.namespace,
                    spec=spec,
                    annotations=_DRY_RUN if args.mode is AccessMode.DRY_RUN else None,
                    # allow-nothing comes after all that is allowed and goes before it: no good
                    # call is refused on the way
                    opts=child(self, after=made if policy == ALLOW_NOTHING else ()),
                )
            )
            callers = args.graph.callers(policy)
            self.policies[policy] = ", ".join(call.client for call in callers) or "nobody"
        self.register_outputs({"mode": args.mode.value, "policies": self.policies})
