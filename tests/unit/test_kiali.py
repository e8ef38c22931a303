"""Kiali: configuration keys that it knows, rights to look only, secrets in files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from components.observability.kiali import (
    GrafanaAccess,
    Kiali,
    KialiArgs,
    KialiAuth,
    config,
)
from tests.unit.conftest import Deploy, Deployed
from tests.unit.test_grafana import container, environment, files, secret

PASSWORD = "correct horse battery staple"  # noqa: S105 - a test's
GRAFANA = GrafanaAccess(
    url="http://grafana.watch.svc.cluster.local:3000", password=PASSWORD, dashboards=("Mesh",)
)

Keys = dict[str, "Keys | None"]


def leaves(text: str) -> Keys:
    return dict.fromkeys(text.split())


_AUTH = leaves(
    "ca_file cert_file insecure_skip_verify key_file oauth2 password token type use_kiali_token"
    " username"
)
_PROMETHEUS: Keys = {
    **leaves(
        "cache_duration cache_enabled cache_expiration custom_headers enabled health_check_url"
        " is_core query_scope thanos_proxy url"
    ),
    "auth": _AUTH,
}

KNOWN: Keys = {
    **leaves(
        "additional_display_details chat_ai clustering custom_dashboards extensions health_config"
        " identity installation_tag istio_labels kiali_feature_flags kiali_internal"
        " kubernetes_config login_token runConfig runMode"
    ),
    "auth": leaves("openid openshift strategy"),
    "deployment": leaves(
        "cluster_name_overrides cluster_wide_access discovery_selectors instance_name namespace"
        " tls_config view_only_mode"
    ),
    "external_services": {
        **leaves("custom_dashboards perses"),
        "grafana": {
            **leaves(
                "datasource_uid enabled external_url health_check_url internal_url is_core"
                " in_cluster_url url"
            ),
            "auth": _AUTH,
            "dashboards": {
                "name": None,
                "variables": leaves("app datasource namespace service version workload"),
            },
        },
        "istio": leaves(
            "component_status gateway_api_classes gateway_api_classes_label_selector"
            " istio_api_enabled istio_identity_domain istiod_polling_interval_seconds"
            " validation_change_detection_enabled validation_reconcile_interval"
        ),
        "prometheus": _PROMETHEUS,
        "tracing": {
            **leaves(
                "custom_headers disable_version_check enabled external_url grpc_port"
                " health_check_url in_cluster_url internal_url is_core namespace_selector provider"
                " query_scope query_timeout tempo_config url use_grpc use_waypoint_name"
                " whitelist_istio_system"
            ),
            "auth": _AUTH,
        },
    },
    "server": {
        **leaves(
            "address audit_log cors_allow_all gzip_enabled port profiler require_auth web_fqdn"
            " web_history_mode web_port web_root web_schema write_timeout"
        ),
        "observability": {
            "metrics": leaves("enabled health_status port"),
            "tracing": leaves("collector_type collector_url enabled otel sampling_rate"),
        },
    },
}
"""The keys of the `yaml` tags in config/config.go of kiali/kiali v2.27.2; None = not gone into."""


def unknown(document: object, known: Keys | None = KNOWN, path: str = "") -> list[str]:
    """The keys that Kiali would drop without a word."""
    if known is None:
        return []
    if isinstance(document, list):
        return [one for item in document for one in unknown(item, known, path)]
    if not isinstance(document, Mapping):
        return []
    return [
        one
        for key, value in document.items()
        for one in (
            unknown(value, known[key], f"{path}{key}.") if key in known else [f"{path}{key}"]
        )
    ]


def kiali(**changes: Any) -> KialiArgs:
    arguments = {
        "namespace": "watch",
        "prometheus_url": "http://prometheus.watch.svc.cluster.local:9090",
        **changes,
    }
    return KialiArgs(**arguments)


def deploy_kiali(deploy: Deploy, **changes: Any) -> Deployed:
    return deploy(lambda opts: Kiali("kiali", kiali(**changes), opts))


EVERYTHING = kiali(grafana=GRAFANA, tracing_url="http://tracing.watch")


@pytest.mark.parametrize("args", [kiali(), EVERYTHING, kiali(auth=KialiAuth.ANONYMOUS)])
def test_every_key_is_one_that_kiali_knows(args: KialiArgs) -> None:
    assert not unknown(config(args))


@pytest.mark.parametrize(
    ("document", "key"),
    [
        ({"auths": {}}, "auths"),
        ({"auth": {"strategie": "token"}}, "auth.strategie"),
        # Istio's own sample writes this one
        (
            {"external_services": {"istio": {"root_namespace": "istio-system"}}},
            "external_services.istio.root_namespace",
        ),
        (
            {"external_services": {"grafana": {"dashboards": [{"title": "Mesh"}]}}},
            "external_services.grafana.dashboards.title",
        ),
    ],
)
def test_a_key_that_kiali_does_not_know_is_noticed(document: dict[str, Any], key: str) -> None:
    assert unknown(document) == [key]


@pytest.mark.parametrize("auth", list(KialiAuth))
def test_people_log_in_as_they_are_told(auth: KialiAuth) -> None:
    assert config(kiali(auth=auth))["auth"] == {"strategy": auth.value}


def test_people_log_in_with_a_token_if_nothing_else_is_said() -> None:
    assert config(kiali())["auth"] == {"strategy": "token"}


def test_it_may_look_only(deploy: Deploy) -> None:
    deployed = deploy_kiali(deploy)

    [role] = deployed.of_kind("ClusterRole")
    for rule in role.inputs["rules"]:
        assert set(rule["verbs"]) == {"get", "list", "watch"}, rule
    resources = {one for rule in role.inputs["rules"] for one in rule["resources"]}
    assert not resources & {"secrets", "pods/portforward", "pods/exec", "tokenreviews"}
    groups = {group for rule in role.inputs["rules"] for group in rule["apiGroups"]}
    everything = {
        group
        for rule in role.inputs["rules"]
        if "*" in rule["resources"]
        for group in rule["apiGroups"]
    }
    assert "*" not in groups
    assert all(group.endswith((".istio.io", ".k8s.io")) for group in everything)
    assert config(kiali())["deployment"]["view_only_mode"]


def test_it_does_not_ask_for_what_it_may_not() -> None:
    """istiod's own API is reached by forwarding a pod's port, which is no reading."""
    assert config(kiali())["external_services"]["istio"] == {"istio_api_enabled": False}


def test_logins_are_signed_with_a_key_of_a_length_that_kiali_takes(deploy: Deploy) -> None:
    deployed = deploy_kiali(deploy)

    [key] = deployed.of_kind("RandomPassword")
    assert key.inputs["length"] in {16, 24, 32}
    assert key.inputs["special"] is False
    found = files(deployed)["/kiali-override-secrets/login-token-signing-key/value.txt"]
    assert found == f"made up for {key.name}"


def test_grafanas_password_is_a_file_and_nowhere_else(deploy: Deploy) -> None:
    deployed = deploy_kiali(deploy, grafana=GRAFANA)

    assert files(deployed)["/kiali-override-secrets/grafana-password/value.txt"] == PASSWORD
    [kept] = deployed.of_kind("Secret")
    assert set(str(secret(kept.inputs["stringData"])).split("'")) >= {"grafana-password", PASSWORD}
    [configuration] = deployed.of_kind("ConfigMap")
    [deployment] = deployed.of_kind("Deployment")
    for one in (configuration, deployment):
        assert PASSWORD not in str(one.inputs)
    assert PASSWORD not in str(deployed.outputs)


def test_grafana_is_linked_to_by_the_titles_of_its_dashboards() -> None:
    grafana = config(EVERYTHING)["external_services"]["grafana"]

    assert grafana == {
        "enabled": True,
        "auth": {"type": "basic", "username": "admin"},
        "dashboards": [{"name": "Mesh", "variables": {"namespace": "var-namespace"}}],
        "external_url": "http://localhost:3000",
        "internal_url": GRAFANA.url,
    }


def test_what_is_not_there_is_switched_off() -> None:
    """Kiali's own default looks for all of them in istio-system."""
    services = config(kiali())["external_services"]

    assert services["grafana"] == {"enabled": False}
    assert services["tracing"] == {"enabled": False}


def test_without_grafana_there_is_no_password_of_it(deploy: Deploy) -> None:
    assert not [path for path in files(deploy_kiali(deploy)) if "grafana" in path]


def test_traces_are_asked_for_at_the_address_that_is_given() -> None:
    tracing = config(EVERYTHING)["external_services"]["tracing"]

    assert tracing["internal_url"] == "http://tracing.watch"
    assert tracing["use_grpc"] is False, "the address is of the HTTP service"


def test_the_program_reads_the_file_that_is_mounted(deploy: Deploy) -> None:
    deployed = deploy_kiali(deploy)

    *_, flag, path = container(deployed)["command"]
    assert flag == "-config"
    assert yaml.safe_load(files(deployed)[path]) == config(kiali())


def test_its_pod_has_no_environment(deploy: Deploy) -> None:
    with pytest.raises(KeyError):
        environment(deploy_kiali(deploy, grafana=GRAFANA))


def test_it_is_found_at_its_address(deploy: Deploy) -> None:
    deployed = deploy_kiali(deploy)

    address = "http://kiali.watch.svc.cluster.local:20001/kiali"
    assert deployed.outputs[deployed.named("kiali").urn] == {"url": address}
    [service] = deployed.of_kind("Service")
    assert service.inputs["metadata"]["name"] == "kiali"
    assert [port["port"] for port in service.inputs["spec"]["ports"]] == [20001]
    root = config(kiali())["server"]["web_root"]
    assert container(deployed)["readinessProbe"]["httpGet"]["path"] == f"{root}/healthz"
