"""The gateways: what `istioctl install` gives, from a chart whose defaults differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import pulumi
import pytest

from components.gateway import (
    Direction,
    Gateway,
    GatewayArgs,
    ServiceType,
    gateway_values,
)
from components.kinds import ChartSource, ClusterAccess, Distribution, Profile
from tests.unit import charts
from tests.unit.conftest import Deploy

# What istioctl installs; `gateway` is the chart that is published for everybody else.
LEGACY = {
    Direction.INGRESS: ("gateways/istio-ingress", "istio-ingressgateway"),
    Direction.EGRESS: ("gateways/istio-egress", "istio-egressgateway"),
}
# the chart names no draft of its schema
SCHEMA = jsonschema.Draft202012Validator(charts.schema("gateway"))
# the combinations that exist
EVERY = [
    (direction, profile)
    for direction in Direction
    for profile in Profile
    if (profile.has_ingress if direction is Direction.INGRESS else profile.has_egress)
]


def arguments(
    *,
    direction: Direction = Direction.INGRESS,
    profile: Profile = Profile.DEMO,
    service_type: ServiceType = ServiceType.CLUSTER_IP,
) -> GatewayArgs:
    istio = Distribution(
        version="1.31.1",
        charts=ChartSource(location="https://charts.example/istio"),
        profile=profile,
        timeout_s=90,
    )
    return GatewayArgs(
        direction=direction,
        istio=istio,
        access=ClusterAccess(kubeconfig="", context="test"),
        service_type=service_type,
    )


def of_istioctl(direction: Direction, profile: Profile) -> dict[str, Any]:
    """Values of the gateway in istioctl's own charts under that profile."""
    chart, name = LEGACY[direction]
    values = charts.defaults(chart)
    if profile is Profile.DEMO:
        values = charts.merged(values, charts.profile("base", "demo"))
    return dict(values["gateways"][name])


def port_numbers(found: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    return [(one["name"], one["port"], one["targetPort"]) for one in found]


@pytest.mark.parametrize(("direction", "profile"), EVERY)
def test_ports_and_size_are_istioctls(direction: Direction, profile: Profile) -> None:
    ours = charts.merged(
        charts.defaults("gateway"),
        dict(gateway_values(arguments(direction=direction, profile=profile))),
    )
    theirs = of_istioctl(direction, profile)

    assert port_numbers(ours["service"]["ports"]) == port_numbers(theirs["ports"])
    assert {one["protocol"] for one in ours["service"]["ports"]} == {"TCP"}
    assert ours["resources"] == theirs["resources"]
    assert ours["autoscaling"]["enabled"] == theirs["autoscaleEnabled"]
    if theirs["autoscaleEnabled"]:
        scaling = ours["autoscaling"]
        assert (scaling["minReplicas"], scaling["maxReplicas"]) == (1, 5)
        assert (theirs["autoscaleMin"], theirs["autoscaleMax"]) == (1, 5)
        assert scaling["targetCPUUtilizationPercentage"] == 80
        assert theirs["cpu"]["targetAverageUtilization"] == 80


@pytest.mark.parametrize("direction", list(Direction))
def test_name_and_label_are_istioctls(deploy: Deploy, direction: Direction) -> None:
    deployed = deploy(lambda opts: Gateway("gateway", arguments(direction=direction), opts))

    _, name = LEGACY[direction]
    release = deployed.releases()[name]
    assert release.inputs["namespace"] == "istio-system"
    assert release.inputs["chart"] == "gateway"
    theirs = of_istioctl(direction, Profile.DEMO)["labels"]
    # the chart's other label, `app`, is the release's name
    assert {"app": name, **release.inputs["values"]["labels"]} == theirs
    outputs = deployed.outputs[deployed.named("gateway").urn]
    assert outputs["selector"] == {"istio": theirs["istio"]}
    assert outputs["service"] == name


def test_the_port_given_to_istio_objects_is_where_port_80_of_the_service_arrives(
    deploy: Deploy,
) -> None:
    deployed = deploy(lambda opts: Gateway("ingress", arguments(), opts))

    values = deployed.releases()["istio-ingressgateway"].inputs["values"]
    [target] = [one["targetPort"] for one in values["service"]["ports"] if one["port"] == 80]
    assert deployed.outputs[deployed.named("ingress").urn]["httpPort"] == target == 8080


@pytest.mark.parametrize("service_type", list(ServiceType))
@pytest.mark.parametrize("profile", [Profile.DEFAULT, Profile.DEMO])
def test_the_charts_schema_accepts_the_values(service_type: ServiceType, profile: Profile) -> None:
    values = gateway_values(arguments(service_type=service_type, profile=profile))

    SCHEMA.validate(values)


def test_the_charts_schema_would_refuse_another_key() -> None:
    values = {**gateway_values(arguments()), "autoscalling": {}}

    with pytest.raises(jsonschema.ValidationError, match="autoscalling"):
        SCHEMA.validate(values)


def paths(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield f"{above}{key}"
        if isinstance(value, Mapping):
            yield from paths(value, f"{above}{key}.")


@pytest.mark.parametrize("profile", [Profile.DEFAULT, Profile.DEMO])
def test_every_value_we_set_is_one_the_chart_knows(profile: Profile) -> None:
    # the schema is open inside `autoscaling`, `service` and `resources`
    unknown = set(paths(gateway_values(arguments(profile=profile)))) - set(
        paths(charts.defaults("gateway"))
    )

    # in the chart labels are free; `istio` is read by templates/_helpers.tpl
    assert unknown == {"labels.istio"}
    assert ".Values.labels.istio" in charts.templates("gateway")


@pytest.mark.parametrize("service_type", list(ServiceType))
def test_helm_waits_for_all_but_a_load_balancer(deploy: Deploy, service_type: ServiceType) -> None:
    deployed = deploy(lambda opts: Gateway("ingress", arguments(service_type=service_type), opts))

    release = deployed.releases()["istio-ingressgateway"].inputs
    assert release["timeout"] == 90
    assert release["values"]["service"]["type"] == service_type.value
    waits = "skipAwait" not in release
    assert waits is (service_type is not ServiceType.LOAD_BALANCER)


def test_it_can_be_installed_again_after_an_update_that_was_killed(deploy: Deploy) -> None:
    deployed = deploy(lambda opts: Gateway("ingress", arguments(), opts))

    (release,) = deployed.releases().values()
    assert {"before_create", "before_update"} <= set(release.hooks)


def test_an_egress_gateway_is_not_exposed() -> None:
    assert gateway_values(arguments(direction=Direction.EGRESS))["service"]["type"] == "ClusterIP"
    with pytest.raises(ValueError, match="an egress gateway is ClusterIP"):
        arguments(direction=Direction.EGRESS, service_type=ServiceType.LOAD_BALANCER)


@pytest.mark.parametrize(
    ("service_type", "command"),
    [
        (
            ServiceType.CLUSTER_IP,
            "kubectl --context test -n istio-system port-forward service/istio-ingressgateway "
            "8080:80  # then open http://127.0.0.1:8080/page",
        ),
        (
            ServiceType.NODE_PORT,
            "kubectl --context test -n istio-system get service istio-ingressgateway "
            "-o jsonpath='{.spec.ports[?(@.name==\"http2\")].nodePort}'"
            "  # then open http://NODE:PORT/page with any node's address",
        ),
        (
            ServiceType.LOAD_BALANCER,
            "kubectl --context test -n istio-system get service istio-ingressgateway "
            "-o jsonpath='{.status.loadBalancer.ingress[0]}'  # then open http://ADDRESS/page",
        ),
    ],
)
def test_a_person_is_told_how_to_get_in(
    deploy: Deploy, service_type: ServiceType, command: str
) -> None:
    told: list[str] = []

    def build(opts: pulumi.ResourceOptions) -> None:
        ingress = Gateway("ingress", arguments(service_type=service_type), opts)
        told.append(ingress.how_to_open("kubectl --context test", "/page"))

    deploy(build)

    assert told == [command]
