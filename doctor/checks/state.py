"""What Pulumi's state says of updates that were interrupted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from doctor.model import Check, Cluster, Finding, Severity, name


def no_state(cluster: Cluster) -> str | None:
    """Why nothing can be said of the state, if so."""
    return None if cluster.state else "no --state was given (pulumi stack export)"


def _pending(cluster: Cluster) -> Iterator[Finding]:
    resources = cluster.state.resources if cluster.state else ()
    # an update deletes these itself, and what has replaced one has the same URN
    replaced = {one["urn"] for one in resources if one.get("delete")}
    for one in cluster.state.pending if cluster.state else ():
        urn = one["resource"]["urn"]
        if one["type"] == "deleting" and urn not in replaced:
            # to a refresh what is half deleted looks as if it were there
            fix = cluster.pulumi("destroy", "--refresh", "--target", urn)
        else:
            fix = cluster.pulumi("refresh", "--clear-pending-creates")
        yield Finding(problem=f"an update was interrupted while {one['type']} {urn}", fix=(fix,))


def _condemned(cluster: Cluster) -> Iterator[Finding]:
    for one in cluster.state.resources if cluster.state else ():
        if one.get("delete"):
            yield Finding(
                problem=f"{one['urn']} was replaced and is still to be deleted",
                fix=(cluster.pulumi("up"),),
            )


def _homeless(cluster: Cluster) -> Iterator[Finding]:
    there = {name(one) for one in cluster.of("Namespace")}
    lost: dict[str, list[str]] = defaultdict(list)
    for one in cluster.state.resources if cluster.state else ():
        kind, found = str(one["type"]), str(one.get("id", ""))
        where = found if kind == "kubernetes:core/v1:Namespace" else found.rpartition("/")[0]
        if kind.startswith("kubernetes:") and where and where not in there:
            lost[where].append(one["urn"])
    for where, urns in lost.items():
        yield Finding(
            problem=f"namespace {where} is gone, and {len(urns)} resources in the state are in it",
            fix=(cluster.pulumi("refresh"),),
        )


CHECKS = (
    Check(
        id="state-pending",
        category="pulumi",
        claim="no update was interrupted",
        run=_pending,
        skip=no_state,
    ),
    Check(
        id="state-condemned",
        category="pulumi",
        claim="nothing replaced is still to be deleted",
        run=_condemned,
        severity=Severity.WARNING,
        skip=no_state,
    ),
    Check(
        id="state-namespaces",
        category="pulumi",
        claim="every namespace in the state exists",
        run=_homeless,
        needs=("Namespace",),
        skip=no_state,
    ),
)
