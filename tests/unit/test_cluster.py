"""Which cluster is taken, and what is said when it cannot be.

No cluster is needed: a small HTTP server on the loopback stands in for an API server.

1. The kubeconfig is found as kubectl finds it, and the context is never guessed.
2. An API server that does not answer is named, together with what to type.
3. Namespaces are refused before anything is registered in them.
4. The provider says no more about this machine than the settings do.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pulumi
import pytest
import yaml

from components import cluster
from components.cluster import Cluster, ClusterError, connect
from components.kinds import ClusterAccess
from tests.unit.conftest import Run

STACK = "service-mesh/test"
OTHER_STACK = "shop/live"


@dataclass
class Api:
    """A stand-in for an API server: what it answers, and what it was asked."""

    url: str
    answers: dict[str, tuple[int, object]] = field(
        default_factory=lambda: {"/version": (200, {"gitVersion": "v1.36.2"})}
    )
    asked: list[str] = field(default_factory=list)
    silent: threading.Event = field(default_factory=threading.Event)
    """Clear: it takes requests and does not answer them."""

    def has_namespace(
        self,
        name: str,
        *,
        labels: dict[str, str] | None = None,
        stack: str | None = None,
        deleted: str | None = None,
    ) -> None:
        metadata: dict[str, object] = {"name": name, "labels": labels}
        if stack is not None:
            metadata["annotations"] = {"service-mesh/stack": stack}
        if deleted is not None:
            metadata["deletionTimestamp"] = deleted
        self.answers[f"/api/v1/namespaces/{name}"] = (200, {"metadata": metadata})


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            stand_in.asked.append(self.path)
            stand_in.silent.wait()
            status, content = stand_in.answers.get(self.path, (404, {"reason": "NotFound"}))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(
                content if isinstance(content, bytes) else json.dumps(content).encode()
            )

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        stand_in = Api(url=f"http://127.0.0.1:{server.server_port}")
        stand_in.silent.set()
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            yield stand_in
        finally:
            stand_in.silent.set()
            server.shutdown()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a kubeconfig, so that no test sees a real cluster."""
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def write(file: Path, **contexts: str) -> Path:
    """A kubeconfig whose contexts lead to these servers; the first is the current one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": next(iter(contexts), ""),
                "clusters": [{"name": n, "cluster": {"server": s}} for n, s in contexts.items()],
                "users": [{"name": n, "user": {"token": "t"}} for n in contexts],
                "contexts": [{"name": n, "context": {"cluster": n, "user": n}} for n in contexts],
            }
        )
    )
    return file


def refusal(kubeconfig: Path | str, context: str) -> str:
    with pytest.raises(ClusterError) as error:
        connect(ClusterAccess(kubeconfig=str(kubeconfig), context=context))
    return str(error.value)


# 1. Which cluster


def test_the_context_that_was_asked_for_is_taken_not_the_current_one(
    api: Api, tmp_path: Path
) -> None:
    file = write(tmp_path / "config", current="http://127.0.0.1:9", mine=api.url)
    connect(ClusterAccess(kubeconfig=str(file), context="mine"))
    assert api.asked == ["/version"], "one quick question"


def test_no_context_is_refused_with_the_choices(tmp_path: Path) -> None:
    file = write(tmp_path / "config", kind="http://127.0.0.1:9", live="http://127.0.0.1:9")
    assert refusal(file, "").splitlines() == [
        'kubeContext is ""',
        f"  allowed: a context of {file}, which has kind, live; the current context is never taken "
        "silently",
        "  fix:     pulumi config set kubeContext NAME",
    ]


def test_the_only_context_is_proposed_but_not_taken(tmp_path: Path) -> None:
    file = write(tmp_path / "config", kind="http://127.0.0.1:9")
    assert refusal(file, "").endswith("fix:     pulumi config set kubeContext kind")


def test_an_unknown_context_is_refused_with_the_nearest(tmp_path: Path) -> None:
    file = write(tmp_path / "config", staging="http://127.0.0.1:9", live="http://127.0.0.1:9")
    message = refusal(file, "stagin")
    assert 'kubeContext is "stagin"' in message
    assert "which has live, staging" in message
    assert message.endswith("pulumi config set kubeContext staging")


def test_a_context_with_spaces_is_proposed_in_quotes(tmp_path: Path) -> None:
    file = write(tmp_path / "config", **{"my kind": "http://127.0.0.1:9"})
    assert refusal(file, "").endswith("pulumi config set kubeContext 'my kind'")


def test_a_kubeconfig_without_contexts_is_refused(tmp_path: Path) -> None:
    assert "which has none" in refusal(write(tmp_path / "config"), "kind")


def test_a_kubeconfig_in_the_home_is_the_default(api: Api, home: Path) -> None:
    write(home / ".kube" / "config", kind=api.url)
    connect(ClusterAccess(kubeconfig="", context="kind"))


def test_a_tilde_is_the_home(api: Api, home: Path) -> None:
    write(home / "other", kind=api.url)
    connect(ClusterAccess(kubeconfig="~/other", context="kind"))


def test_a_relative_kubeconfig_is_found_from_the_programs_folder(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "config", kind=api.url)
    monkeypatch.chdir(tmp_path)
    connect(ClusterAccess(kubeconfig="config", context="kind"))


def test_of_several_kubeconfigs_the_first_with_the_context_counts(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = tmp_path / "absent"
    first = write(tmp_path / "first", kind=api.url)
    second = write(tmp_path / "second", kind="http://127.0.0.1:9", live="http://127.0.0.1:9")
    monkeypatch.setenv("KUBECONFIG", f"{absent}:{first}::{second}")
    connect(ClusterAccess(kubeconfig="", context="kind"))
    message = refusal("", "")
    assert f"a context of {first}, {second}, which has kind, live" in message


def test_a_kubeconfig_that_is_given_beats_the_environment(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(write(tmp_path / "other", kind="http://127.0.0.1:9")))
    file = write(tmp_path / "mine", kind=api.url)
    connect(ClusterAccess(kubeconfig=str(file), context="kind"))


def test_no_kubeconfig_anywhere_is_refused() -> None:
    assert refusal("", "kind").splitlines() == [
        'kubeconfig is ""',
        "  allowed: a file that exists; ~/.kube/config does not",
        "  fix:     pulumi config set kubeconfig PATH",
    ]


def test_an_environment_that_names_no_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere/a:/nowhere/b")
    assert "a file that exists; /nowhere/a:/nowhere/b does not" in refusal("", "kind")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"contexts: [", "while parsing"),
        (b"just words", "no contexts in it"),
        (b"a: b", "no contexts in it"),
        (b"", "no contexts in it"),
        (b"contexts: [{}]", "no contexts in it"),
        (b"\xff\xfe\x00", "no contexts in it"),
    ],
    ids=["not-yaml", "a-text", "another-object", "empty", "nameless", "binary"],
)
def test_a_file_that_is_no_kubeconfig_is_refused(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    file = tmp_path / "config"
    file.write_bytes(content)
    message = refusal(file, "kind")
    assert message.startswith(f'kubeconfig is "{file}"')
    assert reason in message
    assert "pulumi config set kubeconfig PATH, or mend the file" in message


def test_a_kubeconfig_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path / "absent", "kind")
    assert message.startswith(f'kubeconfig is "{tmp_path}/absent"')
    assert "No such file or directory" in message


def test_a_folder_is_no_kubeconfig(tmp_path: Path) -> None:
    assert "Is a directory" in refusal(tmp_path, "kind")


def test_a_context_without_its_cluster_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "config", kind="http://127.0.0.1:9")
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"clusters": []}))
    message = refusal(file, "kind")
    assert 'kubeContext is "kind"' in message
    assert f"a context that is complete in {file}: " in message
    assert "pulumi config set kubeContext NAME" in message


def test_a_certificate_that_is_not_there_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "config", kind="https://127.0.0.1:9")
    content = yaml.safe_load(file.read_text())
    content["clusters"][0]["cluster"]["certificate-authority"] = "/nowhere/ca.crt"
    file.write_text(yaml.safe_dump(content))
    assert "/nowhere/ca.crt" in refusal(file, "kind")


# 2. Whether it answers


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "config", kind="http://127.0.0.1:9")  # "discard": nobody is there
    message = refusal(file, "kind")
    assert 'kubeContext is "kind"' in message
    assert "answers within 5 s; http://127.0.0.1:9 did not: " in message
    assert "Connection refused" in message
    assert f"kubectl --kubeconfig {file} --context kind version" in message
    assert "pulumi config set kubeContext NAME" in message


def test_a_server_that_never_answers_is_given_up_after_one_question(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_TIMEOUT_S", 0.05)
    api.silent.clear()
    assert "Read timed out" in refusal(write(tmp_path / "config", kind=api.url), "kind")
    assert api.asked == ["/version"], "retries would multiply the wait"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((404, {}), "not as Kubernetes does"),
        ((503, {}), "503 Service Unavailable"),
        ((200, b"<html>Welcome</html>"), "not as Kubernetes does"),
        ((200, {}), "not as Kubernetes does"),
        ((200, []), "not as Kubernetes does"),
    ],
    ids=["something-else", "overloaded", "a-web-page", "an-object", "a-list"],
)
def test_a_server_that_does_not_give_its_version_is_refused(
    api: Api, tmp_path: Path, answer: tuple[int, object], reason: str
) -> None:
    api.answers["/version"] = answer
    message = refusal(write(tmp_path / "config", kind=api.url), "kind")
    assert f"{api.url} did not: " in message
    assert reason in message
    assert len(message.splitlines()) == 3, message


@pytest.mark.parametrize(
    ("status", "reason"), [(401, "401 Unauthorized"), (403, "403 Forbidden")], ids=str
)
def test_a_server_that_does_not_let_us_in_is_refused(
    api: Api, tmp_path: Path, status: int, reason: str
) -> None:
    api.answers["/version"] = (status, {})
    key, allowed, fix = refusal(write(tmp_path / "config", kind=api.url), "kind").splitlines()
    assert key == 'kubeContext is "kind"'
    assert f"may get namespaces; {api.url} says {reason}" in allowed
    assert f"kubectl --kubeconfig {tmp_path}/config --context kind auth can-i get namesp" in fix


# 3. What is in the way


@pytest.fixture
def reached(api: Api, tmp_path: Path) -> Cluster:
    file = write(tmp_path / "config", kind=api.url)
    return connect(ClusterAccess(kubeconfig=str(file), context="kind"))


def namespace_refusal(reached: Cluster, *, adopt: bool = False) -> list[str]:
    with pytest.raises(ClusterError) as error:
        reached.check_namespace("shop", adopt=adopt, stack=STACK)
    return str(error.value).splitlines()


def test_a_namespace_that_does_not_exist_can_be_created(reached: Cluster) -> None:
    reached.check_namespace("shop", adopt=False, stack=STACK)


def test_the_stacks_own_namespace_is_no_obstacle(api: Api, reached: Cluster) -> None:
    api.has_namespace("shop", stack=STACK, labels={"istio-injection": "enabled"})
    reached.check_namespace("shop", adopt=False, stack=STACK)


def test_somebody_elses_namespace_is_refused_with_three_ways_out(
    api: Api, reached: Cluster, tmp_path: Path
) -> None:
    api.has_namespace("shop")
    assert namespace_refusal(reached) == [
        'namespace is "shop"',
        "  allowed: a namespace that does not exist yet; this one was made by somebody else",
        "  fix:     pulumi config set namespace NAME, or pulumi config set adoptNamespace true "
        f"(labels it only), or kubectl --kubeconfig {tmp_path}/config --context kind "
        "delete namespace shop (with all it holds)",
    ]


def test_a_namespace_that_is_never_adopted_is_refused_without_that_way_out(
    api: Api, reached: Cluster, tmp_path: Path
) -> None:
    api.has_namespace("watch", stack=OTHER_STACK)
    with pytest.raises(ClusterError) as error:
        reached.check_own_namespace("observabilityNamespace", "watch", stack=STACK)
    assert str(error.value).splitlines() == [
        'observabilityNamespace is "watch"',
        "  allowed: a namespace that does not exist yet; this one was made by shop/live",
        "  fix:     pulumi config set observabilityNamespace NAME, or "
        f"kubectl --kubeconfig {tmp_path}/config --context kind "
        "delete namespace watch (with all it holds)",
    ]


def test_a_namespace_of_ones_own_may_be_new_or_there_and_not_on_its_way_out(
    api: Api, reached: Cluster
) -> None:
    reached.check_own_namespace("observabilityNamespace", "watch", stack=STACK)
    api.has_namespace("watch", stack=STACK)
    reached.check_own_namespace("observabilityNamespace", "watch", stack=STACK)
    api.has_namespace("watch", stack=STACK, deleted="2026-01-01T00:00:00Z")
    with pytest.raises(ClusterError, match="watch is being deleted"):
        reached.check_own_namespace("observabilityNamespace", "watch", stack=STACK)


def test_another_stacks_namespace_is_refused_with_its_name(api: Api, reached: Cluster) -> None:
    api.has_namespace("shop", stack=OTHER_STACK)
    assert f"this one was made by {OTHER_STACK}" in namespace_refusal(reached)[1]


@pytest.mark.parametrize("stack", [None, OTHER_STACK], ids=["nobodys", "another-stacks"])
def test_a_namespace_that_exists_can_be_adopted(
    api: Api, reached: Cluster, stack: str | None
) -> None:
    api.has_namespace("shop", stack=stack, labels={"team": "shop"})
    reached.check_namespace("shop", adopt=True, stack=STACK)


def test_a_namespace_that_was_adopted_can_be_adopted_again(api: Api, reached: Cluster) -> None:
    api.has_namespace("shop", labels={"istio-injection": "enabled"})
    reached.check_namespace("shop", adopt=True, stack=STACK)


def test_a_namespace_that_does_not_exist_cannot_be_adopted(reached: Cluster) -> None:
    key, allowed, fix = namespace_refusal(reached, adopt=True)
    assert key == 'namespace is "shop"'
    assert "because adoptNamespace is true" in allowed
    assert "pulumi config set adoptNamespace false, or kubectl" in fix
    assert fix.endswith("create namespace shop")


def test_the_stacks_own_namespace_is_not_adopted(api: Api, reached: Cluster) -> None:
    """Pulumi would delete it, with all that runs in it, to label it afterwards."""
    api.has_namespace("shop", stack=STACK)
    key, allowed, fix = namespace_refusal(reached, adopt=True)
    assert key == 'adoptNamespace is "true"'
    assert "this stack made it" in allowed
    assert fix.endswith("pulumi config set adoptNamespace false")


@pytest.mark.parametrize("adopt", [False, True], ids=["own", "adopted"])
@pytest.mark.parametrize(
    ("label", "value"),
    [("istio.io/rev", "canary"), ("istio-injection", "disabled")],
    ids=["revision", "disabled"],
)
def test_another_injection_label_is_refused(
    api: Api, reached: Cluster, label: str, value: str, *, adopt: bool
) -> None:
    api.has_namespace("shop", labels={label: value}, stack=None if adopt else STACK)
    key, allowed, fix = namespace_refusal(reached, adopt=adopt)
    assert key == 'namespace is "shop"'
    assert f"it has {label}={value}" in allowed
    assert f"label namespace shop {label}-" in fix


@pytest.mark.parametrize("adopt", [False, True], ids=["own", "adopted"])
def test_a_label_of_the_stacks_own_revision_is_no_obstacle(
    api: Api, reached: Cluster, *, adopt: bool
) -> None:
    api.has_namespace("shop", labels={"istio.io/rev": "canary"}, stack=None if adopt else STACK)
    reached.check_namespace("shop", adopt=adopt, stack=STACK, revisions=["default", "canary"])


def by(manager: str, label: str) -> dict[str, Any]:
    """One entry of an object's managedFields."""
    return {"manager": manager, "fieldsV1": {"f:metadata": {"f:labels": {f"f:{label}": {}}}}}


def test_a_label_of_somebody_else_that_would_win_over_a_revisions_is_refused(
    api: Api, reached: Cluster
) -> None:
    api.has_namespace("shop", labels={"istio-injection": "enabled"})
    _, answer = api.answers["/api/v1/namespaces/shop"]
    found = cast("dict[str, Any]", answer)["metadata"]
    found["managedFields"] = [by("pulumi-kubernetes-1a2b", "istio-injection")]
    reached.check_namespace("shop", adopt=True, stack=STACK, revision="canary")

    found["managedFields"].append(by("kubectl-label", "istio-injection"))
    reached.check_namespace("shop", adopt=True, stack=STACK)
    with pytest.raises(ClusterError) as error:
        reached.check_namespace("shop", adopt=True, stack=STACK, revision="canary")
    key, allowed, fix = str(error.value).splitlines()
    assert key == 'namespaceRevision is "canary"'
    assert "which kubectl-label wrote" in allowed
    assert fix.endswith("label namespace shop istio-injection-")


@pytest.mark.parametrize("adopt", [False, True], ids=["own", "adopted"])
def test_a_namespace_that_is_being_deleted_is_waited_for(
    api: Api, reached: Cluster, *, adopt: bool
) -> None:
    api.has_namespace("shop", stack=STACK, deleted="2026-01-02T03:04:05Z")
    key, allowed, fix = namespace_refusal(reached, adopt=adopt)
    assert key == 'namespace is "shop"'
    assert "shop is being deleted since 2026-01-02T03:04:05Z" in allowed
    assert "wait --for=delete namespace/shop" in fix


def test_a_namespace_that_may_not_be_read_is_refused(api: Api, reached: Cluster) -> None:
    api.answers["/api/v1/namespaces/shop"] = (403, {})
    assert "403 Forbidden" in namespace_refusal(reached)[1]


def test_a_cluster_without_istio_is_fine(reached: Cluster) -> None:
    reached.check_control_plane(stack=STACK)


def test_the_stacks_own_istio_is_fine(api: Api, reached: Cluster) -> None:
    api.has_namespace("istio-system", stack=STACK)
    reached.check_control_plane(stack=STACK)


@pytest.mark.parametrize(
    ("owner", "said"), [(None, "somebody else"), (OTHER_STACK, OTHER_STACK)], ids=["none", "stack"]
)
def test_somebody_elses_istio_is_refused(
    api: Api, reached: Cluster, tmp_path: Path, owner: str | None, said: str
) -> None:
    api.has_namespace("istio-system", stack=owner)
    with pytest.raises(ClusterError) as error:
        reached.check_control_plane(stack=STACK)
    key, allowed, fix = str(error.value).splitlines()
    assert key == 'kubeContext is "kind"'
    assert f"its namespace istio-system was made by {said}" in allowed
    assert "pulumi config set kubeContext NAME" in fix
    assert f"istioctl uninstall --purge --kubeconfig {tmp_path}/config --context kind &&" in fix


def test_an_istio_that_is_being_deleted_is_waited_for(api: Api, reached: Cluster) -> None:
    api.has_namespace("istio-system", deleted="2026-01-02T03:04:05Z")
    with pytest.raises(ClusterError, match="wait --for=delete namespace/istio-system"):
        reached.check_control_plane(stack=STACK)


def test_a_cluster_error_is_printed_without_a_traceback() -> None:
    assert issubclass(ClusterError, pulumi.RunError)


# 4. The provider


def test_the_provider_is_told_the_context(
    reached: Cluster, run_program: Run, tmp_path: Path
) -> None:
    deployed = run_program(lambda: reached.provider("cluster"))
    assert deployed.named("cluster").inputs == {
        "context": "kind",
        "kubeconfig": f"{tmp_path}/config",
    }


def test_the_provider_is_not_told_this_machines_paths(
    api: Api, run_program: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(write(tmp_path / "config", kind=api.url)))
    reached = connect(ClusterAccess(kubeconfig="", context="kind"))
    deployed = run_program(lambda: reached.provider("cluster"))
    assert deployed.named("cluster").inputs == {"context": "kind", "kubeconfig": ""}


# 5. What is there


def listing(kind: str, *names: str, more: str = "") -> tuple[int, object]:
    items = [{"metadata": {"name": name}} for name in names]
    return 200, {
        "kind": f"{kind}List",
        "apiVersion": "v1",
        "metadata": {"continue": more},
        "items": items,
    }


def names(objects: list[dict[str, Any]]) -> list[str]:
    return [f"{one['kind']} {one['metadata']['name']}" for one in objects]


def test_objects_come_page_by_page_with_their_kind(api: Api, reached: Cluster) -> None:
    api.answers["/api/v1/pods?limit=500"] = listing("Pod", "a", more="b=/c")
    api.answers["/api/v1/pods?limit=500&continue=b%3D%2Fc"] = listing("Pod", "b")
    api.answers["/apis/apps/v1/deployments?limit=500"] = listing("Deployment", "c")

    found = reached.objects("pods", "deployments.apps")

    assert names(found) == ["Pod a", "Pod b", "Deployment c"]
    assert found[0]["apiVersion"] == "v1"


def test_objects_of_one_namespace_are_asked_for_there(api: Api, reached: Cluster) -> None:
    api.answers["/api/v1/namespaces/shop/pods?limit=500"] = listing("Pod", "a")

    assert names(reached.objects("pods", namespace="shop")) == ["Pod a"]


def test_a_kind_that_the_cluster_does_not_know_has_no_objects(reached: Cluster) -> None:
    assert reached.objects("peerauthentications.security.istio.io") == []
    assert reached.config_map("istio-system", "istio") is None


def test_a_config_map_says_what_it_is(api: Api, reached: Cluster) -> None:
    api.answers["/api/v1/namespaces/istio-system/configmaps/istio"] = 200, {"data": {"mesh": "x"}}

    found = reached.config_map("istio-system", "istio")

    assert found == {"apiVersion": "v1", "kind": "ConfigMap", "data": {"mesh": "x"}}


def test_objects_that_may_not_be_listed_are_named(api: Api, reached: Cluster) -> None:
    api.answers["/api/v1/pods?limit=500"] = 403, {}

    with pytest.raises(ClusterError) as error:
        reached.objects("pods")

    assert "may list pods --all-namespaces; " in str(error.value)
    assert "auth can-i list pods --all-namespaces, or" in str(error.value)
