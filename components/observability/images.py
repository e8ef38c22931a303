"""Every image of this package, its tag and where the tag comes from: the one place to change it."""

from __future__ import annotations

from dataclasses import dataclass

_ADDONS = "https://github.com/istio/istio/blob/1.31.0/samples/addons"


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """A container image, and the user that its publisher means it to run as."""

    reference: str
    """Registry, path and tag; never `latest`."""

    user: int
    """Numeric user id, not 0: the kubelet cannot tell of a name whether it is root's."""

    source: str
    """Where that tag is chosen: a page to look at before changing it."""


PROMETHEUS = Image(
    reference="docker.io/prom/prometheus:v3.10.0",
    user=65534,
    source=f"{_ADDONS}/prometheus.yaml",
)

JAEGER = Image(
    reference="docker.io/jaegertracing/jaeger:2.17.0",
    user=10001,
    source=f"{_ADDONS}/jaeger.yaml",
)

KIALI = Image(
    reference="quay.io/kiali/kiali:v2.27",
    user=1000,
    source=f"{_ADDONS}/kiali.yaml",
)

GRAFANA = Image(
    reference="docker.io/grafana/grafana:12.4.11",
    user=472,
    # 12.4 is the last minor release of 12 and so gets fixes for 15 months; the 12.0 of Istio's
    # sample gets none any more
    source="https://grafana.com/docs/grafana/latest/upgrade-guide/when-to-upgrade/",
)

ALL = (PROMETHEUS, GRAFANA, JAEGER, KIALI)
"""All of them."""
