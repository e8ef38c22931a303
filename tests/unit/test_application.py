"""What an application may say of a workload that Bookinfo's never say."""

from __future__ import annotations

import pytest

from components.application import Application, ApplicationArgs, Workload
from tests.unit.conftest import Deploy


@pytest.mark.parametrize("user", [None, 100])
def test_a_user_is_named_only_where_the_image_does_not_say_its_number(
    deploy: Deploy, user: int | None
) -> None:
    row = Workload(app="web", version="v1", image="podinfo:6", port=9898, user=user)
    deployed = deploy(
        lambda opts: Application("shop", ApplicationArgs(namespace="a", workloads=(row,)), opts)
    )

    pod = deployed.named("shop-web-v1").inputs["spec"]["template"]["spec"]
    context = pod["containers"][0]["securityContext"]
    assert context.get("runAsUser") == user
    assert context["runAsNonRoot"] is True


@pytest.mark.parametrize("replicas", [1, 3])
def test_every_version_has_as_many_pods_as_are_asked_for(deploy: Deploy, replicas: int) -> None:
    rows = tuple(Workload(app="web", version=v, image="a:1", port=80) for v in ("v1", "v2"))
    args = ApplicationArgs(namespace="a", workloads=rows, replicas=replicas)
    deployed = deploy(lambda opts: Application("shop", args, opts))

    found = [one.inputs["spec"]["replicas"] for one in deployed.of_kind("Deployment")]
    assert found == [replicas, replicas]


def test_an_application_without_pods_is_refused() -> None:
    with pytest.raises(ValueError, match="replicas is 0; expected 1 or more"):
        ApplicationArgs(namespace="a", workloads=(), replicas=0)
