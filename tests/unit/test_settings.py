"""What Settings.load accepts, what it makes of it, and what it says about everything else.

1. The real Pulumi.yaml and Pulumi.dev.yaml load, and so does each allowed value.
2. Unset, empty, false and zero are different things.
3. Each bad input gives one message that names the key, what is allowed and the command to type.
4. Several bad inputs come in one message, and none is blamed for another.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml
from pulumi.runtime.config import set_all_config

from components.access_policy import AccessMode
from components.control_plane import ControlPlaneArgs, OutboundTrafficPolicy
from components.gateway import ServiceType
from components.kinds import ClusterAccess, Distribution, Profile
from components.mtls import MtlsException, MtlsMode, MtlsScope, MutualTlsArgs
from components.observability import KialiAuth, ObservabilityArgs, Part, PrometheusArgs
from settings import Settings, SettingsError, declarations
from tests.unit.conftest import Load

ROOT = Path(__file__).parents[2]
PROJECT = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())
REASON = "a legacy client without a proxy"


def exception(**changes: object) -> dict[str, object]:
    """A sound element of mtlsExceptions with some fields changed; None takes a field away."""
    item = {"selector": {"app": "details"}, "mode": "PERMISSIVE", "reason": REASON, **changes}
    return {field: value for field, value in item.items() if value is not None}


@pytest.fixture
def charts(tmp_path: Path) -> Path:
    return make_charts(tmp_path, "base", "istiod", "gateway")


def make_charts(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "Chart.yaml").write_text(f"name: {name}\n")
    return folder


# 1. What loads


def test_every_default_of_pulumi_yaml_is_valid(load: Load) -> None:
    settings = load()
    assert settings.profile is Profile.DEFAULT
    assert settings.istio_version == "1.31.1"
    assert settings.chart_source.location == "https://istio-release.storage.googleapis.com/charts"
    assert (settings.ingress_gateway, settings.egress_gateway) == (True, False)
    assert (settings.keep_crds, settings.timeout_s, settings.telemetry) == (True, 300, True)
    assert (settings.namespace, settings.adopt_namespace) == ("bookinfo", False)
    assert (settings.mtls_mode, settings.mtls_scope) == (MtlsMode.STRICT, MtlsScope.MESH)
    assert (settings.mtls_exceptions, settings.mtls_hosts) == ((), ())
    assert (settings.mtls_permissive_until, settings.mtls_cut_off) == (None, ())
    assert settings.observability == ()
    assert settings.observability_namespace == "istio-system"
    assert (settings.prometheus_retention, settings.prometheus_storage) == ("15d", None)
    assert settings.kiali_auth is KialiAuth.TOKEN, "anonymous must be asked for"
    assert settings.grafana_admin_password is None


def test_the_dev_stack_loads(load: Load) -> None:
    stack = yaml.safe_load((ROOT / "Pulumi.dev.yaml").read_text())["config"]
    settings = load(**{key.removeprefix("service-mesh:"): value for key, value in stack.items()})
    assert settings.profile is Profile.DEMO
    assert (settings.ingress_gateway, settings.egress_gateway) == (True, True)
    assert settings.keep_crds is False
    assert settings.gateway_service_type is ServiceType.CLUSTER_IP
    assert settings.mtls_hosts == ("reviews",)
    assert settings.observability == tuple(Part)
    assert settings.kiali_auth is KialiAuth.ANONYMOUS
    assert settings.prometheus_retention == "6h"
    assert settings.kube_context == "", "which cluster is nobody's default"


def test_every_setting_is_declared_with_type_default_and_description() -> None:
    assert len(declarations()) == 45
    for key, schema in PROJECT["config"].items():
        assert schema.keys() - {"items"} == {"type", "default", "description"}, key
        assert schema["type"] in {"string", "integer", "boolean", "array", "object"}, key
        assert schema["description"].endswith("."), key


def test_every_setting_ends_up_in_a_field() -> None:
    renamed = {"timeout_seconds": "timeout_s"}
    expected = {
        "".join(f"_{c.lower()}" if c.isupper() else c for c in one.key) for one in declarations()
    }
    # what is said about one service in several settings is one field
    expected -= {"canary", "ab_routes", "mirror", "resilience", "faults"}
    expected = {renamed.get(name, name) for name in expected} | {"ingress_gateway", "traffic"}
    assert set(Settings.__slots__) == expected


@pytest.mark.parametrize(
    ("key", "choices"),
    [
        ("profile", list(Profile)),
        ("outboundTrafficPolicy", list(OutboundTrafficPolicy)),
        ("gatewayServiceType", list(ServiceType)),
        ("mtlsMode", list(MtlsMode)),
        ("mtlsScope", list(MtlsScope)),
        ("kialiAuth", list(KialiAuth)),
        ("authorizationPolicy", list(AccessMode)),
        ("accessLog", ["profile", "stdout", "off"]),
        ("egressGateway", ["profile", "enabled", "disabled"]),
    ],
)
def test_a_choice_takes_each_word_that_its_description_names(
    load: Load, key: str, choices: list[str]
) -> None:
    for choice in choices:
        assert choice in PROJECT["config"][key]["description"]
        load(**{"profile": "demo", key: str(choice)})


def test_a_folder_of_charts_may_have_the_layout_of_a_repository(load: Load, charts: Path) -> None:
    source = load(chartSource=str(charts)).chart_source
    assert source.is_folder
    assert source.location == str(charts)


def test_a_folder_of_charts_may_have_the_layout_of_istios_source(
    load: Load, tmp_path: Path
) -> None:
    make_charts(tmp_path, "base", "gateway", "istio-control/istio-discovery")
    assert load(chartSource=str(tmp_path)).chart_source.is_folder


def test_a_profile_without_gateways_needs_no_gateway_chart(load: Load, tmp_path: Path) -> None:
    make_charts(tmp_path, "base", "istiod")
    settings = load(chartSource=str(tmp_path), profile="minimal")
    assert (settings.ingress_gateway, settings.egress_gateway) == (False, False)


def test_a_folder_of_charts_is_found_from_the_programs_folder(
    load: Load, charts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(charts.parent)
    assert load(chartSource=f"./{charts.name}").chart_source.location == f"./{charts.name}"


def test_default_may_be_adopted(load: Load) -> None:
    settings = load(namespace="default", adoptNamespace=True)
    assert (settings.namespace, settings.adopt_namespace) == ("default", True)


def test_exceptions_are_read_in_their_order_with_sorted_labels(load: Load) -> None:
    settings = load(
        mtlsExceptions=[
            exception(selector={"version": "v1", "app": "ratings"}, port=9080),
            exception(mode="DISABLE", reason=f"  {REASON} "),
        ]
    )
    assert settings.mtls_exceptions == (
        MtlsException(
            selector=(("app", "ratings"), ("version", "v1")),
            port=9080,
            mode=MtlsMode.PERMISSIVE,
            reason=REASON,
        ),
        MtlsException(
            selector=(("app", "details"),), port=None, mode=MtlsMode.DISABLE, reason=REASON
        ),
    )


def test_a_port_may_have_the_stacks_mode_when_its_workload_has_not(load: Load) -> None:
    items = [exception(mode="DISABLE"), exception(mode="STRICT", port=9080)]
    assert [one.mode for one in load(mtlsExceptions=items).mtls_exceptions] == ["DISABLE", "STRICT"]


@pytest.mark.parametrize("written", ["2999-12-31", "2999-12-31 00:00:00 +0000 UTC"])
def test_the_last_day_of_an_exception_is_read_with_and_without_quotes(
    load: Load, written: str
) -> None:
    """The CLI makes a time of a date that stands in the stack's file without quotes."""
    items = [exception(expires=written)]
    assert load(mtlsExceptions=items).mtls_exceptions[0].expires == datetime.date(2999, 12, 31)


def test_an_exception_may_be_there_today_for_the_last_time(load: Load) -> None:
    today = datetime.datetime.now(datetime.UTC).date()
    items = [exception(expires=today.isoformat())]
    assert load(mtlsExceptions=items).mtls_exceptions[0].expires == today


def test_permissive_may_have_a_last_day_and_that_may_be_today(load: Load) -> None:
    today = datetime.datetime.now(datetime.UTC).date()
    settings = load(mtlsMode="PERMISSIVE", mtlsPermissiveUntil=today.isoformat())
    assert settings.mtls_permissive_until == today


def test_calls_that_may_fail_are_patterns(load: Load) -> None:
    edges = ["old/*:*", "*:web.shop:9080", "a.b:c/d"]
    assert load(mtlsCutOff=edges).mtls_cut_off == tuple(edges)


def test_labels_with_numbers_are_text_again(load: Load) -> None:
    """`pulumi config set --path` writes 2 as a number, and a label is a text."""
    items = [exception(selector={"app.kubernetes.io/part-of": 2})]
    selector = load(mtlsExceptions=items).mtls_exceptions[0].selector
    assert selector == (("app.kubernetes.io/part-of", "2"),)


def test_istiods_environment_is_text_again(load: Load) -> None:
    """`pulumi config set --path` writes true and 5 as a bool and a number."""
    env = load(istiodEnv={"PILOT_A": True, "PILOT_B": 5, "C1": "x y", "D": ""}).istiod_env
    assert env == {"PILOT_A": "true", "PILOT_B": "5", "C1": "x y", "D": ""}


def test_hosts_of_ones_own_services_load_without_bookinfo(load: Load) -> None:
    assert load(bookinfo=False, mtlsHosts=["shop", "stock"]).mtls_hosts == ("shop", "stock")


def test_an_exception_elsewhere_leaves_a_host_alone(load: Load) -> None:
    items = [
        exception(mode="DISABLE"),
        exception(mode="DISABLE", port=15020, selector={"app": "reviews"}),
    ]
    assert load(mtlsHosts=["reviews"], mtlsExceptions=items).mtls_hosts == ("reviews",)


def test_a_host_may_also_accept_plain_text(load: Load) -> None:
    items = [exception(selector={"app": "reviews"}, mode="PERMISSIVE")]
    assert load(mtlsHosts=["reviews"], mtlsExceptions=items).mtls_hosts == ("reviews",)


def test_what_loads_is_accepted_by_the_components(load: Load) -> None:
    settings = load(
        istiodEnv={"PILOT_A": "b"},
        traceSampling="0",
        mtlsExceptions=[exception(), exception(mode="DISABLE", port=1)],
    )
    MutualTlsArgs(
        mode=settings.mtls_mode,
        scope=settings.mtls_scope,
        namespace=settings.namespace,
        stack="service-mesh/dev",
        exceptions=settings.mtls_exceptions,
    )
    ControlPlaneArgs(
        istio=Distribution(
            version=settings.istio_version,
            charts=settings.chart_source,
            profile=settings.profile,
            timeout_s=settings.timeout_s,
        ),
        access=ClusterAccess(kubeconfig=settings.kubeconfig, context=settings.kube_context),
        stack="service-mesh/test",
        trace_sampling=settings.trace_sampling,
        istiod_env=settings.istiod_env,
    )


@pytest.mark.parametrize(
    ("retention", "storage"), [("1h", "1Mi"), ("87600h", "999999Ti"), ("10y", "10Gi"), ("2w", "")]
)
def test_what_loads_is_accepted_by_the_observers(load: Load, retention: str, storage: str) -> None:
    settings = load(
        observability=["kiali", "prometheus"],
        prometheusRetention=retention,
        prometheusStorage=storage,
    )
    assert settings.prometheus_storage == (storage or None)
    args = ObservabilityArgs(
        parts=settings.observability,
        stack="service-mesh/test",
        prometheus_retention=settings.prometheus_retention,
        prometheus_storage=settings.prometheus_storage,
    )
    PrometheusArgs(retention=args.prometheus_retention, storage=args.prometheus_storage)


def test_parts_come_in_one_order_however_they_are_written(load: Load) -> None:
    settings = load(observability=["kiali", "jaeger", "prometheus"])
    assert settings.observability == (Part.PROMETHEUS, Part.JAEGER, Part.KIALI)


def test_jaeger_needs_no_prometheus(load: Load) -> None:
    assert load(observability=["jaeger"]).observability == (Part.JAEGER,)


def test_settings_are_frozen(load: Load) -> None:
    settings: Any = load()
    with pytest.raises(AttributeError):
        settings.namespace = "other"
    with pytest.raises(TypeError):
        settings.istiod_env["A"] = "b"


def test_the_projects_own_configuration_is_read_when_none_is_given(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(namespace="shop")
    monkeypatch.setattr(pulumi, "Config", lambda: pulumi.config.Config("service-mesh"))
    assert Settings.load().namespace == "shop"


# 2. Unset, empty, false and zero


@pytest.mark.parametrize(
    ("values", "expected"),
    [({}, None), ({"traceSampling": "0"}, 0.0), ({"traceSampling": "0.5"}, 0.5)],
    ids=["unset", "zero", "half-a-percent"],
)
def test_no_sampling_is_not_the_profiles_sampling(
    load: Load, values: Mapping[str, object], expected: float | None
) -> None:
    assert load(profile="demo", **values).trace_sampling == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [({}, None), ({"accessLog": "off"}, False), ({"accessLog": "stdout"}, True)],
    ids=["unset", "off", "stdout"],
)
def test_no_access_log_is_not_the_profiles_access_log(
    load: Load, values: Mapping[str, object], expected: object
) -> None:
    assert load(profile="demo", **values).access_log is expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, False),
        ({"profile": "demo"}, True),
        ({"profile": "demo", "egressGateway": "profile"}, True),
        ({"profile": "demo", "egressGateway": "disabled"}, False),
        ({"profile": "demo", "egressGateway": "enabled"}, True),
        ({"profile": "minimal", "egressGateway": "disabled"}, False),
    ],
    ids=["unset", "unset-in-demo", "as-demo", "disabled-in-demo", "enabled-in-demo", "minimal"],
)
def test_the_egress_gateway_is_the_profiles_unless_disabled(
    load: Load, values: Mapping[str, object], expected: object
) -> None:
    assert load(**values).egress_gateway is expected


@pytest.mark.parametrize("key", ["telemetry", "keepCrds", "bookinfo"])
def test_false_is_not_the_default_true(load: Load, key: str) -> None:
    field = "keep_crds" if key == "keepCrds" else key
    assert getattr(load(), field) is True
    assert getattr(load(**{key: False}), field) is False


def test_an_empty_list_is_not_the_dev_stacks_list(load: Load) -> None:
    assert load(mtlsHosts=[]).mtls_hosts == ()


@pytest.mark.parametrize(
    ("hub", "expected"), [("", None), ("example.com:5000/istio", "example.com:5000/istio")]
)
def test_an_empty_hub_is_the_charts_own(load: Load, hub: str, expected: object) -> None:
    assert load(imageHub=hub).image_hub == expected


@pytest.mark.parametrize(
    ("tag", "expected"), [("", None), ("1.31.1-distroless", "1.31.1-distroless")]
)
def test_an_empty_tag_is_the_charts_own(load: Load, tag: str, expected: object) -> None:
    assert load(imageTag=tag).image_tag == expected


# 3. What is refused, and what is said

BAD: dict[str, tuple[dict[str, object], str, str, str]] = {
    # id: stack, key, part of what is allowed, part of the command
    "unknown-key": (
        {"mtlsMod": "STRICT"},
        'mtlsMod is "STRICT"',
        "did you mean mtlsMode?",
        "pulumi config rm mtlsMod && pulumi config set mtlsMode STRICT",
    ),
    "unknown-key-in-another-case": (
        {"kubecontext": "kind"},
        "kubecontext",
        "did you mean kubeContext?",
        "pulumi config rm kubecontext && pulumi config set kubeContext kind",
    ),
    "unknown-key-with-a-list": (
        {"mtlsHost": ["reviews"]},
        "mtlsHost",
        "did you mean mtlsHosts?",
        "rename it to mtlsHosts where it is written",
    ),
    "unknown-key-like-no-other": (
        {"zzz": "1"},
        "zzz",
        "kubeContext, kubeconfig, chartSource",
        "pulumi config rm zzz",
    ),
    "path-set-without-path": (
        {"mtlsHosts[0]": "reviews"},
        'mtlsHosts[0] is "reviews"',
        "what is inside mtlsHosts is set with --path",
        "pulumi config rm 'mtlsHosts[0]' && pulumi config set --path 'mtlsHosts[0]' reviews",
    ),
    "chart-source-empty": (
        {"chartSource": ""},
        'chartSource is ""',
        "an https:// Helm repository, or a folder",
        "pulumi config set chartSource https://istio-release.storage.googleapis.com/charts",
    ),
    "chart-source-without-encryption": (
        {"chartSource": "http://example.com/charts"},
        "chartSource",
        "over http:// anybody on the way can change what is installed",
        "pulumi config set chartSource https://",
    ),
    "chart-source-of-an-image-registry": (
        {"chartSource": "oci://example.com/charts"},
        "chartSource",
        "helm pull --untar",
        "pulumi config set chartSource https://",
    ),
    "chart-source-of-another-kind": (
        {"chartSource": "file:///charts"},
        "chartSource",
        "an https:// Helm repository, or a folder",
        "pulumi config set chartSource https://",
    ),
    "chart-source-without-a-host": (
        {"chartSource": "https://"},
        "chartSource",
        "an https:// Helm repository, or a folder",
        "pulumi config set chartSource https://istio",
    ),
    "chart-folder-missing": (
        {"chartSource": "/nowhere/charts"},
        "chartSource",
        "/nowhere/charts is not a folder",
        "pulumi config set chartSource https://",
    ),
    "istio-version-without-patch": (
        {"istioVersion": "1.31"},
        "istioVersion",
        "X.Y.Z, 1.30.0 or newer",
        "pulumi config set istioVersion 1.31.1",
    ),
    "istio-version-with-a-v": (
        {"istioVersion": "v1.31.1"},
        "istioVersion",
        "X.Y.Z, 1.30.0 or newer",
        "pulumi config set istioVersion 1.31.1",
    ),
    "istio-version-too-old": (
        {"istioVersion": "1.29.9"},
        'istioVersion is "1.29.9"',
        "X.Y.Z, 1.30.0 or newer",
        "pulumi config set istioVersion 1.31.1",
    ),
    "istio-version-range": (
        {"istioVersion": ">=1.31.0"},
        "istioVersion",
        "X.Y.Z, 1.30.0 or newer",
        "pulumi config set istioVersion 1.31.1",
    ),
    "profile-misspelt": (
        {"profile": "dmeo"},
        'profile is "dmeo"',
        "default, demo, minimal",
        "pulumi config set profile demo",
    ),
    "profile-of-istioctl-that-is-not-here": (
        {"profile": "openshift"},
        "profile",
        "default, demo, minimal",
        "pulumi config set profile default",
    ),
    "image-hub-with-scheme": (
        {"imageHub": "https://registry.example.com/istio"},
        "imageHub",
        "a registry and path, no scheme and no tag, or empty",
        "pulumi config set imageHub ''",
    ),
    "image-hub-with-tag": (
        {"imageHub": "example.com/istio:1.2"},
        "imageHub",
        "no scheme and no tag",
        "pulumi config set imageHub ''",
    ),
    "image-tag-with-space": (
        {"imageTag": "1.31 1"},
        "imageTag",
        "letters, digits, dots, dashes and underscores, or empty",
        "pulumi config set imageTag ''",
    ),
    "access-log-as-a-file": (
        {"accessLog": "/var/log/istio"},
        "accessLog",
        "profile, stdout, off",
        "pulumi config set accessLog profile",
    ),
    "trace-sampling-negative": (
        {"traceSampling": "-1"},
        'traceSampling is "-1"',
        "a number from 0 to 100 (percent), or profile",
        "pulumi config set traceSampling profile",
    ),
    "trace-sampling-over-100": (
        {"traceSampling": "100.1"},
        "traceSampling",
        "a number from 0 to 100",
        "pulumi config set traceSampling profile",
    ),
    "trace-sampling-not-a-number": (
        {"traceSampling": "nan"},
        "traceSampling",
        "a number from 0 to 100",
        "pulumi config set traceSampling profile",
    ),
    "outbound-traffic-policy-in-lower-case": (
        {"outboundTrafficPolicy": "registry_only"},
        "outboundTrafficPolicy",
        "ALLOW_ANY, REGISTRY_ONLY",
        "pulumi config set outboundTrafficPolicy REGISTRY_ONLY",
    ),
    "telemetry-neither-true-nor-false": (
        {"telemetry": "yes"},
        'telemetry is "yes"',
        "true, false",
        "pulumi config set telemetry true",
    ),
    "istiod-env-not-an-object": (
        {"istiodEnv": ["A=b"]},
        "istiodEnv",
        "an object {NAME: VALUE}",
        "pulumi config rm istiodEnv && pulumi config set --path istiodEnv.NAME VALUE",
    ),
    "istiod-env-name-in-lower-case": (
        {"istiodEnv": {"pilot-a": "b"}},
        'istiodEnv["pilot-a"] is "b"',
        "a name of capitals, digits and underscores",
        """pulumi config rm --path 'istiodEnv["pilot-a"]' && """,
    ),
    "istiod-env-value-nested": (
        {"istiodEnv": {"PILOT_A": {"b": "c"}}},
        "istiodEnv.PILOT_A",
        "a text",
        "pulumi config set --path istiodEnv.PILOT_A VALUE",
    ),
    "istiod-env-repeats-trace-sampling": (
        {"istiodEnv": {"PILOT_TRACE_SAMPLING": 5}},
        "istiodEnv.PILOT_TRACE_SAMPLING is 5",
        "this one is traceSampling",
        "pulumi config rm --path istiodEnv.PILOT_TRACE_SAMPLING && "
        "pulumi config set traceSampling 5",
    ),
    "egress-gateway-neither": (
        {"egressGateway": "on"},
        "egressGateway",
        "profile, disabled, enabled",
        "pulumi config set egressGateway profile",
    ),
    "egress-gateway-in-a-profile-without": (
        {"egressGateway": "enabled"},
        'egressGateway is "enabled"',
        "profile or disabled: profile default has no egress gateway, demo has",
        "pulumi config set egressGateway profile, or pulumi config set profile demo",
    ),
    "gateway-service-type-misspelt": (
        {"gatewayServiceType": "Loadbalancer"},
        "gatewayServiceType",
        "ClusterIP, NodePort, LoadBalancer",
        "pulumi config set gatewayServiceType LoadBalancer",
    ),
    "keep-crds-empty": (
        {"keepCrds": ""},
        'keepCrds is ""',
        "true, false",
        "pulumi config set keepCrds true",
    ),
    "timeout-zero": (
        {"timeoutSeconds": 0},
        'timeoutSeconds is "0"',
        "a whole number from 30 to 3600",
        "pulumi config set timeoutSeconds 300",
    ),
    "timeout-negative": (
        {"timeoutSeconds": -5},
        'timeoutSeconds is "-5"',
        "a whole number from 30 to 3600",
        "pulumi config set timeoutSeconds 300",
    ),
    "timeout-too-long": (
        {"timeoutSeconds": 3601},
        "timeoutSeconds",
        "a whole number from 30 to 3600",
        "pulumi config set timeoutSeconds 300",
    ),
    "timeout-with-a-unit": (
        {"timeoutSeconds": "5m"},
        "timeoutSeconds",
        "a whole number from 30 to 3600",
        "pulumi config set timeoutSeconds 300",
    ),
    "namespace-with-capitals": (
        {"namespace": "BookInfo"},
        "namespace",
        "small letters, digits and dashes",
        "pulumi config set namespace bookinfo",
    ),
    "namespace-empty": (
        {"namespace": ""},
        'namespace is ""',
        "1 to 63 small letters",
        "pulumi config set namespace bookinfo",
    ),
    "namespace-too-long": (
        {"namespace": "a" * 64},
        "namespace",
        "1 to 63 small letters",
        "pulumi config set namespace bookinfo",
    ),
    "namespace-of-the-control-plane": (
        {"namespace": "istio-system"},
        "namespace",
        "not istio-system or kube-*",
        "pulumi config set namespace bookinfo",
    ),
    "namespace-of-kubernetes": (
        {"namespace": "kube-public", "adoptNamespace": True},
        "namespace",
        "not istio-system or kube-*",
        "pulumi config set namespace bookinfo",
    ),
    "namespace-default-to-be-created": (
        {"namespace": "default"},
        "namespace",
        "default only with adoptNamespace true",
        "pulumi config set adoptNamespace true, or pulumi config set namespace bookinfo",
    ),
    "adopt-namespace-as-a-name": (
        {"adoptNamespace": "default"},
        "adoptNamespace",
        "true, false",
        "pulumi config set adoptNamespace false",
    ),
    "bookinfo-as-a-number": (
        {"bookinfo": 1},
        'bookinfo is "1"',
        "true, false",
        "pulumi config set bookinfo true",
    ),
    "mtls-mode-misspelt": (
        {"mtlsMode": "STRICCT"},
        'mtlsMode is "STRICCT"',
        "STRICT, PERMISSIVE, DISABLE",
        "pulumi config set mtlsMode STRICT",
    ),
    "mtls-mode-unset-of-istio": (
        {"mtlsMode": "UNSET"},
        "mtlsMode",
        "STRICT, PERMISSIVE, DISABLE",
        "pulumi config set mtlsMode STRICT",
    ),
    "mtls-scope-cluster": (
        {"mtlsScope": "cluster"},
        "mtlsScope",
        "mesh, namespace",
        "pulumi config set mtlsScope mesh",
    ),
    "exceptions-not-a-list": (
        {"mtlsExceptions": {"app": "details"}},
        "mtlsExceptions",
        "a list of {selector",
        "pulumi config rm mtlsExceptions && "
        "pulumi config set --path 'mtlsExceptions[0].selector.app' NAME",
    ),
    "exceptions-not-json": (
        {"mtlsExceptions": "details"},
        'mtlsExceptions is "details"',
        "a list of {selector",
        "pulumi config rm mtlsExceptions",
    ),
    "exception-not-an-object": (
        {"mtlsExceptions": ["details"]},
        'mtlsExceptions[0] is "details"',
        "{selector: {LABEL: VALUE}",
        "pulumi config rm --path 'mtlsExceptions[0]'",
    ),
    "exception-with-an-unknown-field": (
        {"mtlsExceptions": [exception(ports=9080)]},
        "mtlsExceptions[0].ports is 9080",
        "did you mean port? There are selector, port, mode, reason",
        "pulumi config rm --path 'mtlsExceptions[0].ports' && "
        "pulumi config set --path 'mtlsExceptions[0].port' 9080",
    ),
    "exception-without-selector": (
        {"mtlsExceptions": [exception(selector=None)]},
        "mtlsExceptions[0].selector is not set",
        "labels of the pods it is for",
        "pulumi config set --path 'mtlsExceptions[0].selector.app' NAME",
    ),
    "exception-with-an-empty-selector-and-a-port": (
        {"mtlsExceptions": [exception(selector={}, port=9080)]},
        "mtlsExceptions[0].selector is {}",
        "labels of the pods it is for",
        "pulumi config set --path 'mtlsExceptions[0].selector.app' NAME",
    ),
    "exception-with-a-bad-label": (
        {"mtlsExceptions": [exception(selector={"app": "not a label"})]},
        'mtlsExceptions[0].selector.app is "not a label"',
        "a Kubernetes label and its value",
        "pulumi config rm --path 'mtlsExceptions[0].selector.app'",
    ),
    "exception-with-a-label-without-value": (
        {"mtlsExceptions": [exception(selector={"example.com/x": None})]},
        'mtlsExceptions[0].selector["example.com/x"] is not set',
        "a Kubernetes label and its value",
        """pulumi config rm --path 'mtlsExceptions[0].selector["example.com/x"]'""",
    ),
    "exception-with-a-port-of-zero": (
        {"mtlsExceptions": [exception(port=0)]},
        "mtlsExceptions[0].port is 0",
        "a container port from 1 to 65535",
        "pulumi config rm --path 'mtlsExceptions[0].port'",
    ),
    "exception-with-a-port-too-high": (
        {"mtlsExceptions": [exception(port=65536)]},
        "mtlsExceptions[0].port",
        "a container port from 1 to 65535",
        "pulumi config rm --path 'mtlsExceptions[0].port'",
    ),
    "exception-with-a-port-that-is-true": (
        {"mtlsExceptions": [exception(port=True)]},
        "mtlsExceptions[0].port is true",
        "a container port from 1 to 65535",
        "pulumi config rm --path 'mtlsExceptions[0].port'",
    ),
    "exception-with-a-port-by-name": (
        {"mtlsExceptions": [exception(port="http")]},
        "mtlsExceptions[0].port",
        "a container port from 1 to 65535",
        "pulumi config rm --path 'mtlsExceptions[0].port'",
    ),
    "exception-without-mode": (
        {"mtlsExceptions": [exception(mode=None)]},
        "mtlsExceptions[0].mode is not set",
        "STRICT, PERMISSIVE, DISABLE",
        "pulumi config set --path 'mtlsExceptions[0].mode' PERMISSIVE",
    ),
    "exception-with-a-mode-misspelt": (
        {"mtlsExceptions": [exception(mode="DISABLED")]},
        "mtlsExceptions[0].mode",
        "STRICT, PERMISSIVE, DISABLE",
        "pulumi config set --path 'mtlsExceptions[0].mode' DISABLE",
    ),
    "exception-with-the-mode-of-the-stack": (
        {"mtlsExceptions": [exception(mode="STRICT")]},
        'mtlsExceptions[0].mode is "STRICT"',
        "another mode than the STRICT that these pods have without it",
        "pulumi config rm --path 'mtlsExceptions[0]'",
    ),
    "exception-of-a-port-with-the-mode-of-its-workload": (
        {"mtlsExceptions": [exception(), exception(port=9080)]},
        "mtlsExceptions[1].mode",
        "another mode than the PERMISSIVE that these pods have without it",
        "pulumi config rm --path 'mtlsExceptions[1]'",
    ),
    "exception-without-reason": (
        {"mtlsExceptions": [exception(reason=None)]},
        "mtlsExceptions[0].reason is not set",
        "why these pods are different, 10 characters or more",
        "pulumi config set --path 'mtlsExceptions[0].reason' 'WHY",
    ),
    "exception-with-a-reason-that-says-nothing": (
        {"mtlsExceptions": [exception(reason="because    ")]},
        "mtlsExceptions[0].reason",
        "10 characters or more",
        "pulumi config set --path 'mtlsExceptions[0].reason' 'WHY",
    ),
    "exception-that-is-past": (
        {"mtlsExceptions": [exception(expires="2026-01-31")]},
        'mtlsExceptions[0].expires is "2026-01-31"',
        "a day, YYYY-MM-DD, not before today, ",
        "pulumi config rm --path 'mtlsExceptions[0]', or "
        "pulumi config set --path 'mtlsExceptions[0].expires' YYYY-MM-DD",
    ),
    "exception-until-no-day": (
        {"mtlsExceptions": [exception(expires="next week")]},
        "mtlsExceptions[0].expires",
        "a day, YYYY-MM-DD",
        "pulumi config rm --path 'mtlsExceptions[0]'",
    ),
    "permissive-until-yesterday": (
        {"mtlsMode": "PERMISSIVE", "mtlsPermissiveUntil": "2026-01-31"},
        'mtlsPermissiveUntil is "2026-01-31"',
        "the last day of PERMISSIVE, YYYY-MM-DD, not before today, ",
        "pulumi config set mtlsPermissiveUntil YYYY-MM-DD, or pulumi config set mtlsMode STRICT && "
        "pulumi config rm mtlsPermissiveUntil",
    ),
    "permissive-until-no-day": (
        {"mtlsMode": "PERMISSIVE", "mtlsPermissiveUntil": "soon"},
        'mtlsPermissiveUntil is "soon"',
        "YYYY-MM-DD",
        "pulumi config set mtlsPermissiveUntil YYYY-MM-DD",
    ),
    "a-last-day-of-another-mode": (
        {"mtlsPermissiveUntil": "2999-12-31"},
        'mtlsPermissiveUntil is "2999-12-31"',
        "empty while mtlsMode is STRICT",
        "pulumi config rm mtlsPermissiveUntil",
    ),
    "cut-off-that-is-no-list": (
        {"mtlsCutOff": "old/*:*"},
        'mtlsCutOff is "old/*:*"',
        "a list of FROM:TO or FROM:TO:PORT",
        "pulumi config rm mtlsCutOff && "
        "pulumi config set --path 'mtlsCutOff[0]' 'NAMESPACE/WORKLOAD:*'",
    ),
    "cut-off-that-leads-nowhere": (
        {"mtlsCutOff": ["old/cron"]},
        'mtlsCutOff[0] is "old/cron"',
        "FROM:TO or FROM:TO:PORT, patterns",
        "pulumi config set --path 'mtlsCutOff[0]' 'NAMESPACE/WORKLOAD:*'",
    ),
    "cut-off-twice": (
        {"mtlsCutOff": ["old/*:*", "old/*:*"]},
        'mtlsCutOff[1] is "old/*:*"',
        "every call once",
        "pulumi config rm --path 'mtlsCutOff[1]'",
    ),
    "no-replica": (
        {"replicas": 0},
        'replicas is "0"',
        "a whole number from 1 to 100",
        "pulumi config set replicas 1",
    ),
    "exception-twice": (
        {"mtlsExceptions": [exception(port=1), exception(port=1, mode="DISABLE")]},
        'mtlsExceptions[1].selector is {"app": "details"}',
        "labels that no pod of mtlsExceptions[0] has",
        "pulumi config rm --path 'mtlsExceptions[1]'",
    ),
    "exception-for-some-of-the-pods-of-another": (
        {
            "mtlsExceptions": [
                exception(),
                exception(selector={"app": "details", "version": "v1"}, mode="DISABLE"),
            ]
        },
        "mtlsExceptions[1].selector",
        "Istio obeys only one policy for a pod",
        "pulumi config rm --path 'mtlsExceptions[1]'",
    ),
    "exception-by-another-label": (
        {"mtlsExceptions": [exception(), exception(selector={"version": "v1"}, mode="DISABLE")]},
        "mtlsExceptions[1].selector",
        "labels that no pod of mtlsExceptions[0] has",
        "pulumi config rm --path 'mtlsExceptions[1]'",
    ),
    "observability-not-a-list": (
        {"observability": "kiali"},
        'observability is "kiali"',
        "a list of prometheus, grafana, jaeger, kiali",
        "pulumi config rm observability && pulumi config set --path 'observability[0]' prometheus",
    ),
    "observability-part-misspelt": (
        {"observability": ["promethus", "kiali"]},
        'observability[0] is "promethus"',
        "did you mean prometheus? There are prometheus, grafana, jaeger, kiali",
        "pulumi config set --path 'observability[0]' prometheus",
    ),
    "observability-part-unknown": (
        {"observability": ["prometheus", "zipkin"]},
        'observability[1] is "zipkin"',
        "prometheus, grafana, jaeger, kiali",
        "pulumi config rm --path 'observability[1]'",
    ),
    "observability-part-not-a-text": (
        {"observability": [{"kiali": True}]},
        'observability[0] is {"kiali": true}',
        "prometheus, grafana, jaeger, kiali",
        "pulumi config rm --path 'observability[0]'",
    ),
    "observability-part-twice": (
        {"observability": ["jaeger", "jaeger"]},
        'observability[1] is "jaeger"',
        "every part once",
        "pulumi config rm --path 'observability[1]'",
    ),
    "kiali-without-prometheus": (
        {"observability": ["kiali"]},
        'observability is ["kiali"]',
        "prometheus too: kiali would have nothing to show",
        "pulumi config set --path 'observability[1]' prometheus",
    ),
    "grafana-and-kiali-without-prometheus": (
        {"observability": ["grafana", "jaeger", "kiali"]},
        "observability",
        "prometheus too: grafana and kiali would have nothing to show",
        "pulumi config set --path 'observability[3]' prometheus",
    ),
    "observability-namespace-with-a-dot": (
        {"observabilityNamespace": "observe.me"},
        "observabilityNamespace",
        "1 to 63 small letters, digits and dashes",
        "pulumi config set observabilityNamespace istio-system",
    ),
    "observability-namespace-that-is-always-there": (
        {"observabilityNamespace": "default"},
        "observabilityNamespace",
        "a namespace that does not exist yet, not default or kube-*",
        "pulumi config set observabilityNamespace istio-system",
    ),
    "observability-namespace-of-the-mesh": (
        {"observabilityNamespace": "bookinfo"},
        "observabilityNamespace",
        "its pods join the mesh, these do not",
        "pulumi config set observabilityNamespace istio-system",
    ),
    "retention-without-a-unit": (
        {"prometheusRetention": "15"},
        'prometheusRetention is "15"',
        "a whole number and h, d, w or y, from 1h to 10y",
        "pulumi config set prometheusRetention 15d",
    ),
    "retention-in-minutes": (
        {"prometheusRetention": "90m"},
        "prometheusRetention",
        "h, d, w or y",
        "pulumi config set prometheusRetention 15d",
    ),
    "retention-of-nothing": (
        {"prometheusRetention": "0d"},
        "prometheusRetention",
        "from 1h to 10y",
        "pulumi config set prometheusRetention 15d",
    ),
    "retention-too-long": (
        {"prometheusRetention": "87601h"},
        "prometheusRetention",
        "from 1h to 10y",
        "pulumi config set prometheusRetention 15d",
    ),
    "storage-without-a-unit": (
        {"prometheusStorage": "10"},
        'prometheusStorage is "10"',
        "a whole number from 1 to 999999 and Mi, Gi or Ti, such as 10Gi, or empty",
        "pulumi config set prometheusStorage 10Gi",
    ),
    "storage-of-nothing": (
        {"prometheusStorage": "0Gi"},
        "prometheusStorage",
        "from 1 to",
        "pulumi config set prometheusStorage 10Gi",
    ),
    "kiali-auth-of-another-kind": (
        {"kialiAuth": "openid"},
        "kialiAuth",
        "token, anonymous",
        "pulumi config set kialiAuth token",
    ),
    "hosts-not-a-list": (
        {"mtlsHosts": "reviews"},
        'mtlsHosts is "reviews"',
        "a list of names of services",
        "pulumi config rm mtlsHosts && pulumi config set --path 'mtlsHosts[0]' reviews",
    ),
    "host-with-a-domain": (
        {"mtlsHosts": ["reviews.bookinfo"]},
        'mtlsHosts[0] is "reviews.bookinfo"',
        "without a domain",
        "pulumi config set --path 'mtlsHosts[0]' reviews",
    ),
    "host-not-a-text": (
        {"mtlsHosts": [{"name": "reviews"}]},
        "mtlsHosts[0]",
        "the name of a service",
        "pulumi config set --path 'mtlsHosts[0]' reviews",
    ),
    "host-twice": (
        {"mtlsHosts": ["reviews", "ratings", "reviews"]},
        'mtlsHosts[2] is "reviews"',
        "every service once",
        "pulumi config rm --path 'mtlsHosts[2]'",
    ),
    "host-that-bookinfo-does-not-have": (
        {"mtlsHosts": ["ratings", "review"]},
        'mtlsHosts[1] is "review"',
        "a service of Bookinfo: details, productpage, ratings, reviews",
        "pulumi config set --path 'mtlsHosts[1]' reviews",
    ),
    "hosts-without-mutual-tls": (
        {"mtlsHosts": ["reviews"], "mtlsMode": "DISABLE"},
        'mtlsHosts is ["reviews"]',
        "none while mtlsMode is DISABLE",
        "pulumi config set mtlsMode STRICT, or pulumi config rm mtlsHosts",
    ),
    "host-whose-pods-refuse-mutual-tls": (
        {
            "mtlsHosts": ["ratings", "details"],
            "mtlsExceptions": [exception(selector={"app": "details"}, mode="DISABLE")],
        },
        'mtlsExceptions[0].mode is "DISABLE"',
        "STRICT or PERMISSIVE: mtlsHosts makes the clients of details use mutual TLS",
        "pulumi config rm --path 'mtlsExceptions[0]', or pulumi config rm --path 'mtlsHosts[1]'",
    ),
    "host-whose-port-refuses-mutual-tls": (
        {
            "mtlsHosts": ["reviews"],
            "mtlsExceptions": [exception(selector={"app": "reviews"}, port=9080, mode="DISABLE")],
        },
        "mtlsExceptions[0].mode",
        "mtlsHosts makes the clients of reviews use mutual TLS",
        "pulumi config rm --path 'mtlsExceptions[0]'",
    ),
    "host-one-of-whose-versions-refuses-mutual-tls": (
        {
            "mtlsHosts": ["reviews"],
            "mtlsExceptions": [exception(selector={"version": "v3"}, mode="DISABLE")],
        },
        "mtlsExceptions[0].mode",
        "mtlsHosts makes the clients of reviews use mutual TLS",
        "pulumi config rm --path 'mtlsExceptions[0]'",
    ),
    "own-host-whose-pods-refuse-mutual-tls": (
        {
            "bookinfo": False,
            "mtlsHosts": ["shop"],
            "mtlsExceptions": [exception(selector={"app": "shop"}, mode="DISABLE")],
        },
        "mtlsExceptions[0].mode",
        "mtlsHosts makes the clients of shop use mutual TLS",
        "pulumi config rm --path 'mtlsExceptions[0]'",
    ),
}


@pytest.mark.parametrize(("stack", "key", "allowed", "command"), BAD.values(), ids=BAD.keys())
def test_a_bad_setting_is_refused_with_one_clear_message(
    load: Load, stack: dict[str, object], key: str, allowed: str, command: str
) -> None:
    with pytest.raises(SettingsError) as refusal:
        load(**stack)
    head, problem = str(refusal.value).split("\n\n")
    assert head == "1 setting cannot be used:"
    is_now, allows, fix = problem.splitlines()
    assert is_now.startswith(key)
    assert allows.startswith("  allowed: ")
    assert allowed in allows
    assert fix.startswith("  fix:     ")
    assert command in fix


@pytest.mark.parametrize("missing", ["base", "istiod", "gateway"])
def test_a_chart_that_is_not_in_the_folder_is_named(
    load: Load, tmp_path: Path, missing: str
) -> None:
    make_charts(tmp_path, *({"base", "istiod", "gateway"} - {missing}))
    with pytest.raises(SettingsError, match=f"{tmp_path} has no chart {missing}\n"):
        load(chartSource=str(tmp_path))


# A secret is not printed

PASSWORD = "correct-horse"  # noqa: S105 a test's


def refusal_of(load: Load, **stack: Any) -> str:
    with pytest.raises(SettingsError) as refusal:
        load(**stack)
    return str(refusal.value)


def test_a_secret_password_is_read_and_not_shown(load: Load) -> None:
    settings = load(secret=["grafanaAdminPassword"], grafanaAdminPassword=PASSWORD)

    assert settings.grafana_admin_password == PASSWORD
    assert PASSWORD not in repr(settings)


def test_a_password_in_plain_configuration_is_refused_and_not_printed(load: Load) -> None:
    text = refusal_of(load, grafanaAdminPassword=PASSWORD)

    assert PASSWORD not in text
    assert "pulumi config set --secret grafanaAdminPassword" in text


@pytest.mark.parametrize(
    "key",
    ["grafanaAdminPasword", "grafanaadminpassword", "grafanaPassword", "grafanaAdminPassword[0]"],
)
@pytest.mark.parametrize("secret", [True, False])
def test_a_misspelt_password_is_not_printed(load: Load, *, key: str, secret: bool) -> None:
    text = refusal_of(load, secret=[key] if secret else [], **{key: PASSWORD})

    assert PASSWORD not in text
    assert "pulumi config set --secret grafanaAdminPassword" in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mtlsMode", PASSWORD),
        ("zzz", PASSWORD),
        ("mtlsHosts", [PASSWORD.upper()]),
        ("istiodEnv", {"a-b": PASSWORD}),
        ("mtlsExceptions", [{"selecter": PASSWORD}]),
    ],
)
def test_what_was_set_as_a_secret_is_never_printed(load: Load, key: str, value: object) -> None:
    text = refusal_of(load, secret=[key], **{key: value})

    assert PASSWORD not in text.lower()
    assert f"pulumi config rm {key}" in text


# 4. Several at once


def test_all_problems_come_in_one_error(load: Load) -> None:
    with pytest.raises(SettingsError) as refusal:
        load(
            profile="dmeo",
            timeoutSeconds=-1,
            mtlsMod="STRICT",
            mtlsExceptions=[exception(mode="NONE", reason="no", port=0), exception(selector={})],
        )
    assert [problem.key for problem in refusal.value.problems] == [
        "mtlsMod",
        "profile",
        "mtlsExceptions[0].port",
        "mtlsExceptions[0].mode",
        "mtlsExceptions[0].reason",
        "mtlsExceptions[1].selector",
        "timeoutSeconds",
    ]
    assert str(refusal.value).startswith("7 settings cannot be used:\n\n")


@pytest.mark.parametrize(
    ("stack", "key"),
    [
        ({"profile": "dmeo", "egressGateway": "enabled"}, "profile"),
        ({"mtlsMode": "STRICCT", "mtlsExceptions": [exception(mode="STRICT")]}, "mtlsMode"),
        ({"adoptNamespace": "yes", "namespace": "default"}, "adoptNamespace"),
        ({"bookinfo": "yes", "mtlsHosts": ["shop"]}, "bookinfo"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_setting_is_not_blamed_for_another_ones_mistake(
    load: Load, stack: dict[str, object], key: str
) -> None:
    with pytest.raises(SettingsError) as refusal:
        load(**stack)
    assert [problem.key for problem in refusal.value.problems] == [key]


def test_a_settings_error_is_printed_without_a_traceback() -> None:
    assert issubclass(SettingsError, pulumi.RunError)


def test_unknown_keys_are_found_where_pulumis_language_host_puts_them(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULUMI_CONFIG", '{"service-mesh:nmaespace": "x", "aws:region": "y"}')
    with pytest.raises(SettingsError, match="did you mean namespace") as refusal:
        load()
    assert [problem.key for problem in refusal.value.problems] == ["nmaespace"]


def test_settings_of_other_projects_are_none_of_ours(load: Load) -> None:
    load()
    set_all_config({"kubernetes:context": "x", "service-mesh-two:zzz": "y"})
    Settings.load(pulumi.Config("service-mesh"))
