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
