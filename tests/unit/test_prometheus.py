"""Prometheus: what it scrapes and under which labels, how long it keeps it, what it may do.

The relabelling is worked on pods as discovery shows them; names of its labels are from
https://prometheus.io/docs/prometheus/latest/configuration/configuration/#kubernetes_sd_config.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from components.observability import Prometheus, PrometheusArgs
from components.observability.prometheus import prometheus_config
from tests.unit import charts
from tests.unit.conftest import Deploy, Deployed

ISTIOD = "istio-control/istio-discovery"


def relabelled(job: str, found: Mapping[str, str]) -> dict[str, str] | None:
    """The labels of a target after relabelling; None where it is dropped."""
    [config] = [one for one in prometheus_config()["scrape_configs"] if one["job_name"] == job]
    labels = {"job": job, "__metrics_path__": "/metrics", "__scheme__": "http", **found}
    for step in config["relabel_configs"]:
        value = ";".join(labels.get(label, "") for label in step.get("source_labels", []))
        match = re.fullmatch(step.get("regex", "(.*)"), value, re.ASCII | re.DOTALL)
        action = step.get("action", "replace")
        assert action in {"keep", "drop", "replace"}
        if (action == "keep" and not match) or (action == "drop" and match):
            return None
        if action == "replace" and match:
            template = re.sub(r"\$(\d)", r"\\\1", step.get("replacement", "$1"))
            labels[step["target_label"]] = match.expand(template)
    return {name: value for name, value in labels.items() if not name.startswith("__meta_")}


def pod(*, port: int, port_name: str = "", ip: str = "10.0.0.7", **more: str) -> dict[str, str]:
    """One port of a running pod of Bookinfo, with some of what discovery tells changed."""
    about = {
        "name": "details-v1-5d9",
        "ip": ip,
        "phase": "Running",
        "container_port_name": port_name,
        "label_app": "details",
        "label_version": "v1",
        "label_pod_template_hash": "5d9",
        **more,
    }
    address = f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
    return {
        "__address__": address,
        "__meta_kubernetes_namespace": more.pop("namespace", "bookinfo"),
        **{f"__meta_kubernetes_pod_{key}": value for key, value in about.items()},
    }


# as the injector writes them (pkg/kube/inject/webhook.go, applyPrometheusMerge)
INJECTED = {
    "annotation_prometheus_io_scrape": "true",
    "annotation_prometheus_io_port": "15020",
    "annotation_prometheus_io_path": "/stats/prometheus",
}
ISTIODS = {
    "name": "istiod-7c",
    "label_app": "istiod",
    "namespace": "istio-system",
    "annotation_prometheus_io_scrape": "true",
    "annotation_prometheus_io_port": "15014",
}
WHICH = {"namespace": "bookinfo", "pod": "details-v1-5d9", "app": "details", "version": "v1"}

JOBS = ["istiod", "kubernetes-pods", "envoy-stats"]


# what is scraped


def test_a_pod_with_a_sidecar_is_scraped_once_at_its_agent() -> None:
    by_the_application = relabelled("kubernetes-pods", pod(port=9080, **INJECTED))
    by_the_proxy = relabelled(
        "kubernetes-pods", pod(port=15090, port_name="http-envoy-prom", **INJECTED)
    )

    assert by_the_application == {
        "job": "kubernetes-pods",
        "__scheme__": "http",
        "__address__": "10.0.0.7:15020",
        "__metrics_path__": "/stats/prometheus",
        **WHICH,
    }
    assert by_the_proxy == by_the_application, "equal targets are one target"
    assert (
        relabelled("envoy-stats", pod(port=15090, port_name="http-envoy-prom", **INJECTED)) is None
    )


def test_an_ipv6_pod_is_scraped() -> None:
    found = relabelled("kubernetes-pods", pod(port=9080, ip="fd00::7", **INJECTED))

    assert found is not None
    assert found["__address__"] == "[fd00::7]:15020"


def test_a_proxy_whose_pod_is_not_scraped_is_scraped_itself() -> None:
    for asked in ({}, {"annotation_prometheus_io_scrape": "false"}):
        proxy = pod(port=15090, port_name="http-envoy-prom", **asked)
        assert relabelled("kubernetes-pods", proxy) is None
        assert relabelled("envoy-stats", proxy) == {
            "job": "envoy-stats",
            "__scheme__": "http",
            "__address__": "10.0.0.7:15090",
            "__metrics_path__": "/stats/prometheus",
            **WHICH,
        }


def test_istiod_has_a_job_of_its_own_and_only_one() -> None:
    monitoring = pod(port=15014, port_name="http-monitoring", **ISTIODS)

    assert relabelled("istiod", monitoring) == {
        "job": "istiod",
        "__scheme__": "http",
        "__address__": "10.0.0.7:15014",
        "__metrics_path__": "/metrics",
        "namespace": "istio-system",
        "pod": "istiod-7c",
    }
    assert relabelled("istiod", pod(port=15017, port_name="https-webhooks", **ISTIODS)) is None
    assert relabelled("kubernetes-pods", monitoring) is None


def test_somebody_elses_istiod_is_a_pod_like_any_other() -> None:
    other = {**ISTIODS, "namespace": "shop"}

    assert relabelled("kubernetes-pods", pod(port=15014, **other)) is not None


def test_istiod_is_found_by_what_its_chart_says() -> None:
    [config] = [one for one in prometheus_config()["scrape_configs"] if one["job_name"] == "istiod"]
    [discovery] = config["kubernetes_sd_configs"]
    deployment = (charts.FOLDER / ISTIOD / "templates/deployment.yaml").read_text()

    assert discovery["namespaces"] == {"names": ["istio-system"]}
    assert discovery["selectors"] == [{"role": "pod", "label": "app=istiod"}]
    assert "app: istiod" in deployment
    assert re.search(
        r"containerPort: 15014\n\s+protocol: TCP\n\s+name: http-monitoring", deployment
    )


def test_any_pod_can_ask_to_be_scraped_elsewhere() -> None:
    found = relabelled(
        "kubernetes-pods",
        pod(
            port=8080,
            annotation_prometheus_io_scrape="true",
            annotation_prometheus_io_scheme="https",
            annotation_prometheus_io_path="/m",
        ),
    )

    assert found is not None
    assert (found["__scheme__"], found["__address__"]) == ("https", "10.0.0.7:8080")
    assert found["__metrics_path__"] == "/m"


@pytest.mark.parametrize("phase", ["Pending", "Succeeded", "Failed"])
def test_a_pod_that_does_not_run_is_not_asked(phase: str) -> None:
    proxy = pod(port=15090, port_name="http-envoy-prom", phase=phase)

    assert relabelled("kubernetes-pods", {**proxy, **pod(port=1, phase=phase, **INJECTED)}) is None
    assert relabelled("envoy-stats", proxy) is None


def test_prometheus_scrapes_itself() -> None:
    itself = prometheus_config()["scrape_configs"][-1]

    assert itself["static_configs"] == [{"targets": ["localhost:9090"]}]


# STRICT


@pytest.mark.parametrize("port", ["15020", "15090"])
def test_no_port_that_is_scraped_goes_through_the_proxy(port: str) -> None:
    """So neither STRICT nor any other PeerAuthentication is asked."""
    template = (charts.FOLDER / ISTIOD / "files/injection-template.yaml").read_text()
    status_port = charts.defaults(ISTIOD)["global"]["proxy"]["statusPort"]
    # istio-iptables' ports that are not redirected: two by name, and the agent's
    [excluded] = re.findall(r'- "(15090,15021,\{\{ excludeInboundPort .*statusPort.*)"', template)

    assert port in excluded or (port == str(status_port) and "statusPort" in excluded)


# how it runs


def deployed_with(deploy: Deploy, **changes: Any) -> Deployed:
    return deploy(lambda opts: Prometheus("p", PrometheusArgs(**changes), opts))


def container(deployed: Deployed) -> dict[str, Any]:
    spec = deployed.named("p-deployment").inputs["spec"]["template"]["spec"]
    [only] = spec["containers"]
    return dict(only)


def test_the_pod_reads_the_configuration_that_is_deployed(deploy: Deploy) -> None:
    deployed = deployed_with(deploy)

    text = deployed.named("p-config").inputs["data"]["prometheus.yml"]
    assert yaml.safe_load(text) == prometheus_config()
    assert "--config.file=/etc/prometheus/prometheus.yml" in container(deployed)["args"]
    mounts = {one["mountPath"]: one for one in container(deployed)["volumeMounts"]}
    assert mounts["/etc/prometheus"]["readOnly"]
    assert "readOnly" not in mounts["/prometheus"]


def test_nobody_can_stop_or_change_it_over_http(deploy: Deploy) -> None:
    flags = " ".join(container(deployed_with(deploy))["args"])

    assert "--web.enable-lifecycle" not in flags
    assert "--web.enable-admin-api" not in flags


def test_it_may_look_at_pods_and_at_nothing_else(deploy: Deploy) -> None:
    [role] = deployed_with(deploy).of_kind("ClusterRole")
    roles = {
        discovery["role"]
        for config in prometheus_config()["scrape_configs"]
        for discovery in config.get("kubernetes_sd_configs", [])
    }

    assert roles == {"pod"}
    assert role.inputs["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    ]


def test_without_storage_samples_go_with_the_pod(deploy: Deploy) -> None:
    deployed = deployed_with(deploy, retention="6h")

    assert not deployed.of_kind("PersistentVolumeClaim")
    args = container(deployed)["args"]
    assert "--storage.tsdb.retention.time=6h" in args
    assert not [one for one in args if "retention.size" in one]
    spec = deployed.named("p-deployment").inputs["spec"]
    assert {"name": "data", "emptyDir": {}} in spec["template"]["spec"]["volumes"]
    assert spec["strategy"]["type"] == "RollingUpdate"


@pytest.mark.parametrize(
    ("storage", "kept"), [("10Gi", "8192MB"), ("500Mi", "400MB"), ("1Ti", "838860MB")]
)
def test_a_volume_is_filled_to_four_fifths_by_one_pod_at_a_time(
    deploy: Deploy, storage: str, kept: str
) -> None:
    deployed = deployed_with(deploy, storage=storage)

    [claim] = deployed.of_kind("PersistentVolumeClaim")
    assert claim.inputs["spec"]["resources"]["requests"] == {"storage": storage}
    assert claim.inputs["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert f"--storage.tsdb.retention.size={kept}" in container(deployed)["args"]
    spec = deployed.named("p-deployment").inputs["spec"]
    assert spec["strategy"]["type"] == "Recreate", "two pods cannot mount it"
    assert {
        "name": "data",
        "persistentVolumeClaim": {"claimName": claim.inputs["metadata"]["name"]},
    } in spec["template"]["spec"]["volumes"]
    assert claim.name in deployed.waits_for("p-deployment")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retention": "15"}, "retention is 15; expected a whole number and h, d, w or y"),
        ({"retention": "0h"}, "from 1h to 10y"),
        ({"retention": "11y"}, "from 1h to 10y"),
        ({"storage": "10G"}, "storage is 10G; expected a whole number"),
        ({"storage": ""}, "storage is ; expected a whole number"),
    ],
)
def test_what_prometheus_would_refuse_later_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        PrometheusArgs(**changes)
