"""Everything an operator may choose, read once, checked as a whole and frozen.

`Pulumi.yaml` declares each setting with its type, default and description; this package is the only
reader of `pulumi.Config`. Whatever is wrong comes in one `SettingsError`, before any resource is
registered.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import pulumi

from components.access_policy import AccessMode
from components.control_plane import OutboundTrafficPolicy, Revision
from components.gateway import ServiceType
from components.kinds import ROOT_NAMESPACE, ChartSource, Profile
from components.mtls import MtlsException, MtlsMode, MtlsScope
from components.observability import KialiAuth, Part
from components.observability.prometheus import retention_problem, storage_problem
from components.traffic import EgressHost, HostTraffic
from settings import mtls, revisions, traffic
from settings.reader import (
    DNS_LABEL,
    HIDDEN,
    PASSWORD,
    Declaration,
    Problem,
    Reader,
    SettingsError,
    as_config,
    declarations,
    nearest,
    remove_command,
    set_command,
)

__all__ = ["Declaration", "Problem", "Settings", "SettingsError", "declarations"]

_TRACE_SAMPLING_ENV = "PILOT_TRACE_SAMPLING"
"""The one variable of istiod that the chart already writes, from traceSampling."""

_ENV_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_IMAGE_HUB = re.compile(r"[a-z0-9][a-z0-9.-]*(:\d+)?(/[a-z0-9][a-z0-9._-]*)*")
_PERCENTAGE = re.compile(r"\d{1,3}(\.\d+)?", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What the operator chose, in the program's own types. `Pulumi.yaml` has the defaults."""

    kube_context: str
    """Context of the kubeconfig; "" is refused by `components.cluster`, which knows the choices."""

    kubeconfig: str
    """Path of the kubeconfig; "" is kubectl's rule: $KUBECONFIG, else ~/.kube/config."""

    chart_source: ChartSource
    """A Helm repository, or a folder that was seen to hold the charts that are needed."""

    istio_version: str
    """X.Y.Z, 1.30.0 or newer."""

    revisions: tuple[Revision, ...]
    """Istiods beside the default one, no two of one name."""

    revision_tags: Mapping[str, str]
    """Revisions, or `default`, by the tags that point to them; no tag is named like either."""

    namespace_revision: str | None
    """The revision, or tag, that injects the namespace's pods; None: the default istiod."""

    gateway_revision: str | None
    """The revision, or tag, that injects the gateways' pods; None: the default istiod."""

    profile: Profile
    """What is installed and how large."""

    image_hub: str | None
    """Registry and path of Istio's images; None: the chart's."""

    image_tag: str | None
    """Tag of Istio's images; None: the chart's."""

    access_log: bool | None
    """Whether proxies log every request to stdout; None: as the profile does."""

    trace_sampling: float | None
    """Percent of requests that are traced, 0 to 100; None: as the profile does."""

    outbound_traffic_policy: OutboundTrafficPolicy
    """What becomes of calls to hosts that the mesh does not know."""

    telemetry: bool
    """Whether Istio's standard metrics are on."""

    istiod_env: Mapping[str, str]
    """Environment variables of istiod, on top of the profile's. Cannot be changed."""

    ingress_gateway: bool
    """Whether there is an ingress gateway: in every profile but minimal."""

    egress_gateway: bool
    """Whether there is an egress gateway."""

    gateway_service_type: ServiceType
    """Service type of the ingress gateway."""

    keep_crds: bool
    """Whether Istio's CRDs, and with them all Istio resources, outlive the stack."""

    timeout_s: int
    """Longest wait for one Helm release in seconds, 30 to 3600."""

    namespace: str
    """Namespace whose pods join the mesh."""

    adopt_namespace: bool
    """Whether that namespace exists already and is only labelled."""

    bookinfo: bool
    """Whether Bookinfo is deployed."""

    replicas: int
    """Pods of each of Bookinfo's versions, 1 to 100."""

    mtls_mode: MtlsMode
    """What workloads accept."""

    mtls_scope: MtlsScope
    """How far the mode reaches."""

    mtls_exceptions: tuple[MtlsException, ...]
    """Workloads and ports that keep another mode; no two for the same pods and port."""

    mtls_permissive_until: datetime.date | None
    """The last day on which PERMISSIVE is meant to be there; None: nobody has said."""

    mtls_cut_off: tuple[str, ...]
    """Calls that may fail when mutual TLS changes, FROM:TO or FROM:TO:PORT; each once."""

    mtls_hosts: tuple[str, ...]
    """Services of the namespace that get a DestinationRule with ISTIO_MUTUAL."""

    authorization_policy: AccessMode
    """What becomes of a call that Bookinfo's call graph does not have."""

    network_policy: bool
    """Whether NetworkPolicies are made of the same graph."""

    production: bool
    """Whether nothing may fail on purpose, and namespaces and CRDs are protected."""

    traffic: tuple[HostTraffic, ...]
    """All that is said about the traffic to each service, `mtls_hosts` included; each once."""

    egress_hosts: tuple[EgressHost, ...]
    """Hosts outside that are reached through the egress gateway; each once."""

    observability: tuple[Part, ...]
    """What is installed to observe the mesh, in the order of `Part`."""

    observability_namespace: str
    """Where it runs: the root namespace, or one that the stack creates."""

    prometheus_retention: str
    """How long samples are kept: a number and h, d, w or y."""

    prometheus_storage: str | None
    """Size of Prometheus' volume; None: samples go with the pod."""

    kiali_auth: KialiAuth
    """How people log in to Kiali."""

    grafana_admin_password: str | None = field(repr=False)
    """A secret, which the components make one for Pulumi; None: one is generated."""

    @classmethod
    def load(cls, config: pulumi.Config | None = None) -> Settings:
        """Read and check the stack's configuration.

        Args:
            config: Where to read from; the project's own configuration when left out.

        Raises:
            SettingsError: Something is wrong; it names everything that is.
        """
        read = Reader(pulumi.Config() if config is None else config)
        read.refuse_unknown_keys()
        profile = read.choice("profile", Profile)
        egress = read.one_of("egressGateway", ("profile", "disabled", "enabled"))
        egress_gateway = egress == "enabled" or (egress == "profile" and profile.has_egress)
        mode = read.choice("mtlsMode", MtlsMode)
        bookinfo = read.flag("bookinfo")
        exceptions = mtls.Exceptions(read, mode).load()
        hosts = mtls.mtls_hosts(read)
        refusing = mtls.without_tls(mode, exceptions, bookinfo=bookinfo)
        production = read.flag("production")
        version = revisions.istio_version(read)
        istiods = revisions.istiods(read, version)
        tags = revisions.tags(read, istiods)
        settings = cls(
            kube_context=read.text("kubeContext"),
            kubeconfig=read.text("kubeconfig"),
            chart_source=ChartSource(location=read.text("chartSource")),
            istio_version=version,
            revisions=istiods,
            revision_tags=tags,
            namespace_revision=revisions.of_namespace(read, istiods, tags),
            gateway_revision=revisions.of_gateways(read, istiods, tags),
            profile=profile,
            image_hub=read.optional(
                "imageHub", _IMAGE_HUB, "a registry and path, no scheme and no tag"
            ),
            image_tag=read.optional("imageTag", revisions.IMAGE_TAG, revisions.TAG_ALLOWED),
            access_log={"profile": None, "stdout": True, "off": False}[
                read.one_of("accessLog", ("profile", "stdout", "off"))
            ],
            trace_sampling=_trace_sampling(read),
            outbound_traffic_policy=read.choice("outboundTrafficPolicy", OutboundTrafficPolicy),
            telemetry=read.flag("telemetry"),
            istiod_env=_istiod_env(read),
            ingress_gateway=profile.has_ingress,
            egress_gateway=egress_gateway,
            gateway_service_type=read.choice("gatewayServiceType", ServiceType),
            keep_crds=read.flag("keepCrds"),
            timeout_s=read.whole_number("timeoutSeconds", 30, 3600),
            namespace=read.text("namespace"),
            adopt_namespace=read.flag("adoptNamespace"),
            bookinfo=bookinfo,
            replicas=read.whole_number("replicas", 1, 100),
            mtls_mode=mode,
            mtls_scope=read.choice("mtlsScope", MtlsScope),
            mtls_exceptions=exceptions,
            mtls_permissive_until=mtls.permissive_until(read, mode),
            mtls_cut_off=mtls.cut_off(read),
            mtls_hosts=hosts,
            authorization_policy=read.choice("authorizationPolicy", AccessMode),
            network_policy=read.flag("networkPolicy"),
            production=production,
            traffic=traffic.hosts(
                read, hosts, bookinfo=bookinfo, refusing=refusing, production=production
            ),
            egress_hosts=traffic.egress_hosts(read, has_gateway=egress_gateway),
            observability=_observability(read),
            observability_namespace=read.text("observabilityNamespace"),
            prometheus_retention=_prometheus_retention(read),
            prometheus_storage=_prometheus_storage(read),
            kiali_auth=read.choice("kialiAuth", KialiAuth),
            grafana_admin_password=_grafana_admin_password(read),
        )
        _check_chart_source(read, settings)
        _check_egress(read, settings)
        _check_namespace(read, settings)
        mtls.check_hosts(read, hosts, mode, exceptions, bookinfo=bookinfo)
        _check_graph(read, settings, refusing)
        _check_observability_namespace(read, settings)
        if read.problems:
            raise SettingsError(read.problems)
        return settings


def _trace_sampling(read: Reader) -> float | None:
    value = read.text("traceSampling")
    if value == "profile":
        return None
    if _PERCENTAGE.fullmatch(value) and float(value) <= 100:  # noqa: PLR2004 - percent
        return float(value)
    allowed = "a number from 0 to 100 (percent), or profile"
    read.refuse("traceSampling", value, allowed, read.back_to_default("traceSampling"))
    return None


def _istiod_env(read: Reader) -> Mapping[str, str]:
    example = set_command(("istiodEnv", "NAME"), "VALUE")
    items = read.data("istiodEnv", dict, "an object {NAME: VALUE}", example)
    for name, value in items.items():
        path = ("istiodEnv", name)
        if name == _TRACE_SAMPLING_ENV:
            fix = f"{remove_command(path)} && {set_command(('traceSampling',), as_config(value))}"
            read.refuse(path, value, "any other variable; this one is traceSampling", fix)
        elif not _ENV_NAME.fullmatch(name):
            allowed = "a name of capitals, digits and underscores that begins with a capital"
            read.refuse(path, value, allowed, f"{remove_command(path)} && {example}")
        elif not isinstance(value, str | int):
            read.refuse(path, value, "a text", set_command(path, "VALUE"))
    return MappingProxyType({name: as_config(value) for name, value in items.items()})


def _observability(read: Reader) -> tuple[Part, ...]:
    key = "observability"
    items = read.data(
        key, list, f"a list of {', '.join(Part)}", set_command((key, 0), Part.PROMETHEUS)
    )
    for index, item in enumerate(items):
        path = (key, index)
        if not isinstance(item, str) or item not in set(Part):
            allowed, near = ", ".join(Part), nearest(item, Part, "")
            if near:
                allowed = f"did you mean {near}? There are {allowed}"
            read.refuse(
                path, item, allowed, set_command(path, near) if near else remove_command(path)
            )
        elif item in items[:index]:
            read.refuse(path, item, "every part once", remove_command(path))
    parts = tuple(part for part in Part if part in items)
    asking = [part for part in parts if part.needs_prometheus]
    if read.sound(key) and asking and Part.PROMETHEUS not in parts:
        allowed = f"{Part.PROMETHEUS} too: {' and '.join(asking)} would have nothing to show"
        read.refuse(key, items, allowed, set_command((key, len(items)), Part.PROMETHEUS))
    return parts


def _prometheus_retention(read: Reader) -> str:
    key = "prometheusRetention"
    value = read.text(key)
    if allowed := retention_problem(value):
        read.refuse(key, value, allowed, read.back_to_default(key))
    return value


def _prometheus_storage(read: Reader) -> str | None:
    key = "prometheusStorage"
    value = read.text(key)
    if value and (allowed := storage_problem(value)):
        allowed += ", or empty (samples go with the pod)"
        read.refuse(key, value, allowed, set_command((key,), "10Gi"))
    return value or None


def _grafana_admin_password(read: Reader) -> str | None:
    value = read.text(PASSWORD)
    if value and not read.secret(PASSWORD):
        # and if it stands in a file that was committed, it is known
        allowed = "a secret, which plain configuration is not; or empty (one is generated)"
        fix = f"pulumi config set --secret {PASSWORD}, with another password"
        read.refuse(PASSWORD, HIDDEN, allowed, fix)
    return value or None


def _check_graph(read: Reader, settings: Settings, refusing: set[str]) -> None:
    """Policies are made of Bookinfo's call graph, and identities of mutual TLS."""
    wanted = {
        "authorizationPolicy": settings.authorization_policy is not AccessMode.OFF,
        "networkPolicy": settings.network_policy,
    }
    for key in (key for key, on in wanted.items() if on and read.sound(key, "bookinfo")):
        off = read.default(key)
        if not settings.bookinfo:
            allowed = f"{off} without Bookinfo: its call graph says what is allowed"
            read.refuse(key, read.text(key), allowed, read.back_to_default(key))
        elif key == "authorizationPolicy" and refusing and read.sound("mtlsMode", "mtlsExceptions"):
            allowed = (
                f"{off} while {', '.join(sorted(refusing))} cannot use mutual TLS: "
                "without it nobody has an identity, and everybody would be refused"
            )
            fix = (
                remove_command(("mtlsExceptions",))
                if settings.mtls_mode is not MtlsMode.DISABLE
                else set_command(("mtlsMode",), MtlsMode.STRICT)
            )
            read.refuse(key, read.text(key), allowed, f"{fix}, or {read.back_to_default(key)}")


def _check_observability_namespace(read: Reader, settings: Settings) -> None:
    key = "observabilityNamespace"
    name = settings.observability_namespace
    if not DNS_LABEL.fullmatch(name):
        allowed = "1 to 63 small letters, digits and dashes, no dash first or last"
    elif name == "default" or name.startswith("kube-"):
        allowed = f"{ROOT_NAMESPACE}, or a namespace that does not exist yet, not default or kube-*"
    elif read.sound("namespace") and name == settings.namespace:
        allowed = f"another one than namespace, {name}: its pods join the mesh, these do not"
    else:
        return
    read.refuse(key, name, allowed, read.back_to_default(key))


def _check_chart_source(read: Reader, settings: Settings) -> None:
    source = settings.chart_source
    if re.match(r"https://[^\s/]", source.location):
        return
    allowed = "an https:// Helm repository, or a folder of unpacked charts"
    scheme, separator, _ = source.location.partition("://")
    if separator:
        allowed += {
            "http": "; over http:// anybody on the way can change what is installed",
            "oci": "; from oci:// pull base, istiod and gateway with helm pull --untar first",
        }.get(scheme, "")
    elif source.location:
        gateway = read.sound("profile") and (settings.ingress_gateway or settings.egress_gateway)
        missing = _missing_charts(source, ("base", "istiod", "gateway")[: 3 if gateway else 2])
        if not missing:
            return
        exists = Path(source.location).is_dir()
        allowed += f"; {Path(source.location).resolve()} "
        allowed += f"has no chart {', '.join(missing)}" if exists else "is not a folder"
    read.refuse("chartSource", source.location, allowed, read.back_to_default("chartSource"))


def _missing_charts(source: ChartSource, names: Iterable[str]) -> list[str]:
    missing = []
    for name in names:
        try:
            source.chart(name)
        except FileNotFoundError:
            missing.append(name)
    return missing


def _check_egress(read: Reader, settings: Settings) -> None:
    if settings.profile.has_egress or not settings.egress_gateway:
        return
    if read.sound("egressGateway", "profile"):
        one = next(profile for profile in Profile if profile.has_egress)
        read.refuse(
            "egressGateway",
            "enabled",
            f"profile or disabled: profile {settings.profile} has no egress gateway, {one} has",
            f"{set_command(('egressGateway',), 'profile')}, or {set_command(('profile',), one)}",
        )


def _check_namespace(read: Reader, settings: Settings) -> None:
    name = settings.namespace
    fix = read.back_to_default("namespace")
    if not DNS_LABEL.fullmatch(name):
        allowed = "1 to 63 small letters, digits and dashes, no dash first or last"
    elif name == ROOT_NAMESPACE or name.startswith("kube-"):
        allowed = f"a namespace for applications, not {ROOT_NAMESPACE} or kube-*"
    elif name == "default" and read.sound("adoptNamespace") and not settings.adopt_namespace:
        allowed = "default only with adoptNamespace true: every cluster has it already"
        fix = f"{set_command(('adoptNamespace',), 'true')}, or {fix}"
    else:
        return
    read.refuse("namespace", name, allowed, fix)
