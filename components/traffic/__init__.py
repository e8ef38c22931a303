"""Traffic of the mesh: which version answers, how failures are met, and the way out.

`Traffic` makes one VirtualService and one DestinationRule for each service, whatever is said about
it: two of them for one host would conflict, and Istio would apply the older. `Egress` makes the way
to hosts outside, through the egress gateway.
"""

from __future__ import annotations

from dataclasses import dataclass

from pulumi import Alias, ComponentResource, Output, ResourceOptions, create_urn

from components.istio_api import DestinationRule, VirtualService
from components.kinds import child
from components.traffic.egress import (
    Egress,
    EgressArgs,
    EgressHost,
    EgressTls,
    egress_problems,
)
from components.traffic.http import destination_rule, virtual_service
from components.traffic.model import (
    RETRY_ON,
    AbRoute,
    Canary,
    CircuitBreaker,
    Fault,
    HostTraffic,
    MatchBy,
    Mirror,
    Retries,
    problems,
)

__all__ = [
    "RETRY_ON",
    "AbRoute",
    "Canary",
    "CircuitBreaker",
    "Egress",
    "EgressArgs",
    "EgressHost",
    "EgressTls",
    "Fault",
    "HostTraffic",
    "MatchBy",
    "Mirror",
    "Retries",
    "Traffic",
    "TrafficArgs",
    "egress_problems",
    "problems",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrafficArgs:
    """What is said about the services of a namespace."""

    namespace: str
    """A namespace of the mesh, where the services are."""

    hosts: tuple[HostTraffic, ...]
    """Each service once."""

    production: bool = False
    """Whether nothing may fail on purpose."""

    def __post_init__(self) -> None:
        """Refuse what would not work as it reads.

        Raises:
            ValueError: `problems` of the hosts, all of them.
        """
        if found := problems(self.hosts, production=self.production):
            raise ValueError("; ".join(found))


class Traffic(ComponentResource):
    """`service-mesh:traffic:Traffic`: a VirtualService and a DestinationRule for each service.

    istiod must be ready before: its webhook validates them.
    """

    def __init__(self, name: str, args: TrafficArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("service-mesh:traffic:Traffic", name, {}, opts)
        for one in args.hosts:
            rule = destination_rule(one)
            subsets = []
            if rule is not None:
                subsets = [
                    DestinationRule(
                        f"{name}-{one.host}-rule",
                        name=one.host,
                        namespace=args.namespace,
                        spec=rule,
                        opts=ResourceOptions.merge(child(self), _moved(one.host)),
                    )
                ]
            routes = virtual_service(one)
            if routes is not None:
                VirtualService(
                    f"{name}-{one.host}-routes",
                    name=one.host,
                    namespace=args.namespace,
                    spec=routes,
                    # a route to a subset that is not there yet answers 503
                    opts=child(self, after=subsets),
                )
        self.register_outputs({})


def _moved(host: str) -> ResourceOptions:
    """Where the rule was before this component: stacks from then keep their object.

    To be removed once every stack has been updated by a program that has it.
    """
    before: Output[str] = create_urn("mtls", "service-mesh:mtls:MutualTls")
    return ResourceOptions(aliases=[Alias(name=f"mtls-{host}", parent=before)])
