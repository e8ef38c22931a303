"""What a container of the lab sees: environment, user, mounts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.node.container import Surroundings, expand, launcher, variables
from lab.node.images import Image
from lab.paths import ROOT

POD: dict[str, Any] = {
    "metadata": {"name": "reviews-v1-abc", "namespace": "bookinfo", "labels": {"app": "reviews"}},
    "spec": {"serviceAccountName": "bookinfo-reviews", "nodeName": "lab"},
    "status": {"podIP": "10.244.0.9", "hostIP": "10.244.255.254"},
}
IMAGE = Image(entrypoint=("/usr/local/bin/pilot-agent",), user=1337)


def _container(**more: Any) -> dict[str, Any]:
    return {"name": "app", "image": "example/app:1", **more}


def test_variables_refer_to_the_pods_own_fields() -> None:
    env = [
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "URL", "value": "http://$(IP):80/$(UNKNOWN)"},
    ]
    found = variables(POD, _container(env=env), {"KUBERNETES_SERVICE_HOST": "10.96.0.1"})
    assert found["POD_NAME"] == "reviews-v1-abc"
    assert found["APP"] == "reviews"
    assert found["URL"] == "http://10.244.0.9:80/$(UNKNOWN)"
    assert found["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"


def test_limits_are_given_in_the_downward_apis_units() -> None:
    container = _container(
        resources={"limits": {"cpu": "1500m", "memory": "128Mi"}},
        env=[
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
        ],
    )
    found = variables(POD, container, {})
    assert found["CPU"] == "2"  # whole cores, rounded up
    assert found["MEM"] == str(128 * 2**20)


@pytest.mark.parametrize(
    ("text", "expected"), [("$(A)-$(A)", "1-1"), ("$(B)", "$(B)"), ("$A", "$A"), ("", "")]
)
def test_only_known_references_are_expanded(text: str, expected: str) -> None:
    assert expand(text, {"A": "1"}) == expected


@pytest.mark.parametrize(
    ("pod_user", "container_user", "expected"),
    [(None, None, 1337), (1000, None, 1000), (1000, 0, 0), (None, 2000, 2000)],
    ids=["image", "pod", "container-root-beats-pod", "container"],
)
def test_the_narrowest_security_context_names_the_user(
    tmp_path: Path, pod_user: int | None, container_user: int | None, expected: int
) -> None:
    pod = {**POD, "spec": {**POD["spec"]}}
    container = _container()
    if pod_user is not None:
        pod["spec"]["securityContext"] = {"runAsUser": pod_user}
    if container_user is not None:
        container["securityContext"] = {"runAsUser": container_user}
    script = launcher(_surroundings(tmp_path, pod), container, IMAGE)
    assert f"--reuid={expected} " in script


def test_with_one_user_id_nobody_becomes_another(tmp_path: Path) -> None:
    script = launcher(_surroundings(tmp_path, POD, single_uid=True), _container(), IMAGE)
    assert "setpriv" not in script


def test_a_command_replaces_the_entrypoint_and_args_do_not(tmp_path: Path) -> None:
    around = _surroundings(tmp_path, POD)
    assert "/usr/local/bin/pilot-agent proxy" in launcher(around, _container(args=["proxy"]), IMAGE)
    script = launcher(around, _container(command=["sleep"], args=["9"]), IMAGE)
    assert "sleep 9" in script
    assert "pilot-agent proxy" not in script


def test_volumes_are_mounted_where_the_container_wants_them(tmp_path: Path) -> None:
    container = _container(volumeMounts=[{"name": "tmp", "mountPath": "/opt/ibm/wlp/output"}])
    script = launcher(_surroundings(tmp_path, POD), container, IMAGE)
    assert f"bind {tmp_path}/volumes/tmp /opt/ibm/wlp/output" in script


def test_a_volume_never_hides_the_programs_of_the_lab(tmp_path: Path) -> None:
    container = _container(volumeMounts=[{"name": "tmp", "mountPath": "/tmp"}])
    script = launcher(_surroundings(tmp_path, POD), container, IMAGE)
    mounted = [line.split()[2] for line in script.splitlines() if line.startswith("bind /")]
    assert mounted.index("/tmp") < mounted.index(str(ROOT / "lab"))


@pytest.mark.parametrize("read_only", [True, False])
def test_a_read_only_root_is_made_so_after_everything_has_been_put_there(
    tmp_path: Path, *, read_only: bool
) -> None:
    container = _container(
        securityContext={"readOnlyRootFilesystem": read_only},
        volumeMounts=[{"name": "data", "mountPath": "/prometheus"}],
    )
    lines = launcher(_surroundings(tmp_path, POD), container, IMAGE).splitlines()
    made = [n for n, line in enumerate(lines) if line == "mount -o remount,bind,ro $R"]
    assert len(made) == read_only
    written = [n for n, line in enumerate(lines) if line.startswith(("bind ", "cp ", "mkdir "))]
    assert all(n > max(written) for n in made)


def test_a_container_does_not_see_the_state_of_the_lab(tmp_path: Path) -> None:
    script = launcher(_surroundings(tmp_path, POD), _container(), IMAGE)
    mounted = [line.split()[1] for line in script.splitlines() if line.startswith("bind ")]
    assert not [path for path in mounted if path.rstrip("/").endswith((".lab", "kwok"))]
    assert "/" not in mounted
    assert "/root" not in mounted
    assert "/etc" not in mounted


def _surroundings(folder: Path, pod: dict[str, Any], *, single_uid: bool = False) -> Surroundings:
    return Surroundings(
        pod=pod,
        folder=folder,
        logs=folder / "logs",
        netns="pod-1",
        environment={},
        single_uid=single_uid,
    )
