"""Every Istio object we write, against the CRDs of the chart in use.

The API server drops a key it does not know without a word; here it is an error.
"""

from __future__ import annotations

import copy
from typing import Any

import jsonschema
import pulumi
import pytest

from components.bookinfo import Bookinfo, BookinfoArgs, Ingress
from components.mtls import (
    MtlsException,
    MtlsMode,
    MtlsScope,
    MutualTls,
    MutualTlsArgs,
)
from components.observability import MeshTelemetry, MeshTelemetryArgs
from components.traffic import (
    AbRoute,
    CircuitBreaker,
    Egress,
    HostTraffic,
    MatchBy,
    Retries,
    Traffic,
    TrafficArgs,
)
from tests.unit import charts, test_egress, test_traffic
from tests.unit.conftest import Deploy

INGRESS = Ingress(selector={"istio": "ingressgateway"}, port=8080)


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with unknown keys refused, wherever it lists the keys there are."""
    result = dict(schema)
    if "properties" in result:
        result["properties"] = {key: strict(one) for key, one in result["properties"].items()}
        result.setdefault("additionalProperties", False)
    if isinstance(result.get("items"), dict):
        result["items"] = strict(result["items"])
    if isinstance(result.get("additionalProperties"), dict):
        result["additionalProperties"] = strict(result["additionalProperties"])
    return result


def validate(manifest: dict[str, Any]) -> None:
    schema = charts.crd_schemas()[manifest["apiVersion"], manifest["kind"]]["properties"]["spec"]
    jsonschema.Draft202012Validator(strict(schema)).validate(manifest["spec"])


def exception(app: str, port: int | None, mode: MtlsMode) -> MtlsException:
    return MtlsException(selector=(("app", app),), port=port, mode=mode, reason="a test's reason")


MTLS = [
    *[
        MutualTlsArgs(mode=mode, scope=scope, namespace="shop", stack="a/b")
        for mode in MtlsMode
        for scope in MtlsScope
    ],
    MutualTlsArgs(
        mode=MtlsMode.STRICT,
        scope=MtlsScope.MESH,
        namespace="shop",
        stack="a/b",
        exceptions=(
            exception("whole", None, MtlsMode.PERMISSIVE),
            exception("port", 9080, MtlsMode.DISABLE),
            exception("both", 9080, MtlsMode.PERMISSIVE),
            exception("both", None, MtlsMode.DISABLE),
        ),
    ),
]

TRAFFIC = TrafficArgs(
    namespace="shop",
    hosts=(
        test_traffic.MOST,
        HostTraffic(host="orders"),
        test_traffic.reviews(host="ratings", retries=Retries(attempts=0)),
        test_traffic.reviews(
            host="details",
            ab=(
                test_traffic.BETA,
                AbRoute(version="v2", by=MatchBy.COOKIE, name="beta", value="yes"),
            ),
            circuit_breaker=CircuitBreaker(max_connections=1, max_pending_requests=1),
        ),
    ),
)

TELEMETRY = [
    MeshTelemetryArgs(tracing="jaeger"),
    MeshTelemetryArgs(access_log=False),
    MeshTelemetryArgs(tracing="jaeger", access_log=True),
]


@pytest.mark.parametrize("args", MTLS)
def test_mutual_tls_fits_the_crds(deploy: Deploy, args: MutualTlsArgs) -> None:
    deployed = deploy(lambda opts: MutualTls("mtls", args, opts))

    for one in deployed.resources:
        if "istio.io/" in one.type:
            validate(dict(one.inputs))


def test_bookinfos_way_in_fits_the_crds(deploy: Deploy) -> None:
    def build(opts: pulumi.ResourceOptions) -> None:
        Bookinfo("bookinfo", BookinfoArgs(namespace="shop", ingress=INGRESS), opts)

    found = [one for one in deploy(build).resources if "istio.io/" in one.type]

    assert {one.inputs["kind"] for one in found} == {"Gateway", "VirtualService"}
    for one in found:
        validate(dict(one.inputs))


def test_traffic_fits_the_crds(deploy: Deploy) -> None:
    def build(opts: pulumi.ResourceOptions) -> None:
        Traffic("traffic", TRAFFIC, opts)
        Egress("outside", test_egress.args(*test_egress.ALL), opts)

    found = [one for one in deploy(build).resources if "istio.io/" in one.type]

    assert {one.inputs["kind"] for one in found} == {
        "DestinationRule",
        "Gateway",
        "ServiceEntry",
        "VirtualService",
    }
    for one in found:
        validate(dict(one.inputs))


@pytest.mark.parametrize("args", TELEMETRY)
def test_telemetry_fits_the_crds(deploy: Deploy, args: MeshTelemetryArgs) -> None:
    [found] = deploy(lambda opts: MeshTelemetry("telemetry", args, opts)).of_kind("Telemetry")

    validate(dict(found.inputs))


def test_every_kind_comes_back_from_the_store_as_it_was_written(deploy: Deploy) -> None:
    """In the version the chart stores, or one of the same schema: no conversion is declared."""

    def build(opts: pulumi.ResourceOptions) -> None:
        Bookinfo("bookinfo", BookinfoArgs(namespace="shop", ingress=INGRESS), opts)
        MutualTls("mtls", MTLS[-1], opts)
        MeshTelemetry("telemetry", TELEMETRY[-1], opts)
        Traffic("traffic", TRAFFIC, opts)
        Egress("outside", test_egress.args(*test_egress.ALL), opts)

    written = {
        (one.inputs["apiVersion"], one.inputs["kind"])
        for one in deploy(build).resources
        if "istio.io/" in one.type
    }

    assert {kind for _, kind in written} == {
        "DestinationRule",
        "Gateway",
        "PeerAuthentication",
        "ServiceEntry",
        "Telemetry",
        "VirtualService",
    }
    assert "conversion:" not in charts.crds()
    stored = {kind: charts.crd_schemas()[api, kind] for api, kind in charts.stored_versions()}
    for api, kind in written:
        assert charts.crd_schemas()[api, kind] == stored[kind], kind


RULE = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "DestinationRule",
    "spec": {"host": "reviews", "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}},
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("traffic_policy",), {}),
        (("trafficPolicy", "tls", "mood"), "ISTIO_MUTUAL"),
        (("trafficPolicy", "tls", "mode"), "MUTUALLY"),
        (("subsets",), [{"name": "v1", "label": {"version": "v1"}}]),
        (("host",), 1),
    ],
)
def test_a_misspelt_key_or_value_is_noticed(path: tuple[str, ...], value: object) -> None:
    validate(RULE)
    broken = copy.deepcopy(RULE)
    inner: Any = broken["spec"]
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value

    with pytest.raises(jsonschema.ValidationError):
        validate(broken)
