"""Grafana: provisioned, closed to strangers, and its password in one Secret alone."""

from __future__ import annotations

import json
from typing import Any

import pulumi
import pytest
import yaml
from pulumi.runtime import rpc

from components.observability.dashboards import MESH, MTLS
from components.observability.grafana import (
    ADMIN,
    PASSWORD_KEY,
    Grafana,
    GrafanaArgs,
    dashboard_providers,
    data_sources,
)
from tests.unit.conftest import Deploy, Deployed

PROMETHEUS = "http://prometheus.watch.svc.cluster.local:9090"
PASSWORD = "correct horse battery staple"  # noqa: S105 - a test's


def grafana(**changes: Any) -> GrafanaArgs:
    return GrafanaArgs(**{"namespace": "watch", "prometheus_url": PROMETHEUS, **changes})


def deploy_grafana(deploy: Deploy, **changes: Any) -> Deployed:
    return deploy(lambda opts: Grafana("grafana", grafana(**changes), opts))


def secret(value: object) -> object:
    """What is inside of a secret's envelope; an error where there is none."""
    assert isinstance(value, dict)
    assert value[rpc._special_sig_key] == rpc._special_secret_sig, "not a secret"
    return value["value"]


def container(deployed: Deployed) -> dict[str, Any]:
    [deployment] = deployed.of_kind("Deployment")
    [one] = deployment.inputs["spec"]["template"]["spec"]["containers"]
    return dict(one)


def environment(deployed: Deployed) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container(deployed)["env"]}


def files(deployed: Deployed) -> dict[str, str]:
    """What is in the container, by path: the mounted files of the ConfigMap and the Secret."""
    [config] = deployed.of_kind("ConfigMap")
    [secrets] = deployed.of_kind("Secret")
    hidden = secret(secrets.inputs["stringData"])
    assert isinstance(hidden, dict)
    [deployment] = deployed.of_kind("Deployment")
    pod = deployment.inputs["spec"]["template"]["spec"]
    mounts = {m["name"]: m["mountPath"] for m in container(deployed)["volumeMounts"]}
    found: dict[str, str] = {}
    for volume in pod["volumes"]:
        for kind, data in (("configMap", config.inputs["data"]), ("secret", hidden)):
            for item in volume.get(kind, {}).get("items", []):
                found[f"{mounts[volume['name']]}/{item['path']}"] = data[item["key"]]
    return found


def test_a_password_is_made_up_and_stands_in_the_secret_alone(deploy: Deploy) -> None:
    deployed = deploy_grafana(deploy)

    [password] = deployed.of_kind("RandomPassword")
    assert password.inputs["length"] >= 24
    [kept] = deployed.of_kind("Secret")
    assert kept.inputs["metadata"]["name"] == "grafana"
    assert secret(kept.inputs["stringData"]) == {PASSWORD_KEY: f"made up for {password.name}"}


def test_a_given_password_is_made_a_secret_wherever_it_goes(deploy: Deploy) -> None:
    deployed = deploy_grafana(deploy, admin_password=PASSWORD)

    assert not deployed.of_kind("RandomPassword")
    [kept] = deployed.of_kind("Secret")
    assert secret(kept.inputs["stringData"]) == {PASSWORD_KEY: PASSWORD}
    for one in deployed.resources:
        open_inputs = {
            key: value
            for key, value in one.inputs.items()
            if not (isinstance(value, dict) and rpc._special_sig_key in value)
        }
        assert PASSWORD not in json.dumps(open_inputs), f"readable in {one.name}"
    assert PASSWORD not in json.dumps(deployed.outputs)


@pytest.mark.parametrize("nothing", [None, ""])
def test_no_password_means_one_that_is_made_up(deploy: Deploy, nothing: str | None) -> None:
    assert deploy_grafana(deploy, admin_password=nothing).of_kind("RandomPassword")


def test_the_password_is_a_secret_for_whoever_uses_it(deploy: Deploy) -> None:
    def build(opts: pulumi.ResourceOptions) -> None:
        one = Grafana("grafana", grafana(admin_password=PASSWORD), opts)
        Grafana(
            "other", grafana(namespace="other", admin_password=one.admin_password.apply(str)), opts
        )

    other = deploy(build).named("other-secrets")

    assert secret(other.inputs["stringData"]) == {PASSWORD_KEY: PASSWORD}


def test_the_program_reads_the_password_from_a_mounted_file(deploy: Deploy) -> None:
    deployed = deploy_grafana(deploy, admin_password=PASSWORD)
    variables = environment(deployed)

    assert files(deployed)[variables["GF_SECURITY_ADMIN_PASSWORD__FILE"]] == PASSWORD
    assert variables["GF_SECURITY_ADMIN_USER"] == ADMIN
    assert "GF_SECURITY_ADMIN_PASSWORD" not in variables


def test_nobody_gets_in_without_it(deploy: Deploy) -> None:
    variables = environment(deploy_grafana(deploy))

    assert variables["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    assert variables["GF_USERS_ALLOW_SIGN_UP"] == "false"


def test_nothing_is_told_or_fetched_outside(deploy: Deploy) -> None:
    variables = environment(deploy_grafana(deploy))

    assert variables["GF_ANALYTICS_REPORTING_ENABLED"] == "false"
    assert variables["GF_ANALYTICS_CHECK_FOR_UPDATES"] == "false"
    assert variables["GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES"] == "false"
    assert variables["GF_PLUGINS_PREINSTALL_DISABLED"] == "true"


def test_it_has_no_credentials_of_the_cluster(deploy: Deploy) -> None:
    deployed = deploy_grafana(deploy)

    assert not deployed.of_kind("ClusterRole")
    [deployment] = deployed.of_kind("Deployment")
    assert deployment.inputs["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_provisioned_files_lie_where_the_image_looks(deploy: Deploy) -> None:
    found = files(deploy_grafana(deploy))

    sources = yaml.safe_load(found["/etc/grafana/provisioning/datasources/datasources.yaml"])
    assert sources == data_sources(grafana())
    providers = yaml.safe_load(found["/etc/grafana/provisioning/dashboards/providers.yaml"])
    assert providers == dashboard_providers()
    [provider] = providers["providers"]
    for dashboard in (MESH, MTLS):
        text = found[f"{provider['options']['path']}/{dashboard.uid}.json"]
        assert json.loads(text)["title"] == dashboard.title


def test_no_folder_is_mounted_inside_of_one_that_cannot_be_written(deploy: Deploy) -> None:
    mounts = container(deploy_grafana(deploy))["volumeMounts"]
    read_only = [m["mountPath"] for m in mounts if m.get("readOnly")]

    assert read_only
    for mount in mounts:
        for folder in read_only:
            assert not mount["mountPath"].startswith(f"{folder}/"), "it could not be made there"


def test_all_it_writes_goes_to_folders_of_its_own(deploy: Deploy) -> None:
    deployed = deploy_grafana(deploy)
    mounts = container(deployed)["volumeMounts"]
    writable = {m["mountPath"] for m in mounts if not m.get("readOnly")}

    assert writable == {"/var/lib/grafana", "/tmp"}
    assert environment(deployed)["GF_PATHS_LOGS"].startswith("/var/lib/grafana/")


def test_the_first_dashboard_is_the_home_page(deploy: Deploy) -> None:
    deployed = deploy_grafana(deploy, dashboards=(MTLS, MESH))

    home = environment(deployed)["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert json.loads(files(deployed)[home])["uid"] == "mtls"


def test_without_dashboards_there_is_no_home_page(deploy: Deploy) -> None:
    deployed = deploy_grafana(deploy, dashboards=())

    assert "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH" not in environment(deployed)


def test_two_dashboards_of_one_uid_are_refused() -> None:
    with pytest.raises(ValueError, match="uid mesh"):
        grafana(dashboards=(MESH, MTLS, MESH))


def test_prometheus_is_the_default_data_source() -> None:
    [prometheus] = data_sources(grafana(scrape_interval_s=30))["datasources"]

    assert prometheus["url"] == PROMETHEUS
    assert prometheus["isDefault"]
    assert prometheus["jsonData"]["timeInterval"] == "30s", "or a rate is made of one value"


def test_jaeger_is_a_data_source_where_there_is_one() -> None:
    _, jaeger = data_sources(grafana(tracing_url="http://tracing.watch"))["datasources"]

    assert (jaeger["type"], jaeger["url"]) == ("jaeger", "http://tracing.watch")
    assert "isDefault" not in jaeger


def test_it_is_found_at_its_address(deploy: Deploy) -> None:
    deployed = deploy_grafana(deploy)

    address = "http://grafana.watch.svc.cluster.local:3000"
    assert deployed.outputs[deployed.named("grafana").urn] == {"url": address}
    [service] = deployed.of_kind("Service")
    assert service.inputs["metadata"]["name"] == "grafana"
    assert service.inputs["spec"]["type"] == "ClusterIP"
    assert [port["port"] for port in service.inputs["spec"]["ports"]] == [3000]
