"""A revision tag: one webhook object, that of the chart, which moves in place."""

from __future__ import annotations

from typing import Any

import pytest

from components.revision_tag import RevisionTag, RevisionTagArgs
from tests.unit.conftest import Deploy, Registered


def tag(deploy: Deploy, revision: str) -> Registered:
    args = RevisionTagArgs(tag="stable", revision=revision, stack="mesh/dev")
    deployed = deploy(lambda opts: RevisionTag("tag-stable", args, opts))
    return deployed.named("tag-stable-webhook")


def asked(webhook: dict[str, Any], selector: str) -> set[tuple[str, str, tuple[str, ...]]]:
    return {
        (one["key"], one["operator"], tuple(one.get("values", ())))
        for one in webhook[selector]["matchExpressions"]
    }


@pytest.mark.parametrize(
    ("revision", "service"), [("default", "istiod"), ("canary", "istiod-canary")]
)
def test_a_tag_leads_to_the_istiod_of_its_revision(
    deploy: Deploy, revision: str, service: str
) -> None:
    found = tag(deploy, revision)

    assert found.type.endswith(":MutatingWebhookConfiguration")
    meta = found.inputs["metadata"]
    assert meta["name"] == "istio-revision-tag-stable"
    # istiod writes its certificate into what carries its revision, and istioctl lists tags
    assert meta["labels"]["istio.io/rev"] == revision
    assert meta["labels"]["istio.io/tag"] == "stable"
    assert meta["annotations"]["service-mesh/stack"] == "mesh/dev"
    for webhook in found.inputs["webhooks"]:
        assert webhook["clientConfig"] == {
            "service": {
                "name": service,
                "namespace": "istio-system",
                "path": "/inject",
                "port": 443,
            }
        }, "the certificate is istiod's to write"
        assert webhook["failurePolicy"] == "Fail", "a pod without a proxy is worse than none"
    assert found.delete_timeout


def test_a_tag_takes_pods_of_namespaces_and_pods_that_ask_for_it(deploy: Deploy) -> None:
    of_namespace, of_pod = tag(deploy, "canary").inputs["webhooks"]

    unset = ("istio-injection", "DoesNotExist", ())
    asks = ("istio.io/rev", "In", ("stable",))
    not_refused = ("sidecar.istio.io/inject", "NotIn", ("false",))
    assert asked(of_namespace, "namespaceSelector") == {asks, unset}
    assert asked(of_namespace, "objectSelector") == {not_refused}
    none = ("istio.io/rev", "DoesNotExist", ())
    assert asked(of_pod, "namespaceSelector") == {none, unset}, "each pod once"
    assert asked(of_pod, "objectSelector") == {not_refused, asks}


def test_a_move_changes_no_name(deploy: Deploy) -> None:
    """A name is what would be replaced, and for a moment be gone."""
    before, after = tag(deploy, "default"), tag(deploy, "canary")

    assert before.inputs["metadata"]["name"] == after.inputs["metadata"]["name"]
    names = [[one["name"] for one in found.inputs["webhooks"]] for found in (before, after)]
    assert names[0] == names[1]
    assert len(set(names[0])) == len(names[0])


@pytest.mark.parametrize("name", ["", "default"])
def test_the_default_istiods_name_is_no_tag(name: str) -> None:
    with pytest.raises(ValueError, match="which is the default istiod's"):
        RevisionTagArgs(tag=name, revision="canary", stack="mesh/dev")
