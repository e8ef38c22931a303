"""The mesh namespace: created and owned, or adopted and never owned."""

from __future__ import annotations

import pytest

from components.mesh_namespace import MeshNamespace, MeshNamespaceArgs
from tests.unit.conftest import Deploy


def test_a_created_namespace_is_labelled_and_carries_the_stacks_name(deploy: Deploy) -> None:
    deployed = deploy(
        lambda opts: MeshNamespace("mesh", MeshNamespaceArgs(namespace="shop", stack="dev"), opts)
    )

    namespace = deployed.named("mesh-namespace")
    assert namespace.type == "kubernetes:core/v1:Namespace"
    assert namespace.inputs["metadata"] == {
        "name": "shop",
        "labels": {"istio-injection": "enabled"},
        "annotations": {
            "service-mesh/stack": "dev",
            "pulumi.com/deletionPropagationPolicy": "background",
        },
    }
    assert namespace.delete_timeout, "a deletion that hangs must end by itself"


def test_an_adopted_namespace_is_given_the_label_and_nothing_else(deploy: Deploy) -> None:
    deployed = deploy(
        lambda opts: MeshNamespace(
            "mesh", MeshNamespaceArgs(namespace="default", stack="dev", adopt=True), opts
        )
    )

    assert not deployed.of_kind("Namespace"), "to own it would be to delete it"
    patch = deployed.named("mesh-label")
    assert patch.type == "kubernetes:core/v1:NamespacePatch"
    assert patch.inputs["metadata"] == {
        "name": "default",
        "labels": {"istio-injection": "enabled"},
    }


@pytest.mark.parametrize(
    ("adopt", "resource"), [(False, "mesh-namespace"), (True, "mesh-label")], ids=["own", "adopted"]
)
def test_a_revisions_label_stands_in_the_place_of_the_default_ones(
    deploy: Deploy, resource: str, *, adopt: bool
) -> None:
    args = MeshNamespaceArgs(namespace="shop", stack="dev", revision="canary", adopt=adopt)
    deployed = deploy(lambda opts: MeshNamespace("mesh", args, opts))

    labels = deployed.named(resource).inputs["metadata"]["labels"]
    assert labels == {"istio.io/rev": "canary"}, "with both the default istiod injects"


def test_outputs_say_whose_the_namespace_is(deploy: Deploy) -> None:
    deployed = deploy(
        lambda opts: MeshNamespace(
            "mesh", MeshNamespaceArgs(namespace="default", stack="dev", adopt=True), opts
        )
    )

    assert deployed.outputs[deployed.named("mesh").urn] == {"namespace": "default", "adopted": True}
