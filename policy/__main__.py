"""`pulumi preview --policy-pack policy`: the rules of `guards`, told to Pulumi.

Nothing is decided here. The CLI runs this folder, so `guards` is a module and not a part of a
package: a published pack lies in a folder of another name.
"""

from __future__ import annotations

from collections.abc import Callable

from guards import RULES, Resource, Rule
from pulumi_policy import (
    EnforcementLevel,
    Policy,
    PolicyPack,
    PolicyResource,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)


def _seen(one: ResourceValidationArgs | PolicyResource) -> Resource:
    return Resource(
        type=one.resource_type,
        name=one.name,
        urn=one.urn,
        props=one.props,
        protect=one.opts.protect,
    )


def _of_each(rule: Rule) -> Callable[[ResourceValidationArgs, ReportViolation], None]:
    def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
        for found in rule.check([_seen(args)]):
            report(found.message, None)

    return validate


def _of_all(rule: Rule) -> Callable[[StackValidationArgs, ReportViolation], None]:
    def validate(args: StackValidationArgs, report: ReportViolation) -> None:
        for found in rule.check([_seen(one) for one in args.resources]):
            report(found.message, found.urn)

    return validate


def _policy(rule: Rule) -> Policy:
    if rule.whole_stack:
        return StackValidationPolicy(rule.name, rule.says, _of_all(rule))
    return ResourceValidationPolicy(rule.name, rule.says, _of_each(rule))


if __name__ == "__main__":
    # this call serves until the CLI ends it
    PolicyPack("service-mesh", [_policy(rule) for rule in RULES], EnforcementLevel.MANDATORY)
