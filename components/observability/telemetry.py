"""The mesh-wide Telemetry: where proxies send traces, and whether they log every request."""

from __future__ import annotations

from dataclasses import dataclass

from pulumi import ComponentResource, ResourceOptions

from components import istio_api
from components.istio_api import TelemetrySpec
from components.kinds import ROOT_NAMESPACE, child

_NAME = "mesh-default"
"""As in Istio's documentation. Istio obeys one Telemetry without a selector in a namespace."""

_FILE_LOG = "envoy"
"""Provider of access logs on standard output, which every mesh has (`pkg/config/mesh/mesh.go`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeshTelemetryArgs:
    """What all proxies of the mesh tell."""

    tracing: str | None = None
    """Name of a provider in istiod's meshConfig.extensionProviders that takes traces; None = none.

    How many requests are traced is istiod's setting, `ControlPlaneArgs.trace_sampling`.
    """

    access_log: bool | None = None
    """Whether every request is logged to standard output; None = as meshConfig says."""

    def __post_init__(self) -> None:
        """Refuse a Telemetry that says nothing.

        Raises:
            ValueError: Neither tracing nor access_log is set.
        """
        if self.tracing is None and self.access_log is None:
            raise ValueError("a Telemetry needs tracing or access_log")


def telemetry_spec(args: MeshTelemetryArgs) -> TelemetrySpec:
    """The spec for these arguments."""
    spec: TelemetrySpec = {}
    if args.tracing is not None:
        spec["tracing"] = [{"providers": [{"name": args.tracing}]}]
    if args.access_log is not None:
        # Off names the provider too. Without, nothing would be in scope, and istiod would go by
        # meshConfig.accessLogFile (pilot/pkg/model/telemetry.go, mergeLogs).
        spec["accessLogging"] = [
            {"providers": [{"name": _FILE_LOG}], "disabled": not args.access_log}
        ]
    return spec


class MeshTelemetry(ComponentResource):
    """`service-mesh:observability:MeshTelemetry`: `mesh-default` in the root namespace."""

    def __init__(
        self, name: str, args: MeshTelemetryArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("service-mesh:observability:MeshTelemetry", name, {}, opts)
        istio_api.Telemetry(
            f"{name}-mesh-default",
            name=_NAME,
            namespace=ROOT_NAMESPACE,
            spec=telemetry_spec(args),
            opts=child(self),
        )
        self.register_outputs({"tracing": args.tracing, "accessLog": args.access_log})
