"""Jaeger's configuration hangs together, its ports are the Services', and a Telemetry uses it.

The names of its components are those of Jaeger 2's own cmd/jaeger/internal/all-in-one.yaml.
"""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from components.observability import Jaeger, JaegerArgs, MeshTelemetry, MeshTelemetryArgs
from components.observability.jaeger import collector_host, jaeger_config
from tests.unit import charts
from tests.unit.conftest import Deploy, Deployed

CONFIG: Any = jaeger_config(max_traces=500)


def deployed_with(deploy: Deploy, **changes: Any) -> Deployed:
    return deploy(lambda opts: Jaeger("j", JaegerArgs(**changes), opts))


def test_everything_in_use_is_configured_and_everything_configured_is_in_use() -> None:
    service = CONFIG["service"]
    [pipeline] = service["pipelines"].values()

    assert set(service["extensions"]) == CONFIG["extensions"].keys()
    for kind in ("receivers", "processors", "exporters"):
        assert set(pipeline[kind]) == CONFIG[kind].keys()


def test_what_is_written_is_what_is_asked() -> None:
    [(name, backend)] = CONFIG["extensions"]["jaeger_storage"]["backends"].items()

    assert backend == {"memory": {"max_traces": 500}}
    assert CONFIG["exporters"]["jaeger_storage_exporter"]["trace_storage"] == name
    assert CONFIG["extensions"]["jaeger_query"]["storage"]["traces"] == name


def test_every_port_of_a_service_is_one_jaeger_listens_on(deploy: Deploy) -> None:
    deployed = deployed_with(deploy)
    ports = {
        one.inputs["metadata"]["name"]: {
            port["name"]: (port["port"], port["targetPort"]) for port in one.inputs["spec"]["ports"]
        }
        for one in deployed.of_kind("Service")
    }

    assert ports == {
        "jaeger-collector": {"grpc-otlp": (4317, 4317), "http-otlp": (4318, 4318)},
        "tracing": {"http-query": (80, 16686), "grpc-query": (16685, 16685)},
    }
    query, otlp = CONFIG["extensions"]["jaeger_query"], CONFIG["receivers"]["otlp"]["protocols"]
    listening = [query["http"], query["grpc"], otlp["grpc"], otlp["http"]]
    assert [one["endpoint"] for one in listening] == [
        "0.0.0.0:16686",
        "0.0.0.0:16685",
        "0.0.0.0:4317",
        "0.0.0.0:4318",
    ]


def test_probes_and_prometheus_find_what_they_ask_for(deploy: Deploy) -> None:
    template = deployed_with(deploy).named("j-deployment").inputs["spec"]["template"]
    [container] = template["spec"]["containers"]
    health = CONFIG["extensions"]["healthcheckv2"]
    [reader] = CONFIG["service"]["telemetry"]["metrics"]["readers"]
    metrics = reader["pull"]["exporter"]["prometheus"]

    for probe in ("readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/status", "port": 13133}
    assert health == {"use_v2": True, "http": {"endpoint": "0.0.0.0:13133"}}
    assert template["metadata"]["annotations"]["prometheus.io/port"] == str(metrics["port"])


def test_the_pod_reads_the_configuration_that_is_deployed(deploy: Deploy) -> None:
    deployed = deployed_with(deploy, max_traces=500)

    assert yaml.safe_load(deployed.named("j-config").inputs["data"]["config.yaml"]) == CONFIG
    spec = deployed.named("j-deployment").inputs["spec"]["template"]["spec"]
    assert spec["containers"][0]["args"] == ["--config", "/etc/jaeger/config.yaml"]


def test_jaeger_asks_nothing_of_the_kubernetes_api(deploy: Deploy) -> None:
    deployed = deployed_with(deploy)

    assert not deployed.of_kind("ClusterRole")
    spec = deployed.named("j-deployment").inputs["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False


def test_a_limit_that_would_be_none_is_refused() -> None:
    with pytest.raises(ValueError, match="max_traces is 0; expected 1 or more"):
        JaegerArgs(max_traces=0)


# Telemetry


def test_the_demo_profile_has_the_provider_under_our_name_and_address() -> None:
    mesh = charts.profile("istio-control/istio-discovery", "demo")["meshConfig"]
    [jaeger] = [one for one in mesh["extensionProviders"] if one["name"] == "jaeger"]

    assert jaeger["opentelemetry"] == {"service": collector_host("istio-system"), "port": 4317}


@pytest.mark.parametrize(
    ("args", "spec"),
    [
        (
            MeshTelemetryArgs(tracing="jaeger"),
            {"tracing": [{"providers": [{"name": "jaeger"}]}]},
        ),
        (
            MeshTelemetryArgs(access_log=True),
            {"accessLogging": [{"providers": [{"name": "envoy"}], "disabled": False}]},
        ),
        # without a provider it would be no choice, and meshConfig's access log would go on
        (
            MeshTelemetryArgs(access_log=False),
            {"accessLogging": [{"providers": [{"name": "envoy"}], "disabled": True}]},
        ),
    ],
    ids=["traces", "log", "no-log"],
)
def test_the_mesh_wide_telemetry_says_what_was_chosen_and_no_more(
    deploy: Deploy, args: MeshTelemetryArgs, spec: dict[str, Any]
) -> None:
    [found] = deploy(lambda opts: MeshTelemetry("t", args, opts)).of_kind("Telemetry")

    assert found.inputs["spec"] == spec
    metadata = found.inputs["metadata"]
    assert (metadata["name"], metadata["namespace"]) == ("mesh-default", "istio-system")


def test_a_telemetry_that_says_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="needs tracing or access_log"):
        MeshTelemetryArgs()
