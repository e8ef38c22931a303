"""Helm's records of an update that was killed: which of them go, and from where."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

import kubernetes.client
import kubernetes.config
import pytest
from pulumi import ResourceHookArgs

from components import helm_record
from components.helm_record import selector
from components.kinds import ClusterAccess

if TYPE_CHECKING:
    from collections.abc import Callable

UNFINISHED = "status in (pending-install,pending-upgrade,pending-rollback)"


def test_of_a_release_that_the_state_has_only_what_was_not_finished_goes() -> None:
    assert selector("istiod", known=True) == f"owner=helm,name=istiod,{UNFINISHED}"


def test_of_a_release_that_the_state_does_not_have_all_goes() -> None:
    assert selector("istiod", known=False) == "owner=helm,name=istiod"


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What was deleted: namespace, and how it was asked for."""
    found: list[tuple[str, dict[str, Any]]] = []

    class Api:
        def __init__(self, connection: object) -> None:
            assert connection == {"config_file": None, "context": "test"}

        def delete_collection_namespaced_secret(self, namespace: str, **how: object) -> None:
            found.append((namespace, how))

    monkeypatch.setattr(kubernetes.config, "new_client_from_config", lambda **how: how)
    monkeypatch.setattr(kubernetes.client, "CoreV1Api", Api)
    return found


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Callable[[ResourceHookArgs], None]:
    """The hook as the engine calls it."""
    given: list[Any] = []
    monkeypatch.setattr(helm_record, "ResourceHook", lambda _, call: given.append(call))
    helm_record.repeatable("again", ClusterAccess(kubeconfig="", context="test"))

    def call(args: ResourceHookArgs) -> None:
        answer: Awaitable[None] = given[0](args)

        async def wait() -> None:
            await answer

        asyncio.run(wait())

    return call


@pytest.mark.parametrize(
    ("old", "known"),
    [({"name": "istiod"}, True), (None, False), ({}, False)],
)
def test_the_record_of_the_release_in_question_goes_and_no_other(
    hook: Callable[[ResourceHookArgs], None],
    forgotten: list[tuple[str, dict[str, Any]]],
    old: dict[str, Any] | None,
    *,
    known: bool,
) -> None:
    inputs = {"name": "istiod", "namespace": "istio-system"}
    args = ResourceHookArgs(urn="u", id="i", name="n", type="t", new_inputs=inputs, old_inputs=old)

    hook(args)

    ((namespace, how),) = forgotten
    assert namespace == "istio-system"
    assert how["label_selector"] == selector("istiod", known=known)
    assert how["_request_timeout"], "an update must not hang on it"
