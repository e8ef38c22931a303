"""A revision tag: a name that namespaces and pods ask for, moved from one istiod to another.

What `istioctl tag set` makes, and chart `istiod` for its value `revisionTags`. It is no value of
the releases here: when a tag moves, the one that loses it and the one that gets it would both write
the same object. The chart's Service `istiod-revision-tag-TAG` is left out, because no sidecar and
no gateway asks it: they ask the Service of the istiod that injected them.
"""

from __future__ import annotations

from dataclasses import dataclass

from pulumi import ComponentResource, ResourceOptions
from pulumi_kubernetes.admissionregistration.v1 import (
    MutatingWebhookArgs,
    MutatingWebhookConfiguration,
    RuleWithOperationsArgs,
    ServiceReferenceArgs,
    WebhookClientConfigArgs,
)
from pulumi_kubernetes.meta.v1 import LabelSelectorArgs, LabelSelectorRequirementArgs

from components.kinds import DEFAULT_REVISION, ROOT_NAMESPACE, STACK_ANNOTATION, child, metadata

_REVISION, _INJECTION, _INJECT = "istio.io/rev", "istio-injection", "sidecar.istio.io/inject"


@dataclass(frozen=True, kw_only=True, slots=True)
class RevisionTagArgs:
    """Which tag, and whose it is now."""

    tag: str
    """What the label `istio.io/rev` of namespaces or pods says: a DNS label, no revision's name."""

    revision: str
    """The istiod that injects their pods, by the name of its revision; `default`: that one."""

    stack: str
    """Name of the stack, written on the object."""

    def __post_init__(self) -> None:
        """Refuse what is the default istiod's.

        Raises:
            ValueError: It has the default istiod's name, which that one serves itself.
        """
        if self.tag in {"", DEFAULT_REVISION}:
            raise ValueError(f"tag is {self.tag!r}, which is the default istiod's")


def _expression(key: str, operator: str, *values: str) -> LabelSelectorRequirementArgs:
    return LabelSelectorRequirementArgs(key=key, operator=operator, values=list(values) or None)


def _webhook(
    prefix: str,
    service: str,
    namespaces: list[LabelSelectorRequirementArgs],
    pods: list[LabelSelectorRequirementArgs],
) -> MutatingWebhookArgs:
    not_refused = _expression(_INJECT, "NotIn", "false")
    return MutatingWebhookArgs(
        name=f"{prefix}.sidecar-injector.istio.io",
        # no caBundle: istiod writes its own into every such object that carries its revision
        client_config=WebhookClientConfigArgs(
            service=ServiceReferenceArgs(
                name=service, namespace=ROOT_NAMESPACE, path="/inject", port=443
            )
        ),
        side_effects="None",
        rules=[
            RuleWithOperationsArgs(
                operations=["CREATE"], api_groups=[""], api_versions=["v1"], resources=["pods"]
            )
        ],
        failure_policy="Fail",
        reinvocation_policy="Never",
        admission_review_versions=["v1"],
        namespace_selector=LabelSelectorArgs(match_expressions=namespaces),
        object_selector=LabelSelectorArgs(match_expressions=[not_refused, *pods]),
    )


class RevisionTag(ComponentResource):
    """`service-mesh:revision_tag:RevisionTag`: the injection webhook of one tag.

    The istiod that it points to must be there. What asks for the tag must wait for it: until the
    webhook is registered nothing refuses pods, and they would be born without a sidecar.
    """

    def __init__(
        self, name: str, args: RevisionTagArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("service-mesh:revision_tag:RevisionTag", name, {}, opts)
        beside = "" if args.revision == DEFAULT_REVISION else f"-{args.revision}"
        service = f"istiod{beside}"
        MutatingWebhookConfiguration(
            f"{name}-webhook",
            metadata=metadata(
                f"istio-revision-tag-{args.tag}",
                labels={
                    "istio.io/tag": args.tag,
                    _REVISION: args.revision,
                    "app": "sidecar-injector",
                    "app.kubernetes.io/name": "istiod",
                    # so that `istioctl uninstall --purge` leaves no webhook that nobody answers
                    "operator.istio.io/component": "Pilot",
                },
                annotations={STACK_ANNOTATION: args.stack},
            ),
            webhooks=[
                _webhook(
                    "rev.namespace",
                    service,
                    [
                        _expression(_REVISION, "In", args.tag),
                        _expression(_INJECTION, "DoesNotExist"),
                    ],
                    [],
                ),
                _webhook(
                    "rev.object",
                    service,
                    [
                        _expression(_REVISION, "DoesNotExist"),
                        _expression(_INJECTION, "DoesNotExist"),
                    ],
                    [_expression(_REVISION, "In", args.tag)],
                ),
            ],
            opts=child(self),
        )
        self.register_outputs({"tag": args.tag, "revision": args.revision})
