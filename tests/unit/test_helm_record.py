"""Helm's records of an update that was killed: which of them go, and from where."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import kubernetes.client
import kubernetes.config
import pytest
from pulumi import ResourceHookArgs
from urllib3.exceptions import HTTPError

from components import helm_record
from components.helm_record import selector
from components.kinds import ClusterAccess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UNFINISHED = "status in (pending-install,pending-upgrade,pending-rollback)"


def test_of_a_release_that_the_state_has_only_what_was_not_finished_goes() -> None:
    assert selector("istiod", known=True) == f"owner=helm,name=istiod,{UNFINISHED}"


def test_of_a_release_that_the_state_does_not_have_all_goes() -> None:
    assert selector("istiod", known=False) == "owner=helm,name=istiod"


class ApiServer(BaseHTTPRequestHandler):
    """Writes down what is to be deleted, and answers as it is told."""

    asked: ClassVar[list[str]] = []
    status: ClassVar[int] = 200
    answers_after_s: ClassVar[float] = 0

    def do_DELETE(self) -> None:
        self.asked.append(self.path)
        time.sleep(self.answers_after_s)
        # a client that waits no longer
        with suppress(ConnectionError):
            self.send_response(self.status)
            self.end_headers()
            self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[ApiServer]]:
    class Here(ApiServer):
        asked: ClassVar[list[str]] = []

    with ThreadingHTTPServer(("127.0.0.1", 0), Here) as listening:
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        host = f"http://127.0.0.1:{listening.server_port}"

        def connected(**how: object) -> kubernetes.client.ApiClient:
            assert how == {"config_file": None, "context": "test"}
            return kubernetes.client.ApiClient(kubernetes.client.Configuration(host=host))

        monkeypatch.setattr(kubernetes.config, "new_client_from_config", connected)
        yield Here
        listening.shutdown()


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


def _args(old: dict[str, Any] | None = None) -> ResourceHookArgs:
    inputs = {"name": "istiod", "namespace": "istio-system"}
    return ResourceHookArgs(urn="u", id="i", name="n", type="t", new_inputs=inputs, old_inputs=old)


@pytest.mark.parametrize(
    ("old", "known"),
    [({"name": "istiod"}, True), (None, False), ({}, False)],
)
def test_the_record_of_the_release_in_question_goes_and_no_other(
    hook: Callable[[ResourceHookArgs], None],
    server: type[ApiServer],
    old: dict[str, Any] | None,
    *,
    known: bool,
) -> None:
    hook(_args(old))

    (asked,) = map(urlsplit, server.asked)
    assert asked.path == "/api/v1/namespaces/istio-system/secrets"
    assert parse_qs(asked.query) == {"labelSelector": [selector("istiod", known=known)]}


def test_a_record_that_may_not_be_deleted_ends_the_update(
    hook: Callable[[ResourceHookArgs], None], server: type[ApiServer]
) -> None:
    server.status = 403

    with pytest.raises(kubernetes.client.ApiException, match="403"):
        hook(_args())


def test_an_update_does_not_hang_on_a_record(
    hook: Callable[[ResourceHookArgs], None],
    server: type[ApiServer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(helm_record, "_TIMEOUT_S", 0.05)
    server.answers_after_s = 0.5

    with pytest.raises(HTTPError, match="timed out"):
        hook(_args())
