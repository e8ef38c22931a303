"""The observers together: which parts, how they know of one another, and how each is run.

1. `Observability` makes what was asked for, and connects it.
2. Every pod of it is restricted, whatever its part says.
3. A workload's files, rights and secrets are what was declared, and a change restarts the pod.
"""

from __future__ import annotations

import re
from typing import Any

import pulumi
import pytest
import yaml

from components.observability import KialiAuth, Observability, ObservabilityArgs, Part, images
from components.observability.workload import (
    ConfigFile,
    Folder,
    Port,
    Probe,
    Rule,
    SecretFile,
    Workload,
    url,
)
from components.observability.workload import deploy as deploy_workload
from tests.unit.conftest import Deploy, Deployed, Registered

EVERYTHING = tuple(Part)


def observers(deploy: Deploy, *parts: Part, **changes: Any) -> Deployed:
    args = ObservabilityArgs(parts=parts or EVERYTHING, stack="mesh/dev", **changes)
    return deploy(lambda opts: Observability("o", args, opts))


def pods(deployed: Deployed) -> dict[str, dict[str, Any]]:
    """The pod templates, by the Deployment's name."""
    return {
        one.inputs["metadata"]["name"]: one.inputs["spec"]["template"]
        for one in deployed.of_kind("Deployment")
    }


# 1. Together


@pytest.mark.parametrize(
    "parts",
    [
        (Part.PROMETHEUS,),
        (Part.JAEGER,),
        (Part.PROMETHEUS, Part.GRAFANA),
        (Part.PROMETHEUS, Part.KIALI),
        EVERYTHING,
    ],
)
def test_the_parts_that_were_asked_for_are_there(deploy: Deploy, parts: tuple[Part, ...]) -> None:
    deployed = observers(deploy, *parts)

    assert pods(deployed).keys() == {part.value for part in parts}
    [outputs] = [
        outputs for urn, outputs in deployed.outputs.items() if urn.endswith(":Observability::o")
    ]
    assert outputs["urls"].keys() == {part.value for part in parts}


def test_every_address_is_a_service_that_is_there(deploy: Deploy) -> None:
    deployed = observers(deploy, namespace="watch")
    services = {
        (one.inputs["metadata"]["name"], port["port"])
        for one in deployed.of_kind("Service")
        for port in one.inputs["spec"]["ports"]
    }
    texts = [text for one in deployed.of_kind("ConfigMap") for text in one.inputs["data"].values()]
    named = set(re.findall(r"http://([\w-]+)\.watch\.svc\.cluster\.local(?::(\d+))?", str(texts)))

    assert {name for name, _ in named} == {"prometheus", "tracing", "grafana"}
    assert {(name, int(port or 80)) for name, port in named} <= services
    assert ".istio-system.svc" not in str(texts)


def test_kiali_knows_what_is_there_and_nothing_else(deploy: Deploy) -> None:
    for parts, links in (
        (EVERYTHING, {"grafana": True, "tracing": True}),
        ((Part.PROMETHEUS, Part.KIALI), {"grafana": False, "tracing": False}),
    ):
        deployed = observers(deploy, *parts, kiali_auth=KialiAuth.TOKEN)
        [text] = deployed.named("o-kiali-config").inputs["data"].values()
        services = yaml.safe_load(text)["external_services"]
        assert {name: services[name]["enabled"] for name in links} == links


def test_all_of_it_is_in_one_namespace(deploy: Deploy) -> None:
    for namespace in ("istio-system", "watch"):
        found = {
            one.inputs["metadata"]["namespace"]
            for one in observers(deploy, namespace=namespace).resources
            if "namespace" in one.inputs.get("metadata", {})
        }
        assert found == {namespace}


def test_a_namespace_of_its_own_is_made_restricted_and_awaited(deploy: Deploy) -> None:
    deployed = observers(deploy, namespace="watch")

    [namespace] = deployed.of_kind("Namespace")
    assert namespace.inputs["metadata"]["labels"] == {
        "pod-security.kubernetes.io/enforce": "restricted"
    }, "and no label of injection"
    assert namespace.inputs["metadata"]["annotations"]["service-mesh/stack"] == "mesh/dev"
    for one in deployed.resources:
        if one.inputs.get("metadata", {}).get("namespace") == "watch":
            assert namespace.name in deployed.waits_for(one.name), one.name


def test_the_root_namespace_is_somebody_elses(deploy: Deploy) -> None:
    assert not observers(deploy).of_kind("Namespace")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((), "parts is empty"),
        ((Part.KIALI,), "parts has kiali without prometheus"),
        ((Part.JAEGER, Part.GRAFANA), "parts has grafana without prometheus"),
    ],
)
def test_parts_that_would_show_nothing_are_refused(parts: tuple[Part, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ObservabilityArgs(parts=parts, stack="mesh/dev")


# 2. How they run


def test_every_image_is_of_the_table_and_pinned(deploy: Deploy) -> None:
    used = {
        container["image"]
        for pod in pods(observers(deploy)).values()
        for container in pod["spec"]["containers"]
    }

    assert used == {image.reference for image in images.ALL}
    for image in images.ALL:
        assert re.search(r":v?\d+\.\d+", image.reference), "a tag that names a release"
        assert image.user > 0
        assert image.source.startswith("https://")


def test_every_pod_passes_pod_securitys_restricted(deploy: Deploy) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted."""
    for name, pod in pods(observers(deploy)).items():
        of_pod = pod["spec"]["securityContext"]
        assert of_pod["runAsNonRoot"], name
        assert of_pod["runAsUser"] > 0
        assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod["spec"].keys()
        for container in pod["spec"]["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            }
        for volume in pod["spec"]["volumes"]:
            assert volume.keys() - {"name"} <= {
                "configMap",
                "emptyDir",
                "persistentVolumeClaim",
                "secret",
            }


def test_every_container_says_what_it_needs_and_when_it_is_ready(deploy: Deploy) -> None:
    for name, pod in pods(observers(deploy)).items():
        for container in pod["spec"]["containers"]:
            resources = container["resources"]
            assert resources["requests"].keys() == {"cpu", "memory"}, name
            assert resources["limits"].keys() == {"memory"}
            assert container["readinessProbe"]["httpGet"]["port"]


def test_no_pod_of_them_is_in_the_mesh(deploy: Deploy) -> None:
    for name, pod in pods(observers(deploy)).items():
        assert pod["metadata"]["labels"]["sidecar.istio.io/inject"] == "false", name


def test_nothing_is_reachable_from_outside(deploy: Deploy) -> None:
    for one in observers(deploy).of_kind("Service"):
        assert one.inputs["spec"]["type"] == "ClusterIP", one.name


def test_every_service_finds_its_pod_and_nobody_elses(deploy: Deploy) -> None:
    deployed = observers(deploy)
    for one in deployed.of_kind("Service"):
        selector = one.inputs["spec"]["selector"].items()
        found = [
            name
            for name, pod in pods(deployed).items()
            if selector <= pod["metadata"]["labels"].items()
        ]
        assert len(found) == 1, one.name


def test_only_who_asks_the_kubernetes_api_has_credentials_for_it(deploy: Deploy) -> None:
    deployed = observers(deploy)

    for account in deployed.of_kind("ServiceAccount"):
        assert account.inputs["automountServiceAccountToken"] is False
    tokens = {n: pod["spec"]["automountServiceAccountToken"] for n, pod in pods(deployed).items()}
    assert tokens == {"prometheus": True, "kiali": True, "grafana": False, "jaeger": False}


def test_nobody_may_change_anything_or_read_secrets(deploy: Deploy) -> None:
    for role in observers(deploy).of_kind("ClusterRole"):
        for rule in role.inputs["rules"]:
            assert set(rule["verbs"]) <= {"get", "list", "watch"}, role.name
            assert "secrets" not in rule["resources"]
            assert not ("" in rule["apiGroups"] and "*" in rule["resources"])
            assert "*" not in rule["apiGroups"]


def test_cluster_wide_names_carry_the_namespace(deploy: Deploy) -> None:
    deployed = observers(deploy, namespace="watch")

    roles = deployed.of_kind("ClusterRole")
    assert {one.inputs["metadata"]["name"] for one in roles} == {"kiali-watch", "prometheus-watch"}
    for binding in deployed.of_kind("ClusterRoleBinding"):
        [subject] = binding.inputs["subjects"]
        assert subject["namespace"] == "watch"
        name = f"{subject['name']}-watch"
        assert binding.inputs["roleRef"]["name"] == binding.inputs["metadata"]["name"] == name


# 3. A workload


def workload(**changes: Any) -> Workload:
    return Workload(
        **{
            "name": "thing",
            "namespace": "watch",
            "image": images.Image(reference="example.com/thing:1.0", user=7, source="https://e"),
            "services": {"thing": (Port(name="http", number=80, target=8080),)},
            "ready": Probe(path="/", port=8080),
            **changes,
        }
    )


class _Thing(pulumi.ComponentResource):
    def __init__(self, wanted: Workload, opts: pulumi.ResourceOptions) -> None:
        super().__init__("service-mesh:test:Thing", "t", {}, opts)
        deploy_workload("t", wanted, self)
        self.register_outputs({})


def thing(deploy: Deploy, **changes: Any) -> Deployed:
    wanted = workload(**changes)
    return deploy(lambda opts: _Thing(wanted, opts))


def template(deployed: Deployed) -> dict[str, Any]:
    return dict(deployed.named("t-deployment").inputs["spec"]["template"])


def secret(path: str, value: str, key: str = "password") -> SecretFile:
    return SecretFile(key=key, path=path, value=value)


def test_files_stand_where_they_were_declared(deploy: Deploy) -> None:
    deployed = thing(
        deploy,
        config=(
            ConfigFile(path="/etc/thing/a.yaml", text="a"),
            ConfigFile(path="/etc/thing/b.yaml", text="b"),
            ConfigFile(path="/etc/other/c.yaml", text="c"),
        ),
        secrets=(secret("/run/secrets/one/value.txt", "x"),),
        folders=(Folder(name="data", path="/data"),),
    )

    spec = template(deployed)["spec"]
    mounts = {one["name"]: one["mountPath"] for one in spec["containers"][0]["volumeMounts"]}
    files: dict[str, str] = {}
    for volume in spec["volumes"]:
        source = volume.get("configMap") or volume.get("secret")
        for item in (source or {}).get("items", []):
            files[f"{mounts[volume['name']]}/{item['path']}"] = item["key"]
    assert files == {
        "/etc/thing/a.yaml": "a.yaml",
        "/etc/thing/b.yaml": "b.yaml",
        "/etc/other/c.yaml": "c.yaml",
        "/run/secrets/one/value.txt": "password",
    }
    assert deployed.named("t-config").inputs["data"] == {
        "a.yaml": "a",
        "b.yaml": "b",
        "c.yaml": "c",
    }
    assert mounts["data"] == "/data"
    [secrets] = [one["secret"] for one in spec["volumes"] if "secret" in one]
    assert secrets["secretName"] == "thing"
    assert secrets["defaultMode"] == 0o440, "the pod's group, and nobody else"


def test_a_change_of_configuration_restarts_the_pod(deploy: Deploy) -> None:
    def checksum(text: str) -> str:
        config = (ConfigFile(path="/etc/thing/a.yaml", text=text),)
        return str(template(thing(deploy, config=config))["metadata"]["annotations"])

    assert checksum("a") == checksum("a")
    assert checksum("a") != checksum("b")


def test_a_change_of_a_secret_restarts_the_pod_and_tells_nothing_of_it(deploy: Deploy) -> None:
    deployed = thing(deploy, secrets=(secret("/s/value.txt", "hunter2"),))

    version = deployed.named("t-secrets-version")
    assert "hunter2" in str(version.inputs["keepers"]), "another value makes another version"
    annotations = template(deployed)["metadata"]["annotations"]
    assert annotations == {"service-mesh/secrets-version": "made up for t-secrets-version"}


def test_a_secret_is_one_to_pulumi_even_if_it_came_as_a_plain_text(deploy: Deploy) -> None:
    deployed = thing(deploy, secrets=(secret("/s/value.txt", "hunter2"),))

    for name, where in (("t-secrets", "stringData"), ("t-secrets-version", "keepers")):
        assert pulumi.runtime.rpc.is_rpc_secret(deployed.named(name).inputs[where]), name
    for one in deployed.resources:
        if one.name not in {"t-secrets", "t-secrets-version"}:
            assert "hunter2" not in str(one.inputs), one.name


def needed(deployed: Deployed) -> set[str]:
    return deployed.waits_for("t-deployment") - {"t"}


def test_a_pod_is_born_after_all_it_mounts_and_may_do(deploy: Deploy) -> None:
    deployed = thing(
        deploy,
        config=(ConfigFile(path="/etc/thing/a.yaml", text="a"),),
        secrets=(secret("/s/value.txt", "x"),),
        folders=(Folder(name="data", path="/data", storage="1Gi"),),
        rules=(Rule(groups=("",), resources=("pods",)),),
    )

    assert needed(deployed) == {
        "t-account",
        "t-config",
        "t-data",
        "t-role",
        "t-role-binding",
        "t-secrets",
        "t-secrets-version",
    }
    assert needed(thing(deploy)) == {"t-account"}


def kinds(resources: list[Registered]) -> set[str]:
    return {one.type.split(":")[-1] for one in resources}


def test_nothing_is_made_that_was_not_asked_for(deploy: Deploy) -> None:
    assert kinds(thing(deploy).resources) == {
        "Deployment",
        "Service",
        "ServiceAccount",
        "Thing",
        "kubernetes",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"config": (ConfigFile(path="/a/x", text=""), ConfigFile(path="/b/x", text=""))},
            "configuration file x is there twice",
        ),
        (
            {"secrets": (secret("/a/x", "1"), secret("/b/x", "2"))},
            "secret password is there twice",
        ),
        (
            {"config": (ConfigFile(path="/a/x", text=""),), "secrets": (secret("/a/y", "1"),)},
            "folder /a is there twice",
        ),
        (
            {
                "config": (ConfigFile(path="/a/x", text=""),),
                "folders": (Folder(name="a", path="/a"),),
            },
            "folder /a is there twice",
        ),
    ],
)
def test_files_that_would_hide_one_another_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        workload(**changes)


@pytest.mark.parametrize(
    ("port", "address"),
    [(80, "http://a.b.svc.cluster.local"), (9090, "http://a.b.svc.cluster.local:9090")],
)
def test_an_address_names_the_port_where_http_does_not(port: int, address: str) -> None:
    assert url("a", "b", port) == address
