"""No change of mutual TLS may cut off a call that works now: refused before anything is registered.

The cluster's objects are read once and judged twice by `tlscheck`: with the policies that are
there, and with those that the program declares in the place of the stack's own.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence
from typing import Any

from pulumi import RunError

from components.cluster import Cluster
from components.kinds import ROOT_NAMESPACE, STACK_ANNOTATION, ClusterAccess
from components.mtls import MtlsMode, MutualTlsArgs, Policy, policies
from tlscheck import MeshConfig, World
from tlscheck.rows import Server
from tlscheck.sources import KINDS, Found
from tlscheck.stack import NOT_YET
from tlscheck.strict import CutOff, cut_off, without_sidecar

_POLICIES = "peerauthentications.security.istio.io"
_LINES = 20
"""Lines of an error that name calls; the rest is counted."""

Object = dict[str, Any]


class RolloutError(RunError):
    """A change of mutual TLS that would cut somebody off; says who, why and what to do.

    A `RunError`: Pulumi prints its message and no traceback.
    """


def check(
    cluster: Cluster,
    access: ClusterAccess,
    mtls: MutualTlsArgs,
    *,
    named: Sequence[str],
    observers: Collection[str],
) -> None:
    """Make sure that what is declared fails no call that works now.

    Args:
        cluster: Where.
        access: The same, for the commands of an error.
        mtls: What is declared.
        named: Calls that may fail, FROM:TO or FROM:TO:PORT, as `tlscheck --except` takes them.
        observers: Namespaces of the stack whose pods observe the mesh and call no application.

    Raises:
        RolloutError: A call would fail, or pods of a namespace that goes STRICT have no sidecar.
        ClusterError: The objects cannot be read.
    """
    istio = cluster.config_map(ROOT_NAMESPACE, "istio")
    live = cluster.objects(_POLICIES) if istio else []
    others = [item for item in live if not _own(item, mtls)]
    declared = _declared(others, live, mtls)
    if istio and _said(live) == _said(declared):
        return
    goes_strict = not _strict(live, mtls.namespace) and _strict(declared, mtls.namespace)
    if istio is None or len(others) == len(live):
        # a first update, or another try at it: nobody calls yet what it makes
        if goes_strict:
            pods = cluster.objects("pods", namespace=mtls.namespace)
            _refuse_late(access, mtls, Found(objects=pods), installed=istio is not None)
        return
    around = [istio, *cluster.objects(*(kind for kind in KINDS if kind != _POLICIES))]
    before, after = Found(objects=[*around, *live]), Found(objects=[*around, *declared])
    cut = cut_off(before, after, named, observers)
    if cut.edges:
        raise RolloutError(_refusal(access, mtls, live, cut, named))
    if goes_strict:
        _refuse_late(access, mtls, before, installed=True)


def _own(item: Object, mtls: MutualTlsArgs) -> bool:
    """Whether a policy is the stack's, made before policies said so included."""
    said = (item["metadata"].get("annotations") or {}).get(STACK_ANNOTATION)
    return said == mtls.stack or any(_key(item) == (p.namespace, p.name) for p in policies(mtls))


def _declared(
    others: Sequence[Object], live: Sequence[Object], mtls: MutualTlsArgs
) -> list[Object]:
    """The policies as they will be: those of others, and the stack's."""
    ages = {_key(item): item["metadata"].get("creationTimestamp") for item in live}
    mine = [
        _as_object(one, ages.get((one.namespace, one.name)) or NOT_YET) for one in policies(mtls)
    ]
    return [*others, *mine]


def _as_object(policy: Policy, created: str) -> Object:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {
            "name": policy.name,
            "namespace": policy.namespace,
            "creationTimestamp": created,
        },
        "spec": policy.spec,
    }


def _key(item: Object) -> tuple[str, str]:
    return item["metadata"]["namespace"], item["metadata"]["name"]


def _said(items: Sequence[Object]) -> dict[tuple[str, str], object]:
    return {_key(item): item.get("spec") or {} for item in items}


def _strict(items: Sequence[Object], namespace: str) -> bool:
    found = World.parse(items, MeshConfig(root_namespace=ROOT_NAMESPACE))
    return found.policies.namespace_mode(namespace)[0] is Server.STRICT


def _refuse_late(
    access: ClusterAccess, mtls: MutualTlsArgs, found: Found, *, installed: bool
) -> None:
    late = without_sidecar(found, mtls.namespace)
    if not late:
        return
    restart = f"{access.kubectl()} -n {mtls.namespace} rollout restart deployment"
    steps = [f"{restart}, wait until it is done, then run this again"]
    if not installed:
        steps = [
            "pulumi config set mtlsMode PERMISSIVE && pulumi up",
            restart,
            "pulumi config set mtlsMode STRICT && pulumi up",
        ]
    raise RolloutError(
        _problem(
            mtls,
            "mtlsMode",
            f"PERMISSIVE until every pod of {mtls.namespace} has a sidecar: these were started "
            "without one, and the first that gets one would refuse the others",
            late,
            steps,
        )
    )


def _refusal(
    access: ClusterAccess,
    mtls: MutualTlsArgs,
    live: Sequence[Object],
    cut: CutOff,
    named: Sequence[str],
) -> str:
    default = _as_object(policies(mtls)[0], "")
    same = _said(live).get(_key(default)) == default["spec"]
    key = "mtlsExceptions" if same else "mtlsMode"
    steps = [re.sub(r"\bkubectl\b", access.kubectl(), step) for step in cut.advice()]
    if same:
        steps.append("or leave the exception where it was")
    elif mtls.mode is MtlsMode.STRICT:
        steps.append(
            "or stay for a while: pulumi config set mtlsMode PERMISSIVE && "
            "pulumi config set mtlsPermissiveUntil YYYY-MM-DD"
        )
    example = shlex.quote(f"{cut.edges[0].client}:*")
    steps.append(
        "or name calls that may fail: pulumi config set --path "
        f"{shlex.quote(f'mtlsCutOff[{len(named)}]')} {example}"
    )
    allowed = f"what fails no call that works now; {len(cut.edges)} would fail"
    if cut.left_out:
        allowed += " (calls from kube-* and from what runs beside istiod are not counted)"
    return _problem(mtls, key, allowed, [str(group) for group in cut.groups()], steps)


def _problem(
    mtls: MutualTlsArgs, key: str, allowed: str, lines: Sequence[str], steps: Sequence[str]
) -> str:
    value = f'"{mtls.mode}"' if key == "mtlsMode" else f"{len(mtls.exceptions)} exceptions"
    shown = [*lines[:_LINES]]
    if len(lines) > _LINES:
        shown.append(f"and {len(lines) - _LINES} more")
    listed = "".join(f"\n           {line}" for line in shown)
    fix = "\n           ".join(steps)
    return f"{key} is {value}\n  allowed: {allowed}:{listed}\n  fix:     {fix}"
