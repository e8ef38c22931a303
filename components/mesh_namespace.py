"""A namespace whose pods get a sidecar: created, or an existing one that is given the label."""

from __future__ import annotations

from dataclasses import dataclass

from pulumi import ComponentResource, CustomTimeouts, ResourceOptions
from pulumi_kubernetes.core.v1 import NamespacePatch
from pulumi_kubernetes.meta.v1 import ObjectMetaPatchArgs

from components.kinds import stack_namespace

_DEFAULT_INJECTION = {"istio-injection": "enabled"}


@dataclass(frozen=True, kw_only=True, slots=True)
class MeshNamespaceArgs:
    """Which namespace, and whose it is."""

    namespace: str
    """Its name."""

    stack: str
    """Name of the stack, written on a namespace that is created."""

    revision: str | None = None
    """The istiod that injects its pods, by its revision or a tag; None: the default one."""

    adopt: bool = False
    """Label a namespace that exists and stays; it is never owned, and never deleted."""

    protect: bool = False
    """Whether Pulumi refuses to delete a namespace that it created."""


class MeshNamespace(ComponentResource):
    """`service-mesh:mesh_namespace:MeshNamespace`: a namespace with an injection label.

    It needs nothing of Istio. Pods born there before istiod is ready are refused, once the webhook
    is registered, so workloads wait for both. With a revision or a tag it must wait itself: until
    that webhook is registered, nothing refuses pods, and they would be born without a sidecar.
    """

    namespace: str
    """The namespace's name."""

    def __init__(
        self, name: str, args: MeshNamespaceArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("service-mesh:mesh_namespace:MeshNamespace", name, {}, opts)
        self.namespace = args.namespace
        # never both: then istiod's webhooks disagree about who injects (IST0123)
        injection = {"istio.io/rev": args.revision} if args.revision else _DEFAULT_INJECTION
        if args.adopt:
            NamespacePatch(
                f"{name}-label",
                # the label alone: what else stands there belongs to somebody else
                metadata=ObjectMetaPatchArgs(name=args.namespace, labels=injection),
                opts=ResourceOptions(parent=self, custom_timeouts=CustomTimeouts(delete="2m")),
            )
        else:
            stack_namespace(
                f"{name}-namespace",
                args.namespace,
                stack=args.stack,
                parent=self,
                labels=injection,
                protect=args.protect,
            )
        self.register_outputs({"namespace": self.namespace, "adopted": args.adopt})
