"""Everything an operator may choose, read once, checked as a whole and frozen.

`Pulumi.yaml` declares each setting with its type, default and description; this module is the only
reader of `pulumi.Config`. Whatever is wrong comes in one `SettingsError`, before any resource is
registered.
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import pulumi
import yaml
from pulumi.runtime.config import CONFIG, get_config_env, is_config_secret

from components.bookinfo import WORKLOADS
from components.control_plane import OutboundTrafficPolicy
from components.gateway import ServiceType
from components.kinds import ROOT_NAMESPACE, ChartSource, Profile
from components.mtls import MtlsException, MtlsMode, MtlsScope
from components.observability import KialiAuth, Part
from components.observability.prometheus import retention_problem, storage_problem

_PROJECT_FILE = Path(__file__).with_name("Pulumi.yaml")

_OLDEST_ISTIO = (1, 30, 0)
"""The first minor release all of whose charts obey `base.validationFailurePolicy` (istio#59367).

Older istiods change their own webhook's failurePolicy, which then shows as drift for ever.
"""

_SHORTEST_REASON = 10
"""Characters. Long enough that a reason says something."""

_HIGHEST_PORT = 65535

_TRACE_SAMPLING_ENV = "PILOT_TRACE_SAMPLING"
"""The one variable of istiod that the chart already writes, from traceSampling."""

_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ENV_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_IMAGE_HUB = re.compile(r"[a-z0-9][a-z0-9.-]*(:\d+)?(/[a-z0-9][a-z0-9._-]*)*")
_IMAGE_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_LABEL_KEY = re.compile(
    r"([a-z0-9][a-z0-9.-]{0,252}/)?[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?", re.ASCII
)
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?", re.ASCII)
_PERCENTAGE = re.compile(r"\d{1,3}(\.\d+)?", re.ASCII)
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)", re.ASCII)
_WHOLE_NUMBER = re.compile(r"-?\d{1,9}", re.ASCII)

_PASSWORD = "grafanaAdminPassword"  # noqa: S105 the setting's name
_HIDDEN = "[secret]"
"""Stands for a value that is never written; Pulumi's CLI writes the same."""

_Path = tuple[str | int, ...]
"""Where a value stands: the setting, then fields and indexes."""

_Choice = TypeVar("_Choice", bound=StrEnum)
_Data = TypeVar("_Data", list[Any], dict[str, Any])


@dataclass(frozen=True, kw_only=True, slots=True)
class Declaration:
    """A setting as `Pulumi.yaml` declares it."""

    key: str
    """Name without the project's: `pulumi config set KEY VALUE`."""

    type: str
    """string, integer, boolean, array or object."""

    default: str
    """As the program would read it from a stack: lists and objects are JSON."""

    description: str
    """What it does and what is allowed, in one or two sentences."""


@cache
def declarations() -> tuple[Declaration, ...]:
    """All settings, in the order of `Pulumi.yaml`."""
    config = yaml.safe_load(_PROJECT_FILE.read_text(encoding="utf-8"))["config"]
    return tuple(
        Declaration(
            key=key,
            type=schema["type"],
            default=_as_config(schema["default"]),
            description=schema["description"],
        )
        for key, schema in config.items()
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One setting that cannot be used as it is."""

    key: str
    """The setting; inside lists and objects the path to it, as `pulumi config set --path` wants."""

    value: object
    """What it is now."""

    allowed: str
    """What it may be, and why where that is not plain."""

    fix: str
    """A command that mends it."""

    def __str__(self) -> str:
        is_now = "not set" if self.value is None else json.dumps(self.value, ensure_ascii=False)
        return f"{self.key} is {is_now}\n  allowed: {self.allowed}\n  fix:     {self.fix}"


class SettingsError(pulumi.RunError):
    """Settings that cannot be used, all of them at once.

    A `RunError`: Pulumi prints its message and no traceback.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        subject = "1 setting" if len(problems) == 1 else f"{len(problems)} settings"
        super().__init__("\n\n".join([f"{subject} cannot be used:", *map(str, problems)]))


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

    mtls_mode: MtlsMode
    """What workloads accept."""

    mtls_scope: MtlsScope
    """How far the mode reaches."""

    mtls_exceptions: tuple[MtlsException, ...]
    """Workloads and ports that keep another mode; no two for the same pods and port."""

    mtls_hosts: tuple[str, ...]
    """Services of the namespace that get a DestinationRule with ISTIO_MUTUAL."""

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
        read = _Reader(pulumi.Config() if config is None else config)
        read.refuse_unknown_keys()
        profile = read.choice("profile", Profile)
        egress = read.one_of("egressGateway", ("profile", "disabled", "enabled"))
        mode = read.choice("mtlsMode", MtlsMode)
        settings = cls(
            kube_context=read.text("kubeContext"),
            kubeconfig=read.text("kubeconfig"),
            chart_source=ChartSource(location=read.text("chartSource")),
            istio_version=_istio_version(read),
            profile=profile,
            image_hub=read.optional(
                "imageHub", _IMAGE_HUB, "a registry and path, no scheme and no tag"
            ),
            image_tag=read.optional(
                "imageTag", _IMAGE_TAG, "letters, digits, dots, dashes and underscores"
            ),
            access_log={"profile": None, "stdout": True, "off": False}[
                read.one_of("accessLog", ("profile", "stdout", "off"))
            ],
            trace_sampling=_trace_sampling(read),
            outbound_traffic_policy=read.choice("outboundTrafficPolicy", OutboundTrafficPolicy),
            telemetry=read.flag("telemetry"),
            istiod_env=_istiod_env(read),
            ingress_gateway=profile.has_ingress,
            egress_gateway=egress == "enabled" or (egress == "profile" and profile.has_egress),
            gateway_service_type=read.choice("gatewayServiceType", ServiceType),
            keep_crds=read.flag("keepCrds"),
            timeout_s=read.whole_number("timeoutSeconds", 30, 3600),
            namespace=read.text("namespace"),
            adopt_namespace=read.flag("adoptNamespace"),
            bookinfo=read.flag("bookinfo"),
            mtls_mode=mode,
            mtls_scope=read.choice("mtlsScope", MtlsScope),
            mtls_exceptions=_Exceptions(read, mode).load(),
            mtls_hosts=_mtls_hosts(read),
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
        _check_hosts(read, settings)
        _check_observability_namespace(read, settings)
        if read.problems:
            raise SettingsError(read.problems)
        return settings


class _Reader:
    """Turns config text into values; what cannot be turned is noted, and the default stands in.

    The stand-in keeps the types simple; nobody sees it, because a noted problem raises in the end.
    Rules between settings ask `sound` first, lest they blame one setting for another's mistake.
    """

    def __init__(self, config: pulumi.Config) -> None:
        self.problems: list[Problem] = []
        self._unsound: set[object] = set()
        self._config = config
        # Pulumi's CLI applies these too; its test mocks do not.
        self._defaults = {declared.key: declared.default for declared in declarations()}

    def refuse(self, path: str | _Path, value: object, allowed: str, fix: str) -> None:
        """Note a problem. Of a secret neither the value nor a command with it is written."""
        path = (path,) if isinstance(path, str) else path
        self._unsound.add(path[0])
        if value != _HIDDEN and self.secret(str(path[0])):
            value, fix = _HIDDEN, _remove(path[:1])
            if path[0] in self._defaults:
                fix += ", then set it without --secret"
        self.problems.append(Problem(key=_written(path), value=value, allowed=allowed, fix=fix))

    def sound(self, *keys: str) -> bool:
        """Whether nothing is wrong with any of these settings so far."""
        return self._unsound.isdisjoint(keys)

    def secret(self, key: str) -> bool:
        """Whether the setting's value must not be written, because somebody took care of that."""
        return is_config_secret(f"{self._config.name}:{key}")

    def default(self, key: str) -> str:
        """The declared default."""
        return self._defaults[key]

    def back_to_default(self, key: str) -> str:
        """The command that sets the declared default."""
        return _set((key,), self.default(key))

    def text(self, key: str) -> str:
        """The setting as it is, an explicit empty text included."""
        value = self._config.get(key)
        return self._defaults[key] if value is None else value

    def one_of(self, key: str, allowed: Sequence[str]) -> str:
        """One of a few words."""
        value = self.text(key)
        if value in allowed:
            return value
        near = _nearest(value, allowed, self.default(key))
        self.refuse(key, value, ", ".join(allowed), _set((key,), near))
        return self.default(key)

    def choice(self, key: str, choices: type[_Choice]) -> _Choice:
        """One member of an enum, by value."""
        return choices(self.one_of(key, [choice.value for choice in choices]))

    def flag(self, key: str) -> bool:
        """True or false; Pulumi writes them in lower case."""
        return self.one_of(key, ("true", "false")) == "true"

    def optional(self, key: str, shape: re.Pattern[str], allowed: str) -> str | None:
        """A text of some shape, or None where it is empty."""
        value = self.text(key)
        if value and not shape.fullmatch(value):
            self.refuse(key, value, f"{allowed}, or empty", _set((key,), ""))
        return value or None

    def whole_number(self, key: str, lowest: int, highest: int) -> int:
        """A whole number within bounds."""
        value = self.text(key)
        if _WHOLE_NUMBER.fullmatch(value) and lowest <= int(value) <= highest:
            return int(value)
        allowed = f"a whole number from {lowest} to {highest}"
        self.refuse(key, value, allowed, self.back_to_default(key))
        return int(self.default(key))

    def data(self, key: str, kind: type[_Data], allowed: str, example: str) -> _Data:
        """A list or an object, which Pulumi hands over as JSON.

        Args:
            key: The setting.
            kind: list or dict.
            allowed: What it may be.
            example: A command that sets a first element.
        """
        text = self.text(key)
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = None
        if isinstance(value, kind):
            return value
        self.refuse(key, text, allowed, f"{_remove((key,))} && {example}")
        return kind()

    def refuse_unknown_keys(self) -> None:
        """Note every setting of this project that nobody declared: mostly a typo."""
        # pulumi.Config cannot list its keys; these two are where it looks them up itself.
        configured = {**get_config_env(), **CONFIG.get()}
        prefix = f"{self._config.name}:"
        for name in sorted(configured):
            key = name.removeprefix(prefix)
            if not name.startswith(prefix) or key in self._defaults:
                continue
            parent, value = re.split(r"[.\[]", key)[0], configured[name]
            meant = parent if parent in self._defaults else _nearest(key, tuple(self._defaults), "")
            if meant == _PASSWORD:
                fix = f"{_remove((key,))} && pulumi config set --secret {_PASSWORD}"
                self.refuse(key, _HIDDEN, f"did you mean {_PASSWORD}?", fix)
            elif parent in self._defaults:
                fix = f"{_remove((key,))} && {_set((key,), value, nested=True)}"
                self.refuse(key, value, f"what is inside {parent} is set with --path", fix)
            else:
                self.refuse_unknown((), key, value, tuple(self._defaults))

    def refuse_unknown(self, parent: _Path, name: str, value: object, known: Sequence[str]) -> None:
        """Note a name that nobody declared, and the declared one that was probably meant."""
        path = (*parent, name)
        allowed, fix = ", ".join(known), _remove(path)
        if near := _nearest(name, known, ""):
            allowed = f"did you mean {near}? There are {allowed}"
            meant, text = (*parent, near), _as_config(value)
            # config set cannot write a list or an object in one go
            nested = text.startswith(("[", "{"))
            fix = (
                f"rename it to {near} where it is written"
                if nested
                else (f"{fix} && {_set(meant, text)}")
            )
        self.refuse(path, value, allowed, fix)


class _Exceptions:
    """Reads mtlsExceptions."""

    _KEY = "mtlsExceptions"
    _FIELDS = ("selector", "port", "mode", "reason")
    _SHAPE = "{selector: {LABEL: VALUE}, port: NUMBER or none, mode: MODE, reason: WHY}"

    def __init__(self, read: _Reader, mode: MtlsMode) -> None:
        self._read = read
        self._mode = mode

    def load(self) -> tuple[MtlsException, ...]:
        example = _set((self._KEY, 0, "selector", "app"), "NAME")
        items = self._read.data(self._KEY, list, f"a list of {self._SHAPE}", example)
        found: dict[_Path, MtlsException] = {}
        for index, item in enumerate(items):
            path: _Path = (self._KEY, index)
            noted = len(self._read.problems)
            if isinstance(item, dict):
                exception = self._one(path, item)
            else:
                self._read.refuse(path, item, self._SHAPE, _remove(path))
            if len(self._read.problems) == noted:
                found[path] = exception
        self._compare(found)
        return tuple(found.values())

    def _one(self, path: _Path, item: Mapping[str, object]) -> MtlsException:
        for unknown in sorted(item.keys() - set(self._FIELDS)):
            self._read.refuse_unknown(path, unknown, item[unknown], self._FIELDS)
        return MtlsException(
            selector=self._selector((*path, "selector"), item.get("selector")),
            port=self._port((*path, "port"), item.get("port")),
            mode=self._one_mode((*path, "mode"), item.get("mode")),
            reason=self._reason((*path, "reason"), item.get("reason")),
        )

    def _selector(self, path: _Path, value: object) -> tuple[tuple[str, str], ...]:
        example = _set((*path, "app"), "NAME")
        if not isinstance(value, dict) or not value:
            allowed = "labels of the pods it is for, {LABEL: VALUE}; for all pods there is mtlsMode"
            self._read.refuse(path, value, allowed, example)
            return ()
        for label, wanted in value.items():
            scalar = isinstance(wanted, str | int) and _LABEL_VALUE.fullmatch(_as_config(wanted))
            if not (scalar and _LABEL_KEY.fullmatch(label)):
                self._read.refuse(
                    (*path, label),
                    wanted,
                    "a Kubernetes label and its value, 63 letters, digits, dots, dashes and "
                    "underscores at most",
                    f"{_remove((*path, label))} && {example}",
                )
        return tuple(sorted((label, _as_config(wanted)) for label, wanted in value.items()))

    def _port(self, path: _Path, value: object) -> int | None:
        # a bool is an int to Python
        if value is None or (type(value) is int and 1 <= value <= _HIGHEST_PORT):
            return value
        allowed = f"a container port from 1 to {_HIGHEST_PORT}, or left out for every port"
        self._read.refuse(path, value, allowed, _remove(path))
        return None

    def _one_mode(self, path: _Path, value: object) -> MtlsMode:
        if isinstance(value, str) and value in set(MtlsMode):
            return MtlsMode(value)
        other = next(mode for mode in MtlsMode if mode is not self._mode)
        fix = _set(path, _nearest(value, list(MtlsMode), other))
        self._read.refuse(path, value, ", ".join(MtlsMode), fix)
        return other

    def _reason(self, path: _Path, value: object) -> str:
        if isinstance(value, str) and len(value.strip()) >= _SHORTEST_REASON:
            return value.strip()
        allowed = f"why these pods are different, {_SHORTEST_REASON} characters or more"
        self._read.refuse(path, value, allowed, _set(path, "WHY THEY ARE DIFFERENT"))
        return ""

    def _compare(self, found: Mapping[_Path, MtlsException]) -> None:
        """Note exceptions that say nothing, say it twice, or of which Istio would drop one."""
        whole = {each.selector: each.mode for each in found.values() if each.port is None}
        before: dict[_Path, MtlsException] = {}
        for path, each in found.items():
            otherwise = self._mode if each.port is None else whole.get(each.selector, self._mode)
            rival = next((at for at, one in before.items() if _compete(one, each)), None)
            before[path] = each
            if rival is not None:
                allowed = (
                    f"labels that no pod of {_written(rival)} has: Istio obeys only one policy "
                    "for a pod, so both need the same label with different values"
                )
                self._read.refuse((*path, "selector"), dict(each.selector), allowed, _remove(path))
            elif self._read.sound("mtlsMode") and each.mode is otherwise:
                allowed = f"another mode than the {otherwise} that these pods have without it"
                self._read.refuse((*path, "mode"), each.mode, allowed, _remove(path))


def _compete(one: MtlsException, other: MtlsException) -> bool:
    """Whether two exceptions may be for the same pod, unless they are two ports of one policy."""
    if one.selector == other.selector:
        return one.port == other.port
    mine, others = dict(one.selector), dict(other.selector)
    return all(mine[label] == others[label] for label in mine.keys() & others.keys())


def _istio_version(read: _Reader) -> str:
    value = read.text("istioVersion")
    shape = _VERSION.fullmatch(value)
    if shape is None or tuple(map(int, shape.groups())) < _OLDEST_ISTIO:
        allowed = f"X.Y.Z, {'.'.join(map(str, _OLDEST_ISTIO))} or newer"
        read.refuse("istioVersion", value, allowed, read.back_to_default("istioVersion"))
    return value


def _trace_sampling(read: _Reader) -> float | None:
    value = read.text("traceSampling")
    if value == "profile":
        return None
    if _PERCENTAGE.fullmatch(value) and float(value) <= 100:  # noqa: PLR2004 - percent
        return float(value)
    allowed = "a number from 0 to 100 (percent), or profile"
    read.refuse("traceSampling", value, allowed, read.back_to_default("traceSampling"))
    return None


def _istiod_env(read: _Reader) -> Mapping[str, str]:
    example = _set(("istiodEnv", "NAME"), "VALUE")
    items = read.data("istiodEnv", dict, "an object {NAME: VALUE}", example)
    for name, value in items.items():
        path = ("istiodEnv", name)
        if name == _TRACE_SAMPLING_ENV:
            fix = f"{_remove(path)} && {_set(('traceSampling',), _as_config(value))}"
            read.refuse(path, value, "any other variable; this one is traceSampling", fix)
        elif not _ENV_NAME.fullmatch(name):
            allowed = "a name of capitals, digits and underscores that begins with a capital"
            read.refuse(path, value, allowed, f"{_remove(path)} && {example}")
        elif not isinstance(value, str | int):
            read.refuse(path, value, "a text", _set(path, "VALUE"))
    return MappingProxyType({name: _as_config(value) for name, value in items.items()})


def _mtls_hosts(read: _Reader) -> tuple[str, ...]:
    example = _set(("mtlsHosts", 0), "reviews")
    items = read.data("mtlsHosts", list, "a list of names of services", example)
    for index, item in enumerate(items):
        path = ("mtlsHosts", index)
        if not isinstance(item, str) or not _DNS_LABEL.fullmatch(item):
            allowed = "the name of a service in the namespace, without a domain"
            read.refuse(path, item, allowed, _set(path, "reviews"))
        elif item in items[:index]:
            read.refuse(path, item, "every service once", _remove(path))
    return tuple(map(str, items))


def _observability(read: _Reader) -> tuple[Part, ...]:
    key = "observability"
    items = read.data(key, list, f"a list of {', '.join(Part)}", _set((key, 0), Part.PROMETHEUS))
    for index, item in enumerate(items):
        path = (key, index)
        if not isinstance(item, str) or item not in set(Part):
            allowed, near = ", ".join(Part), _nearest(item, Part, "")
            if near:
                allowed = f"did you mean {near}? There are {allowed}"
            read.refuse(path, item, allowed, _set(path, near) if near else _remove(path))
        elif item in items[:index]:
            read.refuse(path, item, "every part once", _remove(path))
    parts = tuple(part for part in Part if part in items)
    asking = [part for part in parts if part.needs_prometheus]
    if read.sound(key) and asking and Part.PROMETHEUS not in parts:
        allowed = f"{Part.PROMETHEUS} too: {' and '.join(asking)} would have nothing to show"
        read.refuse(key, items, allowed, _set((key, len(items)), Part.PROMETHEUS))
    return parts


def _prometheus_retention(read: _Reader) -> str:
    key = "prometheusRetention"
    value = read.text(key)
    if allowed := retention_problem(value):
        read.refuse(key, value, allowed, read.back_to_default(key))
    return value


def _prometheus_storage(read: _Reader) -> str | None:
    key = "prometheusStorage"
    value = read.text(key)
    if value and (allowed := storage_problem(value)):
        allowed += ", or empty (samples go with the pod)"
        read.refuse(key, value, allowed, _set((key,), "10Gi"))
    return value or None


def _grafana_admin_password(read: _Reader) -> str | None:
    value = read.text(_PASSWORD)
    if value and not read.secret(_PASSWORD):
        # and if it stands in a file that was committed, it is known
        allowed = "a secret, which plain configuration is not; or empty (one is generated)"
        fix = f"pulumi config set --secret {_PASSWORD}, with another password"
        read.refuse(_PASSWORD, _HIDDEN, allowed, fix)
    return value or None


def _check_observability_namespace(read: _Reader, settings: Settings) -> None:
    key = "observabilityNamespace"
    name = settings.observability_namespace
    if not _DNS_LABEL.fullmatch(name):
        allowed = "1 to 63 small letters, digits and dashes, no dash first or last"
    elif name == "default" or name.startswith("kube-"):
        allowed = f"{ROOT_NAMESPACE}, or a namespace that does not exist yet, not default or kube-*"
    elif read.sound("namespace") and name == settings.namespace:
        allowed = f"another one than namespace, {name}: its pods join the mesh, these do not"
    else:
        return
    read.refuse(key, name, allowed, read.back_to_default(key))


def _check_chart_source(read: _Reader, settings: Settings) -> None:
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


def _check_egress(read: _Reader, settings: Settings) -> None:
    if settings.profile.has_egress or not settings.egress_gateway:
        return
    if read.sound("egressGateway", "profile"):
        one = next(profile for profile in Profile if profile.has_egress)
        read.refuse(
            "egressGateway",
            "enabled",
            f"profile or disabled: profile {settings.profile} has no egress gateway, {one} has",
            f"{_set(('egressGateway',), 'profile')}, or {_set(('profile',), one)}",
        )


def _check_namespace(read: _Reader, settings: Settings) -> None:
    name = settings.namespace
    fix = read.back_to_default("namespace")
    if not _DNS_LABEL.fullmatch(name):
        allowed = "1 to 63 small letters, digits and dashes, no dash first or last"
    elif name == ROOT_NAMESPACE or name.startswith("kube-"):
        allowed = f"a namespace for applications, not {ROOT_NAMESPACE} or kube-*"
    elif name == "default" and read.sound("adoptNamespace") and not settings.adopt_namespace:
        allowed = "default only with adoptNamespace true: every cluster has it already"
        fix = f"{_set(('adoptNamespace',), 'true')}, or {fix}"
    else:
        return
    read.refuse("namespace", name, allowed, fix)


def _check_hosts(read: _Reader, settings: Settings) -> None:
    hosts = settings.mtls_hosts
    if not hosts or not read.sound("mtlsHosts"):
        return
    if settings.mtls_mode is MtlsMode.DISABLE:
        read.refuse(
            "mtlsHosts",
            hosts,
            "none while mtlsMode is DISABLE: clients would use mutual TLS where it is refused",
            f"{_set(('mtlsMode',), MtlsMode.STRICT)}, or {_remove(('mtlsHosts',))}",
        )
    apps = sorted({row.app for row in WORKLOADS})
    for index, host in enumerate(hosts):
        if read.sound("bookinfo") and settings.bookinfo and host not in apps:
            fix = _set(("mtlsHosts", index), _nearest(host, apps, "reviews"))
            allowed = f"a service of Bookinfo: {', '.join(apps)}"
            read.refuse(("mtlsHosts", index), host, allowed, fix)
    if not read.sound("mtlsExceptions"):
        return
    for index, exception in enumerate(settings.mtls_exceptions):
        refusing = _apps_without_tls(exception, bookinfo=settings.bookinfo)
        for host in sorted(refusing.intersection(hosts)):
            path = ("mtlsExceptions", index)
            allowed = f"STRICT or PERMISSIVE: mtlsHosts makes the clients of {host} use mutual TLS"
            fix = f"{_remove(path)}, or {_remove(('mtlsHosts', hosts.index(host)))}"
            read.refuse((*path, "mode"), exception.mode, allowed, fix)


def _apps_without_tls(exception: MtlsException, *, bookinfo: bool) -> set[str]:
    """The services of whose pods this exception makes some refuse mutual TLS, as far as known."""
    if exception.mode is not MtlsMode.DISABLE:
        return set()
    selector = dict(exception.selector)
    if not bookinfo:
        return {selector["app"]} if "app" in selector and exception.port is None else set()
    return {
        row.app
        for row in WORKLOADS
        if selector.items() <= {"app": row.app, "version": row.version}.items()
        and exception.port in (None, row.port)
    }


def _as_config(value: object) -> str:
    """A value as Pulumi would hand it over.

    `pulumi config set --path` turns true and 15012 into a bool and a number; this turns them back.
    """
    return value if isinstance(value, str) else json.dumps(value)


def _nearest(value: object, allowed: Iterable[str], otherwise: str) -> str:
    """What was probably meant."""
    by_lower_case = {word.lower(): word for word in allowed}
    near = difflib.get_close_matches(str(value).lower(), by_lower_case, n=1)
    return by_lower_case[near[0]] if near else otherwise


def _written(path: _Path) -> str:
    """A path as `pulumi config --path` wants it."""
    text = str(path[0])
    for part in path[1:]:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            plain = re.fullmatch(r"\w+", part, re.ASCII)
            text += f".{part}" if plain else f"[{json.dumps(part)}]"
    return text


def _set(path: _Path, value: str, *, nested: bool = False) -> str:
    return f"pulumi config set {_argument(path, nested=nested)} {shlex.quote(value)}"


def _remove(path: _Path) -> str:
    return f"pulumi config rm {_argument(path)}"


def _argument(path: _Path, *, nested: bool = False) -> str:
    return ("--path " if nested or len(path) > 1 else "") + shlex.quote(_written(path))
